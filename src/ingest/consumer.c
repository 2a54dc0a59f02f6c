/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  Kafka to staging table: poll, decode, stage.
 *
 * One round takes what the library has fetched, decodes it, and commits rows
 * and staged progress together.  Until that commit the messages stay in the
 * consumer's hands: a round that fails is tried again with the same messages,
 * without asking Kafka.  No transaction is open while it waits or talks to a
 * broker.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "fault_point.h"
#include "ingest/consumer.h"
#include "ingest/consumer_internal.h"
#include "ingest/stream_decoder.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A broker answers nothing while it holds an empty fetch: it is asked for new
 * partitions when nothing has come, or after so long in a busy stream. */
#define BUSY_MS 10000

/* A consumer beside the applier stops here, at 256 MB, until the table is emptied;
 * then the applier waits for it, so that should not be often. */
#define STAGED_BLOCKS_LIMIT 32768
#define APPLIER_WAIT_MS		50
#define EMPTYING_MS			3000

/* How often partitions are looked at without news from Kafka, and how often while
 * one may wait for an open transaction, have lost messages, or be missing. */
#define IDLE_WAIT_MS  5000
#define WATCH_WAIT_MS 1000

/* Messages that are staged together.  The library keeps some 500 bytes of each
 * beside the message until they are; and an applier may be waiting for the first. */
#define MAX_POLLED 16000

/*
 * The consumer of this number for a stream; it connects when it first runs.
 * It lives in context.
 */
Consumer *
consumer_create(const Stream *stream, int number, MemoryContext context)
{
	Consumer *consumer = MemoryContextAllocZero(context, sizeof(Consumer));
	MemoryContext old_context = MemoryContextSwitchTo(context);

	consumer->stream = stream;
	consumer->number = number;
	consumer->context = context;
	consumer->round_context =
		AllocSetContextCreate(context, "detect round", ALLOCSET_DEFAULT_SIZES);
	consumer->progress_context =
		AllocSetContextCreate(context, "detect progress", ALLOCSET_SMALL_SIZES);
	consumer->max_events = Min(detect_max_batch_rows, MAX_POLLED);
	consumer->events = MemoryContextAllocHuge(context, consumer->max_events * sizeof(KafkaEvent));
	transaction_begin();
	consumer->decoder = stream_message_decoder(stream, context, &consumer->nfields);
	CommitTransactionCommand();
	MemoryContextSwitchTo(old_context);
	return consumer;
}

/*
 * Whether it knows where to read.  Looking for a broker takes seconds.
 */
bool
consumer_is_connected(const Consumer *consumer)
{
	return consumer->is_connected;
}

/*
 * What the worker waits on, its latch among it; NULL when there is nothing else, or
 * when it pays to let more messages arrive.
 */
WaitEventSet *
consumer_wait_events(const Consumer *consumer)
{
	if (!consumer->is_connected || consumer_lingers(consumer, GetCurrentTimestamp()))
		return NULL;
	return kafka_wait_events(consumer->client);
}

/* Whether partitions are to be looked at again soon. */
static bool
watches_any(const Consumer *consumer)
{
	ListCell *cell;

	if (!consumer->is_connected || consumer->has_missing)
		return true;
	foreach(cell, consumer->progresses)
	{
		const Progress *progress = lfirst(cell);

		if (progress->held_up_since != 0 || progress->shrunk_since != 0)
			return true;
	}
	return false;
}

/*
 * How long the worker may wait before it runs the consumer again.
 */
int
consumer_wait_ms(const Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();

	if (consumer_lingers(consumer, now))
		return (consumer->linger_until - now) / 1000 + 1;
	return watches_any(consumer) ? WATCH_WAIT_MS : IDLE_WAIT_MS;
}

/*
 * After an aborted round: nothing but the transaction's memory is lost.
 */
void
consumer_forget(Consumer *consumer)
{
	MemoryContextReset(consumer->round_context);
}

/* ---------------------------------------------------------------------
 * A round
 * ---------------------------------------------------------------------
 */

/* Copies of the progress, to be changed by a round. */
static List *
copy_progresses(List *progresses)
{
	List *copies = NIL;
	ListCell *cell;

	foreach(cell, progresses)
	{
		Progress *copy = palloc(sizeof(Progress));

		*copy = *(Progress *) lfirst(cell);
		copies = lappend(copies, copy);
	}
	return copies;
}

