/*-------------------------------------------------------------------------
 *
 * missed.c
 *	  Which events a rollup misses while it is set aside, or a worker fills it.
 *
 * Of each batch that a rollup misses, detect._missed has the identities of the
 * events: the text of a row of their key and event time, or of all columns
 * where the stream has no key.  When the rollup catches up, they are read from
 * the events table as they are by then.  Where rows are alike in all of it, as
 * many of them are taken as were missed; which of them does not matter.
 *
 * A batch has a row for each day of event time, so that a late event does not
 * make the others be searched for in all of history.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/repair.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The name under which statements read the rows of a tuplestore. */
#define ROWS_NAME "rows_"

/* The name of the events table in statements; no column has it. */
#define EVENT_NAME "_detect_event"

/* How much is read in one step: a batch is never torn, and more than one that
 * is full, so that catching up is faster than new batches are; but no more than
 * memory has room for, however wide events are. */
#define STEP_PARTS	1000
#define STEP_EVENTS (2 * (int64) detect_max_batch_rows)
#define STEP_BYTES	(2 * (int64) detect_max_batch_kilobytes * 1024)

/* Columns of detect._missed. */
#define MISSED_COLUMNS 9

/* What one step reads, and where to. */
typedef struct ReadStep
{
	const Rollup *rollup;
	MissedEvents *missed;
} ReadStep;

/* The columns by which an event is told from others. */
static List *
identity_names(const Stream *stream)
{
	List *names = list_copy(stream->key);
	Relation rel;

	if (names != NIL && stream->event_time != NULL && names_position(names, stream->event_time) < 0)
		names = lappend(names, stream->event_time);
	if (names != NIL)
		return names;

	rel = table_open(stream->events_table, AccessShareLock);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(rel), i);

		/* the rows of a batch lack what is not stored */
		if (!attribute->attisdropped && !compat_is_virtual(attribute->attgenerated))
			names = lappend(names, pstrdup(NameStr(attribute->attname)));
	}
	table_close(rel, NoLock);
	return names;
}

/* The expression that gives an event's identity, over the columns of a table. */
static char *
identity_expression(const List *names, const char *table)
{
	StringInfoData sql;
	ListCell *cell;

	initStringInfo(&sql);
	foreach(cell, names)
		appendStringInfo(&sql, "%s%s.%s", cell == list_head(names) ? "ROW(" : ", ", table,
						 quote_identifier(lfirst(cell)));
	appendStringInfoString(&sql, ")::text");
	return sql.data;
}

/* Whether events can be told apart by time. */
static bool
has_times(const Stream *stream)
{
	Oid type;

	if (stream->event_time == NULL)
		return false;
	type = getBaseType(
		get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time)));
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID;
}

/* Run a query over rows of the events table in a tuplestore.  The caller is
 * connected to SPI. */
static void
select_from_rows(const Stream *stream, Tuplestorestate *rows, const char *sql)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	char *name = pstrdup(ROWS_NAME);

	relation->md.name = name;
	relation->md.reliddesc = stream->events_table;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = (double) tuplestore_tuple_count(rows);
	relation->reldata = rows;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER ||
		SPI_execute(sql, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not select from events of stream \"%s\"", stream->name);
	SPI_unregister_relation(name);
}

/*
 * What an event is told by: its columns and their values.
 */
char *
missed_describe(const Stream *stream, Tuplestorestate *event)
{
	MemoryContext context = CurrentMemoryContext;
	List *names = identity_names(stream);
	StringInfoData text;
	ListCell *cell;
	char *values;

	initStringInfo(&text);
	foreach(cell, names)
		appendStringInfo(&text, "%s%s", cell == list_head(names) ? "(" : ", ",
						 quote_identifier(lfirst(cell)));
	SPI_connect();
	select_from_rows(stream, event,
					 psprintf("SELECT %s FROM " ROWS_NAME, identity_expression(names, ROWS_NAME)));
	values = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	values = MemoryContextStrdup(context, values);
	SPI_finish();
	appendStringInfo(&text, ") = %s", values);
	return text.data;
}

/*
 * Write down that a rollup misses a batch: rows as the events table has them.
 */
