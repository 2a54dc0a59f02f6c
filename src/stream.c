/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  A stream's definition: loaded from the catalog, locked, paused.
 *
 * A definition has three homes.  The row in detect._stream says what has no
 * object of its own; the columns are those of detect_staging.<stream>; the
 * query is the view detect_query.<stream>, whose owner is the stream's owner.
 * So renames, dependencies and pg_dump work as for any other table and view.
 *
 * One lock a stream: the applier and the consumers hold it shared during each
 * of their transactions; whatever changes a stream holds it exclusively until
 * it commits.  Taking it also absorbs invalidations, so that a worker that
 * gets the lock knows whether the definition it works by is still right.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

/* Names of the columns that are filled by what Kafka says of a message. */
static const struct
{
	const char *name;
	ColumnSource source;
	Oid type;
} reserved_columns[] = {
	{"kafka_topic", COLUMN_KAFKA_TOPIC, TEXTOID},
	{"kafka_partition", COLUMN_KAFKA_PARTITION, INT4OID},
	{"kafka_offset", COLUMN_KAFKA_OFFSET, INT8OID},
	{"kafka_timestamp", COLUMN_KAFKA_TIMESTAMP, TIMESTAMPTZOID},
	{"kafka_key", COLUMN_KAFKA_KEY, BYTEAOID},
	{"kafka_headers", COLUMN_KAFKA_HEADERS, JSONBOID},
	{"kafka_value", COLUMN_KAFKA_VALUE, BYTEAOID},
};

/*
 * Where a column of this name is filled from, and, for a reserved name, which
 * type it must have (else InvalidOid).
 */
ColumnSource
stream_column_source(const char *name, Oid *reserved_type)
{
	*reserved_type = InvalidOid;
	if (strcmp(name, DETECT_ORDINAL) == 0)
		return COLUMN_ORDINAL;
	for (int i = 0; i < lengthof(reserved_columns); i++)
	{
		if (strcmp(name, reserved_columns[i].name) == 0)
		{
			*reserved_type = reserved_columns[i].type;
			return reserved_columns[i].source;
		}
	}
	return COLUMN_FIELD;
}

/*
 * The path of the member of this name, from "$", the message, or "@", the item.
 */
char *
stream_member_path(const char *from, const char *name)
{
	StringInfoData path;

	initStringInfo(&path);
	appendStringInfo(&path, "%s.", from);
	escape_json(&path, name); /* a name in jsonpath is quoted like a string in JSON */
	return path.data;
}

/* The path of a column: as fields say, else the member of its own name, in the
 * item of an array where items are the elements. */
static char *
column_path(const char *name, bool of_item, List *field_columns, List *field_paths)
{
	ListCell *column;
	ListCell *value;

	forboth(column, field_columns, value, field_paths)
	{
		if (strcmp(lfirst(column), name) == 0)
			return pstrdup(lfirst(value));
	}
	return stream_member_path(of_item ? "@" : "$", name);
}

/* Raise an error when the staging table lacks the ordinal. */
static void
check_ordinal(const Stream *stream)
{
	if (stream->ordinal_attnum == InvalidAttrNumber)
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("table \"%s.%s\" has no column \"%s\"", DETECT_STAGING_SCHEMA,
							   stream->name, DETECT_ORDINAL),
						errhint("Give it back its name, or drop the stream with "
								"detect.drop_stream and create it again; its events stay.")));
}

/*
 * Fill the columns of a stream from its staging table.
 */
static void
stream_load_columns(Stream *stream, List *field_columns, List *field_paths)
{
	Relation rel = table_open(stream->staging_table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);

	stream->natts = tupdesc->natts;
	stream->columns = palloc0(tupdesc->natts * sizeof(StreamColumn));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		StreamColumn *column = &stream->columns[stream->ncolumns];
		Oid reserved_type;

		if (attribute->attisdropped)
			continue;
		column->attnum = attribute->attnum;
		column->name = pstrdup(NameStr(attribute->attname));
		column->type = attribute->atttypid;
		column->typmod = attribute->atttypmod;
		column->collation = attribute->attcollation;
		column->source = stream_column_source(column->name, &reserved_type);
		stream_check_staged_type(stream, attribute,
								 column->source == COLUMN_ORDINAL ? INT8OID : reserved_type);
		stream_column_set_staged_type(column);
		if (column->source == COLUMN_FIELD)
			column->path =
				column_path(column->name, stream->unnest != NULL, field_columns, field_paths);
		if (column->source == COLUMN_ORDINAL)
			stream->ordinal_attnum = attribute->attnum;
		else
			stream->ncolumns++;
	}
	table_close(rel, AccessShareLock);
	check_ordinal(stream);
}

