/*-------------------------------------------------------------------------
 *
 * aggregate_state.c
 *	  detect.aggregate_state: states that only their own aggregate reads.
 *
 * An internal state is kept as the bytes that its serial function makes of it.
 * Most deserial functions follow the lengths in such bytes without a look, and
 * anybody may call _combine and _finalize, or write into a state table of his
 * own.  So these states are of a type without casts and operators, whose values
 * are made here, of what a serial function has just given.  Those that a
 * superuser types in are believed: that is how a dump is restored.
 *
 * In front of its bytes a value names its maker: the aggregate and the function
 * that reads its states, the major version of the server and the kind of the
 * machine, whose memory some serial functions copy.  No other gets the bytes.
 * The deserial function alone would not do: aggregates that share it differ in
 * what they expect of a state.  Nor would OIDs, which a dump or an upgrade
 * changes.  The maker of a polymorphic aggregate's state ends with the types of
 * its result and of its arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"
#include "rollup/state.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#ifdef WORDS_BIGENDIAN
#define BYTE_ORDER_NAME "big-endian"
#else
#define BYTE_ORDER_NAME "little-endian"
#endif

/* What stands between maker and bytes in the text of a value. */
#define BYTES_BEGIN ": \\x"

/* A value, not toasted. */
typedef struct AggregateState
{
	int32 vl_len_;
	int32 maker_length;
	char maker[FLEXIBLE_ARRAY_MEMBER]; /* and then the bytes */
} AggregateState;

PG_FUNCTION_INFO_V1(detect_aggregate_state_in);
PG_FUNCTION_INFO_V1(detect_aggregate_state_out);

/* ---------------------------------------------------------------------
 * Types of states
 * ---------------------------------------------------------------------
 */

/*
 * Whether any bytes may be handed to a deserial function, because it checks
 * every length in them, and numeric_state.c what they say of numbers.
 */
static bool
is_safe(Oid deserial_function)
{
	switch (deserial_function)
	{
		case F_INT8_AVG_DESERIALIZE:
		case F_NUMERIC_AVG_DESERIALIZE:
		case F_NUMERIC_DESERIALIZE:
		case F_NUMERIC_POLY_DESERIALIZE:
#ifdef F_INTERVAL_AVG_DESERIALIZE
		case F_INTERVAL_AVG_DESERIALIZE:
#endif
			return true;
		default:
			return false;
	}
}

/* The type detect.aggregate_state. */
static Oid
aggregate_state_type(void)
{
	Oid type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("aggregate_state"),
							   ObjectIdGetDatum(get_namespace_oid(DETECT_SCHEMA, false)));

	if (!OidIsValid(type))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("type \"%s.%s\" does not exist", DETECT_SCHEMA, "aggregate_state"),
			 errhint(
				 "Create the extension again: DROP EXTENSION detect CASCADE; CREATE EXTENSION detect.")));
	return type;
}

/*
 * The type in which internal states are kept that this function reads.
 */
Oid
aggregate_state_stored_type(Oid deserial_function)
{
	return is_safe(deserial_function) ? BYTEAOID : aggregate_state_type();
}

/* ---------------------------------------------------------------------
 * Makers
 * ---------------------------------------------------------------------
 */

/* Whether an aggregate is declared with types that its caller determines. */
static bool
is_polymorphic(const Form_pg_proc proc)
{
	for (int i = 0; i < proc->pronargs; i++)
	{
		if (get_typtype(proc->proargtypes.values[i]) == TYPTYPE_PSEUDO)
			return true;
	}
	return false;
}

/* What a maker calls a type.  The bytes of a state may have its OID, as those of
 * array_agg do, and a dump does not keep the OIDs of users' types. */
static char *
type_name(Oid type)
{
	char *name = format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY);

	return type < FirstNormalObjectId ? name : psprintf("%s#%u", name, type);
}

/* Begin the name of a maker, with all but the types of a polymorphic one. */
static void
append_maker(StringInfo maker, const Form_pg_proc aggregate, Oid deserial_function)
{
	appendStringInfo(
		maker, "PostgreSQL %d (%d-bit, %s) %s by %s", COMPAT_SERVER_MAJOR,
		SIZEOF_VOID_P * BITS_PER_BYTE, BYTE_ORDER_NAME, format_procedure_qualified(aggregate->oid),
		quote_qualified_identifier(get_namespace_name(get_func_namespace(deserial_function)),
								   get_func_name(deserial_function)));
	if (is_polymorphic(aggregate))
		appendStringInfoString(maker, " as ");
}

