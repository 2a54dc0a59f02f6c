/*-------------------------------------------------------------------------
 *
 * view.c
 *	  detect.create_rollup_view: a rollup by fewer of its group columns.
 *
 * The view is an ordinary one over the state table, made from the query of the
 * public view: grouped by the columns that are asked for, and with
 * detect._merge around each state.  What the public view makes of a state is
 * made of the merged one, so an average is that of all events in the group,
 * never one of averages.  HAVING is that of the rollup too, about the groups
 * of this view.  Nothing is stored, and nothing but pg_depend knows of it.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "parser/parse_func.h"
#include "rewrite/rewriteHandler.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* A rollup, and which of its groups the view tells apart. */
typedef struct Merging
{
	const char *rollup;
	Oid public_view;
	const RollupShape *shape;
	List *targets;	 /* of the public view */
	List *columns;	 /* char *: the group columns of the view */
	bool *is_chosen; /* by key */
	Oid merge_aggregate;
	int missing_key; /* that an expression needs and the view lacks; -1 */
} Merging;

PG_FUNCTION_INFO_V1(detect_create_rollup_view);

/* The name of a column of the public view, as it is called now. */
static char *
column_name(const Merging *merging, const TargetEntry *entry)
{
	char *name = get_attname(merging->public_view, entry->resno, true);

	return name ? name : entry->resname;
}

/* The key that a column of the public view is, or -1. */
static int
column_key(const Merging *merging, const TargetEntry *entry)
{
	const Var *var = (const Var *) entry->expr;

	return IsA(var, Var) && var->varattno <= merging->shape->ngroups ? var->varattno - 1 : -1;
}

/* What may be named as columns, for a hint. */
static char *
group_columns(const Merging *merging)
{
	StringInfoData names;
	ListCell *cell;

	initStringInfo(&names);
	foreach(cell, merging->targets)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);

		if (column_key(merging, entry) >= 0)
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
							 column_name(merging, entry));
	}
	if (names.len == 0)
		return pstrdup("It has no group columns: pass '{}'.");
	return psprintf("Its group columns are %s.", names.data);
}

/* A state, merged over the rows of a group. */
static Node *
merge_state(const Merging *merging, const Var *var)
{
	const RollupShape *shape = merging->shape;
	const RollupState *state = &shape->states[var->varattno - shape->nkeys - 1];
	Const *aggregate = makeConst(REGPROCEDUREOID, -1, InvalidOid, sizeof(Oid),
								 ObjectIdGetDatum(state->aggref->aggfnoid), false, true);
	Aggref *merge = makeNode(Aggref);

	merge->aggfnoid = merging->merge_aggregate;
	merge->aggtype = state->type;
	merge->aggcollid = state->collation;
	merge->inputcollid = state->aggref->inputcollid;
	merge->aggargtypes = list_make2_oid(REGPROCEDUREOID, state->type);
	merge->args = list_make2(makeTargetEntry((Expr *) aggregate, 1, NULL, false),
							 makeTargetEntry((Expr *) copyObject(var), 2, NULL, false));
	merge->aggkind = AGGKIND_NORMAL;
	merge->aggsplit = AGGSPLIT_SIMPLE;
	merge->aggno = -1;
	merge->aggtransno = -1;
	merge->location = -1;
	return (Node *) merge;
}

/* Mutator: merge each state, and note a key that the view lacks. */
static Node *
merge_states(Node *node, Merging *merging)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;
		int key = var->varattno - 1;

		if (key >= merging->shape->nkeys)
			return merge_state(merging, var);
		if (!merging->is_chosen[key])
			merging->missing_key = key;
		return (Node *) copyObject(var);
	}
	return expression_tree_mutator(node, merge_states, merging);
}

/* The same, from the top. */
static Node *
merge_expression(Merging *merging, Node *node)
{
	merging->missing_key = -1;
	return merge_states(node, merging);
}