/* The OID of <schema>.<stream>; an error when a stream has lost it, or somebody has made a
 * view of the table. */
static Oid
stream_object(const char *schema, const char *name, char relkind)
{
	Oid relid = get_relname_relid(name, get_namespace_oid(schema, false));

	if (!OidIsValid(relid) || get_rel_relkind(relid) != relkind)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation \"%s.%s\" of stream \"%s\" does not exist", schema, name, name),
			 errhint(
				 "Give it back its name, or drop the stream with detect.drop_stream and create it "
				 "again; its events stay.")));
	return relid;
}

/* Column of the row that a definition was read from, or NULL. */
static char *
row_text(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

static Datum
row_datum(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

static char *
copy_string(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

static Interval *
row_interval(int column)
{
	bool isnull;
	Datum datum = row_datum(column, &isnull);
	Interval *copy;

	if (isnull)
		return NULL;
	copy = palloc(sizeof(Interval));
	*copy = *DatumGetIntervalP(datum);
	return copy;
}

/* Build a Stream in the current context from the row in SPI_tuptable. */
static Stream *
stream_from_row(void)
{
	Stream *stream = palloc0(sizeof(Stream));
	List *field_columns;
	List *field_paths;
	bool isnull;

	stream->id = DatumGetInt32(row_datum(1, &isnull));
	stream->name = copy_string(row_text(2));
	stream->server = copy_string(row_text(3));
	stream->topics = names_from_array(row_datum(4, &isnull));
	stream->events_table = DatumGetObjectId(row_datum(5, &isnull));
	field_columns = names_from_array(row_datum(6, &isnull));
	field_paths = names_from_array(row_datum(7, &isnull));
	stream->key = names_from_array(row_datum(8, &isnull));
	stream->event_time = copy_string(row_text(9));
	stream->events_columns = names_from_array(row_datum(10, &isnull));
	stream->start = copy_string(row_text(11));
	stream->consumers = DatumGetInt32(row_datum(12, &isnull));
	stream->partition_interval = row_interval(13);
	stream->retention = row_interval(14);
	stream->paused = DatumGetBool(row_datum(15, &isnull));
	stream->paused_reason = copy_string(row_text(16));
	stream->is_copy = !DatumGetBool(row_datum(17, &isnull));
	stream->unnest = copy_string(row_text(18));
	stream->dead_letter_limit = DatumGetInt64(row_datum(19, &isnull));
	if (isnull)
		stream->dead_letter_limit = -1;
	stream->keep_offsets = strcmp(row_text(20), ON_LIMIT_KEEP_OFFSETS) == 0;
	stream->dead_letter_retention = row_interval(21);
	stream->default_query = DatumGetBool(row_datum(22, &isnull));
	stream->staging_table = stream_object(DETECT_STAGING_SCHEMA, stream->name, RELKIND_RELATION);
	stream->query_view = stream_object(DETECT_QUERY_SCHEMA, stream->name, RELKIND_VIEW);
	stream->owner = relation_owner(stream->query_view, false);
	stream_load_columns(stream, field_columns, field_paths);
	return stream;
}

/* Find a stream by a condition on $1; NULL when there is none. */
static Stream *
stream_find(const char *condition, Oid type, Datum value)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Stream *stream = NULL;
	Oid types[4] = {type, INT8OID, INT8OID, INT8OID};
	Datum values[4];
	char *sql;

	values[0] = value;
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = Int64GetDatum((int64) MyDatabaseId);
	values[3] = Int64GetDatum((int64) catalog_relation("_stream", false));

	SPI_connect();
	sql = psprintf("SELECT stream_id, name, server, topics, events_table::oid, "
				   "ARRAY(SELECT k FROM jsonb_each_text(fields) f(k, v) ORDER BY k), "
				   "ARRAY(SELECT v FROM jsonb_each_text(fields) f(k, v) ORDER BY k), "
				   "key, event_time, events_columns, start, consumers, "
				   "partition_interval, retention, paused, paused_reason, "
				   "home_system = $2 AND home_database = $3 AND home_catalog = $4, "
				   "\"unnest\", dead_letter_limit, on_limit, dead_letter_retention, default_query "
				   "FROM detect._stream WHERE %s",
				   condition);
	if (catalog_execute(sql, 4, types, values, NULL) > 0)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(caller_context);

		stream = stream_from_row();
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	return stream;
}

/*
 * Load the definition of a stream into the current memory context.  NULL when
 * there is none and missing_ok.
 */
Stream *
stream_load(const char *name, bool missing_ok)
{
	Stream *stream = stream_find("name = $1", TEXTOID, CStringGetTextDatum(name));

	if (stream == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("stream \"%s\" does not exist", name),
				 errhint("See the view detect.stream.")));
	return stream;
}

/*
 * The same by the stream's number, as workers know it.
 */
Stream *
stream_load_by_id(int32 stream_id, bool missing_ok)
{
	Stream *stream = stream_find("stream_id = $1", INT4OID, Int32GetDatum(stream_id));

	if (stream == NULL && !missing_ok)
		elog(ERROR, "stream %d does not exist", stream_id);
	return stream;
}

/*
 * The stream that fills an events table, or NULL.
 */
Stream *
stream_load_by_events_table(Oid events_table)
{
	return stream_find("events_table = $1::oid::regclass", OIDOID, ObjectIdGetDatum(events_table));
}

/*
 * The place of a topic among those of the stream; the first if it is none.
 */
int
stream_topic_index(const Stream *stream, const char *topic)
{
	return Max(names_position(stream->topics, topic), 0);
}

/*
 * Raise an error for a table of events that a crash would empty while progress stays.
 */
void
stream_require_logged(Oid table)
{
	char *name = get_rel_name(table);

	if (get_rel_persistence(table) != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("table \"%s\" is not logged", name),
				 errdetail("A crash would empty it while the progress in Kafka stays."),
				 errhint("ALTER TABLE %s SET LOGGED.",
						 quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
													name))));
}