/* Take one thing that Kafka said into the round; how many rows it gives. */
static int
take_event(StageWriter **writer, Consumer *consumer, const KafkaEvent *event, List *progresses)
{
	Progress *progress =
		event->topic ? progress_find(progresses, event->topic, event->partition) : NULL;
	int rows;

	switch (event->kind)
	{
		case KAFKA_MESSAGE:
			if (progress == NULL || progress->paused_reason ||
				event->offset < progress->next_offset)
				return 0; /* delivered again */
			if (*writer == NULL)
				*writer = stage_begin(consumer);
			rows = stage_message(*writer, event, progress);
			if (rows > 0)
				progress->last_offset = event->offset;
			progress->next_offset = event->offset + 1;
			return rows;
		case KAFKA_END_OF_PARTITION:
			if (progress && progress->paused_reason == NULL)
			{
				progress->next_offset = Max(progress->next_offset, event->offset);
				progress->end_offset = Max(progress->end_offset, event->offset);
				progress->eof_offset = event->offset;
			}
			return 0;
		case KAFKA_PARTITION_ERROR:
			if (event->error_kind == KAFKA_ERROR_OFFSET || (progress && progress->paused_reason))
				return 0; /* gap.c has looked at it */
			consumer->is_doubtful |= event->is_missing;
			slot_set_reason(my_slot, event->error);
			return 0;
		case KAFKA_CLIENT_ERROR:
			consumer->is_doubtful = true;
			slot_set_state(my_slot, STREAM_CONNECTING);
			slot_set_reason(my_slot, event->error);
			return 0;
	}
	return 0;
}

/* Write the progress that a round has changed. */
static void
write_progresses(Consumer *consumer, List *progresses)
{
	List *changed = NIL;
	ListCell *before;
	ListCell *after;

	forboth(before, consumer->progresses, after, progresses)
	{
		Progress *progress = lfirst(after);
		Progress *known = lfirst(before);

		int64 end_offset = progress->next_offset;

		/* what ends there may be another topic, while its first message is to come */
		if (progress->paused_reason || progress->expected_fingerprint != NO_FINGERPRINT)
			continue;
		(void) kafka_cached_end(consumer->client, progress->topic, progress->partition,
								&end_offset);
		/* one that goes back is a gap, or will be made good */
		progress->end_offset = Max(progress->end_offset, Max(end_offset, progress->next_offset));
		if (progress->next_offset != known->next_offset ||
			progress->end_offset != known->end_offset)
		{
			if (progress->next_offset != known->next_offset)
				progress->waits_since = progress->held_up_since = 0;
			changed = lappend(changed, progress);
		}
	}
	if (changed != NIL)
		progress_write_staged(consumer->stream, changed);
}

/* After the commit: what is known follows. */
static void
remember_progresses(Consumer *consumer, List *progresses)
{
	ListCell *before;
	ListCell *after;

	forboth(before, consumer->progresses, after, progresses)
	{
		Progress *known = lfirst(before);
		Progress *progress = lfirst(after);

		known->last_offset = progress->last_offset;
		known->next_offset = progress->next_offset;
		known->end_offset = progress->end_offset;
		known->eof_offset = progress->eof_offset;
		known->waits_since = progress->waits_since;
		known->held_up_since = progress->held_up_since;
	}
}

/* Stage what was polled, in one transaction; how many rows, or -1 when the
 * definition has changed and nothing was done. */
static int
stage_round(Consumer *consumer)
{
	StageWriter *writer = NULL;
	List *progresses;
	int rows = 0;
	bool tells_unknown;

	if (!stream_transaction_begin(consumer->stream))
		return -1;
	MemoryContextSwitchTo(consumer->round_context);
	progresses = copy_progresses(consumer->progresses);
	INSTR_TIME_SET_CURRENT(consumer->step_began);
	for (int i = 0; i < consumer->nevents; i++)
	{
		CHECK_FOR_INTERRUPTS();
		rows += take_event(&writer, consumer, &consumer->events[i], progresses);
	}
	if (writer)
		stage_end(writer);
	write_progresses(consumer, progresses);
	FAULT_POINT("after_staged_progress");
	tells_unknown = consumer_tells_unknown(consumer);
	if (tells_unknown)
		consumer_write_unknown(consumer);
	FAULT_POINT("before_staging_commit");
	stream_transaction_commit();
	FAULT_POINT("after_staging_commit");
	if (tells_unknown)
		consumer_forget_unknown(consumer);
	slot_tell_staged(my_slot);
	step_time(STEP_STAGE, &consumer->step_began);
	remember_progresses(consumer, progresses);
	return rows;
}

