/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  detect.create_rollup and detect.drop_rollup.
 *
 * Creating only writes a definition: three relations and a row in state
 * "new".  The applier fills and activates it between two batches, because a
 * seam drawn here would miss the events of a batch that is open meanwhile.
 *
 * The query is analyzed once, under the caller's search_path and identity, and
 * kept as the view detect_query.<name>.  That view and the state table belong
 * to the stream's owner, as whom the worker runs; the view that finalizes
 * belongs to the caller, who is that owner or one of its members.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "sql.h"
#include "storage/lmgr.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* Columns of detect._rollup. */
#define ROLLUP_COLUMNS 22

PG_FUNCTION_INFO_V1(detect_create_rollup);
PG_FUNCTION_INFO_V1(detect_drop_rollup);

/*
 * Parse and analyze the query of a rollup as the caller.
 */
Query *
definition_parse_query(char *text)
{
	SqlText sql = {.what = "query of the rollup", .text = text};
	ErrorContextCallback callback = {error_context_stack, sql_text_error, &sql};
	List *statements;
	RawStmt *raw = NULL;
	Query *query;

	error_context_stack = &callback;
	statements = raw_parser(text, RAW_PARSE_DEFAULT);
	if (list_length(statements) == 1)
		raw = linitial_node(RawStmt, statements);
	if (raw == NULL || !IsA(raw->stmt, SelectStmt) || ((SelectStmt *) raw->stmt)->intoClause)
		ereport(
			ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR), errmsg("the query of a rollup must be one SELECT"),
			 errhint(
				 "For example: SELECT date_bin('1 minute', seen_at, 'epoch') AS minute, count(*) AS sightings FROM sighting GROUP BY 1")));
	query = parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
	error_context_stack = callback.previous;

	if (query->commandType != CMD_SELECT)
		elog(ERROR, "unexpected command type %d of a rollup's query", (int) query->commandType);
	if (isQueryUsingTempRelation(query))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("a rollup cannot read temporary tables or views"),
				 errhint("Other sessions, such as the worker of the stream, do not see them.")));
	return query;
}

/* Whether some states are kept in a format of the server's own. */
static bool
has_serialized_states(const RollupShape *shape)
{
	for (int i = 0; i < shape->nstates; i++)
	{
		if (shape->states[i].serialized)
			return true;
	}
	return false;
}

/* Write the row of a new rollup. */
static void
insert_rollup(const char *name, const RollupShape *shape, const Stream *stream, Oid view,
			  const Interval *retention, const RollupRow *replaced)
{
	Datum values[ROLLUP_COLUMNS] = {0};
	bool nulls[ROLLUP_COLUMNS] = {false};

	values[0] = Int32GetDatum((int32) catalog_next_id("_id"));
	values[1] = CStringGetTextDatum(name);
	values[2] = ObjectIdGetDatum(stream->events_table);
	values[3] = ObjectIdGetDatum(view);
	values[4] = CStringGetTextDatum(pg_get_timezone_name(session_timezone));
	values[5] = CStringGetTextDatum("new");
	nulls[6] = true; /* filled_from */
	values[7] = Int64GetDatum(0);
	nulls[8] = true; /* applied_until */
	nulls[9] = true; /* error */
	values[10] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[11] = IntervalPGetDatum(retention);
	nulls[11] = retention == NULL;
	nulls[12] = true;			   /* aside_state */
	nulls[13] = true;			   /* retry_at */
	values[14] = Int32GetDatum(0); /* attempts */
	nulls[15] = true;			   /* failed_event */
	values[16] = Int64GetDatum(0); /* events_lost */
	if (retention != NULL)
		values[17] = /* kept_from */
			DirectFunctionCall2(timestamp_mi_interval, values[10], IntervalPGetDatum(retention));
	nulls[17] = retention == NULL;
	values[18] = BoolGetDatum(false); /* expiring */
	values[19] = Int32GetDatum(COMPAT_SERVER_MAJOR);
	nulls[19] = !has_serialized_states(shape);
	nulls[20] = true; /* filling_since */
	values[21] = Int32GetDatum(replaced ? replaced->id : 0);
	nulls[21] = replaced == NULL;
	catalog_insert("_rollup", lengthof(values), values, nulls);
}

/*
 * Make the workers load the rollups of a stream again, at commit.
 */
void
definition_changed(const Stream *stream)
{
	CacheInvalidateRelcacheByRelid(catalog_relation("_rollup", false));
	if (stream != NULL)
		slot_wake_at_commit(stream->id);
}

/*
 * Make the relations and the row of a rollup, or of the new definition of one
 * that it is to replace; its query has been checked.
 */
