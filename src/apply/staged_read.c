/*-------------------------------------------------------------------------
 *
 * staged_read.c
 *	  Staged rows become the elements of a batch.
 *
 * Each writer appends to its table, so the applier reads it from where it
 * stopped to its end, or to where its rows end if they go onto the same pages again
 * (staging_pages.c), and after a start from block 0, skipping what lies below
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

#include "access/table.h"
#include "access/tableam.h"
#include "apply/staged_read.h"
#include "catalog/pg_type.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* Where the columns of a stream are found in a staged row, in the current context. */
static StagedColumn *
staged_columns(const Stream *stream)
{
	StagedColumn *columns = palloc0(Max(stream->ncolumns, 1) * sizeof(StagedColumn));
	int field = STAGED_FIXED_COLUMNS;

	for (int i = 0; i < stream->ncolumns; i++)
	{
		static const int sources[] = {
			[COLUMN_KAFKA_TOPIC] = -1,
			[COLUMN_KAFKA_PARTITION] = STAGED_PARTITION - 1,
			[COLUMN_KAFKA_OFFSET] = STAGED_OFFSET - 1,
			[COLUMN_KAFKA_TIMESTAMP] = STAGED_TIMESTAMP - 1,
			[COLUMN_KAFKA_KEY] = STAGED_KEY - 1,
			[COLUMN_KAFKA_HEADERS] = STAGED_HEADERS - 1,
			[COLUMN_KAFKA_VALUE] = STAGED_PAYLOAD - 1,
			[COLUMN_ORDINAL] = -1,
		};
		const StreamColumn *column = &stream->columns[i];
		bool by_value;

		columns[i].source = column->source == COLUMN_FIELD ? field++ : sources[column->source];
		get_typlenbyval(column->staged_type, &columns[i].length, &by_value);
		if (by_value)
			columns[i].length = 0;
	}
	return columns;
}

/*
 * A reader of a writer's table that starts at block 0.
 */
StagedReader *
staged_reader_create(const Stream *stream, int writer, MemoryContext context)
{
	MemoryContext old_context = MemoryContextSwitchTo(context);
	StagedReader *reader = palloc0(sizeof(StagedReader));

	reader->stream = stream;
	reader->writer = writer;
	reader->conversions = palloc0(Max(stream->ncolumns, 1) * sizeof(Conversion));
	reader->columns = staged_columns(stream);
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];
		Conversion *conversion = NULL;

		if (column->staged_type != column->type)
		{
			conversion = &reader->conversions[reader->nconversions++];
			conversion_prepare(conversion, column);
		}
		if (stream->event_time && strcmp(column->name, stream->event_time) == 0)
		{
			reader->event_time_attnum = column->attnum;
			reader->event_time_type = getBaseType(column->type);
			reader->event_time_conversion = conversion;
		}
	}
	MemoryContextSwitchTo(old_context);
	staged_reader_rewind(reader);
	return reader;
}

/*
 * Look at the table from its front on: the next rows will stand there.
 */
void
staged_reader_restart(StagedReader *reader)
{
	ItemPointerSet(&reader->next, 0, FirstOffsetNumber);
}

/*
 * Look at the whole table next time, of which nothing is known.
 */
void
staged_reader_rewind(StagedReader *reader)
{
	staged_reader_restart(reader);
	reader->blocks = 0;
}

/*
 * How many blocks the table had when it was looked at, with those that its large
 * payloads take: a consumer stops when these are too many.
 */
BlockNumber
staged_reader_blocks(const StagedReader *reader)
{
	return reader->blocks;
}

/* The applied progress of a staged row's partition; rows of a partition mostly
 * follow one another. */
static Progress *
staged_progress(StagedReader *reader, List *applied, const Datum *staged)
{
	const char *topic = list_nth(reader->stream->topics, DatumGetInt16(staged[STAGED_TOPIC - 1]));
	int32 partition = DatumGetInt32(staged[STAGED_PARTITION - 1]);

	if (reader->recent == NULL || reader->recent->partition != partition ||
		strcmp(reader->recent->topic, topic) != 0)
		reader->recent = progress_find(applied, topic, partition);
	return reader->recent;
}

