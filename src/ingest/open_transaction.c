/*-------------------------------------------------------------------------
 *
 * open_transaction.c
 *	  Partitions whose next messages belong to a transaction that is open.
 *
 * Of an open transaction nothing is delivered, nor of anything behind it: the
 * partition ends there for us, while its own end lies further on.  Kafka says
 * nothing of that, so the consumer looks for itself while it has nothing else
 * to do.  What is seen twice, a second apart, is no message on its way.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "ingest/consumer_internal.h"
#include "utils/memutils.h"

#define LOOK_MS 1000

/* Whether nothing is delivered though the partition goes on; where it ends. */
static bool
is_held_up(const Consumer *consumer, const Progress *progress, int64 *end_offset)
{
	return progress->eof_offset == progress->next_offset && progress->paused_reason == NULL &&
		   kafka_cached_end(consumer->client, progress->topic, progress->partition, end_offset) &&
		   *end_offset > progress->next_offset;
}

/* Tell of one partition that waits, or has ceased to: Progress to be written,
 * or NULL. */
static Progress *
look_at_partition(const Consumer *consumer, Progress *known, TimestampTz now)
{
	int64 end_offset = known->end_offset;
	bool held_up = is_held_up(consumer, known, &end_offset);
	Progress *progress;

	if (held_up && known->held_up_since == 0)
	{
		known->held_up_since = now;
		return NULL;
	}
	if (!held_up)
		known->held_up_since = 0;
	end_offset = Max(end_offset, known->end_offset);
	if (held_up == (known->waits_since != 0) && end_offset == known->end_offset)
		return NULL;
	progress = palloc(sizeof(Progress));
	*progress = *known;
	progress->waits_since = known->held_up_since;
	progress->end_offset = end_offset;
	return progress;
}

/* After the commit: what is known follows. */
static void
remember(Consumer *consumer, List *changed)
{
	ListCell *cell;

	foreach(cell, changed)
	{
		const Progress *progress = lfirst(cell);
		Progress *known = progress_find(consumer->progresses, progress->topic, progress->partition);

		known->waits_since = progress->waits_since;
		known->end_offset = progress->end_offset;
	}
}

/*
 * Look now and then which partitions wait for an open transaction, and write
 * it down.  False when the definition has changed.
 */
bool
consumer_look_for_transactions(Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();
	List *changed = NIL;
	ListCell *cell;

	if (!time_is_over(consumer->transactions_due, now, LOOK_MS))
		return true;
	consumer->transactions_due = TimestampTzPlusMilliseconds(now, LOOK_MS);
	MemoryContextSwitchTo(consumer->round_context);
	foreach(cell, consumer->progresses)
	{
		Progress *progress = look_at_partition(consumer, lfirst(cell), now);

		if (progress)
			changed = lappend(changed, progress);
	}
	if (changed == NIL)
		return true;
	if (!stream_transaction_begin(consumer->stream))
		return false;
	progress_write_staged(consumer->stream, changed);
	stream_transaction_commit();
	remember(consumer, changed);
	return true;
}
