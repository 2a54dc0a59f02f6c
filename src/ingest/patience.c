/*-------------------------------------------------------------------------
 *
 * patience.c
 *	  How long brokers hold the fetches of a consumer.
 *
 * Of a fetch that brings a few messages the library's thread takes as much time as
 * the worker for their rows, and a producer that lingers for 5 ms would cause 200 a
 * second.  So brokers gather messages until a fetch is worth while, which delays none
 * by more than KAFKA_FETCH_WAIT_MS.  Where next to nothing comes that is of no use:
 * empty answers are all that the stream costs.  There a consumer is patient: a broker
 * answers as soon as it has a message, and holds a fetch for longer when there is none.
 *
 * A client of the library can't change that, so the consumer gets another one, which
 * reads on from committed progress as after any loss of a broker.  What decides is how
 * many rounds have had rows.  The options of a server come before all of this.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "fault_point.h"
#include "ingest/consumer_internal.h"

/* What brokers gather: so much, and more for each partition, for each of which the
 * library looks through an answer. */
#define GATHER_BYTES		   (32 * 1024)
#define GATHER_PARTITION_BYTES 1024
#define GATHER_MOST_BYTES	   (1024 * 1024)

/* No more: other questions to a broker are answered after the fetch. */
#define PATIENT_MS 500

/* Fewer rounds than so many in that time make a consumer patient … */
#define QUIET_ROUNDS		  60
#define QUIET_WITHIN_MS		  30000
#define SMALL_QUIET_WITHIN_MS 2000 /* under the limits of tests */

/* … and so many in that time, beside linger.c, have brokers gather again. */
#define BUSY_ROUNDS		  8
#define SMALL_BUSY_ROUNDS 3
#define BUSY_WITHIN_MS	  1000

/*
 * How brokers are to answer a consumer that reads so many partitions.
 */
KafkaFetch
consumer_fetch(const Consumer *consumer, int partitions)
{
	if (consumer->is_patient)
		return (KafkaFetch){.min_bytes = 1, .wait_ms = PATIENT_MS};
	return (KafkaFetch){.min_bytes = Min(GATHER_BYTES + (int64) partitions * GATHER_PARTITION_BYTES,
										 GATHER_MOST_BYTES),
						.wait_ms = KAFKA_FETCH_WAIT_MS};
}

/*
 * Look now and then whether another patience is better.  If so, the client is closed,
 * and the next run connects anew.
 */
bool
consumer_changes_patience(Consumer *consumer)
{
	TimestampTz now = GetCurrentTimestamp();
	long interval_ms =
		consumer->is_patient ? BUSY_WITHIN_MS : FAULT_LIMIT(QUIET_WITHIN_MS, SMALL_QUIET_WITHIN_MS);
	bool is_over = TimestampDifferenceExceeds(consumer->rounds_since, now, interval_ms);
	bool changes;

	if (!consumer_can_change_client(consumer))
		return false;
	changes = consumer->is_patient
				  ? consumer->rounds >= FAULT_LIMIT(BUSY_ROUNDS, SMALL_BUSY_ROUNDS)
				  : is_over && consumer->rounds < QUIET_ROUNDS && !consumer_is_behind(consumer);
	if (is_over || changes)
	{
		consumer->rounds = 0;
		consumer->rounds_since = now;
	}
	if (changes)
	{
		consumer->is_patient = !consumer->is_patient;
		consumer_disconnect(consumer);
		elog(DEBUG1, "brokers %s messages of stream \"%s\"",
			 consumer->is_patient ? "wait for" : "gather", consumer->stream->name);
	}
	return changes;
}
