/*-------------------------------------------------------------------------
 *
 * aside.c
 *	  Rollups that fail are set aside, and taken up again where they stopped.
 *
 * The events come first: a rollup that can't take a batch (an overflow, a
 * table that its owner may not read, a broken state) must not keep the batch
 * from being committed.  It is set aside with its error, in the commit of that
 * batch, and which events it misses from then on is written down beside it
 * (missed.c).  That is what makes it exact: its states are those of all events
 * before, and what it misses is known event by event, so that it can catch up
 * from the events table as that is by then, without those that somebody has
 * deleted because they could not be counted.
 *
 * Rollups are guarded by a subtransaction only where something has failed
 * already: a batch is applied without, and when that fails in a rollup the
 * batch is applied once more with every rollup guarded.
 *
 * A rollup that is aside is tried again after a while, ever more seldom, and
 * at once when detect.retry_rollup asks for it.  While it catches up, batches
 * still go on what it misses; it takes them from there, in order, until nothing is
 * left, under the stream's lock, and from the next batch on it takes part.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "apply/applier.h"
#include "catalog/pg_type.h"
#include "fault_point.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* What a guarded step absorbs. */
typedef struct AbsorbStep
{
	const Rollup *rollup;
	PartialPlan *plan;
	const PartialSource *source;
} AbsorbStep;

/*
 * Whether an error is a rollup's own, such as a query that takes too long.  Others
 * (somebody ends or cancels us, a deadlock) would meet the next try, or the next
 * rollup, as well.
 */
static bool
is_own_error(const ErrorData *error)
{
	if (time_limit_was_hit(error))
		return true;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INVALID_TRANSACTION_STATE:
			return false;
		default:
			return true;
	}
}

/*
 * Take a step as subtransaction_try() does.  Errors that are not the rollup's own
 * are raised.
 */
ErrorData *
aside_try(void (*step)(void *arg), void *arg, bool keep)
{
	ErrorData *error = subtransaction_try(step, arg, keep);

	if (error != NULL && !is_own_error(error))
		ReThrowError(error);
	if (error != NULL && time_limit_was_hit(error))
	{
		time_limit_explain(error);
		time_limit_begin(); /* the others have their time, too */
	}
	return error;
}

static void
absorb(void *arg)
{
	AbsorbStep *step = (AbsorbStep *) arg;

	rollup_absorb(step->rollup, step->plan, step->source);
}

/*
 * Absorb a source as aside_try() takes a step.
 */
ErrorData *
aside_try_absorb(const Rollup *rollup, PartialPlan *plan, const PartialSource *source, bool keep)
{
	AbsorbStep step = {rollup, plan, source};

	return aside_try(absorb, &step, keep);
}

/*
 * When to try again what has failed so often.
 */
TimestampTz
aside_retry_time(int failures, int64 max_ms)
{
	int64 delay_ms = (int64) detect_retry_interval_ms << Min(failures - 1, 22);

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay_ms, max_ms));
}

/*
 * Whether such a time is over.
 */
bool
aside_is_due(TimestampTz retry_at)
{
	return time_is_over(retry_at, GetCurrentTimestamp(), ROLLUP_RETRY_MAX_MS);
}

/* Tell of a rollup's failure, unless it is the one that was told already.  Which
 * event is the cause, detect.stat_rollup tells to those who may see it. */
static void
report_failure(const Rollup *rollup, const ErrorData *error)
{
	const char *hint = failure_shows_rows(error) ? NULL : error->hint;
	int left_out;

	if (rollup->attempts > 0 || !log_is_due(LOG_ROLLUP - rollup->id, &left_out))
		return;
	ereport(WARNING, (errcode(error->sqlerrcode),
					  errmsg("%s \"%s\" is set aside: %s",
							 rollup->replaces ? "the new definition of rollup" : "rollup",
							 rollup->name, failure_message_for_log(error)),
					  errhint("%s", hint ? hint
										 : "Remove the cause: it is tried again by itself, or at "
										   "once with detect.retry_rollup.")));
}

/*
 * Set a rollup aside with the error that it failed with, and the event that is
 * the cause, or NULL.  What it misses is for the caller to write.
 */
