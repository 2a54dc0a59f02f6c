/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  The shared slots of streams: who runs, and how it goes.
 *
 * Who writes what, always under detect_shared->lock: a database's probe fills
 * free slots and says what is wanted; the launcher frees slots; a worker
 * claims its entry and gives it back when it exits, before its PGPROC can
 * become another process's.  So a PGPROC found in a slot under the lock, in
 * whatever mode, is alive, and its latch may be set.
 *
 * At most one worker ever holds an entry of a slot: that is what makes the
 * applier the only one of its stream.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include <signal.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* Streams whose appliers are to be woken when this transaction commits; the
 * list lives in TopTransactionContext. */
static List *streams_to_wake = NIL;

/*
 * Bytes of shared memory for all slots.
 */
Size
slot_shmem_bytes(void)
{
	return add_size(offsetof(DetectShared, slots),
					mul_size(detect_max_streams, sizeof(StreamSlot)));
}

/*
 * Initialize new shared memory; the caller then sets the lock.
 */
void
slot_shmem_init(void)
{
	memset(detect_shared, 0, slot_shmem_bytes());
	detect_shared->nslots = detect_max_streams;
}

/*
 * The slot of a stream, or NULL.  The caller holds detect_shared->lock, or is
 * a worker of the stream, whose slot cannot be freed.
 */
StreamSlot *
slot_find(Oid database, int32 stream_id)
{
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot *slot = &detect_shared->slots[i];

		if (slot->in_use && !slot->dropped && slot->database == database &&
			slot->stream_id == stream_id)
			return slot;
	}
	return NULL;
}

/* Counters say what happened since the applier started. */
static void
slot_reset_counters(StreamSlot *slot)
{
	slot->batches = 0;
	slot->elements = 0;
	slot->identities = 0;
	slot->identity_bytes = 0;
	slot->nchores_wanted = 0;
	slot->events_per_second = 0;
	memset(slot->outcomes, 0, sizeof(slot->outcomes));
	memset(&slot->freshness, 0, sizeof(slot->freshness));
}

/*
 * How the stream is doing: as its applier, unless a consumer of it is worse
 * off.  The caller has copied the slot, or holds the lock.
 */
StreamState
slot_state(const StreamSlot *slot)
{
	const WorkerEntry *applier = &slot->workers[DUTY_APPLY];
	StreamState state = applier->state;

	if (slot->wanted && applier->pid == 0)
	{
		/* or the probe before it, which nobody else tells of */
		if (applier->waits_for_slot || detect_shared->no_worker_slot)
			return STREAM_WAITING;
		return slot->reason[0] != '\0' ? STREAM_RETRYING : STREAM_STARTING;
	}
	for (int i = DUTY_CONSUME; i < WORKER_ENTRIES; i++)
	{
		StreamState consumer = slot->workers[i].state;

		if (slot->workers[i].pid != 0 && state == STREAM_RUNNING && consumer != STREAM_STOPPED)
			state = consumer;
	}
	return state;
}

/* The state of a worker has changed: note since when the stream runs or does not.  What
 * keeps it from running may change its name meanwhile.  The caller holds the lock. */
static void
slot_note_state(StreamSlot *slot)
{
	bool is_running = slot_state(slot) == STREAM_RUNNING;

	if (slot->is_running == is_running)
		return;
	slot->is_running = is_running;
	slot->state_since = GetCurrentTimestamp();
}

/* Give the claimed entry back, and tell the launcher. */
static void
slot_release(int code, Datum arg)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	my_entry->pid = 0;
	my_entry->proc = NULL;
	my_entry->exited_cleanly = code == 0;
	my_entry->state = STREAM_STOPPED;
	slot_note_state(my_slot);
	LWLockRelease(detect_shared->lock);
	launcher_wake();
}

/*
 * Take the entry of the ordered duty in the ordered slot for this process,
 * until it exits.  NULL when the order is out of date: the slot has changed
 * hands or owner, is not wanted any more, or another worker has the entry.
 */