void
missed_write(const Rollup *rollup, Tuplestorestate *events)
{
	const Stream *stream = rollup->stream;
	List *names = identity_names(stream);
	int64 batch = catalog_next_id("_missed_batch");
	Datum values[MISSED_COLUMNS];
	bool nulls[MISSED_COLUMNS] = {false};
	char *time = has_times(stream) ? psprintf(ROWS_NAME ".%s", quote_identifier(stream->event_time))
								   : "NULL::timestamptz";

	SPI_connect();
	select_from_rows(
		stream, events,
		psprintf("SELECT min(%s)::timestamptz, max(%s)::timestamptz, count(*)::int, array_agg(%s), "
				 "sum(pg_column_size(ROW(" ROWS_NAME ".*)))::int8 FROM " ROWS_NAME
				 " GROUP BY date_trunc('day', %s)",
				 time, time, identity_expression(names, ROWS_NAME), time));
	values[0] = Int32GetDatum(rollup->id);
	values[1] = Int64GetDatum(batch);
	values[6] = names_to_array(names);
	for (uint64 part = 0; part < SPI_processed; part++)
	{
		HeapTuple row = SPI_tuptable->vals[part];

		values[2] = Int32GetDatum((int32) part);
		values[3] = SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &nulls[3]);
		values[4] = SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &nulls[4]);
		values[5] = SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &nulls[5]);
		values[7] = SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &nulls[7]);
		values[8] = SPI_getbinval(row, SPI_tuptable->tupdesc, 5, &nulls[8]);
		catalog_insert("_missed", lengthof(values), values, nulls);
	}
	SPI_finish();
}

/* The events of a batch that belong to the chunk that a worker reads. */
static Tuplestorestate *
events_of_chunk(const Rollup *rollup, Tuplestorestate *events)
{
	Tuplestorestate *chunk = tuplestore_begin_heap(false, false, work_mem);
	const Stream *stream = rollup->stream;
	AttrNumber attnum = get_attnum(stream->events_table, stream->event_time);
	Relation table = table_open(stream->events_table, AccessShareLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsMinimalTuple);

	tuplestore_rescan(events);
	while (tuplestore_gettupleslot(events, true, false, slot))
	{
		bool isnull;
		TimestampTz time = DatumGetTimestampTz(slot_getattr(slot, attnum, &isnull));

		if (isnull ? TIMESTAMP_IS_NOBEGIN(rollup->chunk_from)
				   : time >= rollup->chunk_from && time < rollup->filled_from)
			tuplestore_puttupleslot(chunk, slot);
	}
	tuplestore_rescan(events);
	ExecDropSingleTupleTableSlot(slot);
	table_close(table, NoLock);
	return chunk;
}

/*
 * Write down which events of a batch belong to the chunk of a rollup that a worker
 * reads now: it does not see them, and takes them from there.
 */
void
missed_write_chunk(const Rollup *rollup, Tuplestorestate *events)
{
	Tuplestorestate *chunk = events_of_chunk(rollup, events);

	if (tuplestore_tuple_count(chunk) > 0)
		missed_write(rollup, chunk);
	tuplestore_end(chunk);
}

/* Until which batch the next step reads; false when nothing is missed. */
static bool
next_batches(const Rollup *rollup, int64 *last_batch)
{
	Oid types[4] = {INT4OID, INT4OID, INT8OID, INT8OID};
	Datum values[4];
	bool isnull;

	values[0] = Int32GetDatum(rollup->id);
	values[1] = Int32GetDatum(STEP_PARTS);
	values[2] = Int64GetDatum(STEP_EVENTS);
	values[3] = Int64GetDatum(STEP_BYTES);
	catalog_execute(
		"SELECT max(batch) FROM ("
		"SELECT batch, sum(events) OVER (ORDER BY batch) - events AS events_before, "
		"sum(bytes) OVER (ORDER BY batch) - bytes AS bytes_before FROM ("
		"SELECT batch, sum(events) AS events, sum(bytes) AS bytes FROM ("
		"SELECT batch, events, bytes FROM detect._missed WHERE rollup_id = $1 "
		"ORDER BY batch FETCH FIRST ($2) ROWS WITH TIES) parts GROUP BY batch) batches) step "
		"WHERE events_before < $3 AND bytes_before < $4",
		4, types, values, NULL);
	*last_batch =
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return !isnull;
}

/* The statement that reads a day's missed events: identities are $1. */
static char *
read_sql(const Stream *stream, const List *names, const char *since, const char *until)
{
	StringInfoData range;
	char *table =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
								   get_rel_name(stream->events_table));

	initStringInfo(&range);
	if (since != NULL && has_times(stream))
		appendStringInfo(&range, "WHERE %s.%s BETWEEN %s AND %s", EVENT_NAME,
						 quote_identifier(stream->event_time), quote_literal_cstr(since),
						 quote_literal_cstr(until));
	return psprintf("SELECT event FROM (SELECT " EVENT_NAME " AS event, missed.events, "
					"row_number() OVER (PARTITION BY missed.identity) AS number "
					"FROM %s AS " EVENT_NAME " JOIN ("
					"SELECT identity, count(*) AS events FROM unnest($1) AS identity "
					"GROUP BY identity) missed ON %s = missed.identity %s) found "
					"WHERE number <= events",
					table, identity_expression(names, EVENT_NAME), range.data);
}

/* Put the events that a statement has found into the tuplestore. */
static void
store_events(Tuplestorestate *events)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		HeapTupleHeader row = DatumGetHeapTupleHeader(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row), .t_data = row};

		tuplestore_puttuple(events, &tuple);
	}
}

