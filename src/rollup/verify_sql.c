/*-------------------------------------------------------------------------
 *
 * verify_sql.c
 *	  The statement that compares kept groups with recomputed ones.
 *
 * Both sides are rows of the state table's type: those of the table, and those
 * of a tuplestore.  The two rows of a group, told by its keys, NULL being a
 * value, stand one after the other in a window: so every type can be paired
 * that groups can be made of.
 *
 *	  sides    both, _kept or not: columns _c1 …
 *	  placed   those that are asked for; _gone numbers what can't be verified
 *	  paired   the others, each with the columns of the row behind it: _d1 …
 *	  t, z     these rows with the names of the state table
 *
 * Compared are the results of the bare aggregates, not what the query makes of
 * them: rounding would tell apart what is alike, and HAVING may keep a division
 * from being tried.  What is shown of a group is what the view shows of it,
 * and the bare results where HAVING hides it.
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
	List *results; /* of Expr: of the aggregates, in the order of their states */
	List *targets; /* of TargetEntry: what the view shows beside the groups */
	Node *having;
} VerifyStatement;

/* What the view shows, but for what is a group column. */
static List *
result_targets(const RollupShape *shape, Oid state_table, Node **having)
{
	List *results = NIL;
	ListCell *cell;

	foreach(cell, shape_public_targets(shape, state_table, having))
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!IsA(entry->expr, Var) || ((Var *) entry->expr)->varattno > shape->nkeys)
			results = lappend(results, entry);
	}
	return results;
}

/* A column of the state table, quoted; keys come first. */
static const char *
column_name(const VerifyStatement *statement, int column)
{
	return quote_identifier(
		NameStr(TupleDescAttr(RelationGetDescr(statement->state_table), column)->attname));
}

/* An expression over the state table, as one over a table with its columns. */
static char *
expression_text(const VerifyStatement *statement, void *expr, const char *table)
{
	return deparse_expression((Node *) expr,
							  deparse_context_for(table, RelationGetRelid(statement->state_table)),
							  true, false);
}

static int
column_count(const VerifyStatement *statement)
{
	return statement->shape->nkeys + statement->shape->nstates;
}

/* Append one of the two sides. */
static void
append_side(StringInfo sql, const VerifyStatement *statement, bool is_kept)
{
	appendStringInfo(sql, "SELECT %s AS _kept", is_kept ? "true" : "false");
	for (int i = 0; i < column_count(statement); i++)
		appendStringInfo(sql, ", t.%s AS _c%d", column_name(statement, i), i + 1);
	if (is_kept)
		appendStringInfo(sql, " FROM " DETECT_STATE_SCHEMA ".%s AS t",
						 quote_identifier(RelationGetRelationName(statement->state_table)));
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

		appendStringInfo(sql, " WHEN _c%d BETWEEN %s AND %s THEN %d", scope->bucket + 1,
						 bucket_literal(scope, range->first), bucket_literal(scope, range->last),
						 ++number);
	}
	if (scope->timeless_gone)
		appendStringInfo(sql, " WHEN isfinite(_c%d) IS NOT TRUE THEN 0", scope->bucket + 1);
	appendStringInfoString(sql, " WHEN false THEN 0 END");
}

/* Append a condition that two results are alike: for numbers of limited
 * precision nearly, for what has no equality as text, else equal. */
static void
append_alike(StringInfo sql, Oid type, const char *kept, const char *recomputed)
{
	TypeCacheEntry *cache = lookup_type_cache(getBaseType(type), TYPECACHE_EQ_OPR);
	Form_pg_operator operator;
	HeapTuple tuple;

	if (cache->type_id == FLOAT8OID || cache->type_id == FLOAT4OID)
	{
		appendStringInfo(sql, DETECT_SCHEMA "._alike(%s, %s)", kept, recomputed);
		return;
	}
	if (!OidIsValid(cache->eq_opr))
	{
		appendStringInfo(sql, "(%s)::text IS NOT DISTINCT FROM (%s)::text", kept, recomputed);
		return;
	}
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(cache->eq_opr));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", cache->eq_opr);
	operator=(Form_pg_operator) GETSTRUCT(tuple);
	/* IS NULL would be true of a row of NULLs */
	appendStringInfo(sql,
					 "((%s) IS NOT DISTINCT FROM NULL) = ((%s) IS NOT DISTINCT FROM NULL) "
					 "AND ((%s) OPERATOR(%s.%s) (%s)) IS NOT FALSE",
					 kept, recomputed, kept,
					 quote_identifier(get_namespace_name(operator->oprnamespace)),
					 NameStr(operator->oprname), recomputed);
	ReleaseSysCache(tuple);
}

/* Append an object of what is shown of a row: t or z. */
static void
append_shown(StringInfo sql, const VerifyStatement *statement, const char *table)
{
	int nkeys = statement->shape->nkeys;
	ListCell *cell;

	if (statement->having != NULL)
	{
		appendStringInfo(sql, "CASE WHEN (%s) IS NOT TRUE THEN (SELECT to_jsonb(r.*) FROM (SELECT",
						 expression_text(statement, statement->having, table));
		foreach(cell, statement->results)
			appendStringInfo(sql, "%s %s AS %s", foreach_current_index(cell) > 0 ? "," : "",
							 expression_text(statement, lfirst(cell), table),
							 column_name(statement, nkeys + foreach_current_index(cell)));
		appendStringInfoString(sql, ") r) ELSE ");
	}
	appendStringInfoString(sql, "(SELECT to_jsonb(r.*) FROM (SELECT");
	foreach(cell, statement->targets)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		appendStringInfo(sql, "%s %s AS %s", foreach_current_index(cell) > 0 ? "," : "",
						 expression_text(statement, entry->expr, table),
						 quote_identifier(entry->resname));
	}
	appendStringInfo(sql, ") r)%s", statement->having != NULL ? " END" : "");
}