/* Where the first row of the message is that a row belongs to.  It may be applied
 * already, when a worker died in the middle of the message. */
static ItemPointerData
first_row_of_message(StagedReader *reader, const Progress *before, HeapTuple tuple, int64 offset,
					 int32 element)
{
	if (element <= 0 || !ItemPointerIsValid(&reader->message_tid) || reader->recent != before ||
		reader->message_offset != offset)
	{
		reader->message_tid = tuple->t_self;
		reader->message_offset = offset;
	}
	return reader->message_tid;
}

/* Make an element of a staged row, which need not stay; false when it does not
 * follow the last one. */
static bool
append_staged_row(StagedReader *reader, Batch *batch, List *applied, HeapTuple tuple,
				  TupleDesc tupdesc)
{
	Datum *staged = reader->staged_values;
	bool *nulls = reader->staged_nulls;
	const Progress *before = reader->recent;
	Progress *progress;
	Element *element;
	ItemPointerData message_tid;
	int64 offset;
	int32 number;

	heap_deform_tuple(tuple, tupdesc, staged, nulls);
	offset = DatumGetInt64(staged[STAGED_OFFSET - 1]);
	number = DatumGetInt32(staged[STAGED_ELEMENT - 1]);
	progress = staged_progress(reader, applied, staged);
	if (progress == NULL)
		return false;
	message_tid = first_row_of_message(reader, before, tuple, offset, number);
	if (offset < progress->last_offset ||
		(offset == progress->last_offset && number <= progress->last_element))
		return true; /* applied before a restart */
	if (!FAULT_MUTANT("staged_survives") &&
		(offset == progress->read_offset
			 ? number <= progress->read_element
			 : DatumGetInt64(staged[STAGED_PREVIOUS_OFFSET - 1]) != progress->read_offset))
		return false;
	progress->read_offset = offset;
	progress->read_element = number;

	element = batch_append_staged(reader, batch, progress, staged, nulls);
	batch->bytes += tuple->t_len;
	element->message_tid = message_tid;
	return true;
}

/*
 * Whether a batch has as much as one commit should apply.
 */
bool
batch_is_full(const Batch *batch)
{
	return batch->count >= batch->limit || batch->bytes >= (Size) detect_max_batch_kilobytes * 1024;
}

/* Whether a batch ends before this row.  A message is not torn apart. */
static bool
batch_ends_before(const StagedReader *reader, const Batch *batch, HeapTuple tuple,
				  TupleDesc tupdesc)
{
	const Element *last;
	bool isnull;
	int topic;

	/* what is applied already fills none */
	if (batch->count == 0 || !batch_is_full(batch))
		return false;
	last = &batch->elements[batch->count - 1];
	topic = DatumGetInt16(heap_getattr(tuple, STAGED_TOPIC, tupdesc, &isnull));
	return last->offset != DatumGetInt64(heap_getattr(tuple, STAGED_OFFSET, tupdesc, &isnull)) ||
		   last->progress->partition !=
			   DatumGetInt32(heap_getattr(tuple, STAGED_PARTITION, tupdesc, &isnull)) ||
		   strcmp(last->progress->topic, list_nth(reader->stream->topics, topic)) != 0;
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
	bool in_order = true;

	ItemPointerSet(&last, staging_end(), InvalidOffsetNumber); /* before the first row there */
	scan = table_beginscan_tidrange(rel, GetActiveSnapshot(), &reader->next, &last);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		HeapTuple tuple;

		CHECK_FOR_INTERRUPTS();
		tuple = ExecFetchSlotHeapTuple(slot, false, NULL);
		batch->is_cut = batch_ends_before(reader, batch, tuple, RelationGetDescr(rel));
		if (batch->is_cut)
			break;
		in_order = append_staged_row(reader, batch, applied, tuple, RelationGetDescr(rel));
		if (!in_order)
			break;
		reader->next = slot->tts_tid;
		reader->next.ip_posid++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return in_order;
}

