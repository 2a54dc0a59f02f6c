/*-------------------------------------------------------------------------
 *
 * repair_check.c
 *	  Which groups of a rollup can be computed again from the events.
 *
 * A repair gives what the rollup would be had the events always been as they
 * are now.  That holds for groups whose events are all there, and for queries
 * that read nothing else: places that have changed since would change events
 * which nobody has edited.  A query that joins or calls functions of users is
 * therefore only computed again when somebody asks for it (rebuild.c).
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/repair.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* More events than these are not read again because somebody has edited some:
 * the stream waits meanwhile. */
#define MAX_REPAIRED_EVENTS 10e6

/* For check_functions_in_node: whether a function may give another result than
 * it gave when the event was applied.  Those of PostgreSQL are stable because
 * of settings, which are the rollup's own. */
static bool
may_have_changed(Oid function, void *context)
{
	if (func_volatile(function) == PROVOLATILE_IMMUTABLE)
		return false;
	return function >= FirstGenbkiObjectId || function == F_NOW ||
		   function == F_TRANSACTION_TIMESTAMP || function == F_STATEMENT_TIMESTAMP ||
		   function == F_CURRENT_SETTING_TEXT || function == F_CURRENT_SETTING_TEXT_BOOL;
}

/* Walker: find what does not depend on the event alone. */
static bool
find_changing(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) || IsA(node, SQLValueFunction))
		return true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_changing, context, 0);
	return check_functions_in_node(node, may_have_changed, NULL) ||
		   expression_tree_walker(node, find_changing, context);
}

/* Walker: count what FROM reads. */
static bool
count_references(Node *node, int *count)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblRef))
		(*count)++;
	return expression_tree_walker(node, count_references, count);
}

/* Whether the query of a rollup reads anything beside its events. */
static bool
reads_others(const RollupShape *shape)
{
	int count = 0;

	count_references((Node *) shape->query->jointree, &count);
	return count > 1;
}

/*
 * Why a rollup is not repaired after an edit, or NULL.
 */
const char *
repair_obstacle(const Rollup *rollup, const RollupShape *shape)
{
	int key = bucket_key(shape, rollup->stream);

	if (reads_others(shape))
		return "events were edited, and its query reads other tables, which may have changed";
	if (find_changing((Node *) shape->query, NULL))
		return "events were edited, and its query calls functions whose results may have changed";
	if (key < 0 || !bucket_is_ordered(shape, key))
		return "events were edited, and it has no group column made of the event time by date_bin or date_trunc";
	return NULL;
}

/*
 * Why so many events are not read again after an edit, or NULL.
 */
const char *
repair_size_obstacle(const Rollup *rollup, TimestampTz from, TimestampTz until)
{
	if (fill_estimate_events(rollup->stream, from, until) <= MAX_REPAIRED_EVENTS)
		return NULL;
	return "events were edited, and their groups have too many events to read all of them while the stream waits";
}

/*
 * Find the newest range in which events are gone that overlaps with one; false
 * when no events of it are.
 */
bool
repair_find_gone(const Stream *stream, TimestampTz from, TimestampTz until, TimeRange *gone)
{
	bool found = false;
	ListCell *cell;

	foreach(cell, gone_ranges(stream))
	{
		const TimeRange *range = lfirst(cell);

		if (range->from < until && range->until > from)
		{
			*gone = *range;
			found = true;
		}
	}
	return found;
}
