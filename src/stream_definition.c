/*-------------------------------------------------------------------------
 *
 * stream_definition.c
 *	  A definition as SQL again: detect.get_definition.
 *
 * What a stream is can be read off its objects, so the text is made of them
 * and not kept.  The query comes from its view, which names the staging table
 * where the user wrote "batch", and has the ordinal added: both are found in
 * the view's text by PostgreSQL's own parser, and put right there.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "place/locator_create.h"
#include "sql.h"
#include "stream.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_get_definition);

/* ---------------------------------------------------------------------
 * The query
 * ---------------------------------------------------------------------
 */

/* Where the staging table is named in the text of a view. */
typedef struct StagingSearch
{
	const char *stream_name;
	RangeVar *found;
} StagingSearch;

static bool
find_staging(Node *node, void *context)
{
	StagingSearch *search = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeVar))
	{
		RangeVar *range = (RangeVar *) node;

		if (range->schemaname && strcmp(range->schemaname, DETECT_STAGING_SCHEMA) == 0 &&
			strcmp(range->relname, search->stream_name) == 0)
			search->found = range;
	}
	return raw_expression_tree_walker(node, find_staging, context);
}

/* The view's text, without the semicolon. */
static char *
view_text(Oid view)
{
	int nest_level = sql_begin_qualified();
	char *sql;

	sql = TextDatumGetCString(DirectFunctionCall1(pg_get_viewdef, ObjectIdGetDatum(view)));
	AtEOXact_GUC(true, nest_level);
	if (sql[0] != '\0' && sql[strlen(sql) - 1] == ';')
		sql[strlen(sql) - 1] = '\0';
	return sql;
}

/* Put another text in place of length bytes. */
static char *
replace_at(const char *text, int location, int length, const char *replacement)
{
	return psprintf("%.*s%s%s", location, text, replacement, text + location + length);
}

/* The same text with batch where the staging table is named. */
static char *
name_batch(const char *text, const SelectStmt *select, const char *stream_name)
{
	StagingSearch search = {.stream_name = stream_name};
	const char *name = quote_qualified_identifier(DETECT_STAGING_SCHEMA, stream_name);
	const char *batch = DETECT_BATCH;

	(void) raw_expression_tree_walker((Node *) select, find_staging, &search);
	if (search.found == NULL || strncmp(text + search.found->location, name, strlen(name)) != 0)
		elog(ERROR, "staging table not found in \"%s\"", text);
	/* without an alias its columns are named after the staging table */
	if (search.found->alias == NULL)
		batch = psprintf("%s %s", DETECT_BATCH, quote_identifier(stream_name));
	else if (strcmp(search.found->alias->aliasname, DETECT_BATCH) == 0)
		name = psprintf("%s %s", name, DETECT_BATCH);
	return replace_at(text, search.found->location, strlen(name), batch);
}

static bool
is_ordinal(const ResTarget *target)
{
	Node *last;

	if (target->name)
		return strcmp(target->name, DETECT_ORDINAL) == 0;
	if (!IsA(target->val, ColumnRef))
		return false;
	last = llast(((ColumnRef *) target->val)->fields);
	return IsA(last, String) && strcmp(strVal(last), DETECT_ORDINAL) == 0;
}

/* The same text without the ordinal in its output. */
static char *
remove_ordinal(const char *text, const SelectStmt *select)
{
	ListCell *cell;

	foreach(cell, select->targetList)
	{
		const ResTarget *target = lfirst(cell);
		ListCell *next = lnext(select->targetList, cell);
		int begin = target->location;

		if (!is_ordinal(target))
			continue;
		if (next)
			return replace_at(text, begin, ((ResTarget *) lfirst(next))->location - begin, "");
		/* the last one: with the comma before it, to the end of its line */
		while (begin > 0 && text[begin] != ',')
			begin--;
		return replace_at(text, begin,
						  target->location + strcspn(text + target->location, "\n") - begin, "");
	}
	elog(ERROR, "ordinal not found in \"%s\"", text);
	return NULL; /* keep compiler quiet */
}

/*
 * The query of a stream as its user could have written it, every name with its
 * schema.
 */
char *
stream_query_text(const Stream *stream)
{
	char *text = view_text(stream->query_view);
	List *statements = raw_parser(text, RAW_PARSE_DEFAULT);

	/* from the end to the beginning: locations before stay right */
	text = name_batch(text, (SelectStmt *) linitial_node(RawStmt, statements)->stmt, stream->name);
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	return remove_ordinal(text, (SelectStmt *) linitial_node(RawStmt, statements)->stmt);
}

/* A text of the query, found under the present search_path, in the one form that
 * two of them can be compared in: that of a view has columns named otherwise. */
