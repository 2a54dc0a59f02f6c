/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Rollups that are new: filled from the events that were there before.
 *
 * The applier calls rollup_set_fill between two batches, under the stream's
 * lock, in a transaction of its own.  That is the seam: every event committed
 * before is in the events table, every later one is in a batch.
 *
 * Where the events table is partitioned by the event time, a rollup is filled
 * in chunks of time, newest first.  Its frontier, filled_from, moves down in
 * the transaction that merges a chunk; batches leave what lies below it to its
 * chunk.  The first chunk has no upper end and the last one no lower, so that
 * times that no partition covers, and events without a time, have their chunk
 * too.  Partitions only say where to cut; a cut anywhere would be right.
 *
 * A rollup that cannot be filled (an overflow, a table that its owner may not
 * read) is set aside with its error (aside.c), and goes on with that chunk later.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/table.h"
#include "apply/dedup.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fault_point.h"
#include "optimizer/plancat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* A partition with more events is read in several chunks: the stream waits for
 * each, and each reads the whole partition ... */
#define CHUNK_EVENTS		 600000
#define CHUNKS_PER_PARTITION 16

/* ... and several with fewer are read in one. */
#define SMALL_CHUNK_EVENTS	 100000
#define PARTITIONS_PER_CHUNK 64

/* A partition, as far as it tells where to cut. */
typedef struct Slice
{
	Oid partition;
	TimestampTz from;
	TimestampTz until;
} Slice;

/* Order slices, newest first. */
static int
compare_slices(const void *left, const void *right)
{
	TimestampTz a = ((const Slice *) left)->from;
	TimestampTz b = ((const Slice *) right)->from;

	return a < b ? 1 : (a > b ? -1 : 0);
}

/* The partitions that begin below a frontier, newest first; NULL: all. */
static Slice *
slices_below(const Stream *stream, const TimestampTz *frontier, int *count)
{
	/* Unlocked: there may be more partitions than one may lock at once. */
	List *partitions = find_inheritance_children(stream->events_table, NoLock);
	Slice *slices = palloc((list_length(partitions) + 1) * sizeof(Slice));
	ListCell *cell;

	*count = 0;
	foreach(cell, partitions)
	{
		Slice *slice = &slices[*count];

		slice->partition = lfirst_oid(cell);
		if (!partition_bounds(slice->partition, &slice->from, &slice->until))
			continue;
		if (TIMESTAMP_NOT_FINITE(slice->from) || TIMESTAMP_NOT_FINITE(slice->until))
			continue;
		if (frontier == NULL || slice->from < *frontier)
			(*count)++;
	}
	qsort(slices, *count, sizeof(Slice), compare_slices);
	return slices;
}

/* How many events a partition holds, about; 0 if it has just been dropped. */
static double
estimate_events(Oid partition)
{
	Relation rel = try_table_open(partition, AccessShareLock);
	BlockNumber pages;
	double events = 0;
	double visible;

	if (rel == NULL)
		return 0;
	if (RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
		estimate_rel_size(rel, NULL, &pages, &events, &visible);
	else
		events = CHUNK_EVENTS;
	table_close(rel, AccessShareLock);
	return events;
}

/* Where to cut a large partition: the highest of its equal parts' beginnings
 * that lies below the frontier. */
static TimestampTz
cut_partition(const Slice *slice, double events, const TimestampTz *frontier)
{
	int parts = (int) Min(events / CHUNK_EVENTS + 1, CHUNKS_PER_PARTITION);
	int64 width = Max((slice->until - slice->from) / parts, 1);

	for (int part = parts - 1; part > 0; part--)
	{
		TimestampTz cut = slice->from + part * width;

		if (frontier == NULL || cut < *frontier)
			return cut;
	}
	return slice->from;
}

/*
 * Find where the chunk below a frontier begins, or the newest one where that is
 * NULL; false when it is the last one, which has no lower end.
 */
bool
fill_next_chunk(const Stream *stream, const TimestampTz *frontier, TimestampTz *from)
{
	int count;
	Slice *slices = slices_below(stream, frontier, &count);
	double chunk_events = 0;
	int i;

	for (i = 0; i < count && i < PARTITIONS_PER_CHUNK; i++)
	{
		double events = estimate_events(slices[i].partition);

		if (i > 0 && chunk_events + events > SMALL_CHUNK_EVENTS)
			return true;
		*from =
			events > CHUNK_EVENTS ? cut_partition(&slices[i], events, frontier) : slices[i].from;
		chunk_events += events;
		if (*from != slices[i].from)
			return true;
	}
	return i > 0;
}

/*
 * How many events have times of a range, about; all where their table is not
 * partitioned by time.
 */
double
fill_estimate_events(const Stream *stream, TimestampTz from, TimestampTz until)
{
	double events = 0;
	Slice *slices;
	int count;

	if (!fill_has_chunks(stream))
		return estimate_events(stream->events_table);
	slices = slices_below(stream, &until, &count);
	for (int i = 0; i < count; i++)
	{
		if (slices[i].until > from)
			events += estimate_events(slices[i].partition);
	}
	return events;
}

/*
 * Whether the events of a stream are read in chunks of time, or in one step.
 */
bool
fill_has_chunks(const Stream *stream)
{
	Oid type;

	if (stream->event_time == NULL || !partition_is_by_event_time(stream))
		return false;
	type = get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time));
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
}

