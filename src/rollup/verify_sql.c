/*-------------------------------------------------------------------------
 *
 * verify_sql.c
 *	  The statement that compares kept groups with recomputed ones.
 *
 * Both sides are rows of the state table's type: those of the table, and those
 * of a tuplestore.  Each is finalized as the public view does it, but for
 * HAVING, and the two rows of a group, told by its keys, NULL being a value,
 * stand one after the other in a window.  So every type can be paired that
 * groups can be made of, and every type be shown.
 *
 *	  sides    both, _kept or not: keys _k1 …, results _v1 …
 *	  placed   those that are asked for; _gone numbers what can't be verified
 *	  paired   the others, each with the results of the row behind it: _w1 …
 *
 * Names are written out as the search_path of the moment asks for; the caller
 * runs the statement under the same.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* What the statement is made of. */
typedef struct VerifyStatement
{
	const RollupShape *shape;
	const VerifyScope *scope;
	Relation state_table;
	const char *recomputed_name;
	List *results; /* of TargetEntry: what the view shows beside the groups */
} VerifyStatement;

/* What the view shows, but for what is a group column. */
static List *
result_targets(const RollupShape *shape, Oid state_table)
{
	List *results = NIL;
	Node *having;
	ListCell *cell;

	foreach(cell, shape_public_targets(shape, state_table, &having))
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!IsA(entry->expr, Var) || ((Var *) entry->expr)->varattno > shape->nkeys)
			results = lappend(results, entry);
	}
	return results;
}

static const char *
key_name(const VerifyStatement *statement, int key)
{
	return NameStr(TupleDescAttr(RelationGetDescr(statement->state_table), key)->attname);
}

/* Append one of the two sides. */
static void
append_side(StringInfo sql, const VerifyStatement *statement, bool is_kept)
{
	Relation table = statement->state_table;
	List *context = deparse_context_for("t", RelationGetRelid(table));
	int number = 0;
	ListCell *cell;

	appendStringInfo(sql, "SELECT %s AS _kept", is_kept ? "true" : "false");
	for (int i = 0; i < statement->shape->nkeys; i++)
		appendStringInfo(sql, ", t.%s AS _k%d", quote_identifier(key_name(statement, i)), i + 1);
	foreach(cell, statement->results)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		appendStringInfo(sql, ", %s AS _v%d",
						 deparse_expression((Node *) entry->expr, context, true, false), ++number);
	}
	if (is_kept)
		appendStringInfo(sql, " FROM " DETECT_STATE_SCHEMA ".%s AS t",
						 quote_identifier(RelationGetRelationName(table)));
	else
		appendStringInfo(sql, " FROM %s AS t", statement->recomputed_name);
}

/* A bucket as a constant. */
static char *
bucket_literal(const VerifyScope *scope, int64 bucket)
{
	bool is_date = scope->bucket_type == DATEOID;
	Const *value = makeConst(scope->bucket_type, -1, InvalidOid, is_date ? 4 : 8,
							 is_date ? Int32GetDatum((int32) bucket) : Int64GetDatum(bucket), false,
							 is_date || FLOAT8PASSBYVAL);

	return deparse_expression((Node *) value, NIL, false, false);
}

/* Append which of the ranges that can't be verified a group is in, or NULL. */
static void
append_gone(StringInfo sql, const VerifyStatement *statement)
{
	const VerifyScope *scope = statement->scope;
	int number = 0;
	ListCell *cell;

	if (scope->all_gone)
	{
		appendStringInfoString(sql, "0");
		return;
	}
	appendStringInfoString(sql, "CASE");
	foreach(cell, scope->gone)
	{
		const BucketRange *range = lfirst(cell);

		appendStringInfo(sql, " WHEN _k%d BETWEEN %s AND %s THEN %d", scope->bucket + 1,
						 bucket_literal(scope, range->first), bucket_literal(scope, range->last),
						 ++number);
	}
	if (scope->timeless_gone)
		appendStringInfo(sql, " WHEN isfinite(_k%d) IS NOT TRUE THEN 0", scope->bucket + 1);
	appendStringInfoString(sql, " WHEN false THEN 0 END");
}

/* Append a condition that two results, _v and _w, are alike: for numbers of
 * limited precision nearly, for what has no equality as text, else equal. */
static void
append_alike(StringInfo sql, Oid type, int number)
{
	TypeCacheEntry *cache;
	Form_pg_operator operator;
	HeapTuple tuple;

	type = getBaseType(type);
	cache = lookup_type_cache(type, TYPECACHE_EQ_OPR);
	if (type == FLOAT8OID || type == FLOAT4OID)
		appendStringInfo(sql, DETECT_SCHEMA "._alike(_v%d, _w%d)", number, number);
	else if (!OidIsValid(cache->eq_opr))
		appendStringInfo(sql, "_v%d::text IS NOT DISTINCT FROM _w%d::text", number, number);
	else
	{
		tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(cache->eq_opr));
		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for operator %u", cache->eq_opr);
		operator=(Form_pg_operator) GETSTRUCT(tuple);
		appendStringInfo(sql, "(_v%d IS NOT DISTINCT FROM NULL) = (_w%d IS NOT DISTINCT FROM NULL)",
						 number, number);
		appendStringInfo(sql, " AND (_v%d OPERATOR(%s.%s) _w%d) IS NOT FALSE", number,
						 quote_identifier(get_namespace_name(operator->oprnamespace)),
						 NameStr(operator->oprname), number);
		ReleaseSysCache(tuple);
	}
}

