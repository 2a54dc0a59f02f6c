/*-------------------------------------------------------------------------
 *
 * round.c
 *	  The rounds of an applier or a consumer, and what follows from an error.
 *
 * A round is a bounded amount of consuming and applying, each in transactions
 * of their own.  Between rounds the worker waits on latch and queue together;
 * no transaction is open and no lock is held then.
 *
 * An error ends the round, never the worker.  round_failed() is the only place
 * that decides what follows: a configuration error pauses the stream, anything
 * else is tried again later.  The applier has by then sorted out the elements
 * that fail for themselves.  FATAL ends the worker, and the launcher starts
 * another one.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/applier.h"
#include "apply/attempt.h"
#include "compat.h"
#include "fault_point.h"
#include "ingest/consumer.h"
#include "ingest/worker.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define IDLE_WAIT_MS 10000

/* With nothing to do for so long, memory that a batch needed is given up. */
#define RELEASE_WAIT_MS 500

static MemoryContext round_context; /* reset after each round */
static MemoryContext consumer_context;
static MemoryContext applier_context;
static Consumer *consumer; /* NULL unless this worker consumes */
static Applier *applier;   /* NULL unless it applies */

static int failures;	  /* rounds in a row */
static bool keeps_memory; /* that a batch may have needed */

/* Name the stream in whatever is raised while a round runs. */
static void
round_error_context(void *arg)
{
	errcontext("stream \"%s\"", me.stream_name);
}

/* What to answer wherever the worker waits.  A cancel that arrived between two
 * rounds has nothing to cancel. */
static void
round_answer_interrupts(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		watch_stale = true; /* detect.superuser_streams may be off by now */
	}
}

/* Wait for what a set has, or without one for the latch; false when nothing came. */
static bool
round_wait_for(WaitEventSet *set, long wait_ms)
{
	static uint32 wait_event = 0;
	WaitEvent event;
	bool occurred;

	if (wait_event == 0)
		wait_event = compat_wait_event("DetectWorkerMain");
	pgstat_report_activity(STATE_IDLE, NULL);
	if (set)
		occurred = WaitEventSetWait(set, wait_ms, &event, 1, wait_event) > 0;
	else
		occurred = (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait_ms,
							  wait_event) &
					WL_LATCH_SET) != 0;
	ResetLatch(MyLatch);
	pgstat_report_activity(STATE_RUNNING, NULL);
	return occurred;
}

/* ---------------------------------------------------------------------
 * Failure
 * ---------------------------------------------------------------------
 */

/* Take the error out of the way, with all that the failed work left behind.
 * The result lives until the round's memory is reset. */
static ErrorData *
round_take_error(void)
{
	ErrorData *error;

	MemoryContextSwitchTo(round_context);
	error = CopyErrorData();
	HOLD_INTERRUPTS();
	time_limit_end();
	AbortOutOfAnyTransaction();
	/* An abort does this, but not every error comes from a transaction. */
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	FlushErrorState();
	if (consumer)
		consumer_forget(consumer);
	if (applier)
		applier_forget(applier);
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(round_context);
	return error;
}

/* What the user is told to do about a configuration error.  A hint may be that of a
 * trigger, whose author would have somebody paste what he likes: it is a comment. */
static const char *
failure_remedy(const ErrorData *error)
{
	const char *name = quote_literal_cstr(me.stream_name);
	const char *advice = error->hint;
	char *remedy;

	if (advice == NULL)
		advice = psprintf("Mend the cause, then call detect.resume(%s).", name);
	/* else it says in which of two ways to resume */
	else if (error->sqlerrcode != ERRCODE_ELEMENT_CRASHES_SERVER)
		advice = psprintf("%s Then call detect.resume(%s).", advice, name);
	remedy = psprintf("-- %s", advice);
	for (char *c = strpbrk(remedy, "\r\n"); c != NULL; c = strpbrk(c, "\r\n"))
		*c = ' ';
	return remedy;
}

/* A definition that has changed is no error, but a reason to start again. */
static bool
recheck_definition(const ErrorData *error)
{
	/* what the failed round has not heard of is looked at here, too */
	AcceptInvalidationMessages();
	worker_follow_definition();
	return true;
}

