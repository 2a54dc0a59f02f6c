/*-------------------------------------------------------------------------
 *
 * locator_text.c
 *	  A locator's definition as SQL again, for detect.get_definition.
 *
 * Columns may have new names by now, and what stands in filter and priority was
 * found along a search_path that is gone: so the text is read off the view, which
 * knows what was meant, and names everything with its schema.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator_create.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/shortest_dec.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "rewrite/rewriteManip.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* Conditions of the view that create_locator adds by itself. */
#define ADDED_CONDITIONS 2

/* The column of the place table that a column of the view is made of. */
static const Var *
table_column(const Query *query, int column)
{
	TargetEntry *target = list_nth(query->targetList, column - 1);
	List *vars =
		pull_var_clause((Node *) target->expr, PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS);

	if (vars == NIL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the view of the locator is not as it was made"),
						errhint("Drop the locator with detect.drop_locator and create it again.")));
	return linitial_node(Var, vars);
}

/* An expression over the place table as SQL. */
static char *
expression_text(const Locator *locator, const Query *query, Node *expression)
{
	const char *table = get_rel_name(locator->place_table);
	/* else the name would be that of a column of the view */
	bool prefix = get_attnum(locator->place_table, LOCATOR_KEY) != InvalidAttrNumber ||
				  get_attnum(locator->place_table, LOCATOR_PLACE) != InvalidAttrNumber;
	Node *copy = copyObject(expression);

	ChangeVarNodes(copy, table_column(query, LOCATOR_KEY_COLUMN)->varno, 1, 0);
	return deparse_expression(copy, deparse_context_for(table, locator->place_table), prefix,
							  false);
}

/* The filter, or NULL. */
static char *
filter_text(const Locator *locator, const Query *query)
{
	List *conditions = make_ands_implicit((Expr *) query->jointree->quals);

	conditions = list_copy_tail(conditions, ADDED_CONDITIONS);
	if (conditions == NIL)
		return NULL;
	return expression_text(locator, query, (Node *) make_ands_explicit(conditions));
}

/* The name of an operator with its schema. */
static char *
operator_text(Oid operator)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char *text;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	text = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return text;
}

/* In which direction an expression orders, as it follows the expression. */
static const char *
direction_text(const SortGroupClause *clause, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	const char *nulls = clause->nulls_first ? " NULLS FIRST" : " NULLS LAST";

	if (clause->sortop == entry->lt_opr)
		return clause->nulls_first ? nulls : "";
	if (clause->sortop == entry->gt_opr)
		return clause->nulls_first ? " DESC" : psprintf(" DESC%s", nulls);
	return psprintf(" USING %s%s", operator_text(clause->sortop), nulls);
}

/* Whether the view orders by the key there, as create_locator has it do last. */
static bool
is_key(SortGroupClause *clause, const Query *query)
{
	TargetEntry *target = get_sortgroupclause_tle(clause, query->targetList);

	return target->resno == LOCATOR_KEY_COLUMN &&
		   direction_text(clause, exprType((Node *) target->expr))[0] == '\0';
}

/* Whether it orders by the area, as create_locator has it do before that. */
static bool
is_area(SortGroupClause *clause, const Query *query)
{
	FuncExpr *call = (FuncExpr *) get_sortgroupclause_expr(clause, query->targetList);

	return IsA(call, FuncExpr) && strcmp(get_func_name(call->funcid), "st_area") == 0 &&
		   equal(linitial(call->args), table_column(query, LOCATOR_PLACE_COLUMN)) &&
		   direction_text(clause, call->funcresulttype)[0] == '\0';
}

/* The priority, or NULL: what the view orders by, but for what is added last. */
static char *
priority_text(const Locator *locator, const Query *query)
{
	int count = list_length(query->sortClause);
	StringInfoData text;

	if (count > 0 && is_key(list_nth(query->sortClause, count - 1), query))
		count--;
	if (count > 0 && is_area(list_nth(query->sortClause, count - 1), query))
		count--;
	initStringInfo(&text);
	for (int i = 0; i < count; i++)
	{
		SortGroupClause *clause = list_nth(query->sortClause, i);
		Node *expression = get_sortgroupclause_expr(clause, query->targetList);

		appendStringInfo(&text, "%s%s%s", i > 0 ? ", " : "",
						 expression_text(locator, query, expression),
						 direction_text(clause, exprType(expression)));
	}
	return count > 0 ? text.data : NULL;
}

/* What of the row of a locator is no part of its view; false when there is no
 * such locator. */
static bool
find_row(const char *name, char **all_name, char **max_age)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	MemoryContext caller_context = CurrentMemoryContext;
	bool found;

	SPI_connect();
	found = catalog_execute("SELECT quote_literal(all_name), quote_literal(max_age) "
							"FROM detect._locator WHERE name = $1",
							1, types, values, NULL) > 0;
	if (found)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(caller_context);
		HeapTuple tuple = SPI_tuptable->vals[0];

		*all_name = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
		*max_age = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2);
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	return found;
}

/* Append an argument, if it has a value. */
static void
append_argument(StringInfo sql, const char *argument, const char *value)
{
	if (value)
		appendStringInfo(sql, ",\n    %s => %s", argument, value);
}

/* The call that makes a locator; names are written with their schemas. */
static char *
create_text(const Locator *locator, const char *all_name, const char *max_age)
{
	Query *query = locator_view_query(locator);
	Oid table = locator->place_table;
	char *filter = filter_text(locator, query);
	char *priority = priority_text(locator, query);
	char within[DOUBLE_SHORTEST_DECIMAL_LEN];
	StringInfoData sql;

	double_to_shortest_decimal_buf(locator->within, within);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT detect.create_locator(%s, %s", quote_literal_cstr(locator->name),
					 quote_literal_cstr(quote_qualified_identifier(
						 get_namespace_name(get_rel_namespace(table)), get_rel_name(table))));
	append_argument(&sql, "key",
					quote_literal_cstr(get_attname(
						table, table_column(query, LOCATOR_KEY_COLUMN)->varattno, false)));
	append_argument(&sql, "geometry",
					quote_literal_cstr(get_attname(
						table, table_column(query, LOCATOR_PLACE_COLUMN)->varattno, false)));
	append_argument(&sql, "mode", quote_literal_cstr(locator_mode_names[locator->mode]));
	append_argument(&sql, "within", locator->mode == LOCATOR_WITHIN ? within : NULL);
	append_argument(&sql, "priority", priority ? sql_dollar_quoted(priority) : NULL);
	append_argument(&sql, "filter", filter ? sql_dollar_quoted(filter) : NULL);
	append_argument(&sql, "all_name", all_name);
	append_argument(&sql, "max_age", max_age);
	appendStringInfoString(&sql, ");");
	return sql.data;
}

/*
 * SQL that makes a locator again, NULL when there is none of this name.  Raises
 * an error unless the caller owns it.
 */
char *
locator_text(const char *name)
{
	Oid view = get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));
	char *all_name;
	char *max_age;
	char *sql;
	int nest_level;

	if (!OidIsValid(view) || !find_row(name, &all_name, &max_age))
		return NULL;
	locator_check_owner(view, name);
	nest_level = sql_begin_qualified();
	sql = create_text(locator_get(view), all_name, max_age);
	AtEOXact_GUC(true, nest_level);
	return sql;
}
