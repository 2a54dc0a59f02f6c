/*-------------------------------------------------------------------------
 *
 * repair.c
 *	  Groups of a rollup are computed again, after events were edited.
 *
 * detect._repair names times whose groups are to be computed again.  Whoever
 * takes edits puts their times there, in the same commit (segment_follow.c),
 * and so does detect.rebuild_rollup.  The applier does one step at a time
 * between two batches, under the stream's lock: whole buckets, newest first,
 * whose groups it deletes and absorbs anew from the events table, in one
 * transaction.  That is exact: every batch is either in the table already or
 * yet to come, and an edit that commits later has a repair of its own.  Readers
 * see the groups as they were until that commit, and never none.
 *
 * A rollup that is being filled or is aside is repaired once it is active.
 * What can't be repaired stays as it is, with the reason (repair_check.c), for
 * detect.stat_rollup to tell; what fails is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/repair.h"

#include "catalog/pg_type.h"
#include "fault_point.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* What one step works on. */
typedef struct RepairStep
{
	const Rollup *rollup;
	const Repair *repair;
	const RollupShape *shape;
	int key;		 /* of the bucket; -1: there is none */
	TimeRange times; /* still to be done, in whole buckets */
	TimeRange chunk; /* of it: what this step does */
} RepairStep;

/* Leave the groups of the step's chunk as they are. */
static void
refuse_chunk(const RepairStep *step, const char *reason)
{
	repair_write_refused(step->repair, &step->chunk, reason);
	repair_write_done(step->repair, step->chunk.from);
}

/* What a repair is about: whole buckets, or all where there are none. */
static TimeRange
whole_buckets(const RepairStep *step)
{
	TimeRange all = {DT_NOBEGIN, DT_NOEND};

	if (step->key < 0)
		return all;
	return bucket_cover(step->shape, step->rollup, step->key, step->repair->times);
}

/* The newest part of what is to be done that is read in one step. */
static TimeRange
newest_chunk(const RepairStep *step)
{
	const Stream *stream = step->rollup->stream;
	TimeRange chunk = step->times;
	TimestampTz cut;

	if (step->key >= 0 && fill_has_chunks(stream) &&
		fill_next_chunk(stream, TIMESTAMP_IS_NOEND(chunk.until) ? NULL : &chunk.until, &cut) &&
		cut > chunk.from)
		chunk.from = Max(chunk.from, bucket_begin(step->shape, stream, step->key, cut));
	return chunk;
}

/*
 * Keep a chunk off the buckets whose events are gone: what lies above them is
 * done first, then they are refused, and what lies below comes with the next
 * step.  False when it was refused.
 */
static bool
avoid_gone(RepairStep *step)
{
	const Stream *stream = step->rollup->stream;
	TimestampTz end;
	TimeRange gone;

	if (step->repair->allow_loss ||
		!repair_find_gone(stream, step->chunk.from, step->chunk.until, &gone))
		return true;
	if (step->key >= 0)
	{
		end = TIMESTAMP_NOT_FINITE(gone.until)
				  ? gone.until
				  : bucket_end(step->shape, stream, step->key, gone.until - 1);
		if (end < step->chunk.until)
		{
			step->chunk.from = end;
			return true;
		}
		step->chunk.from =
			Max(step->chunk.from, bucket_begin(step->shape, stream, step->key, gone.from));
	}
	refuse_chunk(step, "some events of these times are gone");
	return false;
}

/* Whether events can be selected by a range of time. */
static bool
has_time_range(const Stream *stream)
{
	Oid type =
		get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time));

	return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
}

/* The times whose first and last buckets have those of the chunk between them: more than
 * the chunk where local time goes back, unless events of these are gone. */
static TimeRange
reach_of_chunk(const RepairStep *step)
{
	const Stream *stream = step->rollup->stream;
	TimeRange reach = step->chunk;
	TimeRange gone;

	if (!TIMESTAMP_NOT_FINITE(reach.from))
		reach.from = bucket_reach(step->shape, stream, step->key, reach.from, -1);
	if (!TIMESTAMP_NOT_FINITE(reach.until))
		reach.until = bucket_reach(step->shape, stream, step->key, reach.until, 1);
	return repair_find_gone(stream, reach.from, reach.until, &gone) ? step->chunk : reach;
}

/* The events of the step's chunk. */
static PartialSource
chunk_source(const RepairStep *step)
{
	const Stream *stream = step->rollup->stream;
	PartialSource source = {0};
	TimeRange reach;
	int64 slack_usec;

	if (step->key < 0)
		return source;
	source.bucket_key = step->key;
	slack_usec = bucket_slack_usec(step->shape, stream, step->key);
	reach = reach_of_chunk(step);
	if (!TIMESTAMP_NOT_FINITE(reach.from))
	{
		source.first_bucket = bucket_of(step->shape, stream, step->key, reach.from);
		source.has_from = has_time_range(stream);
		source.from = reach.from - slack_usec;
	}
	if (!TIMESTAMP_NOT_FINITE(reach.until))
	{
		source.last_bucket = bucket_of(step->shape, stream, step->key, reach.until - 1);
		source.has_until = has_time_range(stream);
		source.until = reach.until + slack_usec;
	}
	return source;
}

