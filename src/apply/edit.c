/*-------------------------------------------------------------------------
 *
 * edit.c
 *	  What others do to the rows of an events table, queued for the applier.
 *
 * The triggers of an events table and of its partitions write the key and the event
 * time of each row to a logged table, in the transaction that changed it, so that
 * whoever sees the one sees the other.  The applier takes them by deleting them.  Rows
 * are kept as jsonb, which gives every value back exactly if its text does.
 *
 * Rows become jsonb with the rights of whoever changed them, since casts and
 * output functions may be a user's; only the finished values are written with
 * the rights of the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "apply/edit.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "apply/dedup.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows of one statement that are queued one by one: reading a whole partition
 * again costs less than more of them. */
#define MAX_QUEUED_ROWS 10000

/* Columns of detect._edit, and of its primary key. */
#define EDIT_COLUMNS   7
#define EDIT_STREAM_ID 1
#define EDIT_RELATION  3
#define EDIT_OLD	   4
#define EDIT_NEW	   5
#define EDIT_FROM	   6
#define EDIT_UNTIL	   7

PG_FUNCTION_INFO_V1(detect_edited);
PG_FUNCTION_INFO_V1(detect_truncated);

/* Whose events table this is, or is a partition of. */
typedef struct EditedStream
{
	int32 id;		  /* NO_STREAM: nobody's */
	char *event_time; /* NULL: it has none */
	List *columns;	  /* those that are queued of a row: key and event time */
} EditedStream;

/* Find the stream of a relation, as of now: a transaction that keeps an older snapshot
 * edits for it too.  It is to be told at the commit; of a relation that has none, false,
 * the edit is noted.  What is found is in the current context. */
static bool
find_stream(Oid relation, EditedStream *stream)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relation)};

	memset(stream, 0, sizeof(EditedStream));
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (catalog_read("SELECT stream_id, event_time, array_remove(key || event_time, NULL) "
					 "FROM detect._stream WHERE events_table = $1 "
					 "OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1 "
					 "AND inhparent = events_table)",
					 1, types, values) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		char *name = SPI_getvalue(row, desc, 2);
		bool isnull;

		stream->id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
		stream->event_time = name ? pstrdup(name) : NULL;
		stream->columns = names_from_array(SPI_getbinval(row, desc, 3, &isnull));
		MemoryContextSwitchTo(spi_context);
	}
	SPI_finish();
	PopActiveSnapshot();
	if (stream->id == NO_STREAM)
		edit_note_detached(relation);
	else
		slot_wake_at_commit(stream->id);
	return stream->id != NO_STREAM;
}

/* Queue one row, old or new. */
static void
queue_row(int32 stream_id, Oid relation, Datum row, bool is_new)
{
	Datum values[EDIT_COLUMNS] = {Int32GetDatum(stream_id),
								  Int64GetDatum(catalog_next_id("_edit_id")),
								  ObjectIdGetDatum(relation), row, row};
	bool nulls[EDIT_COLUMNS] = {false, false, false, is_new, !is_new, true, true};

	catalog_insert("_edit", lengthof(values), values, nulls);
}

/*
 * Queue that rows of a relation were edited, with their event times if these
 * are known.
 */
void
edit_queue_relation(int32 stream_id, Oid relation, const TimeRange *times)
{
	Datum values[EDIT_COLUMNS] = {Int32GetDatum(stream_id),
								  Int64GetDatum(catalog_next_id("_edit_id")),
								  ObjectIdGetDatum(relation)};
	bool nulls[EDIT_COLUMNS] = {false, false, false, true, true, times == NULL, times == NULL};

	if (times != NULL)
	{
		values[EDIT_FROM - 1] = TimestampTzGetDatum(times->from);
		values[EDIT_UNTIL - 1] = TimestampTzGetDatum(times->until);
	}
	catalog_insert("_edit", lengthof(values), values, nulls);
}

/* Whether a column is a time of PostgreSQL's own. */
static bool
has_plain_time(Oid relation, const char *column)
{
	AttrNumber attnum = get_attnum(relation, column);
	Oid type = attnum == InvalidAttrNumber ? InvalidOid : get_atttype(relation, attnum);

	return type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID;
}

/* Widen a range to the event times of a transition table, which the trigger's
 * data are registered for; false if some rows have none. */
