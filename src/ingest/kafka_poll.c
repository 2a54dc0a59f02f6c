/*-------------------------------------------------------------------------
 *
 * kafka_poll.c
 *	  What Kafka has to say: messages, ends of partitions, errors.
 *
 * Nothing here blocks.  A byte in the client's pipe is written only for a
 * queue that was empty: whoever leaves elements behind must put a byte back,
 * or the wake-up is lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <unistd.h>

#include "fault_point.h"
#include "ingest/kafka_internal.h"
#include "miscadmin.h"

#define FETCH_NUDGE_INTERVAL_MS 10 /* see nudge_fetchers */

/*
 * Order of cursors: by partition, then by topic.
 */
static int
compare_cursors(const void *a, const void *b)
{
	const KafkaCursor *left = a;
	const KafkaCursor *right = b;

	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	return strcmp(left->topic, right->topic);
}

/*
 * The cursor of a message's partition, NULL if that is not assigned.
 * Messages of one partition come in runs, hence the memory of the last one.
 */
static KafkaCursor *
find_cursor(KafkaClient *client, const rd_kafka_message_t *message)
{
	KafkaCursor wanted;

	if (client->last_cursor != NULL && client->last_topic == message->rkt &&
		client->last_cursor->partition == message->partition)
		return client->last_cursor;

	wanted.topic = rd_kafka_topic_name(message->rkt);
	wanted.partition = message->partition;
	client->last_topic = message->rkt;
	client->last_cursor = client->ncursors == 0
							  ? NULL
							  : bsearch(&wanted, client->cursors, client->ncursors,
										sizeof(KafkaCursor), compare_cursors);
	return client->last_cursor;
}

/*
 * Describe an error that came through the consumer queue.  Returns false if
 * it concerns the group alone: we use that for commits, which may fail.
 */
static bool
describe_error(KafkaClient *client, const rd_kafka_message_t *message, KafkaEvent *event)
{
	const char *text = rd_kafka_message_errstr(message);

	if (message->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
	{
		ereport(DEBUG1, (errmsg_internal("Kafka group is not accessible: %s",
										 rd_kafka_err2str(message->err))));
		return false;
	}

	event->kind = message->rkt ? KAFKA_PARTITION_ERROR : KAFKA_CLIENT_ERROR;
	event->offset = message->offset;
	event->error_kind = kafka_error_kind(message->err);
	event->is_missing = kafka_error_is_missing(message->err);
	client->cannot_close |= event->is_missing;
	event->error =
		kafka_copy_text(client->text_context, text ? text : rd_kafka_err2str(message->err));
	return true;
}

/* Find the headers of a message: the library looks anew each time that it is asked. */
static void
find_headers(rd_kafka_message_t *message, KafkaEvent *event)
{
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t error = rd_kafka_message_headers(message, &headers);

	event->headers = error == RD_KAFKA_RESP_ERR_NO_ERROR ? headers : NULL;
	event->headers_error = error == RD_KAFKA_RESP_ERR__NOENT ? RD_KAFKA_RESP_ERR_NO_ERROR : error;
}

/*
 * Describe what the consumer queue gave.  Returns false if it is nothing for
 * the caller: delivered before, or of a partition that is not assigned.
 */
static bool
describe_message(KafkaClient *client, rd_kafka_message_t *message, KafkaEvent *event)
{
	KafkaCursor *cursor = NULL;
	rd_kafka_timestamp_type_t timestamp_type;

	event->handle = message;
	event->topic = NULL;
	event->partition = message->partition;
	event->payload = event->key = event->error = NULL;
	event->payload_bytes = event->key_bytes = 0;
	event->has_timestamp = event->is_missing = false;

	if (message->rkt != NULL)
	{
		cursor = find_cursor(client, message);
		if (cursor == NULL)
			return false;
		event->topic = cursor->topic;
	}
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
		message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return describe_error(client, message, event);

	/* Known bugs of several versions deliver again: never twice from here. */
	if (cursor == NULL || message->offset < cursor->next_offset)
		return false;
	event->offset = message->offset;
	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		event->kind = KAFKA_END_OF_PARTITION;
		cursor->next_offset = message->offset;
		return true;
	}

	event->kind = KAFKA_MESSAGE;
	cursor->next_offset = message->offset + 1;
	event->payload = message->payload;
	event->payload_bytes = message->len;
	event->key = message->key;
	event->key_bytes = message->key_len;
	event->timestamp_ms = rd_kafka_message_timestamp(message, &timestamp_type);
	event->has_timestamp = (timestamp_type != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE);
	find_headers(message, event);
	return true;
}

/*
 * Take up to wanted messages out of the consumer queue, append them to those
 * that are out, return how many came.
 */
static int
take_from_consumer_queue(KafkaClient *client, int wanted)
{
	ssize_t taken;
	int needed = client->nmessages + wanted;

	if (needed > client->max_messages)
	{
		Size bytes = mul_size(needed, sizeof(rd_kafka_message_t *));

		client->messages = client->messages == NULL ? MemoryContextAllocHuge(client->context, bytes)
													: repalloc_huge(client->messages, bytes);
		client->max_messages = needed;
	}
	taken = rd_kafka_consume_batch_queue(client->consumer_queue, 0,
										 client->messages + client->nmessages, wanted);
	if (taken < 0)
		elog(ERROR, "could not take messages from the Kafka client: %s",
			 rd_kafka_err2name(rd_kafka_last_error()));
	client->nmessages += (int) taken;
	return (int) taken;
}

/*
 * Let broker threads look at the queue again.  Before 2.2, where
 * fetch.queue.backoff.ms came, a broker thread that finds the queue full
 * sleeps up to a second, however fast we empty it; it listens to a wake-up
 * alone, and among the calls that send one (without a request to the broker)
 * setting the credentials, to what they are, is the only harmless one.
 */
