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

#include "access/htup_details.h"
#include "access/table.h"
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

/* What the elements of a message may have together of its payload, which each repeats. */
#define MAX_REPEATED_BYTES	 (1024 * 1024 * 1024)
#define SMALL_REPEATED_BYTES (1024 * 1024)

/* Rows on their way into the staging table. */
struct StageWriter
{
	Consumer *consumer;
	Relation rel;
	MemoryContext rows_context; /* of the rows collected so far, and what they were made of */
	bool repeats_payload;		/* a column of each element wants it */
	HeapTuple rows[STAGE_ROWS];
	int nrows;
	Size bytes; /* of these rows */

	/* The row that is being made: the fixed columns, then those of the decoder. */
	Datum *row_values;
	bool *row_nulls;

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
	writer->rows_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect staged rows", ALLOCSET_DEFAULT_SIZES);
	writer->row_values = palloc(RelationGetDescr(writer->rel)->natts * sizeof(Datum));
	writer->row_nulls = palloc(RelationGetDescr(writer->rel)->natts * sizeof(bool));
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
		staging_write(writer->rel, writer->rows, writer->nrows);
	for (int i = 0; i < writer->nrows; i++)
		heap_freetuple(writer->rows[i]);
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

/* Begin a row for an element of the message; what the decoder gives is to be filled
 * in.  Of many elements the first has the payload, which a dead letter keeps,
 * unless each event wants it. */
static void
begin_row(StageWriter *writer, int32 element)
{
	make_room(writer);
	memcpy(writer->row_values, writer->values, sizeof(writer->values));
	memcpy(writer->row_nulls, writer->nulls, sizeof(writer->nulls));
	writer->row_values[STAGED_ELEMENT - 1] = Int32GetDatum(element);
	writer->row_nulls[STAGED_PAYLOAD - 1] |= element > 0 && !writer->repeats_payload;
}

/* The element could not be decoded. */
static void
fill_error(StageWriter *writer, const DecodeError *error)
{
	writer->row_values[STAGED_SQLSTATE - 1] = Int32GetDatum(error->sqlstate);
	writer->row_values[STAGED_REASON - 1] = CStringGetTextDatum(error->reason);
	writer->row_nulls[STAGED_REASON - 1] = false;
	memset(&writer->row_nulls[STAGED_FIXED_COLUMNS], true,
		   writer->consumer->nfields * sizeof(bool));
}

static Size
row_bytes(const StageWriter *writer)
{
	return heap_compute_data_size(RelationGetDescr(writer->rel), writer->row_values,
								  writer->row_nulls);
}

/* The row has all of its values, which can be too many bytes: several columns may
 * have the same part of the payload. */
static void
end_row(StageWriter *writer)
{
	Size limit = FAULT_LIMIT(MAX_ROW_BYTES, SMALL_ROW_BYTES);
	DecodeError error = {ERRCODE_PROGRAM_LIMIT_EXCEEDED, NULL};
	HeapTuple row;

	if (writer->is_large && row_bytes(writer) > limit)
	{
		error.reason = psprintf("payload and columns have %zu bytes together, more than %zu",
								row_bytes(writer), limit);
		fill_error(writer, &error);
	}
	row = heap_form_tuple(RelationGetDescr(writer->rel), writer->row_values, writer->row_nulls);
	if (writer->is_large)
		writer->bytes += row->t_len;
	writer->rows[writer->nrows++] = row;
}

/* Stage a message that is bad as a whole. */
static void
stage_bad_message(StageWriter *writer, const DecodeError *error)
{
	begin_row(writer, writer->consumer->stream->unnest ? ELEMENT_MESSAGE : 0);
	fill_error(writer, error);
	end_row(writer);
}

/* Whether so many elements of a message may have its payload each. */
static bool
may_repeat(const StageWriter *writer, const KafkaEvent *event, int count, DecodeError *error)
{
	Size bytes = (Size) count * event->payload_bytes;

	if (!writer->repeats_payload || bytes <= FAULT_LIMIT(MAX_REPEATED_BYTES, SMALL_REPEATED_BYTES))
		return true;
	error->sqlstate = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	error->reason =
		psprintf("payload of %zu bytes would be in each of %d events", event->payload_bytes, count);
	return false;
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
	if (!decoder_begin_message(decoder, event->payload, event->payload_bytes, &error) ||
		!may_repeat(writer, event, decoder_element_count(decoder), &error))
	{
		stage_bad_message(writer, &error);
		return 1;
	}
	count = decoder_element_count(decoder);
	for (int element = 0; element < count; element++)
	{
		begin_row(writer, element);
		if (!decoder_next_element(decoder, &writer->row_values[STAGED_FIXED_COLUMNS],
								  &writer->row_nulls[STAGED_FIXED_COLUMNS], &error))
			fill_error(writer, &error);
		end_row(writer);
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
