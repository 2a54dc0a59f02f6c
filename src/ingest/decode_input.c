/*-------------------------------------------------------------------------
 *
 * decode_input.c
 *	  The slow path of the decoder: the input functions of types.
 *
 * Input functions report bad input by throwing, and after a throw only a
 * subtransaction's rollback makes the backend usable again.  One is opened at
 * the first slow call of a batch and serves all of them; a throw ends it, and
 * the next slow call opens another.  Whether it was the input that failed or
 * the server is told by the SQLSTATE: what another element would meet as well
 * (cancel, shutdown, no memory, no disk, no right) is thrown on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "detect.h"
#include "decode_internal.h"

/* Texts of errors may quote all of a long value: cut them off there. */
#define MAX_REASON_BYTES 500

/*
 * As many digits are a day: 20261201.  The input functions take longer ones too, as a
 * day of a year of six digits, which nobody means: it counts seconds.
 */
#define MAX_DAY_DIGITS 8

/* What a guarded call converts. */
typedef struct InputCall
{
	DecodeInput *input;
	char *text;		   /* NULL: the SQL NULL */
	bool is_structure; /* text is a JSON array or object */
} InputCall;

static void guard_open(DecodeGuard *guard);
static bool is_data_error(int sqlstate, bool internal_is_data);
static void copy_error(const ErrorData *edata, DecodeError *error);
static bool call_input(DecodeInput *input, DecodeGuard *guard, InputCall *call, Datum *result,
					   DecodeError *error);
static Datum run_input(void *argument);
static void prepare_input(DecodeInput *input);
static char *value_text(const JsonValue *value, bool as_json, char *scratch);

/*
 * Start a batch: no subtransaction is open yet.
 *
 * One that is still noted was ended by an error of the caller.
 */
void
guard_begin(DecodeGuard *guard)
{
	guard->is_open = false;
}

/*
 * Call a function that may throw.
 *
 * Returns false, with the reason in the caller's context, when it threw a data
 * error; others are thrown on, with the subtransaction gone.  With
 * 'internal_is_data' errors without a code of their own count as data errors.
 */
bool
guard_call(DecodeGuard *guard, GuardedCall call, void *argument, bool internal_is_data,
		   Datum *result, DecodeError *error)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;
	ErrorData *volatile edata = NULL;

	if (!guard->is_open)
		guard_open(guard);
	else if (GetCurrentTransactionNestLevel() != guard->nest_level ||
			 TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
		elog(ERROR,
			 "the caller of the decoder wrote rows, or changed the transaction, within a batch");

	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = guard->owner;
	PG_TRY();
	{
		*result = call(argument);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		guard->is_open = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;

	if (edata == NULL)
		return true;
	if (!is_data_error(edata->sqlerrcode, internal_is_data))
		ReThrowError(edata);
	copy_error(edata, error);
	FreeErrorData(edata);
	return false;
}

/*
 * Open the subtransaction.  The caller restores context and owner.
 */
static void
guard_open(DecodeGuard *guard)
{
	BeginInternalSubTransaction(NULL);
	guard->owner = CurrentResourceOwner;
	guard->nest_level = GetCurrentTransactionNestLevel();
	guard->is_open = true;
}

/*
 * End a batch: release the subtransaction, if one is open.
 */
void
guard_end(DecodeGuard *guard)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner caller_owner = CurrentResourceOwner;

	if (!guard->is_open)
		return;
	if (GetCurrentTransactionNestLevel() != guard->nest_level)
		elog(ERROR, "the caller of the decoder changed the transaction within a batch");
	guard->is_open = false;
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = caller_owner;
}

/*
 * Does an error concern this value alone?
 *
 * The stack of jsonb_in() or of a user's domain check may overflow on one value
 * and not on the next, and so may limits of a type: class 54 is data.
 */
static bool
is_data_error(int sqlstate, bool internal_is_data)
{
	if (sqlstate == ERRCODE_INTERNAL_ERROR)
		return internal_is_data;
	if (sqlstate == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return false;

	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'): /* connection */
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'): /* transaction state */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'): /* rollback, deadlock */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'): /* resources */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'): /* object state, locks */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'): /* cancel, shutdown */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'): /* system */
		case MAKE_SQLSTATE('F', '0', '0', '0', '0'): /* configuration file */
		case MAKE_SQLSTATE('X', 'X', '0', '0', '0'): /* corruption */
			return false;
		default:
			return true;
	}
}

/*
 * Make the reason from a caught error: its message and detail.
 */
static void
copy_error(const ErrorData *edata, DecodeError *error)
{
	StringInfoData reason;

	initStringInfo(&reason);
	appendStringInfoString(&reason, edata->message ? edata->message : "missing error text");
	if (edata->detail)
		appendStringInfo(&reason, " (%s)", edata->detail);
	if (reason.len > MAX_REASON_BYTES)
	{
		reason.len = pg_mbcliplen(reason.data, reason.len, MAX_REASON_BYTES);
		reason.data[reason.len] = '\0';
		appendStringInfoString(&reason, "...");
	}
	error->sqlstate = edata->sqlerrcode;
	error->reason = reason.data;
}

/*
 * Set up the slow path of a column, with state in the current context.
 *
 * Raises an error when no value of its type can be read.
 */
