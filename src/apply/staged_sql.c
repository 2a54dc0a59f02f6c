/*-------------------------------------------------------------------------
 *
 * staged_sql.c
 *	  Rows that SQL staged become the elements of a batch.
 *
 * They are read first and deleted when they are applied; between the two
 * somebody may lock or change them, and then they are not taken.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/staged_read.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

/* Make an element of a row that SQL staged. */
static void
append_sql_row(StagedReader *reader, Batch *batch, Progress *progress, TupleTableSlot *slot)
{
	Element *element = batch_append(batch);
	HeapTuple tuple = ExecCopySlotHeapTuple(slot);

	element->progress = progress;
	element->offset = -1;
	element->sql_row = tuple;
	element->is_converted = true;
	(void) element_allocate_values(reader->stream, element, 0);
	heap_deform_tuple(tuple, slot->tts_tupleDescriptor, element->values, element->nulls);
	element->event_time = element_event_time(reader, element);
}

/*
 * Add what SQL staged to the batch, until that is full, in the order of the table.
 * staged_take_sql() deletes the rows when they are applied.
 */
void
staged_read_sql(StagedReader *reader, Batch *batch, Progress *sql_progress)
{
	Relation rel = table_open(reader->stream->staging_table, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	/* from its front, wherever others scan it just now */
	TableScanDesc scan = table_beginscan_strat(rel, GetActiveSnapshot(), 0, NULL, true, false);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		batch->is_cut = batch_is_full(batch);
		if (batch->is_cut)
			break;
		append_sql_row(reader, batch, sql_progress, slot);
		batch->bytes += batch->elements[batch->count - 1].sql_row->t_len;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
}

/* Whether a row is still the version that the element was read from: since
 * then its place may have been given to another row. */
static bool
is_same_version(Relation rel, Element *element, TupleTableSlot *slot)
{
	HeapTuple found;
	bool should_free;
	bool same;

	if (!table_tuple_fetch_row_version(rel, &element->sql_row->t_self, GetActiveSnapshot(), slot))
		return false;
	found = ExecFetchSlotHeapTuple(slot, false, &should_free);
	same = found->t_len == element->sql_row->t_len &&
		   HeapTupleHeaderGetRawXmin(found->t_data) ==
			   HeapTupleHeaderGetRawXmin(element->sql_row->t_data) &&
		   memcmp((char *) found->t_data + found->t_data->t_hoff,
				  (char *) element->sql_row->t_data + element->sql_row->t_data->t_hoff,
				  found->t_len - found->t_data->t_hoff) == 0;
	if (should_free)
		heap_freetuple(found);
	ExecClearTuple(slot);
	return same;
}

/*
 * Delete the rows of a piece, which is applied in the same transaction.  One that
 * is locked or gone is left alone: is_gone.
 */
void
staged_take_sql(const Stream *stream, Batch *batch, int from, int to)
{
	Relation rel = table_open(stream->staging_table, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TM_FailureData failure;

	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];
		TM_Result result;

		element->is_gone = true;
		if (!is_same_version(rel, element, slot))
		{
			/* there may be another version of it */
			batch->has_locked_rows = true;
			continue;
		}
		result = table_tuple_delete(rel, &element->sql_row->t_self, GetCurrentCommandId(true),
									GetActiveSnapshot(), InvalidSnapshot, false, &failure, false);
		element->is_gone = result != TM_Ok;
		batch->has_locked_rows |= result == TM_BeingModified || result == TM_Updated;
		batch->taken += result == TM_Ok;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}
