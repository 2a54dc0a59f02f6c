/*-------------------------------------------------------------------------
 *
 * edit_times.c
 *	  Which event times others have edited.
 *
 * Rollups are repaired bucket by bucket, so of an edit they need to know no
 * more than its event time.  Edits that lie near each other become one range,
 * and a bounded number of ranges is kept: reading events between two edits
 * once more changes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "apply/edit.h"

#include "apply/dedup.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define FIRST_RANGES 64

/*
 * Make an empty collection, in the current context.
 */
EditTimes *
edit_times_create(const Stream *stream)
{
	EditTimes *times = palloc0(sizeof(EditTimes));
	AttrNumber attnum = InvalidAttrNumber;
	Oid type = InvalidOid;

	times->stream = stream;
	times->context = CurrentMemoryContext;
	times->max = FIRST_RANGES;
	times->ranges = palloc(FIRST_RANGES * sizeof(TimeRange));
	if (stream->event_time != NULL)
		attnum = get_attnum(stream->events_table, stream->event_time);
	if (attnum != InvalidAttrNumber)
		type = getBaseType(get_atttype(stream->events_table, attnum));
	if (type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID)
		times->type = type;
	return times;
}

static void
add_range(EditTimes *times, TimestampTz from, TimestampTz until)
{
	if (times->count == times->max)
	{
		times->ranges = repalloc_huge(times->ranges, 2 * (Size) times->max * sizeof(TimeRange));
		times->max *= 2;
	}
	times->ranges[times->count].from = from;
	times->ranges[times->count].until = until;
	times->count++;
}

/* Any time. */
static void
add_all(EditTimes *times)
{
	add_range(times, DT_NOBEGIN, DT_NOEND);
}

/* A time as its type's input function reads it; times without a zone are in
 * UTC. */
static TimestampTz
time_from_text(Oid type, char *text)
{
	Oid input;
	Oid parameter;
	Datum value;

	getTypeInputInfo(type, &input, &parameter);
	value = OidInputFunctionCall(input, text, parameter, -1);
	return partition_time(type, value);
}

/* The event time of a queued row. */
static void
add_row(EditTimes *times, Jsonb *row)
{
	char *text;
	TimestampTz time;

	if (row == NULL)
		return;
	text = OidIsValid(times->type) ? edit_row_value(row, times->stream->event_time) : NULL;
	if (text == NULL)
	{
		add_all(times);
		return;
	}
	time = time_from_text(times->type, text);
	if (TIMESTAMP_NOT_FINITE(time))
		add_all(times);
	else
		add_range(times, time, time + 1);
}

/* What is known of an edit whose rows were not queued: times, or a partition. */
static void
add_unqueued(EditTimes *times, const Edit *edit)
{
	TimeRange bounds;

	if (edit->has_times)
		add_range(times, edit->times.from, edit->times.until);
	else if (edit->relation == times->stream->events_table ||
			 !partition_is_by_event_time(times->stream))
		add_all(times);
	else if (partition_bounds(edit->relation, &bounds.from, &bounds.until))
		add_range(times, bounds.from, bounds.until);
	else if (edit->relation == get_default_partition_oid(times->stream->events_table))
		add_all(times);
}

/*
 * Add the event times of an edit.
 */
void
edit_times_add(EditTimes *times, const Edit *edit)
{
	MemoryContext saved_context = MemoryContextSwitchTo(times->context);

	if (edit->old_row == NULL && edit->new_row == NULL)
		add_unqueued(times, edit);
	add_row(times, edit->old_row);
	add_row(times, edit->new_row);
	MemoryContextSwitchTo(saved_context);
}

static int
compare_ranges(const void *left, const void *right)
{
	TimestampTz a = ((const TimeRange *) left)->from;
	TimestampTz b = ((const TimeRange *) right)->from;

	return a < b ? -1 : (a > b ? 1 : 0);
}

/* For qsort: the widest gap first. */
static int
compare_gaps(const void *left, const void *right)
{
	uint64 a = *(const uint64 *) left;
	uint64 b = *(const uint64 *) right;

	return a > b ? -1 : (a < b ? 1 : 0);
}

/* Join sorted ranges that have no wider gap between them than one. */
static void
join_ranges(EditTimes *times, uint64 gap)
{
	int last = 0;

	for (int i = 1; i < times->count; i++)
	{
		TimeRange *range = &times->ranges[last];

		if (times->ranges[i].from <= range->until ||
			(uint64) times->ranges[i].from - (uint64) range->until <= gap)
			range->until = Max(range->until, times->ranges[i].until);
		else
			times->ranges[++last] = times->ranges[i];
	}
	times->count = Min(times->count, last + 1);
}

/*
 * Sort the ranges and join those that touch, and the nearest ones until there
 * are no more than max.
 */
void
edit_times_merge(EditTimes *times, int max)
{
	uint64 *gaps;

	qsort(times->ranges, times->count, sizeof(TimeRange), compare_ranges);
	join_ranges(times, 0);
	if (times->count <= max)
		return;
	gaps = palloc(times->count * sizeof(uint64));
	for (int i = 1; i < times->count; i++)
		gaps[i - 1] = (uint64) times->ranges[i].from - (uint64) times->ranges[i - 1].until;
	qsort(gaps, times->count - 1, sizeof(uint64), compare_gaps);
	join_ranges(times, gaps[max - 1]);
	pfree(gaps);
}
