/*-------------------------------------------------------------------------
 *
 * decode_sql.c
 *	  The decoder from SQL: detect.decode(payload, columns, fields, unnest).
 *
 * Shows what a payload would become, or why it would not.  As the decoder may
 * open a subtransaction, the function is parallel unsafe; and as input
 * functions look at settings like TimeZone, it is stable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "detect.h"
#include "ingest/decode.h"

PG_FUNCTION_INFO_V1(detect_decode);
PG_FUNCTION_INFO_V1(detect_unknown_fields);

#define COLUMNS_PREFIX "CREATE TABLE columns ("

/* An element, taken while the decoder's batch lasts. */
typedef struct DecodedElement
{
	bool is_valid;
	Datum row;
	DecodeError error;
} DecodedElement;

static Decoder *create_decoder(FunctionCallInfo fcinfo, TupleDesc *descriptor);
static DecodeColumn *parse_columns(const char *text, const char *place, int *ncolumns);
static List *parse_definitions(const char *text);
static void parse_column(const ColumnDef *definition, const char *place, DecodeColumn *column);
static void apply_fields(Jsonb *fields, bool has_unnest, DecodeColumn *columns, int ncolumns);
static DecodeColumn *find_column(DecodeColumn *columns, int ncolumns, const char *name);
static DecodedElement *take_elements(Decoder *decoder, TupleDesc descriptor);
static void init_to_jsonb(FmgrInfo *function);
static Datum elements_to_jsonb(const DecodedElement *elements, int nelements, FmgrInfo *to_jsonb);
static void push_text(JsonbParseState **state, JsonbIteratorToken token, const char *text);

/*
 * detect.decode(payload bytea, columns text, fields jsonb, unnest text)
 * returns jsonb
 *
 * The columns of a payload, as an object of column names and values: read as a worker
 * reads them, and shown with the settings of the session.  Raises
 * the decoder's error for a payload that it refuses.  With unnest an array of
 * such objects, in which a bad element is an object of its error and sqlstate.
 */
Datum
detect_decode(PG_FUNCTION_ARGS)
{
	bytea *payload = PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);
	TupleDesc descriptor;
	Decoder *decoder = create_decoder(fcinfo, &descriptor);
	DecodedElement *elements = NULL;
	DecodeError error;
	FmgrInfo to_jsonb;
	int nest_level = NewGUCNestLevel();
	bool is_valid;

	session_imitate_worker();
	decoder_begin_batch(decoder);
	is_valid = decoder_begin_message(decoder, payload ? VARDATA_ANY(payload) : NULL,
									 payload ? VARSIZE_ANY_EXHDR(payload) : 0, &error);
	if (is_valid)
		elements = take_elements(decoder, descriptor);
	decoder_end_batch(decoder);
	AtEOXact_GUC(false, nest_level);

	init_to_jsonb(&to_jsonb);
	if (is_valid && !PG_ARGISNULL(3))
		PG_RETURN_DATUM(elements_to_jsonb(elements, decoder_element_count(decoder), &to_jsonb));
	if (is_valid && elements[0].is_valid)
		PG_RETURN_DATUM(FunctionCall1(&to_jsonb, elements[0].row));
	if (is_valid)
		error = elements[0].error;
	ereport(ERROR, (errcode(error.sqlstate), errmsg_internal("%s", error.reason)));
}

/*
 * detect._unknown_fields(payloads bytea[], columns text, fields jsonb,
 * unnest text) returns table (of_item boolean, name text, count bigint)
 *
 * What a decoder counts of these payloads, one after another.
 */
Datum
detect_unknown_fields(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TupleDesc descriptor;
	Decoder *decoder = create_decoder(fcinfo, &descriptor);
	UnknownField *fields;
	Datum *payloads;
	bool *nulls;
	int npayloads;
	int nfields;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), BYTEAOID, -1, false, TYPALIGN_INT, &payloads,
					  &nulls, &npayloads);
	for (int i = 0; i < npayloads; i++)
	{
		bytea *payload = nulls[i] ? NULL : DatumGetByteaPP(payloads[i]);
		DecodeError error;

		decoder_begin_batch(decoder);
		if (decoder_begin_message(decoder, payload ? VARDATA_ANY(payload) : NULL,
								  payload ? VARSIZE_ANY_EXHDR(payload) : 0, &error))
			(void) take_elements(decoder, descriptor);
		decoder_end_batch(decoder);
	}

	fields = decoder_unknown_fields(decoder, &nfields);
	for (int i = 0; i < nfields; i++)
	{
		Datum values[] = {BoolGetDatum(fields[i].of_item), CStringGetTextDatum(fields[i].name),
						  Int64GetDatum((int64) fields[i].count)};
		bool no_nulls[lengthof(values)] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, no_nulls);
	}
	return (Datum) 0;
}

