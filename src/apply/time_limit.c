/*-------------------------------------------------------------------------
 *
 * time_limit.c
 *	  How long code of users may hold up a batch: detect.batch_timeout.
 *
 * PostgreSQL's statement_timeout does not reach the statements of a background
 * worker, but its timer does: it is set here for the transaction of a piece,
 * deferred triggers included, and cancels what runs when it goes off.  What was
 * cancelled so is told from a cancel that somebody has asked for by the clock.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier.h"
#include "miscadmin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

static TimestampTz limit = DT_NOEND; /* when the timer goes off */

/*
 * Begin to count; ended by time_limit_end().
 */
void
time_limit_begin(void)
{
	if (detect_batch_timeout_ms == 0)
		return;
	limit = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), detect_batch_timeout_ms);
	enable_timeout_at(STATEMENT_TIMEOUT, limit);
}

/*
 * Stop counting.  A timer that goes off too late has nothing to cancel.
 */
void
time_limit_end(void)
{
	if (limit == DT_NOEND)
		return;
	disable_timeout(STATEMENT_TIMEOUT, true);
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true))
		QueryCancelPending = false;
	limit = DT_NOEND;
}

/*
 * Whether an error, just caught, says that the time is up; until the counting ends.
 */
bool
time_limit_was_hit(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED && GetCurrentTimestamp() >= limit;
}

/*
 * Have the error of a time that is up say so, in the current context.
 */
void
time_limit_explain(ErrorData *error)
{
	error->message =
		psprintf("it takes longer than detect.batch_timeout, %d ms", detect_batch_timeout_ms);
	error->hint = pstrdup(
		"See which query, trigger or function waits or loops, or raise detect.batch_timeout.");
}