static bool
cover_rows(const char *name, const char *event_time, TimeRange *times)
{
	char *sql = psprintf("SELECT pg_catalog.min(e.%1$s), pg_catalog.max(e.%1$s), "
						 "pg_catalog.count(*) OPERATOR(pg_catalog.=) pg_catalog.count(e.%1$s) "
						 "FROM %2$s e",
						 quote_identifier(event_time), quote_identifier(name));
	Oid type;
	HeapTuple row;
	Datum value;
	bool isnull;
	TimestampTz first;
	TimestampTz last;

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	type = SPI_gettypeid(SPI_tuptable->tupdesc, 1);
	row = SPI_tuptable->vals[0];
	if (!DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull)))
		return false;
	value = SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		return true;
	first = partition_time(type, value);
	last = partition_time(type, SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	times->from = Min(times->from, first);
	times->until = Max(times->until, TIMESTAMP_NOT_FINITE(last) ? last : last + 1);
	return true;
}

/* Queue that more rows were edited than can be queued one by one. */
static void
queue_many(const EditedStream *stream, const TriggerData *trigdata)
{
	const char *event_time = stream->event_time;
	Oid relation = RelationGetRelid(trigdata->tg_relation);
	TimeRange times = {DT_NOEND, DT_NOBEGIN};
	bool has_times = event_time != NULL && has_plain_time(relation, event_time);

	if (has_times && trigdata->tg_oldtable)
		has_times = cover_rows(trigdata->tg_trigger->tgoldtable, event_time, &times);
	if (has_times && trigdata->tg_newtable)
		has_times = cover_rows(trigdata->tg_trigger->tgnewtable, event_time, &times);
	edit_queue_relation(stream->id, relation, has_times ? &times : NULL);
}

/* The SQL that makes objects of what is queued of the rows of a transition table. */
static char *
rows_sql(const EditedStream *stream, Oid relation, const char *name)
{
	StringInfoData sql;
	const char *comma = "";
	ListCell *cell;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.jsonb_build_object(");
	foreach(cell, stream->columns)
	{
		if (get_attnum(relation, lfirst(cell)) == InvalidAttrNumber)
			continue;
		appendStringInfo(&sql, "%s%s, e.%s", comma, quote_literal_cstr(lfirst(cell)),
						 quote_identifier(lfirst(cell)));
		comma = ", ";
	}
	appendStringInfo(&sql, ") FROM %s e", quote_identifier(name));
	return sql.data;
}

/* Queue the rows of a transition table, which the trigger's data are
 * registered for. */
static void
queue_rows(const EditedStream *stream, Oid relation, const char *name, bool is_new)
{
	char *sql = rows_sql(stream, relation, name);

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Datum row = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		queue_row(stream->id, relation, row, is_new);
	}
}

/* Have values written so that the applier's settings read them back. */
static void
set_exact_output(void)
{
	const char *settings[][2] = {{"bytea_output", "hex"},
								 {"DateStyle", "ISO, YMD"},
								 {"extra_float_digits", "1"},
								 {"IntervalStyle", "postgres"},
								 {"TimeZone", "UTC"}};

	for (int i = 0; i < lengthof(settings); i++)
		sql_set(settings[i][0], settings[i][1]);
}

/*
 * Queue what a statement has done to an events table, or to a partition.  Called by its
 * statement trigger.
 */
void
edit_queue(const TriggerData *trigdata)
{
	Oid relation = RelationGetRelid(trigdata->tg_relation);
	Tuplestorestate *old_rows = trigdata->tg_oldtable;
	Tuplestorestate *new_rows = trigdata->tg_newtable;
	int64 rows = (old_rows ? tuplestore_tuple_count(old_rows) : 0) +
				 (new_rows ? tuplestore_tuple_count(new_rows) : 0);
	EditedStream stream;
	int settings;

	if (rows == 0 || !find_stream(relation, &stream))
		return;
	settings = NewGUCNestLevel();
	set_exact_output();
	SPI_connect();
	if (SPI_register_trigger_data((TriggerData *) trigdata) != SPI_OK_TD_REGISTER)
		elog(ERROR, "could not register the transition tables of \"%s\"",
			 RelationGetRelationName(trigdata->tg_relation));
	if (rows > MAX_QUEUED_ROWS)
		queue_many(&stream, trigdata);
	else
	{
		if (old_rows)
			queue_rows(&stream, relation, trigdata->tg_trigger->tgoldtable, false);
		if (new_rows)
			queue_rows(&stream, relation, trigdata->tg_trigger->tgnewtable, true);
	}
	SPI_finish();
	AtEOXact_GUC(true, settings);
}

/*
 * AFTER UPDATE or DELETE statement trigger of an events table and its
 * partitions.
 */