/* Append an object of the group's columns. */
static void
append_group(StringInfo sql, const VerifyStatement *statement)
{
	appendStringInfoString(sql, "(SELECT to_jsonb(r.*) FROM (SELECT");
	for (int i = 0; i < statement->shape->ngroups; i++)
		appendStringInfo(sql, "%s t.%s", i > 0 ? "," : "", column_name(statement, i));
	appendStringInfoString(sql, ") r)");
}

/* Append the common table expressions. */
static void
append_tables(StringInfo sql, const VerifyStatement *statement)
{
	const VerifyScope *scope = statement->scope;
	int nkeys = statement->shape->nkeys;

	appendStringInfoString(sql, "WITH sides AS (");
	append_side(sql, statement, true);
	appendStringInfoString(sql, " UNION ALL ");
	append_side(sql, statement, false);
	appendStringInfoString(sql, "), placed AS (SELECT *, ");
	append_gone(sql, statement);
	appendStringInfoString(sql, " AS _gone FROM sides");
	if (scope->has_wanted)
		appendStringInfo(sql, " WHERE _c%d BETWEEN %s AND %s", scope->bucket + 1,
						 bucket_literal(scope, scope->wanted.first),
						 bucket_literal(scope, scope->wanted.last));
	appendStringInfoString(sql, "), paired AS (SELECT *, row_number() OVER g AS _number, "
								"lead(true) OVER g AS _is_paired");
	for (int i = nkeys; i < column_count(statement); i++)
		appendStringInfo(sql, ", lead(_c%d) OVER g AS _d%d", i + 1, i + 1);
	appendStringInfoString(sql, " FROM placed WHERE _gone IS NULL WINDOW g AS (PARTITION BY ");
	for (int i = 0; i < nkeys; i++)
		appendStringInfo(sql, "%s_c%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoString(sql, " ORDER BY _kept DESC)) ");
}

/* Append a pair's first row, t, or its second one, z. */
static void
append_row(StringInfo sql, const VerifyStatement *statement, char column, const char *table)
{
	appendStringInfoString(sql, ", LATERAL (SELECT");
	for (int i = 0; i < column_count(statement); i++)
		appendStringInfo(sql, "%s _%c%d AS %s", i > 0 ? "," : "",
						 i < statement->shape->nkeys ? 'c' : column, i + 1,
						 column_name(statement, i));
	appendStringInfo(sql, ") %s", table);
}

/* Append the groups that are not alike. */
static void
append_differences(StringInfo sql, const VerifyStatement *statement)
{
	ListCell *cell;

	appendStringInfoString(sql, "SELECT CASE WHEN NOT _kept THEN 'missing' WHEN _is_paired THEN "
								"'differs' ELSE 'surplus' END, ");
	append_group(sql, statement);
	appendStringInfoString(sql, ", CASE WHEN _kept THEN ");
	append_shown(sql, statement, "t");
	appendStringInfoString(sql, " END, CASE WHEN NOT _kept THEN ");
	append_shown(sql, statement, "t");
	appendStringInfoString(sql, " WHEN _is_paired THEN ");
	append_shown(sql, statement, "z");
	appendStringInfoString(sql, " END FROM paired");
	append_row(sql, statement, 'c', "t");
	append_row(sql, statement, 'd', "z");
	appendStringInfoString(sql, " WHERE _number = 1 AND NOT (_kept AND _is_paired IS TRUE");
	foreach(cell, statement->results)
	{
		appendStringInfoString(sql, " AND ");
		append_alike(sql, exprType(lfirst(cell)), expression_text(statement, lfirst(cell), "t"),
					 expression_text(statement, lfirst(cell), "z"));
	}
	appendStringInfoString(sql, ")");
}

/* Append the ranges of buckets that can't be verified and have groups. */
static void
append_unverifiable(StringInfo sql, const VerifyStatement *statement)
{
	const VerifyScope *scope = statement->scope;
	TupleDesc tupdesc = RelationGetDescr(statement->state_table);

	appendStringInfoString(sql, " UNION ALL SELECT 'unverifiable', ");
	if (scope->bucket < 0)
		appendStringInfoString(sql, "'{}'::jsonb");
	else
		appendStringInfo(
			sql, "jsonb_build_object(%s, jsonb_build_array(min(_c%d), max(_c%d)))",
			quote_literal_cstr(NameStr(TupleDescAttr(tupdesc, scope->bucket)->attname)),
			scope->bucket + 1, scope->bucket + 1);
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
								 .results = shape_results(shape)};
	StringInfoData sql;

	statement.targets = result_targets(shape, RelationGetRelid(state_table), &statement.having);
	initStringInfo(&sql);
	append_tables(&sql, &statement);
	append_differences(&sql, &statement);
	if (scope->all_gone || scope->timeless_gone || scope->gone != NIL)
		append_unverifiable(&sql, &statement);
	appendStringInfoString(&sql, " ORDER BY 1, 2");
	return sql.data;
}