static char *
canonical_query(const Stream *stream, const char *text)
{
	ActingUser caller = sql_act_as(stream->owner, SECURITY_RESTRICTED_OPERATION);
	Query *query =
		stream_query_parse(text, stream->name, stream->staging_table, stream->ordinal_attnum);
	char *result;

	sql_set("search_path", "pg_catalog");
	result = pg_get_querydef(query, false);
	sql_act_as_before(&caller);
	return result;
}

/* Whether a definition's query is another one than the stream's. */
static bool
query_differs(const StreamDefinition *definition, const Stream *stream)
{
	const char *text = definition->query;
	int nest_level;
	char *given;
	char *found;

	if (definition->default_query)
		text = stream_query_default(stream->staging_table, definition->stream->events_table);
	if (text == NULL)
		return false;
	given = canonical_query(stream, text);
	nest_level = sql_begin_qualified();
	found = canonical_query(stream, stream_query_text(stream));
	AtEOXact_GUC(true, nest_level);
	return strcmp(given, found) != 0;
}

/* ---------------------------------------------------------------------
 * The other arguments
 * ---------------------------------------------------------------------
 */

static char *
array_text(List *strings)
{
	StringInfoData text;
	ListCell *cell;

	initStringInfo(&text);
	appendStringInfoString(&text, "ARRAY[");
	foreach(cell, strings)
		appendStringInfo(&text, "%s%s", cell == list_head(strings) ? "" : ", ",
						 quote_literal_cstr(lfirst(cell)));
	appendStringInfoString(&text, strings ? "]" : "]::text[]");
	return text.data;
}

static char *
interval_text(const Interval *interval)
{
	Datum text;

	if (interval == NULL)
		return NULL;
	text = DirectFunctionCall1(interval_out, IntervalPGetDatum(interval));
	return quote_literal_cstr(DatumGetCString(text));
}

static char *
quoted_or_null(const char *string)
{
	return string ? quote_literal_cstr(string) : NULL;
}

/* The columns as create_stream takes them. */
static char *
columns_text(const Stream *stream)
{
	int nest_level = sql_begin_qualified();
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < stream->ncolumns; i++)
		appendStringInfo(
			&columns, "%s%s %s", i == 0 ? "" : ", ", quote_identifier(stream->columns[i].name),
			format_type_with_typemod(stream->columns[i].type, stream->columns[i].typmod));
	AtEOXact_GUC(true, nest_level);
	return columns.data;
}

/*
 * The arguments of create_stream that make a stream, as SQL expressions in an
 * array by number; NULL where the default makes the same.
 */
static char **
definition_arguments(const Stream *stream, const char *fields)
{
	char **arguments = palloc0(DEFINITION_ARGS * sizeof(char *));

	arguments[ARG_SERVER] = quote_literal_cstr(stream->server ? stream->server : "");
	if (list_length(stream->topics) == 1)
		arguments[ARG_TOPIC] = quote_literal_cstr((char *) linitial(stream->topics));
	else if (stream->topics)
		arguments[ARG_TOPICS] = array_text(stream->topics);
	arguments[ARG_EVENTS_TABLE] = quote_literal_cstr(
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
								   get_rel_name(stream->events_table)));
	arguments[ARG_COLUMNS] = quote_literal_cstr(columns_text(stream));
	if (strcmp(fields, "{}") != 0)
		arguments[ARG_FIELDS] = quote_literal_cstr(fields);
	arguments[ARG_UNNEST] = quoted_or_null(stream->unnest);
	if (!stream->default_query)
		arguments[ARG_QUERY] = sql_dollar_quoted(stream_query_text(stream));
	arguments[ARG_KEY] = array_text(stream->key);
	arguments[ARG_EVENT_TIME] = quoted_or_null(stream->event_time);
	arguments[ARG_START] = quote_literal_cstr(stream->start);
	arguments[ARG_PARTITION_INTERVAL] = interval_text(stream->partition_interval);
	arguments[ARG_RETENTION] = interval_text(stream->retention);
	arguments[ARG_CONSUMERS] = psprintf("%d", stream->consumers);
	arguments[ARG_DEAD_LETTER_LIMIT] = psprintf(INT64_FORMAT, stream->dead_letter_limit);
	arguments[ARG_ON_LIMIT] =
		quote_literal_cstr(stream->keep_offsets ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE);
	arguments[ARG_DEAD_LETTER_RETENTION] = interval_text(stream->dead_letter_retention);
	return arguments;
}

/* The fields of a stream, as they were given. */
static char *
fields_text(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};
	MemoryContext caller_context = CurrentMemoryContext;
	char *text;

	SPI_connect();
	if (catalog_execute("SELECT fields FROM detect._stream WHERE stream_id = $1", 1, types, values,
						NULL) == 0)
		stream_raise_changed(stream->name);
	text = MemoryContextStrdup(caller_context,
							   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return text;
}

