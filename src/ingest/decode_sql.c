/*-------------------------------------------------------------------------
 *
 * decode_sql.c
 *	  The decoder from SQL: detect.decode(payload, columns, fields).
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
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "decode.h"

PG_FUNCTION_INFO_V1(detect_decode);

#define COLUMNS_PREFIX "CREATE TABLE columns ("

static DecodeColumn *parse_columns(const char *text, int *ncolumns);
static List *parse_definitions(const char *text);
static void move_error_position(void *argument);
static void parse_column(const ColumnDef *definition, DecodeColumn *column);
static void apply_fields(Jsonb *fields, DecodeColumn *columns, int ncolumns);
static DecodeColumn *find_column(DecodeColumn *columns, int ncolumns, const char *name);
static Datum row_to_jsonb(const DecodeColumn *columns, int ncolumns, Datum *values, bool *nulls);

/*
 * detect.decode(payload bytea, columns text, fields jsonb) returns jsonb
 *
 * The columns of a payload, as an object of column names and values.  Raises
 * the decoder's error for a payload that it refuses.
 */
Datum
detect_decode(PG_FUNCTION_ARGS)
{
	bytea *payload = PG_ARGISNULL(0) ? NULL : PG_GETARG_BYTEA_PP(0);
	DecodeColumn *columns;
	int ncolumns;
	Decoder *decoder;
	Datum *values;
	bool *nulls;
	DecodeError error;
	bool is_valid;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("columns must not be null"),
				 errhint("Give names and types, like in CREATE TABLE: 'id bigint, name text'.")));
	columns = parse_columns(text_to_cstring(PG_GETARG_TEXT_PP(1)), &ncolumns);
	if (!PG_ARGISNULL(2))
		apply_fields(PG_GETARG_JSONB_P(2), columns, ncolumns);

	decoder = decoder_create(columns, ncolumns, CurrentMemoryContext);
	values = palloc(ncolumns * sizeof(Datum));
	nulls = palloc(ncolumns * sizeof(bool));

	decoder_begin_batch(decoder);
	is_valid = decoder_decode(decoder, payload ? VARDATA_ANY(payload) : NULL,
							  payload ? VARSIZE_ANY_EXHDR(payload) : 0, values, nulls, &error);
	decoder_end_batch(decoder);
	if (!is_valid)
		ereport(ERROR, (errcode(error.sqlstate), errmsg_internal("%s", error.reason)));

	PG_RETURN_DATUM(row_to_jsonb(columns, ncolumns, values, nulls));
}

/*
 * Read "name type, name type"; the path of each column is the member of its
 * name.
 */
static DecodeColumn *
parse_columns(const char *text, int *ncolumns)
{
	List *definitions = parse_definitions(text);
	DecodeColumn *columns = palloc0(list_length(definitions) * sizeof(DecodeColumn));
	ListCell *cell;

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
		parse_column((ColumnDef *) definition, &columns[*ncolumns]);
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
	ErrorContextCallback callback;
	List *statements;
	CreateStmt *create;

	callback.callback = move_error_position;
	callback.arg = (void *) text;
	callback.previous = error_context_stack;
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
 * Error context callback: a syntax error is in the columns, not in the query.
 */
static void
move_error_position(void *argument)
{
	const char *text = argument;
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position - (int) strlen(COLUMNS_PREFIX));
		internalerrquery(text);
	}
	errcontext("columns \"%s\"", text);
}

/*
 * Look up the type of a column.
 */
static void
parse_column(const ColumnDef *definition, DecodeColumn *column)
{
	StringInfoData path;

	if (definition->constraints != NIL || definition->collClause != NULL ||
		definition->raw_default != NULL || definition->typeName == NULL ||
		definition->fdwoptions != NIL || definition->compression != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("column \"%s\" must be a name and a type only", definition->colname)));
	if (definition->typeName->setof)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("column \"%s\" must not be a set", definition->colname)));

	column->name = definition->colname;
	typenameTypeIdAndMod(NULL, definition->typeName, &column->type, &column->typmod);

	initStringInfo(&path);
	appendStringInfoString(&path, "$.");
	escape_json(&path, column->name);
	column->path = path.data;
}

/*
 * Set the paths of columns that 'fields' names: {"column": "$.path"}.
 */
static void
apply_fields(Jsonb *fields, DecodeColumn *columns, int ncolumns)
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
			decode_check_path(column->path);
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
 * Make the object: to_jsonb() of a record of the columns.
 */
static Datum
row_to_jsonb(const DecodeColumn *columns, int ncolumns, Datum *values, bool *nulls)
{
	TupleDesc descriptor = CreateTemplateTupleDesc(ncolumns);
	HeapTuple tuple;
	FmgrInfo function;
	List *arguments;

	for (int i = 0; i < ncolumns; i++)
		TupleDescInitEntry(descriptor, i + 1, columns[i].name, columns[i].type, columns[i].typmod,
						   0);
	BlessTupleDesc(descriptor);
	tuple = heap_form_tuple(descriptor, values, nulls);

	fmgr_info(F_TO_JSONB, &function);
	arguments = list_make1(makeNullConst(RECORDOID, -1, InvalidOid));
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, arguments, InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL),
					   &function);
	return FunctionCall1(&function, HeapTupleGetDatum(tuple));
}
