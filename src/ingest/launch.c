/*-------------------------------------------------------------------------
 *
 * launch.c
 *	  Starts and stops the workers of slots, and owns restart and back-off.
 *
 * A worker never restarts by itself.  How it ended decides: code 0 means that
 * its definition has changed, so it starts again at once, after a probe; any
 * other end counts as a failure and waits, twice as long each time, until a
 * worker has lived for a minute.
 *
 * What is known of running workers is kept in the launcher's own memory; a
 * launcher that is itself restarted finds them by the pids in their slots.
 * Decisions are made on a copy of the slot.  One that is out of date does no
 * harm: a worker that starts needlessly finds its order refused, and a change
 * sets the launcher's latch, so that there is another turn.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include <signal.h>

#include "fault_point.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define GOOD_RUN_MS		  60000 /* a worker that lived so long starts anew */
#define SHORT_RUN_MS	  1000	/* clean exits this soon count as a loop … */
#define SHORT_RUNS_FREE	  4		/* … once there are more than these in a row */
#define UNWANTED_GRACE_MS 10000 /* to exit by itself, before SIGTERM */

/* What the launcher knows of one entry of one slot. */
typedef struct Launch
{
	BackgroundWorkerHandle *handle; /* NULL: not running, or adopted */
	bool running;
	Oid owner; /* whom it runs as */
	TimestampTz started_at;
	TimestampTz unwanted_since; /* 0: it is wanted */
	int failures;				/* in a row */
	TimestampTz due;			/* not to be started before */
} Launch;

static Launch (*launches)[WORKER_ENTRIES]; /* by slot */
static TimestampTz next_due;			   /* when there must be another turn */

/* Whether a worker for this entry is registered or alive, by the handle or, of
 * a worker that an earlier launcher started, by its pid in the slot. */
static bool
launch_is_running(Launch *launch, const StreamSlot *slot, int entry)
{
	pid_t pid;

	if (launch->handle)
	{
		if (GetBackgroundWorkerPid(launch->handle, &pid) != BGWH_STOPPED)
			return true;
		pfree(launch->handle);
		launch->handle = NULL;
	}
	return slot->workers[entry].pid != 0;
}

/* A worker has ended: say so where it could not, and set when the next may
 * start.  A database is probed before, but not after a duty that is done once. */
static void
launch_ended(Launch *launch, int slot_index, int entry, TimestampTz now)
{
	StreamSlot *slot = &detect_shared->slots[slot_index];
	int delay_ms = 0;
	bool clean;
	Oid database;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	clean = slot->workers[entry].exited_cleanly;
	database = slot->database;
	if (!clean && slot->wanted && !ENTRY_IS_DONE_ONCE(entry) && slot->reason[0] == '\0')
	{
		strlcpy(slot->reason, "the worker ended unexpectedly: see the server log", REASON_BYTES);
		slot->reason_entry = entry;
	}
	LWLockRelease(detect_shared->lock);

	if (TimestampDifferenceExceeds(launch->started_at, now, GOOD_RUN_MS) ||
		(clean && TimestampDifferenceExceeds(launch->started_at, now, SHORT_RUN_MS)))
		launch->failures = 0;
	if (!clean)
		delay_ms = launcher_retry_delay_ms(launch->failures);
	else if (launch->failures >= SHORT_RUNS_FREE)
		delay_ms = launcher_retry_delay_ms(launch->failures - SHORT_RUNS_FREE);
	launch->failures++;
	launch->due = TimestampTzPlusMilliseconds(now, delay_ms);
	if (!ENTRY_IS_DONE_ONCE(entry))
		probe_request(database, launch->due);
}

/* Say in a slot whether the server had a worker slot for one of its workers, which may
 * have begun by now. */
static void
launch_note_slot(StreamSlot *slot, const StreamSlot *copy, int entry, bool had_one)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->workers[entry].waits_for_slot = !had_one;
	if (had_one)
		slot->duty_wanted[ENTRY_DUTY(entry)] = false;
	LWLockRelease(detect_shared->lock);

	if (!had_one)
	{
		char reason[REASON_BYTES];

		snprintf(reason, sizeof(reason),
				 "waiting for a worker slot: increase max_worker_processes, now %d",
				 max_worker_processes);
		slot_set_entry_reason(slot, entry, reason);
	}
	else if (copy->workers[entry].waits_for_slot)
		slot_clear_reason(slot, entry);
}

/* Start a worker, if there is one to be had. */
static void
launch_start(Launch *launch, int slot_index, const StreamSlot *copy, int entry, TimestampTz now)
{
	StreamSlot *slot = &detect_shared->slots[slot_index];
	WorkerOrder order = {.duty = ENTRY_DUTY(entry),
						 .entry = entry,
						 .slot = slot_index,
						 .generation = copy->generation,
						 .database = copy->database,
						 .owner = copy->owner,
						 .stream_id = copy->stream_id};

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->workers[entry].exited_cleanly = false;
	LWLockRelease(detect_shared->lock);

	FAULT_POINT("before_worker_start");
	if (!launcher_start(&order, copy->name, &launch->handle))
	{
		launch_note_slot(slot, copy, entry, false);
		launch->due = TimestampTzPlusMilliseconds(now, launcher_retry_delay_ms(launch->failures++));
		return;
	}
	FAULT_POINT("after_worker_start");
	launch_note_slot(slot, copy, entry, true);
	launch->running = true;
	launch->owner = copy->owner;
	launch->started_at = now;
	launch->unwanted_since = 0;
}

