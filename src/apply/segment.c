/*-------------------------------------------------------------------------
 *
 * segment.c
 *	  The parts of an events table, each with its identities in memory or
 *	  behind a unique index.
 *
 * A segment is a partition, or a plain table as a whole.  It is examined
 * before a batch, never within one, and again only after PostgreSQL has told
 * that something about it changed.  It leaves memory once it has a valid
 * unique index, and is read again if it loses that: see segment_follow.c,
 * which brings memory up to date in a transaction of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/segment.h"

/*
 * Prepares the map of a table; segment_map_refresh fills it in.  Columns and
 * hasher outlive the map.
 */
SegmentMap *
segment_map_create(Oid table, const IdentityColumns *columns, const IdentityHasher *hasher,
				   MemoryContext context)
{
	SegmentMap *map = MemoryContextAllocZero(context, sizeof(SegmentMap));

	map->context = AllocSetContextCreate(context, "detect identities", ALLOCSET_DEFAULT_SIZES);
	map->columns = columns;
	map->hasher = hasher;
	map->table = table;
	map->changes = 1;
	return map;
}

/*
 * Notes that a relation changed; InvalidOid means any.  Called by the
 * relcache callback: reads and allocates nothing.
 */
void
segment_map_invalidate(SegmentMap *map, Oid relation)
{
	int i;

	if (!OidIsValid(relation) || relation == map->table)
		map->changes++;
	for (i = 0; i < map->n; i++)
	{
		if (!OidIsValid(relation) || relation == map->segments[i]->relation)
			map->segments[i]->changes++;
	}
}

/* The map's segment of a relation, or NULL. */
static Segment *
find_segment(const SegmentMap *map, Oid relation, int near)
{
	int i;

	/* Partitions come and go at the ends: it is near its old place. */
	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[(near + i) % map->n];

		if (segment->relation == relation)
			return segment;
	}
	return NULL;
}

/* Puts the new list in place of the old one, and frees what is gone with its
 * identities.  Raises no errors. */
static void
replace_segments(SegmentMap *map, PartitionRanges *ranges, Segment **segments, int n)
{
	int i;

	for (i = 0; i < map->n; i++)
		map->segments[i]->listed = false;
	for (i = 0; i < n; i++)
		segments[i]->listed = true;
	for (i = 0; i < map->n; i++)
	{
		if (!map->segments[i]->listed)
		{
			segment_forget(map->segments[i]);
			pfree(map->segments[i]);
		}
	}

	if (map->segments != NULL)
		pfree(map->segments);
	if (map->ranges != NULL)
	{
		pfree(map->ranges->ranges);
		pfree(map->ranges);
	}
	map->segments = segments;
	map->ranges = ranges;
	map->n = n;
}

/* Lists the map's segments anew, and keeps the identities of those that stay. */
static void
list_segments(SegmentMap *map)
{
	uint32 changes = map->changes;
	Relation table = table_open(map->table, AccessShareLock);
	PartitionRanges *ranges = NULL;
	Segment **segments;
	int n = 1;
	int i;

	identity_columns_verify(map->columns, table);
	if (map->columns->event_time >= 0)
	{
		MemoryContext old = MemoryContextSwitchTo(map->context);

		ranges = partition_ranges(table);
		MemoryContextSwitchTo(old);
		n = ranges->n + (OidIsValid(ranges->default_partition) ? 1 : 0);
	}
	table_close(table, NoLock);

	segments = MemoryContextAllocZero(map->context, Max(n, 1) * sizeof(Segment *));
	for (i = 0; i < n; i++)
	{
		Oid relation = map->table;

		if (ranges != NULL)
			relation = i < ranges->n ? ranges->ranges[i].partition : ranges->default_partition;
		segments[i] = find_segment(map, relation, i);
		if (segments[i] == NULL)
		{
			segments[i] = MemoryContextAllocZero(map->context, sizeof(Segment));
			segments[i]->relation = relation;
			segments[i]->changes = 1;
		}
	}
	replace_segments(map, ranges, segments, n);
	map->examined = changes;
}

/* Raises an error if a segment's identities can be held nowhere. */
static void
check_segment(const SegmentMap *map, Relation table, bool has_index)
{
	if (table->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("partition \"%s\" is not an ordinary table",
							   RelationGetRelationName(table)),
						errhint("Detach it: partitions of an events table are ordinary tables.")));
	stream_require_logged(RelationGetRelid(table));
	if (map->hasher == NULL && !has_index)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("table \"%s\" needs a unique index on (%s)", RelationGetRelationName(table),
					identity_columns_list(map->columns)),
			 errdetail(
				 "Identities of these types are not held in memory, but looked up in the index."),
			 errhint("CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s);",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
												RelationGetRelationName(table)),
					 identity_columns_list(map->columns))));
}

