/*-------------------------------------------------------------------------
 *
 * stream_arguments.c
 *	  The arguments of detect.create_stream and alter_stream, checked one by one.
 *
 * Everything that can be judged without the columns and the query is judged
 * here, in the order in which a user thinks: who am I, which table, where do
 * messages come from, what makes two events the same.  Each refusal says what
 * to change.
 *
 * An argument of alter_stream that is omitted keeps what the stream has, and
 * one that reset names becomes what create_stream would have made of its
 * absence: find_…() asks keeps() first.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "apply/dedup.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
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

#define DEFAULT_DEAD_LETTER_LIMIT 100000

/* By number: what reset and error messages call them. */
const char *const stream_argument_names[DEFINITION_ARGS] = {"name",
															"server",
															"topic",
															"topics",
															"events_table",
															"columns",
															"fields",
															"unnest",
															"query",
															"key",
															"event_time",
															"start",
															"partition_interval",
															"retention",
															"consumers",
															"dead_letter_limit",
															"on_limit",
															"dead_letter_retention"};

/* Where the arguments come from. */
typedef struct ArgumentSource
{
	FunctionCallInfo fcinfo;
	const Stream *old; /* what is altered, NULL when one is created */
	bool reset[DEFINITION_ARGS];
} ArgumentSource;

/*
 * A text argument as a string, NULL for NULL.
 */
char *
arg_text(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* Whether an argument is not NULL. */
static bool
is_given(const ArgumentSource *source, int arg)
{
	FunctionCallInfo fcinfo = source->fcinfo;

	return !PG_ARGISNULL(arg);
}

/* Whether what the stream has stays. */
static bool
keeps(const ArgumentSource *source, int arg)
{
	return source->old != NULL && !is_given(source, arg) && !source->reset[arg];
}

/* Read which arguments of alter_stream are to become their defaults. */
static void
read_reset(ArgumentSource *source, ArrayType *reset)
{
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(reset, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const char *name = nulls[i] ? "" : TextDatumGetCString(elements[i]);
		int arg = ARG_SERVER;

		while (arg < DEFINITION_ARGS && strcmp(stream_argument_names[arg], name) != 0)
			arg++;
		if (arg == DEFINITION_ARGS)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("reset names \"%s\", which is no argument of a stream", name),
							errhint("For example: reset => '{retention}'")));
		if (is_given(source, arg))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("\"%s\" is given, and reset names it too", name),
							errhint("Leave one of them out.")));
		source->reset[arg] = true;
	}
}

/*
 * Raise an error if no worker could run as the caller.
 */
void
stream_check_caller(void)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool can_login;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", GetUserId());
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);

	if (!can_login)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_ROLE_SPECIFICATION),
			 errmsg("role \"%s\" cannot own a stream: it cannot log in",
					GetUserNameFromId(GetUserId(), false)),
			 errdetail("The stream's worker connects as its owner."),
			 errhint(
				 "ALTER ROLE … LOGIN (without a password nobody else can use it), or create the stream as another role.")));
	if (superuser() && !detect_superuser_streams)
		ereport(
			ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("a superuser cannot own a stream"),
			 errdetail(
				 "The stream's worker runs the query and the triggers of its tables as its owner."),
			 errhint(
				 "Create it as a role that is a member of detect_admin, or set detect.superuser_streams = on.")));
	if (compat_database_aclcheck(MyDatabaseId, GetUserId(), ACL_CONNECT) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("role \"%s\" may not connect to this database",
							   GetUserNameFromId(GetUserId(), false)),
						errhint("GRANT CONNECT ON DATABASE … TO it.")));
}

static void
refuse_events_table(const char *table, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" cannot be an events table: it %s", table, what), errhint("%s", hint)));
}