RollupShape *
definition_make(const char *name, Query *query, const Stream *stream, const Interval *retention,
				const RollupRow *replaced)
{
	RollupShape *shape;
	Oid query_view;
	Oid state_table;
	Oid public_view;

	if (replaced == NULL)
		definition_check_name("rollup", name);
	retention_check_interval(retention);
	shape = shape_create(query, stream->events_table);
	if (replaced != NULL)
		relation_check_public_view(replaced->public_view, shape);
	if (retention != NULL)
		retention_check(shape, stream);
	state_table = relation_create_state_table(name, shape, stream->owner);
	query_view = query_view_create(name, query, stream->owner);
	public_view =
		replaced ? replaced->public_view : relation_create_public_view(name, shape, state_table);

	rollup_record_dependency(state_table, query_view);
	insert_rollup(name, shape, stream, public_view, retention, replaced);
	CommandCounterIncrement();
	return shape;
}

/*
 * SQL: detect.create_rollup(name, query, retention, coarser).
 */
Datum
detect_create_rollup(PG_FUNCTION_ARGS)
{
	Interval *retention = PG_ARGISNULL(2) ? NULL : PG_GETARG_INTERVAL_P(2);
	Query *query;
	const Stream *found;
	Stream *stream;
	RollupShape *shape;
	List *coarser = NIL;
	ListCell *cell;

	admin_require("detect.create_rollup");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("name and query of a rollup must not be null")));
	query = definition_parse_query(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	found = query_check(query);
	stream_check_owner(found);
	/* Whoever drops or alters the stream waits for us, its workers do not. */
	stream = stream_lock_named(found->name, AccessShareLock, false);
	if (stream->id != found->id)
		stream_raise_changed(found->name);

	shape = definition_make(text_to_cstring(PG_GETARG_TEXT_PP(0)), query, stream, retention, NULL);
	if (!PG_ARGISNULL(3))
		coarser = coarser_list(PG_GETARG_JSONB_P(3), shape, stream);
	foreach(cell, coarser)
	{
		CoarserRollup *rollup = lfirst(cell);

		(void) query_check(rollup->query);
		(void) definition_make(rollup->name, rollup->query, stream, rollup->retention, NULL);
	}
	history_record("create_rollup", text_to_cstring(PG_GETARG_TEXT_PP(0)),
				   text_to_cstring(PG_GETARG_TEXT_PP(1)));
	definition_changed(stream);
	PG_RETURN_VOID();
}

/* Fill in what SPI has read. */
static void
read_row(RollupRow *rollup)
{
	HeapTuple tuple = SPI_tuptable->vals[0];
	TupleDesc tupdesc = SPI_tuptable->tupdesc;
	bool isnull;
	Datum retention;

	rollup->id = DatumGetInt32(SPI_getbinval(tuple, tupdesc, 1, &isnull));
	rollup->events_table = DatumGetObjectId(SPI_getbinval(tuple, tupdesc, 2, &isnull));
	rollup->public_view = DatumGetObjectId(SPI_getbinval(tuple, tupdesc, 3, &isnull));
	rollup->time_zone = TextDatumGetCString(SPI_getbinval(tuple, tupdesc, 4, &isnull));
	rollup->kept_from = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 6, &isnull));
	if (isnull)
		rollup->kept_from = 0;
	rollup->is_foreign =
		DatumGetInt32(SPI_getbinval(tuple, tupdesc, 7, &isnull)) != COMPAT_SERVER_MAJOR;
	rollup->is_foreign &= !isnull;
	rollup->new_id = DatumGetInt32(SPI_getbinval(tuple, tupdesc, 8, &isnull));
	rollup->retention = NULL;
	retention = SPI_getbinval(tuple, tupdesc, 5, &isnull);
	if (!isnull)
	{
		rollup->retention = palloc(sizeof(Interval));
		*rollup->retention = *DatumGetIntervalP(retention);
	}
}

/*
 * Find the row of a rollup by name; false when there is none.
 */
bool
definition_find(const char *name, RollupRow *rollup)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	bool found;

	SPI_connect();
	found =
		catalog_execute(
			"SELECT rollup_id, events_table::oid, view::oid, time_zone, retention, kept_from, "
			"server_major, "
			"COALESCE((SELECT n.rollup_id FROM detect._rollup n WHERE n.replaces = r.rollup_id), 0) "
			"FROM detect._rollup r WHERE name = $1 AND replaces IS NULL",
			1, types, values, NULL) > 0;
	if (found)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		read_row(rollup);
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	return found;
}

/* Raise an error unless the caller owns this rollup: its query, or if somebody has taken
 * that away, its events table. */
