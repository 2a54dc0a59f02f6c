/*-------------------------------------------------------------------------
 *
 * locator_create.c
 *	  detect.create_locator, detect.drop_locator and detect.refresh_locator.
 *
 * A locator is a view over its place table, a row that says how the view is
 * used, functions that name the view, and triggers on the place table that tell
 * of changes.  The view works with the rights of whoever reads it, so it is
 * open to all: nobody reads a place through it that he could not read himself.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator_create.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "sql.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define LOCATOR_COLUMNS 13

PG_FUNCTION_INFO_V1(detect_create_locator);
PG_FUNCTION_INFO_V1(detect_drop_locator);
PG_FUNCTION_INFO_V1(detect_refresh_locator);

/* ---------------------------------------------------------------------
 * The query over the place table
 * ---------------------------------------------------------------------
 */

/* The text of the query: keys and places, the preferred first. */
static char *
query_text(const LocatorDefinition *definition)
{
	const char *key = quote_identifier(definition->key);
	const char *geometry = quote_identifier(definition->geometry);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s AS " LOCATOR_KEY ", ", key);
	if (definition->cast_to_globe)
		appendStringInfo(&sql, "%s::%s", geometry,
						 quote_qualified_identifier(definition->postgis, "geography"));
	else
		appendStringInfoString(&sql, geometry);
	appendStringInfo(&sql, " AS " LOCATOR_PLACE " FROM %s WHERE %s IS NOT NULL AND %s IS NOT NULL",
					 definition->table_name, key, geometry);
	if (definition->filter)
		appendStringInfo(&sql, " AND (%s\n)", definition->filter);
	if (definition->mode == LOCATOR_WITHIN)
		return sql.data;
	appendStringInfoString(&sql, " ORDER BY ");
	if (definition->priority)
		appendStringInfo(&sql, "%s\n, ", definition->priority);
	appendStringInfo(&sql, "%s.st_area(%s), %s", quote_identifier(definition->postgis), geometry,
					 key);
	return sql.data;
}

static void
refuse_query(const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("filter and priority of a locator cannot contain %s", what),
					errhint("%s", hint)));
}

/* Whether filter and priority have left the statement as it was. */
static bool
is_plain_select(const RawStmt *raw, const LocatorDefinition *definition)
{
	const SelectStmt *select = (const SelectStmt *) raw->stmt;

	return IsA(select, SelectStmt) && select->op == SETOP_NONE && !select->intoClause &&
		   !select->withClause && !select->limitCount && !select->limitOffset &&
		   !select->lockingClause && !select->groupClause && !select->havingClause &&
		   !select->distinctClause && !select->windowClause &&
		   (select->sortClause == NIL) == (definition->mode == LOCATOR_WITHIN);
}

/* Parse and analyze the query as the caller. */
static Query *
parse_query(const LocatorDefinition *definition)
{
	char *text = query_text(definition);
	SqlText sql = {.what = "filter or priority of the locator", .text = text};
	ErrorContextCallback callback = {error_context_stack, sql_text_error, &sql};
	List *statements;
	Query *query;

	error_context_stack = &callback;
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1 ||
		!is_plain_select(linitial_node(RawStmt, statements), definition))
		ereport(
			ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("filter must be one condition, and priority a list of expressions"),
			 errhint("For example: filter => 'kind = ''hospital''', priority => 'level DESC'.")));
	query = parse_analyze_fixedparams(linitial_node(RawStmt, statements), text, NULL, 0, NULL);
	if (query->hasAggs || query->hasWindowFuncs || query->hasTargetSRFs)
		refuse_query("aggregates, window functions or sets", "Each place is looked at alone.");
	if (query->hasSubLinks || list_length(query->rtable) != 1)
		refuse_query("subqueries", "Changes of other tables would not be noticed.");
	if (contain_mutable_functions((Node *) query))
		refuse_query("functions that are not immutable",
					 "Their results may change without a change of the place table.");
	error_context_stack = callback.previous;
	return query;
}

/* ---------------------------------------------------------------------
 * Making
 * ---------------------------------------------------------------------
 */