/* Choose the key that a column is, or raise an error. */
static void
choose_column(Merging *merging, const char *column)
{
	ListCell *cell;

	foreach(cell, merging->targets)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		int key = column_key(merging, entry);

		if (strcmp(column_name(merging, entry), column) != 0)
			continue;
		if (key < 0)
			ereport(ERROR,
					(errcode(ERRCODE_GROUPING_ERROR),
					 errmsg("column \"%s\" of rollup \"%s\" is no group column", column,
							merging->rollup),
					 errdetail(contain_agg_clause(merge_expression(merging, (Node *) entry->expr))
								   ? "It is made of aggregates, which the view has by itself."
								   : "It is made of group columns."),
					 errhint("%s", group_columns(merging))));
		merging->is_chosen[key] = true;
		return;
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("rollup \"%s\" has no column \"%s\"", merging->rollup, column),
					errhint("%s", group_columns(merging))));
}

/* Group the view by a column that is a key, unless it is already. */
static void
group_by(const Merging *merging, Query *query, TargetEntry *entry, int key)
{
	SortGroupClause *clause;
	ListCell *cell;

	foreach(cell, query->groupClause)
	{
		if (lfirst_node(SortGroupClause, cell)->tleSortGroupRef == key + 1)
			return;
	}
	clause = copyObject(list_nth_node(SortGroupClause, merging->shape->query->groupClause, key));
	clause->tleSortGroupRef = key + 1;
	entry->ressortgroupref = key + 1;
	query->groupClause = lappend(query->groupClause, clause);
}

/* A column of the view from one of the public view; NULL when it lacks it. */
static TargetEntry *
merge_column(Merging *merging, Query *query, const TargetEntry *entry)
{
	char *name = column_name(merging, entry);
	int key = column_key(merging, entry);
	Node *expr = merge_expression(merging, (Node *) entry->expr);
	TargetEntry *column;

	if (key >= 0 && names_position(merging->columns, name) < 0)
		return NULL;
	if (merging->missing_key >= 0)
	{
		ereport(NOTICE,
				(errmsg("column \"%s\" of rollup \"%s\" is left out", name, merging->rollup),
				 errdetail("It needs the group column \"%s\".",
						   merging->shape->keys[merging->missing_key].name)));
		return NULL;
	}
	column = makeTargetEntry((Expr *) expr, list_length(query->targetList) + 1, name, false);
	if (key >= 0)
		group_by(merging, query, column, key);
	return column;
}

/* Make the query of the public view that of fewer groups. */
static void
merge_groups(Merging *merging, Query *query)
{
	ListCell *cell;

	query->targetList = NIL;
	foreach(cell, merging->targets)
	{
		TargetEntry *column = merge_column(merging, query, lfirst_node(TargetEntry, cell));

		if (column != NULL)
			query->targetList = lappend(query->targetList, column);
	}
	query->havingQual = merge_expression(merging, query->jointree->quals);
	query->jointree->quals = NULL;
	if (merging->missing_key >= 0)
		ereport(ERROR, (errcode(ERRCODE_GROUPING_ERROR),
						errmsg("HAVING of rollup \"%s\" needs the group column \"%s\"",
							   merging->rollup, merging->shape->keys[merging->missing_key].name),
						errhint("Name it in columns too, or create a rollup without HAVING.")));
	query->hasAggs =
		contain_agg_clause((Node *) query->targetList) || contain_agg_clause(query->havingQual);
	if (query->groupClause == NIL && !query->hasAggs)
		ereport(ERROR,
				(errcode(ERRCODE_GROUPING_ERROR),
				 errmsg("rollup \"%s\" has no aggregates to merge into one row", merging->rollup),
				 errhint("%s", group_columns(merging))));
}

