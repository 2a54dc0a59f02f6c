/*-------------------------------------------------------------------------
 *
 * query_check.c
 *	  Which queries can be kept as a rollup.
 *
 * A rollup never sees all events together: batches are aggregated apart, in
 * the order in which they happen to arrive, and their states are merged.  So
 * nothing may depend on all rows of a group at once (order, DISTINCT), on
 * groups among each other (windows, grouping sets, LIMIT), on when a row is
 * looked at (volatile functions), or on an event being absent (the events
 * table on the nullable side of a join).  What is refused is refused by name,
 * with what to use in its place.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "compat.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* What a walk over the whole query looks for. */
typedef struct CheckContext
{
	Oid events_table;
	int events_rti;
	int levels_up;
	int mentions; /* of the events table, at any depth */
	Oid view;	  /* whose query is looked at, which names the view itself, too */
	Oid volatile_function;
} CheckContext;

static void
refuse(const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("a rollup cannot contain %s", what), errhint("%s", hint)));
}

/* Refuse the clauses that need all groups at once. */
static void
check_clauses(const Query *query)
{
	if (query->cteList != NIL)
		refuse("WITH",
			   "Write the query without common table expressions; joins with views are allowed.");
	if (query->setOperations != NULL)
		refuse("UNION, INTERSECT or EXCEPT", "Make one rollup for each part.");
	if (query->groupingSets != NIL)
		refuse("GROUPING SETS, CUBE or ROLLUP", "Make one rollup for each set of groups.");
	if (query->hasWindowFuncs)
		refuse("window functions", "Use the window function when reading the rollup's view.");
	if (query->distinctClause != NIL)
		refuse("SELECT DISTINCT", "Use GROUP BY.");
	if (query->limitCount != NULL || query->limitOffset != NULL)
		refuse("LIMIT or OFFSET", "Use it when reading the rollup's view.");
	if (query->sortClause != NIL)
		refuse("ORDER BY", "Use it when reading the rollup's view.");
	if (query->rowMarks != NIL)
		refuse("FOR UPDATE or FOR SHARE", "Leave it out.");
	if (query->hasTargetSRFs)
		refuse("set-returning functions in its output",
			   "Call the function in FROM, beside the events table.");
	if (!query->hasAggs && query->groupClause == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						errmsg("the query of a rollup must aggregate"),
						errhint("Use aggregates or GROUP BY, or make an ordinary view.")));
}

/* Refuse output columns that a view could not have. */
static void
check_output(const Query *query)
{
	ListCell *cell;
	List *names = NIL;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		Oid type = exprType((Node *) entry->expr);

		if (entry->resjunk)
			continue;
		if (entry->resname == NULL || strcmp(entry->resname, "?column?") == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
							errmsg("output column %d of a rollup has no name", entry->resno),
							errhint("Name it with AS.")));
		if (list_member(names, makeString(entry->resname)))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_COLUMN),
							errmsg("output column \"%s\" of a rollup occurs more than once",
								   entry->resname),
							errhint("Name the columns differently with AS.")));
		names = lappend(names, makeString(entry->resname));
		if (type_is_collatable(type) && !OidIsValid(exprCollation((Node *) entry->expr)))
			ereport(ERROR,
					(errcode(ERRCODE_INDETERMINATE_COLLATION),
					 errmsg("could not determine which collation to use for output column \"%s\"",
							entry->resname),
					 errhint("Use the COLLATE clause to set the collation explicitly.")));
	}
}

/* Refuse groups that the state table could not have a unique index on. */
static void
check_groups(const Query *query)
{
	ListCell *cell;

	if (list_length(query->groupClause) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a rollup cannot have more than %d group columns", INDEX_MAX_KEYS),
				 errhint("Group by an expression that joins several of them, such as a hash.")));
	foreach(cell, query->groupClause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, cell);
		Node *expr = get_sortgroupclause_expr(clause, query->targetList);
		Oid type = exprType(expr);

		if (!OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("type %s cannot be grouped by in a rollup", format_type_be(type)),
					 errdetail("It has no default operator class for the access method btree."),
					 errhint("Cast the expression to a type that can be ordered, such as text.")));
		if (type_is_collatable(type) && !OidIsValid(exprCollation(expr)))
			ereport(ERROR, (errcode(ERRCODE_INDETERMINATE_COLLATION),
							errmsg("could not determine which collation to use for a group column"),
							errhint("Use the COLLATE clause to set the collation explicitly.")));
	}
}

