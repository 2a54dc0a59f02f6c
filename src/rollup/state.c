/*-------------------------------------------------------------------------
 *
 * state.c
 *	  detect._combine and detect._finalize: partial states of any aggregate.
 *
 * Combine, serial, deserial and most final functions refuse to run outside an
 * aggregate: they ask AggCheckCallContext for a memory context that outlives
 * the row.  The usual way is an Agg node, but merging a batch into stored
 * states and reading them are both row by row, one state in, one out: an Agg
 * node for each row would have to be started and ended, with its hash table
 * and its groups of one.  So the functions are called with an AggState of our
 * own in their context, which carries nothing but the two memory contexts
 * that they ask for.  Both are reset after each call: a state lives from one
 * stored value to the next and never longer.
 *
 * What an executor would do about NULLs and strict functions is done here in
 * the same way.  One thing it need not do: a combine function may write into
 * its first argument, which here may lie in a page of the buffer cache, so
 * that it is copied first.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"
#include "rollup/state.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(detect_combine);
PG_FUNCTION_INFO_V1(detect_finalize);

static void
check_type(Oid aggregate, const char *what, Oid expected, Oid given)
{
	if (expected == given ||
		(IsPolymorphicType(expected) && check_generic_type_consistency(&given, &expected, 1)))
		return;
	ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
					errmsg("%s of aggregate %s is %s, not %s", what, format_procedure(aggregate),
						   format_type_be(expected), format_type_be(given))));
}

/* Raise an error unless role may execute a function. */
static void
check_execute(Oid function, Oid role, ObjectType kind)
{
	AclResult result = compat_proc_aclcheck(function, role, ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, kind, get_func_name(function));
}

/* Prepare the call of one of an aggregate's functions. */
static void
prepare_function(FmgrInfo *info, Oid function, Oid aggregate_owner, Expr *expr,
				 MemoryContext context)
{
	check_execute(function, aggregate_owner, OBJECT_FUNCTION);
	fmgr_info_cxt(function, info, context);
	fmgr_info_set_expr((Node *) expr, info);
}

/* An AggState that carries the contexts which an aggregate's functions use. */
static AggState *
create_agg_state(MemoryContext context)
{
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	AggState *agg_state = makeNode(AggState);

	agg_state->curaggcontext = CreateStandaloneExprContext();
	agg_state->tmpcontext = CreateStandaloneExprContext();
	MemoryContextSwitchTo(saved_context);
	return agg_state;
}

/*
 * The types of the arguments that a final function is told of but never given:
 * those of the aggregate, as far as the type of its result determines them.
 */
static void
guess_argument_types(const Form_pg_proc proc, Oid result_type, Oid *types)
{
	for (int i = 0; i < proc->pronargs; i++)
	{
		types[i] = proc->proargtypes.values[i];
		if (!IsPolymorphicType(types[i]))
			continue;
		if (proc->prorettype == ANYARRAYOID && types[i] != ANYARRAYOID)
			types[i] = get_element_type(result_type);
		else if (IsPolymorphicType(proc->prorettype))
			types[i] = result_type;
	}
}

/* Raise an error unless a function takes these types and gives that one, with
 * what is polymorphic resolved. */
static void
check_resolved_types(Oid aggregate, Oid function, const Oid *types, int ntypes, Oid result_type)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	Oid declared[FUNC_MAX_ARGS];

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	memcpy(declared, proc->proargtypes.values, ntypes * sizeof(Oid));
	check_type(aggregate, "result",
			   enforce_generic_type_consistency(types, declared, ntypes, proc->prorettype, false),
			   result_type);
	ReleaseSysCache(tuple);
}

/* Prepare combine, serial and deserial functions. */
static void
prepare_combine(AggregateCall *call, Form_pg_aggregate form, Oid owner, Oid collation,
				MemoryContext context)
{
	Oid types[1];
	Expr *expr;

	types[0] = form->aggtranstype == INTERNALOID ? INTERNALOID : call->state_type;
	build_aggregate_transfn_expr(types, 1, 0, false, types[0], collation, form->aggcombinefn,
								 InvalidOid, &expr, NULL);
	prepare_function(&call->combine, form->aggcombinefn, owner, expr, context);
	if (!call->serialized)
	{
		Oid states[2] = {call->state_type, call->state_type};

		check_resolved_types(call->aggregate, form->aggcombinefn, states, 2, call->state_type);
		return;
	}
	build_aggregate_serialfn_expr(form->aggserialfn, &expr);
	prepare_function(&call->serial, form->aggserialfn, owner, expr, context);
	build_aggregate_deserialfn_expr(form->aggdeserialfn, &expr);
	prepare_function(&call->deserial, form->aggdeserialfn, owner, expr, context);
}