static void
check_owner(const char *name, Oid events_table)
{
	Oid owner = rollup_owner(name);

	if (!OidIsValid(owner))
		owner = relation_owner(events_table, true);
	if (OidIsValid(owner) ? !has_privs_of_role(GetUserId(), owner) : !superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of rollup \"%s\"", name)));
}

/*
 * Read the row of a rollup that the caller owns, or raise an error.
 */
void
definition_get(const char *name, RollupRow *rollup)
{
	if (!definition_find(name, rollup))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("rollup \"%s\" does not exist", name),
				 errhint("See the view detect.rollup.")));
	check_owner(name, rollup->events_table);
}

/*
 * Find a rollup that the caller owns, and its stream, with no batch or other step of
 * the applier open, and none begun until we commit.  NULL when it has no stream.
 */
Stream *
definition_lock(const char *name, RollupRow *rollup)
{
	Stream *stream;

	definition_get(name, rollup);
	stream = stream_load_by_events_table(rollup->events_table);
	if (stream == NULL)
		return NULL;
	stream_lock(stream->id, AccessExclusiveLock);
	/* as it is now: a new definition may have taken its place */
	definition_get(name, rollup);
	return stream_load_by_events_table(rollup->events_table);
}

/*
 * Raise an error unless a rollup has a stream.
 */
void
definition_require_stream(const char *name, const Stream *stream)
{
	if (stream == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" has no stream any more", name),
						errhint("Create a stream for its events table first.")));
}

/* Drop a relation if it is there, unless other objects depend on it. */
static void
drop_relation(Oid relation)
{
	ObjectAddress object;

	if (!OidIsValid(relation) || get_rel_name(relation) == NULL)
		return;
	ObjectAddressSet(object, RelationRelationId, relation);
	performDeletion(&object, DROP_RESTRICT, 0);
	CommandCounterIncrement();
}

/*
 * Drop detect_state.<name> and detect_query.<name>, unless other objects depend
 * on them.
 */
void
definition_drop_relations(const char *name)
{
	drop_relation(rollup_state_table(name));
	drop_relation(rollup_query_view(name));
}

/* Delete what our own tables know of a rollup. */
static void
forget_rollup(int32 id)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(id)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._missed WHERE rollup_id = $1", 1, types, values, NULL);
	catalog_execute("DELETE FROM detect._repair WHERE rollup_id = $1", 1, types, values, NULL);
	catalog_execute("DELETE FROM detect._rollup WHERE rollup_id = $1", 1, types, values, NULL);
	SPI_finish();
	gone_forget_unused();
}

/*
 * The name under which the new definition of a rollup is kept.
 */
char *
definition_new_name(int32 id)
{
	return psprintf("_new_%d", id);
}

/*
 * Drop the new definition of a rollup, if there is one.  The caller has the
 * stream's lock exclusively.
 */
void
definition_drop_new(const RollupRow *rollup)
{
	if (rollup->new_id == 0)
		return;
	definition_drop_relations(definition_new_name(rollup->id));
	forget_rollup(rollup->new_id);
}

/* End the VACUUM of a rollup's states, which may take minutes, if maintenance is at
 * it.  The lock is one that no reader waits for. */
static void
end_vacuum(const Stream *stream, const char *name)
{
	Oid state_table = rollup_state_table(name);

	if (OidIsValid(state_table) &&
		!ConditionalLockRelationOid(state_table, ShareUpdateExclusiveLock))
		slot_end_maintenance(stream->events_table);
}

/*
 * SQL: detect.drop_rollup(rollup, if_exists).
 */
Datum
detect_drop_rollup(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool if_exists = PG_GETARG_BOOL(1);
	RollupRow rollup;
	bool found = definition_find(name, &rollup);
	Stream *stream = NULL;

	if (found)
	{
		check_owner(name, rollup.events_table);
		stream = stream_load_by_events_table(rollup.events_table);
		if (stream != NULL)
			stream_lock(stream->id, AccessExclusiveLock);
		found = definition_find(name, &rollup);
	}
	if (!found && !if_exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("rollup \"%s\" does not exist", name),
				 errhint("See the view detect.rollup.")));
	if (!found)
	{
		ereport(NOTICE, (errmsg("rollup \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}

	history_record("drop_rollup", name, NULL);
	if (stream != NULL)
		end_vacuum(stream, name);
	definition_drop_new(&rollup);
	/* first the view, because it is what users build upon */
	drop_relation(rollup_view_of(rollup.public_view, rollup_state_table(name)));
	definition_drop_relations(name);
	forget_rollup(rollup.id);
	definition_changed(stream);
	PG_RETURN_VOID();
}