/* Whether the place table can tell of its changes. */
static bool
has_triggers(const LocatorDefinition *definition)
{
	return definition->relkind == RELKIND_RELATION ||
		   definition->relkind == RELKIND_PARTITIONED_TABLE;
}

/* Raise an error unless the caller may have changes told. */
static void
check_may_trigger(const LocatorDefinition *definition)
{
	AclMode needed = ACL_TRIGGER;

	if (!has_triggers(definition))
		return;
	/* where the trigger is, who could lock the table anyway may keep writers waiting */
	if (OidIsValid(get_trigger_oid(definition->table, PLACE_ROW_TRIGGER, true)))
		needed |= ACL_INSERT | ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;
	if (pg_class_aclmask(definition->table, GetUserId(), needed, ACLMASK_ANY) != 0)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		 errmsg("permission denied to have changes of table \"%s\" told",
				get_rel_name(definition->table)),
		 errdetail("A locator counts on a trigger of the table, and waits for who writes to it."),
		 errhint("Its owner can say: GRANT TRIGGER ON %s TO %s.", definition->table_name,
				 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

/* Write the row of a new locator. */
static void
insert_locator(const LocatorDefinition *definition)
{
	Datum values[LOCATOR_COLUMNS] = {0};
	bool nulls[LOCATOR_COLUMNS] = {false};
	int i = 0;

	values[i++] = Int32GetDatum((int32) catalog_next_id("_id"));
	values[i++] = CStringGetTextDatum(definition->name);
	values[i++] = ObjectIdGetDatum(definition->table);
	values[i++] = CStringGetTextDatum(definition->key);
	values[i++] = CStringGetTextDatum(definition->geometry);
	values[i++] = CStringGetTextDatum(locator_mode_names[definition->mode]);
	nulls[i] = isnan(definition->within);
	values[i++] = Float8GetDatum(definition->within);
	nulls[i] = definition->priority == NULL;
	values[i++] = definition->priority ? CStringGetTextDatum(definition->priority) : (Datum) 0;
	nulls[i] = definition->filter == NULL;
	values[i++] = definition->filter ? CStringGetTextDatum(definition->filter) : (Datum) 0;
	values[i++] = CStringGetTextDatum(definition->all_name);
	values[i++] = Int32GetDatum(definition->srid);
	nulls[i] = definition->max_age == NULL;
	values[i++] = IntervalPGetDatum(definition->max_age);
	values[i++] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	Assert(i == LOCATOR_COLUMNS);
	catalog_insert("_locator", lengthof(values), values, nulls);
	CommandCounterIncrement();
}

/* Make the view, which checks the rights of its reader. */
static Oid
create_view(const LocatorDefinition *definition, Query *query)
{
	Oid view = query_view_create(definition->name, query, GetUserId());
	char *name = quote_qualified_identifier(DETECT_QUERY_SCHEMA, definition->name);

	sql_execute(psprintf("ALTER VIEW %s SET (security_invoker = true)", name));
	sql_execute(psprintf("GRANT SELECT ON %s TO PUBLIC", name));
	sql_execute(psprintf("COMMENT ON VIEW %s IS %s", name,
						 quote_literal_cstr(psprintf("places of locator %s", definition->name))));
	return view;
}

/*
 * detect.create_locator(name, place_table, …): see README.md.
 */
Datum
detect_create_locator(PG_FUNCTION_ARGS)
{
	LocatorDefinition *definition = locator_definition_from_call(fcinfo);
	Query *query;
	Oid view;

	check_may_trigger(definition);
	/* the filter is looked at before it is used to look at rows */
	definition->postgis = type_schema(definition->geometry_type);
	(void) parse_query(definition);
	locator_find_srid(definition);
	query = parse_query(definition);
	locator_check_rows(definition);

	/* until it commits: who waits finds this locator */
	if (has_triggers(definition))
		changes_lock_table(definition->table);
	view = create_view(definition, query);
	insert_locator(definition);
	history_record("create_locator", definition->name, locator_arguments_given(fcinfo));
	if (has_triggers(definition))
		changes_make_triggers(definition->table);
	else if (definition->max_age == NULL)
		ereport(NOTICE, (errmsg("changes of \"%s\" are seen after detect.refresh_locator only",
								get_rel_name(definition->table)),
						 errhint("Or give the places an age: max_age => '1 minute'.")));
	wrapper_create(locator_get(view), definition->all_name,
				   format_type_extended(definition->geometry_type, -1, FORMAT_TYPE_FORCE_QUALIFY));
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------------
 * Dropping, refreshing
 * ---------------------------------------------------------------------
 */

/* What the row of a locator says that its end needs. */
static bool
find_locator(const char *name, Oid *place_table, char **all_name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	MemoryContext caller_context = CurrentMemoryContext;
	bool found;

	SPI_connect();
	found =
		catalog_execute("SELECT place_table::oid, all_name FROM detect._locator WHERE name = $1", 1,
						types, values, NULL) > 0;
	if (found)
	{
		bool isnull;

		*place_table = DatumGetObjectId(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		*all_name = MemoryContextStrdup(
			caller_context, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));
	}
	SPI_finish();
	return found;
}

/*
 * Delete the row of a locator, whose view was dropped, and the triggers that only
 * it needed; false when there is no such locator.  detail is for the history.
 */
bool
locator_forget(const char *name, const char *detail)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	Oid place_table;
	char *all_name;

	if (!find_locator(name, &place_table, &all_name))
		return false;
	history_record("drop_locator", name, detail);
	SPI_connect();
	catalog_execute("DELETE FROM detect._locator WHERE name = $1", 1, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
	changes_drop_triggers(place_table);
	return true;
}

/*
 * Raise an error unless the caller owns a locator.
 */
void
locator_check_owner(Oid view, const char *name)
{
	if (!compat_owns_relation(view, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of locator \"%s\"", name)));
}

/* The view of a locator that the caller owns; InvalidOid when there is none, and
 * missing_ok. */
static Oid
owned_view(const char *name, bool missing_ok, char **all_name)
{
	Oid place_table;
	Oid view = get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));

	if (!find_locator(name, &place_table, all_name) || !OidIsValid(view))
	{
		if (!missing_ok)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("locator \"%s\" does not exist", name),
							errhint("See the view detect.locator.")));
		ereport(NOTICE, (errmsg("locator \"%s\" does not exist, skipping", name)));
		return InvalidOid;
	}
	locator_check_owner(view, name);
	return view;
}

