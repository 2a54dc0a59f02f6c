/*-------------------------------------------------------------------------
 *
 * gone.c
 *	  Which event times have lost events.
 *
 * Events are lost when a partition is dropped, by retention or by hand,
 * detached or truncated, or a whole table truncated; a row that somebody
 * deletes is no loss but an edit, which the groups follow.  A group that has
 * lost events can't be computed again, so what is known here is kept for as
 * long as a rollup reads the table, and only grows.
 *
 * TRUNCATE tells by a trigger.  A partition that is gone tells nothing any
 * more, so detect._partition has those that were there: the applier writes
 * them down in the transaction in which rollups get events of theirs, before
 * it merges them, and moves the ones that have vanished to detect._gone.
 * Whoever asks compares with the partitions that are there now, and so knows
 * of one that has vanished before the applier does.
 *
 * A default partition has the times that no other takes, a plain table has
 * all; neither has times that streams refuse as too far ahead.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/xact.h"
#include "apply/batch.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Columns of detect._partition and of detect._gone. */
#define PARTITION_COLUMNS 5
#define GONE_COLUMNS	  3

/* A partition that is there, or was. */
typedef struct KnownPartition
{
	Oid relation;
	bool is_default; /* its range is without limits then */
	GoneRange range;
} KnownPartition;

/* What an applier remembers of the one events table that it follows: whether
 * detect._partition is as the table is, and whether it became so in the
 * transaction that is open. */
static Oid followed_table = InvalidOid;
static bool is_followed = false;
static bool followed_now = false;

PG_FUNCTION_INFO_V1(detect_truncated);

/* ---------------------------------------------------------------------
 * Ranges and partitions
 * ---------------------------------------------------------------------
 */

static int
compare_ranges(const ListCell *left, const ListCell *right)
{
	TimestampTz a = ((const GoneRange *) lfirst(left))->from;
	TimestampTz b = ((const GoneRange *) lfirst(right))->from;

	return a < b ? -1 : (a > b ? 1 : 0);
}

static List *
append_range(List *ranges, TimestampTz from, TimestampTz until)
{
	GoneRange *range;

	if (from >= until)
		return ranges;
	range = palloc(sizeof(GoneRange));
	range->from = from;
	range->until = until;
	return lappend(ranges, range);
}

/* Sort ranges, and make one of those that overlap or touch. */
static List *
merge_ranges(List *ranges)
{
	List *merged = NIL;
	GoneRange *last = NULL;
	ListCell *cell;

	list_sort(ranges, compare_ranges);
	foreach(cell, ranges)
	{
		GoneRange *range = lfirst(cell);

		if (last != NULL && range->from <= last->until)
			last->until = Max(last->until, range->until);
		else
			merged = lappend(merged, last = range);
	}
	return merged;
}

/* The times below a limit that no partition but the default one has. */
static List *
default_ranges(const List *partitions, TimestampTz limit)
{
	List *taken = NIL;
	List *ranges = NIL;
	TimestampTz from = DT_NOBEGIN;
	ListCell *cell;

	foreach(cell, partitions)
	{
		KnownPartition *partition = lfirst(cell);

		if (!partition->is_default)
			taken = lappend(taken, &partition->range);
	}
	list_sort(taken, compare_ranges);
	foreach(cell, taken)
	{
		const GoneRange *range = lfirst(cell);

		ranges = append_range(ranges, from, Min(range->from, limit));
		from = Max(from, range->until);
	}
	return append_range(ranges, from, limit);
}

/* The partitions that an events table has now, by OID.  They are not locked:
 * there may be more than one may lock at once. */
static List *
attached_partitions(Oid events_table)
{
	List *partitions = NIL;
	Oid default_partition;
	ListCell *cell;

	if (get_rel_relkind(events_table) != RELKIND_PARTITIONED_TABLE)
		return NIL;
	default_partition = get_default_partition_oid(events_table);
	foreach(cell, find_inheritance_children(events_table, NoLock))
	{
		KnownPartition *partition = palloc0(sizeof(KnownPartition));

		partition->relation = lfirst_oid(cell);
		partition->is_default = partition->relation == default_partition;
		/* without bounds it has just been dropped */
		if (partition_bounds(partition->relation, &partition->range.from,
							 &partition->range.until) ||
			partition->is_default)
			partitions = lappend(partitions, partition);
	}
	return partitions;
}

