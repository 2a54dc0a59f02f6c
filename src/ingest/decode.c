/*-------------------------------------------------------------------------
 *
 * decode.c
 *	  From the bytes of a message to the typed columns of a stream.
 *
 *	  payload ──► load ──► walk ────────────► convert ──► Datums
 *				  UTF-8    validate, note     fast, else
 *						   wanted values      input function
 *
 * With unnest the walk also notes the items of the array, and each is walked
 * along the tree of "@" when its turn comes.  What a column takes by a path from
 * "$" is the same for all elements of a message: it is converted once, and when
 * its type refuses it, the whole message is bad.
 *
 * A payload is copied once, into a buffer that ends with zero bytes
 * (decode_buffer.c); all that follows points into it.  It is walked once
 * (decode_walk.c, json_scan.c), along the tree of all paths (decode_path.c).
 * Values of common types are converted by code of ours (json_value.c,
 * json_number.c, json_time.c, json_epoch.c), which gives exactly what the type's input
 * function would; others by the input function itself (decode_input.c).
 *
 * The outcome is defined by two functions of PostgreSQL: a payload is valid if
 * it is valid as jsonb, and a column becomes what json_to_record() makes of it.
 * Deviations, all of them meant: at most 1000 levels of nesting, at most 256 MB
 * of payload, a top level other than an object is refused, json columns keep the
 * escapes of a string, and a long number, not a string, is no day of a far year: it
 * counts something, in a column of detect.epoch_ms and its like what their unit says
 * (json_epoch.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "decode_internal.h"

/* A column: where its value is noted, and how it is converted. */
typedef struct ColumnDecoder
{
	DecodeTree *tree;
	DecodeNode *node;
	const JsonValue *value;
	EpochUnit epoch; /* what numbers count, but for the slow path */
	FastKind fast_kind;
	DecodeInput input;
} ColumnDecoder;

struct Decoder
{
	MemoryContext context;
	int column_count;
	ColumnDecoder *columns;
	DecodeTree message;

	/* With unnest; without, the message is the element. */
	const char *unnest_path;
	DecodeNode *unnest_node;
	DecodeTree item;
	DecodeItems items;
	Datum *shared_values; /* of columns with a path from "$" */
	bool *shared_nulls;

	/* The message that is being decoded. */
	DecodeBuffer buffer;
	int element_count;
	int next_element;

	DecodeGuard guard;
};

static void init_column(Decoder *decoder, ColumnDecoder *column, const DecodeColumn *definition);
static bool begin_elements(Decoder *decoder, DecodeError *error);
static bool check_top(const Decoder *decoder, JsonKind kind, DecodeError *error);
static bool check_item(const Decoder *decoder, JsonKind kind, DecodeError *error);
static const char *kind_name(JsonKind kind);
static bool convert_columns(Decoder *decoder, const DecodeTree *tree, Datum *values, bool *nulls,
							DecodeError *error);
static bool convert_column(Decoder *decoder, ColumnDecoder *column, Datum *value, bool *isnull,
						   DecodeError *error);

/*
 * Make a decoder for these columns.
 *
 * With 'unnest_path' each item of the array there is an element, otherwise the
 * message is.  The decoder lives in a context of its own below 'context', and
 * ends with that.  Raises an error for an invalid path and for a type without
 * values.
 */
