/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  A consumer and its brokers: found, lost, and found again.
 *
 * Whenever a consumer connects, it looks at all partitions anew (position.c),
 * and reads them from where committed progress is.  It does so, with the same
 * client, as soon as a broker was lost: what another one has may be something
 * else.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "foreign/foreign.h"
#include "apply/applier.h"
#include "ingest/consumer_internal.h"
#include "ingest/worker.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define CONNECT_RETRY_MAX_MS   5000
#define PUBLISH_INTERVAL_MS	   5000
#define PARTITIONS_INTERVAL_MS 30000
#define MISSING_INTERVAL_MS	   5000 /* where something is missing */
#define MANY_PARTITIONS		   8	/* fewer are read well by any client */

/* Open the client with the options of server and user mapping, for so many
 * partitions. */
static void
open_client(Consumer *consumer, int partitions)
{
	const Stream *stream = consumer->stream;
	KafkaFetch fetch = consumer_fetch(consumer, partitions);
	KafkaClient *client;

	transaction_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(consumer->round_context);
	client = kafka_open_server(GetForeignServerByName(stream->server, false)->serverid,
							   stream->owner, stream->name, &fetch, consumer->context);
	PopActiveSnapshot();
	CommitTransactionCommand();
	consumer->client = client;
	consumer->client_partitions = partitions;
}

/* How a client fetches depends on how many partitions it reads, which is known only
 * when one has looked: many more than it was opened for are worth another one. */
static void
open_for_partitions(Consumer *consumer)
{
	int partitions = list_length(consumer->progresses);

	if (partitions <= MANY_PARTITIONS || partitions <= consumer->client_partitions * 2)
		return;
	consumer_disconnect(consumer);
	open_client(consumer, partitions);
}

/* Progress of all partitions from which this consumer may start. */
static bool
read_progresses(Consumer *consumer, List **staged, List **applied)
{
	if (!stream_transaction_begin(consumer->stream))
		return false;
	MemoryContextSwitchTo(consumer->round_context);
	staging_table_ensure(consumer->stream, consumer->number);
	progress_restore_paused(consumer->stream);
	*staged = progress_read_staged(consumer->stream);
	*applied = progress_read_applied(consumer->stream);
	stream_transaction_commit();
	return true;
}

/* How often to look for other partitions. */
static int
partitions_interval_ms(const Consumer *consumer)
{
	return consumer->has_missing ? MISSING_INTERVAL_MS : PARTITIONS_INTERVAL_MS;
}

/* A broker that is away is no error of the round: what is staged is applied
 * meanwhile.  The client stays open, and goes on connecting by itself. */
static void
note_broker_away(Consumer *consumer, const ErrorData *error)
{
	int delay_ms = launcher_retry_delay_ms(consumer->connect_failures++);

	slot_note_error(my_slot, error->sqlerrcode, error->message);
	round_log_failure(error);
	consumer->connect_due =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Min(delay_ms, CONNECT_RETRY_MAX_MS));
}

/* A broker that does not answer was asked, or one that does not know of a partition,
 * which comes or goes just now, and an error was raised: which one.  Any other error is
 * raised again. */
static ErrorData *
take_broker_error(Consumer *consumer)
{
	ErrorData *error;

	MemoryContextSwitchTo(consumer->round_context);
	error = CopyErrorData();
	if (failure_kind(error) != FAILURE_ENVIRONMENT && error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT)
	{
		consumer_disconnect(consumer);
		PG_RE_THROW();
	}
	FlushErrorState();
	return error;
}

/*
 * The error of a broker that was asked was raised: tell of it.  Any other error is raised
 * again.
 */
void
consumer_take_broker_error(Consumer *consumer)
{
	note_broker_away(consumer, take_broker_error(consumer));
}

/* Ask the broker for the progress of each partition; false when it does not
 * answer. */
static bool
find_progresses(Consumer *consumer, Connection *connection)
{
	volatile bool found = false;

	PG_TRY();
	{
		positions_choose(consumer, connection);
		found = true;
	}
	PG_CATCH();
	{
		consumer_take_broker_error(consumer);
	}
	PG_END_TRY();
	return found;
}

/* Find out where to read from, and commit it. */
static bool
find_positions(Consumer *consumer, Connection *connection)
{
	memset(connection, 0, sizeof(Connection));
	if (!read_progresses(consumer, &connection->staged, &connection->applied))
		return false;
	if (consumer->client == NULL)
		open_client(consumer, Max(list_length(connection->applied), 1));
	if (!find_progresses(consumer, connection))
	{
		slot_set_state(my_slot, STREAM_CONNECTING);
		return false;
	}
	return positions_write(consumer, connection);
}

/*
 * Connect, find the partitions, and take up reading where it stopped.  False
 * when there is no broker, when it is too early to look again, or when the
 * definition has changed meanwhile.
 */
bool
consumer_connect(Consumer *consumer)
{
	Connection connection;
	TimestampTz now = GetCurrentTimestamp();

	if (!time_is_over(consumer->connect_due, now, CONNECT_RETRY_MAX_MS))
		return false;
	/* one that runs does so with another client in a moment, unless it finds no broker */
	if (my_entry->state != STREAM_RUNNING)
		slot_set_state(my_slot, STREAM_CONNECTING);
	if (!find_positions(consumer, &connection))
		return false;
	/* another consumer may have been first to say where reading begins: that counts */
	if (connection.starts != NIL && !find_positions(consumer, &connection))
		return false;
	positions_keep(consumer, &connection);
	open_for_partitions(consumer);
	consumer_assign(consumer);
	now = GetCurrentTimestamp();
	consumer->is_connected = true;
	consumer->is_doubtful = false;
	consumer->doubt_due = TimestampTzPlusMilliseconds(now, CONSUMER_DOUBT_MS);
	consumer->partitions_due = TimestampTzPlusMilliseconds(now, partitions_interval_ms(consumer));
	consumer->rounds = 0;
	consumer->rounds_since = now;
	consumer->connect_failures = 0;
	consumer_note_running(consumer);
	return true;
}

