/*-------------------------------------------------------------------------
 *
 * stream_columns.c
 *	  The columns of a stream: parsed, checked, and made into its staging table.
 *
 * The text of the columns is what stands between the parentheses of a CREATE
 * TABLE, names and types alone.  It is parsed by PostgreSQL's own grammar and
 * refused if it holds anything else: a default or a constraint would be a
 * place to run code under the identity of somebody else.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "executor/spi.h"
#include "ingest/decode.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "sql.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* What makes a statement of the text. */
#define COLUMNS_PREFIX "CREATE TABLE x ("
#define COLUMNS_HINT   "For example: 'detection_oid bigint, item_name text, seen_at timestamptz'"

static void
refuse_columns(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("the columns of a stream are names and types alone"), errhint(COLUMNS_HINT)));
}

/* A reserved name must have the type that Kafka's value has. */
static void
check_reserved_type(const char *name, Oid type)
{
	Oid reserved_type;

	if (stream_column_source(name, &reserved_type) == COLUMN_ORDINAL)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME), errmsg("column name \"%s\" is reserved", name),
				 errhint("Choose another name.")));
	if (OidIsValid(reserved_type) && reserved_type != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("reserved column \"%s\" must be of type %s, not %s", name,
						format_type_be(reserved_type), format_type_be(type)),
				 errhint("Columns named kafka_… are filled from what Kafka says of the message.")));
}

/*
 * Raise an error when a column of ours in the staging table is not of the type that it
 * was made of: what Kafka says of a message is put there as it is.
 */
void
stream_check_staged_type(const Stream *stream, Form_pg_attribute attribute, Oid type)
{
	if (!OidIsValid(type) || attribute->atttypid == type)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
		 errmsg("column \"%s\" of table \"%s.%s\" is of type %s, not %s",
				NameStr(attribute->attname), DETECT_STAGING_SCHEMA, stream->name,
				format_type_be(attribute->atttypid), format_type_be(type)),
		 errhint("Drop or rename the column: detect.alter_stream makes the columns of a stream.")));
}

/* Check one parsed column, and fix its type so that no name is left to look up. */
static void
check_column(ColumnDef *column)
{
	Oid type;
	int32 typmod;

	if (column->constraints || column->collClause || column->fdwoptions || column->compression ||
		compat_has_storage_name(column) || column->typeName->setof)
		refuse_columns();
	typenameTypeIdAndMod(NULL, column->typeName, &type, &typmod);
	if (get_typtype(type) == TYPTYPE_PSEUDO)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("column \"%s\" cannot be of type %s", column->colname,
							   format_type_be(type))));
	check_reserved_type(column->colname, type);
	if (decode_epoch_unit(get_element_type(getBaseType(type))) != EPOCH_NONE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("column \"%s\" cannot be of type %s", column->colname,
							   format_type_be(type)),
						errhint("Read the numbers as bigint[]; to_timestamp() in the query makes "
								"times of them.")));
	column->typeName = makeTypeNameFromOid(type, typmod);
}

/*
 * Parse the columns of a stream into a List of ColumnDef, types resolved under
 * the caller's search_path.
 */
List *
stream_columns_parse(const char *columns)
{
	char *sql = psprintf(COLUMNS_PREFIX "%s\n)", columns);
	SqlText text = {.what = "columns of the stream",
					.text = columns,
					.offset = strlen(COLUMNS_PREFIX),
					.hint = COLUMNS_HINT};
	ErrorContextCallback callback = {error_context_stack, sql_text_error, &text};
	List *statements;
	CreateStmt *create;
	ListCell *cell;

	error_context_stack = &callback;
	statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;

	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, CreateStmt))
		refuse_columns();
	create = (CreateStmt *) linitial_node(RawStmt, statements)->stmt;
	if (create->tableElts == NIL || create->inhRelations || create->partspec || create->options ||
		create->constraints || create->ofTypename || create->accessMethod || create->tablespacename)
		refuse_columns();
	foreach(cell, create->tableElts)
	{
		if (!IsA(lfirst(cell), ColumnDef))
			refuse_columns();
		check_column(lfirst_node(ColumnDef, cell));
	}
	return create->tableElts;
}

/*
 * The columns of a stream that names none: those of its events table which
 * can be written.
 */
