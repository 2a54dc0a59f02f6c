/*-------------------------------------------------------------------------
 *
 * segment_watch.c
 *	  Triggers on partitions that others made, so that edits of their rows are known.
 *
 * A partition that the stream makes gets its triggers with it.  One that somebody
 * else makes or attaches has none until the applier sees that the events table has
 * changed.  What rows it has by then came along with it, and no rollup has counted them:
 * its times are told as those of an edit.  One that was a partition before, here or
 * elsewhere, has triggers, which tell if it was edited meanwhile (edit_detached.c);
 * that rollups lack its rows is found by gone_follow.c.  The lock under which triggers
 * are made keeps writers out, so that a row is there before, or fires them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_inherits.h"
#include "commands/trigger.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply/edit.h"
#include "apply/segment.h"

/*
 * Has the edits of a relation queued from now on, unless it is another owner's or
 * somebody writes to it just now: the applier waits for nobody.
 */
bool
segment_watch(Oid relation)
{
	if (!events_triggers_may_make(relation) ||
		!ConditionalLockRelationOid(relation, ShareRowExclusiveLock))
		return false;
	if (get_rel_name(relation) == NULL)
		return false;
	events_triggers_make(relation);
	return true;
}

/* Has a partition read again that was edited while it was detached, though it is the
 * same to the map. */
static void
read_edited(SegmentMap *map, const List *edited)
{
	int i;

	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (segment->identities != NULL && list_member_oid(edited, segment->relation))
			segment->must_read = true;
	}
}

/*
 * Has the edits of all partitions queued that came since the last call, and tells
 * the times of rows that came with them, unless times is NULL.
 */
void
segment_map_watch_partitions(SegmentMap *map, EditTimes *times)
{
	uint32 changes = map->changes;
	List *edited;
	ListCell *cell;

	if (map->watched == changes)
		return;
	map->leaves_unwatched = false;
	edited = edit_take_detached(map->table);
	read_edited(map, edited);
	foreach(cell, find_inheritance_children(map->table, NoLock))
	{
		Oid relation = lfirst_oid(cell);
		bool is_watched = OidIsValid(get_trigger_oid(relation, EVENTS_TRIGGER, true));

		if (!is_watched && !segment_watch(relation))
			map->leaves_unwatched = true;
		else if (times != NULL && (list_member_oid(edited, relation) ||
								   (!is_watched && partition_may_have_rows(relation))))
			edit_times_add(times, &(Edit){.relation = relation});
	}
	map->watched_now = changes;
}

/*
 * Looks again at partitions whose triggers could not be made when they came.
 */
void
segment_map_watch(SegmentMap *map)
{
	int i;

	if (map->leaves_unwatched)
		map->watched = map->watched_now = map->changes - 1;
	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (segment->identities != NULL && !segment->watched &&
			events_triggers_may_make(segment->relation) &&
			ConditionalLockRelationOid(segment->relation, ShareRowExclusiveLock))
			segment->must_read = true;
	}
}
