/*-------------------------------------------------------------------------
 *
 * partition.c
 *	  The partitions of an events table as ranges of event time.
 *
 * Event times of every type are compared as microseconds in UTC: timestamptz
 * as it is, timestamp as if it were UTC, date as the midnight it begins with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "apply/partition.h"

/* The one plain column that a table is partitioned by range of, or
 * InvalidAttrNumber. */
static AttrNumber
range_column(Relation table)
{
	PartitionKey key;

	if (table->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return InvalidAttrNumber;
	key = RelationGetPartitionKey(table);
	if (key->strategy != PARTITION_STRATEGY_RANGE || key->partnatts != 1)
		return InvalidAttrNumber;
	return key->partattrs[0];
}

/*
 * Tells whether the stream's events table is partitioned by range of its
 * event time.  The caller is in a transaction.
 */
bool
partition_is_by_event_time(const Stream *stream)
{
	Relation table;
	AttrNumber attnum;

	if (stream->event_time == NULL ||
		get_rel_relkind(stream->events_table) != RELKIND_PARTITIONED_TABLE)
		return false;

	table = table_open(stream->events_table, AccessShareLock);
	attnum = range_column(table);
	table_close(table, NoLock);
	return attnum != InvalidAttrNumber &&
		   attnum == get_attnum(stream->events_table, stream->event_time);
}

/*
 * Event time as microseconds in UTC.  The type is one that
 * partition_check_definition lets pass, or a domain over it.
 */
TimestampTz
partition_time(Oid type, Datum value)
{
	int64 result;
	DateADT date;

	if (type == TIMESTAMPTZOID || type == TIMESTAMPOID)
		return DatumGetTimestampTz(value);
	if (type != DATEOID)
		return partition_time(getBaseType(type), value);

	date = DatumGetDateADT(value);
	if (DATE_IS_NOBEGIN(date))
		return DT_NOBEGIN;
	if (DATE_IS_NOEND(date))
		return DT_NOEND;
	/* a date that no timestamp can tell is beyond all others */
	if (pg_mul_s64_overflow(date, USECS_PER_DAY, &result) || !IS_VALID_TIMESTAMP(result))
		return date < 0 ? DT_NOBEGIN : DT_NOEND;
	return result;
}

/* One bound of a partition in the sorted bounds of its table. */
static TimestampTz
bound_time(PartitionBoundInfo bounds, int at, Oid type)
{
	switch (bounds->kind[at][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return DT_NOBEGIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return DT_NOEND;
		case PARTITION_RANGE_DATUM_VALUE:
			break;
	}
	return partition_time(type, bounds->datums[at][0]);
}

/*
 * Tells whether a partition is being detached, or is one no more: who asks may have a
 * list that is older than the end of a detach.  PostgreSQL's own function raises an
 * error then.
 */
bool
partition_is_detaching(Oid partition)
{
	Relation inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	bool is_detaching;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(partition));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	is_detaching =
		!HeapTupleIsValid(tuple) || ((Form_pg_inherits) GETSTRUCT(tuple))->inhdetachpending;
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return is_detaching;
}

/*
 * Lists the partitions of a table partitioned by event time, those being
 * detached included.  Result is allocated in the current context; the caller
 * has the table open.
 */
PartitionRanges *
partition_ranges(Relation table)
{
	PartitionRanges *ranges = palloc0_object(PartitionRanges);
	PartitionDesc partitions = RelationGetPartitionDesc(table, false);
	PartitionBoundInfo bounds = partitions->boundinfo;
	Oid type = RelationGetPartitionKey(table)->parttypid[0];
	int i;

	ranges->ranges = palloc_array(PartitionRange, Max(partitions->nparts, 1));
	if (partitions->nparts == 0)
		return ranges;

	if (partition_bound_has_default(bounds))
		ranges->default_partition = partitions->oids[bounds->default_index];

	/* A bound is the upper one of its partition; the one before, the lower. */
	for (i = 1; i < bounds->ndatums; i++)
	{
		PartitionRange *range = &ranges->ranges[ranges->n];

		if (bounds->indexes[i] < 0)
			continue;
		range->from = bound_time(bounds, i - 1, type);
		range->to = bound_time(bounds, i, type);
		range->partition = partitions->oids[bounds->indexes[i]];
		range->detaching = partitions->detached_exist && partition_is_detaching(range->partition);
		ranges->n++;
	}
	return ranges;
}

/* Finds the first range that ends after the time; ranges->n if none does. */
int
partition_range_after(const PartitionRanges *ranges, TimestampTz time)
{
	int low = 0;
	int high = ranges->n;

	while (low < high)
	{
		int middle = low + (high - low) / 2;
		TimestampTz to = ranges->ranges[middle].to;

		if (to > time || to == DT_NOEND)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Finds the range that covers the time, or -1. */
int
partition_range_of(const PartitionRanges *ranges, TimestampTz time)
{
	int at = partition_range_after(ranges, time);

	if (at < ranges->n && ranges->ranges[at].from <= time)
		return at;
	return -1;
}

/* One bound of a partition as its definition has it. */
static bool
bound_of_spec(List *datums, TimestampTz *time)
{
	PartitionRangeDatum *bound;
	Const *value;
	Oid base;

	if (list_length(datums) != 1)
		return false;
	bound = linitial_node(PartitionRangeDatum, datums);
	if (bound->kind == PARTITION_RANGE_DATUM_MINVALUE)
		*time = DT_NOBEGIN;
	else if (bound->kind == PARTITION_RANGE_DATUM_MAXVALUE)
		*time = DT_NOEND;
	else
	{
		value = castNode(Const, bound->value);
		base = getBaseType(value->consttype);
		if (base != TIMESTAMPTZOID && base != TIMESTAMPOID && base != DATEOID)
			return false;
		*time = partition_time(base, value->constvalue);
	}
	return true;
}

/*
 * Reads the event times that a partition takes: from, inclusive, to,
 * exclusive.  Result is false, with both limits infinite, if it has none of
 * its own: a default partition, or no partition by time at all.  The caller
 * is in a transaction.
 */
bool
partition_bounds(Oid partition, TimestampTz *from, TimestampTz *to)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
	bool found = false;
	bool isnull;
	Datum bound;

	*from = DT_NOBEGIN;
	*to = DT_NOEND;
	if (!HeapTupleIsValid(tuple))
		return false;

	bound = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		PartitionBoundSpec *spec = stringToNode(TextDatumGetCString(bound));
		TimestampTz lower;
		TimestampTz upper;

		if (!spec->is_default && spec->strategy == PARTITION_STRATEGY_RANGE &&
			bound_of_spec(spec->lowerdatums, &lower) && bound_of_spec(spec->upperdatums, &upper))
		{
			*from = lower;
			*to = upper;
			found = true;
		}
	}
	ReleaseSysCache(tuple);
	return found;
}

/* Raises an error unless the event time is a column of a type for times. */
static Oid
check_event_time(const Stream *stream)
{
	AttrNumber attnum = get_attnum(stream->events_table, stream->event_time);
	Oid type;

	if (attnum == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("events table \"%s\" has no column \"%s\" for the event time",
							   get_rel_name(stream->events_table), stream->event_time),
						errhint("Name another column in event_time, or add the column.")));
	type = getBaseType(get_atttype(stream->events_table, attnum));
	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID && type != DATEOID)
		ereport(
			ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("event time \"%s\" has type %s", stream->event_time, format_type_be(type)),
			 errhint(
				 "Event times are timestamp with time zone, timestamp without time zone, or date.")));
	return type;
}