/* Refuse an aggregate whose states PostgreSQL cannot merge. */
static void
check_aggregate_splits(const Aggref *aggref)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	Form_pg_aggregate aggregate;
	const char *missing = NULL;
	bool depends_on_order;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	aggregate = (Form_pg_aggregate) GETSTRUCT(tuple);
	depends_on_order = compat_depends_on_order(aggregate);
	if (!OidIsValid(aggregate->aggcombinefn))
		missing = "combine function";
	else if (aggregate->aggtranstype == INTERNALOID && !OidIsValid(aggregate->aggserialfn))
		missing = "serialization function";
	else if (aggregate->aggtranstype == INTERNALOID && !OidIsValid(aggregate->aggdeserialfn))
		missing = "deserialization function";
	ReleaseSysCache(tuple);

	if (depends_on_order)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("aggregate %s cannot be kept in a rollup", format_procedure(aggref->aggfnoid)),
			 errdetail("Its result depends on the order of events, which a rollup does not keep."),
			 errhint("Compute it from the events when reading.")));
	if (missing != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("aggregate %s cannot be kept in a rollup", format_procedure(aggref->aggfnoid)),
			 errdetail("It has no %s, so that its partial states cannot be kept and merged.",
					   missing),
			 errhint(
				 "Use another aggregate, such as one of your own whose state is a value, or compute "
				 "it from the events when reading.")));
}

/* Walker: check each aggregate of the query's own level. */
static bool
check_aggregates(Node *node, void *context)
{
	const Aggref *aggref = (const Aggref *) node;
	const char *name;

	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc))
		refuse("GROUPING", "Make one rollup for each set of groups.");
	if (!IsA(node, Aggref))
		return expression_tree_walker(node, check_aggregates, context);

	name = format_procedure(aggref->aggfnoid);
	if (aggref->aggkind != AGGKIND_NORMAL)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("ordered-set aggregate %s cannot be kept in a rollup", name),
			 errhint(
				 "Use an aggregate whose states can be merged, such as tdigest for percentiles.")));
	if (aggref->aggdistinct != NIL)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("aggregate %s with DISTINCT cannot be kept in a rollup", name),
			 errhint(
				 "Count distinct values with hll, or group by the column too and aggregate when reading.")));
	if (aggref->aggorder != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s with ORDER BY cannot be kept in a rollup", name),
				 errhint("Leave ORDER BY out, or compute it from the events when reading.")));
	check_aggregate_splits(aggref);
	return false;
}

/* For check_functions_in_node: remember a volatile function. */
static bool
is_volatile(Oid function, void *context)
{
	if (func_volatile(function) != PROVOLATILE_VOLATILE)
		return false;
	((CheckContext *) context)->volatile_function = function;
	return true;
}

static bool check_everywhere(Node *node, CheckContext *context);

/* Look at what FROM reads: the events table, whole or in part, or a view, which may read
 * it in its turn. */
static void
check_relation(Oid relid, CheckContext *context)
{
	Oid outer_view = context->view;
	Relation view;

	if (relid == context->events_table ||
		(get_rel_relispartition(relid) &&
		 list_member_oid(get_partition_ancestors(relid), context->events_table)))
		context->mentions++;
	if (relid == outer_view || get_rel_relkind(relid) != RELKIND_VIEW)
		return;
	view = table_open(relid, AccessShareLock);
	context->view = relid;
	(void) check_everywhere((Node *) get_view_query(view), context);
	context->view = outer_view;
	table_close(view, NoLock);
}

/* Whether a whole row of a table has more than what is stored. */
static bool
has_virtual_columns(Oid table)
{
	Relation rel = table_open(table, NoLock);
	const TupleConstr *constr = RelationGetDescr(rel)->constr;
	bool result = constr != NULL && compat_has_virtual_columns(constr);

	table_close(rel, NoLock);
	return result;
}

/* Columns of events that are not stored are not in the rows of a batch. */
static void
check_events_column(const CheckContext *context, AttrNumber attnum)
{
	if (attnum < 0)
		refuse("system columns of the events table", "Use columns that the stream fills.");
	if (attnum == 0 ? has_virtual_columns(context->events_table)
					: compat_is_virtual(get_attgenerated(context->events_table, attnum)))
		refuse("virtual columns of the events table", "Make them STORED.");
}

/* Walker over the whole query, with the views that it reads: other mentions of the
 * events table, columns of it that are not stored, and volatile functions. */
