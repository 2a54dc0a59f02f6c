/*-------------------------------------------------------------------------
 *
 * kafka_read.c
 *	  A bounded set of messages, read once: for peek, try and retry.
 *
 * Unlike a consumer, whoever reads here waits for the answer, in an ordinary
 * backend: with a timeout, and answering interrupts.  What is to be read is
 * given as offsets; not each of them is a message, because transactions leave
 * records of their own and compaction leaves holes.  The end of a partition
 * tells that nothing more will come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define EVENTS_AT_ONCE 500

/* Offsets so near to one another are read in one go. */
#define RUN_GAP 1000

/* What is being read. */
typedef struct KafkaReading
{
	KafkaClient *client;
	const KafkaRange *ranges;
	int nranges;
	int64 *next;	   /* offset of each range; its end: done */
	bool is_overtaken; /* what was to be read next has been deleted meanwhile */
	TimestampTz deadline;
	KafkaReceiver receive;
	void *argument;
	const char *trouble; /* the last one, NULL if there was none */
} KafkaReading;

/*
 * The first millisecond, as Kafka counts them since 1970, that is not before a
 * time; those are never negative.
 */
int64
kafka_time_ms(TimestampTz time)
{
	int64 epoch_ms = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;

	/* divide first: infinity must not overflow */
	return Max(time / 1000 + (time > 0 && time % 1000 != 0 ? 1 : 0) + epoch_ms, 0);
}

/*
 * When a message was made, as Kafka says; false when it says nothing that
 * PostgreSQL can hold.
 */
bool
kafka_event_timestamp(const KafkaEvent *event, TimestampTz *result)
{
	int64 epoch_us = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

	if (!event->has_timestamp || event->timestamp_ms < 0 ||
		event->timestamp_ms > (PG_INT64_MAX / 1000))
		return false;
	*result = event->timestamp_ms * 1000 - epoch_us;
	return IS_VALID_TIMESTAMP(*result);
}

static bytea *
copy_bytes(const char *bytes, size_t nbytes)
{
	bytea *copy;

	if (bytes == NULL)
		return NULL;
	copy = palloc(nbytes + VARHDRSZ);
	SET_VARSIZE(copy, nbytes + VARHDRSZ);
	memcpy(VARDATA(copy), bytes, nbytes);
	return copy;
}

/* An error for a message that is too large to be kept. */
static void
check_size(const KafkaEvent *event)
{
	const char *excess = kafka_message_excess(event);

	if (excess != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_MESSAGE_TOO_LARGE),
				 errmsg("message at offset %lld of partition %d of topic \"%s\" is too large",
						(long long) event->offset, event->partition, event->topic),
				 errdetail_internal("Its %s.", excess)));
}

/*
 * A copy of a message in the current memory context; an error if it is too large
 * to be kept.
 */
KafkaMessage *
kafka_copy_message(const KafkaEvent *event)
{
	KafkaMessage *message = palloc0(sizeof(KafkaMessage));

	check_size(event);
	message->topic = pstrdup(event->topic);
	message->partition = event->partition;
	message->offset = event->offset;
	if (!kafka_event_timestamp(event, &message->timestamp))
		message->timestamp = DT_NOBEGIN;
	message->payload = copy_bytes(event->payload, event->payload_bytes);
	message->key = copy_bytes(event->key, event->key_bytes);
	message->headers = kafka_message_headers(event);
	return message;
}

/*
 * A receiver that keeps all messages.
 */
void
kafka_keep_message(const KafkaEvent *event, void *messages)
{
	KafkaMessages *kept = messages;
	KafkaMessage *message = kafka_copy_message(event);

	kept->bytes += event->payload_bytes + event->key_bytes +
				   (message->headers ? strlen(message->headers) : 0) + sizeof(KafkaMessage);
	if (kept->bytes > kept->limit_bytes)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("messages of topic \"%s\" take more than %zu MB together",
							   event->topic, kept->limit_bytes / (1024 * 1024)),
						errhint("Ask for fewer messages.")));
	kept->list = lappend(kept->list, message);
}

/*
 * Order of KafkaMessages in a List: topic, partition, offset.
 */
int
kafka_compare_messages(const ListCell *a, const ListCell *b)
{
	const KafkaMessage *left = lfirst(a);
	const KafkaMessage *right = lfirst(b);
	int order = strcmp(left->topic, right->topic);

	if (order != 0)
		return order;
	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	return left->offset < right->offset ? -1 : left->offset > right->offset;
}