/*
 * Make a decoder from the arguments behind the first: columns, fields, unnest.
 *
 * Tells in *descriptor what an element is as a row.
 */
static Decoder *
create_decoder(FunctionCallInfo fcinfo, TupleDesc *descriptor)
{
	char *unnest_path = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	DecodeColumn *columns;
	int ncolumns;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("columns must not be null"),
				 errhint("Give names and types, like in CREATE TABLE: 'id bigint, name text'.")));
	columns =
		parse_columns(text_to_cstring(PG_GETARG_TEXT_PP(1)), unnest_path ? "@" : "$", &ncolumns);
	if (!PG_ARGISNULL(2))
		apply_fields(PG_GETARG_JSONB_P(2), unnest_path != NULL, columns, ncolumns);

	*descriptor = CreateTemplateTupleDesc(ncolumns);
	for (int i = 0; i < ncolumns; i++)
		TupleDescInitEntry(*descriptor, i + 1, columns[i].name, columns[i].type, columns[i].typmod,
						   0);
	BlessTupleDesc(*descriptor);
	return decoder_create(columns, ncolumns, unnest_path, CurrentMemoryContext);
}

/*
 * Read "name type, name type"; the path of each column is the member of its
 * name of that place, "$" or "@".
 */
static DecodeColumn *
parse_columns(const char *text, const char *place, int *ncolumns)
{
	List *definitions = parse_definitions(text);
	DecodeColumn *columns = palloc0(list_length(definitions) * sizeof(DecodeColumn));
	ListCell *cell;

	if (list_length(definitions) > MaxTupleAttributeNumber)
		ereport(ERROR, (errcode(ERRCODE_TOO_MANY_COLUMNS),
						errmsg("columns can have at most %d entries", MaxTupleAttributeNumber)));
	*ncolumns = 0;
	foreach(cell, definitions)
	{
		Node *definition = lfirst(cell);

		if (!IsA(definition, ColumnDef))
			ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
							errmsg("columns must be names and types only")));
		if (find_column(columns, *ncolumns, ((ColumnDef *) definition)->colname))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("column \"%s\" specified more than once",
								   ((ColumnDef *) definition)->colname)));
		parse_column((ColumnDef *) definition, place, &columns[*ncolumns]);
		(*ncolumns)++;
	}
	return columns;
}

/*
 * Let PostgreSQL's own grammar read the columns, as those of a table.
 */
static List *
parse_definitions(const char *text)
{
	char *statement = psprintf(COLUMNS_PREFIX "%s)", text);
	SqlText columns = {
		.what = psprintf("columns \"%s\"", text), .text = text, .offset = strlen(COLUMNS_PREFIX)};
	ErrorContextCallback callback = {error_context_stack, sql_text_error, &columns};
	List *statements;
	CreateStmt *create;

	error_context_stack = &callback;
	statements = raw_parser(statement, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;

	/* A closing parenthesis in the text could have begun anything else. */
	create = (CreateStmt *) linitial_node(RawStmt, statements)->stmt;
	if (list_length(statements) != 1 || !IsA(create, CreateStmt) || create->inhRelations != NIL ||
		create->options != NIL || create->partspec != NULL || create->tablespacename != NULL ||
		create->accessMethod != NULL || create->oncommit != ONCOMMIT_NOOP)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("columns must be names and types only")));
	if (create->tableElts == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("columns must not be empty"),
				 errhint("Give names and types, like in CREATE TABLE: 'id bigint, name text'.")));
	return create->tableElts;
}

/*
 * Look up the type of a column.
 */
