/*-------------------------------------------------------------------------
 *
 * stream_create.c
 *	  detect.create_stream and detect.drop_stream.
 *
 * create_stream checks everything that can be checked at once, in the order in
 * which a user thinks: who am I, which table, which columns, which query, what
 * makes an event the same, where does it come from.  Whether the broker answers
 * is not among it: a definition must be possible, and restorable, while Kafka
 * is away; stat_stream tells the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "apply/batch.h"
#include "apply/dedup.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "ingest/decode.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_create_stream);
PG_FUNCTION_INFO_V1(detect_drop_stream);

/* Each field must name a column, and a path that the decoder can walk. */
static void
check_fields(Jsonb *fields, Oid staging_table)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("fields must be a JSON object"),
				 errhint("For example: fields => '{\"lon\": \"$.pos.lon\"}'")));
	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char *name;
		Oid reserved_type;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (stream_column_source(name, &reserved_type) != COLUMN_FIELD)
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("fields names \"%s\", which is not filled from the payload", name),
					 errhint("Leave it out of fields.")));
		if (get_attnum(staging_table, name) == InvalidAttrNumber)
		{
			const char *closest = closest_attribute(staging_table, name);

			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("fields names \"%s\", which is no column of the stream", name),
					 closest ? errhint("Perhaps you meant the column \"%s\".", closest) : 0));
		}
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvString)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("the path of column \"%s\" in fields is not a string", name)));
		decode_check_path(pnstrdup(value.val.string.val, value.val.string.len));
	}
}

/* NOT NULL columns that nothing fills would make every element a dead letter. */
static void
check_not_null_columns(Oid events_table, List *events_columns)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		bool filled = false;
		ListCell *cell;

		if (attribute->attisdropped || !attribute->attnotnull || attribute->atthasdef ||
			attribute->attidentity || attribute->attgenerated)
			continue;
		foreach(cell, events_columns)
			filled = filled || strcmp(lfirst(cell), NameStr(attribute->attname)) == 0;
		if (!filled)
			ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
							errmsg("nothing fills column \"%s\" of table \"%s\", which is NOT NULL",
								   NameStr(attribute->attname), RelationGetRelationName(rel)),
							errhint("Add it to columns or to the query, or give it a default.")));
	}
	relation_close(rel, AccessShareLock);
}

/* What tells events apart, and when they happened, is known before the query
 * runs: it must be in the stream and come through the query as it is. */
static void
check_handed_on(const Stream *stream)
{
	List *names = list_copy(stream->key);
	ListCell *cell;

	if (stream->event_time)
		names = lappend(names, stream->event_time);
	foreach(cell, names)
	{
		const char *name = lfirst(cell);
		AttrNumber staged = get_attnum(stream->staging_table, name);
		Oid type = get_atttype(stream->events_table, get_attnum(stream->events_table, name));
		bool is_handed_on = false;
		ListCell *column;

		if (staged == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("stream \"%s\" has no column \"%s\" for the event time", stream->name,
							name),
					 errhint("Add the column to columns: it is looked at before the query runs.")));
		if (get_atttype(stream->staging_table, staged) != type)
			ereport(
				ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg(
					 "event time \"%s\" has type %s in stream \"%s\", but type %s in events table \"%s\"",
					 name, format_type_be(get_atttype(stream->staging_table, staged)), stream->name,
					 format_type_be(type), get_rel_name(stream->events_table)),
				 errhint("Change the type in one of them.")));
		foreach(column, stream->events_columns)
			is_handed_on = is_handed_on || strcmp(lfirst(column), name) == 0;
		if (!is_handed_on)
			ereport(
				ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of stream \"%s\" does not hand on column \"%s\"", stream->name,
						name),
				 errhint("Let the query output the columns of key and event_time as they are.")));
	}
}

/* Names of the stream's columns that the events table has too. */
static List *
same_named_columns(List *column_defs, Oid events_table)
{
	List *names = NIL;
	ListCell *cell;

	foreach(cell, column_defs)
	{
		char *name = lfirst_node(ColumnDef, cell)->colname;
		AttrNumber attnum = get_attnum(events_table, name);

		if (attnum != InvalidAttrNumber && !get_attgenerated(events_table, attnum))
			names = lappend(names, name);
	}
	return names;
}

