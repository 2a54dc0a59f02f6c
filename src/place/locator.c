/*-------------------------------------------------------------------------
 *
 * locator.c
 *	  The locators that a process knows, and when their places are still right.
 *
 * Places are built once a process and kept across statements and transactions.
 * A statement asks for them when it begins, after all invalidations have been
 * absorbed, and holds on to what it got.  Which places it gets follows from its
 * isolation level:
 *
 * READ COMMITTED: the newest.  They are built, or brought up to date, under a
 * snapshot taken after the mark of staleness was cleared, so that a change that
 * commits meanwhile sets the mark again.  What a transaction has changed itself is
 * in them, because an invalidation of our own is absorbed between two commands, and
 * once more when the transaction, or a part of it, is rolled back.
 *
 * REPEATABLE READ: those too, if everything they were built from was over when
 * the transaction took its snapshot, and what it sees has been told
 * (change_commit.c); else places of its own, built under that snapshot and freed
 * when the transaction ends.  SERIALIZABLE: always its own, because reading them is
 * what PostgreSQL must know of.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/xact.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

static HTAB *locators = NULL;

/*
 * A locator by its view, loaded.  Raises an error when there is none.
 */
Locator *
locator_get(Oid view)
{
	Locator *locator;
	bool found;

	if (locators == NULL)
	{
		HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(Locator)};

		changes_watch();
		locators = hash_create("detect locators", 16, &control, HASH_ELEM | HASH_BLOBS);
	}
	locator = hash_search(locators, &view, HASH_ENTER, &found);
	if (!found)
	{
		memset(locator, 0, sizeof(Locator));
		locator->view = view;
		locator->stats.view = view;
		locator->is_suspect = true;
	}
	if (!locator->is_loaded)
		locator_load(locator);
	return locator;
}

/*
 * All locators that this process knows, as a list of Locator *.
 */
List *
locator_all(void)
{
	List *all = NIL;
	HASH_SEQ_STATUS status;
	Locator *locator;

	if (locators == NULL)
		return NIL;
	hash_seq_init(&status, locators);
	while ((locator = hash_seq_search(&status)) != NULL)
		all = lappend(all, locator);
	return all;
}

/*
 * The places of a locator have changed, if this process knows it.
 */
void
locator_set_stale(Oid view)
{
	Locator *locator = locators ? hash_search(locators, &view, HASH_FIND, NULL) : NULL;

	if (locator)
		locator->is_stale = true;
}

/*
 * How much memory all places of this process may take.
 */
int
locator_memory_kilobytes(void)
{
	return my_slot ? detect_worker_locator_kilobytes : detect_locator_kilobytes;
}

/*
 * How much memory the places of this process take.
 */
Size
locator_bytes(void)
{
	Size bytes = 0;
	HASH_SEQ_STATUS status;
	Locator *locator;

	hash_seq_init(&status, locators);
	while ((locator = hash_seq_search(&status)) != NULL)
	{
		if (locator->places)
			bytes += places_bytes(locator->places);
		if (locator->transaction_places)
			bytes += places_bytes(locator->transaction_places);
	}
	return bytes;
}

static void
forget_places(Places **places)
{
	if (*places)
		places_release(*places);
	*places = NULL;
}

/*
 * Free the places of a transaction that is over, or has made others.
 */
void
locator_end_transaction_places(Locator *locator)
{
	forget_places(&locator->transaction_places);
	forget_places(&locator->statement_places);
}

/*
 * Whether two statements are the same.
 */
bool
locator_is_same_statement(const StatementId *left, const StatementId *right)
{
	return left->curcid == right->curcid && left->xmin == right->xmin &&
		   left->xmax == right->xmax && left->xcnt == right->xcnt &&
		   left->subxcnt == right->subxcnt && left->transaction == right->transaction &&
		   left->user == right->user && left->undone_changes == right->undone_changes;
}

/*
 * Free the places of locators that were dropped; in a transaction.
 */