/* Let a worker that is not wanted any more exit by itself, which it does as
 * soon as it reads its definition; after a while ask it by signal. */
static void
launch_stop(Launch *launch, int slot_index, int entry, TimestampTz now)
{
	StreamSlot *slot = &detect_shared->slots[slot_index];

	if (launch->unwanted_since == 0)
	{
		launch->unwanted_since = now;
		slot_wake(slot, entry);
	}
	if (!time_has_passed(launch->unwanted_since, now, UNWANTED_GRACE_MS))
	{
		next_due =
			Min(next_due, TimestampTzPlusMilliseconds(launch->unwanted_since, UNWANTED_GRACE_MS));
		return;
	}

	if (launch->handle)
		TerminateBackgroundWorker(launch->handle);
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	if (slot->workers[entry].pid != 0)
		kill(slot->workers[entry].pid, SIGTERM);
	LWLockRelease(detect_shared->lock);
	launch->unwanted_since = now; /* again, should that not help */
}

/* Indexes of one database are built one after another. */
static bool
database_is_in_maintenance(Oid database)
{
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		if (launches[i][DUTY_MAINTAIN].running && detect_shared->slots[i].database == database)
			return true;
	}
	return false;
}

/* Whether the copied slot asks for a worker of this entry. */
static bool
worker_is_wanted(const StreamSlot *copy, int entry)
{
	if (!copy->wanted)
		return false;
	switch (ENTRY_DUTY(entry))
	{
		case DUTY_APPLY:
			return true;
		case DUTY_CONSUME:
			return entry - DUTY_CONSUME < copy->consumers;
		case DUTY_MAINTAIN:
			return copy->duty_wanted[DUTY_MAINTAIN] && !database_is_in_maintenance(copy->database);
		case DUTY_FILL:
			return copy->duty_wanted[DUTY_FILL];
		default:
			return false;
	}
}

/* Start, stop or count the end of one worker of a slot. */
static void
launch_tend(int slot_index, const StreamSlot *copy, int entry, TimestampTz now)
{
	Launch *launch = &launches[slot_index][entry];
	bool was_running = launch->running;
	bool may_stay;

	launch->running = launch_is_running(launch, copy, entry);
	if (was_running && !launch->running)
		launch_ended(launch, slot_index, entry, now);
	if (!was_running && launch->running)
	{
		launch->owner = copy->owner;
		launch->started_at = now;
	}

	if (launch->running)
	{
		may_stay = launch->owner == copy->owner &&
				   (ENTRY_IS_DONE_ONCE(entry) ? !copy->dropped : worker_is_wanted(copy, entry));
		if (may_stay)
			launch->unwanted_since = 0;
		else
			launch_stop(launch, slot_index, entry, now);
		return;
	}
	if (!copy->wanted)
	{
		/* Who pauses and resumes a stream wants to see it start. */
		launch->failures = 0;
		launch->due = 0;
		return;
	}
	if (worker_is_wanted(copy, entry) && launcher_is_due(launch->due, now) &&
		!probe_is_open(copy->database))
		launch_start(launch, slot_index, copy, entry, now);
	if (worker_is_wanted(copy, entry) && launch->due > now)
		next_due = Min(next_due, launch->due);
}

/* Free a slot whose stream is gone and whose workers have ended, perhaps for a
 * stream that has waited for one. */
static void
launch_free_slot(int slot_index)
{
	StreamSlot *slot = &detect_shared->slots[slot_index];

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	slot->in_use = false;
	detect_shared->probe_all |= detect_shared->slots_exhausted;
	detect_shared->slots_exhausted = false;
	LWLockRelease(detect_shared->lock);
	memset(launches[slot_index], 0, sizeof(launches[slot_index]));
}

/*
 * Definitions of a database have changed.  That may be the remedy: what failed
 * there may start at once.
 */
void
launch_forgive(Oid database)
{
	for (int i = 0; launches != NULL && i < detect_shared->nslots; i++)
	{
		if (detect_shared->slots[i].database != database)
			continue;
		for (int entry = DUTY_APPLY; entry < WORKER_ENTRIES; entry++)
		{
			launches[i][entry].failures = 0;
			launches[i][entry].due = 0;
		}
	}
}

/*
 * One turn over all slots, in the launcher.  Returns when there must be
 * another one, unless the latch is set before.
 */
TimestampTz
launch_tend_slots(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (launches == NULL)
		launches =
			MemoryContextAllocZero(TopMemoryContext, detect_shared->nslots * sizeof(*launches));
	next_due = DT_NOEND;
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot copy;
		bool running = false;

		LWLockAcquire(detect_shared->lock, LW_SHARED);
		copy = detect_shared->slots[i];
		LWLockRelease(detect_shared->lock);
		if (!copy.in_use)
			continue;

		for (int entry = DUTY_APPLY; entry < WORKER_ENTRIES; entry++)
		{
			launch_tend(i, &copy, entry, now);
			running |= launches[i][entry].running;
		}
		if (copy.dropped && !running)
			launch_free_slot(i);
	}
	return next_due;
}
