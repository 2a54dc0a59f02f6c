/*-------------------------------------------------------------------------
 *
 * swap.c
 *	  A new definition of a rollup takes the place of the old one.
 *
 * It has been filled, and has had every batch since (alter.c), so that both
 * are right now, each for its query.  The applier exchanges them between two
 * batches, in one commit: the public view reads the new states, the old ones
 * are dropped, and query, states and row get the rollup's name and number.
 *
 * No reader may see a part of it.  Who has read the view holds a lock on it
 * until his transaction ends, and the exchange waits for him.  Who has not, but
 * has a snapshot from before the new states were complete, would find the new
 * view and see what was in the new states then: so it also waits until no such
 * snapshot is left, as CREATE INDEX CONCURRENTLY does.  Both without holding up
 * batches or other readers for long: it tries, gives up, and comes back.
 *
 * Who waits in detect.wait_for_rollup has such a snapshot too, and does nothing
 * by it until the exchange is over.  A lock tells who that is.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_type.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The longest wait before it is tried again. */
#define SWAP_RETRY_MAX_MS (60 * 1000)

/* An exchange under way. */
typedef struct Swap
{
	const Rollup *rollup; /* the new definition */
	char *name;			  /* of the rollup */
	Oid public_view;	  /* InvalidOid: somebody has dropped it */
	bool waits_for_view;
} Swap;

/* The lock of those who wait for a rollup. */
static LOCKTAG
waiters_lock(int32 rollup_id)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, catalog_relation("_rollup", false), (Oid) rollup_id, 0);
	return tag;
}

/*
 * Let it be known that the caller waits for a rollup, until swap_wait_end() or
 * the end of the transaction.
 */
void
swap_wait_begin(int32 rollup_id)
{
	LOCKTAG tag = waiters_lock(rollup_id);

	(void) LockAcquire(&tag, AccessShareLock, false, false);
}

/*
 * The caller does not wait any more.
 */
void
swap_wait_end(int32 rollup_id)
{
	LOCKTAG tag = waiters_lock(rollup_id);

	LockRelease(&tag, AccessShareLock, false);
}

/* Whether a transaction is one of those that wait. */
static bool
is_waiting(VirtualTransactionId transaction, const VirtualTransactionId *waiting)
{
	for (; VirtualTransactionIdIsValid(*waiting); waiting++)
	{
		if (VirtualTransactionIdEquals(*waiting, transaction))
			return true;
	}
	return false;
}

/*
 * Whether every snapshot in use sees the new states complete.  They are since
 * before our own first snapshot, so that an older one has no later xmin.
 */
static bool
is_seen_by_all(Rollup *rollup)
{
	LOCKTAG tag = waiters_lock(rollup->replaces);
	VirtualTransactionId *old;
	VirtualTransactionId *waiting;
	int count;

	if (!TransactionIdIsValid(rollup->seen_from))
		rollup->seen_from = GetTransactionSnapshot()->xmin;
	old = GetCurrentVirtualXIDs(rollup->seen_from, true, false,
								PROC_IS_AUTOVACUUM | PROC_IN_VACUUM | PROC_IN_SAFE_IC, &count);
	waiting = GetLockConflicts(&tag, AccessExclusiveLock, NULL);
	for (int i = 0; i < count; i++)
	{
		if (!is_waiting(old[i], waiting))
			return false;
	}
	return true;
}

/* Take a lock that nobody but readers of the states and autovacuum contest. */
static void
lock_at_once(Oid relation)
{
	if (!ConditionalLockRelationOid(relation, AccessExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("relation \"%s.%s\" is in use",
						get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation))));
}

/* Lock all that is exchanged: readers lock the view before the states, and it
 * alone is waited for. */
static void
lock_relations(Swap *swap)
{
	lock_at_once(swap->rollup->query_view);
	lock_at_once(swap->rollup->state_table);
	lock_at_once(rollup_query_view(swap->name));
	if (OidIsValid(swap->public_view))
	{
		swap->waits_for_view = true;
		LockRelationOid(swap->public_view, AccessExclusiveLock);
		swap->waits_for_view = false;
	}
	lock_at_once(rollup_state_table(swap->name));
}