StreamSlot *
slot_claim(const WorkerOrder *order)
{
	StreamSlot *slot = &detect_shared->slots[order->slot];
	WorkerEntry *entry = &slot->workers[order->entry];
	bool claimed = false;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	if (slot->in_use && slot->generation == order->generation && slot->wanted &&
		slot->owner == order->owner && entry->pid == 0)
	{
		claimed = true;
		memset(entry, 0, sizeof(WorkerEntry));
		entry->pid = MyProcPid;
		entry->proc = MyProc;
		entry->state = STREAM_STARTING;
		slot_note_state(slot);
		if (order->duty == DUTY_APPLY)
			slot_reset_counters(slot);
	}
	LWLockRelease(detect_shared->lock);
	if (!claimed)
		return NULL;

	my_slot = slot;
	my_entry = entry;
	on_shmem_exit(slot_release, (Datum) 0);
	return slot;
}

/*
 * Say how this worker is doing.  That it runs ends the reason of its last
 * error.
 */
void
slot_set_state(StreamSlot *slot, StreamState state)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	my_entry->state = state;
	slot_note_state(slot);
	if (state == STREAM_RUNNING && slot->reason_entry == my_entry - slot->workers)
		slot->reason[0] = '\0';
	LWLockRelease(detect_shared->lock);
}

/*
 * Say why the worker of an entry does not run, without counting an error.
 */
void
slot_set_entry_reason(StreamSlot *slot, int entry, const char *reason)
{
	int length = pg_mbcliplen(reason, strlen(reason), REASON_BYTES - 1);

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	memcpy(slot->reason, reason, length);
	slot->reason[length] = '\0';
	slot->reason_entry = entry;
	LWLockRelease(detect_shared->lock);
}

/*
 * The same of this worker.
 */
void
slot_set_reason(StreamSlot *slot, const char *reason)
{
	slot_set_entry_reason(slot, my_entry - slot->workers, reason);
}

/*
 * What was said of the worker of an entry is mended.
 */
void
slot_clear_reason(StreamSlot *slot, int entry)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	if (slot->reason_entry == entry)
		slot->reason[0] = '\0';
	LWLockRelease(detect_shared->lock);
}

/*
 * Record an error that leaves the stream in the state it is in.
 */
void
slot_note_error(StreamSlot *slot, int sqlstate, const char *reason)
{
	slot_set_reason(slot, reason);
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->last_sqlstate = sqlstate;
	slot->last_error_at = GetCurrentTimestamp();
	slot->retries++;
	LWLockRelease(detect_shared->lock);
}

/*
 * Record an error after which the worker tries again.  Maintenance and filling that
 * fail do not hold the stream up.
 */
void
slot_record_error(StreamSlot *slot, int sqlstate, const char *reason)
{
	slot_note_error(slot, sqlstate, reason);
	if (!ENTRY_IS_DONE_ONCE(my_entry - slot->workers))
		slot_set_state(slot, STREAM_RETRYING);
}

/*
 * Wake a worker of the slot's stream, if it runs.
 */
void
slot_wake(StreamSlot *slot, int entry)
{
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	if (slot->workers[entry].proc)
		SetLatch(&slot->workers[entry].proc->procLatch);
	LWLockRelease(detect_shared->lock);
}

/*
 * Tell the applier that a consumer has committed staged rows.
 */
void
slot_tell_staged(StreamSlot *slot)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->staged_commits++;
	/* one that stages itself looks next */
	if (slot->workers[DUTY_APPLY].proc && slot->workers[DUTY_APPLY].proc != MyProc)
		SetLatch(&slot->workers[DUTY_APPLY].proc->procLatch);
	LWLockRelease(detect_shared->lock);
}

/* Tell the appliers that this transaction has work for. */
static void
slot_wake_appliers(void)
{
	ListCell *lc;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	foreach(lc, streams_to_wake)
	{
		StreamSlot *slot = slot_find(MyDatabaseId, lfirst_int(lc));

		if (slot == NULL)
			continue;
		slot->sql_commits++;
		if (slot->workers[DUTY_APPLY].proc)
			SetLatch(&slot->workers[DUTY_APPLY].proc->procLatch);
	}
	LWLockRelease(detect_shared->lock);
}

/* The list dies with its transaction. */
static void
slot_at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		streams_to_wake = NIL;
}