/* What failed may have taken session locks, which outlive an abort. */
static bool
undo_session(const ErrorData *error)
{
	session_undo();
	return true;
}

/* Write into the catalog that the stream is paused, and why; false when somebody has
 * changed or resumed it since it was looked at, which may be the remedy. */
static bool
write_pause(const ErrorData *error)
{
	transaction_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	stream_lock(me.order.stream_id, AccessShareLock);
	if (me.stream != NULL && watch_stale)
	{
		PopActiveSnapshot();
		AbortCurrentTransaction();
		return false;
	}
	stream_set_paused(me.order.stream_id, error->message, failure_remedy(error));
	PopActiveSnapshot();
	CommitTransactionCommand();
	return true;
}

/* Take a step that may itself fail while an error is being dealt with; whether it has
 * done what it is for. */
static bool
round_attempt(bool (*step)(const ErrorData *error), const ErrorData *error)
{
	volatile bool done = false;

	PG_TRY();
	{
		done = step(error);
	}
	PG_CATCH();
	{
		(void) round_take_error();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(round_context);
	return done;
}

/* What an error says of where it came up, unless that is the stream alone, which
 * the message names, or may show a row. */
static int
log_context(const ErrorData *error)
{
	const char *stream = psprintf("stream \"%s\"", me.stream_name);

	if (error->context == NULL || failure_shows_rows(error) || strcmp(error->context, stream) == 0)
		return errhidecontext(true);
	return errcontext("%s", error->context);
}

/* Pause the stream for a configuration error and exit.  Returns only if that
 * could not be done, for instance because the database is read-only. */
static void
round_pause(const ErrorData *error)
{
	(void) round_attempt(recheck_definition, error);
	FAULT_POINT("before_pause");
	if (!round_attempt(write_pause, error))
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("stream \"%s\" is paused: %s", me.stream_name, failure_message_for_log(error)),
			 errhint("%s", failure_remedy(error)), log_context(error)));
	proc_exit(0);
}

/*
 * Log an error that is tried again, unless that was done of late.  Its detail may
 * show a row, too; where it came up is told once.
 */
void
round_log_failure(const ErrorData *error)
{
	int left_out;

	if (log_is_due(error->sqlerrcode, &left_out))
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("stream \"%s\" tries again after an error: %s", me.stream_name,
						failure_message_for_log(error)),
				 log_left_out(left_out), left_out > 0 ? errhidecontext(true) : log_context(error)));
}

/* Wait before the next try, but not longer than until a definition changes:
 * that may be the remedy. */
