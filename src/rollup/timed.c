/*-------------------------------------------------------------------------
 *
 * timed.c
 *	  detect.first and detect.last: the value at the earliest or latest time.
 *
 * The state is a row of the time and the value as text, so that it can be kept
 * in a rollup as it is, read by a human, dumped, and read by another version.
 * The result must not depend on the order in which states are merged, so of
 * several values at one time it is the least for first and the greatest for
 * last, comparing the bytes of their texts; a value that is not NULL comes
 * before one that is.  Rows without a time do not count.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* Attributes of detect._timed. */
#define TIMED_AT	1
#define TIMED_VALUE 2

/* A state, taken apart. */
typedef struct Timed
{
	TimestampTz at;
	text *value; /* NULL for NULL */
} Timed;

/* How the values of an aggregate become text and come back, in fn_extra. */
typedef struct ValueIO
{
	FmgrInfo function;
	Oid parameter; /* of an input function */
} ValueIO;

PG_FUNCTION_INFO_V1(detect_first_step);
PG_FUNCTION_INFO_V1(detect_last_step);
PG_FUNCTION_INFO_V1(detect_first_combine);
PG_FUNCTION_INFO_V1(detect_last_combine);
PG_FUNCTION_INFO_V1(detect_timed_value);

static Timed
read_timed(HeapTupleHeader row)
{
	Timed timed;
	bool isnull;
	Datum value;

	timed.at = DatumGetTimestampTz(GetAttributeByNum(row, TIMED_AT, &isnull));
	if (isnull)
		ereport(ERROR, (errcode(ERRCODE_DATA_EXCEPTION),
						errmsg("the state of detect.first or detect.last has no time")));
	value = GetAttributeByNum(row, TIMED_VALUE, &isnull);
	timed.value = isnull ? NULL : DatumGetTextPP(value);
	return timed;
}

/* Make a state of a time and a value. */
static Datum
make_timed(FunctionCallInfo fcinfo, TimestampTz at, text *value)
{
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	TupleDesc tupdesc = lookup_rowtype_tupdesc(type, -1);
	Datum values[2] = {TimestampTzGetDatum(at), PointerGetDatum(value)};
	bool nulls[2] = {false, value == NULL};
	Datum row = HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls));

	ReleaseTupleDesc(tupdesc);
	return row;
}

/* Order the values of one time, a NULL behind all others. */
static int
compare_values(const text *a, const text *b)
{
	int order;

	if (a == NULL || b == NULL)
		return (a == NULL) - (b == NULL);
	order = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(VARSIZE_ANY_EXHDR(a), VARSIZE_ANY_EXHDR(b)));
	return order != 0 ? order : (int) (VARSIZE_ANY_EXHDR(a) - VARSIZE_ANY_EXHDR(b));
}

/* Whether one state is to be replaced by another. */
static bool
is_replaced(const Timed *state, const Timed *other, bool latest)
{
	int order;

	if (state->at != other->at)
		return latest ? other->at > state->at : other->at < state->at;
	order = compare_values(other->value, state->value);
	if (state->value == NULL || other->value == NULL)
		return order < 0;
	return latest ? order > 0 : order < 0;
}

/* The value of a row as text, or NULL. */
static text *
value_text(FunctionCallInfo fcinfo)
{
	ValueIO *io = fcinfo->flinfo->fn_extra;

	if (PG_ARGISNULL(1))
		return NULL;
	if (io == NULL)
	{
		Oid output;
		bool is_varlena;

		io = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(ValueIO));
		getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, 1), &output, &is_varlena);
		fmgr_info_cxt(output, &io->function, fcinfo->flinfo->fn_mcxt);
		fcinfo->flinfo->fn_extra = io;
	}
	return cstring_to_text(OutputFunctionCall(&io->function, PG_GETARG_DATUM(1)));
}

/* Take a row into a state. */
static Datum
step(FunctionCallInfo fcinfo, bool latest)
{
	Timed other;

	if (!PG_ARGISNULL(2))
	{
		other.at = PG_GETARG_TIMESTAMPTZ(2);
		if (!PG_ARGISNULL(0))
		{
			Timed state = read_timed(PG_GETARG_HEAPTUPLEHEADER(0));

			/* most rows need no text */
			if (latest ? other.at < state.at : other.at > state.at)
				PG_RETURN_DATUM(PG_GETARG_DATUM(0));
			other.value = value_text(fcinfo);
			if (!is_replaced(&state, &other, latest))
				PG_RETURN_DATUM(PG_GETARG_DATUM(0));
		}
		else
			other.value = value_text(fcinfo);
		PG_RETURN_DATUM(make_timed(fcinfo, other.at, other.value));
	}
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/* Merge two states, neither of which is NULL. */
static Datum
combine(FunctionCallInfo fcinfo, bool latest)
{
	Timed state = read_timed(PG_GETARG_HEAPTUPLEHEADER(0));
	Timed other = read_timed(PG_GETARG_HEAPTUPLEHEADER(1));

	return PG_GETARG_DATUM(is_replaced(&state, &other, latest) ? 1 : 0);
}

/*
 * SQL: detect._first_step(state, value, at).
 */
Datum
detect_first_step(PG_FUNCTION_ARGS)
{
	return step(fcinfo, false);
}

/*
 * SQL: detect._last_step(state, value, at).
 */
Datum
detect_last_step(PG_FUNCTION_ARGS)
{
	return step(fcinfo, true);
}

/*
 * SQL: detect._first_combine(state, other).
 */
Datum
detect_first_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, false);
}

/*
 * SQL: detect._last_combine(state, other).
 */
Datum
detect_last_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, true);
}

/*
 * SQL: detect._timed_value(state, value, at): the value of a state, in the type
 * of the second argument, which like the third is only there for its type.
 */
Datum
detect_timed_value(PG_FUNCTION_ARGS)
{
	ValueIO *io = fcinfo->flinfo->fn_extra;
	Timed state;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	state = read_timed(PG_GETARG_HEAPTUPLEHEADER(0));
	if (state.value == NULL)
		PG_RETURN_NULL();
	if (io == NULL)
	{
		Oid input;

		io = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(ValueIO));
		getTypeInputInfo(get_fn_expr_rettype(fcinfo->flinfo), &input, &io->parameter);
		fmgr_info_cxt(input, &io->function, fcinfo->flinfo->fn_mcxt);
		fcinfo->flinfo->fn_extra = io;
	}
	PG_RETURN_DATUM(
		InputFunctionCall(&io->function, text_to_cstring(state.value), io->parameter, -1));
}
