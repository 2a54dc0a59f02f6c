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
#include "catalog/pg_type.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "ingest/consumer.h"
#include "ingest/consumer_internal.h"
#include "ingest/decode.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows that are handed to the table at once. */
#define STAGE_ROWS 1000

/* After a round this small it pays to let more arrive. */
#define SMALL_ROUND_ROWS 500
#define LINGER_MS		 5
#define APPLIER_WAIT_MS	 50

/* A consumer beside the applier stops here until the table is emptied. */
#define STAGED_BLOCKS_LIMIT 8192

#define IDLE_WAIT_MS 1000

/* Rows on their way into the staging table. */
typedef struct StageWriter
{
	Consumer *consumer;
	Relation rel;
	BulkInsertState bulk;
	CommandId cid;
	int nslots;
	int nrows;
	TupleTableSlot **slots;
	Datum *decoded; /* of the decoder's columns */
	bool *decoded_nulls;
} StageWriter;

/*
 * The consumer of this number for a stream; it connects when it first runs.
 * It lives in context.
 */
Consumer *
consumer_create(const Stream *stream, int number, MemoryContext context)
{
	Consumer *consumer = MemoryContextAllocZero(context, sizeof(Consumer));
	MemoryContext old_context = MemoryContextSwitchTo(context);
	DecodeColumn *columns = palloc(Max(stream->ncolumns, 1) * sizeof(DecodeColumn));

	consumer->stream = stream;
	consumer->number = number;
	consumer->context = context;
	consumer->round_context =
		AllocSetContextCreate(context, "detect round", ALLOCSET_DEFAULT_SIZES);
	consumer->max_events = Max(detect_max_batch_rows, 1);
	consumer->events = MemoryContextAllocHuge(context, consumer->max_events * sizeof(KafkaEvent));
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (column->source != COLUMN_FIELD)
			continue;
		columns[consumer->nfields].name = column->name;
		columns[consumer->nfields].path = column->path;
		columns[consumer->nfields].type = column->staged_as_text ? TEXTOID : column->type;
		columns[consumer->nfields].typmod = column->staged_as_text ? -1 : column->typmod;
		consumer->nfields++;
	}
	StartTransactionCommand();
	consumer->decoder = decoder_create(columns, consumer->nfields, NULL, context);
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
 * What the worker waits on beside its latch; -1 when nothing is to be waited
 * for, or when it pays to let more messages arrive.
 */
int
consumer_event_fd(const Consumer *consumer)
{
	if (!consumer->is_connected || GetCurrentTimestamp() < consumer->linger_until)
		return -1;
	return kafka_event_fd(consumer->client);
}

/*
 * How long the worker may wait before it runs the consumer again.
 */
int
consumer_wait_ms(const Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < consumer->linger_until)
		return (consumer->linger_until - now) / 1000 + 1;
	return IDLE_WAIT_MS;
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
 * Staging
 * ---------------------------------------------------------------------
 */

static StageWriter *
stage_begin(Consumer *consumer)
{
	StageWriter *writer = palloc0(sizeof(StageWriter));

	writer->consumer = consumer;
	writer->rel =
		table_open(staging_table_ensure(consumer->stream, consumer->number), RowExclusiveLock);
	/* the applier may have thrown away what was staged while we waited */
	if (watch_stale)
		ereport(
			ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not stage messages of stream \"%s\" because its definition is changing",
					consumer->stream->name)));
	writer->bulk = GetBulkInsertState();
	writer->cid = GetCurrentCommandId(true);
	writer->slots = palloc0(STAGE_ROWS * sizeof(TupleTableSlot *));
	writer->decoded = palloc(Max(consumer->nfields, 1) * sizeof(Datum));
	writer->decoded_nulls = palloc(Max(consumer->nfields, 1) * sizeof(bool));
	decoder_begin_batch(consumer->decoder);
	return writer;
}

/* Hand the rows collected so far to the table, behind all others.  The decoder
 * may have a subtransaction open, in which nothing may be written. */
static void
stage_flush(StageWriter *writer)
{
	decoder_end_batch(writer->consumer->decoder);
	step_time(STEP_DECODE, &writer->consumer->step_began);
	if (writer->nrows > 0)
		table_multi_insert(writer->rel, writer->slots, writer->nrows, writer->cid,
						   TABLE_INSERT_SKIP_FSM, writer->bulk);
	for (int i = 0; i < writer->nrows; i++)
		ExecClearTuple(writer->slots[i]);
	writer->nrows = 0;
	step_time(STEP_STAGE, &writer->consumer->step_began);
}

