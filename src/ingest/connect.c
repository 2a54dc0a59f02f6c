/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  Where a consumer begins to read: its client, partitions and positions.
 *
 * A position comes from staged progress, or, where a crash has emptied that,
 * from applied progress, or, for a partition that nobody has read yet, from
 * the stream's start; the last is resolved to an offset and committed before
 * the first fetch, so that "latest" means the same after a crash.  A partition
 * that appears later begins at its first message, whatever start says.
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

/* The applier may be waiting. */
#define BROKER_TIMEOUT_MS	   3000
#define CONNECT_RETRY_MAX_MS   5000
#define PUBLISH_INTERVAL_MS	   5000
#define PARTITIONS_INTERVAL_MS 30000

/* Open the client with the options of server and user mapping. */
static void
open_client(Consumer *consumer)
{
	const Stream *stream = consumer->stream;
	KafkaClient *client;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(consumer->round_context);
	client = kafka_open_server(GetForeignServerByName(stream->server, false)->serverid,
							   stream->owner, stream->name, consumer->context);
	PopActiveSnapshot();
	CommitTransactionCommand();
	consumer->client = client;
}

/* The first offset of a partition that nobody has read yet. */
static int64
resolve_start(Consumer *consumer, const char *topic, int32 partition, const char *start)
{
	KafkaPosition position = {topic, partition, 0};
	TimestampTz time;
	int64 low;
	int64 high;

	kafka_query_watermarks(consumer->client, topic, partition, &low, &high, BROKER_TIMEOUT_MS);
	if (strcmp(start, "earliest") == 0)
		return low;
	if (strcmp(start, "latest") == 0)
		return high;
	time = DatumGetTimestampTz(DirectFunctionCall3(
		timestamptz_in, CStringGetDatum(start), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	kafka_offsets_for_time(consumer->client, &position, 1, kafka_time_ms(time), BROKER_TIMEOUT_MS);
	return position.next_offset;
}

/* Progress of all partitions from which this consumer may start. */
static bool
read_progresses(Consumer *consumer, List **staged, List **applied)
{
	if (!stream_transaction_begin(consumer->stream))
		return false;
	MemoryContextSwitchTo(consumer->round_context);
	staging_table_ensure(consumer->stream, consumer->number);
	*staged = progress_read_staged(consumer->stream);
	*applied = progress_read_applied(consumer->stream);
	stream_transaction_commit();
	return true;
}

/* Commit where reading begins for partitions that have no progress yet. */
static bool
write_starts(Consumer *consumer, List *starts)
{
	ListCell *cell;

	if (starts == NIL)
		return true;
	if (!stream_transaction_begin(consumer->stream))
		return false;
	MemoryContextSwitchTo(consumer->round_context);
	foreach(cell, starts)
		progress_write_start(consumer->stream, lfirst(cell));
	/* "latest" means another offset later: this must not be lost in a crash */
	ForceSyncCommit();
	stream_transaction_commit();
	return true;
}

/* Whether some partition of a topic has been read. */
static bool
topic_is_known(List *applied, const char *topic)
{
	ListCell *cell;

	foreach(cell, applied)
	{
		const Progress *progress = lfirst(cell);

		if (strcmp(progress->topic, topic) == 0 && progress->next_offset != START_OFFSET)
			return true;
	}
	return false;
}

/* The progress to go on from, of one partition; new ones are added to starts. */
static Progress *
choose_progress(Consumer *consumer, const char *topic, int32 partition, List *staged, List *applied,
				List **starts)
{
	const char *start = topic_is_known(applied, topic) ? "earliest" : consumer->stream->start;
	Progress *progress = progress_find(staged, topic, partition);

	if (progress == NULL)
		progress = progress_find(applied, topic, partition);
	if (progress && progress->next_offset != START_OFFSET)
		return progress;

	progress = palloc0(sizeof(Progress));
	progress->topic = pstrdup(topic);
	progress->partition = partition;
	progress->next_offset = resolve_start(consumer, topic, partition, start);
	progress->last_offset = progress->next_offset - 1;
	progress->last_timestamp = DT_NOBEGIN;
	*starts = lappend(*starts, progress);
	return progress;
}

/* The progress of each partition that this consumer reads.  A topic that does
 * not exist keeps it from reading those that do only if there are none. */
static List *
choose_progresses(Consumer *consumer, List *staged, List *applied, List **starts)
{
	const Stream *stream = consumer->stream;
	const char *missing = NULL;
	List *progresses = NIL;
	ListCell *cell;

	MemoryContextSwitchTo(consumer->round_context);
	consumer->npartitions = 0;
	foreach(cell, stream->topics)
	{
		const char *topic = lfirst(cell);
		int count = kafka_partition_count(consumer->client, topic, BROKER_TIMEOUT_MS);

		if (count == 0)
			missing =
				psprintf("topic \"%s\" does not exist on server \"%s\"", topic, stream->server);
		consumer->npartitions += count;
		for (int i = 0; i < count; i++)
		{
			if (staging_writer_of(stream, topic, i) == consumer->number)
				progresses = lappend(progresses,
									 choose_progress(consumer, topic, i, staged, applied, starts));
		}
	}
	if (consumer->npartitions == 0)
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_DOES_NOT_EXIST), errmsg("%s", missing),
						errhint("Create the topic; the stream begins by itself.")));
	consumer->missing_topic = missing ? MemoryContextStrdup(consumer->context, missing) : NULL;
	return progresses;
}

