/*-------------------------------------------------------------------------
 *
 * state_merge.c
 *	  detect._merge: the partial states of many groups into one.
 *
 * An aggregate over stored states, for views with fewer groups than their
 * rollup has.  Here there is an Agg node, and the functions of the aggregate
 * whose states are merged are called with it as their own: they find the
 * memory of the group, of the row, and the callbacks that they ask for.  What
 * the executor does when it combines states is done in the same way: a group
 * begins with the initial state of the aggregate, a strict function is not
 * called with NULL, and a state that a function has made anew replaces the
 * one before, which is freed.  What is internal stays so from the first state
 * of a group to the last, and is serialized once, at its end.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"
#include "rollup/state.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* The state of a group in the making, in the memory of the group. */
typedef struct MergedState
{
	AggregateCall *call;
	bool is_initial; /* NULL, and waits for the first that is not */
	StateValue state;
	MemoryContext context; /* of the group */
} MergedState;

PG_FUNCTION_INFO_V1(detect_merge_step);
PG_FUNCTION_INFO_V1(detect_merged);

/* The state of an aggregate over no rows; NULL where there is no such
 * aggregate, which is told as soon as there is a state to merge. */
static StateValue
initial_state(Oid aggregate, Oid state_type)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	StateValue state = {(Datum) 0, true};
	Oid input;
	Oid parameter;
	Datum value;

	if (!HeapTupleIsValid(tuple))
		return state;
	value = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &state.isnull);
	state.isnull |= ((Form_pg_aggregate) GETSTRUCT(tuple))->aggtranstype == INTERNALOID;
	if (!state.isnull)
	{
		getTypeInputInfo(state_type, &input, &parameter);
		state.value = OidInputFunctionCall(input, TextDatumGetCString(value), parameter, -1);
	}
	ReleaseSysCache(tuple);
	return state;
}

/* Begin a group. */
static MergedState *
begin_group(AggregateCall *call, MemoryContext context)
{
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	MergedState *merged = palloc(sizeof(MergedState));

	merged->call = call;
	merged->state = initial_state(call->aggregate, call->state_type);
	merged->is_initial = merged->state.isnull;
	merged->context = context;
	MemoryContextSwitchTo(saved_context);
	return merged;
}

/* Put another state in the place of a group's own. */
static void
replace_state(MergedState *merged, StateValue state)
{
	const AggregateCall *call = merged->call;
	StateValue old = merged->state;

	merged->state = state;
	if (call->serialized || call->state_by_value ||
		(!state.isnull && !old.isnull &&
		 DatumGetPointer(state.value) == DatumGetPointer(old.value)))
		return;
	if (!state.isnull &&
		!(DatumIsReadWriteExpandedObject(state.value, false, call->state_length) &&
		  MemoryContextGetParent(DatumGetEOHP(state.value)->eoh_context) == merged->context))
	{
		MemoryContext saved_context = MemoryContextSwitchTo(merged->context);

		merged->state.value = datumCopy(state.value, false, call->state_length);
		MemoryContextSwitchTo(saved_context);
	}
	if (old.isnull)
		return;
	if (DatumIsReadWriteExpandedObject(old.value, false, call->state_length))
		DeleteExpandedObject(old.value);
	else
		pfree(DatumGetPointer(old.value));
}

/* Merge a state into that of a group. */
static void
merge_state(MergedState *merged, StateValue other, Oid collation)
{
	AggregateCall *call = merged->call;
	StateValue args[2] = {merged->state, other};

	if (call->combine.fn_strict)
	{
		if (other.isnull)
			return;
		if (merged->is_initial)
		{
			merged->is_initial = false;
			replace_state(merged, other);
			return;
		}
	}
	if (call->combine.fn_strict && merged->state.isnull)
		return;
	replace_state(merged, state_call(call, &call->combine, collation, 2, args));
}

/*
 * SQL: detect._merge_step(merged, aggregate, state).
 */
Datum
detect_merge_step(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	AggregateCall *call;
	MergedState *merged;
	StateValue state = {PG_GETARG_DATUM(2), PG_ARGISNULL(2)};

	if (AggCheckCallContext(fcinfo, &context) != AGG_CONTEXT_AGGREGATE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("states cannot be merged by a window function")));
	call = state_prepare(fcinfo, 1, 2, InvalidOid, (AggState *) fcinfo->context);
	merged = PG_ARGISNULL(0) ? begin_group(call, context) : (MergedState *) PG_GETARG_POINTER(0);
	if (merged->call->aggregate != call->aggregate)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("states of %s and %s cannot be merged",
							   format_procedure(merged->call->aggregate),
							   format_procedure(call->aggregate))));
	/* by the group's own call, which knows whose states it has */
	merge_state(merged, state_load(merged->call, state, false, PG_GET_COLLATION()),
				PG_GET_COLLATION());
	PG_RETURN_POINTER(merged);
}

/* The state of a group without rows: the aggregate is only named in the query. */
static StateValue
empty_state(FunctionCallInfo fcinfo)
{
	Aggref *aggref = AggGetAggref(fcinfo);
	StateValue state = {(Datum) 0, true};
	Const *aggregate;

	if (aggref == NULL || list_length(aggref->args) != 2)
		return state;
	aggregate = (Const *) linitial_node(TargetEntry, aggref->args)->expr;
	if (!IsA(aggregate, Const) || aggregate->constisnull)
		return state;
	return initial_state(DatumGetObjectId(aggregate->constvalue),
						 get_fn_expr_argtype(fcinfo->flinfo, 2));
}

/*
 * SQL: detect._merged(merged, aggregate, state): the state of all rows that
 * went into any of a group's states, as it is stored.  The group is only read.
 */
Datum
detect_merged(PG_FUNCTION_ARGS)
{
	StateValue state;

	if (PG_ARGISNULL(0))
		state = empty_state(fcinfo);
	else
	{
		MergedState *merged = (MergedState *) PG_GETARG_POINTER(0);
		AggregateCall *call = merged->call;

		state = merged->state;
		if (call->serialized)
			state = state_save(call, state, PG_GET_COLLATION());
		else
			state.value = MakeExpandedObjectReadOnly(state.value, state.isnull, call->state_length);
	}
	if (state.isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state.value);
}
