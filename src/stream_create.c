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

PG_FUNCTION_INFO_V1(detect_create_stream);
PG_FUNCTION_INFO_V1(detect_drop_stream);

/* The arguments of create_stream, in their order. */
enum
{
	ARG_NAME,
	ARG_SERVER,
	ARG_TOPIC,
	ARG_EVENTS_TABLE,
	ARG_COLUMNS,
	ARG_FIELDS,
	ARG_QUERY,
	ARG_KEY,
	ARG_EVENT_TIME,
	ARG_START,
	ARG_PARTITION_INTERVAL,
	ARG_RETENTION,
	ARG_CONSUMERS
};

static char *
arg_text(FunctionCallInfo fcinfo, int arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* A role that a worker can't run as makes no stream. */
static void
check_caller(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		can_login;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for role %u", GetUserId());
	can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);

	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_ROLE_SPECIFICATION),
				 errmsg("role \"%s\" cannot own a stream: it cannot log in",
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("The stream's worker connects as its owner."),
				 errhint("ALTER ROLE … LOGIN (without a password nobody else can use it), or create the stream as another role.")));
	if (superuser() && !detect_superuser_streams)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a superuser cannot own a stream"),
				 errdetail("The stream's worker runs the query and the triggers of its tables as its owner."),
				 errhint("Create it as a role that is a member of detect_admin, or set detect.superuser_streams = on.")));
	if (compat_database_aclcheck(MyDatabaseId, GetUserId(), ACL_CONNECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not connect to this database",
						GetUserNameFromId(GetUserId(), false)),
				 errhint("GRANT CONNECT ON DATABASE … TO it.")));
}

static void
refuse_events_table(const char *table, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" cannot be an events table: it %s", table, what),
			 errhint("%s", hint)));
}

/* Whether another stream, or the wrong kind of relation, stands in the way. */
static void
check_events_table(Oid events_table)
{
	Relation	rel = relation_open(events_table, AccessShareLock);
	const char *name = RelationGetRelationName(rel);
	char		kind = rel->rd_rel->relkind;
	Stream	   *other;

	if (!compat_owns_relation(events_table, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", name),
				 errhint("The stream makes partitions and triggers on it. Create the stream as the table's owner.")));
	if (kind == RELKIND_VIEW)
		refuse_events_table(name, "is a view", "Name the table behind it; a view has no rows to count.");
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse_events_table(name, "is not a table", "Name an ordinary or a partitioned table.");
	if (rel->rd_rel->relispartition)
		refuse_events_table(name, "is a partition", "Name the partitioned table.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		refuse_events_table(name, "is not logged",
							"ALTER TABLE … SET LOGGED: a crash would empty it while the progress in Kafka stays.");
	if (rel->rd_rel->relhasrules)
		refuse_events_table(name, "has rules", "Use a trigger in place of the rule.");
	if (check_enable_rls(events_table, GetUserId(), true) == RLS_ENABLED)
		refuse_events_table(name, "has row security that applies to its owner",
							"ALTER TABLE … NO FORCE ROW LEVEL SECURITY.");
	other = stream_load_by_events_table(events_table);
	if (other)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is already the events table of stream \"%s\"", name, other->name),
				 errhint("A table can have one stream: give the other a table of its own and read both through a view.")));
	relation_close(rel, NoLock);
}

/* The events table: as named, else the table with the stream's name. */
static Oid
find_events_table(FunctionCallInfo fcinfo, const char *stream_name)
{
	Oid			relid;

	if (!PG_ARGISNULL(ARG_EVENTS_TABLE))
		relid = PG_GETARG_OID(ARG_EVENTS_TABLE);
	else
		relid = RelnameGetRelid(stream_name);
	if (!OidIsValid(relid) || !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no table for the events of stream \"%s\"", stream_name),
				 errhint("Create the table first, and name it in events_table unless it is called \"%s\".", stream_name)));
	check_events_table(relid);
	return relid;
}

/* The server of a stream that names none: the only one that the caller may use. */
static char *
only_server(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	char	   *name = NULL;
	int			count;

	SPI_connect();
	count = catalog_execute("SELECT srvname FROM pg_foreign_server s "
							"JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw "
							"WHERE fdwname = 'detect_kafka'", 0, NULL, NULL, NULL);
	if (count == 1)
		name = MemoryContextStrdup(caller_context,
								   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are %d servers of detect_kafka", count),
				 errhint("Name one in server, or server => '' for a stream that SQL alone feeds.")));
	return name;
}