/* Those of some partitions that are not among others, or not with the same
 * range.  Both are in the order of their OIDs. */
static List *
partitions_without(const List *partitions, const List *others)
{
	List *rest = NIL;
	int at = 0;
	ListCell *cell;

	foreach(cell, partitions)
	{
		const KnownPartition *partition = lfirst(cell);
		const KnownPartition *other = NULL;

		while (at < list_length(others) &&
			   ((KnownPartition *) list_nth(others, at))->relation < partition->relation)
			at++;
		if (at < list_length(others))
			other = list_nth(others, at);
		if (other == NULL || other->relation != partition->relation ||
			other->is_default != partition->is_default ||
			other->range.from != partition->range.from ||
			other->range.until != partition->range.until)
			rest = lappend(rest, lfirst(cell));
	}
	return rest;
}

/* Until when a stream's events may be, but for those without a finite time. */
static TimestampTz
time_limit(const Stream *stream)
{
	if (stream->event_time == NULL)
		return DT_NOEND;
	return event_times(stream, GetCurrentTimestamp()).newest + 1;
}

/* The times of events that are lost with one of some partitions. */
static List *
ranges_of(const KnownPartition *partition, const List *partitions, TimestampTz limit)
{
	if (partition->is_default)
		return default_ranges(partitions, limit);
	return append_range(NIL, partition->range.from, partition->range.until);
}

/* The times of events that are lost with those partitions that were there, and
 * have vanished. */
static List *
lost_ranges(const Stream *stream, const List *recorded, const List *vanished)
{
	List *ranges = NIL;
	ListCell *cell;

	foreach(cell, vanished)
		ranges = list_concat(ranges, ranges_of(lfirst(cell), recorded, time_limit(stream)));
	return ranges;
}

/* ---------------------------------------------------------------------
 * Our tables
 * ---------------------------------------------------------------------
 */

/* Ranges in the first two columns of the rows that SPI holds. */
static List *
ranges_of_rows(MemoryContext context)
{
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	List *ranges = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc tupdesc = SPI_tuptable->tupdesc;
		bool isnull;

		ranges = append_range(ranges, DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 1, &isnull)),
							  DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 2, &isnull)));
	}
	MemoryContextSwitchTo(saved_context);
	return ranges;
}

/* What detect._gone has of an events table, as the active snapshot sees it. */
static List *
read_gone(Oid events_table)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};
	List *ranges;

	SPI_connect();
	catalog_read("SELECT from_time, until_time FROM detect._gone WHERE events_table = $1", 1, types,
				 values);
	ranges = ranges_of_rows(context);
	SPI_finish();
	return ranges;
}

/* What detect._partition has of an events table, by OID, as the active
 * snapshot sees it. */
static List *
read_partitions(Oid events_table)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};
	List *partitions = NIL;

	SPI_connect();
	catalog_read("SELECT relation, is_default, from_time, until_time FROM detect._partition "
				 "WHERE events_table = $1 ORDER BY relation",
				 1, types, values);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc tupdesc = SPI_tuptable->tupdesc;
		KnownPartition *partition = palloc0(sizeof(KnownPartition));
		bool isnull;

		partition->relation = DatumGetObjectId(SPI_getbinval(row, tupdesc, 1, &isnull));
		partition->is_default = DatumGetBool(SPI_getbinval(row, tupdesc, 2, &isnull));
		partition->range.from = DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 3, &isnull));
		partition->range.until = DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 4, &isnull));
		partitions = lappend(partitions, partition);
	}
	SPI_finish();
	return partitions;
}

