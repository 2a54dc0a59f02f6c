/*-------------------------------------------------------------------------
 *
 * freshness.c
 *	  How old events are when they become visible: a histogram a stream.
 *
 * A bucket is a quarter of a power of two wide, so that 128 of them reach from
 * a quarter of a millisecond to three weeks with an error of at most a tenth
 * after interpolation.  Two generations of ten seconds make it forget: a view
 * shows the last 10 to 20 seconds.  Only the stream's applier writes; it takes
 * detect_shared->lock when a generation ends, not for each count, so that a
 * reader under the lock sees no half-moved generation.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "port/pg_bitutils.h"

#define GENERATION_MS 10000
#define QUANTUM_SHIFT 8 /* the narrowest bucket: 256 µs */

/* The bucket of an age. */
static int
freshness_bucket(int64 age_us)
{
	uint64 quanta = age_us > 0 ? (uint64) age_us >> QUANTUM_SHIFT : 0;
	int octave;
	int bucket;

	if (quanta < 4)
		return (int) quanta;
	octave = pg_leftmost_one_pos64(quanta);
	bucket = (octave - 1) * 4 + (int) ((quanta >> (octave - 2)) & 3);
	return Min(bucket, FRESHNESS_BUCKETS - 1);
}

/* Where a bucket begins, in milliseconds. */
static double
freshness_bucket_start_ms(int bucket)
{
	uint64 quanta;

	if (bucket < 4)
		quanta = bucket;
	else
		quanta = (uint64) (4 + bucket % 4) << (bucket / 4 - 1);
	return (double) (quanta << QUANTUM_SHIFT) / 1000.0;
}

/*
 * Count events that took age_us from kafka_timestamp to their commit, which was now.
 * The caller is the stream's applier, after it.
 */
void
slot_record_freshness(StreamSlot *slot, TimestampTz now, int64 age_us, uint32 events)
{
	Freshness *freshness = &slot->freshness;

	if (TimestampDifferenceExceeds(freshness->since, now, GENERATION_MS))
	{
		LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
		if (TimestampDifferenceExceeds(freshness->since, now, 2 * GENERATION_MS))
			memset(freshness->previous, 0, sizeof(freshness->previous));
		else
			memcpy(freshness->previous, freshness->current, sizeof(freshness->previous));
		memset(freshness->current, 0, sizeof(freshness->current));
		freshness->since = now;
		LWLockRelease(detect_shared->lock);
	}
	freshness->current[freshness_bucket(age_us)] += events;
}

/*
 * The age that a fraction of the recent events stayed below; false when there
 * were none.  The caller passes a copy made under the lock.
 */
bool
freshness_percentile(const Freshness *freshness, double fraction, TimestampTz now, double *age_ms)
{
	bool use_current = !TimestampDifferenceExceeds(freshness->since, now, 2 * GENERATION_MS);
	bool use_previous = !TimestampDifferenceExceeds(freshness->since, now, GENERATION_MS);
	uint64 counts[FRESHNESS_BUCKETS];
	uint64 total = 0;
	double rank;
	double below = 0;

	for (int i = 0; i < FRESHNESS_BUCKETS; i++)
	{
		counts[i] = (use_current ? freshness->current[i] : 0) +
					(uint64) (use_previous ? freshness->previous[i] : 0);
		total += counts[i];
	}
	if (total == 0)
		return false;

	rank = fraction * total;
	for (int i = 0; i < FRESHNESS_BUCKETS; i++)
	{
		double start_ms = freshness_bucket_start_ms(i);

		if (counts[i] > 0 && below + counts[i] >= rank)
		{
			*age_ms = start_ms +
					  (freshness_bucket_start_ms(i + 1) - start_ms) * (rank - below) / counts[i];
			return true;
		}
		below += counts[i];
	}
	elog(ERROR, "freshness histogram has no rank %f of " UINT64_FORMAT, rank, total);
	return false; /* keep compiler quiet */
}