/* Append the types of the result and the arguments of a polymorphic aggregate. */
static void
append_types(StringInfo maker, const Form_pg_proc aggregate, const Aggref *aggref)
{
	Oid types[FUNC_MAX_ARGS];
	Oid declared[FUNC_MAX_ARGS];
	int count = get_aggregate_argtypes(unconstify(Aggref *, aggref), types);

	for (int i = 0; i < count; i++)
		declared[i] = i < aggregate->pronargs ? aggregate->proargtypes.values[i] : ANYOID;
	appendStringInfo(maker, "%s(",
					 type_name(enforce_generic_type_consistency(types, declared, count,
																aggregate->prorettype, false)));
	for (int i = 0; i < count; i++)
		appendStringInfo(maker, "%s%s", i > 0 ? ", " : "", type_name(types[i]));
	appendStringInfoChar(maker, ')');
}

/*
 * The maker of the states of an aggregate that is called so; NULL when they are
 * of another type than ours.
 */
char *
aggregate_state_maker(const Aggref *aggref)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	HeapTuple proc_tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate form;
	Form_pg_proc proc;
	StringInfoData maker = {0};

	if (!HeapTupleIsValid(tuple) || !HeapTupleIsValid(proc_tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	proc = (Form_pg_proc) GETSTRUCT(proc_tuple);
	if (form->aggtranstype == INTERNALOID && !is_safe(form->aggdeserialfn))
	{
		initStringInfo(&maker);
		append_maker(&maker, proc, form->aggdeserialfn);
		if (is_polymorphic(proc))
			append_types(&maker, proc, aggref);
	}
	ReleaseSysCache(proc_tuple);
	ReleaseSysCache(tuple);
	return maker.data;
}

/*
 * Prepare a call for states of our type.  result_type is InvalidOid when
 * nothing is going to be finalized.  Of a polymorphic aggregate the rest of the
 * maker is that of the first state.
 */
void
aggregate_state_prepare(AggregateCall *call, const Form_pg_proc aggregate, Oid result_type)
{
	StringInfoData maker;

	initStringInfo(&maker);
	append_maker(&maker, aggregate, call->deserial.fn_oid);
	call->maker_is_whole = !is_polymorphic(aggregate);
	if (OidIsValid(result_type) && get_typtype(aggregate->prorettype) == TYPTYPE_PSEUDO)
		appendStringInfo(&maker, "%s(", type_name(result_type));
	call->maker = maker.data;
}

/* ---------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------
 */

/*
 * A value of what a serial function has given.
 */
Datum
aggregate_state_make(const char *maker, Datum serialized)
{
	bytea *bytes = DatumGetByteaPP(serialized);
	Size maker_length = strlen(maker);
	Size size = offsetof(AggregateState, maker) + maker_length + VARSIZE_ANY_EXHDR(bytes);
	AggregateState *state = palloc(size);

	SET_VARSIZE(state, size);
	state->maker_length = (int32) maker_length;
	memcpy(state->maker, maker, maker_length);
	memcpy(state->maker + maker_length, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	return PointerGetDatum(state);
}

/* The number of bytes behind the maker. */
static Size
bytes_length(const AggregateState *state)
{
	return VARSIZE(state) - offsetof(AggregateState, maker) - state->maker_length;
}

/* Raise an error for a state that a call must not read. */
static void
report_maker(const AggregateCall *call, const AggregateState *state)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("aggregate %s cannot read a state made by %s", format_procedure(call->aggregate),
				pnstrdup(state->maker, state->maker_length)),
		 errdetail("It reads those made by %s%s", call->maker, call->maker_is_whole ? "." : "…"),
		 errhint(
			 "If the aggregate or the server has been replaced, make the states of the rollup again from "
			 "the events: SELECT detect.rebuild_rollup(…).")));
}

/*
 * The bytes of a value, for the deserial function of a call that has been
 * prepared for values of our type.
 */
