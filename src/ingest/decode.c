/*-------------------------------------------------------------------------
 *
 * decode.c
 *	  From the bytes of a message to the typed columns of a stream.
 *
 *	  payload ──► load ──► walk ────────────► convert ──► Datums
 *				  UTF-8    validate, note     fast, else
 *						   wanted values      input function
 *
 * A payload is copied once, into a buffer that ends with zero bytes
 * (decode_buffer.c); all that follows points into it.  It is walked once
 * (decode_walk.c, json_scan.c), along the tree of all paths (decode_path.c).
 * Values of common types are converted by code of ours (json_value.c,
 * json_number.c, json_time.c), which gives exactly what the type's input
 * function would; others by the input function itself (decode_input.c).
 *
 * The outcome is defined by two functions of PostgreSQL: a payload is valid if
 * it is valid as jsonb, and a column becomes what json_to_record() makes of it.
 * Deviations, all of them meant: at most 1000 levels of nesting, at most 256 MB
 * of payload, a top level other than an object is refused, and json columns
 * keep the escapes of a string.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "decode_internal.h"

/* A column: where its value is noted, and how it is converted. */
typedef struct ColumnDecoder
{
	DecodeNode *node;
	const JsonValue *value;
	FastKind fast_kind;
	DecodeInput input;
} ColumnDecoder;

struct Decoder
{
	MemoryContext context;
	int column_count;
	ColumnDecoder *columns;
	DecodeNode *root;
	int target_count;
	JsonValue *targets;

	DecodeBuffer buffer;
	DecodeGuard guard;
};

static bool walk_payload(Decoder *decoder, DecodeError *error);
static bool check_by_server(Decoder *decoder, DecodeError *error);
static Datum run_jsonb_in(void *argument);
static bool check_top(Decoder *decoder, JsonKind kind, DecodeError *error);
static bool convert_column(Decoder *decoder, ColumnDecoder *column, Datum *value, bool *isnull,
						   DecodeError *error);

/*
 * Make a decoder for these columns.
 *
 * It lives in a context of its own below 'context', and ends with that.
 * Raises an error for an invalid path and for a type without values.
 */