/* Raises an error unless the partition key is the event time alone. */
static void
check_partition_key(const Stream *stream, Relation table)
{
	AttrNumber attnum = range_column(table);

	if (attnum == InvalidAttrNumber)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg(
				 "events table \"%s\" is partitioned by more or something else than a range of one column",
				 RelationGetRelationName(table)),
			 errhint("Use a plain table, or PARTITION BY RANGE (the event time).")));
	if (stream->event_time == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events table \"%s\" is partitioned, but stream \"%s\" has no event time",
						RelationGetRelationName(table), stream->name),
				 errhint("Add event_time => %s.",
						 quote_literal_cstr(get_attname(RelationGetRelid(table), attnum, false)))));
	if (attnum != get_attnum(RelationGetRelid(table), stream->event_time))
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg(
				 "events table \"%s\" is partitioned by \"%s\", which is not the event time \"%s\"",
				 RelationGetRelationName(table),
				 get_attname(RelationGetRelid(table), attnum, false), stream->event_time),
			 errhint("Use a plain table, or one partitioned by range of the event time.")));
}

/*
 * Raises an error unless a partition, if it still is there, is an ordinary
 * table.
 */
void
partition_check_kind(Oid partition)
{
	char relkind = get_rel_relkind(partition);

	if (relkind == RELKIND_RELATION || relkind == '\0')
		return;
	ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
					relkind == RELKIND_PARTITIONED_TABLE
						? errmsg("partition \"%s\" is partitioned itself", get_rel_name(partition))
						: errmsg("partition \"%s\" is a foreign table", get_rel_name(partition)),
					errhint("Detach it: partitions of an events table are ordinary tables.")));
}

