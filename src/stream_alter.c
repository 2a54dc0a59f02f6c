/*-------------------------------------------------------------------------
 *
 * stream_alter.c
 *	  detect.alter_stream: another definition, progress kept.
 *
 * It holds the stream's lock until its transaction ends: the change falls
 * between two commits, together with whatever ALTER TABLE stands beside it.
 * What consumers have staged under the old definition is thrown away and read
 * from Kafka again, unless it would be the same; rows that SQL has staged stay.
 * Offsets mean nothing on another server, so a stream that moves there must say
 * where to start.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "fmgr.h"
#include "ingest/staging.h"
#include "rollup/rollup.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(detect_alter_stream);

/* The stream to be altered, locked; NULL when there is none and if_exists. */
static Stream *
find_stream(FunctionCallInfo fcinfo)
{
	bool if_exists = !PG_ARGISNULL(ARG_IF_EXISTS) && PG_GETARG_BOOL(ARG_IF_EXISTS);
	Stream *stream;

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("detect.alter_stream needs the name of a stream")));
	stream = stream_lock_named(arg_text(fcinfo, ARG_NAME), AccessExclusiveLock, if_exists);
	if (stream == NULL)
		ereport(NOTICE,
				(errmsg("stream \"%s\" does not exist, skipping", arg_text(fcinfo, ARG_NAME))));
	return stream;
}

/* Whether progress in topics is known: of a server that the stream has now, or had. */
static bool
has_kafka_progress(const Stream *stream)
{
	ListCell *cell;

	foreach(cell, progress_read_applied(stream))
	{
		if (((const Progress *) lfirst(cell))->partition != SQL_PARTITION)
			return true;
	}
	return false;
}

/* Whether the server that a stream has is the one that it had, under another name: the
 * view of the stream depends on it. */
static bool
is_renamed(const Stream *stream, const Stream *old)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2];
	bool result;

	if (OidIsValid(get_foreign_server_oid(old->server, true)))
		return false;
	values[0] = ObjectIdGetDatum(old->query_view);
	values[1] = ObjectIdGetDatum(get_foreign_server_oid(stream->server, false));
	SPI_connect();
	result = catalog_execute("SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass "
							 "AND objid = $1 AND refclassid = 'pg_foreign_server'::regclass "
							 "AND refobjid = $2",
							 2, types, values, NULL) > 0;
	SPI_finish();
	return result;
}

/* Dead letters know their server by its name. */
static void
rename_server_of_letters(const Stream *stream, const Stream *old)
{
	Oid types[3] = {INT4OID, TEXTOID, TEXTOID};
	Datum values[3];

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(old->server);
	values[2] = CStringGetTextDatum(stream->server);
	SPI_connect();
	catalog_execute("UPDATE detect._dead_letter SET kafka_server = $3 "
					"WHERE stream_id = $1 AND kafka_server = $2",
					3, types, values, NULL);
	SPI_finish();
}

/* Whether offsets get another meaning.  Which server the progress of a stream is of
 * that has none now is not known. */
static bool
moves(const Stream *stream, const Stream *old)
{
	if (stream->server == NULL)
		return false;
	if (old->server == NULL)
		return has_kafka_progress(old);
	return strcmp(old->server, stream->server) != 0 && !is_renamed(stream, old);
}

/* Refuse a move that would lose events without a word. */
static void
check_move(const StreamDefinition *definition, const Stream *old, bool is_move)
{
	const Stream *stream = definition->stream;

	if (!is_move)
		return;
	if (!definition->start_is_given)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("another server needs start"),
			 old->server
				 ? errdetail("Offsets of server \"%s\" mean nothing on server \"%s\".", old->server,
							 stream->server)
				 : errdetail("Offsets of the server that the stream had mean nothing on another."),
			 errhint(
				 "Give a time from before the move, or \"earliest\": what was applied already is known by its key.")));
	if (stream->key == NIL && strcmp(stream->start, "latest") != 0)
		ereport(
			NOTICE,
			(errmsg(
				"stream \"%s\" keeps every message: those that both servers have become two events",
				stream->name)));
}

static bool
is_same_text(const char *left, const char *right)
{
	return strcmp(left ? left : "", right ? right : "") == 0;
}

/* Make columns and query anew where they change. */
static void
remake_query(StreamDefinition *definition, const Stream *old)
{
	Stream *stream = definition->stream;
	bool columns_differ =
		definition->columns && stream_columns_differ(old->staging_table, definition->columns);

	stream->staging_table = old->staging_table;
	stream->query_view = old->query_view;
	stream->events_columns = old->events_columns;
	if (!columns_differ && definition->query == NULL &&
		definition->default_query == old->default_query &&
		stream->events_table == old->events_table && is_same_text(stream->server, old->server))
		return;

	/* the new view depends on what the definition now uses, and on nothing else */
	if (!definition->default_query && definition->query == NULL)
		definition->query = stream_query_text(old);
	stream_drop_object(RelationRelationId, old->query_view);
	if (columns_differ)
		stream_columns_alter_table(stream, definition->columns);
	stream_make_query(definition);
	stream_record_dependencies(stream);
}