void
aside_write(Rollup *rollup, const ErrorData *error, const char *event)
{
	RollupPhase phase = rollup_is_aside(rollup) ? rollup->aside_phase : rollup->phase;
	Oid types[6] = {INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID, TEXTOID};
	Datum values[6];
	char nulls[6] = {' ', ' ', ' ', ' ', ' ', event ? ' ' : 'n'};

	/* those of replacing another are over */
	if (rollup->phase == ROLLUP_ACTIVE)
		rollup->attempts = 0;
	/* a worker that reads a chunk will find that it is in vain */
	if (rollup->has_chunk)
		missed_delete(rollup, PG_INT64_MAX);
	rollup->has_chunk = false;
	report_failure(rollup, error);
	rollup->attempts++;
	rollup->retry_at = aside_retry_time(rollup->attempts, ROLLUP_RETRY_MAX_MS);
	rollup->phase = ROLLUP_FAILED;
	rollup->aside_phase = phase;

	values[0] = Int32GetDatum(rollup->id);
	values[1] = CStringGetTextDatum(rollup_phase_names[phase]);
	values[2] = CStringGetTextDatum(error->message);
	values[3] = TimestampTzGetDatum(rollup->retry_at);
	values[4] = Int32GetDatum(rollup->attempts);
	values[5] = event ? CStringGetTextDatum(event) : (Datum) 0;
	SPI_connect();
	catalog_execute(
		"UPDATE detect._rollup SET state = 'failed', aside_state = $2, error = $3, "
		"retry_at = $4, attempts = $5, failed_event = $6, chunk_from = NULL WHERE rollup_id = $1",
		6, types, values, nulls);
	SPI_finish();
}

/*
 * Note that a rollup has caught up with some batches, and takes part again when
 * it misses no more.  Whether one that is being filled goes on is for the next
 * chunk to say.
 */
static void
write_caught_up(const Rollup *rollup, int64 lost)
{
	Oid types[2] = {INT4OID, INT8OID};
	Datum values[2];

	values[0] = Int32GetDatum(rollup->id);
	values[1] = Int64GetDatum(lost);
	SPI_connect();
	catalog_execute(
		"UPDATE detect._rollup r SET state = CASE WHEN m.are_more THEN 'behind' ELSE aside_state END, "
		"aside_state = CASE WHEN m.are_more THEN aside_state END, "
		"attempts = CASE WHEN aside_state = 'active' THEN 0 ELSE attempts END, "
		"error = NULL, failed_event = NULL, retry_at = NULL, events_lost = events_lost + $2 "
		"FROM (SELECT EXISTS (SELECT FROM detect._missed WHERE rollup_id = $1) AS are_more) m "
		"WHERE rollup_id = $1",
		2, types, values, NULL);
	SPI_finish();
}

/* Absorb what was read of the missed; false when that was nothing, and the
 * rollup is to be filled. */
static bool
absorb_missed(Rollup *rollup, const MissedEvents *missed)
{
	PartialSource source = {.batch = missed->events};
	ErrorData *error;

	if (missed->last_batch == 0 && rollup->aside_phase != ROLLUP_ACTIVE)
		return false;

	source.has_from = rollup->aside_phase == ROLLUP_FILLING;
	source.from = rollup->filled_from;
	time_limit_begin();
	error = aside_try_absorb(rollup, partial_plan_create(CurrentMemoryContext), &source, true);
	time_limit_end();
	if (error != NULL)
		aside_write(rollup, error, blame_event(rollup, error, &source));
	else
	{
		missed_delete(rollup, missed->last_batch);
		write_caught_up(rollup, missed->lost);
		FAULT_POINT("after_catch_up");
	}
	return true;
}

/*
 * One step of a rollup that is aside: it absorbs the next of what it misses.
 * If that fails again, it stays aside.  False when it is to be filled and
 * misses nothing beside.  In a transaction of the caller, between two batches.
 */
bool
aside_catch_up(Rollup *rollup)
{
	MissedEvents missed = {0};
	ErrorData *error = missed_read(rollup, &missed);
	bool has_stepped = true;

	if (error != NULL)
		aside_write(rollup, error, NULL);
	else
		has_stepped = absorb_missed(rollup, &missed);
	tuplestore_end(missed.events);
	return has_stepped;
}