static void
parse_column(const ColumnDef *definition, const char *place, DecodeColumn *column)
{
	if (definition->constraints != NIL || definition->collClause != NULL ||
		definition->raw_default != NULL || definition->typeName == NULL ||
		definition->fdwoptions != NIL || definition->compression != NULL ||
		compat_has_storage_name(definition))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("column \"%s\" must be a name and a type only", definition->colname)));
	if (definition->typeName->setof)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("column \"%s\" must not be a set", definition->colname)));

	column->name = definition->colname;
	typenameTypeIdAndMod(NULL, definition->typeName, &column->type, &column->typmod);
	column->epoch = decode_epoch_unit(column->type);
	column->path = stream_member_path(place, column->name);
}

/*
 * Set the paths of columns that 'fields' names: {"column": "$.path"}.
 */
static void
apply_fields(Jsonb *fields, bool has_unnest, DecodeColumn *columns, int ncolumns)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue item;
	DecodeColumn *column = NULL;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("fields must be a JSON object"),
				 errhint("Give columns and paths: '{\"lon\": \"$.pos.lon\"}'.")));

	iterator = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			char *name = pnstrdup(item.val.string.val, item.val.string.len);

			column = find_column(columns, ncolumns, name);
			if (column == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_COLUMN),
						 errmsg("fields name a column \"%s\" that is not in columns", name)));
		}
		else if (token == WJB_VALUE)
		{
			if (item.type != jbvString)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("path of column \"%s\" must be a JSON string", column->name)));
			column->path = pnstrdup(item.val.string.val, item.val.string.len);
			decode_check_path(column->path, has_unnest);
		}
	}
}

/*
 * The column of that name, or NULL.
 */
static DecodeColumn *
find_column(DecodeColumn *columns, int ncolumns, const char *name)
{
	for (int i = 0; i < ncolumns; i++)
	{
		if (strcmp(columns[i].name, name) == 0)
			return &columns[i];
	}
	return NULL;
}

/*
 * Take the elements of a message that has begun.
 */
static DecodedElement *
take_elements(Decoder *decoder, TupleDesc descriptor)
{
	int nelements = decoder_element_count(decoder);
	DecodedElement *elements = palloc0(Max(nelements, 1) * sizeof(DecodedElement));
	Datum *values = palloc(descriptor->natts * sizeof(Datum));
	bool *nulls = palloc(descriptor->natts * sizeof(bool));

	for (int i = 0; i < nelements; i++)
	{
		elements[i].is_valid = decoder_next_element(decoder, values, nulls, &elements[i].error);
		if (elements[i].is_valid)
			elements[i].row = HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls));
	}
	return elements;
}

/*
 * Prepare calls of to_jsonb() with a record.
 */
static void
init_to_jsonb(FmgrInfo *function)
{
	List *arguments = list_make1(makeNullConst(RECORDOID, -1, InvalidOid));

	fmgr_info(F_TO_JSONB, function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, arguments, InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL),
					   function);
}

/*
 * Make the array of the elements of a message.
 */
static Datum
elements_to_jsonb(const DecodedElement *elements, int nelements, FmgrInfo *to_jsonb)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < nelements; i++)
	{
		const DecodedElement *element = &elements[i];

		if (element->is_valid)
		{
			Jsonb *object = DatumGetJsonbP(FunctionCall1(to_jsonb, element->row));
			JsonbValue item;

			item.type = jbvBinary;
			item.val.binary.data = &object->root;
			item.val.binary.len = VARSIZE_ANY_EXHDR(object);
			pushJsonbValue(&state, WJB_ELEM, &item);
			continue;
		}
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		push_text(&state, WJB_KEY, "error");
		push_text(&state, WJB_VALUE, element->error.reason);
		push_text(&state, WJB_KEY, "sqlstate");
		push_text(&state, WJB_VALUE, pstrdup(unpack_sql_state(element->error.sqlstate)));
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL)));
}

/*
 * Add a key or a value to an object.  The text is not copied.
 */
static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *text)
{
	JsonbValue string;

	string.type = jbvString;
	string.val.string.val = unconstify(char *, text);
	string.val.string.len = (int) strlen(text);
	pushJsonbValue(state, token, &string);
}