/* Prepare the final function, if the aggregate has one. */
static void
prepare_final(AggregateCall *call, Form_pg_aggregate form, const Form_pg_proc proc, Oid result_type,
			  Oid collation, MemoryContext context)
{
	Oid types[FUNC_MAX_ARGS + 1];
	Oid state_type = call->serialized ? INTERNALOID : call->state_type;
	Expr *expr;

	call->has_final = OidIsValid(form->aggfinalfn);
	if (!call->has_final)
		return;
	call->nfinal_args = 1 + (form->aggfinalextra ? proc->pronargs : 0);
	call->final_writes = form->aggfinalmodify != AGGMODIFY_READ_ONLY;
	guess_argument_types(proc, result_type, types + 1);
	types[0] = state_type;
	check_resolved_types(call->aggregate, form->aggfinalfn, types, call->nfinal_args, result_type);
	memmove(types, types + 1, (FUNC_MAX_ARGS - 1) * sizeof(Oid));
	build_aggregate_finalfn_expr(types, call->nfinal_args, state_type, result_type, collation,
								 form->aggfinalfn, &expr);
	prepare_function(&call->final, form->aggfinalfn, proc->proowner, expr, context);
}

/* Raise an error unless states of the aggregate can be kept and merged. */
static void
check_aggregate(Oid aggregate, const Form_pg_aggregate form)
{
	bool internal = form->aggtranstype == INTERNALOID;

	if (form->aggkind != AGGKIND_NORMAL || !OidIsValid(form->aggcombinefn) ||
		(internal && !(OidIsValid(form->aggserialfn) && OidIsValid(form->aggdeserialfn))))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("aggregate %s has no partial states that can be merged",
							   format_procedure(aggregate))));
}

/*
 * Look an aggregate up for states of this type, and check that the caller may
 * use it so.  The result lives as long as the expression that calls us.
 */
static AggregateCall *
create_call(FunctionCallInfo fcinfo, Oid aggregate, Oid state_type, Oid result_type)
{
	MemoryContext context = fcinfo->flinfo->fn_mcxt;
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	AggregateCall *call = palloc0(sizeof(AggregateCall));
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	HeapTuple proc_tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple) || !HeapTupleIsValid(proc_tuple))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("%s is not an aggregate", format_procedure(aggregate))));
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	proc = (Form_pg_proc) GETSTRUCT(proc_tuple);
	check_execute(aggregate, GetUserId(), OBJECT_AGGREGATE);
	check_aggregate(aggregate, form);

	call->aggregate = aggregate;
	call->serialized = form->aggtranstype == INTERNALOID;
	call->state_type = state_type;
	check_type(aggregate, "state",
			   call->serialized ? aggregate_state_stored_type(form->aggdeserialfn)
								: form->aggtranstype,
			   state_type);
	get_typlenbyval(state_type, &call->state_length, &call->state_by_value);
	prepare_combine(call, form, proc->proowner, PG_GET_COLLATION(), context);
	if (call->serialized && state_type != BYTEAOID)
		aggregate_state_prepare(call, proc, result_type);
	if (OidIsValid(result_type))
	{
		check_type(aggregate, "result", proc->prorettype, result_type);
		get_typlenbyval(result_type, &call->result_length, &call->result_by_value);
		prepare_final(call, form, proc, result_type, PG_GET_COLLATION(), context);
		if (!call->has_final)
			check_type(aggregate, "result", state_type, result_type);
	}
	ReleaseSysCache(proc_tuple);
	ReleaseSysCache(tuple);
	MemoryContextSwitchTo(saved_context);
	return call;
}

/*
 * The prepared call for the aggregate in an argument.  result_type is
 * InvalidOid when nothing is going to be finalized.  agg_state is the caller's,
 * if it is an aggregate itself; NULL: one is made.
 */
AggregateCall *
state_prepare(FunctionCallInfo fcinfo, int aggregate_arg, int state_arg, Oid result_type,
			  AggState *agg_state)
{
	AggregateCall *call = fcinfo->flinfo->fn_extra;
	Oid aggregate;
	Oid state_type;

	if (PG_ARGISNULL(aggregate_arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("aggregate must not be null")));
	aggregate = PG_GETARG_OID(aggregate_arg);
	if (call != NULL && call->aggregate == aggregate)
		return call;

	state_type = get_fn_expr_argtype(fcinfo->flinfo, state_arg);
	if (!OidIsValid(state_type))
		elog(ERROR, "could not determine the type of a state");
	call = create_call(fcinfo, aggregate, state_type, result_type);
	call->agg_state = agg_state ? agg_state : create_agg_state(fcinfo->flinfo->fn_mcxt);
	fcinfo->flinfo->fn_extra = call;
	return call;
}

/*
 * Call one of the aggregate's functions as the executor would: a strict one
 * is not called with a NULL.  Arguments beyond the state are in args.
 */
