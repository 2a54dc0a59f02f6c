/*-------------------------------------------------------------------------
 *
 * log_limit.c
 *	  How often a stream's workers write to the server's log what repeats.
 *
 * What is broken fails again and again, in several workers, and in those that are
 * started in their place.  So what was written last is kept in the stream's slot,
 * by cause: each cause is written when it comes up, and then twice an hour, and
 * there are only so many causes that anything is written of.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#define LOG_AGAIN_MS (30 * 60 * 1000)

/* Of a process that works for no stream, such as a session that peeks. */
static LogLimit own_limit;

/* Whether to write of a cause now, in a limit that nobody else changes
 * meanwhile. */
static bool
is_due(LogLimit *limit, int cause, TimestampTz now, int *left_out)
{
	LoggedCause *oldest = &limit->causes[0];
	LoggedCause *logged = NULL;

	for (int i = 0; i < LOGGED_CAUSES; i++)
	{
		if (limit->causes[i].at != 0 && limit->causes[i].cause == cause)
			logged = &limit->causes[i];
		if (limit->causes[i].at < oldest->at)
			oldest = &limit->causes[i];
	}
	if (logged == NULL)
		logged = oldest;
	if (logged->at != 0 && !time_has_passed(logged->at, now, LOG_AGAIN_MS))
	{
		limit->left_out++;
		return false;
	}
	logged->cause = cause;
	logged->at = now;
	*left_out = limit->left_out;
	limit->left_out = 0;
	return true;
}

/*
 * Whether this worker shall write a message about a cause, a SQLSTATE or one of
 * LogCause; if so, how many of its stream were left out since the last one.
 */
bool
log_is_due(int cause, int *left_out)
{
	TimestampTz now = GetCurrentTimestamp();
	bool due;

	if (my_slot == NULL)
		return is_due(&own_limit, cause, now, left_out);
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	due = is_due(&my_slot->log_limit, cause, now, left_out);
	LWLockRelease(detect_shared->lock);
	return due;
}

/*
 * What such a message says of those that were left out, for its detail.
 */
int
log_left_out(int left_out)
{
	if (left_out > 0)
		errdetail_log_plural("%d message was left out since the last one.",
							 "%d messages were left out since the last one.", left_out, left_out);
	return 0;
}
