/*-------------------------------------------------------------------------
 *
 * gap.c
 *	  Gaps: partitions that can't be read on from where they were read to.
 *
 * Kafka complains of an offset that it does not have, and says nothing at all
 * when a topic was made again and is longer by now than the old one was read.
 * The hard idea: whenever reading begins, it begins with the message that was
 * applied last, whose fingerprint applied progress has.  If that comes and is
 * another one, the topic is another one; if it does not come, nothing is known:
 * retention and compaction delete messages.  No request of its own is needed
 * for that, whatever the number of partitions.  Offsets that are missing
 * between two messages mean nothing: transactions and compaction leave them.
 *
 * A partition with a gap is paused, alone and as long as nobody has decided: by
 * detect.accept_gap or detect.seek; detect.resume has it looked at again.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "ingest/consumer_internal.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"
#include "utils/memutils.h"

/* How often ends are compared; and how long one may lie before the former one:
 * a new leader learns of it a little later than it is elected. */
#define LOOK_MS	  1000
#define SHRUNK_MS 5000

/* What one look at the partitions has brought. */
typedef struct GapSearch
{
	Consumer *consumer;
	List *suspects; /* of Progress: what Kafka has of them is to be asked */
	List *failed;	/* those among them that Kafka has refused */
	List *found;	/* of Progress, a copy: to be paused */
	bool must_look_again;
} GapSearch;

/*
 * A number that differs, but for one time in four billion, between any two
 * messages.  key and payload may be NULL.  Kept on disk.
 */
int64
message_fingerprint(TimestampTz timestamp, const char *key, Size key_bytes, const char *payload,
					Size payload_bytes)
{
	uint64 head[2] = {pg_hton64((uint64) timestamp), pg_hton64(key ? (uint64) key_bytes + 1 : 0)};
	pg_crc32c crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, head, sizeof(head));
	if (key)
		COMP_CRC32C(crc, key, key_bytes);
	if (payload)
		COMP_CRC32C(crc, payload, payload_bytes);
	FIN_CRC32C(crc);
	/* never NO_FINGERPRINT */
	return (payload ? (int64) payload_bytes + 2 : 1) << 32 | crc;
}

static int64
event_fingerprint(const KafkaEvent *event)
{
	TimestampTz timestamp;

	if (!kafka_event_timestamp(event, &timestamp))
		timestamp = DT_NOBEGIN;
	/* its position alone was staged */
	if (kafka_message_excess(event) != NULL)
		return message_fingerprint(timestamp, NULL, 0, NULL, 0);
	return message_fingerprint(timestamp, event->key, event->key_bytes, event->payload,
							   event->payload_bytes);
}

/*
 * Have the message that was applied last come first, if it is known.
 */
void
gap_expect(Progress *progress, const Progress *applied)
{
	progress->expected_fingerprint = NO_FINGERPRINT;
	if (progress->paused_reason || applied == NULL || applied->last_offset > progress->next_offset)
		return;
	progress->expected_offset = applied->last_offset;
	progress->expected_fingerprint = applied->last_fingerprint;
}

/* How many offsets the topic had and nobody has read, for the end of a reason. */
static const char *
unread(const Progress *progress)
{
	if (progress->end_offset <= progress->next_offset)
		return "";
	return psprintf("; %lld offsets of the former one, from %lld on, were not read",
					(long long) (progress->end_offset - progress->next_offset),
					(long long) progress->next_offset);
}

/* Mark a partition as paused. */
static void
pause_partition(Progress *progress, char *reason)
{
	progress->paused_reason = reason;
	progress->paused_since = GetCurrentTimestamp();
	progress->waits_since = 0;
}

/*
 * Mark a partition as paused that a topic, which has so many, does not have any
 * more.
 */
void
gap_mark_missing(Progress *progress, int npartitions)
{
	progress->is_missing = true;
	pause_partition(progress,
					npartitions == 0
						? psprintf("the topic does not exist any more%s", unread(progress))
						: psprintf("the topic has %d partitions and was made again%s", npartitions,
								   unread(progress)));
}

/* ---------------------------------------------------------------------
 * What was polled
 * ---------------------------------------------------------------------
 */

static bool
is_found(const GapSearch *search, const Progress *known)
{
	return progress_find(search->found, known->topic, known->partition) != NULL;
}

static void
note_gap(GapSearch *search, const Progress *known, char *reason)
{
	Progress *progress = palloc(sizeof(Progress));

	*progress = *known;
	pause_partition(progress, reason);
	search->found = lappend(search->found, progress);
}