/*
 * Throw away what was polled; the next run looks at all partitions again, with
 * the same client.
 */
void
consumer_look_again(Consumer *consumer)
{
	kafka_release_messages(consumer->client);
	consumer->nevents = 0;
	consumer->is_polling = false;
	consumer->is_connected = false;
	slot_set_state(my_slot, STREAM_CONNECTING);
}

/*
 * Say that the consumer reads, and what it can't.
 */
void
consumer_note_running(Consumer *consumer)
{
	slot_set_state(my_slot, STREAM_RUNNING);
	if (consumer->missing_topic)
		slot_set_reason(my_slot, consumer->missing_topic);
}

/*
 * Close the client; the next run connects again.
 */
void
consumer_disconnect(Consumer *consumer)
{
	KafkaClient *client = consumer->client;

	consumer->client = NULL;
	consumer->is_connected = false;
	consumer->is_polling = false;
	consumer->nevents = 0;
	if (client)
		kafka_close(client);
}

/*
 * Whether the client may be closed for another one: it reads, and nothing that it gave
 * is in hand.
 */
bool
consumer_can_change_client(const Consumer *consumer)
{
	return consumer->nevents == 0 && my_entry->state != STREAM_CONNECTING;
}

/* How many partitions the topics have; -1 when a broker does not answer. */
static int
count_partitions(Consumer *consumer)
{
	volatile int npartitions = 0;
	ListCell *cell;

	PG_TRY();
	{
		foreach(cell, consumer->stream->topics)
			npartitions += kafka_partition_count(consumer->client, lfirst(cell), BROKER_TIMEOUT_MS);
	}
	PG_CATCH();
	{
		/* what is known of is read on */
		round_log_failure(take_broker_error(consumer));
		npartitions = -1;
	}
	PG_END_TRY();
	return npartitions;
}

/*
 * Look now and then, or if it has been due for so long, whether the topics have
 * got other partitions.  If so, the client is closed, and the next run reads what
 * is there.
 */
bool
consumer_finds_new_partitions(Consumer *consumer, int overdue_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int npartitions;

	if (!time_is_over(TimestampTzPlusMilliseconds(consumer->partitions_due, overdue_ms), now,
					  PARTITIONS_INTERVAL_MS + overdue_ms) ||
		!consumer_can_change_client(consumer))
		return false;
	consumer->partitions_due = TimestampTzPlusMilliseconds(now, partitions_interval_ms(consumer));
	npartitions = count_partitions(consumer);
	if (npartitions < 0 || npartitions == consumer->npartitions)
		return false;
	consumer_disconnect(consumer);
	return true;
}

/*
 * Tell the consumer group now and then how far the stream is applied, so that
 * outside monitors of lag see it.  Nothing is ever read from there.
 */
void
consumer_publish_applied(Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();
	List *applied;
	KafkaPosition *positions;
	ListCell *cell;
	int count = 0;

	if (!consumer->has_unpublished ||
		!time_is_over(consumer->publish_due, now, PUBLISH_INTERVAL_MS) ||
		kafka_is_committing(consumer->client))
		return;
	consumer->publish_due = TimestampTzPlusMilliseconds(now, PUBLISH_INTERVAL_MS);
	if (!stream_transaction_begin(consumer->stream))
		return;
	MemoryContextSwitchTo(consumer->round_context);
	applied = progress_read_applied(consumer->stream);
	stream_transaction_commit();
	positions = MemoryContextAlloc(consumer->round_context,
								   Max(list_length(applied), 1) * sizeof(KafkaPosition));
	consumer->has_unpublished = false;
	foreach(cell, applied)
	{
		Progress *progress = lfirst(cell);
		Progress *known = progress_find(consumer->progresses, progress->topic, progress->partition);

		if (known == NULL)
			continue;
		consumer->has_unpublished |= known->next_offset != progress->next_offset;
		positions[count].topic = known->topic;
		positions[count].partition = known->partition;
		positions[count++].next_offset = progress->next_offset;
	}
	/* who deletes what is told there shall not lose it in a power cut */
	transaction_flush_all();
	kafka_commit(consumer->client, positions, count);
}

/*
 * Definitions have changed, though not the stream's own.  Somebody may have
 * moved the staged progress: then begin again from it.
 */
void
consumer_reload(Consumer *consumer)
{
	List *staged;
	List *applied;
	ListCell *cell;

	if (!consumer->is_connected || !read_progresses(consumer, &staged, &applied))
		return;
	foreach(cell, consumer->progresses)
	{
		Progress *known = lfirst(cell);
		Progress *progress = progress_find(staged, known->topic, known->partition);

		if (progress == NULL)
			progress = progress_find(applied, known->topic, known->partition);
		if (progress == NULL || progress->last_offset != known->last_offset ||
			progress->next_offset != known->next_offset ||
			(known->paused_reason && progress->paused_reason == NULL))
		{
			consumer_disconnect(consumer);
			return;
		}
	}
}
