/*-------------------------------------------------------------------------
 *
 * dropped.c
 *	  What follows when a user drops an object of a stream, a rollup or a locator.
 *
 * A definition lives as long as its view detect_query.<name>.  Dependencies
 * lead there from everything that the definition uses, so that DROP … CASCADE
 * takes the view along, and this event trigger then clears what only detect
 * knows of: rows of the catalog, staging tables, states.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "place/locator_create.h"
#include "rollup/rollup.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(detect_dropped);
PG_FUNCTION_INFO_V1(detect_dropping);

/* Names of the views in detect_query, and of the states of rollups, that this
 * command has dropped. */
static List *
dropped_definitions(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *names = NIL;

	SPI_connect();
	if (SPI_execute("SELECT object_name FROM pg_catalog.pg_event_trigger_dropped_objects() "
					"WHERE object_type OPERATOR(pg_catalog.=) 'view' "
					"AND schema_name OPERATOR(pg_catalog.=) 'detect_query' "
					"OR object_type OPERATOR(pg_catalog.=) 'table' "
					"AND schema_name OPERATOR(pg_catalog.=) 'detect_state'",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what was dropped");
	MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		names = lappend(names, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	return names;
}

/* Drop <schema>.<name> if the command has left it behind. */
static void
drop_left_behind(const char *schema, const char *name)
{
	Oid relid = get_relname_relid(name, get_namespace_oid(schema, true));
	ObjectAddress object;

	if (!OidIsValid(relid))
		return;
	ObjectAddressSet(object, RelationRelationId, relid);
	performDeletion(&object, DROP_CASCADE, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* Record who has taken away a rollup, or its new definition: the row of that
 * is named after the rollup's number. */
static void
record_rollup(const char *name, const char *detail)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};

	if (catalog_execute("SELECT o.name FROM detect._rollup r "
						"LEFT JOIN detect._rollup o ON o.rollup_id = r.replaces WHERE r.name = $1",
						1, types, values, NULL) > 0)
	{
		char *replaced = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (replaced != NULL)
			history_record("alter_rollup", replaced, psprintf("the new query went %s", detail));
		else
			history_record("drop_rollup", name, detail);
	}
}

/* Forget a rollup and its new definition.  It is met twice, with its query and
 * with its states.  The result is the names of what was forgotten. */
static List *
forget_rollup(const char *name, const char *detail)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	List *names = NIL;

	SPI_connect();
	record_rollup(name, detail);
	catalog_execute("WITH gone AS (DELETE FROM detect._rollup WHERE name = $1 OR replaces = "
					"(SELECT rollup_id FROM detect._rollup WHERE name = $1) "
					"RETURNING rollup_id, name), "
					"missed AS (DELETE FROM detect._missed WHERE rollup_id IN "
					"(SELECT rollup_id FROM gone)), "
					"repairs AS (DELETE FROM detect._repair WHERE rollup_id IN "
					"(SELECT rollup_id FROM gone)) SELECT name FROM gone",
					1, types, values, NULL);
	MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		names = lappend(names, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	gone_forget_unused();
	return names;
}

/* Forget a rollup of which something was dropped, and drop what is left. */
static void
drop_rollup_left_behind(const char *name, const char *detail)
{
	ListCell *cell;

	foreach(cell, lappend(forget_rollup(name, detail), pstrdup(name)))
	{
		drop_left_behind(DETECT_STATE_SCHEMA, lfirst(cell));
		drop_left_behind(DETECT_QUERY_SCHEMA, lfirst(cell));
	}
	stream_changed();
}

/* Whether this DROP EXTENSION may take ours along. */
static bool
drops_extension(const DropStmt *drop)
{
	ListCell *cell;

	if (drop->behavior == DROP_CASCADE)
		return true;
	foreach(cell, drop->objects)
	{
		if (strcmp(strVal(lfirst(cell)), "detect") == 0)
			return true;
	}
	return false;
}

/* Let no batch be open, and none begin. */
static void
lock_all_streams(void)
{
	SPI_connect();
	catalog_execute("SELECT stream_id FROM detect._stream ORDER BY stream_id", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;

		stream_lock(
			DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)),
			AccessExclusiveLock);
	}
	SPI_finish();
}

/* Refuse another name for a schema of ours, which all that we do finds by its name. */
static void
refuse_schema_rename(const char *schema)
{
	static const char *const ours[] = {DETECT_SCHEMA, DETECT_STAGING_SCHEMA, DETECT_QUERY_SCHEMA,
									   DETECT_STATE_SCHEMA};

	for (int i = 0; i < (int) lengthof(ours); i++)
	{
		if (strcmp(schema, ours[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("schema \"%s\" cannot be renamed", schema),
					 errdetail("It belongs to extension \"detect\", whose functions and workers "
							   "find it by its name.")));
	}
}

/*
 * Event trigger on ddl_command_start of DROP and ALTER EXTENSION.  These lock one
 * object after another, in an order of their own, and would deadlock with a
 * batch; workers look at their definitions, and at its version, afterwards.  Of
 * ALTER SCHEMA it refuses what nothing of ours would survive.
 */
Datum
detect_dropping(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigdata = (EventTriggerData *) fcinfo->context;
	Node *command;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("detect._dropping() must be called as an event trigger")));
	command = trigdata->parsetree;
	if (!catalog_installed() || !has_privs_of_role(GetUserId(), catalog_owner()))
		PG_RETURN_NULL();
	if (IsA(command, DropStmt) && drops_extension((DropStmt *) command))
		lock_all_streams();
	else if (IsA(command, AlterExtensionStmt) &&
			 strcmp(((AlterExtensionStmt *) command)->extname, "detect") == 0)
	{
		lock_all_streams();
		stream_changed();
	}
	else if (IsA(command, RenameStmt) && ((RenameStmt *) command)->renameType == OBJECT_SCHEMA)
		refuse_schema_rename(((RenameStmt *) command)->subname);
	PG_RETURN_NULL();
}

/*
 * Event trigger on sql_drop.
 */
Datum
detect_dropped(PG_FUNCTION_ARGS)
{
	ListCell *cell;
	char *detail;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("detect._dropped() must be called as an event trigger")));
	/* DROP EXTENSION takes everything */
	if (!catalog_installed())
		PG_RETURN_NULL();

	detail = psprintf("by %s", GetCommandTagName(((EventTriggerData *) fcinfo->context)->tag));
	foreach(cell, dropped_definitions())
	{
		const char *name = lfirst(cell);
		Oid events_table;
		int32 stream_id = stream_number(name, &events_table);

		if (stream_id != 0)
		{
			stream_lock(stream_id, AccessExclusiveLock);
			history_record("drop_stream", name, detail);
			stream_drop_events_triggers(events_table);
			stream_forget(stream_id);
			drop_left_behind(DETECT_STAGING_SCHEMA, name);
		}
		else if (!locator_forget(name, detail))
			drop_rollup_left_behind(name, detail);
	}
	PG_RETURN_NULL();
}