/* Whether the staging table can be used now.  The applier may be emptying it, which
 * takes a while where the disk is busy and is no error; whoever else has locked it is
 * waited for by staging, which says so. */
static bool
can_use_table(Consumer *consumer, Oid table)
{
	TimestampTz now = GetCurrentTimestamp();

	if (ConditionalLockRelationOid(table, AccessShareLock))
	{
		consumer->locked_out_since = 0;
		return true;
	}
	if (consumer->locked_out_since == 0)
		consumer->locked_out_since = now;
	return time_has_passed(consumer->locked_out_since, now, EMPTYING_MS);
}

/* Whether the applier, of another process, must be waited for: because it is so far
 * behind, or because it empties the table. */
static bool
must_wait_for_applier(Consumer *consumer)
{
	bool must_wait = true;
	Oid table;

	if (consumer->stream->consumers == 0)
		return false;
	if (!stream_transaction_begin(consumer->stream))
		return true;
	table = staging_table_ensure(consumer->stream, consumer->number);
	if (can_use_table(consumer, table))
	{
		Relation rel = table_open(table, AccessShareLock);

		must_wait = staging_blocks(rel) >= STAGED_BLOCKS_LIMIT;
		table_close(rel, NoLock);
	}
	stream_transaction_commit();
	return must_wait;
}

/*
 * One round: connect if need be, poll so many messages at most, stage them.  True
 * when there may be more to do at once.  rows_of_many is how many rows were staged
 * if there were so many messages that there are likely to be more, else 0.
 */
bool
consumer_run(Consumer *consumer, int wanted, int *rows_of_many)
{
	int at_most = Min(wanted, consumer->max_events);
	int rows;
	bool is_cut;

	*rows_of_many = 0;
	MemoryContextReset(consumer->round_context);
	/* what a poll that failed had taken is in nobody's hands: read it again */
	if (consumer->is_polling)
		consumer_look_again(consumer);
	/* also while there is no broker, for however long */
	if (consumer->client && kafka_commit_hangs(consumer->client))
		consumer_disconnect(consumer);
	if (!consumer->is_connected && !consumer_connect(consumer))
		return false;
	if (consumer_lingers(consumer, GetCurrentTimestamp()))
		return false;
	consumer_publish_applied(consumer);
	if (consumer_changes_patience(consumer) || consumer_finds_new_partitions(consumer, BUSY_MS))
		return true;
	if (consumer->nevents == 0)
	{
		if (at_most <= 0)
			return false;
		if (must_wait_for_applier(consumer))
		{
			consumer->linger_until =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), APPLIER_WAIT_MS);
			return false;
		}
		consumer_poll(consumer, at_most);
		consumer_end_lingering(consumer);
	}
	if (consumer_must_look_again(consumer))
	{
		consumer_look_again(consumer);
		return true;
	}
	if (!consumer_find_gaps(consumer))
		return true;
	if (consumer->nevents == 0 && consumer->must_assign)
		consumer_assign(consumer);
	if (consumer_finds_new_partitions(consumer, 0))
		return true;
	if (consumer->nevents == 0)
		return !consumer_flush_unknown(consumer) || !consumer_look_for_transactions(consumer);

	FAULT_POINT("after_poll");
	rows = consumer_has_news(consumer) ? stage_round(consumer) : 0;
	if (rows < 0)
		return true;
	if (!consumer->is_doubtful && consumer_is_answered(consumer))
		consumer_note_running(consumer);
	kafka_release_messages(consumer->client);
	is_cut = consumer->nevents == at_most;
	if (consumer->nevents >= at_most / 4)
		*rows_of_many = rows;
	consumer->nevents = 0;
	if (consumer->must_assign)
		consumer_assign(consumer);
	consumer->has_unpublished |= rows > 0;
	consumer->rounds += rows > 0;
	return !consumer_linger(consumer, rows, is_cut);
}