static void
write_gone(Oid events_table, const List *ranges)
{
	ListCell *cell;

	foreach(cell, ranges)
	{
		const GoneRange *range = lfirst(cell);
		Datum values[GONE_COLUMNS] = {ObjectIdGetDatum(events_table),
									  TimestampTzGetDatum(range->from),
									  TimestampTzGetDatum(range->until)};
		bool nulls[GONE_COLUMNS] = {false};

		catalog_insert("_gone", values, nulls);
	}
	CommandCounterIncrement();
}

/* Add ranges to detect._gone, and make one of those that touch.  Only what is
 * deleted is written again: others may add ranges meanwhile. */
static void
add_gone(Oid events_table, List *ranges)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(events_table)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._gone WHERE events_table = $1 "
					"RETURNING from_time, until_time",
					1, types, values, NULL);
	ranges = list_concat(ranges, ranges_of_rows(context));
	SPI_finish();
	write_gone(events_table, merge_ranges(ranges));
}

static void
delete_partition(Oid events_table, Oid relation)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(events_table), ObjectIdGetDatum(relation)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._partition WHERE events_table = $1 AND relation = $2", 2,
					types, values, NULL);
	SPI_finish();
}

static void
insert_partition(Oid events_table, const KnownPartition *partition)
{
	Datum values[PARTITION_COLUMNS] = {
		ObjectIdGetDatum(events_table), ObjectIdGetDatum(partition->relation),
		BoolGetDatum(partition->is_default), TimestampTzGetDatum(partition->range.from),
		TimestampTzGetDatum(partition->range.until)};
	bool nulls[PARTITION_COLUMNS] = {false};

	catalog_insert("_partition", values, nulls);
}

/* ---------------------------------------------------------------------
 * Who asks
 * ---------------------------------------------------------------------
 */

/*
 * The event times of which events are lost, of GoneRange, sorted and merged.
 * An event without a finite time is lost with a range that has no beginning.
 * It tells of all losses that are committed, whatever the caller's snapshot:
 * who compares or computes groups asks after having read the events, since
 * until then more of them may be dropped.
 */
List *
gone_ranges(const Stream *stream)
{
	List *ranges;
	List *recorded;
	List *vanished;

	PushActiveSnapshot(GetLatestSnapshot());
	ranges = read_gone(stream->events_table);
	recorded = read_partitions(stream->events_table);
	vanished = partitions_without(recorded, attached_partitions(stream->events_table));
	PopActiveSnapshot();
	return merge_ranges(list_concat(ranges, lost_ranges(stream, recorded, vanished)));
}

/* ---------------------------------------------------------------------
 * The applier
 * ---------------------------------------------------------------------
 */

/* Relcache callback: InvalidOid stands for every relation. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == followed_table)
		is_followed = false;
}

/* What was written is taken back. */
static void
transaction_ended(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT && followed_now)
		is_followed = false;
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		followed_now = false;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && followed_now)
		is_followed = false;
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
	registered = true;
}

/* Have detect._partition and detect._gone follow the partitions. */
static void
follow_partitions(const Stream *stream)
{
	Oid events_table = stream->events_table;
	List *attached = attached_partitions(events_table);
	List *recorded = read_partitions(events_table);
	List *vanished = partitions_without(recorded, attached);
	List *added = partitions_without(attached, recorded);
	ListCell *cell;

	if (vanished == NIL && added == NIL)
		return;
	followed_now = true;
	if (vanished != NIL)
		add_gone(events_table, lost_ranges(stream, recorded, vanished));
	foreach(cell, vanished)
		delete_partition(events_table, ((KnownPartition *) lfirst(cell))->relation);
	foreach(cell, added)
		insert_partition(events_table, lfirst(cell));
	CommandCounterIncrement();
}

/*
 * Write down which partitions there are, unless nothing has changed.  Called
 * by the applier before rollups get events, in the same transaction.
 */