/* The checked name of the server, NULL when SQL alone feeds the stream. */
static char *
find_server(FunctionCallInfo fcinfo)
{
	char	   *name = arg_text(fcinfo, ARG_SERVER);
	ForeignServer *server;

	if (name && name[0] == '\0')
		return NULL;
	if (name == NULL)
		name = only_server();
	if (name == NULL)
		return NULL;

	server = GetForeignServerByName(name, true);
	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'host:9092').",
						 quote_identifier(name))));
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "detect_kafka") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Kafka cluster", name),
				 errhint("Name a server of foreign data wrapper detect_kafka.")));
	if (compat_server_aclcheck(server->serverid, GetUserId()) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for server \"%s\"", name),
				 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s.", quote_identifier(name),
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	return name;
}

static void
check_start(const char *start)
{
	if (strcmp(start, "earliest") == 0 || strcmp(start, "latest") == 0)
		return;
	/* raises the error of timestamptz itself, which quotes the input */
	(void) DirectFunctionCall3(timestamptz_in, CStringGetDatum(start),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* Each field must name a column, and a path that the decoder can walk. */
static void
check_fields(Jsonb *fields, Oid staging_table)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(fields))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("fields must be a JSON object"),
				 errhint("For example: fields => '{\"lon\": \"$.pos.lon\"}'")));
	it = JsonbIteratorInit(&fields->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *name;
		Oid			reserved_type;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (get_attnum(staging_table, name) == InvalidAttrNumber ||
			stream_column_source(name, &reserved_type) != COLUMN_FIELD)
		{
			const char *closest = closest_attribute(staging_table, name);

			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("fields names \"%s\", which is no column of the stream", name),
					 closest ? errhint("Perhaps you meant the column \"%s\".", closest) : 0));
		}
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the path of column \"%s\" in fields is not a string", name)));
		decode_check_path(pnstrdup(value.val.string.val, value.val.string.len));
	}
}

/* The columns of the events table's primary key; an error when it has none. */
static List *
primary_key_columns(Oid events_table)
{
	Relation	rel = relation_open(events_table, AccessShareLock);
	Oid			index_oid;
	List	   *columns = NIL;

	(void) RelationGetIndexList(rel);
	index_oid = rel->rd_pkindex;
	if (OidIsValid(index_oid))
	{
		Relation	index = relation_open(index_oid, AccessShareLock);

		for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			columns = lappend(columns, get_attname(events_table, index->rd_index->indkey.values[i], false));
		relation_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	if (columns == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" has no primary key: what makes two events the same?", get_rel_name(events_table)),
				 errhint("Name the columns in key, for example key => '{event_id}'; key => '{}' keeps every message.")));
	return columns;
}

/* The columns of the identity: as named, else the primary key. */
static List *
find_key(FunctionCallInfo fcinfo, Oid events_table)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *key = NIL;

	if (PG_ARGISNULL(ARG_KEY))
		return primary_key_columns(events_table);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_KEY), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key must not contain NULL")));
		key = lappend(key, TextDatumGetCString(elements[i]));
	}
	return key;
}

/* The time of an event: as named, else the column that partitions the table. */
static char *
find_event_time(FunctionCallInfo fcinfo, Oid events_table)
{
	char	   *name = arg_text(fcinfo, ARG_EVENT_TIME);
	Relation	rel;
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

/* NOT NULL columns that nothing fills would make every element a dead letter. */
static void
check_not_null_columns(Oid events_table, List *events_columns)
{
	Relation	rel = relation_open(events_table, AccessShareLock);
	TupleDesc	tupdesc = RelationGetDescr(rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		bool		filled = false;
		ListCell   *cell;

		if (attribute->attisdropped || !attribute->attnotnull || attribute->atthasdef ||
			attribute->attidentity || attribute->attgenerated)
			continue;
		foreach(cell, events_columns)
			filled = filled || strcmp(lfirst(cell), NameStr(attribute->attname)) == 0;
		if (!filled)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("nothing fills column \"%s\" of table \"%s\", which is NOT NULL",
							NameStr(attribute->attname), RelationGetRelationName(rel)),
					 errhint("Add it to columns or to the query, or give it a default.")));
	}
	relation_close(rel, AccessShareLock);
}