Decoder *
decoder_create(const DecodeColumn *columns, int ncolumns, MemoryContext context)
{
	MemoryContext own_context =
		AllocSetContextCreate(context, "detect decoder", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(own_context);
	Decoder *decoder = palloc0(sizeof(Decoder));

	decoder->context = own_context;
	decoder->column_count = ncolumns;
	decoder->columns = palloc0(ncolumns * sizeof(ColumnDecoder));
	decoder->root = decode_node_create();
	for (int i = 0; i < ncolumns; i++)
	{
		ColumnDecoder *column = &decoder->columns[i];

		column->node = decode_path_add(decoder->root, columns[i].path);
		column->fast_kind = json_fast_kind(columns[i].type, columns[i].typmod);
		decode_input_init(&column->input, &columns[i]);
	}

	decoder->target_count = decode_paths_finish(decoder->root);
	decoder->targets = palloc0(decoder->target_count * sizeof(JsonValue));
	for (int i = 0; i < ncolumns; i++)
		decoder->columns[i].value = &decoder->targets[decoder->columns[i].node->target];

	decode_buffer_init(&decoder->buffer, own_context);
	MemoryContextSwitchTo(caller_context);
	return decoder;
}

/*
 * Start a batch of payloads.
 *
 * The caller is in a transaction with an active snapshot, and until
 * decoder_end_batch() writes nothing, begins or ends no (sub)transaction, and
 * answers an ERROR by aborting the whole transaction.
 */
void
decoder_begin_batch(Decoder *decoder)
{
	guard_begin(&decoder->guard);
	for (int i = 0; i < decoder->column_count; i++)
		decode_input_begin(&decoder->columns[i].input);
	decode_buffer_begin(&decoder->buffer);
}

/*
 * End a batch: values decoded in it stay valid.
 */
void
decoder_end_batch(Decoder *decoder)
{
	guard_end(&decoder->guard);
}

/*
 * Decode one payload; NULL is that of a message without any.
 *
 * Returns true and fills values and nulls, which have room for all columns;
 * by-reference values are allocated in the current context.  Returns false and
 * fills *error when the payload is bad; values are undefined then.  Errors that
 * are not the payload's are thrown.
 */
bool
decoder_decode(Decoder *decoder, const char *payload, size_t payload_bytes, Datum *values,
			   bool *nulls, DecodeError *error)
{
	if (payload == NULL)
		return decode_fail(error, ERRCODE_INVALID_PARAMETER_VALUE, "message has no payload");
	if (payload_bytes == 0)
		return decode_fail(error, ERRCODE_INVALID_PARAMETER_VALUE, "payload is empty");

	if (!decode_buffer_load(&decoder->buffer, &decoder->guard, payload, payload_bytes, error) ||
		!walk_payload(decoder, error))
		return false;

	for (int i = 0; i < decoder->column_count; i++)
	{
		if (!convert_column(decoder, &decoder->columns[i], &values[i], &nulls[i], error))
			return false;
	}
	return true;
}

/*
 * Fill *error.  Always returns false, so that callers can hand it on.
 */
bool
decode_fail(DecodeError *error, int sqlstate, const char *format, ...)
{
	StringInfoData reason;

	initStringInfo(&reason);
	for (;;)
	{
		va_list arguments;
		int missing_bytes;

		va_start(arguments, format);
		missing_bytes = appendStringInfoVA(&reason, format, arguments);
		va_end(arguments);
		if (missing_bytes == 0)
			break;
		enlargeStringInfo(&reason, missing_bytes);
	}
	error->sqlstate = sqlstate;
	error->reason = reason.data;
	return false;
}

/*
 * Validate the payload in the buffer and note the values that columns want.
 */
static bool
walk_payload(Decoder *decoder, DecodeError *error)
{
	JsonScanner scanner;
	JsonValue top;
	bool is_checked = false;

	for (;;)
	{
		memset(decoder->targets, 0, decoder->target_count * sizeof(JsonValue));
		json_scan_begin(&scanner, decoder->buffer.text, decoder->buffer.bytes);
		scanner.is_server_checked = is_checked;
		if (!decode_walk(&scanner, decoder->root, decoder->targets, decoder->buffer.scratch, &top))
		{
			error->reason = json_scan_reason(&scanner, &error->sqlstate);
			return false;
		}
		if (!scanner.needs_server_check || is_checked)
			break;
		if (!check_by_server(decoder, error))
			return false;
		is_checked = true;
	}
	return check_top(decoder, top.kind, error);
}

/*
 * Let the server judge the payload in the buffer.
 */
static bool
check_by_server(Decoder *decoder, DecodeError *error)
{
	Datum result;

	if (!guard_call(&decoder->guard, run_jsonb_in, decoder->buffer.text, false, &result, error))
	{
		error->reason = psprintf("invalid JSON: %s", error->reason);
		return false;
	}
	pfree(DatumGetPointer(result));
	return true;
}

/*
 * The guarded call.
 */
static Datum
run_jsonb_in(void *argument)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum((char *) argument));
}

/*
 * Refuse a payload that is no object, nor an array where paths want items.
 */
static bool
check_top(Decoder *decoder, JsonKind kind, DecodeError *error)
{
	const char *found;

	switch (kind)
	{
		case JSON_KIND_OBJECT:
			return true;
		case JSON_KIND_ARRAY:
			if (decoder->root->has_items)
				return true;
			found = "array";
			break;
		case JSON_KIND_STRING:
			found = "string";
			break;
		case JSON_KIND_NUMBER:
			found = "number";
			break;
		case JSON_KIND_NULL:
			found = "null";
			break;
		default:
			found = "boolean";
			break;
	}
	return decode_fail(error, ERRCODE_SQL_JSON_OBJECT_NOT_FOUND,
					   "payload is a JSON %s, not an object", found);
}

/*
 * Convert the value that was noted for a column.
 */
static bool
convert_column(Decoder *decoder, ColumnDecoder *column, Datum *value, bool *isnull,
			   DecodeError *error)
{
	FastResult result;
	char *reason;

	*isnull = column->value->kind <= JSON_KIND_NULL;
	if (*isnull)
	{
		*value = (Datum) 0;
		if (decode_input_null(&column->input, &decoder->guard, error))
			return true;
	}
	else
	{
		result = json_value_convert(column->fast_kind, column->input.typmod, column->value, value,
									error);
		if (result == FAST_DONE)
			return true;
		if (result == FAST_UNKNOWN &&
			decode_input_value(&column->input, &decoder->guard, column->value,
							   decoder->buffer.scratch, value, error))
			return true;
	}

	reason = error->reason;
	error->reason = psprintf("column \"%s\": %s", column->input.name, reason);
	pfree(reason);
	return false;
}
