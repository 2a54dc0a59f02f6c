/*-------------------------------------------------------------------------
 *
 * change_commit.c
 *	  Which locators have changes that others may see and have not been told of.
 *
 * A commit first shows what it has written and then sends its invalidations.  A
 * snapshot that is taken between the two sees the changes of places, and nothing
 * has told of them.  So who has changed places says so in shared memory before he
 * commits, and takes it back when his invalidations are sent: while he does, places
 * in memory are stale.  Who looks does so first and absorbs invalidations then, so
 * that a commit that is over by the first has told by the second.
 *
 * A standby that replays a commit, and who commits a prepared transaction, say
 * nothing: where that may happen, only places read under a snapshot are those of
 * the snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/twophase.h"
#include "access/xlog.h"
#include "utils/resowner.h"

StaticAssertDecl(PLACE_COMMITS <= 64, "a set of counters does not fit into 64 bits");

/* Sets of counters, a bit for each. */
static uint64 changed = 0;	 /* of locators that this transaction has changed */
static uint64 announced = 0; /* that this process has raised */

/* The counter of a locator, which it shares with others, of any database. */
static inline int
counter_of(Oid view)
{
	return view % PLACE_COMMITS;
}

/* Raise or lower a set of counters. */
static void
count(uint64 counters, int32 add)
{
	for (int i = 0; i < PLACE_COMMITS; i++)
	{
		if (counters & (UINT64CONST(1) << i))
			pg_atomic_fetch_add_u32(&detect_shared->place_commits[i], add);
	}
}

/* Resource release callback: locks of the transaction go after its invalidations. */
static void
take_back(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (announced == 0 || phase != RESOURCE_RELEASE_LOCKS || !is_top_level)
		return;
	count(announced, -1);
	announced = 0;
}

/*
 * Begin to listen for the end of transactions.
 */
void
change_commit_watch(void)
{
	RegisterResourceReleaseCallback(take_back, NULL);
}

/*
 * This transaction has changed places of a locator.
 */
void
change_commit_note(Oid view)
{
	changed |= UINT64CONST(1) << counter_of(view);
}

/*
 * This transaction is about to commit.
 */
void
change_commit_begin(void)
{
	if (detect_shared == NULL)
		return;
	announced = changed;
	count(announced, 1);
}

/*
 * This transaction is over.
 */
void
change_commit_forget(void)
{
	changed = 0;
}

/*
 * Whether somebody commits changes of a locator's places.  The caller has a
 * snapshot, and absorbs invalidations afterwards.
 */
bool
change_commit_is_under_way(Oid view)
{
	bool result = detect_shared != NULL &&
				  pg_atomic_read_u32(&detect_shared->place_commits[counter_of(view)]) > 0;

	pg_read_barrier();
	return result;
}

/*
 * Whether every commit is announced.
 */
bool
change_commit_is_always_announced(void)
{
	return detect_shared != NULL && max_prepared_xacts == 0 && !RecoveryInProgress();
}
