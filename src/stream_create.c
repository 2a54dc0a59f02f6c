/*-------------------------------------------------------------------------
 *
 * stream_create.c
 *	  detect.create_stream.
 *
 * It checks everything that can be checked at once, in the order in which a
 * user thinks: who am I, which table, which columns, which query, what makes an
 * event the same, where does it come from.  Whether the broker answers is not
 * among it: a definition must be possible, and restorable, while Kafka is away;
 * stat_stream tells the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "fmgr.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "sql.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_create_stream);

/* Where stream_write() puts the parameters of a definition. */
#define WRITE_STREAM_SQL                                                                          \
	"INSERT INTO detect._stream AS s VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, " \
	"$13, $14, $15, $16, $17, $18, false, NULL, NULL, $19, now(), $20, $21, $22) "                \
	"ON CONFLICT (stream_id) DO UPDATE SET server = $3, topics = $4, events_table = $5, "         \
	"fields = $6, \"unnest\" = $7, key = $8, event_time = $9, events_columns = $10, "             \
	"default_query = $11, start = $12, consumers = $13, partition_interval = $14, "               \
	"retention = $15, dead_letter_limit = $16, on_limit = $17, dead_letter_retention = $18, "     \
	"changed_by = $19, changed_at = now()"

/* The parameters of a statement, filled one after the other. */
typedef struct Parameters
{
	int count;
	Oid types[22];
	Datum values[22];
	char nulls[22];
} Parameters;

static void
add_parameter(Parameters *parameters, Oid type, Datum value, bool isnull)
{
	Assert(parameters->count < lengthof(parameters->types));
	parameters->types[parameters->count] = type;
	parameters->values[parameters->count] = value;
	parameters->nulls[parameters->count++] = isnull ? 'n' : ' ';
}

static void
add_text(Parameters *parameters, const char *text)
{
	add_parameter(parameters, TEXTOID, text ? CStringGetTextDatum(text) : (Datum) 0, text == NULL);
}

static void
add_interval(Parameters *parameters, const Interval *interval)
{
	add_parameter(parameters, INTERVALOID, IntervalPGetDatum(interval), interval == NULL);
}

/*
 * Write the row of detect._stream: a new one, or what alter_stream has made of
 * it; whether the stream is paused stays.
 */
void
stream_write(const StreamDefinition *definition)
{
	const Stream *stream = definition->stream;
	Parameters parameters = {0};

	add_parameter(&parameters, INT4OID, Int32GetDatum(stream->id), false);
	add_text(&parameters, stream->name);
	add_text(&parameters, stream->server);
	add_parameter(&parameters, TEXTARRAYOID, names_to_array(stream->topics), false);
	add_parameter(&parameters, REGCLASSOID, ObjectIdGetDatum(stream->events_table), false);
	add_parameter(&parameters, JSONBOID, JsonbPGetDatum(definition->fields), false);
	add_text(&parameters, stream->unnest);
	add_parameter(&parameters, TEXTARRAYOID, names_to_array(stream->key), false);
	add_text(&parameters, stream->event_time);
	add_parameter(&parameters, TEXTARRAYOID, names_to_array(stream->events_columns), false);
	add_parameter(&parameters, BOOLOID, BoolGetDatum(definition->default_query), false);
	add_text(&parameters, stream->start);
	add_parameter(&parameters, INT4OID, Int32GetDatum(stream->consumers), false);
	add_interval(&parameters, stream->partition_interval);
	add_interval(&parameters, stream->retention);
	add_parameter(&parameters, INT8OID, Int64GetDatum(stream->dead_letter_limit),
				  stream->dead_letter_limit < 0);
	add_text(&parameters, stream->keep_offsets ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE);
	add_interval(&parameters, stream->dead_letter_retention);
	add_text(&parameters, GetUserNameFromId(GetUserId(), false));
	add_parameter(&parameters, INT8OID, Int64GetDatum((int64) GetSystemIdentifier()), false);
	add_parameter(&parameters, INT8OID, Int64GetDatum((int64) MyDatabaseId), false);
	add_parameter(&parameters, INT8OID, Int64GetDatum((int64) catalog_relation("_stream", false)),
				  false);

	SPI_connect();
	catalog_execute(WRITE_STREAM_SQL, parameters.count, parameters.types, parameters.values,
					parameters.nulls);
	SPI_finish();
}