void
decode_input_init(DecodeInput *input, const DecodeColumn *column)
{
	Oid base_type = getBaseType(column->type);

	if (get_typtype(column->type) == TYPTYPE_PSEUDO)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("column \"%s\" has pseudo-type %s", column->name,
							   format_type_be(column->type))));

	input->name = pstrdup(column->name);
	input->type = column->type;
	input->typmod = column->typmod;
	input->takes_json = base_type == JSONOID || base_type == JSONBOID;
	input->takes_structure = decode_takes_structure(base_type);
	input->is_time =
		column->epoch == EPOCH_NONE &&
		(base_type == TIMESTAMPTZOID || base_type == TIMESTAMPOID || base_type == DATEOID);
	input->checks_null =
		get_typtype(column->type) == TYPTYPE_DOMAIN && DomainHasConstraints(column->type);
	input->epoch = input->checks_null ? column->epoch : EPOCH_NONE;

	/* Extensions report bad input by elog() too: PostGIS that of shapes.  And so does
	 * jsonb of an array that is too long for its memory. */
	input->reports_internally =
		base_type >= FirstNormalObjectId || input->takes_json || input->takes_structure;
	input->context =
		AllocSetContextCreate(CurrentMemoryContext, "detect input function", ALLOCSET_SMALL_SIZES);
	input->is_ready = false;
}

/*
 * What numbers count in a column of this type: it is detect.epoch_ms or its like, or
 * a domain over one of them.
 */
EpochUnit
decode_epoch_unit(Oid type)
{
	static const char *const names[] = {"epoch_s", "epoch_ms", "epoch_us", "epoch_ns"};
	Oid schema = get_namespace_oid(DETECT_SCHEMA, true);

	while (get_typtype(type) == TYPTYPE_DOMAIN)
	{
		HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		Form_pg_type domain;
		EpochUnit unit = EPOCH_NONE;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for type %u", type);
		domain = (Form_pg_type) GETSTRUCT(tuple);
		for (int i = 0; domain->typnamespace == schema && i < lengthof(names); i++)
		{
			if (strcmp(NameStr(domain->typname), names[i]) == 0)
				unit = EPOCH_S + i;
		}
		type = domain->typbasetype;
		ReleaseSysCache(tuple);
		if (unit != EPOCH_NONE)
			return unit;
	}
	return EPOCH_NONE;
}

/*
 * Forget what is known of the type: it may have been altered meanwhile.
 */
void
decode_input_begin(DecodeInput *input)
{
	input->is_ready = false;
}

/*
 * Convert a value that is neither absent nor null.
 *
 * Scratch has room for the payload, two quotes and a zero byte.
 */
bool
decode_input_value(DecodeInput *input, DecodeGuard *guard, const JsonValue *value, char *scratch,
				   Datum *result, DecodeError *error)
{
	InputCall call;
	FastResult counted = FAST_UNKNOWN;

	if (input->is_time && value->kind == JSON_KIND_NUMBER &&
		value->end - value->start > MAX_DAY_DIGITS)
		return decode_fail(
			error, ERRCODE_INVALID_DATETIME_FORMAT,
			"a number is a time in a column of detect.epoch_ms or its like: \"%.*s\"",
			(int) Min(value->end - value->start, MAX_QUOTED_BYTES), value->start);
	if (input->epoch != EPOCH_NONE)
		counted = json_epoch_convert(input->epoch, value, result, error);
	if (counted == FAST_ERROR)
		return false;
	call.input = input;
	call.is_structure = input->takes_structure && value->kind != JSON_KIND_STRING;
	call.text = counted == FAST_DONE
					? DatumGetCString(DirectFunctionCall1(timestamptz_out, *result))
					: value_text(value, input->takes_json, scratch);
	return call_input(input, guard, &call, result, error);
}

/*
 * Check that a column may be NULL, where its type is a domain that might not.
 */
bool
decode_input_null(DecodeInput *input, DecodeGuard *guard, DecodeError *error)
{
	InputCall call = {input, NULL, false};
	Datum result;

	return !input->checks_null || call_input(input, guard, &call, &result, error);
}

/*
 * Run a call under guard.  What it remembered is dropped when it failed: it
 * may have stopped in the middle of anything.
 */
static bool
call_input(DecodeInput *input, DecodeGuard *guard, InputCall *call, Datum *result,
		   DecodeError *error)
{
	if (guard_call(guard, run_input, call, input->reports_internally, result, error))
		return true;
	input->is_ready = false;
	return false;
}

/*
 * The guarded call.
 */
static Datum
run_input(void *argument)
{
	InputCall *call = argument;
	DecodeInput *input = call->input;

	if (!input->is_ready)
		prepare_input(input);
	if (call->is_structure)
		return decode_structure(&input->structure, call->text);
	return InputFunctionCall(&input->input, call->text, input->input_parameter, input->typmod);
}

/*
 * Look up the functions of a column's type, for the rest of the batch.
 */
static void
prepare_input(DecodeInput *input)
{
	MemoryContext caller_context;
	Oid function;

	MemoryContextReset(input->context);
	caller_context = MemoryContextSwitchTo(input->context);

	getTypeInputInfo(input->type, &function, &input->input_parameter);
	fmgr_info_cxt(function, &input->input, input->context);

	if (input->takes_structure)
		decode_structure_init(&input->structure, input->name, input->type, input->typmod);

	MemoryContextSwitchTo(caller_context);
	input->is_ready = true;
}

/*
 * The text that the input function gets for a value, written to 'scratch'.
 *
 * That is the text of a string, without quotes unless JSON is wanted, and the
 * JSON text of anything else.
 */
static char *
value_text(const JsonValue *value, bool as_json, char *scratch)
{
	const char *start = value->start;
	size_t bytes = value->end - value->start;

	if (value->kind == JSON_KIND_STRING && as_json)
	{
		start--;
		bytes += 2;
	}
	else if (value->has_escapes)
	{
		scratch[json_unescape(value->start, value->end, scratch)] = '\0';
		return scratch;
	}
	memcpy(scratch, start, bytes);
	scratch[bytes] = '\0';
	return scratch;
}
