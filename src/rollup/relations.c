/*-------------------------------------------------------------------------
 *
 * relations.c
 *	  The relations of a rollup: the table of its states, the view over them.
 *
 * The state table lies in a schema where users may not create anything, so it
 * is made under the identity of the extension's owner, who is usually a
 * superuser.  Only names, types and constants are at work there: no
 * expression of the user is evaluated, and the table belongs to the stream's
 * owner from the start.  The view is stored as a tree of nodes, not as text,
 * so that no search_path can give its names another meaning.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/toasting.h"
#include "commands/comment.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/regproc.h"
#include "utils/rel.h"

/* Room for updated rows on each page, so that they need no new index entry. */
#define STATE_FILLFACTOR_PERCENT 85

/* The columns of the state table: keys, then states. */
static List *
state_table_columns(const RollupShape *shape)
{
	List *columns = NIL;

	for (int i = 0; i < shape->nkeys; i++)
	{
		const RollupKey *key = &shape->keys[i];

		columns =
			lappend(columns, makeColumnDef(key->name, key->type, key->typmod, key->collation));
	}
	for (int i = 0; i < shape->nstates; i++)
	{
		const RollupState *state = &shape->states[i];

		columns = lappend(columns, makeColumnDef(state->name, state->type, -1, state->collation));
	}
	return columns;
}

/* Say in the catalog what each column of the state table is. */
static void
comment_state_table(Oid table, const char *name, const RollupShape *shape)
{
	CreateComments(table, RelationRelationId, 0,
				   psprintf("partial states of rollup %s: read its view instead", name));
	for (int i = 0; i < shape->nkeys; i++)
		CreateComments(table, RelationRelationId, i + 1,
					   shape->ngroups > 0 ? "group" : "the one group of a rollup without GROUP BY");
	for (int i = 0; i < shape->nstates; i++)
	{
		const RollupState *state = &shape->states[i];
		char *aggregate = format_procedure(state->aggref->aggfnoid);

		CreateComments(
			table, RelationRelationId, shape->nkeys + i + 1,
			psprintf(state->serialized ? "serialized state of %s" : "state of %s", aggregate));
	}
}

/* The unique index by which merging and readers find a group. */
static void
create_key_index(const char *name, const RollupShape *shape)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE UNIQUE INDEX ON " DETECT_STATE_SCHEMA ".%s (",
					 quote_identifier(name));
	for (int i = 0; i < shape->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", quote_identifier(shape->keys[i].name));
	appendStringInfoString(&sql, ") NULLS NOT DISTINCT");

	SPI_connect();
	catalog_execute(sql.data, 0, NULL, NULL, NULL);
	SPI_finish();
}

/*
 * Make detect_state.<name> for a query's keys and states.  The tablespace and
 * the access method are the database's own, because the caller's settings for
 * them must not be followed with the rights of the extension's owner.
 */
Oid
relation_create_state_table(const char *name, const RollupShape *shape, Oid owner)
{
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress table;
	Oid saved_user;
	int saved_context;
	int nest_level = NewGUCNestLevel();

	create->relation = makeRangeVar(pstrdup(DETECT_STATE_SCHEMA), pstrdup(name), -1);
	create->tableElts = state_table_columns(shape);
	create->oncommit = ONCOMMIT_NOOP;
	create->options =
		list_make1(makeDefElem("fillfactor", (Node *) makeInteger(STATE_FILLFACTOR_PERCENT), -1));

	GetUserIdAndSecContext(&saved_user, &saved_context);
	SetUserIdAndSecContext(catalog_owner(), saved_context | SECURITY_LOCAL_USERID_CHANGE);
	catalog_use_default_storage();
	table = DefineRelation(create, RELKIND_RELATION, owner, NULL, NULL);
	CommandCounterIncrement();
	NewRelationCreateToastTable(table.objectId, (Datum) 0);
	CommandCounterIncrement();
	create_key_index(name, shape);
	AtEOXact_GUC(true, nest_level);
	SetUserIdAndSecContext(saved_user, saved_context);

	comment_state_table(table.objectId, name, shape);
	return table.objectId;
}

/*
 * The query of the public view: SELECT <targets> FROM detect_state.<name>.
 */
Query *
relation_public_query(const RollupShape *shape, Relation state_table)
{
	Query *query = makeNode(Query);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	RangeTblRef *reference = makeNode(RangeTblRef);
	Node *having;

	item = addRangeTableEntryForRelation(pstate, state_table, AccessShareLock, NULL, true, true);
	reference->rtindex = item->p_rtindex;
	query->commandType = CMD_SELECT;
	query->querySource = QSRC_ORIGINAL;
	query->canSetTag = true;
	query->targetList = shape_public_targets(shape, RelationGetRelid(state_table), &having);
	query->jointree = makeFromExpr(list_make1(reference), having);
	query->rtable = pstate->p_rtable;
	compat_set_perminfos(query, pstate);
	for (int attnum = 1; attnum <= RelationGetNumberOfAttributes(state_table); attnum++)
		compat_select_column(query, rt_fetch(1, query->rtable), attnum);
	free_parsestate(pstate);
	return query;
}

/*
 * Make a view over the states of a rollup, in the caller's creation schema,
 * owned by the caller.
 */
Oid
relation_create_view(const char *name, Query *query, const char *comment)
{
	CreateStmt *create = makeNode(CreateStmt);
	ObjectAddress view;
	ListCell *cell;

	foreach(cell, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, cell);
		Node *expr = (Node *) entry->expr;

		create->tableElts =
			lappend(create->tableElts, makeColumnDef(entry->resname, exprType(expr),
													 exprTypmod(expr), exprCollation(expr)));
	}
	create->relation = makeRangeVar(NULL, pstrdup(name), -1);
	create->oncommit = ONCOMMIT_NOOP;
	view = DefineRelation(create, RELKIND_VIEW, InvalidOid, NULL, NULL);
	CommandCounterIncrement();
	StoreViewQuery(view.objectId, query, false);
	CommandCounterIncrement();
	CreateComments(view.objectId, RelationRelationId, 0, comment);
	return view.objectId;
}

/*
 * Make the view that users read.
 */
Oid
relation_create_public_view(const char *name, const RollupShape *shape, Oid state_table)
{
	Relation rel = table_open(state_table, AccessShareLock);
	Query *query = relation_public_query(shape, rel);

	table_close(rel, NoLock);
	return relation_create_view(name, query,
								psprintf("rollup %s, kept up to date by detect", name));
}