Decoder *
decoder_create(const DecodeColumn *columns, int ncolumns, const char *unnest_path,
			   MemoryContext context)
{
	MemoryContext own_context =
		AllocSetContextCreate(context, "detect decoder", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller_context = MemoryContextSwitchTo(own_context);
	Decoder *decoder = palloc0(sizeof(Decoder));

	decoder->context = own_context;
	decoder->column_count = ncolumns;
	decoder->columns = palloc0(ncolumns * sizeof(ColumnDecoder));
	decode_tree_init(&decoder->message);
	if (unnest_path)
	{
		decoder->unnest_path = pstrdup(unnest_path);
		decoder->unnest_node = decode_tree_add(&decoder->message, unnest_path, false);
		decoder->unnest_node->is_unnested = true;
		decoder->unnest_node->has_items = true;
		decoder->items.context = own_context;
		decode_tree_init(&decoder->item);
		decoder->shared_values = palloc0(ncolumns * sizeof(Datum));
		decoder->shared_nulls = palloc0(ncolumns * sizeof(bool));
	}
	for (int i = 0; i < ncolumns; i++)
		init_column(decoder, &decoder->columns[i], &columns[i]);

	decode_tree_finish(&decoder->message);
	if (unnest_path)
		decode_tree_finish(&decoder->item);
	for (int i = 0; i < ncolumns; i++)
	{
		ColumnDecoder *column = &decoder->columns[i];

		column->value = &column->tree->targets[column->node->target];
	}

	decode_buffer_init(&decoder->buffer, own_context);
	MemoryContextSwitchTo(caller_context);
	return decoder;
}

/*
 * Set a column up, in the current context.
 */
static void
init_column(Decoder *decoder, ColumnDecoder *column, const DecodeColumn *definition)
{
	bool has_unnest = decoder->unnest_node != NULL;
	bool is_of_item = has_unnest && definition->path[0] == '@';

	column->tree = is_of_item ? &decoder->item : &decoder->message;
	column->node = decode_tree_add(column->tree, definition->path, has_unnest);
	column->fast_kind = json_fast_kind(definition->type, definition->typmod);
	decode_input_init(&column->input, definition);
	if (column->input.epoch == EPOCH_NONE)
		column->epoch = definition->epoch;
}

/*
 * Start a batch of elements.
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
	if (decoder->next_element == decoder->element_count)
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
 * Take a message by its payload; NULL is that of a message without any.
 *
 * Returns true when it is valid, and decoder_element_count() elements can be
 * taken.  What they share is then allocated in the current context, which the
 * caller keeps as long as any of them.  Returns false and fills *error when the
 * message is bad as a whole.  Errors that are not the message's are thrown.
 */
bool
decoder_begin_message(Decoder *decoder, const char *payload, size_t payload_bytes,
					  DecodeError *error)
{
	JsonValue top;

	decoder->element_count = 0;
	decoder->next_element = 0;
	if (payload == NULL)
		return decode_fail(error, ERRCODE_INVALID_PARAMETER_VALUE, "message has no payload");
	if (payload_bytes == 0)
		return decode_fail(error, ERRCODE_INVALID_PARAMETER_VALUE, "payload is empty");

	if (!decode_buffer_load(&decoder->buffer, &decoder->guard, payload, payload_bytes, error) ||
		!decode_walk_payload(&decoder->buffer, &decoder->guard, &decoder->message, &decoder->items,
							 &top, error) ||
		!check_top(decoder, top.kind, error))
		return false;
	if (decoder->unnest_node)
		return begin_elements(decoder, error);
	decoder->element_count = 1;
	return true;
}

/*
 * How many elements the message has.
 */
int
decoder_element_count(const Decoder *decoder)
{
	return decoder->element_count;
}

/*
 * Decode the next element of the message.
 *
 * Returns true and fills values and nulls, which have room for all columns;
 * by-reference values are allocated in the current context.  Returns false and
 * fills *error when this element is bad; values are undefined then, and the
 * elements behind it can still be taken.  Errors that are not the element's are
 * thrown.
 */
bool
decoder_next_element(Decoder *decoder, Datum *values, bool *nulls, DecodeError *error)
{
	DecodeTree *tree = decoder->unnest_node ? &decoder->item : &decoder->message;
	int element = decoder->next_element;

	if (element == decoder->element_count)
		elog(ERROR, "the message has no more elements");
	decoder->next_element++;
	if (decoder->unnest_node)
	{
		JsonValue item;

		decode_walk_item(&decoder->buffer, decoder->items.starts[element], tree, &item);
		if (!check_item(decoder, item.kind, error))
			return false;
		memcpy(values, decoder->shared_values, decoder->column_count * sizeof(Datum));
		memcpy(nulls, decoder->shared_nulls, decoder->column_count * sizeof(bool));
	}
	if (!convert_columns(decoder, tree, values, nulls, error))
		return false;
	if (unknown_was_met(tree->root))
		unknown_count_walk(tree->root, decoder->buffer.scratch);
	return true;
}

/*
 * The members that no column took since the last reset, in the current context.
 *
 * Counted are messages and items that were decoded.  Names are kept as long as
 * the decoder.
 */
UnknownField *
decoder_unknown_fields(const Decoder *decoder, int *nfields)
{
	UnknownField *fields = palloc(2 * (MAX_UNKNOWN_NAMES + 1) * sizeof(UnknownField));

	*nfields = unknown_list(decoder->message.root, false, fields);
	if (decoder->unnest_node)
		*nfields += unknown_list(decoder->item.root, true, fields + *nfields);
	return fields;
}

/*
 * Count unknown fields from zero again.
 */
void
decoder_reset_unknown_fields(Decoder *decoder)
{
	unknown_reset(decoder->message.root);
	if (decoder->unnest_node)
		unknown_reset(decoder->item.root);
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
 * Find the elements of the message, and convert what they share.
 */
static bool
begin_elements(Decoder *decoder, DecodeError *error)
{
	JsonKind kind = decoder->message.targets[decoder->unnest_node->target].kind;
	int element_count = 0;

	if (kind == JSON_KIND_ARRAY)
		element_count = decoder->items.count;
	else if (kind > JSON_KIND_NULL)
		return decode_fail(error, ERRCODE_SQL_JSON_ARRAY_NOT_FOUND,
						   "unnest path \"%s\" leads to a JSON %s, not an array",
						   decoder->unnest_path, kind_name(kind));
	if (element_count > MAX_ITEMS)
		return decode_fail(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						   "unnest path \"%s\" leads to an array of %d items, more than %d",
						   decoder->unnest_path, element_count, MAX_ITEMS);

	if (!convert_columns(decoder, &decoder->message, decoder->shared_values, decoder->shared_nulls,
						 error))
		return false;
	if (unknown_was_met(decoder->message.root))
		unknown_count_walk(decoder->message.root, decoder->buffer.scratch);
	decoder->element_count = element_count;
	return true;
}

/*
 * Refuse a payload that is no object, nor an array where paths want items.
 *
 * One that is unnested itself is judged by begin_elements().
 */
static bool
check_top(const Decoder *decoder, JsonKind kind, DecodeError *error)
{
	const DecodeNode *root = decoder->message.root;

	if (kind == JSON_KIND_OBJECT || (kind == JSON_KIND_ARRAY && root->has_items) ||
		root->is_unnested)
		return true;
	return decode_fail(error, ERRCODE_SQL_JSON_OBJECT_NOT_FOUND,
					   "payload is a JSON %s, not an object", kind_name(kind));
}

/*
 * Refuse an item that all paths of "@" lead past.
 */
static bool
check_item(const Decoder *decoder, JsonKind kind, DecodeError *error)
{
	const DecodeNode *root = decoder->item.root;

	if (kind == JSON_KIND_OBJECT || (kind == JSON_KIND_ARRAY && root->has_items) ||
		root->target >= 0 || root->children == NULL)
		return true;
	return decode_fail(error, ERRCODE_SQL_JSON_OBJECT_NOT_FOUND, "item is a JSON %s, not an object",
					   kind_name(kind));
}

/*
 * What a value is, in an error text.
 */
static const char *
kind_name(JsonKind kind)
{
	switch (kind)
	{
		case JSON_KIND_OBJECT:
			return "object";
		case JSON_KIND_ARRAY:
			return "array";
		case JSON_KIND_STRING:
			return "string";
		case JSON_KIND_NUMBER:
			return "number";
		case JSON_KIND_NULL:
			return "null";
		default:
			return "boolean";
	}
}

/*
 * Convert the values that were noted for the columns of a tree.
 */
static bool
convert_columns(Decoder *decoder, const DecodeTree *tree, Datum *values, bool *nulls,
				DecodeError *error)
{
	for (int i = 0; i < decoder->column_count; i++)
	{
		ColumnDecoder *column = &decoder->columns[i];

		if (column->tree == tree && !convert_column(decoder, column, &values[i], &nulls[i], error))
			return false;
	}
	return true;
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
		result = FAST_UNKNOWN;
		if (column->epoch != EPOCH_NONE)
			result = json_epoch_convert(column->epoch, column->value, value, error);
		if (result == FAST_UNKNOWN)
			result = json_value_convert(column->fast_kind, column->input.typmod, column->value,
										value, error);
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