/* Whether another stream, or the wrong kind of relation, stands in the way. */
static void
check_events_table(const Stream *stream, Oid events_table)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	const char *name = RelationGetRelationName(rel);
	char kind = rel->rd_rel->relkind;
	Stream *other;

	if (!compat_owns_relation(events_table, stream->owner))
		ereport(
			ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("must be owner of table \"%s\"", name),
			 errhint(
				 "The stream makes partitions and triggers on it. Create the stream as the table's owner.")));
	if (kind == RELKIND_VIEW)
		refuse_events_table(name, "is a view",
							"Name the table behind it; a view has no rows to count.");
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse_events_table(name, "is not a table", "Name an ordinary or a partitioned table.");
	if (rel->rd_rel->relispartition)
		refuse_events_table(name, "is a partition", "Name the partitioned table.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_events_table(name, "is temporary", "Name a table that other sessions see.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		refuse_events_table(
			name, "is not logged",
			"ALTER TABLE … SET LOGGED: a crash would empty it while the progress in Kafka stays.");
	if (rel->rd_rules != NULL) /* relhasrules stays when the last one goes */
		refuse_events_table(name, "has rules", "Use a trigger in place of the rule.");
	if (check_enable_rls(events_table, stream->owner, true) == RLS_ENABLED)
		refuse_events_table(name, "has row security that applies to its owner",
							"ALTER TABLE … NO FORCE ROW LEVEL SECURITY.");
	other = stream_load_by_events_table(events_table);
	if (other && strcmp(other->name, stream->name) != 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("table \"%s\" is already the events table of stream \"%s\"", name, other->name),
			 errhint(
				 "A table can have one stream: give the other a table of its own and read both through a view.")));
	relation_close(rel, NoLock);
}

/* The events table: as named, else the table with the stream's name. */
static Oid
find_events_table(const ArgumentSource *source, const Stream *stream)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	Oid relid;

	if (keeps(source, ARG_EVENTS_TABLE))
		return source->old->events_table;
	if (is_given(source, ARG_EVENTS_TABLE))
		relid = PG_GETARG_OID(ARG_EVENTS_TABLE);
	else
		relid = RelnameGetRelid(stream->name);
	if (!OidIsValid(relid) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("there is no table for the events of stream \"%s\"", stream->name),
			 errhint(
				 "Create the table first, and name it in events_table unless it is called \"%s\".",
				 stream->name)));
	check_events_table(stream, relid);
	return relid;
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

/* The checked name of the server, NULL when SQL alone feeds the stream. */
static char *
find_server(const ArgumentSource *source, Oid owner)
{
	char *name = arg_text(source->fcinfo, ARG_SERVER);
	ForeignServer *server;

	if (keeps(source, ARG_SERVER))
		return source->old->server;
	if (name && name[0] == '\0')
		return NULL;
	if (name == NULL)
		name = only_server();
	if (name == NULL)
		return NULL;

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
	if (compat_server_aclcheck(server->serverid, owner) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for server \"%s\"", name),
						errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s.", quote_identifier(name),
								quote_identifier(GetUserNameFromId(owner, false)))));
	return name;
}

/* The strings of an array argument; what must not contain NULL. */
static List *
text_array_argument(FunctionCallInfo fcinfo, int arg)
{
	Datum *elements;
	bool *nulls;
	int count;
	List *strings = NIL;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("%s must not contain NULL", stream_argument_names[arg])));
		strings = lappend(strings, TextDatumGetCString(elements[i]));
	}
	return strings;
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

/* The topics: as named, else one with the stream's name. */
static List *
find_topics(const ArgumentSource *source, const Stream *stream)
{
	bool is_named = is_given(source, ARG_TOPIC) || is_given(source, ARG_TOPICS);
	List *topics;

	if (is_given(source, ARG_TOPIC) && is_given(source, ARG_TOPICS))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("topic and topics cannot be given both"),
						errhint("Name all of them in topics.")));
	if (stream->server == NULL && is_named)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 is_given(source, ARG_TOPIC)
				 ? errmsg("topic \"%s\" needs a server", arg_text(source->fcinfo, ARG_TOPIC))
				 : errmsg("topics need a server"),
			 errhint("CREATE SERVER … FOREIGN DATA WRAPPER detect_kafka, and name it in server.")));
	if (stream->server == NULL)
		return NIL;
	if (is_given(source, ARG_TOPIC))
		topics = list_make1(arg_text(source->fcinfo, ARG_TOPIC));
	else if (is_given(source, ARG_TOPICS))
		topics = text_array_argument(source->fcinfo, ARG_TOPICS);
	else if (keeps(source, ARG_TOPIC) && keeps(source, ARG_TOPICS) && source->old->topics)
		topics = source->old->topics;
	else
		topics = list_make1(stream->name);
	check_topics(topics);
	return topics;
}

/* Where to begin; a time with its zone, since workers have one of their own. */
static char *
find_start(char *start)
{
	TimestampTz time;

	if (strcmp(start, "earliest") == 0 || strcmp(start, "latest") == 0)
		return start;
	/* raises the error of timestamptz itself, which quotes the input */
	time = DatumGetTimestampTz(DirectFunctionCall3(
		timestamptz_in, CStringGetDatum(start), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	if (TIMESTAMP_NOT_FINITE(time))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("start cannot be infinite"),
				 errhint("Give \"earliest\", \"latest\" or a time.")));
	return pstrdup(timestamptz_to_str(time));
}