/* Another events table: its triggers, and those of the old one, whose edits nobody takes
 * any more.  They are all committed, for their transactions had locks on the triggers'
 * table. */
static void
move_triggers(const Stream *stream, const Stream *old)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	if (stream->events_table == old->events_table)
		return;
	stream_drop_events_triggers(old->events_table);
	stream_make_events_triggers(stream);
	rollup_repair_unseen_edits(stream->id);
	SPI_connect();
	catalog_execute("DELETE FROM detect._edit WHERE stream_id = $1", 1, types, values, NULL);
	SPI_finish();
}

/* What no column took may be taken now. */
static void
forget_unknown_fields(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._unknown_field WHERE stream_id = $1", 1, types, values,
					NULL);
	SPI_finish();
}

/* What is to be found by event time, which is another column now, is to be found without
 * it: what rollups miss that are set aside, and what was edited. */
static void
forget_times(const Stream *stream)
{
	Oid table_types[1] = {OIDOID};
	Datum table_values[1] = {ObjectIdGetDatum(stream->events_table)};
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	SPI_connect();
	catalog_execute("UPDATE detect._missed m SET since = NULL, until = NULL FROM detect._rollup r "
					"WHERE r.rollup_id = m.rollup_id AND r.events_table = $1",
					1, table_types, table_values, NULL);
	catalog_execute("UPDATE detect._repair p SET from_time = '-infinity', until_time = 'infinity' "
					"FROM detect._rollup r WHERE r.rollup_id = p.rollup_id AND r.events_table = $1 "
					"AND NOT p.asked",
					1, table_types, table_values, NULL);
	catalog_execute("UPDATE detect._edit SET from_time = NULL, until_time = NULL "
					"WHERE stream_id = $1",
					1, types, values, NULL);
	SPI_finish();
}

/* Have all partitions read from where start says. */
static void
restart_progress(const Stream *stream)
{
	ListCell *cell;

	foreach(cell, progress_read_applied(stream))
	{
		const Progress *progress = lfirst(cell);

		if (progress->partition != SQL_PARTITION)
			progress_seek(stream, progress->topic, progress->partition, START_OFFSET);
	}
}

/* Whether what is staged is what would be read again.  Kafka may have lost it meanwhile,
 * above all where the stream could not go on with the query that is altered. */
static bool
keeps_staging(FunctionCallInfo fcinfo)
{
	for (int arg = ARG_NAME + 1; arg <= ARG_RESET; arg++)
	{
		bool is_applied_only = arg == ARG_QUERY || arg == ARG_PARTITION_INTERVAL ||
							   arg == ARG_RETENTION || arg == ARG_DEAD_LETTER_LIMIT ||
							   arg == ARG_ON_LIMIT || arg == ARG_DEAD_LETTER_RETENTION;

		if (!PG_ARGISNULL(arg) && !is_applied_only)
			return false;
	}
	return true;
}

/*
 * detect.alter_stream(stream, …): see README.md.
 */
Datum
detect_alter_stream(PG_FUNCTION_ARGS)
{
	Stream *old = find_stream(fcinfo);
	StreamDefinition *definition;
	Stream *stream;
	bool is_move;

	if (old == NULL)
		PG_RETURN_VOID();
	definition = stream_definition_from_call(
		fcinfo, old, PG_ARGISNULL(ARG_RESET) ? NULL : PG_GETARG_ARRAYTYPE_P(ARG_RESET));
	stream = definition->stream;
	is_move = moves(stream, old);
	check_move(definition, old, is_move);
	remake_query(definition, old);
	stream_check_fields(definition->fields, stream->unnest, stream->staging_table);
	move_triggers(stream, old);
	stream_write(definition);

	if (!is_same_text(stream->event_time, old->event_time))
		forget_times(stream);
	if (!keeps_staging(fcinfo))
	{
		forget_unknown_fields(stream);
		progress_forget_staged(stream);
		staging_tables_drop(stream->id);
	}
	if (is_move)
		restart_progress(stream);
	else if (stream->server && old->server && !is_same_text(stream->server, old->server))
		rename_server_of_letters(stream, old);
	stream_check_definition(stream_load_by_id(stream->id, false));
	history_record("alter_stream", stream->name, stream_arguments_given(fcinfo));
	stream_changed();
	PG_RETURN_VOID();
}
