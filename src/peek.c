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

/* At least so many more are looked at where offsets turn out to be no messages. */
#define OFFSETS_AT_ONCE 1000

PG_FUNCTION_INFO_V1(detect_peek);

/* All of a topic: a range for each of its partitions. */
static KafkaRange *
whole_topic(KafkaClient *client, const char *topic, TimestampTz deadline, int *nranges)
{
	KafkaRange *ranges = kafka_topic_ranges(client, topic, deadline, nranges);

	if (*nranges == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("topic \"%s\" does not exist", topic),
				 errhint("Check its name: topics are never created from here.")));
	return ranges;
}

/* The parts of ranges that hold count offsets together, at their ends or their
 * beginnings; short partitions leave their share to the others.  What is left
 * stays in ranges. */
static KafkaRange *
cut_ranges(KafkaRange *ranges, int nranges, int64 count, bool newest)
{
	KafkaRange *parts = palloc(nranges * sizeof(KafkaRange));
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
		parts[i] = ranges[i];
		if (newest)
			ranges[i].to = parts[i].from = ranges[i].to - taken[i];
		else
			ranges[i].from = parts[i].to = ranges[i].from + taken[i];
	}
	pfree(taken);
	return parts;
}

static bool
any_left(const KafkaRange *ranges, int nranges)
{
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].from < ranges[i].to)
			return true;
	}
	return false;
}

/* Read until there are count messages: an offset may be none. */
static void
read_messages(KafkaClient *client, KafkaRange *ranges, int nranges, int count, bool newest,
			  TimestampTz deadline, KafkaMessages *messages)
{
	int64 offsets = count;

	while (list_length(messages->list) < count && any_left(ranges, nranges))
	{
		kafka_read_ranges(client, cut_ranges(ranges, nranges, offsets, newest), nranges, deadline,
						  kafka_keep_message, messages);
		offsets = Max(2 * offsets, OFFSETS_AT_ONCE);
	}
}

/* Which place a message has among those of its partition, from the end or from
 * the beginning. */
typedef struct Place
{
	KafkaMessage *message;
	int place;
} Place;

static int
compare_places(const void *a, const void *b)
{
	const Place *left = a;
	const Place *right = b;

	if (left->place != right->place)
		return left->place < right->place ? -1 : 1;
	return left->message->partition < right->message->partition ? -1 : 1;
}

/* Of messages in order, the count ones that are nearest to an end. */
static List *
keep_nearest(List *messages, int count, bool newest)
{
	int n = list_length(messages);
	Place *places = palloc(Max(n, 1) * sizeof(Place));
	List *kept = NIL;

	for (int i = 0; i < n; i++)
	{
		KafkaMessage *message = list_nth(messages, newest ? n - 1 - i : i);
		bool follows = i > 0 && places[i - 1].message->partition == message->partition;

		places[i].message = message;
		places[i].place = follows ? places[i - 1].place + 1 : 0;
	}
	qsort(places, n, sizeof(Place), compare_places);
	for (int i = 0; i < Min(n, count); i++)
		kept = lappend(kept, places[i].message);
	list_sort(kept, kafka_compare_messages);
	return kept;
}

/*
 * So many messages of a topic, the newest or the first of each partition, as a
 * List of KafkaMessage by partition and offset.
 */
List *
peek_messages(Oid server, const char *topic, int count, bool newest, TimestampTz deadline)
{
	KafkaClient *client =
		kafka_open_server(server, GetUserId(), "peek", NULL, CurrentMemoryContext);
	KafkaMessages messages = {.limit_bytes = MAX_PEEK_BYTES};

	PG_TRY();
	{
		int nranges;
		KafkaRange *ranges = whole_topic(client, topic, deadline, &nranges);

		read_messages(client, ranges, nranges, count, newest, deadline, &messages);
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
	list_sort(messages.list, kafka_compare_messages);
	return keep_nearest(messages.list, count, newest);
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

	admin_require("detect.peek");
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