List *
stream_columns_default(Oid events_table)
{
	Relation rel = table_open(events_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	List *result = NIL;

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (attribute->attisdropped || attribute->attgenerated || attribute->attidentity)
			continue;
		check_reserved_type(NameStr(attribute->attname), attribute->atttypid);
		result = lappend(result, makeColumnDef(NameStr(attribute->attname), attribute->atttypid,
											   attribute->atttypmod, attribute->attcollation));
	}
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Make detect_staging.<name> with these columns and the ordinal, owned by the
 * stream's owner.  The schema is the extension's: see query_view_create().
 */
Oid
stream_columns_create_table(const char *name, List *column_defs, Oid owner)
{
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress table;
	ActingUser caller;

	create->relation = makeRangeVar(pstrdup(DETECT_STAGING_SCHEMA), pstrdup(name), -1);
	create->oncommit = ONCOMMIT_NOOP;
	create->tableElts =
		lappend(list_copy(column_defs), makeColumnDef(DETECT_ORDINAL, INT8OID, -1, InvalidOid));

	caller = sql_act_as(catalog_owner(), SECURITY_LOCAL_USERID_CHANGE);
	catalog_use_default_storage();
	table = DefineRelation(create, RELKIND_RELATION, owner, NULL, NULL);
	CommandCounterIncrement();
	NewRelationCreateToastTable(table.objectId, (Datum) 0);
	CommandCounterIncrement();
	sql_act_as_before(&caller);
	return table.objectId;
}

static char *
column_type_text(const ColumnDef *column)
{
	return format_type_extended(column->typeName->typeOid, column->typeName->typemod,
								FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* The new definition of a column by name, or NULL. */
static ColumnDef *
find_column_def(List *column_defs, const char *name)
{
	ListCell *cell;

	foreach(cell, column_defs)
	{
		if (strcmp(lfirst_node(ColumnDef, cell)->colname, name) == 0)
			return lfirst_node(ColumnDef, cell);
	}
	return NULL;
}

/*
 * What a column's values are before they get another type: times, where they are
 * numbers and that type tells what they count.  Decimal numbers are rounded as the
 * decoder rounds them.  The caller's search_path finds no operator here.
 */
static const char *
counted_text(const char *name, Oid type, const ColumnDef *column)
{
	EpochUnit unit = decode_epoch_unit(column->typeName->typeOid);

	if (unit == EPOCH_NONE)
		return name;
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
			return psprintf("pg_catalog.to_timestamp(pg_catalog.round(%s::pg_catalog.numeric "
							"OPERATOR(pg_catalog.*) 1e-%d, 6)::pg_catalog.float8)",
							name, 3 * (unit - EPOCH_S));
		case FLOAT4OID:
		case FLOAT8OID:
			return psprintf("pg_catalog.to_timestamp(%s::pg_catalog.float8 "
							"OPERATOR(pg_catalog./) 1e%d::pg_catalog.float8)",
							name, 3 * (unit - EPOCH_S));
		default:
			return name;
	}
}

/* What makes the staging table's columns the new ones, as parts of an ALTER
 * TABLE; empty when they are so already. */
static char *
alter_table_actions(Oid staging_table, List *column_defs)
{
	Relation rel = table_open(staging_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	StringInfoData actions;
	ListCell *cell;

	initStringInfo(&actions);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		const char *name = quote_identifier(NameStr(attribute->attname));
		ColumnDef *column;

		if (attribute->attisdropped || strcmp(NameStr(attribute->attname), DETECT_ORDINAL) == 0)
			continue;
		column = find_column_def(column_defs, NameStr(attribute->attname));
		if (column == NULL)
			appendStringInfo(&actions, ", DROP COLUMN %s", name);
		else if (column->typeName->typeOid != attribute->atttypid ||
				 column->typeName->typemod != attribute->atttypmod)
			appendStringInfo(
				&actions, ", ALTER COLUMN %s TYPE %s USING %s::%s", name, column_type_text(column),
				counted_text(name, attribute->atttypid, column), column_type_text(column));
	}
	foreach(cell, column_defs)
	{
		ColumnDef *column = lfirst_node(ColumnDef, cell);

		if (get_attnum(staging_table, column->colname) == InvalidAttrNumber)
			appendStringInfo(&actions, ", ADD COLUMN %s %s", quote_identifier(column->colname),
							 column_type_text(column));
	}
	table_close(rel, AccessShareLock);
	return actions.len > 0 ? actions.data + 2 : actions.data;
}

/*
 * Whether a stream's columns are other ones than these.
 */
bool
stream_columns_differ(Oid staging_table, List *column_defs)
{
	return alter_table_actions(staging_table, column_defs)[0] != '\0';
}

/*
 * Give the staging table of a stream these columns; rows that SQL has staged
 * stay.  Its query is gone, and the caller makes it again.
 */
void
stream_columns_alter_table(const Stream *stream, List *column_defs)
{
	sql_execute(psprintf("ALTER TABLE %s %s",
						 quote_qualified_identifier(DETECT_STAGING_SCHEMA, stream->name),
						 alter_table_actions(stream->staging_table, column_defs)));
}

/*
 * Set as what a column is staged.  A consumer's table must not depend on a user's
 * objects: a domain is staged as the type below it, any other type of a user as text.
 */
void
stream_column_set_staged_type(StreamColumn *column)
{
	column->staged_typmod = column->typmod;
	column->staged_type = getBaseTypeAndTypmod(column->type, &column->staged_typmod);
	if (column->staged_type >= FirstNormalObjectId || column->source == COLUMN_KAFKA_HEADERS)
	{
		column->staged_type = TEXTOID;
		column->staged_typmod = -1;
	}
}
