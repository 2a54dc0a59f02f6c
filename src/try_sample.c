/*-------------------------------------------------------------------------
 *
 * try_sample.c
 *	  The messages that detect.try_stream tries: the newest of each topic, made
 *	  into a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier.h"
#include "ingest/kafka.h"
#include "ingest/stream_decoder.h"
#include "miscadmin.h"
#include "stream.h"
#include "try_sample.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Messages on their way into a batch. */
typedef struct Sample
{
	const Stream *stream;
	StagedReader *reader;
	Batch *batch;
	List *progresses; /* of Progress: they only say of which partition */
} Sample;

/*
 * The newest messages of all topics, a List of KafkaMessage.
 */
List *
sample_read(const Stream *stream, int sample)
{
	Oid server = stream_check_server(stream->server, GetUserId());
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAFKA_STATEMENT_TIMEOUT_MS);
	int each = Max(sample / list_length(stream->topics), 1);
	List *messages = NIL;
	ListCell *cell;

	foreach(cell, stream->topics)
		messages = list_concat(messages, peek_messages(server, lfirst(cell), each, true, deadline));
	return messages;
}

/* The progress that stands for a message's partition. */
static Progress *
sample_progress(Sample *sample, const KafkaMessage *message)
{
	Progress *progress = progress_find(sample->progresses, message->topic, message->partition);

	if (progress == NULL)
	{
		progress = palloc0(sizeof(Progress));
		progress->topic = message->topic;
		progress->partition = message->partition;
		sample->progresses = lappend(sample->progresses, progress);
	}
	return progress;
}

/* The columns that all staged rows have, as a consumer would stage them. */
static void
fill_staged(const KafkaMessage *message, Datum *staged, bool *nulls)
{
	memset(nulls, true, STAGED_FIXED_COLUMNS);
	staged[STAGED_OFFSET - 1] = Int64GetDatum(message->offset);
	staged[STAGED_PARTITION - 1] = Int32GetDatum(message->partition);
	staged[STAGED_TIMESTAMP - 1] = TimestampTzGetDatum(message->timestamp);
	staged[STAGED_KEY - 1] = PointerGetDatum(message->key);
	staged[STAGED_PAYLOAD - 1] = PointerGetDatum(message->payload);
	nulls[STAGED_OFFSET - 1] = nulls[STAGED_PARTITION - 1] = false;
	nulls[STAGED_TIMESTAMP - 1] = TIMESTAMP_IS_NOBEGIN(message->timestamp);
	nulls[STAGED_KEY - 1] = message->key == NULL;
	nulls[STAGED_PAYLOAD - 1] = message->payload == NULL;
	nulls[STAGED_HEADERS - 1] = message->headers == NULL;
	if (message->headers)
		staged[STAGED_HEADERS - 1] = CStringGetTextDatum(message->headers);
}

static void
append_element(Sample *sample, const KafkaMessage *message, Datum *staged, bool *nulls,
			   int32 number, const DecodeError *error)
{
	staged[STAGED_ELEMENT - 1] = Int32GetDatum(number);
	staged[STAGED_SQLSTATE - 1] = Int32GetDatum(error ? error->sqlstate : 0);
	if (error)
		staged[STAGED_REASON - 1] = CStringGetTextDatum(error->reason);
	(void) batch_append_staged(sample->reader, sample->batch, sample_progress(sample, message),
							   staged, nulls);
}

/* Add the elements of a message to the batch. */
static void
append_message(Sample *sample, Decoder *decoder, const KafkaMessage *message, Datum *staged,
			   bool *nulls)
{
	const char *payload = message->payload ? VARDATA(message->payload) : NULL;
	size_t payload_bytes = message->payload ? VARSIZE(message->payload) - VARHDRSZ : 0;
	DecodeError error;
	int count;

	fill_staged(message, staged, nulls);
	if (!decoder_begin_message(decoder, payload, payload_bytes, &error))
	{
		append_element(sample, message, staged, nulls, sample->stream->unnest ? ELEMENT_MESSAGE : 0,
					   &error);
		return;
	}
	count = decoder_element_count(decoder);
	for (int i = 0; i < count; i++)
	{
		bool decoded = decoder_next_element(decoder, staged + STAGED_FIXED_COLUMNS,
											nulls + STAGED_FIXED_COLUMNS, &error);

		append_element(sample, message, staged, nulls, i, decoded ? NULL : &error);
	}
}

/*
 * The batch of these messages, decoded as a consumer of the stream would, in the
 * current context.
 */
Batch *
sample_decode(const Stream *stream, StagedReader *reader, List *messages)
{
	Sample sample = {.stream = stream, .reader = reader, .batch = palloc0(sizeof(Batch))};
	int nfields;
	Decoder *decoder = stream_message_decoder(stream, CurrentMemoryContext, &nfields);
	Datum *staged = palloc0((STAGED_FIXED_COLUMNS + nfields) * sizeof(Datum));
	bool *nulls = palloc0((STAGED_FIXED_COLUMNS + nfields) * sizeof(bool));
	ListCell *cell;

	sample.batch->now = GetCurrentTimestamp();
	decoder_begin_batch(decoder);
	foreach(cell, messages)
	{
		CHECK_FOR_INTERRUPTS();
		append_message(&sample, decoder, lfirst(cell), staged, nulls);
	}
	decoder_end_batch(decoder);
	return sample.batch;
}