/* The query of a view over a rollup. */
static Query *
merged_query(const char *rollup_name, const RollupRow *rollup, List *columns)
{
	Oid types[2] = {REGPROCEDUREOID, ANYELEMENTOID};
	List *merge = list_make2(makeString(DETECT_SCHEMA), makeString("_merge"));
	RollupShape *shape = shape_load(rollup_query_view(rollup_name), rollup->events_table);
	Relation state_table = table_open(rollup_state_table(rollup_name), AccessShareLock);
	Query *query = relation_public_query(shape, state_table);
	Merging merging = {.rollup = rollup_name,
					   .public_view = rollup->public_view,
					   .shape = shape,
					   .targets = query->targetList,
					   .columns = columns,
					   .is_chosen = palloc0(shape->nkeys * sizeof(bool)),
					   .merge_aggregate = LookupFuncName(merge, 2, types, false)};
	ListCell *cell;

	foreach(cell, columns)
		choose_column(&merging, lfirst(cell));
	merge_groups(&merging, query);
	table_close(state_table, NoLock);
	return query;
}

/* A view and its columns, for comment and history. */
static char *
describe_view(const char *view, const List *columns)
{
	StringInfoData text;
	ListCell *cell;

	initStringInfo(&text);
	appendStringInfoString(&text, view);
	foreach(cell, columns)
		appendStringInfo(&text, "%s%s", cell == list_head(columns) ? " by " : ", ",
						 (char *) lfirst(cell));
	return text.data;
}

/*
 * SQL: detect.create_rollup_view(name, rollup, columns).
 */
Datum
detect_create_rollup_view(PG_FUNCTION_ARGS)
{
	char *name;
	char *rollup_name;
	List *columns;
	RollupRow rollup;
	Stream *stream;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("name, rollup and columns of a view must not be null"),
						errhint("Without group columns, in one row: columns => '{}'.")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	rollup_name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	columns = names_from_array(PG_GETARG_DATUM(2));
	definition_check_name("view of a rollup", name);
	definition_get(rollup_name, &rollup);
	stream = stream_load_by_events_table(rollup.events_table);
	if (stream != NULL)
	{
		/* Whoever drops or alters the rollup waits for us, or we for him. */
		stream_lock(stream->id, AccessShareLock);
		definition_get(rollup_name, &rollup);
	}

	(void) relation_create_view(
		name, merged_query(rollup_name, &rollup, columns),
		psprintf("rollup %s, kept up to date by detect", describe_view(rollup_name, columns)));
	history_record("create_rollup_view", rollup_name, describe_view(name, columns));
	PG_RETURN_VOID();
}

/*
 * A view over the states of a rollup, as its definition names it; InvalidOid when what
 * has this number now is another relation, as happens in a restored database to a view
 * that had been dropped before.
 */
Oid
rollup_view_of(Oid view, Oid state_table)
{
	Relation rel;
	ListCell *cell;
	bool reads_states = false;

	if (!OidIsValid(state_table) || get_rel_relkind(view) != RELKIND_VIEW)
		return InvalidOid;
	rel = table_open(view, AccessShareLock);
	foreach(cell, get_view_query(rel)->rtable)
		reads_states |= lfirst_node(RangeTblEntry, cell)->relid == state_table;
	table_close(rel, AccessShareLock);
	return reads_states ? view : InvalidOid;
}

/*
 * What takes the query of a rollup away takes its states along.
 */
void
rollup_record_dependency(Oid state_table, Oid query_view)
{
	ObjectAddress states;
	ObjectAddress query;

	ObjectAddressSet(states, RelationRelationId, state_table);
	ObjectAddressSet(query, RelationRelationId, query_view);
	(void) deleteDependencyRecordsForSpecific(states.classId, states.objectId, DEPENDENCY_AUTO,
											  query.classId, query.objectId);
	recordDependencyOn(&states, &query, DEPENDENCY_AUTO);
}

/*
 * The same of all rollups over the events of a stream, whose database may have been
 * restored: a dump does not have it.
 */
void
rollup_record_dependencies(const Stream *stream)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(stream->events_table)};

	SPI_connect();
	catalog_execute("SELECT name FROM detect._rollup WHERE events_table = $1", 1, types, values,
					NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		Oid state_table = rollup_state_table(name);
		Oid query_view = rollup_query_view(name);

		if (OidIsValid(state_table) && OidIsValid(query_view))
			rollup_record_dependency(state_table, query_view);
	}
	SPI_finish();
}