/*
 * detect.drop_locator(locator, if_exists): its functions and its view go, unless
 * others depend on them.
 */
Datum
detect_drop_locator(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *all_name;
	Oid view = owned_view(name, PG_GETARG_BOOL(1), &all_name);
	ObjectAddresses *objects = new_object_addresses();
	ObjectAddress object;
	ListCell *cell;

	if (!OidIsValid(view))
		PG_RETURN_VOID();
	foreach(cell, wrapper_find(view, name, all_name))
	{
		ObjectAddressSet(object, ProcedureRelationId, lfirst_oid(cell));
		add_exact_object_address(&object, objects);
	}
	ObjectAddressSet(object, RelationRelationId, view);
	add_exact_object_address(&object, objects);
	performMultipleDeletions(objects, DROP_RESTRICT, 0);
	CommandCounterIncrement();
	(void) locator_forget(name, NULL);
	PG_RETURN_VOID();
}

/*
 * detect.refresh_locator(locator): the places are read again, by the next
 * statement of every session and worker after the commit.
 */
Datum
detect_refresh_locator(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *all_name;
	Oid view = owned_view(name, false, &all_name);
	Oid types[1] = {TEXTOID};
	Datum values[1] = {PG_GETARG_DATUM(0)};

	/* another version of its row: all places are read, whatever has changed */
	SPI_connect();
	catalog_execute("UPDATE detect._locator SET name = name WHERE name = $1", 1, types, values,
					NULL);
	SPI_finish();
	CacheInvalidateRelcacheByRelid(view);
	history_record("refresh_locator", name, NULL);
	PG_RETURN_VOID();
}