/* Decides where a segment's identities are, and whether they must be read. */
static void
examine_segment(SegmentMap *map, Segment *segment)
{
	uint32 changes = segment->changes;
	Relation table;
	Oid index = InvalidOid;
	bool soon = false;
	bool watched;

	/* Who locks an old partition for long must not stop the stream. */
	if (segment->examined == 0)
		LockRelationOid(segment->relation, AccessShareLock);
	else if (!ConditionalLockRelationOid(segment->relation, AccessShareLock))
		return;

	table = try_relation_open(segment->relation, NoLock);
	if (table == NULL)
	{
		map->changes++;
		segment_forget(segment);
		segment->must_read = false;
		segment->index = InvalidOid;
		return;
	}

	/* An index of a parent says nothing about its children's rows. */
	if (table->rd_rel->relkind == RELKIND_RELATION && !table->rd_rel->relhassubclass)
		index = identity_index_find(table, map->columns, &soon);
	if (map->hasher == NULL && !OidIsValid(index) && soon)
		ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						errmsg("the unique index of table \"%s\" cannot be used yet",
							   RelationGetRelationName(table)),
						errdetail("Transactions that are older than the index are still open.")));
	check_segment(map, table, OidIsValid(index));
	watched = events_triggers_watch(table);

	segment->index = index;
	segment->must_read &= !OidIsValid(index);
	if (OidIsValid(index))
		segment_forget(segment);
	else if (segment->identities == NULL || segment->filenode != table->rd_rel->relfilenode ||
			 (!segment->watched && watched))
		segment->must_read = true;
	segment->watched = watched;
	relation_close(table, AccessShareLock);

	if (!soon)
		segment->examined = changes;
}

/*
 * Brings the map up to date with the events table: partitions and indexes
 * that came or went.  Costs nothing if nothing changed.  Result is false if
 * segments must be read, which segment_map_follow does.  The caller is in a
 * transaction, with no probe open, and no batch begun.
 */
bool
segment_map_refresh(SegmentMap *map)
{
	bool is_read = true;
	int i;

	LockRelationOid(map->table, AccessShareLock);
	AcceptInvalidationMessages();
	if (map->examined != map->changes)
		list_segments(map);
	for (i = 0; i < map->n; i++)
	{
		if (map->segments[i]->examined != map->segments[i]->changes)
			examine_segment(map, map->segments[i]);
		is_read &= !map->segments[i]->must_read;
	}
	return is_read;
}

/* Raises an error for an event that no partition takes. */
static void
report_uncovered(const SegmentMap *map, TimestampTz time)
{
	if (!IS_VALID_TIMESTAMP(time))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("event time is infinite")));
	ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
					errmsg("events table \"%s\" has no partition for event time %s",
						   get_rel_name(map->table), timestamptz_to_str(time)),
					err_generic_string(PG_DIAG_TABLE_NAME, get_rel_name(map->table)),
					errhint("Set partition_interval, or make the partition.")));
}

/* Finds the place of the segment for a time; -1 if there is none. */
static int
segment_place(const SegmentMap *map, TimestampTz time)
{
	int at = partition_range_of(map->ranges, time);

	if (at < 0 && OidIsValid(map->ranges->default_partition))
		at = map->ranges->n;
	return at;
}

/* The event time among the values of an identity. */
static TimestampTz
identity_time(const SegmentMap *map, const Datum *values)
{
	int position = map->columns->event_time;

	return partition_time(map->columns->types[position], values[position]);
}

/*
 * Finds the segment of a row with these values of its identity, or NULL.
 */
Segment *
segment_find(const SegmentMap *map, const Datum *values)
{
	int at = 0;

	if (map->n == 0)
		return NULL;
	if (map->ranges != NULL)
		at = segment_place(map, identity_time(map, values));
	return at < 0 ? NULL : map->segments[at];
}

/*
 * Finds the segment that takes an event with these values of its identity.
 * Raises an error if there is none: partition_ensure was there before.
 */
Segment *
segment_of(const SegmentMap *map, const Datum *values)
{
	Segment *segment;

	if (map->ranges == NULL)
		segment = map->segments[0];
	else
	{
		TimestampTz time = identity_time(map, values);
		int at = segment_place(map, time);

		if (at < 0)
			report_uncovered(map, time);
		segment = map->segments[at];
		if (at < map->ranges->n && map->ranges->ranges[at].detaching)
			partition_report_detaching(segment->relation);
	}

	if (segment->identities == NULL && !OidIsValid(segment->index))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("a partition of events table \"%s\" was dropped while its event came in",
						get_rel_name(map->table))));
	return segment;
}