/*
 * Raise an error unless the events table still has what the stream fills, and
 * all its rows can be seen.
 */
void
stream_check_objects(const Stream *stream)
{
	ListCell *cell;
	char relkind;

	if (get_rel_name(stream->events_table) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the events table of stream \"%s\" does not exist any more", stream->name),
				 errhint("Drop the stream with detect.drop_stream.")));
	/* a rule can make a view of an empty table */
	relkind = get_rel_relkind(stream->events_table);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table any more", get_rel_name(stream->events_table)),
				 errhint("Drop the stream with detect.drop_stream.")));
	stream_require_logged(stream->events_table);
	/* under policies a rollup would be computed again from some of the events */
	if (check_enable_rls(stream->events_table, stream->owner, true) == RLS_ENABLED)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("row security of table \"%s\" applies to the owner of stream \"%s\"",
							   get_rel_name(stream->events_table), stream->name),
						errhint("ALTER TABLE … NO FORCE ROW LEVEL SECURITY.")));
	foreach(cell, stream->events_columns)
	{
		if (get_attnum(stream->events_table, lfirst(cell)) == InvalidAttrNumber)
			ereport(
				ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg(
					 "column \"%s\" of table \"%s\", which stream \"%s\" fills, does not exist any more",
					 (char *) lfirst(cell), get_rel_name(stream->events_table), stream->name),
				 errhint(
					 "Add or rename the column, or drop the stream and create it again; its events stay.")));
	}
}

/*
 * The number of the stream with this name, 0 if there is none, and its events
 * table: what is known of a stream even when its objects were taken away.
 */
int32
stream_number(const char *name, Oid *events_table)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	int32 stream_id = 0;
	bool isnull;

	SPI_connect();
	if (catalog_execute("SELECT stream_id, events_table::oid FROM detect._stream WHERE name = $1",
						1, types, values, NULL) > 0)
	{
		stream_id = DatumGetInt32(row_datum(1, &isnull));
		*events_table = DatumGetObjectId(row_datum(2, &isnull));
	}
	SPI_finish();
	return stream_id;
}

/*
 * Pause the stream for a reason, or let it go on (reason NULL), and make its
 * workers see it once this transaction has committed.
 */
void
stream_set_paused(int32 stream_id, const char *reason, const char *remedy)
{
	Oid types[4] = {INT4OID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[4];
	char nulls[4] = {' ', ' ', ' ', ' '};

	values[0] = Int32GetDatum(stream_id);
	values[1] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	values[2] = remedy ? CStringGetTextDatum(remedy) : (Datum) 0;
	values[3] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	nulls[1] = reason ? ' ' : 'n';
	nulls[2] = remedy ? ' ' : 'n';

	SPI_connect();
	catalog_execute("UPDATE detect._stream SET paused = $2 IS NOT NULL, paused_reason = $2, "
					"paused_remedy = $3, changed_by = $4, changed_at = now() WHERE stream_id = $1",
					4, types, values, nulls);
	SPI_finish();
	stream_changed();
}

/*
 * Tell workers and launcher, at commit, that definitions have changed.
 */
void
stream_changed(void)
{
	CacheInvalidateRelcacheByRelid(catalog_relation("_stream", false));
	launcher_probe_at_commit();
}