static void
stage_end(StageWriter *writer)
{
	stage_flush(writer);
	for (int i = 0; i < writer->nslots; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	FreeBulkInsertState(writer->bulk);
	table_finish_bulk_insert(writer->rel, TABLE_INSERT_SKIP_FSM);
	table_close(writer->rel, NoLock);
}

static Datum
bytes_datum(const char *bytes, size_t nbytes)
{
	bytea *result = palloc(nbytes + VARHDRSZ);

	SET_VARSIZE(result, nbytes + VARHDRSZ);
	memcpy(VARDATA(result), bytes, nbytes);
	return PointerGetDatum(result);
}

/* kafka_timestamp, false when Kafka has none or it is outside of what
 * PostgreSQL can hold. */
static bool
event_timestamp(const KafkaEvent *event, TimestampTz *result)
{
	int64 epoch_us = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

	if (!event->has_timestamp || event->timestamp_ms < 0 ||
		event->timestamp_ms > (PG_INT64_MAX / 1000))
		return false;
	*result = event->timestamp_ms * 1000 - epoch_us;
	return IS_VALID_TIMESTAMP(*result);
}

/* Set what is known of a message whatever its payload holds. */
static void
stage_fill_message(TupleTableSlot *slot, const KafkaEvent *event, const Progress *progress,
				   int16 topic)
{
	Datum *values = slot->tts_values;
	bool *nulls = slot->tts_isnull;
	TimestampTz timestamp;
	char *headers = kafka_message_headers(event);

	memset(nulls, true, slot->tts_tupleDescriptor->natts);
	values[STAGED_OFFSET - 1] = Int64GetDatum(event->offset);
	values[STAGED_PREVIOUS_OFFSET - 1] = Int64GetDatum(progress->last_offset);
	values[STAGED_PARTITION - 1] = Int32GetDatum(event->partition);
	values[STAGED_ELEMENT - 1] = Int32GetDatum(0);
	values[STAGED_SQLSTATE - 1] = Int32GetDatum(0);
	values[STAGED_TOPIC - 1] = Int16GetDatum(topic);
	for (int i = STAGED_OFFSET; i <= STAGED_TOPIC; i++)
		nulls[i - 1] = i == STAGED_TIMESTAMP;
	if (event_timestamp(event, &timestamp))
	{
		values[STAGED_TIMESTAMP - 1] = TimestampTzGetDatum(timestamp);
		nulls[STAGED_TIMESTAMP - 1] = false;
	}
	if (event->payload)
	{
		values[STAGED_PAYLOAD - 1] = bytes_datum(event->payload, event->payload_bytes);
		nulls[STAGED_PAYLOAD - 1] = false;
	}
	if (event->key)
	{
		values[STAGED_KEY - 1] = bytes_datum(event->key, event->key_bytes);
		nulls[STAGED_KEY - 1] = false;
	}
	if (headers)
	{
		values[STAGED_HEADERS - 1] = CStringGetTextDatum(headers);
		nulls[STAGED_HEADERS - 1] = false;
	}
}

/* Make a staged row of a message, decoded or with the reason why not. */
static void
stage_message(StageWriter *writer, const KafkaEvent *event, const Progress *progress)
{
	Consumer *consumer = writer->consumer;
	TupleTableSlot *slot;
	DecodeError error;

	if (writer->nrows == STAGE_ROWS)
	{
		stage_flush(writer);
		decoder_begin_batch(consumer->decoder);
	}
	if (writer->nrows == writer->nslots)
		writer->slots[writer->nslots++] = table_slot_create(writer->rel, NULL);
	slot = writer->slots[writer->nrows++];
	ExecClearTuple(slot);
	stage_fill_message(slot, event, progress,
					   stream_topic_index(consumer->stream, progress->topic));
	if (decoder_begin_message(consumer->decoder, event->payload, event->payload_bytes, &error) &&
		decoder_next_element(consumer->decoder, writer->decoded, writer->decoded_nulls, &error))
	{
		for (int i = 0; i < consumer->nfields; i++)
		{
			slot->tts_values[STAGED_FIXED_COLUMNS + i] = writer->decoded[i];
			slot->tts_isnull[STAGED_FIXED_COLUMNS + i] = writer->decoded_nulls[i];
		}
	}
	else
	{
		slot->tts_values[STAGED_SQLSTATE - 1] = Int32GetDatum(error.sqlstate);
		slot->tts_values[STAGED_REASON - 1] = CStringGetTextDatum(error.reason);
		slot->tts_isnull[STAGED_REASON - 1] = false;
	}
	ExecStoreVirtualTuple(slot);
}

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

/* Take one thing that Kafka said into the round; true if it is a row. */
static bool
take_event(StageWriter **writer, Consumer *consumer, const KafkaEvent *event, List *progresses)
{
	Progress *progress =
		event->topic ? progress_find(progresses, event->topic, event->partition) : NULL;

	switch (event->kind)
	{
		case KAFKA_MESSAGE:
			if (progress == NULL || event->offset < progress->next_offset)
				return false; /* delivered again */
			if (*writer == NULL)
				*writer = stage_begin(consumer);
			stage_message(*writer, event, progress);
			progress->last_offset = event->offset;
			progress->next_offset = event->offset + 1;
			return true;
		case KAFKA_END_OF_PARTITION:
			if (progress)
			{
				progress->next_offset = Max(progress->next_offset, event->offset);
				progress->end_offset = event->offset;
			}
			return false;
		case KAFKA_PARTITION_ERROR:
			if (progress && progress->paused_reason)
				return false; /* said already */
			if (progress && event->error_kind == KAFKA_ERROR_OFFSET)
				progress->paused_reason = psprintf("offset %lld is not in the topic any more: %s",
												   (long long) progress->next_offset, event->error);
			else
				slot_set_reason(my_slot, event->error);
			return false;
		case KAFKA_CLIENT_ERROR:
			slot_set_state(my_slot, STREAM_CONNECTING);
			slot_set_reason(my_slot, event->error);
			return false;
	}
	return false;
}

/* Write the progress that a round has changed. */
static void
write_progresses(Consumer *consumer, List *progresses)
{
	ListCell *before;
	ListCell *after;

	forboth(before, consumer->progresses, after, progresses)
	{
		Progress *progress = lfirst(after);
		Progress *known = lfirst(before);

		(void) kafka_cached_end(consumer->client, progress->topic, progress->partition,
								&progress->end_offset);
		progress->end_offset = Max(progress->end_offset, progress->next_offset);
		if (progress->next_offset != known->next_offset ||
			progress->end_offset != known->end_offset ||
			(progress->paused_reason && known->paused_reason == NULL))
			progress_write_staged(consumer->stream, progress);
	}
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

		if (progress->paused_reason && known->paused_reason == NULL)
			known->paused_reason = MemoryContextStrdup(consumer->context, progress->paused_reason);
		known->last_offset = progress->last_offset;
		known->next_offset = progress->next_offset;
		known->end_offset = progress->end_offset;
	}
}

