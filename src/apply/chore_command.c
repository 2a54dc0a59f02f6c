/*-------------------------------------------------------------------------
 *
 * chore_command.c
 *	  Commands that do chores, and what is told of those that fail.
 *
 * CREATE INDEX CONCURRENTLY and DETACH PARTITION CONCURRENTLY commit within,
 * so each runs as a top-level command of a short-lived worker, through a
 * portal like a command of a client.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "apply/chore.h"

/* How often who gives way looks for a deadlock while others wait to look once; each look
 * stops all who lock for a moment. */
#define DEADLOCK_LOOKS	 20
#define LEAST_LOOKING_MS 10

static TimeoutId deadlock_look = MAX_TIMEOUTS; /* registered when it is first needed */
static int failures = 0;					   /* of the present run */
static bool is_told;						   /* the first of them is in the log */

/*
 * Begins a run, of which no chore has failed.
 */
void
chores_begin(void)
{
	failures = 0;
}

/* Runs a command as a client's would be; it may commit within. */
static void
run_through_portal(const char *sql)
{
	RawStmt *statement = linitial_node(RawStmt, pg_parse_query(sql));
	List *queries = pg_analyze_and_rewrite_fixedparams(statement, sql, NULL, 0, NULL);
	List *plans = pg_plan_queries(queries, sql, 0, NULL);
	Portal portal = CreatePortal("", true, true);

	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(statement->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	(void) compat_portal_run(portal);
	PortalDrop(portal, false);
}

/*
 * Begins a transaction and stays in the current context, which outlives it.
 */
void
chore_begin_reading(void)
{
	MemoryContext context = CurrentMemoryContext;

	transaction_begin();
	MemoryContextSwitchTo(context);
}

/*
 * Ends it, in the current context.
 */
void
chore_end_reading(void)
{
	MemoryContext context = CurrentMemoryContext;

	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* Says whether who waits for a lock of this process shall cancel what it does, as he
 * does with autovacuum, once he has waited for deadlock_timeout. */
static void
set_may_be_cancelled(bool may)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	if (may)
		MyProc->statusFlags |= PROC_IS_AUTOVACUUM;
	else
		MyProc->statusFlags &= ~PROC_IS_AUTOVACUUM;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

/*
 * Has this process give way to those who come to want a lock of its.  A build waits for
 * the snapshots of others, for hours perhaps, whatever these do; nobody else shall wait
 * for them because of it.  If they want its lock themselves, that is a deadlock.  There
 * PostgreSQL has each look once, when he has waited for deadlock_timeout, and cancels
 * the one who finds it: that shall hardly ever be a command of a user.  Who had queued
 * before the lock was had does not look again, and waits.
 */
static void
begin_giving_way(void)
{
	int interval_ms = Max(DeadlockTimeout / DEADLOCK_LOOKS, LEAST_LOOKING_MS);

	set_may_be_cancelled(true);
	if (deadlock_look == MAX_TIMEOUTS)
		deadlock_look = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
	enable_timeout_every(deadlock_look,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), interval_ms),
						 interval_ms);
}

/* Ends that. */
static void
end_giving_way(void)
{
	disable_timeout(deadlock_look, false);
	set_may_be_cancelled(false);
	/* a cancel that has come too late has nothing to cancel */
	QueryCancelPending = false;
}

/*
 * Runs a command in transactions of its own, if a condition holds for a relation in
 * the first of them.  Result is NULL, or the error, in the current context, which
 * outlives transactions.  Zero means no lock_timeout: it waits as long as it takes, but
 * not for who waits for it.
 */
ErrorData *
chore_run_command_if(bool (*holds)(Oid relation), Oid relation, const char *sql,
					 int lock_timeout_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	SetConfigOption("lock_timeout", psprintf("%d", lock_timeout_ms), PGC_USERSET, PGC_S_SESSION);
	debug_query_string = sql;
	pgstat_report_activity(STATE_RUNNING, sql);
	if (lock_timeout_ms == 0)
		begin_giving_way();
	PG_TRY();
	{
		transaction_begin();
		MemoryContextSwitchTo(context);
		if (holds == NULL || holds(relation))
			run_through_portal(sql);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	if (lock_timeout_ms == 0)
		end_giving_way();
	MemoryContextSwitchTo(context);
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}

/*
 * Runs a command without a condition.
 */
ErrorData *
chore_run_command(const char *sql, int lock_timeout_ms)
{
	return chore_run_command_if(NULL, InvalidOid, sql, lock_timeout_ms);
}

/*
 * What the user can do about a chore that failed, or NULL.  The caller is in a
 * transaction.
 */
const char *
chore_remedy(const char *partition, const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_UNIQUE_VIOLATION:
			return "Delete all but one of the rows with each of these keys; until then the identities stay in memory.";
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			return psprintf("%s must own the partition and may need CREATE on its schema.",
							quote_identifier(GetUserNameFromId(GetUserId(), false)));
		case ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST:
			return "Drop what depends on it.";
		default:
			return error->hint;
	}
}

/*
 * Whether a chore has only given way to somebody, or was cancelled, and is to be tried
 * again.
 */
bool
chore_gave_way(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		   error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/*
 * Tells of a chore that failed: the first of a run in the log and in the
 * stream's reason, of the others how many.  Giving way is no failure.
 */
void
chore_failed(const char *chore, const char *partition, const ErrorData *error)
{
	char *reason = psprintf("could not %s partition %s: %s", chore, partition, error->message);
	bool gave_way = chore_gave_way(error);
	const char *remedy;
	int left_out;

	if (!gave_way && failures++ > 0)
		return;
	/* names are looked up */
	chore_begin_reading();
	remedy = gave_way ? NULL : chore_remedy(partition, error);
	chore_end_reading();
	is_told = log_is_due(LOG_CHORE, &left_out);
	if (is_told)
		ereport(LOG, (errcode(error->sqlerrcode), errmsg("%s", reason), log_left_out(left_out),
					  remedy ? errhint("%s", remedy) : 0));
	/* the detail may show keys, which belong into no log */
	if (error->detail)
		reason = psprintf("%s: %s", reason, error->detail);
	if (my_slot != NULL && !gave_way)
		slot_record_error(my_slot, error->sqlerrcode,
						  remedy ? psprintf("%s. %s", reason, remedy) : reason);
}

/*
 * Ends a run: tells how many chores failed, or that none does any more.
 */
void
chores_end(const Stream *stream)
{
	if (failures > 1 && is_told)
		ereport(LOG, (errmsg("%d more partitions of stream \"%s\" could not be tended",
							 failures - 1, stream->name)));
	if (failures == 0 && my_slot != NULL)
		slot_clear_reason(my_slot, DUTY_MAINTAIN);
}

/*
 * A relation's name with its schema, quoted; NULL if it is gone.  The caller is
 * in a transaction.
 */
char *
chore_relation_name(Oid relation)
{
	char *name = get_rel_name(relation);

	if (name == NULL)
		return NULL;
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), name);
}

/*
 * The same, in a transaction of its own and the current context.
 */
char *
chore_read_relation_name(Oid relation)
{
	char *name;

	chore_begin_reading();
	name = chore_relation_name(relation);
	chore_end_reading();
	return name;
}