void
gone_follow(const Stream *stream)
{
	MemoryContext context;
	MemoryContext saved_context;

	if (is_followed && followed_table == stream->events_table)
		return;
	register_callbacks();
	/* first, since it may change while they are read */
	followed_table = stream->events_table;
	is_followed = true;
	if (get_rel_relkind(stream->events_table) != RELKIND_PARTITIONED_TABLE)
		return;

	context =
		AllocSetContextCreate(CurrentMemoryContext, "detect gone events", ALLOCSET_DEFAULT_SIZES);
	saved_context = MemoryContextSwitchTo(context);
	PushActiveSnapshot(GetLatestSnapshot());
	follow_partitions(stream);
	PopActiveSnapshot();
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
}

/*
 * Look again, whatever has changed: rollups are made and dropped.
 */
void
gone_reload(void)
{
	is_followed = false;
}

/*
 * Forget events tables that no rollup reads any more: one that is made later
 * begins with the events that are there.  Called after rollups were dropped.
 */
void
gone_forget_unused(void)
{
	SPI_connect();
	catalog_execute("DELETE FROM detect._gone WHERE events_table NOT IN "
					"(SELECT events_table FROM detect._rollup)",
					0, NULL, NULL, NULL);
	catalog_execute("DELETE FROM detect._partition WHERE events_table NOT IN "
					"(SELECT events_table FROM detect._rollup)",
					0, NULL, NULL, NULL);
	SPI_finish();
}

/* ---------------------------------------------------------------------
 * TRUNCATE
 * ---------------------------------------------------------------------
 */

/* The events table that a relation is, or is a partition of, if a rollup reads
 * it; else InvalidOid. */
static Oid
events_table_of(Oid relation)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relation)};
	Oid events_table = InvalidOid;
	bool isnull;

	SPI_connect();
	if (catalog_execute("SELECT events_table::oid FROM detect._rollup r WHERE events_table = $1 "
						"OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1 "
						"AND inhparent = r.events_table) LIMIT 1",
						1, types, values, NULL) > 0)
		events_table = DatumGetObjectId(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return events_table;
}

/* The times of the events that a TRUNCATE of a relation takes away. */
static List *
truncated_ranges(const Stream *stream, Oid relation)
{
	List *partitions = attached_partitions(stream->events_table);
	TimestampTz limit = time_limit(stream);
	List *ranges = NIL;
	ListCell *cell;

	if (relation == stream->events_table && partitions == NIL)
		return append_range(NIL, DT_NOBEGIN, limit);
	foreach(cell, partitions)
	{
		const KnownPartition *partition = lfirst(cell);

		if (relation == stream->events_table || relation == partition->relation)
			ranges = list_concat(ranges, ranges_of(partition, partitions, limit));
	}
	return merge_ranges(ranges);
}

/* Those ranges that no one range of others has in it. */
static List *
ranges_without(const List *ranges, const List *others)
{
	List *rest = NIL;
	ListCell *cell;

	foreach(cell, ranges)
	{
		GoneRange *range = lfirst(cell);
		bool found = false;
		ListCell *other_cell;

		foreach(other_cell, others)
		{
			const GoneRange *other = lfirst(other_cell);

			found |= other->from <= range->from && range->until <= other->until;
		}
		if (!found)
			rest = lappend(rest, range);
	}
	return rest;
}

/*
 * AFTER TRUNCATE statement trigger of an events table and its partitions.  Only
 * the applier makes one of ranges that touch: nobody waits for it, or it for
 * somebody else.
 */
Datum
detect_truncated(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid relation;
	Oid events_table;
	Stream *stream = NULL;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("detect._truncated() must be an AFTER TRUNCATE statement trigger"),
						errhint("detect.create_stream makes it.")));
	relation = RelationGetRelid(trigdata->tg_relation);
	events_table = events_table_of(relation);
	if (OidIsValid(events_table))
		stream = stream_load_by_events_table(events_table);
	if (stream != NULL)
	{
		List *ranges = truncated_ranges(stream, relation);

		PushActiveSnapshot(GetLatestSnapshot());
		ranges = ranges_without(ranges, merge_ranges(read_gone(events_table)));
		PopActiveSnapshot();
		write_gone(events_table, ranges);
	}
	return PointerGetDatum(NULL);
}