Datum
detect_edited(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) || trigdata->tg_oldtable == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg(
				 "detect._edited() must be an AFTER UPDATE or DELETE statement trigger with an old table"),
			 errhint("detect.create_stream makes it.")));
	edit_queue(trigdata);
	return PointerGetDatum(NULL);
}

/*
 * AFTER TRUNCATE statement trigger of an events table and its partitions.
 */
Datum
detect_truncated(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	Oid relation;
	EditedStream stream;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("detect._truncated() must be an AFTER TRUNCATE trigger"),
						errhint("detect.create_stream makes it.")));
	relation = RelationGetRelid(trigdata->tg_relation);
	if (find_stream(relation, &stream))
		edit_queue_relation(stream.id, relation, NULL);
	return PointerGetDatum(NULL);
}

/* ---------------------------------------------------------------------
 * The applier's side
 * ---------------------------------------------------------------------
 */

/*
 * Begin to read a stream's edits as a snapshot sees them.
 */
void
edit_scan_begin(EditScan *scan, int32 stream_id, Snapshot snapshot)
{
	ScanKeyData key;

	scan->queue = table_open(catalog_relation("_edit", false), RowExclusiveLock);
	scan->index = index_open(compat_primary_key_index(scan->queue), AccessShareLock);
	scan->snapshot = snapshot;
	scan->values = palloc(RelationGetNumberOfAttributes(scan->queue) * sizeof(Datum));
	scan->nulls = palloc(RelationGetNumberOfAttributes(scan->queue) * sizeof(bool));
	ScanKeyInit(&key, EDIT_STREAM_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(stream_id));
	scan->scan = systable_beginscan_ordered(scan->queue, scan->index, snapshot, 1, &key);
}

/*
 * Read the next edit into a context; false when there is none.  The scan itself
 * may allocate in the current one, which has to last as long.
 */
bool
edit_scan_next(EditScan *scan, Edit *edit, MemoryContext context)
{
	MemoryContext scan_context;
	Datum *values = scan->values;
	bool *nulls = scan->nulls;

	scan->tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);
	if (!HeapTupleIsValid(scan->tuple))
		return false;
	heap_deform_tuple(scan->tuple, RelationGetDescr(scan->queue), values, nulls);
	edit->relation = DatumGetObjectId(values[EDIT_RELATION - 1]);
	scan_context = MemoryContextSwitchTo(context);
	edit->old_row = nulls[EDIT_OLD - 1] ? NULL : DatumGetJsonbP(values[EDIT_OLD - 1]);
	edit->new_row = nulls[EDIT_NEW - 1] ? NULL : DatumGetJsonbP(values[EDIT_NEW - 1]);
	MemoryContextSwitchTo(scan_context);
	edit->has_times = !nulls[EDIT_FROM - 1];
	edit->times.from = edit->has_times ? DatumGetTimestampTz(values[EDIT_FROM - 1]) : 0;
	edit->times.until = edit->has_times ? DatumGetTimestampTz(values[EDIT_UNTIL - 1]) : 0;
	return true;
}

/*
 * Delete the edit that was read last.  Nobody else takes edits while the
 * applier has the stream's lock.
 */
void
edit_scan_delete(EditScan *scan)
{
	simple_table_tuple_delete(scan->queue, &scan->tuple->t_self, scan->snapshot);
}

/*
 * End reading.
 */
void
edit_scan_end(EditScan *scan)
{
	systable_endscan_ordered(scan->scan);
	index_close(scan->index, NoLock);
	table_close(scan->queue, NoLock);
}

/*
 * Whether some edit of the stream is committed and not taken.
 */
bool
edit_is_queued(int32 stream_id)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	EditScan scan;
	bool found;

	edit_scan_begin(&scan, stream_id, snapshot);
	found = HeapTupleIsValid(systable_getnext_ordered(scan.scan, ForwardScanDirection));
	edit_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Whether a queued row has a column: one of another key than its transaction knew is
 * missing.
 */
bool
edit_row_has(Jsonb *row, const char *column)
{
	JsonbValue value;

	return getKeyJsonValueFromContainer(&row->root, column, strlen(column), &value) != NULL;
}

/*
 * The text of a scalar in a queued row; NULL if it is null or missing.
 */
char *
edit_row_value(Jsonb *row, const char *column)
{
	JsonbValue value;

	if (getKeyJsonValueFromContainer(&row->root, column, strlen(column), &value) == NULL)
		return NULL;
	switch (value.type)
	{
		case jbvString:
			return pnstrdup(value.val.string.val, value.val.string.len);
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));
		case jbvBool:
			return value.val.boolean ? "true" : "false";
		default:
			return NULL;
	}
}
