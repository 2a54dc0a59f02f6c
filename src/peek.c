/*-------------------------------------------------------------------------
 *
 * peek.c
 *	  detect.peek: messages of a topic, before anything is defined.
 *
 * Reads in the caller's session, as its user mapping allows, and leaves no
 * trace: nothing is committed to any group.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "ingest/kafka.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#define MAX_PEEK_MESSAGES 100000
#define MAX_PEEK_BYTES	  (256 * 1024 * 1024)
#define PEEK_COLUMNS	  8

PG_FUNCTION_INFO_V1(detect_peek);

static int
remaining_ms(TimestampTz deadline)
{
	return (int) Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline),
					 PG_INT32_MAX);
}

/* All of a topic: a range for each of its partitions. */
static KafkaRange *
whole_topic(KafkaClient *client, const char *topic, TimestampTz deadline, int *nranges)
{
	KafkaRange *ranges;

	*nranges = kafka_partition_count(client, topic, remaining_ms(deadline));
	if (*nranges == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("topic \"%s\" does not exist", topic),
				 errhint("Check its name: topics are never created from here.")));
	ranges = palloc(*nranges * sizeof(KafkaRange));
	for (int i = 0; i < *nranges; i++)
	{
		ranges[i].topic = topic;
		ranges[i].partition = i;
		kafka_query_watermarks(client, topic, i, &ranges[i].from, &ranges[i].to,
							   remaining_ms(deadline));
	}
	return ranges;
}

/* Cut the ranges to count messages together, from their ends or their
 * beginnings; short partitions leave their share to the others. */
static void
cut_ranges(KafkaRange *ranges, int nranges, int64 count, bool newest)
{
	int64 *taken = palloc0(nranges * sizeof(int64));
	int open = nranges;

	while (count > 0 && open > 0)
	{
		int64 share = Max(count / open, 1);

		open = 0;
		for (int i = 0; i < nranges; i++)
		{
			int64 left = ranges[i].to - ranges[i].from - taken[i];
			int64 more = Min(Min(share, left), count);

			taken[i] += more;
			count -= more;
			open += left > more;
		}
	}
	for (int i = 0; i < nranges; i++)
	{
		if (newest)
			ranges[i].from = ranges[i].to - taken[i];
		else
			ranges[i].to = ranges[i].from + taken[i];
	}
	pfree(taken);
}

/*
 * So many messages of a topic, the newest or the first of each partition, as a
 * List of KafkaMessage by partition and offset.
 */
List *
peek_messages(Oid server, const char *topic, int count, bool newest, TimestampTz deadline)
{
	KafkaClient *client = kafka_open_server(server, GetUserId(), "peek", CurrentMemoryContext);
	KafkaMessages messages = {.limit_bytes = MAX_PEEK_BYTES};

	PG_TRY();
	{
		int nranges;
		KafkaRange *ranges = whole_topic(client, topic, deadline, &nranges);

		cut_ranges(ranges, nranges, count, newest);
		kafka_read_ranges(client, ranges, nranges, deadline, kafka_keep_message, &messages);
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
	list_sort(messages.list, kafka_compare_messages);
	return messages.list;
}

/* A payload as text, NULL when it is not valid in the database's encoding. */
static Datum
payload_text(const KafkaMessage *message, bool *isnull)
{
	*isnull = message->payload == NULL || GetDatabaseEncoding() != PG_UTF8 ||
			  !pg_verify_mbstr(PG_UTF8, VARDATA(message->payload),
							   VARSIZE(message->payload) - VARHDRSZ, true);
	return *isnull ? (Datum) 0
				   : PointerGetDatum(cstring_to_text_with_len(
						 VARDATA(message->payload), VARSIZE(message->payload) - VARHDRSZ));
}

static void
emit_message(ReturnSetInfo *result, const KafkaMessage *message)
{
	Datum values[PEEK_COLUMNS] = {0};
	bool nulls[PEEK_COLUMNS] = {0};

	values[0] = CStringGetTextDatum(message->topic);
	values[1] = Int32GetDatum(message->partition);
	values[2] = Int64GetDatum(message->offset);
	values[3] = TimestampTzGetDatum(message->timestamp);
	nulls[3] = TIMESTAMP_IS_NOBEGIN(message->timestamp);
	values[4] = PointerGetDatum(message->key);
	nulls[4] = message->key == NULL;
	nulls[5] = message->headers == NULL;
	if (message->headers)
		values[5] = DirectFunctionCall1(jsonb_in, CStringGetDatum(message->headers));
	values[6] = PointerGetDatum(message->payload);
	nulls[6] = message->payload == NULL;
	values[7] = payload_text(message, &nulls[7]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * detect.peek(server, topic, count, newest, timeout): see README.md.
 */
Datum
detect_peek(PG_FUNCTION_ARGS)
{
	char *server = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int count = PG_GETARG_INT32(2);
	bool newest = PG_GETARG_BOOL(3);
	TimestampTz deadline = DatumGetTimestampTz(DirectFunctionCall2(
		timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(4)));
	ListCell *cell;

	if (count < 1 || count > MAX_PEEK_MESSAGES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("count must be 1 to %d, not %d", MAX_PEEK_MESSAGES, count)));
	if (topic[0] == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the name of a topic must not be empty")));
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell,
			peek_messages(stream_check_server(server, GetUserId()), topic, count, newest, deadline))
		emit_message((ReturnSetInfo *) fcinfo->resultinfo, lfirst(cell));
	return (Datum) 0;
}