/* Called when a commit is visible to others and its invalidations are sent,
 * which is after XACT_EVENT_COMMIT: an applier that is woken earlier may find
 * nothing changed and sleep again. */
static void
slot_at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (streams_to_wake == NIL || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (is_commit)
		slot_wake_appliers();
	streams_to_wake = NIL;
}

/*
 * Wake the stream's applier once the current transaction has committed.  Of an
 * aborted subtransaction nothing is taken back: waking for nothing is cheap.
 */
void
slot_wake_at_commit(int32 stream_id)
{
	static bool registered = false;
	MemoryContext old_context;

	if (detect_shared == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(slot_at_transaction_end, NULL);
		RegisterResourceReleaseCallback(slot_at_release, NULL);
		registered = true;
	}
	old_context = MemoryContextSwitchTo(TopTransactionContext);
	streams_to_wake = list_append_unique_int(streams_to_wake, stream_id);
	MemoryContextSwitchTo(old_context);
}

/*
 * Ask the launcher for a worker that does a duty once; it is told by
 * launcher_wake().
 */
void
slot_want_duty(StreamSlot *slot, WorkerDuty duty)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->duty_wanted[duty] = true;
	LWLockRelease(detect_shared->lock);
}

/*
 * Whether a worker has the entry of a duty now.
 */
bool
slot_has_worker(const StreamSlot *slot, WorkerDuty duty)
{
	bool has_worker;

	LWLockAcquire(detect_shared->lock, LW_SHARED);
	has_worker = slot->workers[duty].pid != 0;
	LWLockRelease(detect_shared->lock);
	return has_worker;
}

/*
 * Say which relations shall get a unique index although they are not past, and
 * which state tables VACUUM is to cut off: as many of the list as there is room
 * for.  Called by the stream's applier.
 */
void
slot_want_chores(StreamSlot *slot, const List *relations)
{
	ListCell *cell;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->nchores_wanted = 0;
	foreach(cell, relations)
	{
		if (slot->nchores_wanted < CHORES_WANTED)
			slot->chores_wanted[slot->nchores_wanted++] = lfirst_oid(cell);
	}
	LWLockRelease(detect_shared->lock);
}

/*
 * Those relations, as OIDs in the current context.
 */
List *
slot_chores_wanted(const StreamSlot *slot)
{
	Oid relations[CHORES_WANTED];
	List *result = NIL;
	int count;

	LWLockAcquire(detect_shared->lock, LW_SHARED);
	count = slot->nchores_wanted;
	memcpy(relations, slot->chores_wanted, sizeof(relations));
	LWLockRelease(detect_shared->lock);
	for (int i = 0; i < count; i++)
		result = lappend_oid(result, relations[i]);
	return result;
}

/*
 * Say whose partitions this worker is about to maintain.
 */
void
slot_begin_maintenance(Oid events_table)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	my_entry->events_table = events_table;
	LWLockRelease(detect_shared->lock);
}

/*
 * End the maintenance of an events table, if it runs, also that of a stream which is
 * dropped by now: whoever is to lock the partitions would wait for it, while it
 * waits for him.  Another run finds what is left.
 */
void
slot_end_maintenance(Oid events_table)
{
	if (detect_shared == NULL)
		return;
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		const StreamSlot *slot = &detect_shared->slots[i];
		const WorkerEntry *entry = &slot->workers[DUTY_MAINTAIN];

		if (entry->pid != 0 && slot->database == MyDatabaseId &&
			entry->events_table == events_table)
			kill(entry->pid, SIGTERM);
	}
	LWLockRelease(detect_shared->lock);
}

/*
 * Cancel what the fill worker of a stream reads, if it runs: nobody who changes the
 * stream shall wait for a chunk.  It is read again later.
 */
void
slot_end_filling(int32 stream_id)
{
	StreamSlot *slot;

	if (detect_shared == NULL)
		return;
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	slot = slot_find(MyDatabaseId, stream_id);
	if (slot != NULL && slot->workers[DUTY_FILL].pid != 0)
		kill(slot->workers[DUTY_FILL].pid, SIGINT);
	LWLockRelease(detect_shared->lock);
}
