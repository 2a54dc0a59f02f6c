/*-------------------------------------------------------------------------
 *
 * staged_read.c
 *	  Staged rows become the elements of a batch.
 *
 * A consumer appends to its table, so the applier reads it from where it
 * stopped to its end, and after a start from block 0, skipping what lies below
 * applied progress.  That rows stand in the order of their offsets is usual
 * but not certain: an aborted staging transaction leaves room that later rows
 * may fill.  Therefore each row carries the offset of the message staged
 * before it in its partition, and a row that does not follow the last one read
 * sends the reader back to block 0, to read all there is and sort it.  A gap
 * that remains then means that rows are missing: they must be read from Kafka
 * again.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "apply/batch.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Where the reader stands in the consumer's table. */
struct StagedReader
{
	const Stream *stream;
	ItemPointerData next;		  /* first row not read yet */
	AttrNumber event_time_attnum; /* in the stream's staging table, or 0 */
	Oid event_time_type;
	FmgrInfo *input; /* by column: for those staged as text */
	Oid *typioparam;
	Datum *staged_values; /* scratch for one row, of the batch's life */
	bool *staged_nulls;
};

/*
 * A reader that starts at block 0.
 */
StagedReader *
staged_reader_create(const Stream *stream, MemoryContext context)
{
	MemoryContext old_context = MemoryContextSwitchTo(context);
	StagedReader *reader = palloc0(sizeof(StagedReader));

	reader->stream = stream;
	reader->input = palloc0(Max(stream->ncolumns, 1) * sizeof(FmgrInfo));
	reader->typioparam = palloc0(Max(stream->ncolumns, 1) * sizeof(Oid));
	for (int i = 0; i < stream->ncolumns; i++)
	{
		Oid function;

		if (stream->event_time && strcmp(stream->columns[i].name, stream->event_time) == 0)
		{
			reader->event_time_attnum = stream->columns[i].attnum;
			reader->event_time_type = getBaseType(stream->columns[i].type);
		}
		if (!stream->columns[i].staged_as_text)
			continue;
		getTypeInputInfo(stream->columns[i].type, &function, &reader->typioparam[i]);
		fmgr_info_cxt(function, &reader->input[i], context);
	}
	MemoryContextSwitchTo(old_context);
	staged_reader_rewind(reader);
	return reader;
}

/*
 * Look at the whole table next time.
 */
void
staged_reader_rewind(StagedReader *reader)
{
	ItemPointerSet(&reader->next, 0, FirstOffsetNumber);
}

/*
 * How many blocks of the table have been read.
 */
BlockNumber
staged_reader_blocks(const StagedReader *reader)
{
	if (reader->next.ip_posid > FirstOffsetNumber)
		return ItemPointerGetBlockNumberNoCheck(&reader->next) + 1;
	return ItemPointerGetBlockNumberNoCheck(&reader->next);
}

/* Room for one more element. */
static Element *
batch_append(Batch *batch)
{
	if (batch->count == batch->allocated)
	{
		batch->allocated = batch->allocated ? batch->allocated * 2 : 256;
		batch->elements =
			batch->elements
				? repalloc_huge(batch->elements, batch->allocated * sizeof(Element))
				: MemoryContextAllocHuge(CurrentMemoryContext, batch->allocated * sizeof(Element));
	}
	memset(&batch->elements[batch->count], 0, sizeof(Element));
	ItemPointerSetInvalid(&batch->elements[batch->count].sql_tid);
	batch->elements[batch->count].kafka_timestamp = DT_NOBEGIN;
	batch->elements[batch->count].event_time = DT_NOBEGIN;
	return &batch->elements[batch->count++];
}

/*
 * The values of a stream's columns from those of a staged row.  Columns staged
 * as text wait for element_convert(), because their input functions may fail.
 */
static void
element_set_values(const Stream *stream, Element *element, Datum *staged, bool *staged_nulls)
{
	int field = STAGED_FIXED_COLUMNS;

	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];
		Datum *value = &element->values[column->attnum - 1];
		bool *isnull = &element->nulls[column->attnum - 1];
		int source = -1;

		switch (column->source)
		{
			case COLUMN_FIELD:
				source = field++;
				break;
			case COLUMN_KAFKA_OFFSET:
				source = STAGED_OFFSET - 1;
				break;
			case COLUMN_KAFKA_PARTITION:
				source = STAGED_PARTITION - 1;
				break;
			case COLUMN_KAFKA_TIMESTAMP:
				source = STAGED_TIMESTAMP - 1;
				break;
			case COLUMN_KAFKA_KEY:
				source = STAGED_KEY - 1;
				break;
			case COLUMN_KAFKA_HEADERS:
				source = STAGED_HEADERS - 1;
				break;
			case COLUMN_KAFKA_VALUE:
				source = STAGED_PAYLOAD - 1;
				break;
			case COLUMN_KAFKA_TOPIC:
				*value = CStringGetTextDatum(element->progress->topic);
				*isnull = false;
				break;
			case COLUMN_ORDINAL:
				break;
		}
		if (source >= 0)
		{
			*value = staged[source];
			*isnull = staged_nulls[source];
		}
	}
}