/*
 * Open a client with the options of a server and of a user's mapping.
 */
KafkaClient *
kafka_open_server(Oid server, Oid user, const char *client_name, const KafkaFetch *fetch,
				  MemoryContext context)
{
	List *properties = kafka_connection_properties(server, user);
	KafkaProperty *array = palloc(Max(list_length(properties), 1) * sizeof(KafkaProperty));
	ListCell *cell;
	int count = 0;

	foreach(cell, properties)
		array[count++] = *(KafkaProperty *) lfirst(cell);
	return kafka_open(array, count, client_name, fetch, context);
}

/* The range that an event is about, or -1. */
static int
find_range(const KafkaReading *reading, const KafkaEvent *event)
{
	for (int i = 0; event->topic && i < reading->nranges; i++)
	{
		if (reading->ranges[i].partition == event->partition &&
			strcmp(reading->ranges[i].topic, event->topic) == 0)
			return i;
	}
	return -1;
}

static bool
is_done(const KafkaReading *reading, int i)
{
	return reading->next[i] >= reading->ranges[i].to;
}

/* A partition that can't be read: retention may have been faster; anything else
 * may yet become well, or never will. */
static void
take_error(KafkaReading *reading, const KafkaEvent *event, int i)
{
	if (event->error_kind == KAFKA_ERROR_OFFSET && i >= 0)
		reading->is_overtaken = true;
	else if (event->error_kind == KAFKA_ERROR_CONFIGURATION)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
			 errmsg("could not read from Kafka: %s", event->error),
			 errhint(
				 "Check the options of the server and of its user mapping, and what its user may read.")));
	else
		reading->trouble = pstrdup(event->error);
}

static void
take_event(KafkaReading *reading, const KafkaEvent *event)
{
	int i = find_range(reading, event);

	switch (event->kind)
	{
		case KAFKA_MESSAGE:
			if (i < 0 || is_done(reading, i))
				return;
			if (event->offset >= reading->next[i] && event->offset < reading->ranges[i].to)
				reading->receive(event, reading->argument);
			reading->next[i] = Max(reading->next[i], event->offset + 1);
			return;
		case KAFKA_END_OF_PARTITION:
			if (i >= 0)
				reading->next[i] = reading->ranges[i].to;
			return;
		case KAFKA_PARTITION_ERROR:
		case KAFKA_CLIENT_ERROR:
			take_error(reading, event, i);
			return;
	}
}

static bool
all_done(const KafkaReading *reading)
{
	for (int i = 0; i < reading->nranges; i++)
	{
		if (!is_done(reading, i))
			return false;
	}
	return true;
}

/*
 * Milliseconds until a deadline, 0 when it is past.
 */
int
kafka_remaining_ms(TimestampTz deadline)
{
	return (int) Min(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline),
					 PG_INT32_MAX);
}

/* Have what is left of the ranges fetched, from where the topic still has it. */
static void
fetch_ranges(KafkaReading *reading)
{
	KafkaPosition *positions = palloc(Max(reading->nranges, 1) * sizeof(KafkaPosition));
	int npositions = 0;

	for (int i = 0; i < reading->nranges; i++)
	{
		const KafkaRange *range = &reading->ranges[i];
		int64 low = 0;
		int64 high;

		if (!is_done(reading, i) && reading->is_overtaken)
			kafka_query_watermarks(reading->client, range->topic, range->partition, &low, &high,
								   kafka_remaining_ms(reading->deadline));
		reading->next[i] = Max(reading->next[i], low);
		if (is_done(reading, i))
			continue;
		positions[npositions].topic = range->topic;
		positions[npositions].partition = range->partition;
		positions[npositions++].next_offset = reading->next[i];
	}
	reading->is_overtaken = false;
	kafka_assign(reading->client, positions, npositions);
	pfree(positions);
}