/* Keep progress for as long as the client is open, and tell the library. */
static void
assign_partitions(Consumer *consumer, List *progresses)
{
	KafkaPosition *positions = palloc(Max(list_length(progresses), 1) * sizeof(KafkaPosition));
	MemoryContext old_context = MemoryContextSwitchTo(consumer->context);
	int count = 0;
	ListCell *cell;

	consumer->progresses = NIL;
	foreach(cell, progresses)
	{
		Progress *progress = palloc(sizeof(Progress));

		*progress = *(Progress *) lfirst(cell);
		progress->topic = pstrdup(progress->topic);
		progress->end_offset = Max(progress->end_offset, progress->next_offset);
		progress->paused_reason = NULL;
		progress->held_up_since = 0;
		progress->eof_offset = -1;
		consumer->progresses = lappend(consumer->progresses, progress);
		positions[count].topic = progress->topic;
		positions[count].partition = progress->partition;
		positions[count++].next_offset = progress->next_offset;
	}
	MemoryContextSwitchTo(old_context);
	kafka_assign(consumer->client, positions, count);
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

/* A broker that does not answer was asked, and an error was raised: tell of
 * it.  Any other error is raised again. */
static void
take_broker_error(Consumer *consumer)
{
	ErrorData *error;

	MemoryContextSwitchTo(consumer->round_context);
	error = CopyErrorData();
	if (failure_kind(error) != FAILURE_ENVIRONMENT)
	{
		consumer_disconnect(consumer);
		PG_RE_THROW();
	}
	FlushErrorState();
	note_broker_away(consumer, error);
}

/* Ask the broker for the progress of each partition; false when it does not
 * answer. */
static bool
find_progresses(Consumer *consumer, List *staged, List *applied, List **progresses, List **starts)
{
	volatile bool found = false;

	PG_TRY();
	{
		*progresses = choose_progresses(consumer, staged, applied, starts);
		found = true;
	}
	PG_CATCH();
	{
		take_broker_error(consumer);
	}
	PG_END_TRY();
	return found;
}

/*
 * A consumer whose brokers went away is at the end of its partitions: nothing
 * would tell that they are back.  So ask now and then.
 */
void
consumer_look_for_broker(Consumer *consumer)
{
	if (my_entry->state != STREAM_CONNECTING || GetCurrentTimestamp() < consumer->connect_due)
		return;
	PG_TRY();
	{
		(void) kafka_partition_count(consumer->client, linitial(consumer->stream->topics),
									 BROKER_TIMEOUT_MS);
		consumer->connect_failures = 0;
		consumer_note_running(consumer);
	}
	PG_CATCH();
	{
		take_broker_error(consumer);
	}
	PG_END_TRY();
}

/*
 * Connect, find the partitions, and take up reading where it stopped.  False
 * when there is no broker, when it is too early to look again, or when the
 * definition has changed meanwhile.
 */
bool
consumer_connect(Consumer *consumer)
{
	List *staged;
	List *applied;
	List *progresses = NIL;
	List *starts = NIL;

	if (GetCurrentTimestamp() < consumer->connect_due)
		return false;
	slot_set_state(my_slot, STREAM_CONNECTING);
	if (!read_progresses(consumer, &staged, &applied))
		return false;
	if (consumer->client == NULL)
		open_client(consumer);
	if (!find_progresses(consumer, staged, applied, &progresses, &starts) ||
		!write_starts(consumer, starts))
		return false;
	assign_partitions(consumer, progresses);
	consumer->is_connected = true;
	consumer->partitions_due =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PARTITIONS_INTERVAL_MS);
	consumer->connect_failures = 0;
	consumer_note_running(consumer);
	return true;
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
	consumer->nevents = 0;
	if (client)
		kafka_close(client);
}

/*
 * Look now and then whether the topics have got more partitions.  If so, the
 * client is closed, and the next run reads those too.
 */
bool
consumer_finds_new_partitions(Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();
	int npartitions = 0;
	ListCell *cell;

	if (now < consumer->partitions_due || consumer->nevents > 0 ||
		my_entry->state == STREAM_CONNECTING)
		return false;
	consumer->partitions_due = TimestampTzPlusMilliseconds(now, PARTITIONS_INTERVAL_MS);
	foreach(cell, consumer->stream->topics)
		npartitions += kafka_partition_count(consumer->client, lfirst(cell), BROKER_TIMEOUT_MS);
	if (npartitions <= consumer->npartitions)
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
	List *staged;
	List *applied;
	KafkaPosition *positions;
	ListCell *cell;
	int count = 0;

	if (!consumer->has_unpublished || now < consumer->publish_due)
		return;
	consumer->publish_due = TimestampTzPlusMilliseconds(now, PUBLISH_INTERVAL_MS);
	if (!read_progresses(consumer, &staged, &applied))
		return;
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