Datum
aggregate_state_open(AggregateCall *call, Datum value)
{
	AggregateState *state = (AggregateState *) PG_DETOAST_DATUM(value);
	Size length = strlen(call->maker);
	bytea *bytes;

	if (state->maker_length < length || memcmp(state->maker, call->maker, length) != 0 ||
		(call->maker_is_whole && state->maker_length != length))
		report_maker(call, state);
	if (!call->maker_is_whole)
	{
		call->maker = MemoryContextAllocZero(GetMemoryChunkContext(call), state->maker_length + 1);
		memcpy(call->maker, state->maker, state->maker_length);
		call->maker_is_whole = true;
	}
	bytes = palloc(VARHDRSZ + bytes_length(state));
	SET_VARSIZE(bytes, VARHDRSZ + bytes_length(state));
	memcpy(VARDATA(bytes), state->maker + state->maker_length, bytes_length(state));
	return PointerGetDatum(bytes);
}

/*
 * SQL: the input function of detect.aggregate_state.
 */
Datum
detect_aggregate_state_in(PG_FUNCTION_ARGS)
{
	const char *text = PG_GETARG_CSTRING(0);
	const char *end = strrchr(text, BYTES_BEGIN[0]);
	const char *hex;
	bytea *bytes;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to put in the state of an aggregate"),
				 errdetail("The aggregate would follow whatever the bytes say."),
				 errhint("Restore as a superuser, or without the data of schema \"%s\", and let "
						 "detect.rebuild_rollup make the states from the events.",
						 DETECT_STATE_SCHEMA)));
	if (end == NULL || end == text || strncmp(end, BYTES_BEGIN, strlen(BYTES_BEGIN)) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						errmsg("invalid input syntax for type %s: \"%s\"", "aggregate_state",
							   pnstrdup(text, 100))));
	hex = end + strlen(BYTES_BEGIN);
	bytes = palloc(VARHDRSZ + strlen(hex) / 2);
	SET_VARSIZE(bytes, VARHDRSZ + hex_decode(hex, strlen(hex), VARDATA(bytes)));
	PG_RETURN_DATUM(aggregate_state_make(pnstrdup(text, end - text), PointerGetDatum(bytes)));
}

/*
 * SQL: the output function of detect.aggregate_state: maker and bytes.
 */
Datum
detect_aggregate_state_out(PG_FUNCTION_ARGS)
{
	AggregateState *state = (AggregateState *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));
	Size length = bytes_length(state);
	char *text = palloc(state->maker_length + strlen(BYTES_BEGIN) + 2 * length + 1);
	char *hex = text + state->maker_length + strlen(BYTES_BEGIN);

	memcpy(text, state->maker, state->maker_length);
	memcpy(text + state->maker_length, BYTES_BEGIN, strlen(BYTES_BEGIN));
	hex[hex_encode(state->maker + state->maker_length, length, hex)] = '\0';
	PG_RETURN_CSTRING(text);
}

/* ---------------------------------------------------------------------
 * State tables
 * ---------------------------------------------------------------------
 */

/* Whether a value has this maker. */
static bool
is_made_by(Datum value, const char *maker)
{
	Size length = strlen(maker);
	AggregateState *state = (AggregateState *) PG_DETOAST_DATUM_SLICE(
		value, 0, offsetof(AggregateState, maker) - VARHDRSZ + length);

	return state->maker_length == length && memcmp(state->maker, maker, length) == 0;
}

/* Whether a row of a state table has a state of another maker. */
static bool
has_foreign_state(TupleTableSlot *row, int nkeys, const List *makers)
{
	ListCell *cell;

	foreach(cell, makers)
	{
		const char *maker = lfirst(cell);
		bool isnull;
		Datum value;

		if (maker == NULL)
			continue;
		value = slot_getattr(row, nkeys + foreach_current_index(cell) + 1, &isnull);
		if (!isnull && !is_made_by(value, maker))
			return true;
	}
	return false;
}

/*
 * Whether a state table has states that the aggregates of its rollup cannot
 * read, for they or the server have been replaced.
 */
bool
aggregate_state_is_foreign(const RollupShape *shape, Oid state_table)
{
	List *makers = NIL;
	bool has_makers = false;
	bool is_foreign = false;
	Relation rel;
	TupleTableSlot *slot;
	TableScanDesc scan;

	for (int i = 0; i < shape->nstates; i++)
	{
		makers = lappend(makers, aggregate_state_maker(shape->states[i].aggref));
		has_makers |= llast(makers) != NULL;
	}
	if (!has_makers)
		return false;
	rollup_check_state_table(state_table);
	rel = table_open(state_table, AccessShareLock);
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while (!is_foreign && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		is_foreign = has_foreign_state(slot, shape->nkeys, makers);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	return is_foreign;
}