void
locator_forget_dropped(void)
{
	HASH_SEQ_STATUS status;
	Locator *locator;

	if (locators == NULL)
		return;
	hash_seq_init(&status, locators);
	while ((locator = hash_seq_search(&status)) != NULL)
	{
		if (!locator->is_stale || get_rel_name(locator->view) != NULL)
			continue;
		forget_places(&locator->places);
		if (locator->plan)
			SPI_freeplan(locator->plan);
		locator->plan = NULL;
	}
}

/* Do places answer for the current user, and are they young enough? */
static bool
is_usable(const Locator *locator, const Places *places)
{
	if (places == NULL || (OidIsValid(places->only_for) && places->only_for != GetUserId()))
		return false;
	return locator->max_age_us < 0 ||
		   GetCurrentTimestamp() - places->built_at <= locator->max_age_us;
}

/* Count that places were built or updated. */
static void
count_build(Locator *locator, Places *places, int64 *builds, instr_time begin)
{
	(*builds)++;
	locator->stats.build_ms += elapsed_ms(begin);
	locator->stats.built_at = places->built_at = GetCurrentTimestamp();
}

/* Build places under a snapshot; NULL when they exceed the memory, which is
 * remembered until they change or the setting does. */
static Places *
build(Locator *locator, Snapshot snapshot)
{
	instr_time begin;
	Places *places;

	if (locator->too_large && locator->too_large_kilobytes == locator_memory_kilobytes())
		return NULL;
	INSTR_TIME_SET_CURRENT(begin);
	places = places_build(locator, snapshot);
	locator->too_large = places == NULL && !locator->has_row_security;
	locator->too_large_kilobytes = locator_memory_kilobytes();
	if (places == NULL)
		return NULL;

	/* What others see through a view or a foreign table may differ. */
	if (locator->relkind == RELKIND_VIEW || locator->relkind == RELKIND_FOREIGN_TABLE)
		places->only_for = GetUserId();
	count_build(locator, places, &locator->stats.builds, begin);
	return places;
}

/* Bring places up to a snapshot; false when that can't be done, or is not worth
 * while: then they have been let go of. */
static bool
update(Locator *locator, Places *places, Snapshot snapshot)
{
	instr_time begin;

	if (places->references > 1 || places->versions == NULL)
	{
		places_release(places);
		return false;
	}
	INSTR_TIME_SET_CURRENT(begin);
	if (!places_update(locator, places, snapshot))
		return false;
	count_build(locator, places, &locator->stats.partial_builds, begin);
	return true;
}

/*
 * The newest snapshot that can be had: a transaction that keeps its snapshot can't
 * take another one while a plan of it runs in parallel.
 */
Snapshot
locator_newest_snapshot(void)
{
	return IsolationUsesXactSnapshot() && !IsInParallelMode() ? GetLatestSnapshot()
															  : GetTransactionSnapshot();
}

/* The newest places, shared by all statements of this process. */
static Places *
newest_places(Locator *locator)
{
	Places *places = locator->places;
	Snapshot snapshot;

	if (!locator->is_stale && is_usable(locator, places))
		return places;
	if (locator->is_stale)
		locator->too_large = false;
	locator->is_stale = false;
	snapshot = locator_newest_snapshot();
	locator->places = NULL; /* nobody else's, until they are right again */
	if (places && update(locator, places, snapshot))
		locator->places = places;
	else
		locator->places = build(locator, snapshot);
	return locator->places;
}