/* Record in the catalog what a step has done. */
static void
write_progress(const Rollup *rollup, bool is_done, TimestampTz filled_from, int64 rows)
{
	Oid types[4] = {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID};
	Datum values[4];
	char nulls[4] = {' ', ' ', is_done ? 'n' : ' ', ' '};

	values[0] = Int32GetDatum(rollup->id);
	values[1] = CStringGetTextDatum(is_done ? "active" : "filling");
	values[2] = TimestampTzGetDatum(filled_from);
	values[3] = Int64GetDatum(rows);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET state = $2, filled_from = $3, "
					"rows_filled = rows_filled + $4, filling_since = CASE WHEN $2 = 'filling' "
					"THEN COALESCE(filling_since, now()) END, aside_state = NULL, error = NULL, "
					"failed_event = NULL, retry_at = NULL, attempts = 0 WHERE rollup_id = $1",
					4, types, values, nulls);
	SPI_finish();
}

/* Fill the next chunk of a rollup. */
static void
fill_step(void *arg)
{
	const Rollup *rollup = (const Rollup *) arg;
	PartialSource source = {0};
	PartialPlan *plan = partial_plan_create(CurrentMemoryContext);
	int64 rows;

	if (rollup->phase == ROLLUP_FILLING)
	{
		source.has_until = true;
		source.until = rollup->filled_from;
	}
	if (fill_has_chunks(rollup->stream))
		source.has_from = fill_next_chunk(
			rollup->stream, rollup->phase == ROLLUP_FILLING ? &rollup->filled_from : NULL,
			&source.from);

	rows = rollup_absorb(rollup, plan, &source);
	write_progress(rollup, !source.has_from, source.from, rows);
	FAULT_POINT("after_fill_chunk");
}

/* One step of a rollup: catch up, fill, or, once it is active, replace another. */
static void
tend_rollup(Rollup *rollup)
{
	Rollup filled = *rollup;
	ErrorData *error;

	if (rollup->phase == ROLLUP_ACTIVE)
	{
		swap_try(rollup);
		return;
	}
	if (rollup_is_aside(rollup) && aside_catch_up(rollup))
		return;
	filled.phase = rollup->aside_phase;
	error = aside_try(fill_step, &filled, true);
	if (error != NULL)
		aside_write(rollup, error, NULL);
}

/* Whether there is something to do for a rollup now. */
static bool
is_due(const Rollup *rollup)
{
	if (rollup->phase == ROLLUP_FAILED)
		return rollup->retry_at <= GetCurrentTimestamp();
	if (rollup->phase == ROLLUP_ACTIVE)
		return rollup->replaces != 0 && rollup->retry_at <= GetCurrentTimestamp();
	return true;
}

/*
 * One step towards rollups that have all events as they are, in a transaction of
 * the caller, under the stream's lock, between two batches.  False when there was
 * nothing to do.  Phases in memory follow at the next transaction, once this
 * one is committed.
 */
bool
rollup_set_fill(RollupSet *set)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect rollup fill", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	bool found = false;

	rollup_set_refresh(set);
	for (int i = 0; i < set->nrollups && !found; i++)
	{
		found = is_due(&set->rollups[i]);
		if (found)
			tend_rollup(&set->rollups[i]);
	}
	found = found || rollup_set_repair(set);
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	return found;
}