/* Wait until Kafka has something to say; an error when time is up. */
static void
wait_for_events(const KafkaReading *reading)
{
	int wait_ms = kafka_remaining_ms(reading->deadline);
	WaitEvent event;

	if (wait_ms <= 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("Kafka did not deliver topic \"%s\" in time", reading->ranges[0].topic),
			 reading->trouble ? errdetail("%s", reading->trouble) : 0,
			 errhint(
				 "Give it more time, or check that all of its brokers can be reached from the database server.")));
	(void) WaitEventSetWait(kafka_wait_events(reading->client), wait_ms, &event, 1,
							PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Read all messages in the ranges, each of another partition, and hand them to
 * receive, which copies what it keeps.  A partition's messages come in order.
 * An error unless that is done by the deadline.
 */
void
kafka_read_ranges(KafkaClient *client, const KafkaRange *ranges, int nranges, TimestampTz deadline,
				  KafkaReceiver receive, void *argument)
{
	KafkaReading reading = {.client = client,
							.ranges = ranges,
							.nranges = nranges,
							.next = palloc(Max(nranges, 1) * sizeof(int64)),
							.deadline = deadline,
							.receive = receive,
							.argument = argument};
	KafkaEvent *events = palloc(EVENTS_AT_ONCE * sizeof(KafkaEvent));

	for (int i = 0; i < nranges; i++)
		reading.next[i] = ranges[i].from;
	fetch_ranges(&reading);
	while (!all_done(&reading))
	{
		int nevents = kafka_poll(client, events, EVENTS_AT_ONCE);

		for (int i = 0; i < nevents; i++)
			take_event(&reading, &events[i]);
		kafka_release_messages(client);
		if (reading.is_overtaken)
			fetch_ranges(&reading);
		else if (nevents == 0)
			wait_for_events(&reading);
		CHECK_FOR_INTERRUPTS();
	}
	kafka_assign(client, NULL, 0);
	pfree(events);
	pfree(reading.next);
}

/* Positions by topic, partition and offset. */
static int
compare_positions(const void *a, const void *b)
{
	const KafkaPosition *left = a;
	const KafkaPosition *right = b;
	int order = strcmp(left->topic, right->topic);

	if (order != 0)
		return order;
	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	if (left->next_offset != right->next_offset)
		return left->next_offset < right->next_offset ? -1 : 1;
	return 0;
}

/* How many positions, from the first one on, are read in one go. */
static int
run_length(const KafkaPosition *positions, int npositions)
{
	int length = 1;

	while (length < npositions && strcmp(positions[length].topic, positions[0].topic) == 0 &&
		   positions[length].partition == positions[0].partition &&
		   positions[length].next_offset - positions[length - 1].next_offset <= RUN_GAP)
		length++;
	return length;
}

/* The part of a run that the topic still has. */
static KafkaRange
run_range(KafkaClient *client, const KafkaPosition *positions, int length, TimestampTz deadline)
{
	KafkaRange range = {positions[0].topic, positions[0].partition, positions[0].next_offset,
						positions[length - 1].next_offset + 1};
	int64 low;
	int64 high;

	kafka_query_watermarks(client, range.topic, range.partition, &low, &high,
						   kafka_remaining_ms(deadline));
	range.from = Max(range.from, low);
	range.to = Min(range.to, high);
	return range;
}

/* Hands on what was asked for, and not what lies between. */
typedef struct WantedReceiver
{
	const KafkaPosition *positions;
	int npositions;
	KafkaReceiver receive;
	void *argument;
} WantedReceiver;

static void
receive_wanted(const KafkaEvent *event, void *argument)
{
	const WantedReceiver *wanted = argument;
	KafkaPosition position = {event->topic, event->partition, event->offset};

	if (bsearch(&position, wanted->positions, wanted->npositions, sizeof(KafkaPosition),
				compare_positions))
		wanted->receive(event, wanted->argument);
}

/*
 * Read the messages at these positions, which are sorted here.  Those that are
 * gone, or never were messages, are not handed to receive; nobody waits for
 * them.
 */
void
kafka_read_positions(KafkaClient *client, KafkaPosition *positions, int npositions,
					 TimestampTz deadline, KafkaReceiver receive, void *argument)
{
	int length;

	qsort(positions, npositions, sizeof(KafkaPosition), compare_positions);
	for (int i = 0; i < npositions; i += length)
	{
		WantedReceiver wanted = {
			.positions = &positions[i], .receive = receive, .argument = argument};
		KafkaRange range;

		length = run_length(&positions[i], npositions - i);
		wanted.npositions = length;
		range = run_range(client, &positions[i], length, deadline);
		kafka_read_ranges(client, &range, 1, deadline, receive_wanted, &wanted);
	}
}