/* The trigger that wakes the applier when SQL stages rows. */
static void
create_staging_trigger(const Stream *stream)
{
	sql_execute(psprintf("CREATE TRIGGER _detect_staged AFTER INSERT ON %s "
						 "FOR EACH STATEMENT EXECUTE FUNCTION detect._staged()",
						 quote_qualified_identifier(DETECT_STAGING_SCHEMA, stream->name)));
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
 * Make the view of a definition's query, whose columns are in the staging table,
 * and note which columns of the events table it fills.
 */
void
stream_make_query(StreamDefinition *definition)
{
	Stream *stream = definition->stream;
	const char *text = definition->query;
	ActingUser caller;
	Query *query;

	if (definition->default_query)
	{
		text = stream_query_default(stream->staging_table, stream->events_table);
		stream_query_tell_unused(stream->events_table, stream->staging_table);
	}
	/* to read a constant may call functions of the owner */
	caller = sql_act_as(stream->owner, SECURITY_RESTRICTED_OPERATION);
	query = stream_query_parse(text, stream->name, stream->staging_table,
							   get_attnum(stream->staging_table, DETECT_ORDINAL));
	sql_act_as_before(&caller);
	stream->events_columns =
		stream_query_events_columns(query, stream->events_table, stream->staging_table);
	stream->query_view = query_view_create(stream->name, query, stream->owner);
}

/* Whether there is such a stream, which if_not_exists asks for; an error when
 * it is another one. */
static bool
exists_already(FunctionCallInfo fcinfo)
{
	Stream *stream;
	char *differences;

	if (PG_ARGISNULL(ARG_IF_NOT_EXISTS) || !PG_GETARG_BOOL(ARG_IF_NOT_EXISTS) ||
		PG_ARGISNULL(ARG_NAME))
		return false;
	stream = stream_load(arg_text(fcinfo, ARG_NAME), true);
	if (stream == NULL)
		return false;
	stream_check_owner(stream);
	/* what is omitted here is compared with what its absence made then */
	differences = stream_differences(stream_definition_from_call(fcinfo, stream, NULL), stream);
	if (differences)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("stream \"%s\" already exists and is defined otherwise", stream->name),
				 errdetail("Different: %s.", differences),
				 errhint("detect.get_definition shows it, detect.alter_stream changes it.")));
	ereport(NOTICE, (errmsg("stream \"%s\" already exists, skipping", stream->name)));
	return true;
}

/*
 * Make a stream and all its objects but for consumers' tables, or say why it
 * can't be.
 */
Stream *
stream_create(StreamDefinition *definition)
{
	Stream *stream = definition->stream;

	stream->staging_table =
		stream_columns_create_table(stream->name, definition->columns, stream->owner);
	stream_check_fields(definition->fields, stream->unnest, stream->staging_table);
	stream_make_query(definition);

	stream->id = (int32) catalog_next_id("_id");
	stream_record_dependencies(stream);
	create_staging_trigger(stream);
	stream_make_events_triggers(stream);
	stream_write(definition);
	stream = stream_load_by_id(stream->id, false);
	stream_check_definition(stream);
	return stream;
}

/*
 * detect.create_stream(name, …): see README.md.
 */
Datum
detect_create_stream(PG_FUNCTION_ARGS)
{
	Stream *stream;

	launcher_require();
	admin_require("detect.create_stream");
	stream_check_caller();
	if (exists_already(fcinfo))
		PG_RETURN_VOID();
	stream = stream_create(stream_definition_from_call(fcinfo, NULL, NULL));
	for (int writer = 0; writer < staging_writers(stream); writer++)
		staging_table_ensure(stream, writer);
	history_record("create_stream", stream->name, stream_arguments_given(fcinfo));
	stream_changed();
	PG_RETURN_VOID();
}
