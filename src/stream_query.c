/*-------------------------------------------------------------------------
 *
 * stream_query.c
 *	  The query of a stream: what it may be, and how it is kept.
 *
 * The query reads its elements from "batch".  That name is replaced, before
 * analysis, by the stream's staging table, so that the query can be kept as a
 * view with all names resolved.  The applier later runs the text of that view
 * with the elements of a batch under the name of the staging table.
 *
 * An applier must know which element each row came from.  The staging table
 * has a column for that, the ordinal; it is added to the view's output here.
 * It is the same as the element's only where the batch is read row by row and
 * never null-extended: hence the rules about where "batch" may stand.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "sql.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* How "batch" was found in the raw query. */
typedef struct BatchSearch
{
	RangeVar *top; /* in the top FROM */
	bool top_is_nullable;
	int mentions; /* anywhere */
} BatchSearch;

/* A search for system columns of the batch. */
typedef struct SystemColumnSearch
{
	int varno;
	int levels_up;
} SystemColumnSearch;

static bool
is_batch(const Node *node)
{
	return IsA(node, RangeVar) && ((const RangeVar *) node)->schemaname == NULL &&
		   strcmp(((const RangeVar *) node)->relname, DETECT_BATCH) == 0;
}

/* Walker: count each mention of batch. */
static bool
count_batch(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (is_batch(node))
		((BatchSearch *) context)->mentions++;
	return raw_expression_tree_walker(node, count_batch, context);
}

/* Find batch among the items of a FROM clause and the arms of its joins. */
static void
find_batch(Node *item, bool nullable, BatchSearch *search)
{
	JoinExpr *join;

	if (is_batch(item))
	{
		search->top = (RangeVar *) item;
		search->top_is_nullable = nullable;
	}
	if (!IsA(item, JoinExpr))
		return;
	join = (JoinExpr *) item;
	find_batch(join->larg, nullable || join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL,
			   search);
	find_batch(join->rarg, nullable || join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL,
			   search);
}

/* Walker: does an expression use a system column of the batch? */
static bool
uses_system_column(Node *node, SystemColumnSearch *search)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		return var->varno == search->varno && var->varattno < 0 &&
			   var->varlevelsup == search->levels_up;
	}
	if (IsA(node, Query))
	{
		bool found;

		search->levels_up++;
		found = query_tree_walker((Query *) node, uses_system_column, search, 0);
		search->levels_up--;
		return found;
	}
	return expression_tree_walker(node, uses_system_column, search);
}

static void
refuse_query(const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("the query of a stream cannot contain %s", what), errhint("%s", hint)));
}

/* Refuse whatever would break the row-by-row reading of the batch. */
static void
check_query_shape(Query *query, int batch_rtindex)
{
	const char *row_by_row =
		"Each element must become one row or none; aggregate in a rollup instead.";
	SystemColumnSearch search = {batch_rtindex, 0};

	if (query->hasAggs || query->groupClause || query->groupingSets || query->havingQual)
		refuse_query("aggregates or GROUP BY", row_by_row);
	if (query->hasWindowFuncs)
		refuse_query("window functions", row_by_row);
	if (query->distinctClause)
		refuse_query("DISTINCT", "Name the identity of an event in key instead.");
	if (query->limitCount || query->limitOffset)
		refuse_query("LIMIT or OFFSET", row_by_row);
	if (query->setOperations)
		refuse_query("UNION, INTERSECT or EXCEPT", "Make one stream for each part.");
	if (query->hasTargetSRFs)
		refuse_query("set-returning functions in its output", row_by_row);
	if (query->rowMarks)
		refuse_query("FOR UPDATE or FOR SHARE", "Read the joined tables without locking them.");
	if (query->hasModifyingCTE)
		refuse_query("INSERT, UPDATE or DELETE", "Use a trigger on the events table.");
	if (query_tree_walker(query, uses_system_column, &search, 0))
		refuse_query("system columns of batch",
					 "Elements are no stored rows: use columns of the stream.");
}

static void
refuse_statement(void)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_SYNTAX_ERROR), errmsg("the query of a stream must be one SELECT"),
		 errhint(
			 "For example: SELECT b.*, l.name AS location_name FROM batch b LEFT JOIN location l USING (location_id)")));
}

/* A common table expression would take the name of the batch away: the one
 * that is written, or the stream's, which the applier uses. */
static void
refuse_hiding_names(const WithClause *with, const char *stream_name)
{
	ListCell *cell;

	foreach(cell, with ? with->ctes : NIL)
	{
		const char *name = lfirst_node(CommonTableExpr, cell)->ctename;

		if (strcmp(name, DETECT_BATCH) == 0 || strcmp(name, stream_name) == 0)
			refuse_query(psprintf("a common table expression named \"%s\"", name),
						 "Give it another name.");
	}
}