/* Whether what was polled changes anything that is kept. */
static bool
round_changes_anything(Consumer *consumer)
{
	for (int i = 0; i < consumer->nevents; i++)
	{
		const KafkaEvent *event = &consumer->events[i];
		Progress *progress;

		if (event->kind != KAFKA_END_OF_PARTITION)
			return true;
		progress = progress_find(consumer->progresses, event->topic, event->partition);
		if (progress &&
			(event->offset > progress->next_offset || event->offset != progress->end_offset))
			return true;
	}
	return false;
}

/* Whether the last thing that was polled is a message or the end of a
 * partition: whatever was wrong before is over. */
static bool
broker_has_answered(const Consumer *consumer)
{
	KafkaEventKind kind = consumer->events[consumer->nevents - 1].kind;

	return kind == KAFKA_MESSAGE || kind == KAFKA_END_OF_PARTITION;
}

/* Stage what was polled, in one transaction; how many rows, or -1 when the
 * definition has changed and nothing was done. */
static int
stage_round(Consumer *consumer)
{
	StageWriter *writer = NULL;
	List *progresses;
	int rows = 0;

	if (!stream_transaction_begin(consumer->stream))
		return -1;
	MemoryContextSwitchTo(consumer->round_context);
	progresses = copy_progresses(consumer->progresses);
	INSTR_TIME_SET_CURRENT(consumer->step_began);
	for (int i = 0; i < consumer->nevents; i++)
		rows += take_event(&writer, consumer, &consumer->events[i], progresses);
	if (writer)
		stage_end(writer);
	write_progresses(consumer, progresses);
	stream_transaction_commit();
	slot_tell_staged(my_slot);
	step_time(STEP_STAGE, &consumer->step_began);
	remember_progresses(consumer, progresses);
	return rows;
}

/* Whether the applier is so far behind that it must be waited for. */
static bool
must_wait_for_applier(Consumer *consumer)
{
	Relation rel;
	BlockNumber blocks;

	if (consumer->stream->consumers == 0)
		return false;
	if (!stream_transaction_begin(consumer->stream))
		return true;
	rel = table_open(staging_table_ensure(consumer->stream, consumer->number), AccessShareLock);
	blocks = staging_blocks(rel);
	table_close(rel, AccessShareLock);
	stream_transaction_commit();
	return blocks >= STAGED_BLOCKS_LIMIT;
}

/*
 * One round: connect if need be, poll, stage.  True when there may be more to
 * do at once.
 */
bool
consumer_run(Consumer *consumer)
{
	instr_time since;
	int rows;

	MemoryContextReset(consumer->round_context);
	if (!consumer->is_connected && !consumer_connect(consumer))
		return false;
	if (GetCurrentTimestamp() < consumer->linger_until)
		return false;
	consumer_publish_applied(consumer);
	if (consumer_finds_new_partitions(consumer))
		return true;
	if (consumer->nevents == 0)
	{
		if (must_wait_for_applier(consumer))
		{
			consumer->linger_until =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), APPLIER_WAIT_MS);
			return false;
		}
		INSTR_TIME_SET_CURRENT(since);
		consumer->nevents = kafka_poll(consumer->client, consumer->events, consumer->max_events);
		step_time(STEP_FETCH, &since);
	}
	if (consumer->nevents == 0)
		return false;

	rows = round_changes_anything(consumer) ? stage_round(consumer) : 0;
	if (rows < 0)
		return true;
	if (broker_has_answered(consumer))
		consumer_note_running(consumer);
	kafka_release_messages(consumer->client);
	consumer->nevents = 0;
	consumer->has_unpublished |= rows > 0;
	if (rows < SMALL_ROUND_ROWS)
		consumer->linger_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LINGER_MS);
	return rows >= SMALL_ROUND_ROWS;
}