StateValue
state_call(const AggregateCall *call, FmgrInfo *function, Oid collation, int nargs,
		   const StateValue *args)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	StateValue result = {(Datum) 0, true};

	InitFunctionCallInfoData(*fcinfo, function, nargs, collation, (Node *) call->agg_state, NULL);
	for (int i = 0; i < nargs; i++)
	{
		if (args[i].isnull && function->fn_strict)
			return result;
		fcinfo->args[i].value = args[i].value;
		fcinfo->args[i].isnull = args[i].isnull;
	}
	/* of two NULLs some combine functions make a null pointer, which serial
	 * functions follow, and others the state of no rows */
	if (function == &call->combine && call->serialized && args[0].isnull && args[1].isnull)
		return result;
	result.value = FunctionCallInvoke(fcinfo);
	result.isnull = fcinfo->isnull;
	return result;
}

/*
 * From a stored state to one that the aggregate's functions take.  writable
 * says that the state may be changed by them.
 */
StateValue
state_load(AggregateCall *call, StateValue stored, bool writable, Oid collation)
{
	StateValue args[2] = {stored, {(Datum) 0, false}};

	if (call->serialized && call->maker != NULL && !stored.isnull)
		args[0].value = aggregate_state_open(call, stored.value);
	else if (call->serialized && !stored.isnull)
		numeric_state_check(call->deserial.fn_oid, stored.value);
	if (call->serialized)
		return state_call(call, &call->deserial, collation, 2, args);
	if (writable && !stored.isnull && !call->state_by_value)
		stored.value = datumCopy(stored.value, false, call->state_length);
	return stored;
}

/*
 * From a state that the aggregate's functions have given to one that is stored.
 */
StateValue
state_save(AggregateCall *call, StateValue state, Oid collation)
{
	if (!call->serialized || state.isnull)
		return state;
	state = state_call(call, &call->serial, collation, 1, &state);
	if (call->maker != NULL && !state.isnull)
		state.value = aggregate_state_make(call->maker, state.value);
	return state;
}

/* Begin to work in memory that release_memory frees. */
static MemoryContext
enter_memory(AggregateCall *call)
{
	return MemoryContextSwitchTo(call->agg_state->tmpcontext->ecxt_per_tuple_memory);
}

/* Bring a result into the caller's memory and free all other. */
static StateValue
release_memory(AggregateCall *call, MemoryContext caller_context, StateValue result, bool by_value,
			   int16 length)
{
	MemoryContextSwitchTo(caller_context);
	if (!result.isnull && !by_value)
		result.value = datumCopy(result.value, false, length);
	ReScanExprContext(call->agg_state->tmpcontext);
	ReScanExprContext(call->agg_state->curaggcontext);
	return result;
}

/* Merge two states that the aggregate's functions take. */
static StateValue
combine_states(AggregateCall *call, StateValue state, StateValue other, Oid collation)
{
	StateValue args[2] = {state, other};

	if (call->combine.fn_strict && other.isnull)
		return state;
	if (call->combine.fn_strict && state.isnull)
		return other;
	return state_call(call, &call->combine, collation, 2, args);
}

/*
 * SQL: detect._combine(aggregate, state, other): the state of all rows that
 * went into either.
 */
Datum
detect_combine(PG_FUNCTION_ARGS)
{
	AggregateCall *call = state_prepare(fcinfo, 0, 1, InvalidOid, NULL);
	Oid collation = PG_GET_COLLATION();
	StateValue state = {PG_GETARG_DATUM(1), PG_ARGISNULL(1)};
	StateValue other = {PG_GETARG_DATUM(2), PG_ARGISNULL(2)};
	MemoryContext caller_context = enter_memory(call);

	state = state_load(call, state, true, collation);
	other = state_load(call, other, false, collation);
	state = combine_states(call, state, other, collation);
	state = state_save(call, state, collation);
	state = release_memory(call, caller_context, state, call->state_by_value, call->state_length);
	if (state.isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state.value);
}

/*
 * SQL: detect._finalize(result, aggregate, state): what the aggregate gives
 * for a state.  The first argument only names the type of the result.
 */
Datum
detect_finalize(PG_FUNCTION_ARGS)
{
	Oid result_type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	AggregateCall *call = state_prepare(fcinfo, 1, 2, result_type, NULL);
	Oid collation = PG_GET_COLLATION();
	StateValue args[FUNC_MAX_ARGS];
	StateValue result = {PG_GETARG_DATUM(2), PG_ARGISNULL(2)};
	MemoryContext caller_context = enter_memory(call);

	result = state_load(call, result, call->final_writes, collation);
	if (call->has_final)
	{
		args[0] = result;
		for (int i = 1; i < call->nfinal_args; i++)
		{
			args[i].value = (Datum) 0;
			args[i].isnull = true;
		}
		result = state_call(call, &call->final, collation, call->nfinal_args, args);
	}
	result =
		release_memory(call, caller_context, result, call->result_by_value, call->result_length);
	if (result.isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result.value);
}
