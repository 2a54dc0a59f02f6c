/*-------------------------------------------------------------------------
 *
 * maintain.c
 *	  Does the chores of partitions that are past: a unique index, and their
 *	  end.
 *
 * Nobody waits for a chore: an index waits for others as long as it takes, a
 * partition's end for about a second, and is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "apply/chore.h"
#include "ingest/worker.h"

/* Lets the applier see at once what can leave its memory. */
static void
tell_applier(const Stream *stream)
{
	chore_begin_reading();
	slot_wake_at_commit(stream->id);
	chore_end_reading();
}

/* Has VACUUM cut off the empty end of a state table.  It takes its time, as
 * autovacuum does, and never makes that give way.  Index entries of the few rows
 * that were there must go, too, or their places stay taken. */
static void
vacuum_states(const char *name)
{
	ErrorData *error;

	SetConfigOption("vacuum_cost_delay", "2ms", PGC_USERSET, PGC_S_SESSION);
	error = chore_run_command(psprintf("VACUUM (INDEX_CLEANUP ON) %s", name),
							  Max(DeadlockTimeout / 2, 1));
	if (error != NULL && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(LOG, (errcode(error->sqlerrcode),
					  errmsg("could not vacuum %s: %s", name, error->message)));
}

/* Does one chore; *may_detach says whether partitions can be detached still. */
static void
do_chore(const Stream *stream, const Chore *chore, bool *may_detach)
{
	char *name = chore_read_relation_name(chore->partition);

	if (name == NULL)
		return;
	switch (chore->kind)
	{
		case CHORE_RETIRE:
		case CHORE_FINISH_DETACH:
			if (*may_detach)
				*may_detach = partition_retire(stream, chore->partition, name,
											   chore->kind == CHORE_FINISH_DETACH);
			break;
		case CHORE_DROP:
			partition_drop(chore->partition, name);
			break;
		case CHORE_UNMARK:
			partition_unmark(name);
			break;
		case CHORE_INDEX:
			partition_build_index(stream, chore->partition, name);
			break;
		case CHORE_VACUUM:
			vacuum_states(name);
			break;
	}
}

/*
 * Does the chores of a stream's partitions; those that fail are reported and
 * do not keep the others from being done.  Exits when the stream has changed
 * or is gone.  Called outside any transaction as the stream's owner; the stream
 * outlives transactions.
 */
void
maintain_run(const Stream *stream)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "detect chores", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool may_detach = true;
	List *chores;
	ListCell *cell;

	chore_begin_reading();
	chores = chore_list(stream, my_slot ? slot_chores_wanted(my_slot) : NIL);
	chore_end_reading();

	chores_begin();
	foreach(cell, chores)
	{
		CHECK_FOR_INTERRUPTS();
		AcceptInvalidationMessages();
		if (watch_stale)
			worker_follow_definition();
		do_chore(stream, lfirst(cell), &may_detach);
	}
	chores_end(stream);
	tell_applier(stream);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
