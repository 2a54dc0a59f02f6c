/*-------------------------------------------------------------------------
 *
 * implied.c
 *	  Conditions that the bounds of a partition imply are not evaluated.
 *
 * A chunk of a filling has the events of a range of time, which its query says by two
 * conditions.  The planner leaves out the partitions that can have none of them, but
 * evaluates the conditions for each row of the others, of which all but those at the
 * ends have no other rows.  What a partition's constraint implies is found by the
 * planner's own proof, as it finds which partial indexes it may use.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/table.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/partcache.h"
#include "utils/rel.h"

/* What the bounds of a table say of its rows, by its number in the plan; NIL if it is
 * no partition. */
static List *
bounds_of(Oid relid, Index number)
{
	/* planning has locked it */
	Relation table = table_open(relid, NoLock);
	List *bounds = (List *) expression_planner((Expr *) RelationGetPartitionQual(table));

	if (number != 1)
		ChangeVarNodes((Node *) bounds, 1, number, 0);
	table_close(table, NoLock);
	return bounds;
}

/* The conditions of a scan that are still to be evaluated. */
static List *
conditions_left(const PlannedStmt *stmt, const SeqScan *scan)
{
	Index number = scan->scan.scanrelid;
	List *conditions = scan->scan.plan.qual;
	List *bounds;
	List *left = NIL;
	ListCell *cell;

	if (conditions == NIL)
		return NIL;
	bounds = bounds_of(rt_fetch(number, stmt->rtable)->relid, number);
	foreach(cell, conditions)
	{
		if (bounds == NIL || !predicate_implied_by(list_make1(lfirst(cell)), bounds, false))
			left = lappend(left, lfirst(cell));
	}
	return left;
}

/*
 * Take the conditions off a plan that the partitions' bounds imply: those of scans of
 * whole partitions, which are below nothing but the aggregation and joins.
 */
void
implied_remove(const PlannedStmt *stmt, Plan *plan)
{
	if (plan == NULL)
		return;
	if (IsA(plan, SeqScan))
		plan->qual = conditions_left(stmt, (SeqScan *) plan);
	else if (IsA(plan, Append))
	{
		ListCell *cell;

		foreach(cell, ((Append *) plan)->appendplans)
			implied_remove(stmt, lfirst(cell));
	}
	implied_remove(stmt, plan->lefttree);
	implied_remove(stmt, plan->righttree);
}