/*
 * Convert the columns that are staged as text, headers too.  Called in the transaction that
 * applies the element, with the batch's memory current, so that a value that
 * its type refuses costs one element.
 */
void
element_convert(StagedReader *reader, Element *element)
{
	for (int i = 0; i < reader->stream->ncolumns; i++)
	{
		const StreamColumn *column = &reader->stream->columns[i];
		int at = column->attnum - 1;

		if (element->nulls[at])
			continue;
		if (column->source == COLUMN_KAFKA_HEADERS)
			element->values[at] = DirectFunctionCall1(
				jsonb_in, CStringGetDatum(TextDatumGetCString(element->values[at])));
		else if (column->staged_as_text)
			element->values[at] =
				InputFunctionCall(&reader->input[i], TextDatumGetCString(element->values[at]),
								  reader->typioparam[i], column->typmod);
	}
	element->is_converted = true;
}

/* Event time of an element, DT_NOBEGIN where it has none. */
static TimestampTz
element_event_time(const StagedReader *reader, const Element *element)
{
	int at = reader->event_time_attnum - 1;

	if (at < 0 || element->nulls[at])
		return DT_NOBEGIN;
	return partition_time(reader->event_time_type, element->values[at]);
}

/* Memory for the values of an element, all of them NULL. */
static void
element_allocate_values(const Stream *stream, Element *element)
{
	int natts = stream->natts;

	element->values = palloc0(natts * (sizeof(Datum) + sizeof(bool)));
	element->nulls = (bool *) (element->values + natts);
	memset(element->nulls, true, natts);
}

/* Make an element of a staged row; false when it does not follow the last one. */
static bool
append_staged_row(StagedReader *reader, Batch *batch, List *applied, HeapTuple tuple,
				  TupleDesc tupdesc)
{
	const Stream *stream = reader->stream;
	Datum *staged = reader->staged_values;
	bool *nulls = reader->staged_nulls;
	Progress *progress;
	Element *element;
	int64 offset;

	heap_deform_tuple(tuple, tupdesc, staged, nulls);
	offset = DatumGetInt64(staged[STAGED_OFFSET - 1]);
	progress = progress_find(applied, stream->topic, DatumGetInt32(staged[STAGED_PARTITION - 1]));
	if (progress == NULL)
		return false;
	if (offset <= progress->last_offset)
		return true; /* applied before a restart */
	if (offset == progress->read_offset
			? DatumGetInt32(staged[STAGED_ELEMENT - 1]) <= progress->read_element
			: DatumGetInt64(staged[STAGED_PREVIOUS_OFFSET - 1]) != progress->read_offset)
		return false;
	progress->read_offset = offset;
	progress->read_element = DatumGetInt32(staged[STAGED_ELEMENT - 1]);

	element = batch_append(batch);
	element->progress = progress;
	element->offset = offset;
	element->element = DatumGetInt32(staged[STAGED_ELEMENT - 1]);
	if (!nulls[STAGED_TIMESTAMP - 1])
		element->kafka_timestamp = DatumGetTimestampTz(staged[STAGED_TIMESTAMP - 1]);
	element->staged = tuple;
	element->sqlstate = DatumGetInt32(staged[STAGED_SQLSTATE - 1]);
	element_allocate_values(stream, element);
	if (element->sqlstate != 0)
	{
		element->stage = "decode";
		element->reason = TextDatumGetCString(staged[STAGED_REASON - 1]);
		return true;
	}
	element_set_values(stream, element, staged, nulls);
	element->event_time = element_event_time(reader, element);
	return true;
}

/* Whether a batch has as much as one commit should apply. */
static bool
batch_is_full(const Batch *batch, Size bytes)
{
	return batch->count >= detect_max_batch_rows ||
		   bytes >= (Size) detect_max_batch_kilobytes * 1024;
}

/*
 * Read from the reader's position until the batch is full or the table ends.
 * False when a row does not follow the last one read.
 */
static bool
read_forward(StagedReader *reader, Relation rel, Batch *batch, List *applied)
{
	ItemPointerData last;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	Size bytes = 0;
	bool in_order = true;

	ItemPointerSet(&last, MaxBlockNumber, MaxOffsetNumber);
	scan = table_beginscan_tidrange(rel, GetActiveSnapshot(), &reader->next, &last);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		HeapTuple tuple;

		if (batch_is_full(batch, bytes))
		{
			batch->is_cut = true;
			break;
		}
		CHECK_FOR_INTERRUPTS();
		tuple = ExecCopySlotHeapTuple(slot);
		in_order = append_staged_row(reader, batch, applied, tuple, RelationGetDescr(rel));
		if (!in_order)
			break;
		bytes += tuple->t_len;
		reader->next = slot->tts_tid;
		reader->next.ip_posid++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return in_order;
}