/* The first message of a partition since it is read. */
static void
compare_message(GapSearch *search, Progress *known, const KafkaEvent *event)
{
	if (known->expected_fingerprint == NO_FINGERPRINT || is_found(search, known))
		return;
	if (event->offset == known->expected_offset &&
		event_fingerprint(event) != known->expected_fingerprint)
		note_gap(search, known,
				 psprintf("the topic was made again: its message at offset %lld is not the one "
						  "that was applied%s",
						  (long long) event->offset, unread(known)));
	else
		known->expected_fingerprint = NO_FINGERPRINT;
}

/* Look at one thing that Kafka said. */
static void
look_at_event(GapSearch *search, const KafkaEvent *event)
{
	Progress *known =
		event->topic ? progress_find(search->consumer->progresses, event->topic, event->partition)
					 : NULL;

	if (known == NULL || known->paused_reason)
		return;
	if (event->kind == KAFKA_MESSAGE)
		compare_message(search, known, event);
	else if (event->kind == KAFKA_END_OF_PARTITION && event->offset < known->next_offset)
		search->suspects = list_append_unique_ptr(search->suspects, known);
	else if (event->kind == KAFKA_END_OF_PARTITION && !is_found(search, known))
		known->expected_fingerprint = NO_FINGERPRINT; /* it is not there */
	else if (event->kind == KAFKA_PARTITION_ERROR && event->error_kind == KAFKA_ERROR_OFFSET)
	{
		search->suspects = list_append_unique_ptr(search->suspects, known);
		search->failed = list_append_unique_ptr(search->failed, known);
	}
}

/* Whether first messages of partitions are still to come. */
static bool
expects_any(const Consumer *consumer)
{
	ListCell *cell;

	foreach(cell, consumer->progresses)
	{
		if (((Progress *) lfirst(cell))->expected_fingerprint != NO_FINGERPRINT)
			return true;
	}
	return false;
}

/* Look at all that was polled. */
static void
look_at_events(GapSearch *search)
{
	Consumer *consumer = search->consumer;
	bool expects = expects_any(consumer);

	for (int i = 0; i < consumer->nevents; i++)
	{
		if (expects || consumer->events[i].kind != KAFKA_MESSAGE)
			look_at_event(search, &consumer->events[i]);
	}
}

/* Where a partition ends, if it ends before it did. */
static bool
has_shrunk(const Consumer *consumer, const Progress *known, int64 *end_offset)
{
	return kafka_cached_end(consumer->client, known->topic, known->partition, end_offset) &&
		   *end_offset < known->end_offset;
}

/* Look now and then whether partitions end before they did. */
static void
look_at_ends(GapSearch *search)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell *cell;

	if (!time_is_over(search->consumer->ends_due, now, LOOK_MS))
		return;
	search->consumer->ends_due = TimestampTzPlusMilliseconds(now, LOOK_MS);
	foreach(cell, search->consumer->progresses)
	{
		Progress *known = lfirst(cell);
		int64 end_offset;

		if (known->paused_reason || !has_shrunk(search->consumer, known, &end_offset))
			known->shrunk_since = 0;
		else if (known->shrunk_since == 0)
			known->shrunk_since = now;
		else if (time_has_passed(known->shrunk_since, now, SHRUNK_MS))
			search->suspects = list_append_unique_ptr(search->suspects, known);
	}
}

/* ---------------------------------------------------------------------
 * Suspects: what Kafka has of them
 * ---------------------------------------------------------------------
 */

/* What is wrong with a partition of which Kafka has this range; NULL if nothing
 * is. */
static char *
range_reason(const Consumer *consumer, const Progress *known, const KafkaRange *range)
{
	int64 end_offset;

	if (known->next_offset < range->from)
		return psprintf("offset %lld is not in the topic any more, which begins at offset %lld: "
						"%lld offsets are gone",
						(long long) known->next_offset, (long long) range->from,
						(long long) (range->from - known->next_offset));
	if (known->next_offset > range->to)
		return psprintf("the topic ends at offset %lld, and was read up to offset %lld: it was "
						"made again, or has lost messages%s",
						(long long) range->to, (long long) known->next_offset, unread(known));
	if (known->shrunk_since != 0 && has_shrunk(consumer, known, &end_offset))
		return psprintf("the topic ends at offset %lld, and did end at offset %lld: it was made "
						"again, or has lost messages; %lld offsets are gone",
						(long long) end_offset, (long long) known->end_offset,
						(long long) (known->end_offset - end_offset));
	return NULL;
}