/* Have the view read the new states. */
static void
replace_view(const Swap *swap)
{
	const Rollup *rollup = swap->rollup;
	RollupShape *shape;

	if (!OidIsValid(swap->public_view))
		return;
	shape = shape_load(rollup->query_view, rollup->stream->events_table);
	/* somebody may have altered the view meanwhile, or given it to one who does not trust
	 * the owner's functions: it calls them as whoever reads it */
	relation_check_public_view(swap->public_view, shape);
	if (!is_member_of_role_nosuper(relation_owner(swap->public_view, false), GetUserId()) &&
		!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the view of rollup \"%s\" belongs to somebody else by now", swap->name),
				 errhint("Give it back to the owner of the rollup, or a member of his role.")));
	relation_replace_public_view(swap->public_view, shape, rollup->state_table);
}

/* Put the row of the new definition in the place of the old one, whose number,
 * name and age it gets. */
static void
replace_row(const Swap *swap)
{
	static const char *const statements[] = {
		"DELETE FROM detect._missed WHERE rollup_id = $1",
		"DELETE FROM detect._repair WHERE rollup_id = $1",
		"UPDATE detect._repair SET rollup_id = $1 WHERE rollup_id = $2",
		"UPDATE detect._rollup n SET created_at = r.created_at, error = NULL, retry_at = NULL, "
		"attempts = 0 FROM detect._rollup r WHERE r.rollup_id = $1 AND n.rollup_id = $2",
		"DELETE FROM detect._rollup WHERE rollup_id = $1",
		"UPDATE detect._rollup SET rollup_id = $1, name = $3, replaces = NULL WHERE rollup_id = $2"};
	Oid types[3] = {INT4OID, INT4OID, TEXTOID};
	Datum values[3];

	values[0] = Int32GetDatum(swap->rollup->replaces);
	values[1] = Int32GetDatum(swap->rollup->id);
	values[2] = CStringGetTextDatum(swap->name);
	SPI_connect();
	for (int i = 0; i < lengthof(statements); i++)
		catalog_execute(statements[i], 3, types, values, NULL);
	SPI_finish();
}

/* Exchange the two. */
static void
swap_step(void *arg)
{
	Swap *swap = (Swap *) arg;
	const Rollup *rollup = swap->rollup;
	RollupRow old;

	if (!definition_find(swap->name, &old) || old.id != rollup->replaces)
		elog(ERROR, "rollup \"%s\" is not the one to be replaced", swap->name);
	swap->public_view = rollup_view_of(old.public_view, rollup_state_table(swap->name));
	lock_relations(swap);
	FAULT_POINT("before_swap");
	replace_view(swap);
	definition_drop_relations(swap->name);
	relation_rename(rollup->query_view, rollup->state_table, swap->name);
	replace_row(swap);
	FAULT_POINT("after_swap");
}

/* Try again later, and say why. */
static void
postpone(Rollup *rollup, const char *reason)
{
	Oid types[4] = {INT4OID, TEXTOID, TIMESTAMPTZOID, INT4OID};
	Datum values[4];

	rollup->attempts++;
	rollup->retry_at = aside_retry_time(rollup->attempts, SWAP_RETRY_MAX_MS);
	values[0] = Int32GetDatum(rollup->id);
	values[1] = CStringGetTextDatum(reason);
	values[2] = TimestampTzGetDatum(rollup->retry_at);
	values[3] = Int32GetDatum(rollup->attempts);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET error = $2, retry_at = $3, attempts = $4 "
					"WHERE rollup_id = $1",
					4, types, values, NULL);
	SPI_finish();
}

/*
 * Let a new definition that has all events take the place of the old one, if
 * that can be done now.  In a transaction of the caller, under the stream's
 * lock, between two batches; the set is loaded again afterwards.
 */
void
swap_try(Rollup *rollup)
{
	Swap swap = {.rollup = rollup, .name = rollup->name};
	ErrorData *error;

	if (!is_seen_by_all(rollup))
	{
		postpone(rollup, "transactions are open that began before the new query had all events");
		return;
	}
	error = aside_try(swap_step, &swap, true);
	if (error == NULL)
	{
		definition_changed(rollup->stream);
		ereport(LOG, (errmsg("the new query of rollup \"%s\" has taken over", rollup->name)));
	}
	else if (swap.waits_for_view && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		postpone(rollup, psprintf("view \"%s\" is being read", get_rel_name(swap.public_view)));
	else
		postpone(rollup, error->message);
}
