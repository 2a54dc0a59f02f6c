/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  How many elements one commit applies: as many as fit into
 *	  detect.max_batch_time.
 *
 * While a batch is applied its stream can't be paused, the events table can't be
 * changed, and nobody sees what has arrived.  What an element costs, with its
 * query, its triggers and its rollups, is known only once some have been applied.
 * So a worker begins with few; a commit that had as many as it might makes the
 * next one larger or smaller, by the time that it took; one that had fewer only
 * smaller, because it says little about many.
 *
 * The more elements a commit has, the fewer times is a group of a rollup merged.
 * So a stream that is behind takes longer over each: a part of what its events are
 * late anyway.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier_internal.h"

#define FIRST_ELEMENTS 200

/* How many times larger the next commit may be, since many elements may cost more
 * than their share. */
#define GROWTH 8

/* A commit of a stream that is behind takes so much of its lag, and so many times
 * detect.max_batch_time at most. */
#define LAG_SHARE	   0.25
#define MAX_TIMES_LATE 4

/*
 * The number to begin with.
 */
void
pace_begin(Applier *applier)
{
	applier->pace = FIRST_ELEMENTS;
}

/* How long a commit may take. */
static double
time_ms(const Applier *applier)
{
	double late_ms =
		Min(applier->lag_ms * LAG_SHARE, (double) detect_max_batch_ms * MAX_TIMES_LATE);

	return Max(late_ms, detect_max_batch_ms);
}

/*
 * How many elements one commit may apply.
 */
int
pace_elements(const Applier *applier)
{
	return detect_max_batch_ms == 0 ? detect_max_batch_rows
									: Min(applier->pace, detect_max_batch_rows);
}

/*
 * A commit of so many elements began then, and is over.
 */
void
pace_measure(Applier *applier, int count, instr_time since)
{
	double took_ms = Max(elapsed_ms(since), 0.001);
	double allowed_ms = time_ms(applier);
	double fitting;

	if (count < pace_elements(applier) && took_ms <= allowed_ms)
		return;
	fitting = Min(allowed_ms / took_ms, GROWTH) * count;
	applier->pace = (int) Max(Min(fitting, INT_MAX / 2), 1);
}
