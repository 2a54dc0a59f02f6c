/*-------------------------------------------------------------------------
 *
 * join.c
 *	  Plans for rollups that join: none that compares each row with each if
 *	  there is another.
 *
 * How many events the planner expects is often wrong: statistics know of none in
 * times that came after the last ANALYZE, and of nothing about an expression such as
 * a bucket.  Where it expects one, a nested loop over the joined table costs as little
 * as a hash join, and is taken; with a million events it takes hours.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "sql.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

/* Whether a plan has a nested loop whose inner side does not depend on the outer one,
 * as an index scan would. */
static bool
has_plain_loop(const Plan *plan)
{
	const ListCell *cell;

	if (plan == NULL)
		return false;
	if (IsA(plan, NestLoop) && ((const NestLoop *) plan)->nestParams == NIL)
		return true;
	if (IsA(plan, SubqueryScan) && has_plain_loop(((const SubqueryScan *) plan)->subplan))
		return true;
	if (IsA(plan, Append))
	{
		foreach(cell, ((const Append *) plan)->appendplans)
		{
			if (has_plain_loop(lfirst(cell)))
				return true;
		}
	}
	return has_plain_loop(plan->lefttree) || has_plain_loop(plan->righttree);
}

/* Plan a query, with nested loops only where nothing else can join if there are to be
 * none.  Its aggregation is in one piece, of which the upper half is taken off
 * (partial.c): not one for each partition, below another one. */
static PlannedStmt *
plan_query(Query *query, const char *text, bool with_loops)
{
	int nest_level = sql_begin("enable_partitionwise_aggregate", "off");
	PlannedStmt *stmt;

	if (!with_loops)
		sql_set("enable_nestloop", "off");
	stmt = pg_plan_query(query, text, 0, NULL);
	AtEOXact_GUC(true, nest_level);
	return stmt;
}

/*
 * Plan the query of a rollup, which is written over; text stands for what nobody has
 * written.
 */
PlannedStmt *
join_plan(Query *query, const char *text)
{
	Query *copy = list_length(query->rtable) > 1 ? copyObject(query) : NULL;
	PlannedStmt *stmt = plan_query(query, text, true);
	PlannedStmt *other;

	if (copy == NULL || !has_plain_loop(stmt->planTree))
		return stmt;
	other = plan_query(copy, text, false);
	return has_plain_loop(other->planTree) ? stmt : other;
}