/* Order of staged rows: topic, partition, offset, element. */
static int64
staged_number(AttrNumber attnum, Datum value)
{
	switch (attnum)
	{
		case STAGED_OFFSET:
			return DatumGetInt64(value);
		case STAGED_TOPIC:
			return DatumGetInt16(value);
		default:
			return DatumGetInt32(value);
	}
}

static int
compare_staged(const ListCell *a, const ListCell *b, TupleDesc tupdesc)
{
	static const AttrNumber order[] = {STAGED_TOPIC, STAGED_PARTITION, STAGED_OFFSET,
									   STAGED_ELEMENT};

	for (int i = 0; i < lengthof(order); i++)
	{
		bool isnull;
		Datum left = heap_getattr(lfirst(a), order[i], tupdesc, &isnull);
		Datum right = heap_getattr(lfirst(b), order[i], tupdesc, &isnull);
		int64 l = staged_number(order[i], left);
		int64 r = staged_number(order[i], right);

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

/* Whether a staged row belongs to a message that has been applied already. */
static bool
is_applied(StagedReader *reader, List *applied, TupleTableSlot *slot)
{
	Progress *progress;

	slot_getsomeattrs(slot, STAGED_TOPIC);
	progress = staged_progress(reader, applied, slot->tts_values);
	return progress && DatumGetInt64(slot->tts_values[STAGED_OFFSET - 1]) < progress->next_offset;
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
		batch->is_cut = batch_ends_before(reader, batch, lfirst(cell), RelationGetDescr(rel));
		if (batch->is_cut)
			break;
		if (!append_staged_row(reader, batch, applied, lfirst(cell), RelationGetDescr(rel)))
			return false;
	}
	return true;
}

/* Whether everything was read that the staged progress of this writer speaks
 * of. */
static bool
is_complete(const StagedReader *reader, const Batch *batch, List *applied)
{
	ListCell *cell;

	if (batch->is_cut || FAULT_MUTANT("staged_survives"))
		return true;
	foreach(cell, batch->staged_progress)
	{
		Progress *staged = lfirst(cell);
		Progress *progress = progress_find(applied, staged->topic, staged->partition);

		if (staging_writer_of(reader->stream, staged->topic, staged->partition) != reader->writer)
			continue;
		if (progress == NULL || progress->read_offset < staged->last_offset)
			return false;
	}
	return true;
}

/* Start a look at the table of one writer: nothing read yet of its partitions. */
static void
begin_look(StagedReader *reader, List *applied)
{
	ListCell *cell;

	reader->recent = NULL;
	ItemPointerSetInvalid(&reader->message_tid);
	foreach(cell, applied)
	{
		Progress *progress = lfirst(cell);

		if (progress->partition == SQL_PARTITION ||
			staging_writer_of(reader->stream, progress->topic, progress->partition) !=
				reader->writer)
			continue;
		progress->read_offset = progress->last_offset;
		progress->read_element = progress->last_element;
	}
}

/*
 * Add what a writer has staged to the batch, until that is full, in the order
 * of offsets within each partition.  False when rows are missing that staged
 * progress, which was read under an older snapshot, says are there: then they
 * must be read from Kafka again.  The caller is in a transaction with an active
 * snapshot, holds the stream's lock, and has the batch's memory current.
 */
bool
staged_read(StagedReader *reader, Batch *batch, List *applied)
{
	Relation rel =
		table_open(staging_table_oid(reader->stream->id, reader->writer), AccessShareLock);
	int count = batch->count;
	bool complete;

	reader->staged_values = palloc(RelationGetDescr(rel)->natts * sizeof(Datum));
	reader->staged_nulls = palloc(RelationGetDescr(rel)->natts * sizeof(bool));
	begin_look(reader, applied);
	complete = read_forward(reader, rel, batch, applied) && is_complete(reader, batch, applied);
	if (!complete)
	{
		staged_reader_rewind(reader);
		batch->count = count;
		begin_look(reader, applied);
		complete = read_sorted(reader, rel, batch, applied) && is_complete(reader, batch, applied);
	}
	reader->blocks = staging_blocks(rel);
	table_close(rel, AccessShareLock);
	return complete;
}
