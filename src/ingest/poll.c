/*-------------------------------------------------------------------------
 *
 * poll.c
 *	  What a consumer takes from Kafka for a round, and what it says at once.
 *
 * The library hands over a broker's answer partition by partition, and wakes us with
 * the first one.  A moment later the others are there too: then they are taken
 * together, for a round of its own would cost each as much as its messages do.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "ingest/consumer_internal.h"
#include "pgstat.h"
#include "storage/latch.h"

/* So few may be the beginning of an answer, the rest of which comes within this. */
#define FEW_EVENTS		500
#define WHOLE_ANSWER_MS 1

/* Take what Kafka has, so many events at most, behind those that were taken. */
static void
poll_more(Consumer *consumer, int at_most)
{
	instr_time since;

	INSTR_TIME_SET_CURRENT(since);
	consumer->is_polling = true;
	consumer->nevents += kafka_poll(consumer->client, consumer->events + consumer->nevents,
									at_most - consumer->nevents);
	consumer->is_polling = false;
	step_time(STEP_FETCH, &since);
}

/* Whether something was taken of each partition, so that an answer is whole: the library
 * hands over all that it has of one together. */
static bool
is_of_all_partitions(const Consumer *consumer)
{
	int runs = 1;

	for (int i = 1; i < consumer->nevents; i++)
		runs += consumer->events[i].partition != consumer->events[i - 1].partition ||
				consumer->events[i].topic != consumer->events[i - 1].topic;
	return runs >= list_length(consumer->progresses);
}

/*
 * Take what Kafka has, so many events at most.
 */
void
consumer_poll(Consumer *consumer, int at_most)
{
	poll_more(consumer, at_most);
	if (consumer->nevents == 0 || consumer->nevents >= Min(FEW_EVENTS, at_most) ||
		is_of_all_partitions(consumer))
		return;
	(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, WHOLE_ANSWER_MS, PG_WAIT_EXTENSION);
	poll_more(consumer, at_most);
}

/*
 * Whether what was polled changes anything that is kept.
 */
bool
consumer_has_news(Consumer *consumer)
{
	for (int i = 0; i < consumer->nevents; i++)
	{
		const KafkaEvent *event = &consumer->events[i];
		Progress *progress;

		if (event->kind != KAFKA_END_OF_PARTITION)
			return true;
		progress = progress_find(consumer->progresses, event->topic, event->partition);
		if (progress == NULL)
			continue;
		if (event->offset > progress->next_offset || event->offset > progress->end_offset)
			return true;
		progress->eof_offset = event->offset;
	}
	return false;
}

/*
 * Whether the last thing that was polled is a message or the end of a
 * partition: whatever was wrong before is over.
 */
bool
consumer_is_answered(const Consumer *consumer)
{
	KafkaEventKind kind = consumer->events[consumer->nevents - 1].kind;

	return kind == KAFKA_MESSAGE || kind == KAFKA_END_OF_PARTITION;
}

/*
 * Whether a broker was lost, or a topic: what was polled with that news may
 * come from another one, and is not staged before partitions were looked at.
 */
bool
consumer_must_look_again(Consumer *consumer)
{
	if (!time_is_over(consumer->doubt_due, GetCurrentTimestamp(), CONSUMER_DOUBT_MS))
		return false;
	for (int i = 0; i < consumer->nevents; i++)
	{
		const KafkaEvent *event = &consumer->events[i];

		if (event->kind != KAFKA_CLIENT_ERROR &&
			!(event->kind == KAFKA_PARTITION_ERROR && event->is_missing))
			continue;
		slot_set_state(my_slot, STREAM_CONNECTING);
		slot_set_reason(my_slot, event->error);
		return true;
	}
	return consumer->is_doubtful;
}
