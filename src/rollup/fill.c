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
 * too.
 *
 * A rollup that cannot be filled (an overflow, a table that its owner may not
 * read) is set aside with its error (aside.c), and goes on with that chunk later.
 *
 * Where there is much to read, a worker of that duty does so beside the applier
 * (fill_worker.c), which makes the seam with a first chunk of next to nothing.  The
 * worker may fail, be missing, or be ended at any time: then the applier fills the
 * next chunk itself, as if there were no such worker, and asks for one again.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_type.h"
#include "fault_point.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* The stream waits for each chunk of the applier, which is to take about so long. */
#define CHUNK_MS 450

/* A worker is asked for where so many events are left, and awaited for so long. */
#define WORKER_EVENTS	500000
#define WORKER_START_MS 1000

/* How often the applier looks how far it is. */
#define WORKER_LOOK_MS 100

/*
 * Take the lock of what a stream's rollups are filled with, until the transaction
 * ends.  The applier takes it shared before it looks how far one is filled, the
 * worker exclusively before it changes that: it meets no open batch, and batches
 * that begin later follow.  It is taken after the stream's lock, on a number of
 * detect._missed: those of detect._rollup are for who waits for one (swap.c).
 */
void
fill_lock(const Stream *stream, LOCKMODE mode)
{
	LockDatabaseObject(catalog_relation("_missed", false), (Oid) stream->id, 0, mode);
}

/*
 * Record in the catalog that a chunk of so many events is in; it is the last one if
 * it has no lower end.
 */
void
fill_write_progress(const Rollup *rollup, const PartialSource *chunk, int64 rows)
{
	bool is_done = !chunk->has_from;
	Oid types[4] = {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID};
	Datum values[4];
	char nulls[4] = {' ', ' ', is_done ? 'n' : ' ', ' '};

	values[0] = Int32GetDatum(rollup->id);
	values[1] = CStringGetTextDatum(is_done ? "active" : "filling");
	values[2] = TimestampTzGetDatum(chunk->from);
	values[3] = Int64GetDatum(rows);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET state = $2, filled_from = $3, "
					"rows_filled = rows_filled + $4, filling_since = CASE WHEN $2 = 'filling' "
					"THEN COALESCE(filling_since, now()) END, aside_state = NULL, error = NULL, "
					"failed_event = NULL, retry_at = NULL, attempts = 0, chunk_from = NULL "
					"WHERE rollup_id = $1",
					4, types, values, nulls);
	SPI_finish();
}

/* Whether what is left of a rollup is worth a worker of its own. */
static bool
is_worth_worker(const Rollup *rollup)
{
	return fill_estimate_events(rollup->stream, DT_NOBEGIN,
								rollup->phase == ROLLUP_FILLING ? rollup->filled_from : DT_NOEND) >=
		   FAULT_LIMIT(WORKER_EVENTS, 0);
}

/* Choose the next chunk of a rollup.  The first one, if a worker is to read the others,
 * has only what no partition of a time expects: the stream waits for it. */
static void
choose_chunk(const Rollup *rollup, PartialSource *chunk)
{
	const TimestampTz *frontier = NULL;

	if (rollup->phase == ROLLUP_FILLING)
	{
		chunk->has_until = true;
		chunk->until = rollup->filled_from;
		frontier = &rollup->filled_from;
	}
	if (!fill_has_chunks(rollup->stream))
		return;
	if (frontier == NULL && is_worth_worker(rollup))
		chunk->has_from = fill_newest_end(rollup->stream, &chunk->from);
	else
		chunk->has_from = fill_next_chunk(rollup->stream, frontier, &chunk->from);
}

/* Fill the next chunk of a rollup. */
static void
fill_step(void *arg)
{
	const Rollup *rollup = (const Rollup *) arg;
	PartialSource chunk = {0};
	PartialPlan *plan = partial_plan_create(CurrentMemoryContext);
	instr_time since;
	int64 rows;

	INSTR_TIME_SET_CURRENT(since);
	/* a worker that was to read this chunk has not */
	if (rollup->has_chunk)
		missed_delete(rollup, PG_INT64_MAX);
	choose_chunk(rollup, &chunk);
	rows = rollup_absorb(rollup, plan, &chunk);
	fill_write_progress(rollup, &chunk, rows);
	fill_measure_chunk(rollup->stream, &chunk, rows, since, CHUNK_MS);
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

/* Whether a rollup is left to a worker for now, which is asked for if need be.  One
 * that has not come, or has ended before its time, is not waited for: a chunk is
 * filled without it first. */
static bool
is_left_to_worker(RollupSet *set, const Rollup *rollup)
{
	TimestampTz now = GetCurrentTimestamp();
	bool has_worker = slot_has_worker(my_slot, DUTY_FILL);

	if (rollup->phase != ROLLUP_FILLING)
		return false;
	if (!has_worker && set->fill_asked_at == 0 && fill_has_chunks(rollup->stream) &&
		is_worth_worker(rollup))
	{
		slot_want_duty(my_slot, DUTY_FILL);
		launcher_wake();
		set->fill_asked_at = now;
	}
	else if (!has_worker && time_has_passed(set->fill_asked_at, now, WORKER_START_MS))
	{
		set->fill_asked_at = 0;
		return false;
	}
	set->fill_due = TimestampTzPlusMilliseconds(now, WORKER_LOOK_MS);
	return true;
}

/* Whether there is something to do for a rollup now. */
static bool
is_due(const Rollup *rollup)
{
	if (rollup->phase == ROLLUP_ACTIVE && rollup->replaces == 0)
		return false;
	if (rollup->phase == ROLLUP_FAILED || rollup->phase == ROLLUP_ACTIVE)
		return aside_is_due(rollup->retry_at);
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
	set->fill_due = DT_NOEND;
	for (int i = 0; i < set->nrollups && !found; i++)
	{
		found = is_due(&set->rollups[i]) && !is_left_to_worker(set, &set->rollups[i]);
		if (found)
			tend_rollup(&set->rollups[i]);
	}
	found = found || rollup_set_repair(set);
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	return found;
}
