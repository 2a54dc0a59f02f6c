/*-------------------------------------------------------------------------
 *
 * stream_arguments.c
 *	  The arguments of detect.create_stream, checked one by one.
 *
 * Everything that can be judged without the columns and the query is judged
 * here, in the order in which a user thinks: who am I, which table, where do
 * messages come from, what makes two events the same.  Each refusal says what
 * to change.
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

/*
 * A text argument as a string, NULL for NULL.
 */
char *
arg_text(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
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
check_events_table(Oid events_table)
{
	Relation rel = relation_open(events_table, AccessShareLock);
	const char *name = RelationGetRelationName(rel);
	char kind = rel->rd_rel->relkind;
	Stream *other;

	if (!compat_owns_relation(events_table, GetUserId()))
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
	if (check_enable_rls(events_table, GetUserId(), true) == RLS_ENABLED)
		refuse_events_table(name, "has row security that applies to its owner",
							"ALTER TABLE … NO FORCE ROW LEVEL SECURITY.");
	other = stream_load_by_events_table(events_table);
	if (other)
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
find_events_table(FunctionCallInfo fcinfo, const char *stream_name)
{
	Oid relid;

	if (!PG_ARGISNULL(ARG_EVENTS_TABLE))
		relid = PG_GETARG_OID(ARG_EVENTS_TABLE);
	else
		relid = RelnameGetRelid(stream_name);
	if (!OidIsValid(relid) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("there is no table for the events of stream \"%s\"", stream_name),
			 errhint(
				 "Create the table first, and name it in events_table unless it is called \"%s\".",
				 stream_name)));
	check_events_table(relid);
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
find_server(FunctionCallInfo fcinfo)
{
	char *name = arg_text(fcinfo, ARG_SERVER);
	ForeignServer *server;

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
	if (compat_server_aclcheck(server->serverid, GetUserId()) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for server \"%s\"", name),
						errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s.", quote_identifier(name),
								quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	return name;
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
find_key(FunctionCallInfo fcinfo, Oid events_table)
{
	Datum *elements;
	bool *nulls;
	int count;
	List *key = NIL;

	if (PG_ARGISNULL(ARG_KEY))
		return primary_key_columns(events_table);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_KEY), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("key must not contain NULL")));
		key = lappend(key, TextDatumGetCString(elements[i]));
	}
	return key;
}

/* The time of an event: as named, else the column that partitions the table. */
static char *
find_event_time(FunctionCallInfo fcinfo, Oid events_table)
{
	char *name = arg_text(fcinfo, ARG_EVENT_TIME);
	Relation rel;
	PartitionKey key;

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

/* Partitions are made beside the events table, as the stream's owner. */
static void
check_makes_partitions(Oid events_table)
{
	Oid schema = get_rel_namespace(events_table);

	if (compat_namespace_aclcheck(schema, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for schema %s", get_namespace_name(schema)),
						errdetail("The stream makes partitions of table \"%s\" there.",
								  get_rel_name(events_table)),
						errhint("GRANT CREATE ON SCHEMA %s TO %s.",
								quote_identifier(get_namespace_name(schema)),
								quote_identifier(GetUserNameFromId(GetUserId(), false)))));
}

static void
check_intervals(FunctionCallInfo fcinfo, Stream *stream)
{
	Interval zero = {0};

	stream->partition_interval =
		PG_ARGISNULL(ARG_PARTITION_INTERVAL) ? NULL : PG_GETARG_INTERVAL_P(ARG_PARTITION_INTERVAL);
	stream->retention = PG_ARGISNULL(ARG_RETENTION) ? NULL : PG_GETARG_INTERVAL_P(ARG_RETENTION);
	if (partition_is_by_event_time(stream))
	{
		check_makes_partitions(stream->events_table);
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
	if ((stream->retention &&
		 DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(stream->retention),
										  IntervalPGetDatum(&zero)))) ||
		(stream->partition_interval &&
		 DatumGetBool(DirectFunctionCall2(interval_le,
										  IntervalPGetDatum(stream->partition_interval),
										  IntervalPGetDatum(&zero)))))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("partition_interval and retention must be greater than zero")));
}

/*
 * A stream from the arguments that need no columns and no query to be judged.
 */
Stream *
stream_from_arguments(FunctionCallInfo fcinfo)
{
	Stream *stream = palloc0(sizeof(Stream));

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a stream needs a name")));
	stream->name = arg_text(fcinfo, ARG_NAME);
	definition_check_name("stream", stream->name);
	stream->owner = GetUserId();
	stream->events_table = find_events_table(fcinfo, stream->name);
	stream->server = find_server(fcinfo);
	stream->topic = arg_text(fcinfo, ARG_TOPIC);
	if (stream->server && stream->topic == NULL)
		stream->topic = stream->name;
	if (stream->server == NULL && stream->topic != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("topic \"%s\" needs a server", stream->topic),
			 errhint("CREATE SERVER … FOREIGN DATA WRAPPER detect_kafka, and name it in server.")));
	stream->start = PG_ARGISNULL(ARG_START) ? "earliest" : find_start(arg_text(fcinfo, ARG_START));
	stream->consumers = PG_ARGISNULL(ARG_CONSUMERS) ? 0 : PG_GETARG_INT32(ARG_CONSUMERS);
	if (stream->consumers < 0 || stream->consumers > 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("consumers must be 0 or 1"),
			 errhint("0: one worker reads Kafka and applies; 1: a second worker reads Kafka.")));
	stream->key = find_key(fcinfo, stream->events_table);
	stream->event_time = find_event_time(fcinfo, stream->events_table);
	check_intervals(fcinfo, stream);
	return stream;
}