static Datum
list_to_text_array(List *names)
{
	Datum *elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	ListCell *cell;
	int count = 0;

	foreach(cell, names)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Write the row of detect._stream. */
static void
insert_stream(const Stream *stream, Jsonb *fields)
{
	Oid types[17] = {INT4OID,	   TEXTOID, TEXTOID,	  TEXTOID, REGCLASSOID, JSONBOID,
					 TEXTARRAYOID, TEXTOID, TEXTARRAYOID, TEXTOID, INT4OID,		INTERVALOID,
					 INTERVALOID,  TEXTOID, INT8OID,	  INT8OID, BOOLOID};
	Datum values[17] = {0};
	char nulls[17];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(stream->name);
	if (stream->server)
	{
		values[2] = CStringGetTextDatum(stream->server);
		values[3] = CStringGetTextDatum(stream->topic);
	}
	else
		nulls[2] = nulls[3] = 'n';
	values[4] = ObjectIdGetDatum(stream->events_table);
	values[5] = JsonbPGetDatum(fields);
	values[6] = list_to_text_array(stream->key);
	if (stream->event_time)
		values[7] = CStringGetTextDatum(stream->event_time);
	else
		nulls[7] = 'n';
	values[8] = list_to_text_array(stream->events_columns);
	values[9] = CStringGetTextDatum(stream->start);
	values[10] = Int32GetDatum(stream->consumers);
	if (stream->partition_interval)
		values[11] = IntervalPGetDatum(stream->partition_interval);
	else
		nulls[11] = 'n';
	if (stream->retention)
		values[12] = IntervalPGetDatum(stream->retention);
	else
		nulls[12] = 'n';
	values[13] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[14] = Int64GetDatum((int64) GetSystemIdentifier());
	values[15] = Int64GetDatum((int64) MyDatabaseId);
	values[16] = BoolGetDatum(false);

	SPI_connect();
	catalog_execute(
		"INSERT INTO detect._stream VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
		"$12, $13, $17, NULL, NULL, $14, now(), $15, $16)",
		17, types, values, nulls);
	SPI_finish();
}

/* The triggers that wake the applier and that hand over what was accepted. */
static void
create_triggers(const Stream *stream)
{
	char *staging = quote_qualified_identifier(DETECT_STAGING_SCHEMA, stream->name);
	char *events =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
								   get_rel_name(stream->events_table));
	const char *commands[] = {
		psprintf("CREATE TRIGGER _detect_staged AFTER INSERT ON %s "
				 "FOR EACH STATEMENT EXECUTE FUNCTION detect._staged()",
				 staging),
		psprintf(
			"CREATE TRIGGER _detect_accepted AFTER INSERT ON %s REFERENCING NEW TABLE AS _detect_new "
			"FOR EACH STATEMENT EXECUTE FUNCTION detect._accepted()",
			events),
		psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER _detect_accepted", events),
	};

	SPI_connect();
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (SPI_execute(commands[i], false, 0) < 0)
			elog(ERROR, "could not execute \"%s\"", commands[i]);
	}
	SPI_finish();
}

/* Make a stream's view depend on what its query may not name. */
static void
record_dependency(const Stream *stream, Oid classid, Oid objectid)
{
	ObjectAddress view;
	ObjectAddress object;

	ObjectAddressSet(view, RelationRelationId, stream->query_view);
	ObjectAddressSet(object, classid, objectid);
	(void) deleteDependencyRecordsForSpecific(view.classId, view.objectId, DEPENDENCY_NORMAL,
											  classid, objectid);
	recordDependencyOn(&view, &object, DEPENDENCY_NORMAL);
}

/*
 * Dropping the events table or the server must not leave the stream behind
 * unnoticed.  A dump does not carry this: what is restored records it again.
 */
void
stream_record_dependencies(const Stream *stream)
{
	record_dependency(stream, RelationRelationId, stream->events_table);
	if (stream->server)
		record_dependency(stream, ForeignServerRelationId,
						  get_foreign_server_oid(stream->server, false));
}

/*
 * detect.create_stream(name, …): see README.md.
 */
