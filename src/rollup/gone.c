/*-------------------------------------------------------------------------
 *
 * gone.c
 *	  Which event times have lost events.
 *
 * Events are lost when a partition is dropped, by retention or by hand, or
 * detached; rows that somebody deletes, or truncates, are no loss but an edit,
 * which the groups follow (repair.c).  A group that has lost events can't be
 * computed again, so what is known here is kept for as long as a rollup reads
 * the table, and only grows.
 *
 * A partition that is gone tells nothing any more, so detect._partition has
 * those that were there.  Whoever asks compares with the partitions that are
 * there now, and so knows of one that has vanished before the applier does,
 * which moves it to detect._gone (gone_follow.c).
 *
 * A default partition has the times that no other takes, a plain table has
 * all; neither has times that streams refuse as too far ahead.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/gone.h"

#include "apply/batch.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* ---------------------------------------------------------------------
 * Ranges and partitions
 * ---------------------------------------------------------------------
 */

static int
compare_ranges(const ListCell *left, const ListCell *right)
{
	TimestampTz a = ((const TimeRange *) lfirst(left))->from;
	TimestampTz b = ((const TimeRange *) lfirst(right))->from;

	return a < b ? -1 : (a > b ? 1 : 0);
}

/* Append a range, unless it is empty. */
static List *
append_range(List *ranges, TimestampTz from, TimestampTz until)
{
	TimeRange *range;

	if (from >= until)
		return ranges;
	range = palloc(sizeof(TimeRange));
	range->from = from;
	range->until = until;
	return lappend(ranges, range);
}

/*
 * Sort ranges, and make one of those that overlap or touch.
 */
List *
gone_merge_ranges(List *ranges)
{
	List *merged = NIL;
	TimeRange *last = NULL;
	ListCell *cell;

	list_sort(ranges, compare_ranges);
	foreach(cell, ranges)
	{
		TimeRange *range = lfirst(cell);

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
		const TimeRange *range = lfirst(cell);

		ranges = append_range(ranges, from, Min(range->from, limit));
		from = Max(from, range->until);
	}
	return append_range(ranges, from, limit);
}

/*
 * The partitions that an events table has now, by OID.  They are not locked:
 * there may be more than one may lock at once.
 */
List *
gone_attached_partitions(Oid events_table)
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

/*
 * Those of some partitions that are not among others, or not with the same
 * range.  Both are in the order of their OIDs.
 */
List *
gone_partitions_without(const List *partitions, const List *others)
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

/*
 * The times of events that are lost with those partitions that were there, and
 * have vanished.
 */
List *
gone_lost_ranges(const Stream *stream, const List *recorded, const List *vanished)
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

/*
 * Ranges in the first two columns of the rows that SPI holds.
 */
List *
gone_ranges_of_rows(MemoryContext context)
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
	ranges = gone_ranges_of_rows(context);
	SPI_finish();
	return ranges;
}

/*
 * What detect._partition has of an events table, by OID, as the active snapshot
 * sees it.
 */
List *
gone_read_partitions(Oid events_table)
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

/* ---------------------------------------------------------------------
 * Who asks
 * ---------------------------------------------------------------------
 */

/*
 * The event times of which events are lost, of TimeRange, sorted and merged.
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
	recorded = gone_read_partitions(stream->events_table);
	vanished = gone_partitions_without(recorded, gone_attached_partitions(stream->events_table));
	PopActiveSnapshot();
	return gone_merge_ranges(list_concat(ranges, gone_lost_ranges(stream, recorded, vanished)));
}