/* The places of a transaction that keeps its snapshot. */
static Places *
kept_places(Locator *locator)
{
	Snapshot snapshot = GetTransactionSnapshot();
	Places *places = locator->transaction_places;

	/* its own first: others may change places as long as it lasts */
	if (places && places->only_in == compat_lxid() && places->own_changes == changes_own() &&
		is_usable(locator, places))
		return places;
	if (!IsolationIsSerializable() && !IsInParallelMode() && change_commit_is_always_announced())
	{
		Places *newest = newest_places(locator);

		if (newest && TransactionIdFollowsOrEquals(snapshot->xmin, newest->horizon))
			return newest;
	}
	forget_places(&locator->transaction_places);
	/* others of the same locator are no reason, and what did not fit does not fit now */
	if (locator->too_large_in != compat_lxid() || locator->too_large_changes != changes_own())
		locator->too_large = false;
	places = build(locator, snapshot);
	if (places == NULL)
	{
		locator->too_large_in = compat_lxid();
		locator->too_large_changes = changes_own();
		return NULL;
	}
	places->only_in = compat_lxid();
	places->own_changes = changes_own();
	locator->transaction_places = places;
	return places;
}

/*
 * Why there are no places in memory, to be shown.
 */
const char *
locator_fallback_text(Fallback fallback)
{
	switch (fallback)
	{
		case FALLBACK_NONE:
			return NULL;
		case FALLBACK_MEMORY:
			return "its places take more than the memory that is set";
		case FALLBACK_ROW_SECURITY:
			return "row security gives each user other places";
		case FALLBACK_TRIGGER:
			return "a trigger of its place table is missing or disabled";
		case FALLBACK_CHILDREN:
			return "its place table has inheritance children";
		case FALLBACK_FOREIGN:
			return "a partition of its place table is a foreign table";
	}
	elog(ERROR, "unknown fallback %d", (int) fallback);
	return NULL; /* keep compiler quiet */
}

/* Say once in a process why a locator is slow. */
static void
tell(Locator *locator, Fallback fallback)
{
	locator->stats.fallback = fallback;
	if (fallback == FALLBACK_NONE || fallback == locator->told)
		return;
	locator->told = fallback;
	ereport(my_slot ? LOG : NOTICE,
			(errmsg("locator \"%s\" answers from its place table: %s", locator->name,
					locator_fallback_text(fallback)),
			 fallback == FALLBACK_MEMORY
				 ? errhint("Raise %s, now %d kB.",
						   my_slot ? "detect.worker_locator_memory" : "detect.locator_memory",
						   locator_memory_kilobytes())
			 : fallback == FALLBACK_TRIGGER
				 ? errhint("ALTER TABLE … ENABLE ALWAYS TRIGGER " PLACE_ROW_TRIGGER
						   ", or drop the locator and create it again.")
				 : errhint("Answers are the same, but slower.")));
}

/*
 * The places that a statement which begins now answers from, or NULL when it
 * must ask PostGIS; that is told once.  Invalidations have been absorbed.  Another call of
 * the same statement gets what the first one got.
 */
Places *
locator_places(Locator *locator, const StatementId *statement)
{
	Fallback fallback;
	Places *places = NULL;

	if (locator->statement_places && locator->statement_changes == changes_own() &&
		locator_is_same_statement(&locator->statement, statement))
		return locator->statement_places;
	/* before others are built: what somebody holds can't be brought up to date */
	forget_places(&locator->statement_places);
	changes_look(locator);
	fallback = locator->table_fallback;
	if (locator->has_row_security ||
		check_enable_rls(locator->place_table, InvalidOid, true) == RLS_ENABLED)
		fallback = FALLBACK_ROW_SECURITY;
	if (fallback == FALLBACK_NONE)
	{
		places = IsolationUsesXactSnapshot() ? kept_places(locator) : newest_places(locator);
		if (places == NULL)
			fallback = locator->has_row_security ? FALLBACK_ROW_SECURITY : FALLBACK_MEMORY;
	}
	else if (locator->is_stale)
		forget_places(&locator->places);
	tell(locator, fallback);
	if (places)
	{
		places_retain(places);
		locator->statement_places = places;
		locator->statement = *statement;
		/* a trigger may have looked under the snapshot that the next statement has, too */
		locator->statement_changes = changes_own();
	}
	return places;
}
