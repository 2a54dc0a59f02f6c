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

#include <math.h>

#include "access/table.h"
#include "apply/dedup.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fault_point.h"
#include "optimizer/plancat.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The stream waits for each chunk, which is to take about so long, up to half as
 * much more. */
#define CHUNK_MS 450

/* How many events that takes is known from the chunk before; at first few are. */
#define FIRST_CHUNK_EVENTS 50000

/* A partition with more events is read in several chunks.  Each reads all of it:
 * an event that is not of the chunk costs about so much of one that is. */
#define CHUNKS_PER_PARTITION 16
#define COST_OF_OTHER_EVENT	 0.2

/* Partitions with fewer are read in one. */
#define SMALL_CHUNK_EVENTS	 100000
#define PARTITIONS_PER_CHUNK 64

/* So many events are filled in CHUNK_MS. */
static double chunk_events = FIRST_CHUNK_EVENTS;

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
		events = SMALL_CHUNK_EVENTS;
	table_close(rel, AccessShareLock);
	return events;
}

/* How many events of a partition lie below the frontier, if they are spread evenly. */
static double
events_below(const Slice *slice, double events, TimestampTz until)
{
	return events * ((double) until - (double) slice->from) /
		   ((double) slice->until - (double) slice->from);
}

/* Where the next chunk of a partition begins: what lies below the frontier is
 * divided evenly, by the number of chunks that comes nearest to CHUNK_MS each. */
static TimestampTz
cut_partition(const Slice *slice, double events, const TimestampTz *frontier)
{
	TimestampTz until = frontier ? Min(*frontier, slice->until) : slice->until;
	double most = Max(chunk_events, events / CHUNKS_PER_PARTITION);
	double parts = rint(events_below(slice, events, until) / most);

	if (parts <= 1)
		return slice->from;
	return until - Max((TimestampTz) ((until - slice->from) / parts), 1);
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
	double all_events = 0;
	int i;

	for (i = 0; i < count && i < PARTITIONS_PER_CHUNK; i++)
	{
		double events = estimate_events(slices[i].partition);

		all_events += events;
		if (i > 0 && all_events > Min(SMALL_CHUNK_EVENTS, chunk_events))
			return true;
		*from = cut_partition(&slices[i], events, frontier);
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

/* A chunk of so many events was filled since then: the next one has as many as fit. */
static void
measure_chunk(const Stream *stream, const PartialSource *chunk, int64 events, instr_time since)
{
	double read = fill_estimate_events(stream, chunk->has_from ? chunk->from : DT_NOBEGIN,
									   chunk->has_until ? chunk->until : DT_NOEND);
	double cost = events + Max(read - events, 0) * COST_OF_OTHER_EVENT;
	instr_time elapsed;

	INSTR_TIME_SET_CURRENT(elapsed);
	INSTR_TIME_SUBTRACT(elapsed, since);
	/* few events say little about many, and how many were read is an estimate */
	if (events >= Min(chunk_events, FIRST_CHUNK_EVENTS) / 4 ||
		INSTR_TIME_GET_MILLISEC(elapsed) > CHUNK_MS)
		chunk_events = Max(cost * CHUNK_MS / INSTR_TIME_GET_MILLISEC(elapsed), 1);
}

/* Fill the next chunk of a rollup. */
static void
fill_step(void *arg)
{
	const Rollup *rollup = (const Rollup *) arg;
	PartialSource source = {0};
	PartialPlan *plan = partial_plan_create(CurrentMemoryContext);
	instr_time since;
	int64 rows;

	INSTR_TIME_SET_CURRENT(since);
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
	measure_chunk(rollup->stream, &source, rows, since);
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