/* Parse the text into one raw SELECT whose FROM names batch rightly. */
static RawStmt *
parse_raw_query(const char *text, const char *stream_name, BatchSearch *search)
{
	List *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	RawStmt *raw;
	SelectStmt *select;
	ListCell *cell;

	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		refuse_statement();
	raw = linitial_node(RawStmt, statements);
	select = (SelectStmt *) raw->stmt;
	if (select->intoClause)
		refuse_statement();
	if (select->op != SETOP_NONE)
		refuse_query("UNION, INTERSECT or EXCEPT", "Make one stream for each part.");
	refuse_hiding_names(select->withClause, stream_name);

	count_batch((Node *) select, search);
	foreach(cell, select->fromClause)
		find_batch(lfirst(cell), false, search);
	if (search->top == NULL || search->mentions != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg(
				 "the query of a stream must name \"batch\" exactly once, in its own FROM clause"),
			 errdetail("It is named %d times, %s in that place.", search->mentions,
					   search->top ? "once" : "never"),
			 errhint("The rows of the stream are those of batch: SELECT b.* FROM batch b.")));
	if (search->top_is_nullable)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"batch\" is on the nullable side of an outer join"),
						errhint("Write FROM batch b LEFT JOIN … instead.")));
	return raw;
}

/* Lead each output row back to its element. */
static void
add_ordinal(Query *query, int batch_rtindex, AttrNumber ordinal_attnum)
{
	Var *ordinal = makeVar(batch_rtindex, ordinal_attnum, INT8OID, -1, InvalidOid, 0);
	RangeTblEntry *batch = rt_fetch(batch_rtindex, query->rtable);
	ListCell *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!entry->resjunk && strcmp(entry->resname, DETECT_ORDINAL) == 0)
		{
			entry->expr = (Expr *) ordinal;
			return;
		}
	}
	query->targetList = lappend(
		query->targetList, makeTargetEntry((Expr *) ordinal, list_length(query->targetList) + 1,
										   pstrdup(DETECT_ORDINAL), false));
	compat_select_column(query, batch, ordinal_attnum);
}

/*
 * Parse and analyze a stream's query as the caller, with batch replaced by
 * the staging table and the ordinal added to its output.  Raises an error
 * that says what to change when the query can't be one of a stream.
 */
Query *
stream_query_parse(const char *text, const char *stream_name, Oid staging_table,
				   AttrNumber ordinal_attnum)
{
	BatchSearch search = {0};
	SqlText sql = {.what = "query of the stream", .text = text};
	ErrorContextCallback callback = {error_context_stack, sql_text_error, &sql};
	RawStmt *raw;
	Query *query;
	Oid citus_table;
	int rtindex = 0;
	int found = 0;

	error_context_stack = &callback;
	raw = parse_raw_query(text, stream_name, &search);

	search.top->schemaname = pstrdup(DETECT_STAGING_SCHEMA);
	search.top->relname = pstrdup(stream_name);
	if (search.top->alias == NULL)
		search.top->alias = makeAlias(DETECT_BATCH, NIL);

	query = parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
	error_context_stack = callback.previous;
	if (isQueryUsingTempRelation(query))
		refuse_query("temporary tables or views",
					 "Other sessions, such as the worker of the stream, do not see them.");
	citus_table = citus_table_in_query((Node *) query);
	if (OidIsValid(citus_table))
		refuse_query(psprintf("table \"%s\", which belongs to Citus", get_rel_name(citus_table)),
					 "Join with a table of this node alone.");
	for (int i = 1; i <= list_length(query->rtable); i++)
	{
		RangeTblEntry *rte = rt_fetch(i, query->rtable);

		if (rte->rtekind == RTE_RELATION && rte->relid == staging_table)
		{
			rtindex = i;
			found++;
		}
	}
	if (found != 1)
		refuse_query("the staging table of its own stream beside \"batch\"", "Name batch alone.");

	check_query_shape(query, rtindex);
	add_ordinal(query, rtindex, ordinal_attnum);
	return query;
}

/*
 * The query of a stream that names none: the columns that the events table has
 * too, and does not compute.
 */
char *
stream_query_default(Oid staging_table, Oid events_table)
{
	Relation rel = relation_open(staging_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	StringInfoData sql;
	const char *separator = "SELECT ";

	initStringInfo(&sql);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		AttrNumber attnum;

		if (attribute->attisdropped)
			continue;
		attnum = get_attnum(events_table, NameStr(attribute->attname));
		if (attnum == InvalidAttrNumber || get_attgenerated(events_table, attnum))
			continue;
		appendStringInfo(&sql, "%sb.%s", separator, quote_identifier(NameStr(attribute->attname)));
		separator = ", ";
	}
	relation_close(rel, AccessShareLock);
	if (sql.len == 0)
		appendStringInfoString(&sql, "SELECT");
	appendStringInfoString(&sql, " FROM batch b");
	return sql.data;
}

/*
 * Keep an analyzed query as the view detect_query.<name> of this owner.  The
 * schema belongs to the extension, so that the name is made under the identity
 * of the extension's owner; nothing of the user is evaluated meanwhile.
 */
Oid
query_view_create(const char *name, Query *query, Oid owner)
{
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress view;
	ActingUser caller;
	ListCell *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (!entry->resjunk)
			create->tableElts = lappend(
				create->tableElts, makeColumnDef(entry->resname, exprType((Node *) entry->expr),
												 exprTypmod((Node *) entry->expr),
												 exprCollation((Node *) entry->expr)));
	}
	create->relation = makeRangeVar(pstrdup(DETECT_QUERY_SCHEMA), pstrdup(name), -1);
	create->oncommit = ONCOMMIT_NOOP;

	caller = sql_act_as(catalog_owner(), SECURITY_LOCAL_USERID_CHANGE);
	view = DefineRelation(create, RELKIND_VIEW, owner, NULL, NULL);
	sql_act_as_before(&caller);

	CommandCounterIncrement();
	StoreViewQuery(view.objectId, query, false);
	CommandCounterIncrement();
	return view.objectId;
}
