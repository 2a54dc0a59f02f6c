/*-------------------------------------------------------------------------
 *
 * piece_failed.c
 *	  A piece that has failed: tried again smaller, until one element is to blame.
 *
 * Rows that the events table refuses are found within a piece (refused.c), and
 * it goes on without them.
 *
 * An error in a rollup says nothing about the elements: the piece is applied
 * once more, and the rollup set aside in its commit (rollup/aside.c).
 *
 * Code of users that takes too long is cancelled (time_limit.c).  The next piece
 * is then much smaller; an element that takes too long alone, again and again, is
 * a dead letter too.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/applier_internal.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* So many elements in a row failing alone are no matter of data any more. */
#define UNKNOWN_FAILURES 20

/* So many rounds in a row may find that a partition has gone. */
#define MISSING_PARTITIONS 20

/* An element that has taken too long alone so many times is a dead letter. */
#define TIME_OUTS_ALONE 3

/* How much smaller a piece is after one that has taken too long: each try costs
 * all the time that there is. */
#define TIME_OUT_DIVISOR 16

/* An element that failed alone: a duplicate after all, or a dead letter. */
static void
blame_element(Applier *applier, Element *element, const ErrorData *error)
{
	/* the failed transaction is over, and looking at an index needs one */
	transaction_begin();
	element->is_known = failure_is_duplicate(applier->dedup, error);
	failure_check_definition(applier->stream, error);
	CommitTransactionCommand();
	MemoryContextSwitchTo(applier->batch_context);
	if (element->is_known)
		return;
	element->sqlstate = error->sqlerrcode;
	element->stage = events_stage;
	element->reason = error->message;
	events_stage = "apply";
}

/* Whether an error names the events table. */
static bool
is_of_events_table(const Applier *applier, const ErrorData *error)
{
	char *name;
	bool result;

	transaction_begin();
	name = get_rel_name(applier->stream->events_table);
	result = name != NULL && strcmp(name, error->table_name) == 0;
	CommitTransactionCommand();
	MemoryContextSwitchTo(applier->batch_context);
	return result;
}

/* A partition that has gone since the batch was read is no fault of a definition by which
 * the stream makes its own: read again, the batch makes it. */
static void
excuse_missing_partition(Applier *applier, const Batch *batch, ErrorData *error)
{
	if (applier->stream->partition_interval == NULL ||
		error->sqlerrcode != ERRCODE_CHECK_VIOLATION || error->constraint_name != NULL ||
		error->table_name == NULL || !is_of_events_table(applier, error) ||
		++applier->missing_partitions > MISSING_PARTITIONS)
		return;
	applier->missing_source = batch->source;
	error->sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE;
	error->hint = MemoryContextStrdup(error->assoc_context, "It is tried again by itself.");
}

/* Whether an error is for the applier to deal with; the worker deals with the
 * others.  Of many elements some may have room among the dead letters. */
static bool
is_about_elements(Applier *applier, const ErrorData *error, int count, bool timed_out)
{
	FailureKind kind = failure_kind(error);

	if (timed_out)
		return count > 1 || (++applier->time_outs >= TIME_OUTS_ALONE &&
							 applier->unknown_failures < UNKNOWN_FAILURES);
	if (error->sqlerrcode == ERRCODE_DEAD_LETTER_LIMIT)
		return count > 1;
	if (kind == FAILURE_UNKNOWN)
		return applier->unknown_failures < UNKNOWN_FAILURES;
	return kind == FAILURE_DATA || failure_is_refused_value(error);
}

/* What was found against elements counts no more: a row that one was refused
 * for may itself be refused next time. */
static void
forget_refused(Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];

		if (!element->is_refused)
			continue;
		element->is_refused = element->is_known = false;
		element->sqlstate = 0;
	}
}

/* How many elements to try in place of count from this one on, which together
 * have failed. */
static int
smaller_size(const Applier *applier, const Element *first, int count, bool timed_out)
{
	const Element *end = events_piece_end(applier->events);

	if (timed_out)
		return Max(count / TIME_OUT_DIVISOR, 1);
	if (end > first && end - first < count)
		return end - first;
	return count / 2;
}

/*
 * A piece has failed as a whole, after which everything is as before: have it
 * tried again in another way, or raise what is for the worker to deal with.
 */
void
piece_failed(Applier *applier, Batch *batch, int from, int to, ErrorData *error, bool timed_out)
{
	Element *first = &batch->elements[from];
	int count = to - from;

	forget_refused(batch, from, to);
	excuse_missing_partition(applier, batch, error);
	if (events_failed_in_rollup(applier->events))
	{
		if (!events_guard_rollups(applier->events, true))
			ReThrowError(error);
		return;
	}
	if (!is_about_elements(applier, error, count, timed_out))
		ReThrowError(error);
	if (count > 1 && events_failed_at_row(applier->events) && failure_kind(error) == FAILURE_DATA &&
		events_look_for_refused(applier->events, true))
		return;
	if (count > 1)
	{
		applier->piece_size = smaller_size(applier, first, count, timed_out);
		return;
	}
	if (first->sqlstate != 0)
		ReThrowError(error); /* even its dead letter can't be written */
	if (timed_out || failure_kind(error) == FAILURE_UNKNOWN)
		applier->unknown_failures++;
	blame_element(applier, first, error);
}