/* The columns of the events table's primary key; an error when it has none. */
static List *
primary_key_columns(Oid events_table)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	Oid index_oid;
	List *columns = NIL;

	(void) RelationGetIndexList(rel);
	index_oid = rel->rd_pkindex;
	if (OidIsValid(index_oid))
	{
		Relation index = relation_open(index_oid, AccessShareLock);

		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			columns = lappend(columns,
							  get_attname(events_table, index->rd_index->indkey.values[i], false));
		relation_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	if (columns == NIL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("table \"%s\" has no primary key: what makes two events the same?",
					get_rel_name(events_table)),
			 errhint(
				 "Name the columns in key, for example key => '{event_id}'; key => '{}' keeps every message.")));
	return columns;
}

/* The columns of the identity: as named, else the primary key. */
static List *
find_key(const ArgumentSource *source, Oid events_table)
{
	if (keeps(source, ARG_KEY))
		return source->old->key;
	if (!is_given(source, ARG_KEY))
		return primary_key_columns(events_table);
	return text_array_argument(source->fcinfo, ARG_KEY);
}

/* The time of an event: as named, else the column that partitions the table. */
static char *
find_event_time(const ArgumentSource *source, Oid events_table)
{
	char *name = arg_text(source->fcinfo, ARG_EVENT_TIME);
	Relation rel;
	PartitionKey key;

	if (keeps(source, ARG_EVENT_TIME))
		return source->old->event_time;
	if (name)
		return name;
	rel = relation_open(events_table, AccessShareLock);
	key = RelationGetPartitionKey(rel);
	if (key && key->strategy == PARTITION_STRATEGY_RANGE && key->partnatts == 1 &&
		key->partattrs[0] != 0)
		name = get_attname(events_table, key->partattrs[0], false);
	relation_close(rel, AccessShareLock);
	return name;
}

/* An interval: as given, else what the stream has, else NULL. */
static Interval *
find_interval(const ArgumentSource *source, int arg, Interval *old)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	Interval zero = {0};
	Interval *interval;

	if (keeps(source, arg))
		return old;
	if (!is_given(source, arg))
		return NULL;
	interval = PG_GETARG_INTERVAL_P(arg);
	if (DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(interval),
										 IntervalPGetDatum(&zero))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", stream_argument_names[arg])));
	return interval;
}

static void
find_intervals(const ArgumentSource *source, Stream *stream)
{
	const Stream *old = source->old;

	stream->partition_interval =
		find_interval(source, ARG_PARTITION_INTERVAL, old ? old->partition_interval : NULL);
	stream->retention = find_interval(source, ARG_RETENTION, old ? old->retention : NULL);
	if (partition_is_by_event_time(stream))
	{
		partition_check_rights(stream->events_table, stream->owner);
		if (stream->partition_interval == NULL)
		{
			stream->partition_interval = palloc0(sizeof(Interval));
			stream->partition_interval->day = 1;
		}
	}
	if (stream->retention && !stream->event_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("retention needs event_time"),
				 errhint("Name the column that tells when an event happened.")));
}

/* How many consumers read beside the applier. */
static int
find_consumers(const ArgumentSource *source)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	int consumers;

	if (keeps(source, ARG_CONSUMERS))
		return source->old->consumers;
	consumers = is_given(source, ARG_CONSUMERS) ? PG_GETARG_INT32(ARG_CONSUMERS) : 0;
	if (consumers < 0 || consumers > MAX_CONSUMERS)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("consumers must be 0 to %d, not %d", MAX_CONSUMERS, consumers),
			 errhint(
				 "0: one worker reads Kafka and applies; more: so many workers beside it read Kafka.")));
	return consumers;
}

/* What is kept of elements that fail.  Without Kafka there is no position to
 * read them from again, so their payload is kept whatever the limit. */