Datum
detect_create_stream(PG_FUNCTION_ARGS)
{
	Stream *stream;
	List *columns;
	Jsonb *fields;
	Query *query;
	char *query_text = arg_text(fcinfo, ARG_QUERY);

	launcher_require();
	stream_check_caller();
	stream = stream_from_arguments(fcinfo);
	columns = PG_ARGISNULL(ARG_COLUMNS) ? stream_columns_default(stream->events_table)
										: stream_columns_parse(arg_text(fcinfo, ARG_COLUMNS));
	fields = PG_ARGISNULL(ARG_FIELDS)
				 ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")))
				 : PG_GETARG_JSONB_P(ARG_FIELDS);

	stream->staging_table = stream_columns_create_table(stream->name, columns, stream->owner);
	check_fields(fields, stream->staging_table);
	if (query_text == NULL)
		query_text = stream_query_default(same_named_columns(columns, stream->events_table));
	query = stream_query_parse(query_text, stream->name, stream->staging_table,
							   get_attnum(stream->staging_table, DETECT_ORDINAL));
	stream->events_columns =
		stream_query_events_columns(query, stream->events_table, stream->staging_table);
	stream->query_view = query_view_create(stream->name, query, stream->owner);
	check_not_null_columns(stream->events_table, stream->events_columns);

	stream->id = (int32) catalog_next_id("_id");
	stream_record_dependencies(stream);
	create_triggers(stream);
	insert_stream(stream, fields);
	stream = stream_load_by_id(stream->id, false);
	dedup_check_definition(stream);
	query_check_text(stream);
	check_handed_on(stream);
	if (stream->server)
		staging_table_ensure(stream);
	stream_changed();
	PG_RETURN_VOID();
}

/* Drop one of a stream's objects if it is still there. */
static void
drop_object(Oid classid, Oid objectid)
{
	ObjectAddress object;

	if (!OidIsValid(objectid))
		return;
	ObjectAddressSet(object, classid, objectid);
	performDeletion(&object, DROP_RESTRICT,
					PERFORM_DELETION_SKIP_EXTENSIONS | PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/*
 * Drop the trigger that create_stream has made on an events table, if both are
 * still there.
 */
void
stream_drop_trigger(Oid events_table)
{
	drop_object(TriggerRelationId, get_trigger_oid(events_table, "_detect_accepted", true));
}

/*
 * Delete what detect's own tables know of a stream.
 */
void
stream_forget(int32 stream_id)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream_id)};
	const char *tables[] = {"_stream", "_applied_progress", "_staged_progress", "_dead_letter"};

	SPI_connect();
	for (int i = 0; i < lengthof(tables); i++)
		catalog_execute(psprintf("DELETE FROM detect.%s WHERE stream_id = $1", tables[i]), 1, types,
						values, NULL);
	SPI_finish();
	staging_table_drop(stream_id);
	stream_changed();
}

/* Raise an error unless the caller may drop a stream.  Its owner is that of
 * its query; without one, that of the events table. */
static void
check_may_drop(const char *name, Oid events_table)
{
	Oid owned = get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));

	if (!OidIsValid(owned))
		owned = events_table;
	if (!superuser() && (get_rel_name(owned) == NULL || !compat_owns_relation(owned, GetUserId())))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of stream \"%s\"", name)));
}

/*
 * detect.drop_stream(stream, if_exists): the definition goes, the events table
 * with its rows and the rollups over it stay.
 */
Datum
detect_drop_stream(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool if_exists = PG_GETARG_BOOL(1);
	Oid events_table;
	int32 stream_id = stream_number(name, &events_table);

	if (stream_id == 0)
	{
		(void) stream_load(name, if_exists); /* raises the error */
		ereport(NOTICE, (errmsg("stream \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	check_may_drop(name, events_table);
	stream_lock(stream_id, AccessExclusiveLock);

	stream_drop_trigger(events_table);
	stream_forget(stream_id);
	drop_object(RelationRelationId,
				get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false)));
	drop_object(RelationRelationId,
				get_relname_relid(name, get_namespace_oid(DETECT_STAGING_SCHEMA, false)));
	PG_RETURN_VOID();
}