/* Raises an error if a partition is anything but an ordinary table. */
static void
check_partitions(Relation table)
{
	List *children = find_inheritance_children(RelationGetRelid(table), AccessShareLock);
	ListCell *cell;

	foreach(cell, children)
		partition_check_kind(lfirst_oid(cell));
}

/* Raises an error if the event of this moment would find no partition, and
 * none would be made for it. */
static void
check_covered(const Stream *stream, Relation table)
{
	PartitionRanges *ranges = partition_ranges(table);

	if (stream->partition_interval == NULL && !OidIsValid(ranges->default_partition) &&
		partition_range_of(ranges, GetCurrentTimestamp()) < 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("events table \"%s\" has no partition for the present time",
					RelationGetRelationName(table)),
			 errdetail(
				 "The stream makes none without partition_interval, and there is no default partition."),
			 errhint("Add partition_interval => '1 day', or make the partitions.")));
}

/*
 * Raises an error unless the stream's event time and partitions can be what
 * its definition says.
 */
void
partition_check_definition(const Stream *stream)
{
	Relation table = table_open(stream->events_table, AccessShareLock);
	Oid type = InvalidOid;

	if (stream->event_time != NULL)
		type = check_event_time(stream);

	if (table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		check_partition_key(stream, table);
		check_partitions(table);
		if (stream->partition_interval != NULL)
			partition_interval_check(stream->partition_interval, type);
		check_covered(stream, table);
	}
	else if (stream->partition_interval != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("events table \"%s\" is not partitioned", RelationGetRelationName(table)),
			 errhint(
				 "Leave partition_interval out, or use a table partitioned by range of the event time.")));

	table_close(table, NoLock);
}

/*
 * Whether a partition has rows, for all that can be known without waiting.
 */
bool
partition_may_have_rows(Oid partition)
{
	Relation table;
	bool result;

	if (!ConditionalLockRelationOid(partition, AccessShareLock))
		return true;
	table = try_relation_open(partition, NoLock);
	result = table != NULL && RelationGetNumberOfBlocks(table) > 0;
	if (table != NULL)
		relation_close(table, NoLock);
	return result;
}

/*
 * Raises an error for an event whose partition takes no rows any more.
 */
void
partition_report_detaching(Oid partition)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
		 errmsg("partition \"%s\" is being detached", get_rel_name(partition)),
		 errhint(
			 "If nobody is detaching it any more, finish with ALTER TABLE ... DETACH PARTITION ... FINALIZE.")));
}
