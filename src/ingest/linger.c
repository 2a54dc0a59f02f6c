/*-------------------------------------------------------------------------
 *
 * linger.c
 *	  How long a consumer lets messages arrive after a small round.
 *
 * What a batch costs of itself, and each version of a row that it leaves behind,
 * is shared by more events when the next round has more.  A broker that holds its
 * messages until they are worth a fetch does most of that; but several brokers
 * answer one after another, and many partitions make many bytes of few messages.  So
 * the consumer lingers until about ENOUGH_ROWS have come, and some for each
 * partition, whose progress is looked at and written; but for less time than a broker
 * may hold a fetch, and not while it is behind.  Where nothing comes of it several
 * times in a row, as with one broker that gathers, it is left out for a while.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "ingest/consumer_internal.h"

#define SMALL_ROUND_ROWS 500
#define ENOUGH_ROWS		 100
#define PARTITION_ROWS	 8
#define LINGER_MIN_MS	 20
#define LINGER_MAX_MS	 80

/* After so many times in a row that nothing came, so many rounds are left out. */
#define VAIN_LINGERS	3
#define LEFT_OUT_ROUNDS 20

/*
 * Whether messages are known to be there that have not been staged.
 */
bool
consumer_is_behind(const Consumer *consumer)
{
	ListCell *cell;

	foreach(cell, consumer->progresses)
	{
		const Progress *progress = lfirst(cell);

		if (progress->end_offset > progress->next_offset && progress->paused_reason == NULL)
			return true;
	}
	return false;
}

/*
 * Whether the consumer lets messages arrive now.
 */
bool
consumer_lingers(const Consumer *consumer, TimestampTz now)
{
	return !time_is_over(consumer->linger_until, now, LINGER_MAX_MS);
}

/*
 * After a poll: whether something has come of lingering.
 */
void
consumer_end_lingering(Consumer *consumer)
{
	if (consumer->linger_until == 0)
		return;
	consumer->linger_until = 0;
	consumer->vain_lingers = consumer->nevents == 0 ? consumer->vain_lingers + 1 : 0;
	if (consumer->vain_lingers >= VAIN_LINGERS)
		consumer->left_out_rounds = LEFT_OUT_ROUNDS;
}

/*
 * After a round of so many rows: let more arrive, at the rate at which these have
 * come.  False when it was no small one, or more is there already: a round that was
 * cut short leaves some, though their end may not be known yet.
 */
bool
consumer_linger(Consumer *consumer, int rows, bool is_cut)
{
	TimestampTz now = GetCurrentTimestamp();
	int partitions = list_length(consumer->progresses);
	int enough = ENOUGH_ROWS + PARTITION_ROWS * partitions;
	double wait_ms = LINGER_MIN_MS;

	if (rows >= SMALL_ROUND_ROWS + partitions || is_cut || consumer_is_behind(consumer))
		return false;
	if (rows > 0)
	{
		wait_ms = (now - consumer->staged_at) / 1000.0 / rows * enough;
		wait_ms = Max(Min(wait_ms, LINGER_MAX_MS), LINGER_MIN_MS);
		consumer->staged_at = now;
	}
	if (consumer->left_out_rounds > 0)
	{
		consumer->left_out_rounds--;
		return true;
	}
	consumer->linger_until = TimestampTzPlusMilliseconds(now, (int) wait_ms);
	return true;
}
