/*-------------------------------------------------------------------------
 *
 * stage.c
 *	  Messages become rows of a staging table: one for each element.
 *
 * Rows are collected and handed to the table a thousand at a time, or fewer when
 * they are large.  The decoder may have a subtransaction open, in which nothing
 * may be written: it ends its batch before each flush, and goes on afterwards,
 * in the middle of a message too.
 *
 * A message of many elements has what it says of itself, payload included, in
 * memory once, however many of its rows want it.  What rows point to is freed when
 * they were handed over and another message begins, so that the same memory, which
 * the processor's cache has by then, serves all rows of a round.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "fault_point.h"
#include "ingest/consumer_internal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Rows that are handed to the table at once, and about how many bytes.  These are
 * counted only of messages large enough that rows could be too much together. */
#define STAGE_ROWS			1000
#define STAGE_BYTES			(8 * 1024 * 1024)
#define LARGE_MESSAGE_BYTES (16 * 1024)

/* A row has less than 1 GB, and further ones are made of it. */
#define MAX_ROW_BYTES	(768 * 1024 * 1024)
#define SMALL_ROW_BYTES (160 * 1024) /* under the limits of tests */

/* Rows on their way into the staging table. */
struct StageWriter
{
	Consumer *consumer;
	Relation rel;
	TupleDesc desc;
	BulkInsertState bulk;
	CommandId cid;
	MemoryContext rows_context; /* of what the rows collected so far point to */
	bool repeats_payload;		/* a column of each element wants it */
	int nslots;
	int nrows;
	Size bytes; /* of these rows */
	TupleTableSlot **slots;
	Datum *decoded; /* of the decoder's columns */
	bool *decoded_nulls;

	/* The message that is being taken apart: what each of its rows has. */
	bool is_large;
	Datum values[STAGED_FIXED_COLUMNS];
	bool nulls[STAGED_FIXED_COLUMNS];
};

/*
 * Begin to stage, in a transaction under the stream's lock.
 */
StageWriter *
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
	for (int i = 0; i < consumer->stream->ncolumns; i++)
		writer->repeats_payload |= consumer->stream->columns[i].source == COLUMN_KAFKA_VALUE;
	/* a copy: slots would pin that of the table, each of them */
	writer->desc = CreateTupleDescCopy(RelationGetDescr(writer->rel));
	writer->bulk = GetBulkInsertState();
	writer->cid = GetCurrentCommandId(true);
	writer->rows_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect staged rows", ALLOCSET_DEFAULT_SIZES);
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
	FAULT_POINT("after_decode");
	if (writer->nrows > 0)
		table_multi_insert(writer->rel, writer->slots, writer->nrows, writer->cid,
						   TABLE_INSERT_SKIP_FSM, writer->bulk);
	for (int i = 0; i < writer->nrows; i++)
		ExecClearTuple(writer->slots[i]);
	writer->nrows = 0;
	writer->bytes = 0;
	FAULT_POINT("after_staging_insert");
	step_time(STEP_STAGE, &writer->consumer->step_began);
}

/*
 * Write what is left, and let go of the table.
 */
void
stage_end(StageWriter *writer)
{
	stage_flush(writer);
	FreeBulkInsertState(writer->bulk);
	table_finish_bulk_insert(writer->rel, TABLE_INSERT_SKIP_FSM);
	table_close(writer->rel, NoLock);
}

/* Room for another row: hand over those collected so far if they are enough, and go
 * on in the middle of what is being decoded. */
static void
make_room(StageWriter *writer)
{
	if (writer->nrows < STAGE_ROWS && writer->bytes < STAGE_BYTES)
		return;
	stage_flush(writer);
	decoder_begin_batch(writer->consumer->decoder);
}

static Datum
bytes_datum(const char *bytes, size_t nbytes)
{
	bytea *result = palloc(nbytes + VARHDRSZ);

	SET_VARSIZE(result, nbytes + VARHDRSZ);
	memcpy(VARDATA(result), bytes, nbytes);
	return PointerGetDatum(result);
}

/* Take where a message is, and when it was made. */
static void
take_position(StageWriter *writer, const KafkaEvent *event, const Progress *progress)
{
	Datum *values = writer->values;
	bool *nulls = writer->nulls;
	TimestampTz timestamp;

	memset(nulls, true, sizeof(writer->nulls));
	values[STAGED_OFFSET - 1] = Int64GetDatum(event->offset);
	values[STAGED_PREVIOUS_OFFSET - 1] = Int64GetDatum(progress->last_offset);
	values[STAGED_PARTITION - 1] = Int32GetDatum(event->partition);
	values[STAGED_SQLSTATE - 1] = Int32GetDatum(0);
	values[STAGED_TOPIC - 1] =
		Int16GetDatum(stream_topic_index(writer->consumer->stream, progress->topic));
	for (int i = STAGED_OFFSET; i <= STAGED_TOPIC; i++)
		nulls[i - 1] = i == STAGED_TIMESTAMP;
	nulls[STAGED_TIMESTAMP - 1] = !kafka_event_timestamp(event, &timestamp);
	if (!nulls[STAGED_TIMESTAMP - 1])
		values[STAGED_TIMESTAMP - 1] = TimestampTzGetDatum(timestamp);
	writer->is_large = false;
}