/* Whether the events table has all of these columns still. */
static bool
has_columns(const Stream *stream, const List *names)
{
	ListCell *cell;

	foreach(cell, names)
	{
		if (get_attnum(stream->events_table, lfirst(cell)) == InvalidAttrNumber)
			return false;
	}
	return true;
}

/* Events whose identities cannot be found by the names of their columns any more: have
 * the groups of their times computed again, once the rollup has caught up.  A step that
 * fails afterwards comes here again. */
static void
queue_repair(const Rollup *rollup, HeapTuple row, TupleDesc tupdesc)
{
	TimeRange range = {DT_NOBEGIN, DT_NOEND};
	bool is_null;
	TimestampTz since = DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 2, &is_null));
	TimestampTz until = DatumGetTimestampTz(SPI_getbinval(row, tupdesc, 3, &is_null));

	if (!is_null && !TIMESTAMP_NOT_FINITE(since) && !TIMESTAMP_NOT_FINITE(until))
		range = (TimeRange){since, until + 1};
	if (!repair_is_asked(rollup->id, &range))
		repair_ask(rollup->id, &range, false);
}

/* Read a day's missed events, which row of a result tells of. */
static void
read_day(const ReadStep *step, HeapTuple row, TupleDesc tupdesc)
{
	bool isnull;
	List *names = names_from_array(SPI_getbinval(row, tupdesc, 1, &isnull));
	char *since = SPI_getvalue(row, tupdesc, 2);
	char *until = SPI_getvalue(row, tupdesc, 3);
	Oid types[1] = {TEXTARRAYOID};
	Datum values[1] = {SPI_getbinval(row, tupdesc, 5, &isnull)};
	char *sql;

	if (!has_columns(step->rollup->stream, names))
	{
		queue_repair(step->rollup, row, tupdesc);
		return;
	}
	sql = read_sql(step->rollup->stream, names, since, until);
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what rollup \"%s\" misses", step->rollup->name);
	store_events(step->missed->events);
	step->missed->lost +=
		DatumGetInt64(SPI_getbinval(row, tupdesc, 4, &isnull)) - (int64) SPI_processed;
	SPI_freetuptable(SPI_tuptable);
}

/* Read the missed events of the next batches.  They are found by a hash of their
 * identities: statistics often know of none in a range of time that has just begun, and
 * one by one thousands are compared with thousands. */
static void
read_step(void *arg)
{
	ReadStep *step = (ReadStep *) arg;
	int nest_level = sql_begin("enable_nestloop", "off");
	Oid types[2] = {INT4OID, INT8OID};
	Datum values[2];
	SPITupleTable *days;
	uint64 ndays;

	SPI_connect();
	if (next_batches(step->rollup, &step->missed->last_batch))
	{
		values[0] = Int32GetDatum(step->rollup->id);
		values[1] = Int64GetDatum(step->missed->last_batch);
		ndays = catalog_execute(
			"SELECT m.columns, min(m.since), max(m.until), count(*), array_agg(i.identity) "
			"FROM detect._missed m CROSS JOIN unnest(m.identities) AS i(identity) "
			"WHERE m.rollup_id = $1 AND m.batch <= $2 "
			"GROUP BY m.columns, date_trunc('day', m.since)",
			2, types, values, NULL);
		days = SPI_tuptable;
		for (uint64 i = 0; i < ndays; i++)
			read_day(step, days->vals[i], days->tupdesc);
	}
	SPI_finish();
	AtEOXact_GUC(true, nest_level);
}

/*
 * Read the next events that a rollup misses, as aside_try() takes a step.  The
 * caller ends the tuplestore.
 */
ErrorData *
missed_read(const Rollup *rollup, MissedEvents *missed)
{
	ReadStep step = {rollup, missed};

	missed->events = tuplestore_begin_heap(false, false, work_mem);
	return aside_try(read_step, &step, true);
}

/*
 * Forget the batches that a rollup has caught up with.
 */
void
missed_delete(const Rollup *rollup, int64 last_batch)
{
	Oid types[2] = {INT4OID, INT8OID};
	Datum values[2];

	values[0] = Int32GetDatum(rollup->id);
	values[1] = Int64GetDatum(last_batch);
	SPI_connect();
	catalog_execute("DELETE FROM detect._missed WHERE rollup_id = $1 AND batch <= $2", 2, types,
					values, NULL);
	SPI_finish();
}

/*
 * The last batch of which a rollup misses events, as a snapshot sees it; 0 for none.
 */
int64
missed_last_batch(const Rollup *rollup, Snapshot snapshot)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(rollup->id)};
	bool isnull;
	int64 batch;

	PushActiveSnapshot(snapshot);
	SPI_connect();
	catalog_read("SELECT COALESCE(max(batch), 0) FROM detect._missed WHERE rollup_id = $1", 1,
				 types, values);
	batch = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	PopActiveSnapshot();
	return batch;
}