static void
find_dead_letters(const ArgumentSource *source, Stream *stream)
{
	FunctionCallInfo fcinfo = source->fcinfo;
	const Stream *old = source->old;
	const char *on_limit = stream->server ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE;

	stream->dead_letter_retention =
		find_interval(source, ARG_DEAD_LETTER_RETENTION, old ? old->dead_letter_retention : NULL);

	stream->dead_letter_limit = DEFAULT_DEAD_LETTER_LIMIT;
	if (keeps(source, ARG_DEAD_LETTER_LIMIT))
		stream->dead_letter_limit = old->dead_letter_limit;
	else if (is_given(source, ARG_DEAD_LETTER_LIMIT))
		stream->dead_letter_limit = PG_GETARG_INT64(ARG_DEAD_LETTER_LIMIT);
	if (stream->dead_letter_limit < -1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dead_letter_limit must not be negative"), errhint("-1 is no limit.")));

	if (is_given(source, ARG_ON_LIMIT))
		on_limit = arg_text(fcinfo, ARG_ON_LIMIT);
	else if (keeps(source, ARG_ON_LIMIT) && stream->server)
		on_limit = old->keep_offsets ? ON_LIMIT_KEEP_OFFSETS : ON_LIMIT_PAUSE;
	stream->keep_offsets = strcmp(on_limit, ON_LIMIT_KEEP_OFFSETS) == 0;
	if (!stream->keep_offsets && strcmp(on_limit, ON_LIMIT_PAUSE) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("on_limit cannot be \"%s\"", on_limit),
						errhint("Give \"" ON_LIMIT_PAUSE "\" or \"" ON_LIMIT_KEEP_OFFSETS "\".")));
	if (stream->keep_offsets && stream->server == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("on_limit => '" ON_LIMIT_KEEP_OFFSETS "' needs a server"),
						errhint("What SQL has staged cannot be read again.")));
}

/* Where elements stand in a message, NULL if each message is one. */
static char *
find_unnest(const ArgumentSource *source)
{
	char *path = arg_text(source->fcinfo, ARG_UNNEST);

	if (keeps(source, ARG_UNNEST))
		return source->old->unnest;
	if (path)
		decode_check_path(path, false);
	return path;
}

/* Fill in what needs no columns and no query to be judged. */
static Stream *
find_stream(const ArgumentSource *source)
{
	const Stream *old = source->old;
	FunctionCallInfo fcinfo = source->fcinfo;
	Stream *stream = palloc0(sizeof(Stream));

	stream->id = old ? old->id : 0;
	stream->name = arg_text(fcinfo, ARG_NAME);
	stream->owner = old ? old->owner : GetUserId();
	if (old == NULL)
		definition_check_name("stream", stream->name);
	stream->events_table = find_events_table(source, stream);
	stream->server = find_server(source, stream->owner);
	stream->topics = find_topics(source, stream);
	stream->start = "earliest";
	if (keeps(source, ARG_START))
		stream->start = old->start;
	else if (is_given(source, ARG_START))
		stream->start = find_start(arg_text(fcinfo, ARG_START));
	stream->unnest = find_unnest(source);
	stream->consumers = find_consumers(source);
	stream->key = find_key(source, stream->events_table);
	stream->event_time = find_event_time(source, stream->events_table);
	find_intervals(source, stream);
	find_dead_letters(source, stream);
	return stream;
}

/* The fields of the stream that is altered. */
static Jsonb *
old_fields(const Stream *old)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(old->id)};
	MemoryContext caller_context = CurrentMemoryContext;
	MemoryContext spi_context;
	bool isnull;
	Jsonb *fields;

	SPI_connect();
	catalog_execute("SELECT fields FROM detect._stream WHERE stream_id = $1", 1, types, values,
					NULL);
	spi_context = MemoryContextSwitchTo(caller_context);
	fields =
		DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	MemoryContextSwitchTo(spi_context);
	SPI_finish();
	return fields;
}

/*
 * The definition that the arguments of create_stream make (old NULL), or those
 * of alter_stream out of what the stream was; reset, which may be NULL, names
 * those that become their defaults.
 */
StreamDefinition *
stream_definition_from_call(FunctionCallInfo fcinfo, const Stream *old, ArrayType *reset)
{
	ArgumentSource source = {.fcinfo = fcinfo, .old = old};
	StreamDefinition *definition = palloc0(sizeof(StreamDefinition));

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a stream needs a name")));
	if (reset)
		read_reset(&source, reset);
	definition->stream = find_stream(&source);
	definition->start_is_given = is_given(&source, ARG_START);

	if (is_given(&source, ARG_COLUMNS))
		definition->columns = stream_columns_parse(arg_text(fcinfo, ARG_COLUMNS));
	else if (!keeps(&source, ARG_COLUMNS))
		definition->columns = stream_columns_default(definition->stream->events_table);

	if (is_given(&source, ARG_FIELDS))
		definition->fields = PG_GETARG_JSONB_P(ARG_FIELDS);
	else if (keeps(&source, ARG_FIELDS))
		definition->fields = old_fields(old);
	else
		definition->fields = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));

	definition->query = arg_text(fcinfo, ARG_QUERY);
	definition->default_query = !is_given(&source, ARG_QUERY) &&
								(old == NULL || source.reset[ARG_QUERY] || old->default_query);
	return definition;
}