/* Order of staged rows: partition, offset, element. */
static int
compare_staged(const ListCell *a, const ListCell *b, TupleDesc tupdesc)
{
	static const AttrNumber order[] = {STAGED_PARTITION, STAGED_OFFSET, STAGED_ELEMENT};

	for (int i = 0; i < lengthof(order); i++)
	{
		bool isnull;
		Datum left = heap_getattr(lfirst(a), order[i], tupdesc, &isnull);
		Datum right = heap_getattr(lfirst(b), order[i], tupdesc, &isnull);
		int64 l = order[i] == STAGED_OFFSET ? DatumGetInt64(left) : DatumGetInt32(left);
		int64 r = order[i] == STAGED_OFFSET ? DatumGetInt64(right) : DatumGetInt32(right);

		if (l != r)
			return l < r ? -1 : 1;
	}
	return 0;
}

static TupleDesc sorting_tupdesc;

static int
compare_staged_rows(const ListCell *a, const ListCell *b)
{
	return compare_staged(a, b, sorting_tupdesc);
}

/* Whether a staged row has been applied already. */
static bool
is_applied(const StagedReader *reader, List *applied, TupleTableSlot *slot)
{
	bool isnull;
	int32 partition = DatumGetInt32(slot_getattr(slot, STAGED_PARTITION, &isnull));
	Progress *progress = progress_find(applied, reader->stream->topic, partition);

	return progress &&
		   DatumGetInt64(slot_getattr(slot, STAGED_OFFSET, &isnull)) <= progress->last_offset;
}

/*
 * Read the whole table and bring its rows in order; what is more than a batch
 * is left for the next look, which will come here again.  False when rows are
 * missing even so.
 */
static bool
read_sorted(StagedReader *reader, Relation rel, Batch *batch, List *applied)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	List *tuples = NIL;
	ListCell *cell;
	Size bytes = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_applied(reader, applied, slot))
			tuples = lappend(tuples, ExecCopySlotHeapTuple(slot));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);

	sorting_tupdesc = RelationGetDescr(rel);
	list_sort(tuples, compare_staged_rows);
	foreach(cell, tuples)
	{
		batch->is_cut = batch_is_full(batch, bytes);
		if (batch->is_cut)
			break;
		if (!append_staged_row(reader, batch, applied, lfirst(cell), RelationGetDescr(rel)))
			return false;
		bytes += ((HeapTuple) lfirst(cell))->t_len;
	}
	return true;
}

/* Whether everything was read that the staged progress speaks of. */
static bool
is_complete(const Batch *batch, List *applied)
{
	ListCell *cell;

	if (batch->is_cut)
		return true;
	foreach(cell, batch->staged_progress)
	{
		Progress *staged = lfirst(cell);
		Progress *progress = progress_find(applied, staged->topic, staged->partition);

		if (progress == NULL || progress->read_offset < staged->last_offset)
			return false;
	}
	return true;
}

/* Start a look: nothing read yet of any partition. */
static Batch *
batch_begin(List *applied, List *staged_progress)
{
	Batch *batch = palloc0(sizeof(Batch));
	ListCell *cell;

	batch->staged_progress = staged_progress;
	foreach(cell, applied)
	{
		Progress *progress = lfirst(cell);

		progress->read_offset = progress->last_offset;
		progress->read_element = PG_INT32_MAX;
	}
	return batch;
}

/*
 * Take what is staged, up to a bound, in the order of offsets within each
 * partition.  NULL when rows are missing that staged progress, which was read
 * under an older snapshot, says are there: then they must be read from Kafka
 * again.  The caller is in a transaction with an active snapshot, holds the
 * stream's lock, and has the batch's memory current.
 */
Batch *
staged_read(StagedReader *reader, List *applied, List *staged_progress)
{
	Relation rel = table_open(staging_table_oid(reader->stream->id), AccessShareLock);
	Batch *batch = batch_begin(applied, staged_progress);

	reader->staged_values = palloc(RelationGetDescr(rel)->natts * sizeof(Datum));
	reader->staged_nulls = palloc(RelationGetDescr(rel)->natts * sizeof(bool));
	if (!read_forward(reader, rel, batch, applied) || !is_complete(batch, applied))
	{
		staged_reader_rewind(reader);
		batch = batch_begin(applied, staged_progress);
		if (!read_sorted(reader, rel, batch, applied) || !is_complete(batch, applied))
			batch = NULL;
	}
	table_close(rel, AccessShareLock);
	return batch;
}

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
	Size bytes = 0;

	batch->from_sql = true;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (batch_is_full(batch, bytes))
		{
			batch->is_cut = true;
			break;
		}
		append_sql_row(reader, batch, sql_progress, slot);
		bytes += batch->elements[batch->count - 1].staged->t_len;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return batch;
}