/* Names of the stream's columns that the events table has too. */
static List *
same_named_columns(List *column_defs, Oid events_table)
{
	List	   *names = NIL;
	ListCell   *cell;

	foreach(cell, column_defs)
	{
		char	   *name = lfirst_node(ColumnDef, cell)->colname;
		AttrNumber	attnum = get_attnum(events_table, name);

		if (attnum != InvalidAttrNumber && !get_attgenerated(events_table, attnum))
			names = lappend(names, name);
	}
	return names;
}

static Datum
list_to_text_array(List *names)
{
	Datum	   *elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	ListCell   *cell;
	int			count = 0;

	foreach(cell, names)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Write the row of detect._stream. */
static void
insert_stream(const Stream *stream, Jsonb *fields)
{
	Oid			types[17] = {INT4OID, TEXTOID, TEXTOID, TEXTOID, REGCLASSOID, JSONBOID, TEXTARRAYOID,
		TEXTOID, TEXTARRAYOID, TEXTOID, INT4OID, INTERVALOID, INTERVALOID, TEXTOID, INT8OID, INT8OID,
		BOOLOID};
	Datum		values[17] = {0};
	char		nulls[17];

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
	catalog_execute("INSERT INTO detect._stream VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
					"$12, $13, $17, NULL, NULL, $14, now(), $15, $16)",
					17, types, values, nulls);
	SPI_finish();
}

/* The triggers that wake the applier and that hand over what was accepted. */
static void
create_triggers(const Stream *stream)
{
	char	   *staging = quote_qualified_identifier(DETECT_STAGING_SCHEMA, stream->name);
	char	   *events = quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
												   get_rel_name(stream->events_table));
	const char *commands[] = {
		psprintf("CREATE TRIGGER _detect_staged AFTER INSERT ON %s "
				 "FOR EACH STATEMENT EXECUTE FUNCTION detect._staged()", staging),
		psprintf("CREATE TRIGGER _detect_accepted AFTER INSERT ON %s REFERENCING NEW TABLE AS _detect_new "
				 "FOR EACH STATEMENT EXECUTE FUNCTION detect._accepted()", events),
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

/* DROP TABLE of the events table must not leave the stream behind unnoticed. */
static void
depend_on_events_table(Oid query_view, Oid events_table)
{
	ObjectAddress view;
	ObjectAddress table;

	ObjectAddressSet(view, RelationRelationId, query_view);
	ObjectAddressSet(table, RelationRelationId, events_table);
	recordDependencyOn(&view, &table, DEPENDENCY_NORMAL);
}

static void
check_intervals(FunctionCallInfo fcinfo, Stream *stream)
{
	Interval	zero = {0};

	stream->partition_interval = PG_ARGISNULL(ARG_PARTITION_INTERVAL) ? NULL :
		PG_GETARG_INTERVAL_P(ARG_PARTITION_INTERVAL);
	stream->retention = PG_ARGISNULL(ARG_RETENTION) ? NULL : PG_GETARG_INTERVAL_P(ARG_RETENTION);
	if (stream->partition_interval == NULL && partition_is_by_event_time(stream))
	{
		stream->partition_interval = palloc0(sizeof(Interval));
		stream->partition_interval->day = 1;
	}
	if (stream->retention && !stream->event_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention needs event_time"),
				 errhint("Name the column that tells when an event happened.")));
	if ((stream->retention &&
		 DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(stream->retention), IntervalPGetDatum(&zero)))) ||
		(stream->partition_interval &&
		 DatumGetBool(DirectFunctionCall2(interval_le, IntervalPGetDatum(stream->partition_interval), IntervalPGetDatum(&zero)))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition_interval and retention must be greater than zero")));
}

/* The arguments that need no other to be judged. */
static Stream *
stream_from_arguments(FunctionCallInfo fcinfo)
{
	Stream	   *stream = palloc0(sizeof(Stream));

	if (PG_ARGISNULL(ARG_NAME))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a stream needs a name")));
	stream->name = arg_text(fcinfo, ARG_NAME);
	definition_check_name("stream", stream->name);
	stream->owner = GetUserId();
	stream->events_table = find_events_table(fcinfo, stream->name);
	stream->server = find_server(fcinfo);
	stream->topic = arg_text(fcinfo, ARG_TOPIC);
	if (stream->server && stream->topic == NULL)
		stream->topic = stream->name;
	if (stream->server == NULL && stream->topic != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic \"%s\" needs a server", stream->topic),
				 errhint("CREATE SERVER … FOREIGN DATA WRAPPER detect_kafka, and name it in server.")));
	stream->start = PG_ARGISNULL(ARG_START) ? "earliest" : arg_text(fcinfo, ARG_START);
	check_start(stream->start);
	stream->consumers = PG_ARGISNULL(ARG_CONSUMERS) ? 0 : PG_GETARG_INT32(ARG_CONSUMERS);
	if (stream->consumers < 0 || stream->consumers > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumers must be 0 or 1"),
				 errhint("0: one worker reads Kafka and applies; 1: a second worker reads Kafka.")));
	stream->key = find_key(fcinfo, stream->events_table);
	stream->event_time = find_event_time(fcinfo, stream->events_table);
	check_intervals(fcinfo, stream);
	return stream;
}