/* Append an object of some columns with the names that the user knows. */
static void
append_results(StringInfo sql, const VerifyStatement *statement, char column)
{
	int number = 0;
	ListCell *cell;

	appendStringInfoString(sql, "(SELECT to_jsonb(r.*) FROM (SELECT");
	foreach(cell, statement->results)
	{
		number++;
		appendStringInfo(sql, "%s _%c%d AS %s", number > 1 ? "," : "", column, number,
						 quote_identifier(lfirst_node(TargetEntry, cell)->resname));
	}
	appendStringInfoString(sql, ") r)");
}

/* Append an object of the group's columns. */
static void
append_group(StringInfo sql, const VerifyStatement *statement)
{
	appendStringInfoString(sql, "(SELECT to_jsonb(r.*) FROM (SELECT");
	for (int i = 0; i < statement->shape->ngroups; i++)
		appendStringInfo(sql, "%s _k%d AS %s", i > 0 ? "," : "", i + 1,
						 quote_identifier(key_name(statement, i)));
	appendStringInfoString(sql, ") r)");
}

/* Append the common table expressions. */
static void
append_tables(StringInfo sql, const VerifyStatement *statement)
{
	const VerifyScope *scope = statement->scope;

	appendStringInfoString(sql, "WITH sides AS (");
	append_side(sql, statement, true);
	appendStringInfoString(sql, " UNION ALL ");
	append_side(sql, statement, false);
	appendStringInfoString(sql, "), placed AS (SELECT *, ");
	append_gone(sql, statement);
	appendStringInfoString(sql, " AS _gone FROM sides");
	if (scope->has_wanted)
		appendStringInfo(sql, " WHERE _k%d BETWEEN %s AND %s", scope->bucket + 1,
						 bucket_literal(scope, scope->wanted.first),
						 bucket_literal(scope, scope->wanted.last));
	appendStringInfoString(sql, "), paired AS (SELECT *, row_number() OVER g AS _number, "
								"lead(true) OVER g AS _is_paired");
	for (int i = 1; i <= list_length(statement->results); i++)
		appendStringInfo(sql, ", lead(_v%d) OVER g AS _w%d", i, i);
	appendStringInfoString(sql, " FROM placed WHERE _gone IS NULL WINDOW g AS (PARTITION BY ");
	for (int i = 0; i < statement->shape->nkeys; i++)
		appendStringInfo(sql, "%s_k%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoString(sql, " ORDER BY _kept DESC)) ");
}

/* Append the groups that are not alike. */
static void
append_differences(StringInfo sql, const VerifyStatement *statement)
{
	int number = 0;
	ListCell *cell;

	appendStringInfoString(sql, "SELECT CASE WHEN NOT _kept THEN 'missing' WHEN _is_paired THEN "
								"'differs' ELSE 'surplus' END, ");
	append_group(sql, statement);
	appendStringInfoString(sql, ", CASE WHEN _kept THEN ");
	append_results(sql, statement, 'v');
	appendStringInfoString(sql, " END, CASE WHEN NOT _kept THEN ");
	append_results(sql, statement, 'v');
	appendStringInfoString(sql, " WHEN _is_paired THEN ");
	append_results(sql, statement, 'w');
	appendStringInfoString(sql, " END FROM paired WHERE _number = 1 AND NOT (_kept AND "
								"_is_paired IS TRUE");
	foreach(cell, statement->results)
	{
		appendStringInfoString(sql, " AND ");
		append_alike(sql, exprType((Node *) lfirst_node(TargetEntry, cell)->expr), ++number);
	}
	appendStringInfoString(sql, ")");
}

/* Append the ranges of buckets that can't be verified and have groups. */
static void
append_unverifiable(StringInfo sql, const VerifyStatement *statement)
{
	const VerifyScope *scope = statement->scope;

	appendStringInfoString(sql, " UNION ALL SELECT 'unverifiable', ");
	if (scope->bucket < 0)
		appendStringInfoString(sql, "'{}'::jsonb");
	else
		appendStringInfo(sql, "jsonb_build_object(%s, jsonb_build_array(min(_k%d), max(_k%d)))",
						 quote_literal_cstr(key_name(statement, scope->bucket)), scope->bucket + 1,
						 scope->bucket + 1);
	appendStringInfoString(sql, ", NULL, NULL FROM placed WHERE _gone IS NOT NULL GROUP BY _gone");
}

/*
 * The statement that gives the rows of detect.verify_rollup.  recomputed_name
 * is that of a tuplestore with rows as the state table has them.
 */
char *
verify_sql(const RollupShape *shape, const VerifyScope *scope, Relation state_table,
		   const char *recomputed_name)
{
	VerifyStatement statement = {.shape = shape,
								 .scope = scope,
								 .state_table = state_table,
								 .recomputed_name = recomputed_name,
								 .results = result_targets(shape, RelationGetRelid(state_table))};
	StringInfoData sql;

	initStringInfo(&sql);
	append_tables(&sql, &statement);
	append_differences(&sql, &statement);
	if (scope->all_gone || scope->timeless_gone || scope->gone != NIL)
		append_unverifiable(&sql, &statement);
	appendStringInfoString(&sql, " ORDER BY 1, 2");
	return sql.data;
}
