/*-------------------------------------------------------------------------
 *
 * place_expressions.c
 *	  The view of a locator, evaluated row by row.
 *
 * Whoever reads only the rows that have changed can't ask the view, which gives
 * no versions of rows: so its condition, its columns and what it orders by are
 * taken out of it, and evaluated by the executor as it would evaluate them.  The
 * caller's right to read the columns has been checked by then; the right to
 * call the functions in them is checked here, as in any query.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place_rows.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

/* Whether a place is not empty, as an expression. */
static Expr *
is_not_empty(const Locator *locator, Expr *place)
{
	Oid geometry = locator->geometry_type;
	Expr *call;

	if (locator->place_type != geometry)
		place = (Expr *) makeFuncExpr(
			postgis_function(locator, "geometry", 1, &locator->place_type), geometry,
			list_make1(place), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	call = (Expr *) makeFuncExpr(postgis_function(locator, "st_isempty", 1, &geometry), BOOLOID,
								 list_make1(place), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	return makeBoolExpr(NOT_EXPR, list_make1(call), -1);
}

/* Whether the view is a selection of rows of the place table, as create_locator makes
 * it: its owner may have replaced its rule. */
static bool
reads_table(const Query *query, Oid place_table)
{
	const RangeTblRef *from;

	if (list_length(query->jointree->fromlist) != 1 || query->hasAggs || query->hasWindowFuncs ||
		query->hasTargetSRFs || query->hasSubLinks || query->cteList != NIL ||
		query->setOperations != NULL || query->groupClause != NIL || query->distinctClause != NIL ||
		query->limitCount != NULL || query->limitOffset != NULL || query->rowMarks != NIL)
		return false;
	from = linitial(query->jointree->fromlist);
	return IsA(from, RangeTblRef) && rt_fetch(from->rtindex, query->rtable)->relid == place_table;
}

/* Whether all that is looked at are columns, of which each row has its own. */
static bool
has_only_columns(const Query *query)
{
	List *vars = list_concat(pull_var_clause((Node *) query->targetList, 0),
							 pull_var_clause(query->jointree->quals, 0));
	ListCell *cell;

	foreach(cell, vars)
	{
		if (lfirst_node(Var, cell)->varattno <= 0)
			return false;
	}
	return true;
}

/* Prepare the i-th thing to order by. */
static void
prepare_order(PlaceExpressions *expressions, int i, const TargetEntry *target, Oid operator,
			  bool nulls_first)
{
	OrderExpression *order = &expressions->order[i];
	SortSupport sort = &expressions->sort[i];

	if (target->resno != LOCATOR_KEY_COLUMN)
		order->state = ExecPrepareExpr(target->expr, expressions->estate);
	get_typlenbyval(exprType((Node *) target->expr), &order->length, &order->by_value);
	sort->ssup_cxt = CurrentMemoryContext;
	sort->ssup_collation = exprCollation((Node *) target->expr);
	sort->ssup_nulls_first = nulls_first;
	PrepareSortSupportFromOrderingOp(operator, sort);
}

/* Prepare to order as the view does, and by key where it does not. */
static void
prepare_orders(PlaceExpressions *expressions, const Query *query)
{
	const TargetEntry *key = list_nth(query->targetList, LOCATOR_KEY_COLUMN - 1);
	int count = list_length(query->sortClause);
	Oid less;

	expressions->norder = Max(count, 1);
	expressions->order = palloc0(expressions->norder * sizeof(OrderExpression));
	expressions->sort = palloc0(expressions->norder * sizeof(SortSupportData));
	for (int i = 0; i < count; i++)
	{
		SortGroupClause *clause = list_nth(query->sortClause, i);

		prepare_order(expressions, i,
					  get_sortgroupref_tle(clause->tleSortGroupRef, query->targetList),
					  clause->sortop, clause->nulls_first);
	}
	if (count == 0)
	{
		get_sort_group_operators(exprType((Node *) key->expr), true, false, false, &less, NULL,
								 NULL, NULL);
		prepare_order(expressions, 0, key, less, false);
	}
}

/*
 * Begin to evaluate the view of a locator over rows of its place table; NULL when
 * only the view can.
 */
PlaceExpressions *
place_expressions_begin(const Locator *locator)
{
	PlaceExpressions *expressions;
	Query *query = locator_view_query(locator);
	const TargetEntry *key = list_nth(query->targetList, LOCATOR_KEY_COLUMN - 1);
	const TargetEntry *place = list_nth(query->targetList, LOCATOR_PLACE_COLUMN - 1);
	List *conditions;
	List *vars;
	Var *var;

	if (!reads_table(query, locator->place_table) || !has_only_columns(query))
		return NULL;
	vars = pull_var_clause((Node *) key->expr, 0);
	if (vars == NIL)
		return NULL;
	var = linitial_node(Var, vars);
	ChangeVarNodes((Node *) query->targetList, var->varno, 1, 0);
	ChangeVarNodes(query->jointree->quals, var->varno, 1, 0);
	conditions = make_ands_implicit((Expr *) query->jointree->quals);
	conditions = lappend(conditions, is_not_empty(locator, copyObject(place->expr)));

	expressions = palloc0(sizeof(PlaceExpressions));
	expressions->estate = CreateExecutorState();
	expressions->condition = ExecPrepareQual(conditions, expressions->estate);
	expressions->key = ExecPrepareExpr(key->expr, expressions->estate);
	expressions->place = ExecPrepareExpr(place->expr, expressions->estate);
	prepare_orders(expressions, query);
	return expressions;
}

/*
 * Free what evaluation took.
 */
void
place_expressions_end(PlaceExpressions *expressions)
{
	FreeExecutorState(expressions->estate);
	pfree(expressions);
}
