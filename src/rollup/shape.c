/*-------------------------------------------------------------------------
 *
 * shape.c
 *	  How a rollup's query is split into keys, states and what is made of them.
 *
 * The same query is taken apart three times: when the state table is made,
 * when the finalizing view is made, and whenever partial states are planned.
 * All three must agree on the order of keys and states, so it follows from the
 * query alone: keys in the order of GROUP BY, states in the order in which
 * distinct aggregates first occur in the target list and then in HAVING.  The
 * columns of the state table stand in that order, keys first, and are found by
 * position, never by name.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_agg.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Where the walk over a query's expressions gathers its aggregates. */
typedef struct AggrefSearch
{
	List *aggrefs; /* distinct */
} AggrefSearch;

/* A finalizing expression in the making. */
typedef struct Finalization
{
	const RollupShape *shape;
	Oid finalize_function;
} Finalization;

/* Walker: gather the distinct aggregates of a query's own level. */
static bool
find_aggrefs(Node *node, AggrefSearch *search)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
	{
		search->aggrefs = list_append_unique(search->aggrefs, node);
		return false;
	}
	return expression_tree_walker(node, find_aggrefs, search);
}

/*
 * A name for a column of the state table: the wanted one, or with underscores
 * behind it where the user's query has given that name to something else.
 */
static char *
free_name(const RollupShape *shape, const char *wanted)
{
	char *name = pstrdup(wanted);
	bool taken;

	do
	{
		ListCell *cell;

		taken = false;
		foreach(cell, shape->query->targetList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, cell);

			taken |= !entry->resjunk && strcmp(entry->resname, name) == 0;
		}
		if (taken)
			name = psprintf("%s_", name);
	} while (taken);
	return name;
}

/* The output column that is just this expression, or NULL. */
static char *
output_name(const RollupShape *shape, const Expr *expr)
{
	ListCell *cell;

	foreach(cell, shape->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!entry->resjunk && equal(entry->expr, expr))
			return pstrdup(entry->resname);
	}
	return NULL;
}

/* The range table index of the events table; the query has been checked. */
static int
find_events_rti(const Query *query, Oid events_table)
{
	int rti = 0;
	ListCell *cell;

	foreach(cell, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

		rti++;
		if (rte->rtekind == RTE_RELATION && rte->relid == events_table)
			return rti;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("the query of a rollup no longer reads \"%s\"", get_rel_name(events_table)),
			 errhint("Drop the rollup with detect.drop_rollup and create it again.")));
}

/* Fill in the keys: the groups, or a constant where there are none. */
static void
add_keys(RollupShape *shape)
{
	ListCell *cell;
	RollupKey *key;

	shape->ngroups = list_length(shape->query->groupClause);
	shape->nkeys = Max(shape->ngroups, 1);
	key = shape->keys = palloc0(shape->nkeys * sizeof(RollupKey));

	foreach(cell, shape->query->groupClause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, cell);
		TargetEntry *entry = get_sortgroupclause_tle(clause, shape->query->targetList);

		key->expr = entry->expr;
		key->sortgroupref = clause->tleSortGroupRef;
		key->name = output_name(shape, entry->expr);
		/* the same expression may be grouped by twice */
		for (RollupKey *other = shape->keys; other < key && key->name != NULL; other++)
		{
			if (strcmp(other->name, key->name) == 0)
				key->name = NULL;
		}
		if (key->name == NULL)
			key->name = free_name(shape, psprintf("g%d", (int) (key - shape->keys) + 1));
		key++;
	}
	if (shape->ngroups == 0)
	{
		key->expr = (Expr *) makeBoolConst(true, false);
		key->name = free_name(shape, "all_events");
	}
	for (int i = 0; i < shape->nkeys; i++)
	{
		shape->keys[i].type = exprType((Node *) shape->keys[i].expr);
		shape->keys[i].typmod = exprTypmod((Node *) shape->keys[i].expr);
		shape->keys[i].collation = exprCollation((Node *) shape->keys[i].expr);
	}
}

