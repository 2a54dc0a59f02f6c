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
 * so that no search_path can give its names another meaning.  A view that gets
 * another query follows the rules of CREATE OR REPLACE VIEW.
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
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "commands/view.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"

/* Room for updated rows on each page, so that they need no new index entry.  A
 * batch from a full topic may update all rows of a page: with less room many of such
 * updates are not HOT, and the table is larger in the end. */
#define STATE_FILLFACTOR_PERCENT 70

/* What to do about a new query that does not fit the view. */
#define NEW_COLUMNS_HINT                                                                          \
	"Give the columns of the view, in their order, and more only behind them; or create another " \
	"rollup and drop this one."

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

/* Say in the catalog what the state table is. */
static void
comment_state_table(Oid table, const char *name)
{
	CreateComments(table, RelationRelationId, 0,
				   psprintf("partial states of rollup %s: read its view instead", name));
}

/* Say in the catalog what each column of the state table is. */
static void
comment_state_columns(Oid table, const RollupShape *shape)
{
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

/* The unique index by which merging and readers find a group, and what names it
 * to subscribers. */
static void
create_key_index(const char *name, const RollupShape *shape)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE UNIQUE INDEX ON " DETECT_STATE_SCHEMA ".%s (",
					 quote_identifier(name));
	for (int i = 0; i < shape->nkeys; i++)
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", quote_identifier(shape->keys[i].name));
	appendStringInfoString(&sql, ") NULLS NOT DISTINCT;");
	/* a publication of all tables lets no row change that it cannot name */
	appendStringInfo(&sql, "ALTER TABLE " DETECT_STATE_SCHEMA ".%s REPLICA IDENTITY FULL",
					 quote_identifier(name));

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
	ActingUser caller;

	create->relation = makeRangeVar(pstrdup(DETECT_STATE_SCHEMA), pstrdup(name), -1);
	create->tableElts = state_table_columns(shape);
	create->oncommit = ONCOMMIT_NOOP;
	create->options =
		list_make1(makeDefElem("fillfactor", (Node *) makeInteger(STATE_FILLFACTOR_PERCENT), -1));

	caller = sql_act_as(catalog_owner(), SECURITY_LOCAL_USERID_CHANGE);
	catalog_use_default_storage();
	table = DefineRelation(create, RELKIND_RELATION, owner, NULL, NULL);
	CommandCounterIncrement();
	NewRelationCreateToastTable(table.objectId, (Datum) 0);
	CommandCounterIncrement();
	create_key_index(name, shape);
	sql_act_as_before(&caller);

	comment_state_table(table.objectId, name);
	comment_state_columns(table.objectId, shape);
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

/* Let nobody write through a view, not even its owner, who would do it by
 * mistake: one without expressions PostgreSQL takes for updatable. */
static void
forbid_writing(Oid view)
{
	sql_execute(psprintf(
		"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON %s FROM %s",
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)), get_rel_name(view)),
		quote_identifier(GetUserNameFromId(relation_owner(view, false), false))));
}

/*
 * Make the view that users read.
 */
Oid
relation_create_public_view(const char *name, const RollupShape *shape, Oid state_table)
{
	Relation rel = table_open(state_table, AccessShareLock);
	Query *query = relation_public_query(shape, rel);
	Oid view;

	table_close(rel, NoLock);
	view =
		relation_create_view(name, query, psprintf("rollup %s, kept up to date by detect", name));
	forbid_writing(view);
	return view;
}

