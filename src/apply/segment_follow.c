/*-------------------------------------------------------------------------
 *
 * segment_follow.c
 *	  The memory of identities follows what others do to the events table.
 *
 * One snapshot decides: a segment is read as it sees the table, and of the
 * queued edits those that it sees are taken.  They are in the rows of the
 * segments just read already, and are counted into the others.  So each row
 * is counted once, whenever it was written.
 *
 * This has a transaction of its own, before that of a batch: if it fails, the
 * segments that it touched are read again, while a batch that fails costs
 * nothing.  Edits that commit later overlap with the batch; the next follows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/applier.h"
#include "apply/edit.h"
#include "apply/segment.h"

/* Locks the segments that must be read. */
static void
lock_unread(SegmentMap *map)
{
	int i;

	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (!segment->must_read)
			continue;
		segment->read_now = true;
		LockRelationOid(segment->relation, AccessShareLock);
		if (!segment->watched)
			segment->watched = segment_watch(segment->relation);
	}
}

/* Reads those segments, unless they are gone. */
static void
read_segments(SegmentMap *map, Snapshot snapshot)
{
	int i;

	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (!segment->read_now)
			continue;
		if (get_rel_name(segment->relation) != NULL)
		{
			segment_read(map, segment, snapshot);
			continue;
		}
		map->changes++;
		segment_forget(segment);
		segment->must_read = false;
	}
}

/* A queued row whose identity is wanted. */
typedef struct RowStep
{
	const SegmentMap *map;
	Jsonb *row;
	Datum values[INDEX_MAX_KEYS];
	bool has_null;
	bool lacks_column; /* it was queued for another identity */
} RowStep;

/* For subtransaction_try(): the values of a queued row's identity. */
static void
row_step(void *arg)
{
	RowStep *step = arg;
	const IdentityColumns *columns = step->map->columns;
	int i;

	for (i = 0; i < columns->n; i++)
	{
		char *text = edit_row_value(step->row, columns->names[i]);
		Oid input;
		Oid parameter;

		step->has_null = text == NULL;
		step->lacks_column = step->has_null && !edit_row_has(step->row, columns->names[i]);
		if (step->has_null)
			return;
		getTypeInputInfo(columns->types[i], &input, &parameter);
		step->values[i] = OidInputFunctionCall(input, text, parameter, -1);
	}
}

/* Counts a queued row in or out, unless its segment has it from reading.  False if
 * its values are none of the columns' types any more, or of other columns: both may have
 * changed while its transaction was open. */
static bool
count_row(SegmentMap *map, Jsonb *row, bool is_new)
{
	RowStep step = {.map = map, .row = row};
	Segment *segment;
	Identity identity;
	ErrorData *error;

	if (row == NULL || map->hasher == NULL || map->columns->n == 0)
		return true;
	error = subtransaction_try(row_step, &step, true);
	if (error != NULL && failure_kind(error) == FAILURE_DATA)
		return false;
	if (error != NULL)
		ReThrowError(error);
	if (step.has_null)
		return !step.lacks_column;
	segment = segment_find(map, step.values);
	if (segment == NULL || segment->identities == NULL || segment->read_now || segment->must_read)
		return true;
	segment->edited_now = true;
	identity = identity_hash(map->hasher, step.values);
	if (is_new)
		segment_add_row(map, segment, &identity);
	else
		segment_remove_row(map, segment, &identity);
	return true;
}

/* Has a segment read again, or all, after edits that can't be counted one by one. */
static void
read_again(SegmentMap *map, Oid relation)
{
	int i;

	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (segment->identities != NULL && !segment->read_now &&
			(relation == map->table || relation == segment->relation))
			segment->must_read = true;
	}
}

/* Takes the edits that the snapshot sees, and notes their times unless that is
 * NULL. */
static void
take_edits(SegmentMap *map, int32 stream_id, Snapshot snapshot, EditTimes *times)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect edit", ALLOCSET_DEFAULT_SIZES);
	EditScan scan;
	Edit edit;

	edit_scan_begin(&scan, stream_id, snapshot);
	while (edit_scan_next(&scan, &edit, context))
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		if ((edit.old_row == NULL && edit.new_row == NULL) ||
			!count_row(map, edit.old_row, false) || !count_row(map, edit.new_row, true))
			read_again(map, edit.relation);
		if (times != NULL)
			edit_times_add(times, &edit);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		edit_scan_delete(&scan);
	}
	edit_scan_end(&scan);
	MemoryContextDelete(context);
}

/*
 * Brings the memory of a map's segments up to date with all that is committed,
 * and tells the times of what others have edited, unless times is NULL.
 * Where more was edited than could be queued, segments must be read afterwards,
 * by another call.  The map is fresh; the transaction is for this alone.
 */
void
segment_map_follow(SegmentMap *map, int32 stream_id, EditTimes *times)
{
	Snapshot snapshot;

	segment_map_watch_partitions(map, times);
	lock_unread(map);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	read_segments(map, snapshot);
	take_edits(map, stream_id, snapshot, times);
	UnregisterSnapshot(snapshot);
}

/*
 * Keeps what the transaction has changed in memory.  Called at its commit.
 */
void
segment_map_followed(SegmentMap *map)
{
	int i;

	map->watched = map->watched_now;
	for (i = 0; i < map->n; i++)
		map->segments[i]->read_now = map->segments[i]->edited_now = false;
}

/*
 * Gives up what the transaction has changed in memory, to be read again.
 * Called at its abort: raises no errors.
 */
void
segment_map_not_followed(SegmentMap *map)
{
	int i;

	map->watched_now = map->watched;
	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (!segment->read_now && !segment->edited_now)
			continue;
		segment->must_read = true;
		segment->watched = false;
		segment->examined = 0;
		segment_forget(segment);
	}
	segment_map_followed(map);
}