/*
 * Describe the column that holds the states of an aggregate.  The type is the
 * transition type, resolved if polymorphic; an internal state is kept as what
 * its serial function makes of it.
 */
static void
describe_state(RollupState *state, Aggref *aggref)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate aggregate;
	Oid argument_types[FUNC_MAX_ARGS];
	int arguments = get_aggregate_argtypes(aggref, argument_types);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	aggregate = (Form_pg_aggregate) GETSTRUCT(tuple);

	state->aggref = aggref;
	state->serialized = aggregate->aggtranstype == INTERNALOID;
	state->finalized = OidIsValid(aggregate->aggfinalfn);
	state->combine_function = aggregate->aggcombinefn;
	state->type = state->serialized
					  ? aggregate_state_stored_type(aggregate->aggdeserialfn)
					  : resolve_aggregate_transtype(aggref->aggfnoid, aggregate->aggtranstype,
													argument_types, arguments);
	if (!type_is_collatable(state->type))
		state->collation = InvalidOid;
	else if (OidIsValid(aggref->inputcollid))
		state->collation = aggref->inputcollid;
	else
		state->collation = get_typcollation(state->type);
	ReleaseSysCache(tuple);
}

/* qsort comparator: states of no fixed length first, else as they were. */
static int
compare_states(const void *left, const void *right)
{
	const RollupState *a = left;
	const RollupState *b = right;
	int by_length = (get_typlen(a->type) > 0) - (get_typlen(b->type) > 0);

	return by_length != 0 ? by_length : a->position - b->position;
}

/*
 * Fill in the states: one for each distinct aggregate.  WAL of an update has what
 * lies between the first byte that changed and the last.  The head of an array
 * stays and so do the high bytes of a count: the former begins the states, the
 * latter end them.
 */
static void
add_states(RollupShape *shape)
{
	AggrefSearch search = {NIL};
	ListCell *cell;

	find_aggrefs((Node *) shape->query->targetList, &search);
	find_aggrefs(shape->query->havingQual, &search);
	shape->states = palloc0((list_length(search.aggrefs) + 1) * sizeof(RollupState));

	foreach(cell, search.aggrefs)
	{
		RollupState *state = &shape->states[shape->nstates];

		describe_state(state, lfirst_node(Aggref, cell));
		state->position = shape->nstates++;
	}
	qsort(shape->states, shape->nstates, sizeof(RollupState), compare_states);
	for (int i = 0; i < shape->nstates; i++)
	{
		RollupState *state = &shape->states[i];

		if (!state->finalized)
			state->name = output_name(shape, (Expr *) state->aggref);
		if (state->name == NULL)
			state->name = free_name(shape, psprintf("s%d", state->position + 1));
	}
}

/*
 * Take a query apart that query_check has let pass.  Works on a copy; the
 * result lives in the current context.
 */
RollupShape *
shape_create(const Query *query, Oid events_table)
{
	RollupShape *shape = palloc0(sizeof(RollupShape));

	shape->query = copyObject(unconstify(Query *, query));
	shape->query->targetList =
		(List *) compat_flatten_vars(shape->query, (Node *) shape->query->targetList);
	shape->query->havingQual = compat_flatten_vars(shape->query, shape->query->havingQual);
	shape->events_rti = find_events_rti(shape->query, events_table);
	add_keys(shape);
	add_states(shape);
	return shape;
}

/*
 * The same of the query that a rollup keeps as a view.
 */
RollupShape *
shape_load(Oid query_view, Oid events_table)
{
	Relation view = table_open(query_view, AccessShareLock);
	RollupShape *shape = shape_create(get_view_query(view), events_table);

	table_close(view, NoLock);
	return shape;
}

