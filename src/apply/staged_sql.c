/*-------------------------------------------------------------------------
 *
 * staged_sql.c
 *	  Rows that SQL staged become the elements of a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "access/tableam.h"
#include "apply/staged_read.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

/* Make an element of a row that SQL staged. */
static void
append_sql_row(StagedReader *reader, Batch *batch, Progress *progress, TupleTableSlot *slot)
{
	Element *element = batch_append(batch);
	HeapTuple tuple = ExecCopySlotHeapTuple(slot);
	int natts = slot->tts_tupleDescriptor->natts;

	element->progress = progress;
	element->offset = -1;
	element->sql_tid = slot->tts_tid;
	element->staged = tuple;
	element->is_converted = true;
	element->values = palloc0(natts * (sizeof(Datum) + sizeof(bool)));
	element->nulls = (bool *) (element->values + natts);
	heap_deform_tuple(tuple, slot->tts_tupleDescriptor, element->values, element->nulls);
	element->event_time = element_event_time(reader, element);
}

/*
 * Take what SQL staged, up to a bound, in the order of the table.  The rows
 * are deleted when they are applied.
 */
Batch *
staged_read_sql(StagedReader *reader, Progress *sql_progress)
{
	Relation rel = table_open(reader->stream->staging_table, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	Batch *batch = palloc0(sizeof(Batch));

	batch->source = SOURCE_SQL;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		batch->is_cut = batch_is_full(batch);
		if (batch->is_cut)
			break;
		append_sql_row(reader, batch, sql_progress, slot);
		batch->bytes += batch->elements[batch->count - 1].staged->t_len;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return batch;
}
