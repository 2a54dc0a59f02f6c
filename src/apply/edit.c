/*-------------------------------------------------------------------------
 *
 * edit.c
 *	  What others do to the rows of an events table, queued for the applier.
 *
 * The triggers of an events table and of its partitions write whole rows to a
 * logged table, in the transaction that changed them, so that whoever sees the
 * one sees the other.  The applier takes them by deleting them.  Rows are kept
 * as jsonb, which gives every value back exactly if its text does.
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
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Rows of one statement that are queued one by one: reading a whole partition
 * again costs less than more of them. */
#define MAX_QUEUED_ROWS 10000

/* Columns of detect._edit, and of its primary key. */
#define EDIT_COLUMNS   5
#define EDIT_RELATION  3
#define EDIT_OLD	   4
#define EDIT_NEW	   5
#define EDIT_STREAM_ID 1

PG_FUNCTION_INFO_V1(detect_edited);

/* The stream whose events table this is, or is a partition of; 0 if none. */
static int32
stream_of_relation(Oid relation)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relation)};
	int32 stream_id = 0;
	bool isnull;

	SPI_connect();
	if (catalog_execute("SELECT stream_id FROM detect._stream WHERE events_table = $1 OR "
						"EXISTS (SELECT FROM pg_inherits WHERE inhrelid = $1 "
						"AND inhparent = events_table)",
						1, types, values, NULL) > 0)
		stream_id =
			DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return stream_id;
}

/* Queue one row; with neither an old nor a new one, the whole relation. */
static void
queue_row(int32 stream_id, Oid relation, Datum row, bool is_old, bool is_new)
{
	Datum values[EDIT_COLUMNS] = {Int32GetDatum(stream_id),
								  Int64GetDatum(catalog_next_id("_edit_id")),
								  ObjectIdGetDatum(relation), row, row};
	bool nulls[EDIT_COLUMNS] = {false, false, false, !is_old, !is_new};

	catalog_insert("_edit", values, nulls);
}

/* Queue the rows of a transition table, which the trigger's data are
 * registered for. */
static void
queue_rows(int32 stream_id, Oid relation, const char *name, bool is_new)
{
	char *sql = psprintf("SELECT pg_catalog.to_jsonb(e.*) FROM %s e", quote_identifier(name));

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Datum row = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		queue_row(stream_id, relation, row, !is_new, is_new);
	}
}

/* Have values written so that the applier's settings read them back. */
static void
set_exact_output(void)
{
	const char *settings[][2] = {{"bytea_output", "hex"},
								 {"DateStyle", "ISO, YMD"},
								 {"extra_float_digits", "1"},
								 {"IntervalStyle", "postgres"}};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Queue what a statement has done to an events table, or to a partition; one
 * that was detached has nobody to tell.  Called by its statement trigger.
 */
void
edit_queue(const TriggerData *trigdata)
{
	Oid relation = RelationGetRelid(trigdata->tg_relation);
	Tuplestorestate *old_rows = trigdata->tg_oldtable;
	Tuplestorestate *new_rows = trigdata->tg_newtable;
	int64 rows = (old_rows ? tuplestore_tuple_count(old_rows) : 0) +
				 (new_rows ? tuplestore_tuple_count(new_rows) : 0);
	int32 stream_id;
	int settings;

	if (rows == 0 || (stream_id = stream_of_relation(relation)) == 0)
		return;
	slot_wake_at_commit(stream_id);
	if (rows > MAX_QUEUED_ROWS)
	{
		queue_row(stream_id, relation, (Datum) 0, false, false);
		return;
	}
	settings = NewGUCNestLevel();
	set_exact_output();
	SPI_connect();
	if (SPI_register_trigger_data((TriggerData *) trigdata) != SPI_OK_TD_REGISTER)
		elog(ERROR, "could not register the transition tables of \"%s\"",
			 RelationGetRelationName(trigdata->tg_relation));
	if (old_rows)
		queue_rows(stream_id, relation, trigdata->tg_trigger->tgoldtable, false);
	if (new_rows)
		queue_rows(stream_id, relation, trigdata->tg_trigger->tgnewtable, true);
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
	scan->index = index_open(RelationGetPrimaryKeyIndex(scan->queue), AccessShareLock);
	scan->snapshot = snapshot;
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
	Datum values[EDIT_COLUMNS];
	bool nulls[EDIT_COLUMNS];

	scan->tuple = systable_getnext_ordered(scan->scan, ForwardScanDirection);
	if (!HeapTupleIsValid(scan->tuple))
		return false;
	heap_deform_tuple(scan->tuple, RelationGetDescr(scan->queue), values, nulls);
	edit->relation = DatumGetObjectId(values[EDIT_RELATION - 1]);
	scan_context = MemoryContextSwitchTo(context);
	edit->old_row = nulls[EDIT_OLD - 1] ? NULL : DatumGetJsonbP(values[EDIT_OLD - 1]);
	edit->new_row = nulls[EDIT_NEW - 1] ? NULL : DatumGetJsonbP(values[EDIT_NEW - 1]);
	MemoryContextSwitchTo(scan_context);
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
