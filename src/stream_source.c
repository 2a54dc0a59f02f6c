/*-------------------------------------------------------------------------
 *
 * stream_source.c
 *	  Where the messages of a stream come from: server, topics, start, and where
 *	  in a message its elements stand.
 *
 * Whether the broker answers and the topics exist is not asked here: a
 * definition must be possible, and restorable, while Kafka is away.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_foreign_server.h"
#include "compat.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "ingest/decode.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define START_HINT "Give \"earliest\", \"latest\" or a time."

/*
 * The OID of a server, which must be a Kafka cluster that a user may use.
 */
Oid
stream_check_server(const char *name, Oid user)
{
	ForeignServer *server;

	server = GetForeignServerByName(name, true);
	if (server == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("server \"%s\" does not exist", name),
			 errhint(
				 "CREATE SERVER %s FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'host:9092').",
				 quote_identifier(name))));
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "detect_kafka") != 0)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("server \"%s\" is not a Kafka cluster", name),
						errhint("Name a server of foreign data wrapper detect_kafka.")));
	if (compat_server_aclcheck(server->serverid, user) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for server \"%s\"", name),
						errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s.", quote_identifier(name),
								quote_identifier(GetUserNameFromId(user, false)))));
	return server->serverid;
}

/* The server of a stream that names none: the only one that the caller may use. */
static char *
only_server(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	char *name = NULL;
	int count;

	SPI_connect();
	count = catalog_execute("SELECT srvname FROM pg_foreign_server s "
							"JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw "
							"WHERE fdwname = 'detect_kafka'",
							0, NULL, NULL, NULL);
	if (count == 1)
		name = MemoryContextStrdup(caller_context,
								   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	if (count > 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("there are %d servers of detect_kafka", count),
			 errhint("Name one in server, or server => '' for a stream that SQL alone feeds.")));
	return name;
}

/*
 * The checked name of the server, NULL when SQL alone feeds the stream.
 */
char *
argument_server(const ArgumentSource *source, Oid owner)
{
	char *name = arg_text(source->fcinfo, ARG_SERVER);

	if (argument_keeps(source, ARG_SERVER))
		return source->old->server;
	if (name && name[0] == '\0')
		return NULL;
	if (name == NULL)
		name = only_server();
	if (name == NULL)
		return NULL;

	(void) stream_check_server(name, owner);
	return name;
}

/* Each topic has a place of its own, and there are not too many. */
static void
check_topics(List *topics)
{
	ListCell *cell;

	if (topics == NIL || list_length(topics) > PG_INT16_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a stream reads 1 to %d topics, not %d", PG_INT16_MAX,
							   list_length(topics))));
	foreach(cell, topics)
	{
		const char *topic = lfirst(cell);

		if (topic[0] == '\0')
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("the name of a topic must not be empty")));
		for (int i = 0; i < foreach_current_index(cell); i++)
		{
			if (strcmp(list_nth(topics, i), topic) == 0)
				ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
								errmsg("topics name \"%s\" more than once", topic)));
		}
	}
}

/*
 * The topics: as named, else one with the stream's name.
 */
List *
argument_topics(const ArgumentSource *source, const Stream *stream)
{
	bool is_named = argument_is_given(source, ARG_TOPIC) || argument_is_given(source, ARG_TOPICS);
	List *topics;

	if (argument_is_given(source, ARG_TOPIC) && argument_is_given(source, ARG_TOPICS))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("topic and topics cannot be given both"),
						errhint("Name all of them in topics.")));
	if (stream->server == NULL && is_named)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 argument_is_given(source, ARG_TOPIC)
				 ? errmsg("topic \"%s\" needs a server", arg_text(source->fcinfo, ARG_TOPIC))
				 : errmsg("topics need a server"),
			 errhint("CREATE SERVER … FOREIGN DATA WRAPPER detect_kafka, and name it in server.")));
	if (stream->server == NULL)
		return NIL;
	if (argument_is_given(source, ARG_TOPIC))
		topics = list_make1(arg_text(source->fcinfo, ARG_TOPIC));
	else if (argument_is_given(source, ARG_TOPICS))
		topics = arg_text_array(source->fcinfo, ARG_TOPICS);
	else if (argument_keeps(source, ARG_TOPIC) && argument_keeps(source, ARG_TOPICS) &&
			 source->old->topics)
		topics = source->old->topics;
	else
		topics = list_make1(stream->name);
	check_topics(topics);
	return topics;
}

/* Error context callback: what start may be. */
static void
add_start_hint(void *arg)
{
	errhint(START_HINT);
}

/* A time as everybody reads it, whatever time zone he is in. */
static char *
time_in_utc(TimestampTz time)
{
	char text[MAXDATELEN + 1];
	struct pg_tm tm;
	fsec_t fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("start is out of range"), errhint(START_HINT)));
	tm.tm_isdst = 0;
	EncodeDateTime(&tm, fsec, true, 0, NULL, USE_ISO_DATES, text);
	return pstrdup(text);
}

/*
 * Where to begin; a time with its zone, since workers have one of their own.
 */
char *
argument_start(const ArgumentSource *source)
{
	char *start = arg_text(source->fcinfo, ARG_START);
	ErrorContextCallback callback = {.callback = add_start_hint, .previous = error_context_stack};
	TimestampTz time;

	if (argument_keeps(source, ARG_START))
		return source->old->start;
	if (start == NULL)
		return "earliest";
	if (strcmp(start, "earliest") == 0 || strcmp(start, "latest") == 0)
		return start;
	/* raises the error of timestamptz itself, which quotes the input */
	error_context_stack = &callback;
	time = DatumGetTimestampTz(DirectFunctionCall3(
		timestamptz_in, CStringGetDatum(start), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	error_context_stack = callback.previous;
	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("start cannot be infinite"), errhint(START_HINT)));
	return time_in_utc(time);
}

/*
 * Where elements stand in a message, NULL if each message is one.
 */
char *
argument_unnest(const ArgumentSource *source)
{
	char *path = arg_text(source->fcinfo, ARG_UNNEST);

	if (argument_keeps(source, ARG_UNNEST))
		return source->old->unnest;
	if (path)
		decode_check_path(path, false);
	return path;
}