/* Judge one suspect by what Kafka has of it. */
static void
judge(GapSearch *search, Progress *known, const KafkaRange *range)
{
	char *reason = range_reason(search->consumer, known, range);

	if (reason)
	{
		if (!is_found(search, known))
			note_gap(search, known, reason);
		return;
	}
	if (known->expected_fingerprint != NO_FINGERPRINT && known->expected_offset < range->from)
	{
		/* what was applied last is gone by now, which is no matter */
		known->expected_fingerprint = NO_FINGERPRINT;
		search->consumer->must_assign |= list_member_ptr(search->failed, known);
	}
	else if (list_member_ptr(search->failed, known))
	{
		/* refused and yet there: the log was cut, and has grown since.  Whether what was
		 * applied last is still in it, only its fingerprint tells */
		search->must_look_again = true;
	}
}

/* Ask Kafka for the ranges of all suspects; false when it does not answer. */
static bool
ask_for_ranges(GapSearch *search, KafkaRange *ranges)
{
	volatile bool answered = false;

	PG_TRY();
	{
		kafka_query_ranges(search->consumer->client, ranges, list_length(search->suspects),
						   BROKER_TIMEOUT_MS);
		answered = true;
	}
	PG_CATCH();
	{
		consumer_take_broker_error(search->consumer);
		consumer_look_again(search->consumer);
	}
	PG_END_TRY();
	return answered;
}

/* Decide about all suspects; false when Kafka does not answer. */
static bool
judge_suspects(GapSearch *search)
{
	KafkaRange *ranges;
	ListCell *cell;
	int i = 0;

	if (search->suspects == NIL)
		return true;
	ranges = palloc0(list_length(search->suspects) * sizeof(KafkaRange));
	foreach(cell, search->suspects)
	{
		const Progress *known = lfirst(cell);

		ranges[i].topic = known->topic;
		ranges[i++].partition = known->partition;
	}
	if (!ask_for_ranges(search, ranges))
		return false;
	i = 0;
	foreach(cell, search->suspects)
		judge(search, lfirst(cell), &ranges[i++]);
	return true;
}

/* ---------------------------------------------------------------------
 * What was found
 * ---------------------------------------------------------------------
 */

/* After the commit: what is known follows. */
static void
remember_gap(Consumer *consumer, const Progress *progress)
{
	Progress *known = progress_find(consumer->progresses, progress->topic, progress->partition);

	known->paused_reason = MemoryContextStrdup(consumer->progress_context, progress->paused_reason);
	known->paused_since = progress->paused_since;
	known->waits_since = 0;
	known->expected_fingerprint = NO_FINGERPRINT;
	consumer->must_assign = true;
}

/* Log the first of what was found: the view has them all. */
static void
tell_first(const Stream *stream, const List *found)
{
	const Progress *first = linitial(found);
	int others = list_length(found) - 1;

	ereport(LOG, (errmsg("partition %d of topic \"%s\" of stream \"%s\" is paused: %s",
						 first->partition, first->topic, stream->name, first->paused_reason),
				  others == 0 ? 0
							  : errdetail_plural("So is %d other; see detect.stat_partition.",
												 "So are %d others; see detect.stat_partition.",
												 others, others)));
}

/* Write down what was found; false when the definition has changed. */
static bool
write_gaps(GapSearch *search)
{
	const Stream *stream = search->consumer->stream;
	ListCell *cell;

	if (search->found == NIL)
		return true;
	if (!stream_transaction_begin(stream))
		return false;
	progress_write_staged(stream, search->found);
	progress_keep_paused(stream, search->found);
	stream_transaction_commit();
	foreach(cell, search->found)
		remember_gap(search->consumer, lfirst(cell));
	tell_first(stream, search->found);
	return true;
}

/*
 * Look for gaps in what was polled, before any of it is staged, and pause the
 * partitions that have one.  False when this is to be done again: Kafka does
 * not answer, or has another log, or the definition has changed.
 */
bool
consumer_find_gaps(Consumer *consumer)
{
	GapSearch search = {.consumer = consumer};

	MemoryContextSwitchTo(consumer->round_context);
	look_at_events(&search);
	look_at_ends(&search);
	if (!judge_suspects(&search) || !write_gaps(&search))
		return false;
	if (search.must_look_again)
	{
		consumer_look_again(consumer);
		consumer->connect_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_MS);
	}
	return !search.must_look_again;
}