static void
round_back_off(const ErrorData *error)
{
	int delay_ms = launcher_retry_delay_ms(failures);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until;

	/*
	 * Who holds a lock is not helped by more time than he needs.  A definition
	 * may have changed already; perhaps only by what was rolled back.
	 */
	if (watch_stale || error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		delay_ms = Min(delay_ms, detect_retry_interval_ms);
	until = TimestampTzPlusMilliseconds(now, delay_ms);
	watch_stale = false;
	while (!watch_stale && !launcher_is_due(until, now))
	{
		(void) round_wait_for(NULL, TimestampDifferenceMilliseconds(now, until));
		round_answer_interrupts();
		AcceptInvalidationMessages();
		now = GetCurrentTimestamp();
	}
	watch_stale = true; /* look at it before trying again */
	worker_definition_changed = true;
}

/* Decide what follows from the error that ended a round. */
static void
round_failed(const ErrorData *error)
{
	slot_record_error(my_slot, error->sqlerrcode, error->message);
	(void) round_attempt(undo_session, error);
	if (failure_kind(error) == FAILURE_CONFIGURATION)
		round_pause(error);
	round_log_failure(error);
	round_back_off(error);
	failures++;
}

/* A round went well: what was wrong is over.  A consumer that still looks for
 * its broker has said so, and says when it has found it. */
static void
round_succeeded(void)
{
	if (my_entry->state != STREAM_CONNECTING &&
		(failures > 0 || my_entry->state == STREAM_STARTING))
		slot_set_state(my_slot, STREAM_RUNNING);
	failures = 0;
}

/* ---------------------------------------------------------------------
 * Work
 * ---------------------------------------------------------------------
 */

/* Make what the worker's duties need, unless an earlier round has. */
static void
round_open_duties(void)
{
	bool consumes =
		me.stream->server != NULL && (me.order.duty == DUTY_CONSUME || me.stream->consumers == 0);

	if (me.order.duty == DUTY_APPLY && applier == NULL)
	{
		MemoryContextReset(applier_context);
		applier = applier_create(me.stream, applier_context);
	}
	if (consumes && consumer == NULL)
	{
		MemoryContextReset(consumer_context);
		consumer = consumer_create(
			me.stream, me.order.duty == DUTY_CONSUME ? me.order.entry - DUTY_CONSUME : 0,
			consumer_context);
	}
}

/*
 * Have the consumer run.  Beside an applier it stages as much as one commit may
 * apply, if so much is there: the more a commit has, the fewer times is a group
 * of a rollup merged.  While more than that is staged nothing is added to it.
 */
static bool
round_consume(void)
{
	int wanted = applier ? applier_wants(applier) : INT_MAX;
	int staged;
	bool more;

	do
	{
		more = consumer_run(consumer, wanted, &staged);
		wanted -= staged;
	} while (applier && wanted > 0 && staged > 0);
	return more;
}

/* Do a bounded amount of work; whether there is more to do at once. */
static bool
round_work(void)
{
	bool more = false;
	bool was_changed;

	AcceptInvalidationMessages();
	if (watch_stale)
		worker_follow_definition();
	was_changed = worker_definition_changed;
	worker_definition_changed = false;
	round_open_duties();
	if (was_changed && consumer)
		consumer_reload(consumer);
	if (was_changed && applier)
		applier_reload(applier);

	MemoryContextSwitchTo(round_context);
	/* looking for a broker takes seconds: what needs none comes first; and while
	 * what is staged can't be applied, nothing is added to it */
	if (applier && consumer && (failures > 0 || !consumer_is_connected(consumer)))
		more |= applier_run(applier);
	if (consumer)
		more |= round_consume();
	if (applier)
		more |= applier_run(applier);
	return more || watch_stale;
}

/* One round, with whatever error ends it; whether there is more to do. */
static bool
round_run(void)
{
	ErrorData *volatile error = NULL;
	volatile bool more = false;
	ErrorContextCallback callback = {.callback = round_error_context,
									 .previous = error_context_stack};

	error_context_stack = &callback;
	PG_TRY();
	{
		MemoryContextSwitchTo(round_context);
		round_answer_interrupts();
		more = round_work();
		session_undo();
	}
	PG_CATCH();
	{
		error = round_take_error();
	}
	PG_END_TRY();
	error_context_stack = callback.previous;

	if (error)
	{
		round_failed(error);
		return true;
	}
	round_succeeded();
	return more;
}

/* Wait until the latch is set, Kafka has something, a duty has a date, or
 * statistics that were sent too recently may be sent again. */
static void
round_wait(long flush_ms)
{
	WaitEventSet *set = NULL;
	long wait_ms = flush_ms > 0 ? Min(flush_ms, IDLE_WAIT_MS) : IDLE_WAIT_MS;

	if (applier)
		wait_ms = Min(wait_ms, applier_wait_ms(applier));
	if (consumer)
	{
		wait_ms = Min(wait_ms, consumer_wait_ms(consumer));
		set = consumer_wait_events(consumer);
	}
	if (round_wait_for(set, Max(wait_ms, 0)))
		keeps_memory = true;
	else if (keeps_memory && wait_ms >= RELEASE_WAIT_MS)
	{
		malloc_release();
		keeps_memory = false;
	}
}

/*
 * The loop of an applier or a consumer, until the process exits.
 */
void
round_loop(void)
{
	round_context = AllocSetContextCreate(TopMemoryContext, "detect round", ALLOCSET_DEFAULT_SIZES);
	consumer_context =
		AllocSetContextCreate(TopMemoryContext, "detect consumer", ALLOCSET_DEFAULT_SIZES);
	applier_context =
		AllocSetContextCreate(TopMemoryContext, "detect applier", ALLOCSET_DEFAULT_SIZES);
	malloc_keep();
	for (;;)
	{
		bool more = round_run();
		long flush_ms = pgstat_report_stat(false);

		MemoryContextReset(round_context);
		if (!more)
			round_wait(flush_ms);
	}
}
