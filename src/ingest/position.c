/*-------------------------------------------------------------------------
 *
 * position.c
 *	  Where a consumer reads each partition from.
 *
 * A position comes from staged progress, or, where a crash has emptied that,
 * from applied progress, or, for a partition that nobody has read yet, from
 * the stream's start; the last is resolved to an offset and committed before
 * the first fetch, so that "latest" means the same after a crash.  A partition
 * that appears later begins at its first message, whatever start says.  One
 * that was read and does not exist any more is paused; gap.c pauses others.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "ingest/consumer_internal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

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

/*
 * Commit where reading begins for partitions that have no progress yet, and
 * what has changed of others; false when the definition has changed.
 */
bool
positions_write(Consumer *consumer, const Connection *connection)
{
	ListCell *cell;

	if (connection->starts == NIL && connection->changed == NIL)
		return true;
	if (!stream_transaction_begin(consumer->stream))
		return false;
	MemoryContextSwitchTo(consumer->round_context);
	foreach(cell, connection->starts)
		progress_write_start(consumer->stream, lfirst(cell));
	progress_write_staged(consumer->stream, connection->changed);
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

/* The progress to go on from, of one partition; a copy. */
static Progress *
find_progress(const Connection *connection, const char *topic, int32 partition)
{
	Progress *progress = palloc(sizeof(Progress));
	const Progress *found = progress_find(connection->staged, topic, partition);

	if (found == NULL)
		found = progress_find(connection->applied, topic, partition);
	if (found == NULL || found->next_offset == START_OFFSET)
		return NULL;
	*progress = *found;
	progress->end_offset = Max(progress->end_offset, progress->next_offset);
	return progress;
}

/* The same, of a partition that may be new. */
static Progress *
choose_progress(Consumer *consumer, Connection *connection, const char *topic, int32 partition)
{
	const char *start =
		topic_is_known(connection->applied, topic) ? "earliest" : consumer->stream->start;
	Progress *progress = find_progress(connection, topic, partition);

	if (progress && progress->is_missing)
	{
		progress->paused_reason = NULL;
		progress->is_missing = false;
		connection->changed = lappend(connection->changed, progress);
	}
	if (progress)
		return progress;

	progress = palloc0(sizeof(Progress));
	progress->topic = pstrdup(topic);
	progress->partition = partition;
	progress->next_offset = resolve_start(consumer, topic, partition, start);
	progress->last_offset = progress->next_offset - 1;
	progress->last_timestamp = DT_NOBEGIN;
	connection->starts = lappend(connection->starts, progress);
	return progress;
}

/* Pause the partitions that this consumer has read and that a topic, which has
 * so many now, does not have any more; whether any consumer has such. */
static bool
choose_missing(Consumer *consumer, Connection *connection, const char *topic, int npartitions)
{
	bool any = false;
	ListCell *cell;

	foreach(cell, connection->applied)
	{
		const Progress *applied = lfirst(cell);
		Progress *progress;

		if (strcmp(applied->topic, topic) != 0 || applied->partition < npartitions ||
			applied->next_offset <= 0)
			continue;
		any = true;
		if (staging_writer_of(consumer->stream, topic, applied->partition) != consumer->number)
			continue;
		progress = find_progress(connection, topic, applied->partition);
		if (progress->paused_reason == NULL)
		{
			gap_mark_missing(progress, npartitions);
			connection->changed = lappend(connection->changed, progress);
		}
		connection->progresses = lappend(connection->progresses, progress);
	}
	return any;
}

/* The progress of each partition of a topic that this consumer reads; false if
 * the topic does not exist and never did.  Who first looks at a topic finds the starts of
 * all its partitions: for whoever comes later they would be new ones. */
static bool
choose_topic(Consumer *consumer, Connection *connection, const char *topic)
{
	int count = kafka_partition_count(consumer->client, topic, BROKER_TIMEOUT_MS);
	bool has_missing = choose_missing(consumer, connection, topic, count);
	bool is_new = !topic_is_known(connection->applied, topic);

	consumer->has_missing |= has_missing || count == 0;
	consumer->npartitions += count;
	for (int i = 0; i < count; i++)
	{
		bool is_ours = staging_writer_of(consumer->stream, topic, i) == consumer->number;
		Progress *progress;

		if (!is_ours && !is_new)
			continue;
		progress = choose_progress(consumer, connection, topic, i);
		if (is_ours)
			connection->progresses = lappend(connection->progresses, progress);
	}
	return count > 0 || has_missing;
}

/*
 * Find the progress of each partition that this consumer reads; an error when
 * the broker does not answer.  A topic that does not exist keeps it from reading
 * those that do only if there are none.
 */
void
positions_choose(Consumer *consumer, Connection *connection)
{
	const Stream *stream = consumer->stream;
	bool any = false;
	ListCell *cell;

	MemoryContextSwitchTo(consumer->round_context);
	consumer->npartitions = 0;
	consumer->has_missing = false;
	foreach(cell, stream->topics)
	{
		const char *topic = lfirst(cell);

		if (choose_topic(consumer, connection, topic))
			any = true;
		else
			connection->missing =
				psprintf("topic \"%s\" does not exist on server \"%s\"", topic, stream->server);
	}
	if (!any)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_DOES_NOT_EXIST), errmsg("%s", connection->missing),
				 errhint("Create the topic; the stream begins by itself.")));
}

/*
 * Keep what was found until partitions are looked at again.
 */
void
positions_keep(Consumer *consumer, const Connection *connection)
{
	MemoryContext old_context;
	ListCell *cell;

	MemoryContextReset(consumer->progress_context);
	old_context = MemoryContextSwitchTo(consumer->progress_context);
	consumer->missing_topic = connection->missing ? pstrdup(connection->missing) : NULL;
	consumer->progresses = NIL;
	foreach(cell, connection->progresses)
	{
		Progress *progress = palloc(sizeof(Progress));

		*progress = *(Progress *) lfirst(cell);
		progress->topic = pstrdup(progress->topic);
		progress->end_offset = Max(progress->end_offset, progress->next_offset);
		if (progress->paused_reason)
			progress->paused_reason = pstrdup(progress->paused_reason);
		progress->held_up_since = progress->shrunk_since = 0;
		progress->eof_offset = -1;
		gap_expect(progress,
				   progress_find(connection->applied, progress->topic, progress->partition));
		consumer->progresses = lappend(consumer->progresses, progress);
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Tell the library to read the partitions that are not paused: from the message
 * on that was applied last, where that is to be seen again.
 */
void
consumer_assign(Consumer *consumer)
{
	KafkaPosition *positions = MemoryContextAlloc(
		consumer->round_context, Max(list_length(consumer->progresses), 1) * sizeof(KafkaPosition));
	int count = 0;
	ListCell *cell;

	foreach(cell, consumer->progresses)
	{
		const Progress *progress = lfirst(cell);

		if (progress->paused_reason)
			continue;
		positions[count].topic = progress->topic;
		positions[count].partition = progress->partition;
		positions[count++].next_offset = progress->expected_fingerprint == NO_FINGERPRINT
											 ? progress->next_offset
											 : progress->expected_offset;
	}
	kafka_assign(consumer->client, positions, count);
	consumer->must_assign = false;
}