/*
 * detect.create_stream(name, …): see README.md.
 */
Datum
detect_create_stream(PG_FUNCTION_ARGS)
{
	Stream	   *stream;
	List	   *columns;
	Jsonb	   *fields;
	Query	   *query;
	char	   *query_text = arg_text(fcinfo, ARG_QUERY);

	launcher_require();
	check_caller();
	stream = stream_from_arguments(fcinfo);
	columns = PG_ARGISNULL(ARG_COLUMNS) ? stream_columns_default(stream->events_table) :
		stream_columns_parse(arg_text(fcinfo, ARG_COLUMNS));
	fields = PG_ARGISNULL(ARG_FIELDS) ?
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) : PG_GETARG_JSONB_P(ARG_FIELDS);

	stream->staging_table = stream_columns_create_table(stream->name, columns, stream->owner);
	check_fields(fields, stream->staging_table);
	if (query_text == NULL)
		query_text = stream_query_default(same_named_columns(columns, stream->events_table));
	query = stream_query_parse(query_text, stream->name, stream->staging_table,
							   get_attnum(stream->staging_table, DETECT_ORDINAL));
	stream->events_columns = stream_query_events_columns(query, stream->events_table,
														 stream->staging_table);
	stream->query_view = query_view_create(stream->name, query, stream->owner);
	check_not_null_columns(stream->events_table, stream->events_columns);

	stream->id = (int32) catalog_next_id("_id");
	depend_on_events_table(stream->query_view, stream->events_table);
	create_triggers(stream);
	insert_stream(stream, fields);
	stream = stream_load_by_id(stream->id, false);
	dedup_check_definition(stream);
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
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_SKIP_EXTENSIONS | PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/*
 * Delete what detect's own tables know of a stream.
 */
void
stream_forget(int32 stream_id)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(stream_id)};
	const char *tables[] = {"_stream", "_applied_progress", "_staged_progress", "_dead_letter"};

	SPI_connect();
	for (int i = 0; i < lengthof(tables); i++)
		catalog_execute(psprintf("DELETE FROM detect.%s WHERE stream_id = $1", tables[i]),
						1, types, values, NULL);
	SPI_finish();
	staging_table_drop(stream_id);
	stream_changed();
}

/*
 * detect.drop_stream(stream, if_exists): the definition goes, the events table
 * with its rows and the rollups over it stay.
 */
Datum
detect_drop_stream(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		if_exists = PG_GETARG_BOOL(1);
	Stream	   *stream = stream_load(name, if_exists);

	if (stream == NULL)
	{
		ereport(NOTICE,
				(errmsg("stream \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	stream_check_owner(stream);
	stream_lock(stream->id, AccessExclusiveLock);

	drop_object(TriggerRelationId,
				get_trigger_oid(stream->events_table, "_detect_accepted", true));
	stream_forget(stream->id);
	drop_object(RelationRelationId, stream->query_view);
	drop_object(RelationRelationId, stream->staging_table);
	PG_RETURN_VOID();
}