/*
 * The names of the arguments in which a definition differs from a stream, NULL
 * when it is the same.
 */
char *
stream_differences(const StreamDefinition *definition, const Stream *stream)
{
	Stream *wanted = definition->stream;
	char **given;
	char **found;
	StringInfoData names;

	/* what is compared in other ways */
	wanted->staging_table = stream->staging_table;
	wanted->columns = stream->columns;
	wanted->ncolumns = stream->ncolumns;
	wanted->query_view = stream->query_view;
	wanted->default_query = stream->default_query;

	initStringInfo(&names);
	given = definition_arguments(wanted, DatumGetCString(DirectFunctionCall1(
											 jsonb_out, JsonbPGetDatum(definition->fields))));
	found = definition_arguments(stream, fields_text(stream));
	for (int arg = 0; arg < DEFINITION_ARGS; arg++)
	{
		bool differs = (given[arg] == NULL) != (found[arg] == NULL) ||
					   (given[arg] && strcmp(given[arg], found[arg]) != 0);

		if (arg == ARG_COLUMNS)
			differs = definition->columns &&
					  stream_columns_differ(stream->staging_table, definition->columns);
		if (arg == ARG_QUERY)
			differs = query_differs(definition, stream);
		if (differs)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", stream_argument_names[arg]);
	}
	return names.len > 0 ? names.data : NULL;
}

/* The call that makes a stream. */
static char *
stream_definition(const Stream *stream)
{
	char **arguments = definition_arguments(stream, fields_text(stream));
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT detect.create_stream(%s", quote_literal_cstr(stream->name));
	for (int arg = 0; arg < DEFINITION_ARGS; arg++)
	{
		if (arguments[arg])
			appendStringInfo(&sql, ",\n    %s => %s", stream_argument_names[arg], arguments[arg]);
	}
	appendStringInfoString(&sql, ");");
	return sql.data;
}

/* A rollup, and the new definition of it that is being built. */
#define ROLLUP_CALLS_SQL                                                                          \
	"SELECT r.time_zone, CASE WHEN o.name IS NULL THEN 'create_rollup' ELSE 'alter_rollup' END, " \
	"to_regclass(format('detect_query.%I', r.name))::oid, "                                       \
	"CASE WHEN r.retention IS NOT NULL THEN format(E',\n    retention => %L', r.retention) "      \
	"WHEN o.retention IS NOT NULL THEN format(E',\n    reset => %L', '{retention}') ELSE '' END " \
	"FROM detect._rollup r LEFT JOIN detect._rollup o ON o.rollup_id = r.replaces "               \
	"WHERE COALESCE(o.name, r.name) = $1 "                                                        \
	"AND to_regclass(format('detect_query.%I', r.name)) IS NOT NULL ORDER BY o.name NULLS FIRST"

/* The calls that make a rollup; NULL when there is none of this name. */
static char *
rollup_definition(const char *name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	StringInfoData calls;
	SPITupleTable *rows;
	int nrows;

	initStringInfo(&calls);
	SPI_connect();
	nrows = catalog_execute(ROLLUP_CALLS_SQL, 1, types, values, NULL);
	rows = SPI_tuptable;
	for (int i = 0; i < nrows; i++)
	{
		HeapTuple row = rows->vals[i];
		bool isnull;
		Oid view = DatumGetObjectId(SPI_getbinval(row, rows->tupdesc, 3, &isnull));

		appendStringInfo(&calls, "%sSET TimeZone = %s;\nSELECT detect.%s(%s, %s%s);",
						 i > 0 ? "\n" : "", quote_literal_cstr(SPI_getvalue(row, rows->tupdesc, 1)),
						 SPI_getvalue(row, rows->tupdesc, 2), quote_literal_cstr(name),
						 sql_dollar_quoted(view_text(view)), SPI_getvalue(row, rows->tupdesc, 4));
	}
	SPI_finish();
	return nrows > 0 ? calls.data : NULL;
}

/*
 * detect.get_definition(name): SQL that makes the stream, rollup or locator
 * again.
 */
Datum
detect_get_definition(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Stream *stream = stream_load(name, true);
	char *sql;

	if (stream)
	{
		stream_check_owner(stream);
		sql = stream_definition(stream);
	}
	else
		sql = rollup_definition(name);
	if (sql == NULL)
		sql = locator_text(name);
	if (sql == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("there is no stream, rollup or locator named \"%s\"", name),
						errhint("See the views detect.stream, detect.rollup and detect.locator.")));
	PG_RETURN_TEXT_P(cstring_to_text(sql));
}