/* What the view shows of a state: the state itself or its finalization. */
static Expr *
finalize_state(const Finalization *finalization, int index)
{
	const RollupState *state = &finalization->shape->states[index];
	Aggref *aggref = state->aggref;
	AttrNumber attnum = finalization->shape->nkeys + index + 1;
	Var *column = makeVar(1, attnum, state->type, -1, state->collation, 0);
	Const *result_type;
	Const *aggregate;

	if (!state->finalized && state->collation == aggref->aggcollid)
		return (Expr *) column;
	if (!state->finalized)
		return (Expr *) makeRelabelType((Expr *) column, state->type, -1, aggref->aggcollid,
										COERCE_IMPLICIT_CAST);

	result_type = makeNullConst(aggref->aggtype, -1, aggref->aggcollid);
	aggregate = makeConst(REGPROCEDUREOID, -1, InvalidOid, sizeof(Oid),
						  ObjectIdGetDatum(aggref->aggfnoid), false, true);
	return (Expr *) makeFuncExpr(finalization->finalize_function, aggref->aggtype,
								 list_make3(result_type, aggregate, column), aggref->aggcollid,
								 aggref->inputcollid, COERCE_EXPLICIT_CALL);
}

/* Mutator: from an expression over groups and aggregates to one over the
 * columns of the state table. */
static Node *
finalize_expression(Node *node, Finalization *finalization)
{
	const RollupShape *shape = finalization->shape;

	if (node == NULL)
		return NULL;
	for (int i = 0; i < shape->ngroups; i++)
	{
		const RollupKey *key = &shape->keys[i];

		if (equal(node, key->expr))
			return (Node *) makeVar(1, i + 1, key->type, key->typmod, key->collation, 0);
	}
	for (int i = 0; IsA(node, Aggref) && i < shape->nstates; i++)
	{
		if (equal(node, shape->states[i].aggref))
			return (Node *) finalize_state(finalization, i);
	}
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;
		RangeTblEntry *rte = rt_fetch(var->varno, shape->query->rtable);

		ereport(
			ERROR,
			(errcode(ERRCODE_GROUPING_ERROR),
			 errmsg("column \"%s.%s\" must be in the GROUP BY clause of a rollup",
					rte->eref->aliasname, get_rte_attribute_name(rte, var->varattno)),
			 errdetail("It only depends on a grouped primary key, whose table may change later."),
			 errhint("Add the column to GROUP BY.")));
	}
	if (IsA(node, SubLink))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a rollup cannot contain subqueries over its groups"),
						errhint("Join the rollup's view with that table when reading it.")));
	return expression_tree_mutator(node, finalize_expression, finalization);
}

/* Finalization for the states of a shape. */
static Finalization
make_finalization(const RollupShape *shape)
{
	Oid types[3] = {ANYELEMENTOID, REGPROCEDUREOID, ANYOID};
	List *name = list_make2(makeString(DETECT_SCHEMA), makeString("_finalize"));
	Finalization finalization = {shape, LookupFuncName(name, 3, types, false)};

	return finalization;
}

/*
 * The results of the aggregates, in the order of their states, over the state
 * table as range table entry 1.
 */
List *
shape_results(const RollupShape *shape)
{
	Finalization finalization = make_finalization(shape);
	List *results = NIL;

	for (int i = 0; i < shape->nstates; i++)
		results = lappend(results, finalize_state(&finalization, i));
	return results;
}

/*
 * The target list of the view that finalizes the states, with the names and
 * types of the user's query, over the state table as range table entry 1; and
 * what HAVING has become.
 */
List *
shape_public_targets(const RollupShape *shape, Oid state_table, Node **having)
{
	Finalization finalization = make_finalization(shape);
	List *targets = NIL;
	ListCell *cell;

	foreach(cell, shape->query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		Node *expr;

		if (entry->resjunk)
			continue;
		expr = finalize_expression((Node *) entry->expr, &finalization);
		targets = lappend(targets, makeTargetEntry((Expr *) expr, list_length(targets) + 1,
												   pstrdup(entry->resname), false));
	}
	*having = finalize_expression(shape->query->havingQual, &finalization);
	return targets;
}