static void
nudge_fetchers(KafkaClient *client, bool is_flooded)
{
	bool was_flooded = client->was_flooded;
	TimestampTz now;
	rd_kafka_error_t *error;

	client->was_flooded = is_flooded;
	if (rd_kafka_version() >= 0x020200ff || !(is_flooded || was_flooded))
		return;
	now = GetCurrentTimestamp();
	if (is_flooded && now >= client->last_nudge &&
		!TimestampDifferenceExceeds(client->last_nudge, now, FETCH_NUDGE_INTERVAL_MS))
		return;

	client->last_nudge = now;
	error = rd_kafka_sasl_set_credentials(client->handle, client->username, client->password);
	if (error != NULL)
		rd_kafka_error_destroy(error);
}

/* Append what the main queue has to say, while there is room; how many events
 * there are then. */
static int
poll_main_queue(KafkaClient *client, KafkaEvent *events, int nevents, int max_events)
{
	bool is_event;

	while (nevents < max_events && kafka_take_from_main_queue(client, &events[nevents], &is_event))
	{
		if (is_event)
			nevents++;
	}
	return nevents;
}

/* The same of the consumer queue. */
static int
poll_consumer_queue(KafkaClient *client, KafkaEvent *events, int nevents, int max_events)
{
	while (nevents < max_events)
	{
		int wanted = max_events - nevents;
		int first = client->nmessages;
		int taken = take_from_consumer_queue(client, wanted);

		for (int i = first; i < first + taken; i++)
		{
			if (describe_message(client, client->messages[i], &events[nevents]))
				nevents++;
		}
		if (taken < wanted)
			break;
	}
	return nevents;
}

/*
 * Take what is there, without waiting: fill up to max_events of events and
 * return how many.  What they point to lives until kafka_release_messages().
 * Offsets of one partition only grow, from the one that was assigned.  After an
 * error, an interrupt too, the caller assigns anew: what was taken until then
 * is delivered no more.
 */
int
kafka_poll(KafkaClient *client, KafkaEvent *events, int max_events)
{
	char wake_bytes[16];
	int nevents;

	Assert(max_events > 0);

	/* Before looking: a byte written from here on wakes the caller again. */
	while (read(client->wake_read_fd, wake_bytes, sizeof(wake_bytes)) > 0)
		;

	nevents = poll_main_queue(client, events, 0, max_events);
	nevents = poll_consumer_queue(client, events, nevents, max_events);
	if (client->nmessages > 0)
		FAULT_POINT("within_poll");
	/* a broker that was lost before a message came is told with that message */
	nevents = poll_main_queue(client, events, nevents, max_events);

	/* Failure means a full pipe, and then the caller wakes anyway. */
	if (nevents == max_events && write(client->wake_write_fd, "p", 1) < 0 && errno != EAGAIN)
		elog(ERROR, "could not write to the pipe of the Kafka client: %m");
	nudge_fetchers(client, nevents == max_events);
	return nevents;
}

/*
 * Give back all messages that kafka_poll() has handed out.
 */
void
kafka_release_messages(KafkaClient *client)
{
	for (int i = 0; i < client->nmessages; i++)
		rd_kafka_message_destroy(client->messages[i]);
	client->nmessages = 0;
	client->last_cursor = NULL; /* its topic may be gone with the messages */
	MemoryContextReset(client->text_context);
}

/*
 * Copy positions into client->cursors, sorted.
 */
static void
set_cursors(KafkaClient *client, const KafkaPosition *positions, int npositions)
{
	KafkaCursor *cursors;

	/* events that are out may point to the names of former topics */
	if (client->nmessages == 0)
		MemoryContextReset(client->cursor_context);
	client->ncursors = 0;
	cursors = MemoryContextAllocZero(client->cursor_context,
									 mul_size(Max(npositions, 1), sizeof(KafkaCursor)));
	for (int i = 0; i < npositions; i++)
	{
		if (positions[i].next_offset < 0)
			elog(ERROR, "offset to read from is not absolute: " INT64_FORMAT,
				 positions[i].next_offset);
		cursors[i].topic = MemoryContextStrdup(client->cursor_context, positions[i].topic);
		cursors[i].partition = positions[i].partition;
		cursors[i].next_offset = positions[i].next_offset;
	}
	qsort(cursors, npositions, sizeof(KafkaCursor), compare_cursors);

	client->cursors = cursors;
	client->ncursors = npositions;
	client->last_cursor = NULL;
}

/*
 * Read these partitions from these offsets from now on, and no others.  What
 * was fetched before and not yet handed out is discarded.
 */
void
kafka_assign(KafkaClient *client, const KafkaPosition *positions, int npositions)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t error;
	int kept = client->nmessages;

	/*
	 * Stop everything first and throw away what is queued: a message of the
	 * former position that slipped through after a step back would let the
	 * cursor jump over all that lies between.
	 */
	error = rd_kafka_assign(client->handle, NULL);
	while (error == RD_KAFKA_RESP_ERR_NO_ERROR && take_from_consumer_queue(client, 1000) > 0)
	{
		while (client->nmessages > kept)
			rd_kafka_message_destroy(client->messages[--client->nmessages]);
	}

	set_cursors(client, positions, npositions);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && npositions > 0)
	{
		list = kafka_list_positions(positions, npositions);
		error = rd_kafka_assign(client->handle, list);
		rd_kafka_topic_partition_list_destroy(list);
	}
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_EXCEPTION),
						errmsg("could not assign partitions to the Kafka client"),
						errdetail_internal("%s", rd_kafka_err2str(error))));
}