/* The condition on the state table that a group is of the source's buckets. */
static char *
bucket_condition(const Rollup *rollup, const PartialSource *source)
{
	const char *column;

	if (source->first_bucket == NULL && source->last_bucket == NULL)
		return "true";
	column = quote_identifier(get_attname(rollup->state_table, source->bucket_key + 1, false));
	if (source->last_bucket == NULL)
		return psprintf("%s >= $1", column);
	if (source->first_bucket == NULL)
		return psprintf("(%s <= $2 OR %s IS NULL)", column, column);
	return psprintf("%s BETWEEN $1 AND $2", column);
}

/* Delete the groups that are to be computed again. */
static void
delete_groups(const Rollup *rollup, const PartialSource *source)
{
	const Const *first = source->first_bucket;
	const Const *last = source->last_bucket;
	const Const *any = first ? first : last;
	Oid types[2];
	Datum values[2] = {first ? first->constvalue : (Datum) 0, last ? last->constvalue : (Datum) 0};
	char nulls[2] = {first ? ' ' : 'n', last ? ' ' : 'n'};

	types[0] = types[1] = any ? any->consttype : INT4OID;
	SPI_connect();
	if (SPI_execute_with_args(psprintf("DELETE FROM " DETECT_STATE_SCHEMA ".%s WHERE %s",
									   quote_identifier(get_rel_name(rollup->state_table)),
									   bucket_condition(rollup, source)),
							  2, types, values, nulls, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete groups of rollup \"%s\"", rollup->name);
	SPI_finish();
}

/* Compute the groups of the step's chunk again. */
static void
compute_chunk(const RepairStep *step)
{
	PartialSource source = chunk_source(step);
	TimeRange gone;

	delete_groups(step->rollup, &source);
	FAULT_POINT("after_group_deletion");
	rollup_absorb(step->rollup, partial_plan_create(CurrentMemoryContext), &source);
	/* now that what was read is locked, and nothing of it can vanish any more */
	if (!step->repair->allow_loss &&
		repair_find_gone(step->rollup->stream, step->chunk.from, step->chunk.until, &gone))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("events of rollup \"%s\" are gone while they were read",
							   step->rollup->name)));
	repair_write_covered(step->repair, &step->chunk);
	repair_write_done(step->repair, step->chunk.from <= step->times.from ? step->repair->times.from
																		 : step->chunk.from);
	FAULT_POINT("after_repair_chunk");
}

/* Do one step of a repair, under the rollup's time zone. */
static void
do_step(RepairStep *step)
{
	const Repair *repair = step->repair;
	const char *obstacle = NULL;

	if (step->key >= 0 && !bucket_is_ordered(step->shape, step->key))
		step->key = -1;
	if (!repair->asked)
		obstacle = repair_obstacle(step->rollup, step->shape);
	step->times = obstacle ? repair->times : whole_buckets(step);
	if (step->times.from >= step->times.until)
	{
		repair_write_done(repair, repair->times.from);
		return;
	}
	step->chunk = obstacle ? step->times : newest_chunk(step);
	if (obstacle == NULL && !repair->asked)
		obstacle = repair_size_obstacle(step->rollup, step->chunk.from, step->chunk.until);
	if (obstacle != NULL)
		refuse_chunk(step, obstacle);
	else if (avoid_gone(step))
		compute_chunk(step);
}

/* Take a step of a repair; for aside_try(). */
static void
repair_step(void *arg)
{
	RepairStep *step = (RepairStep *) arg;
	int nest_level = partial_enter_time_zone(step->rollup);

	step->shape = shape_load(step->rollup->query_view, step->rollup->stream->events_table);
	step->key = bucket_key(step->shape, step->rollup->stream);
	do_step(step);
	AtEOXact_GUC(true, nest_level);
}

/*
 * One step of what is to be repaired among the rollups of a set; called by
 * rollup_set_fill, when there is nothing to fill.  False when there was nothing
 * to do.
 */
bool
rollup_set_repair(RollupSet *set)
{
	Repair repair;
	ErrorData *error;

	if (!repair_next(set->stream, &repair))
	{
		set->repair_due = repair_next_retry(set->stream);
		return false;
	}
	for (int i = 0; i < set->nrollups; i++)
	{
		RepairStep step = {.rollup = &set->rollups[i], .repair = &repair};

		if (set->rollups[i].id != repair.rollup_id)
			continue;
		error = aside_try(repair_step, &step, true);
		if (error != NULL)
			repair_write_failed(&set->rollups[i], &repair, error);
		return true;
	}
	/* it has just been made or dropped: the set is loaded again before long */
	set->repair_due = aside_retry_time(1, ROLLUP_RETRY_MAX_MS);
	return false;
}
