/*-------------------------------------------------------------------------
 *
 * upkeep.c
 *	  What an applier does between two batches: fill, expire, compact, empty.
 *
 * Each is a small step in a transaction of its own, so that no batch waits for
 * long, and has a date on which it is looked at again.  What nobody waits for,
 * such as emptying a staging table, is left until nothing is staged.  What takes
 * long or must not hold up the stream is asked of maintenance (tend.c).
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier_internal.h"
#include "fault_point.h"
#include "rollup/rollup.h"

/* A staging table this large is emptied as soon as it is drained, and one that is not
 * small when the stream is idle: PostgreSQL looks through all shared buffers for it. */
#define TRUNCATE_BLOCKS	  2048
#define IDLE_BLOCKS		  FAULT_STAGED(64, 1)
#define IDLE_MS			  1000
#define TRUNCATE_RETRY_MS 20 /* of a large one that was in use */

/* Looking for old groups takes a hundredth of the time at most. */
#define EXPIRE_PAUSE_TIMES 100

#define EXPIRE_AGAIN_MS	 100
#define COMPACT_AGAIN_MS 20
#define HISTORY_CHECK_MS 3600000

/* How many blocks the largest staging table has. */
static BlockNumber
staged_blocks(const Applier *applier)
{
	BlockNumber blocks = 0;

	for (int i = 0; i < applier->nreaders; i++)
		blocks = Max(blocks, staged_reader_blocks(applier->readers[i]));
	return blocks;
}

/* Empty staging tables that are drained and large, or not small if the stream is
 * idle. */
static void
truncate_staging(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool is_idle = TimestampDifferenceExceeds(applier->last_batch_at, now, IDLE_MS);
	BlockNumber at_least = is_idle ? IDLE_BLOCKS : TRUNCATE_BLOCKS;
	bool failed = false;

	if (applier->stream->server == NULL || staged_blocks(applier) < at_least ||
		!time_is_over(applier->truncate_due, now, IDLE_MS))
		return;
	if (!stream_transaction_begin(applier->stream))
		return;
	for (int i = 0; i < applier->nreaders; i++)
	{
		if (staged_reader_blocks(applier->readers[i]) < at_least)
			continue;
		if (staging_truncate(applier->stream, i, at_least))
			staged_reader_rewind(applier->readers[i]);
		else
			failed = true;
	}
	stream_transaction_commit();
	/* a consumer may be waiting for the room */
	if (failed)
		applier->truncate_due =
			TimestampTzPlusMilliseconds(now, is_idle ? IDLE_MS : TRUNCATE_RETRY_MS);
	for (int i = 0; i < applier->nreaders; i++)
		slot_wake(my_slot, DUTY_CONSUME + i);
}

/* Fill one step of the rollups that want it. */
static bool
tend_rollups(Applier *applier)
{
	bool filled;

	if (!applier->may_fill &&
		GetCurrentTimestamp() < rollup_set_due(events_rollups(applier->events)))
		return false;
	if (!stream_transaction_begin(applier->stream))
		return true;
	filled = rollup_set_fill(events_rollups(applier->events));
	stream_transaction_commit();
	applier->may_fill = filled;
	return filled;
}

/* Delete some of the old groups of rollups; true when there may be more. */
static bool
tend_retention(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool are_more;

	if (now < applier->next_expire)
		return false;
	if (!stream_transaction_begin(applier->stream))
		return true;
	are_more = rollup_set_expire(events_rollups(applier->events));
	stream_transaction_commit();
	/* where the bucket does not lead their index, all groups have been read */
	if (!are_more)
		applier->next_expire = Max(TimestampTzPlusMilliseconds(now, MAINTAIN_CHECK_MS),
								   now + (GetCurrentTimestamp() - now) * EXPIRE_PAUSE_TIMES);
	return are_more;
}

/* Move some states of rollups towards the front of their tables, a step at a
 * time, with room for batches between. */
static void
tend_compaction(Applier *applier)
{
	bool are_more;
	bool are_moved;

	if (GetCurrentTimestamp() < applier->next_compaction)
		return;
	if (!stream_transaction_begin(applier->stream))
		return;
	are_more = rollup_set_compact(events_rollups(applier->events));
	are_moved = rollup_states_to_vacuum(events_rollups(applier->events)) != NIL;
	stream_transaction_commit();
	applier->next_compaction = TimestampTzPlusMilliseconds(
		GetCurrentTimestamp(), are_more ? COMPACT_AGAIN_MS : MAINTAIN_CHECK_MS);
	/* what was moved is to be vacuumed */
	if (!are_more && are_moved)
		applier->next_maintain_check = 0;
}

/* Delete dead letters that are older than they are to be kept: some at a time,
 * so that no batch waits for long. */
static void
expire_dead_letters(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool more;

	if (applier->stream->dead_letter_retention == NULL || now < applier->next_expiry)
		return;
	applier->next_expiry = TimestampTzPlusMilliseconds(now, MAINTAIN_CHECK_MS);
	if (!stream_transaction_begin(applier->stream))
		return;
	more = dead_letters_expire(applier->letters);
	stream_transaction_commit();
	dead_letters_commit(applier->letters);
	if (more)
		applier->next_expiry = TimestampTzPlusMilliseconds(now, EXPIRE_AGAIN_MS);
}

/* Forget what was done more than a year ago. */
static void
tend_history(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool more;

	if (now < applier->history_due || !stream_transaction_begin(applier->stream))
		return;
	more = history_forget_old();
	stream_transaction_commit();
	applier->history_due = more ? now : TimestampTzPlusMilliseconds(now, HISTORY_CHECK_MS);
}

/*
 * Do what is due of all that; more: there is more to do for the stream itself at
 * once.  The result says whether there is more to do at once then.
 */
bool
upkeep_run(Applier *applier, bool more)
{
	more |= tend_rollups(applier);
	more |= tend_retention(applier);
	expire_dead_letters(applier);
	/* when all of it is applied, consumers may be waiting for the room, whatever else there
	 * is to do */
	if (!more || (!applier->has_backlog && staged_blocks(applier) >= TRUNCATE_BLOCKS))
		truncate_staging(applier);
	if (!more)
		tend_compaction(applier);
	tend_partitions(applier);
	tend_history(applier);
	return more;
}

/*
 * When something of that is due.
 */
TimestampTz
upkeep_due(const Applier *applier)
{
	TimestampTz due = applier->next_maintain_check;

	if (applier->stream->dead_letter_retention)
		due = Min(due, applier->next_expiry);
	if (applier->is_over_bound)
		due = Min(due, applier->next_bound_check);
	if (!applier->is_loaded)
		return due;
	due = Min(due, Min(rollup_set_due(events_rollups(applier->events)), applier->next_expire));
	due = Min(due, applier->next_compaction);
	if (staged_blocks(applier) >= TRUNCATE_BLOCKS)
		due = Min(due, applier->truncate_due);
	else if (staged_blocks(applier) >= IDLE_BLOCKS)
		due = Min(due, Max(TimestampTzPlusMilliseconds(applier->last_batch_at, IDLE_MS + 1),
						   applier->truncate_due));
	return due;
}