/* Take the bytes of a message, whatever its payload holds. */
static void
take_bytes(StageWriter *writer, const KafkaEvent *event)
{
	Datum *values = writer->values;
	bool *nulls = writer->nulls;
	char *headers = kafka_message_headers(event);

	nulls[STAGED_PAYLOAD - 1] = event->payload == NULL;
	if (event->payload)
		values[STAGED_PAYLOAD - 1] = bytes_datum(event->payload, event->payload_bytes);
	nulls[STAGED_KEY - 1] = event->key == NULL;
	if (event->key)
		values[STAGED_KEY - 1] = bytes_datum(event->key, event->key_bytes);
	nulls[STAGED_HEADERS - 1] = headers == NULL;
	if (headers)
		values[STAGED_HEADERS - 1] = CStringGetTextDatum(headers);
	writer->is_large = event->payload_bytes + event->key_bytes + (headers ? strlen(headers) : 0) >=
					   LARGE_MESSAGE_BYTES;
}

/* A row for an element of the message; what the decoder gives is to be filled
 * in.  Of many elements the first has the payload, which a dead letter keeps,
 * unless each event wants it. */
static TupleTableSlot *
next_row(StageWriter *writer, int32 element)
{
	TupleTableSlot *slot;

	make_room(writer);
	if (writer->nrows == writer->nslots)
	{
		MemoryContext saved_context = MemoryContextSwitchTo(GetMemoryChunkContext(writer));

		writer->slots[writer->nslots++] =
			MakeTupleTableSlot(writer->desc, table_slot_callbacks(writer->rel));
		MemoryContextSwitchTo(saved_context);
	}
	slot = writer->slots[writer->nrows++];
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts);
	memcpy(slot->tts_values, writer->values, sizeof(writer->values));
	memcpy(slot->tts_isnull, writer->nulls, sizeof(writer->nulls));
	slot->tts_values[STAGED_ELEMENT - 1] = Int32GetDatum(element);
	slot->tts_isnull[STAGED_PAYLOAD - 1] |= element > 0 && !writer->repeats_payload;
	return slot;
}

/* What the decoder made of an element, or why nothing. */
static void
fill_decoded(const StageWriter *writer, TupleTableSlot *slot, bool decoded,
			 const DecodeError *error)
{
	if (!decoded)
	{
		slot->tts_values[STAGED_SQLSTATE - 1] = Int32GetDatum(error->sqlstate);
		slot->tts_values[STAGED_REASON - 1] = CStringGetTextDatum(error->reason);
		slot->tts_isnull[STAGED_REASON - 1] = false;
		return;
	}
	memcpy(&slot->tts_values[STAGED_FIXED_COLUMNS], writer->decoded,
		   writer->consumer->nfields * sizeof(Datum));
	memcpy(&slot->tts_isnull[STAGED_FIXED_COLUMNS], writer->decoded_nulls,
		   writer->consumer->nfields * sizeof(bool));
}

static Size
row_bytes(const TupleTableSlot *slot)
{
	return heap_compute_data_size(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
}

/* The row has all of its values, which can be too many bytes: several columns may
 * have the same part of the payload. */
static void
end_row(StageWriter *writer, TupleTableSlot *slot)
{
	Size limit = FAULT_LIMIT(MAX_ROW_BYTES, SMALL_ROW_BYTES);
	DecodeError error = {ERRCODE_PROGRAM_LIMIT_EXCEEDED, NULL};

	if (writer->is_large && row_bytes(slot) > limit)
	{
		error.reason = psprintf("payload and columns have %zu bytes together, more than %zu",
								row_bytes(slot), limit);
		memset(&slot->tts_isnull[STAGED_FIXED_COLUMNS], true,
			   writer->consumer->nfields * sizeof(bool));
		fill_decoded(writer, slot, false, &error);
	}
	if (writer->is_large)
		writer->bytes += row_bytes(slot);
	ExecStoreVirtualTuple(slot);
}

/* Stage a message that is bad as a whole. */
static void
stage_bad_message(StageWriter *writer, const DecodeError *error)
{
	TupleTableSlot *slot = next_row(writer, writer->consumer->stream->unnest ? ELEMENT_MESSAGE : 0);

	fill_decoded(writer, slot, false, error);
	end_row(writer, slot);
}

/* A row for each element of a message; returns how many. */
static int
stage_elements(StageWriter *writer, const KafkaEvent *event, const Progress *progress)
{
	Decoder *decoder = writer->consumer->decoder;
	DecodeError error = {ERRCODE_MESSAGE_TOO_LARGE, kafka_message_excess(event)};
	int count;

	take_position(writer, event, progress);
	if (error.reason != NULL)
	{
		stage_bad_message(writer, &error);
		return 1;
	}
	take_bytes(writer, event);
	if (!decoder_begin_message(decoder, event->payload, event->payload_bytes, &error))
	{
		stage_bad_message(writer, &error);
		return 1;
	}
	count = decoder_element_count(decoder);
	for (int element = 0; element < count; element++)
	{
		TupleTableSlot *slot = next_row(writer, element);
		bool decoded =
			decoder_next_element(decoder, writer->decoded, writer->decoded_nulls, &error);

		fill_decoded(writer, slot, decoded, &error);
		end_row(writer, slot);
	}
	return count;
}

/*
 * Stage a message: a row for each of its elements, decoded or with the reason
 * why not.  Of one that is too large the position is staged.  Returns how many.
 */
int
stage_message(StageWriter *writer, const KafkaEvent *event, const Progress *progress)
{
	MemoryContext saved_context;
	int count;

	make_room(writer);
	if (writer->nrows == 0)
		MemoryContextReset(writer->rows_context);
	saved_context = MemoryContextSwitchTo(writer->rows_context);
	count = stage_elements(writer, event, progress);
	MemoryContextSwitchTo(saved_context);
	return count;
}
