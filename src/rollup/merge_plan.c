/*-------------------------------------------------------------------------
 *
 * merge_plan.c
 *	  How a stored row of a rollup's states is merged with a partial one.
 *
 * The states of a row are merged by detect._combine, which can merge any, but
 * costs a call of the aggregate's functions in an environment of their own.
 * Where the combine function is an ordinary strict function of PostgreSQL over
 * plain values (int8pl for count, the larger of two for max) it is called
 * directly: it gives the same in less time.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/merge_plan.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/*
 * Make an empty plan that lives as long as context.
 */
MergePlan *
merge_plan_create(MemoryContext context)
{
	MergePlan *plan = MemoryContextAllocZero(context, sizeof(MergePlan));

	plan->context = AllocSetContextCreate(context, "detect merge plan", ALLOCSET_SMALL_SIZES);
	return plan;
}

/*
 * Whether a combine function may be called as any function: it is strict, one
 * of PostgreSQL's own, and its state is a plain value, for those that work on
 * arrays expect to be called within an aggregate.
 */
static bool
is_plain_function(const RollupState *state)
{
	HeapTuple tuple;
	Form_pg_proc proc;
	bool plain;

	if (state->serialized || state->combine_function >= FirstGenbkiObjectId ||
		state->type >= FirstGenbkiObjectId || OidIsValid(get_element_type(state->type)))
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(state->combine_function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", state->combine_function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	plain = proc->prolang == INTERNALlanguageId && proc->proisstrict && !proc->proretset &&
			proc->prorettype == state->type && proc->pronargs == 2 &&
			proc->proargtypes.values[0] == state->type &&
			proc->proargtypes.values[1] == state->type;
	ReleaseSysCache(tuple);
	return plain;
}

/* How states are compared: as their aggregate compares, if what it takes can be. */
static Oid
input_collation(const RollupState *state)
{
	return OidIsValid(state->aggref->inputcollid) ? state->aggref->inputcollid : state->collation;
}

/* detect._combine(aggregate, stored, partial). */
static Expr *
make_combine_call(const RollupState *state, Var *stored, Var *partial)
{
	Oid types[3] = {REGPROCEDUREOID, ANYELEMENTOID, ANYELEMENTOID};
	List *name = list_make2(makeString(DETECT_SCHEMA), makeString("_combine"));
	Const *aggregate = makeConst(REGPROCEDUREOID, -1, InvalidOid, sizeof(Oid),
								 ObjectIdGetDatum(state->aggref->aggfnoid), false, true);

	return (Expr *) makeFuncExpr(LookupFuncName(name, lengthof(types), types, false), state->type,
								 list_make3(aggregate, stored, partial), InvalidOid,
								 input_collation(state), COERCE_EXPLICIT_CALL);
}

/* The expression that merges a stored state with a partial one. */
static Expr *
make_combination(const RollupState *state, AttrNumber attnum)
{
	Var *stored = makeVar(INNER_VAR, attnum, state->type, -1, state->collation, 0);
	Var *partial = makeVar(OUTER_VAR, attnum, state->type, -1, state->collation, 0);
	CoalesceExpr *coalesce;

	if (!is_plain_function(state))
		return make_combine_call(state, stored, partial);
	/* A strict function is not called with NULL: the other state stands. */
	coalesce = makeNode(CoalesceExpr);
	coalesce->coalescetype = state->type;
	coalesce->coalescecollid = state->collation;
	coalesce->args =
		list_make3(makeFuncExpr(state->combine_function, state->type, list_make2(stored, partial),
								state->collation, input_collation(state), COERCE_EXPLICIT_CALL),
				   stored, partial);
	coalesce->location = -1;
	return (Expr *) coalesce;
}

/*
 * Raise an error unless the state table has the columns that the query needs,
 * in their order.
 */
void
merge_check_state_table(const Rollup *rollup, const RollupShape *shape, TupleDesc tupdesc)
{
	bool fits = tupdesc->natts == shape->nkeys + shape->nstates;

	for (int i = 0; fits && i < tupdesc->natts; i++)
		fits = TupleDescAttr(tupdesc, i)->atttypid ==
			   (i < shape->nkeys ? shape->keys[i].type : shape->states[i - shape->nkeys].type);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the state table of rollup \"%s\" does not fit its query", rollup->name),
				 errdetail("Columns of \"%s.%s\" or what the query computes have been changed.",
						   DETECT_STATE_SCHEMA, get_rel_name(rollup->state_table)),
				 errhint("Drop the rollup with detect.drop_rollup and create it again.")));
}

/* Make the plan: what a merged row is made of. */
static void
make_plan(MergePlan *plan, const Rollup *rollup, TupleDesc tupdesc)
{
	RollupShape *shape = shape_load(rollup->query_view, rollup->stream->events_table);
	MemoryContext saved_context;
	List *targets = NIL;

	merge_check_state_table(rollup, shape, tupdesc);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(tupdesc, i);
		Expr *expr;

		if (i < shape->nkeys)
			expr = (Expr *) makeVar(INNER_VAR, i + 1, column->atttypid, column->atttypmod,
									column->attcollation, 0);
		else
			expr = make_combination(&shape->states[i - shape->nkeys], i + 1);
		targets = lappend(targets, makeTargetEntry(expr, i + 1, NULL, false));
	}

	plan->tupdesc = NULL;
	MemoryContextReset(plan->context);
	saved_context = MemoryContextSwitchTo(plan->context);
	plan->targets = copyObject(targets);
	plan->nkeys = shape->nkeys;
	plan->nstates = shape->nstates;
	plan->groups = group_rows_create(tupdesc, plan->nkeys);
	plan->tupdesc = CreateTupleDescCopy(tupdesc);
	MemoryContextSwitchTo(saved_context);
}

/* Whether a plan was made for the columns that the state table has now. */
static bool
plan_fits(const MergePlan *plan, TupleDesc tupdesc)
{
	if (plan->tupdesc == NULL || plan->tupdesc->natts != tupdesc->natts)
		return false;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		if (TupleDescAttr(tupdesc, i)->atttypid != TupleDescAttr(plan->tupdesc, i)->atttypid)
			return false;
	}
	return true;
}

/*
 * Have a plan be one for the state table of these columns.
 */
void
merge_plan_prepare(MergePlan *plan, const Rollup *rollup, TupleDesc tupdesc)
{
	if (!plan_fits(plan, tupdesc))
		make_plan(plan, rollup, tupdesc);
}