/* Raise an error unless a column of a new query is that of the view. */
static void
check_column(const char *view_name, const Form_pg_attribute column, const TargetEntry *entry)
{
	const Node *expr = (const Node *) entry->expr;
	const char *problem = NULL;

	if (strcmp(NameStr(column->attname), entry->resname) != 0)
		problem = psprintf("It is called \"%s\" in the query.", entry->resname);
	else if (column->atttypid != exprType(expr) || column->atttypmod != exprTypmod(expr))
		problem = psprintf("Its type is %s in the view, and %s in the query.",
						   format_type_with_typemod(column->atttypid, column->atttypmod),
						   format_type_with_typemod(exprType(expr), exprTypmod(expr)));
	else if (column->attcollation != exprCollation(expr))
		problem = "It has another collation in the query.";
	if (problem != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("the new query changes column %d, \"%s\", of view \"%s\"",
							   column->attnum, NameStr(column->attname), view_name),
						errdetail("%s", problem), errhint(NEW_COLUMNS_HINT)));
}

/*
 * Raise an error unless a query can take the place of the one behind a public
 * view: it has the view's columns, and may have more behind them.
 */
void
relation_check_public_view(Oid view, const RollupShape *shape)
{
	Relation rel = table_open(view, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	Node *having;
	List *targets = shape_public_targets(shape, InvalidOid, &having);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(tupdesc, i);

		if (i >= list_length(targets))
			ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
							errmsg("the new query lacks column \"%s\" of view \"%s\"",
								   NameStr(column->attname), RelationGetRelationName(rel)),
							errhint(NEW_COLUMNS_HINT)));
		check_column(RelationGetRelationName(rel), column, list_nth_node(TargetEntry, targets, i));
	}
	table_close(rel, NoLock);
}

/* Add the columns to a view that its new query has behind the old ones. */
static void
add_columns(Oid view, const List *targets)
{
	Relation rel = table_open(view, AccessShareLock);
	int ncolumns = RelationGetNumberOfAttributes(rel);
	List *commands = NIL;

	table_close(rel, NoLock);
	for (int i = ncolumns; i < list_length(targets); i++)
	{
		TargetEntry *entry = list_nth_node(TargetEntry, targets, i);
		Node *expr = (Node *) entry->expr;
		AlterTableCmd *command = makeNode(AlterTableCmd);

		command->subtype = AT_AddColumnToView;
		command->def = (Node *) makeColumnDef(entry->resname, exprType(expr), exprTypmod(expr),
											  exprCollation(expr));
		commands = lappend(commands, command);
	}
	if (commands == NIL)
		return;
	AlterTableInternal(view, commands, true);
	CommandCounterIncrement();
}

/*
 * Have a public view read other states.  Its OID, and with it owner, rights,
 * comments and what others have built upon it, stay.  The caller has it locked
 * exclusively, and its columns checked.
 */
void
relation_replace_public_view(Oid view, const RollupShape *shape, Oid state_table)
{
	Relation rel = table_open(state_table, AccessShareLock);
	Query *query = relation_public_query(shape, rel);
	/* only the view's owner may alter it; nothing of a user is evaluated */
	ActingUser caller = sql_act_as(relation_owner(view, false), SECURITY_LOCAL_USERID_CHANGE);

	add_columns(view, query->targetList);
	StoreViewQuery(view, query, true);
	CommandCounterIncrement();
	sql_act_as_before(&caller);
	table_close(rel, NoLock);
}

/* Give the unique index of a state table a name after it. */
static void
rename_key_index(Oid state_table, const char *name)
{
	Relation rel = table_open(state_table, AccessShareLock);
	List *indexes = RelationGetIndexList(rel);
	Oid schema = RelationGetNamespace(rel);

	table_close(rel, NoLock);
	if (indexes == NIL)
		return;
	/* ours was made first */
	RenameRelationInternal(linitial_oid(indexes),
						   ChooseRelationName(name, NULL, "idx", schema, true), true, true);
}

/*
 * Give the query and the states of a rollup another name.  The caller has both
 * locked exclusively.
 */
void
relation_rename(Oid query_view, Oid state_table, const char *name)
{
	RenameRelationInternal(query_view, name, true, false);
	RenameRelationInternal(state_table, name, true, false);
	CommandCounterIncrement();
	rename_key_index(state_table, name);
	comment_state_table(state_table, name);
	CommandCounterIncrement();
}