static bool
check_everywhere(Node *node, CheckContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		bool done;

		context->levels_up++;
		done = query_tree_walker((Query *) node, check_everywhere, context,
								 QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
		context->levels_up--;
		return done;
	}
	if (IsA(node, RangeTblEntry))
	{
		if (((RangeTblEntry *) node)->rtekind == RTE_RELATION)
			check_relation(((RangeTblEntry *) node)->relid, context);
		return false;
	}
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		if (var->varno == context->events_rti && var->varlevelsup == context->levels_up)
			check_events_column(context, var->varattno);
	}
	if (check_functions_in_node(node, is_volatile, context))
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("volatile function %s cannot be used in a rollup",
					format_procedure(context->volatile_function)),
			 errdetail("Its result could differ each time an event is looked at."),
			 errhint(
				 "Store the value in a column of the events table, or use a function that is at least STABLE.")));
	return expression_tree_walker(node, check_everywhere, context);
}

/* The same of columns of the events table that a join has other names for. */
static void
check_join_columns(const Query *query, const CheckContext *context)
{
	Query *copy = copyObject(unconstify(Query *, query));
	List *named = list_make3(copy->targetList, copy->havingQual, copy->jointree);
	List *vars = pull_var_clause(compat_flatten_vars(copy, (Node *) named),
								 PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS |
									 PVC_RECURSE_PLACEHOLDERS);
	ListCell *cell;

	foreach(cell, vars)
	{
		const Var *var = lfirst(cell);

		if (var->varno == context->events_rti)
			check_events_column(context, var->varattno);
	}
}

static void
report_events_read_again(const Stream *stream)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
		 errmsg("the query of a rollup reads events table \"%s\" more than once",
				get_rel_name(stream->events_table)),
		 errhint(
			 "Name it once, directly in FROM; other events are not known when one is counted.")));
}

/*
 * Find the events table among the items of FROM and the arms of its joins.
 * nullable says whether rows of the item may be null-extended.
 */
static void
find_events(const Query *query, Node *item, bool nullable, Stream **stream, int *events_rti)
{
	if (IsA(item, FromExpr))
	{
		ListCell *cell;

		foreach(cell, ((FromExpr *) item)->fromlist)
			find_events(query, lfirst(cell), nullable, stream, events_rti);
	}
	else if (IsA(item, JoinExpr))
	{
		JoinExpr *join = (JoinExpr *) item;

		find_events(query, join->larg,
					nullable || join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL, stream,
					events_rti);
		find_events(query, join->rarg,
					nullable || join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL, stream,
					events_rti);
	}
	else if (IsA(item, RangeTblRef))
	{
		int rti = ((RangeTblRef *) item)->rtindex;
		RangeTblEntry *rte = rt_fetch(rti, query->rtable);
		Stream *found =
			rte->rtekind == RTE_RELATION ? stream_load_by_events_table(rte->relid) : NULL;

		if (found == NULL)
			return;
		if (*stream != NULL && (*stream)->id == found->id)
			report_events_read_again(found);
		if (*stream != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("the query of a rollup reads the events tables \"%s\" and \"%s\"",
							get_rel_name((*stream)->events_table), get_rel_name(rte->relid)),
					 errhint("A rollup counts the events of one stream, each once.")));
		if (nullable)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("events table \"%s\" is on the nullable side of an outer join",
							get_rel_name(rte->relid)),
					 errhint("Write FROM %s LEFT JOIN … instead.", get_rel_name(rte->relid))));
		if (!rte->inh || rte->tablesample != NULL)
			refuse("ONLY or TABLESAMPLE for its events table", "Select events with WHERE.");
		*stream = found;
		*events_rti = rti;
	}
}

/*
 * Raise an error unless the query can be kept as a rollup.  The result is the
 * stream whose events it reads.
 */
Stream *
query_check(const Query *query)
{
	Oid citus_table = citus_table_in_query((Node *) unconstify(Query *, query));
	Stream *stream = NULL;
	CheckContext context = {0};

	check_clauses(query);
	if (OidIsValid(citus_table))
		refuse(psprintf("table \"%s\", which belongs to Citus", get_rel_name(citus_table)),
			   "Join with a table of this node alone.");
	find_events(query, (Node *) query->jointree, false, &stream, &context.events_rti);
	if (stream == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("the query of a rollup reads no events table of a stream"),
			 errhint(
				 "Name the events table itself in FROM, neither a partition nor a subquery; see detect.stream.")));

	context.events_table = stream->events_table;
	query_tree_walker(unconstify(Query *, query), check_everywhere, &context,
					  QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	check_join_columns(query, &context);
	if (context.mentions != 1)
		report_events_read_again(stream);

	check_aggregates((Node *) query->targetList, NULL);
	check_aggregates(query->havingQual, NULL);
	check_groups(query);
	check_output(query);
	return stream;
}
