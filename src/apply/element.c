/*-------------------------------------------------------------------------
 *
 * element.c
 *	  Elements of a batch, with the values of the stream's columns.
 *
 * Values stay in the staged row where they can; those that are staged as text
 * are converted when the element is tried, because their input functions may
 * fail.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/staged_read.h"
#include "utils/builtins.h"

/*
 * Room for one more element.
 */
Element *
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

/*
 * Event time of an element, DT_NOBEGIN where it has none.
 */
TimestampTz
element_event_time(const StagedReader *reader, const Element *element)
{
	int at = reader->event_time_attnum - 1;

	if (at < 0 || element->nulls[at])
		return DT_NOBEGIN;
	return partition_time(reader->event_time_type, element->values[at]);
}

/*
 * Memory for the values of an element, all of them NULL.
 */
void
element_allocate_values(const Stream *stream, Element *element)
{
	int natts = stream->natts;

	element->values = palloc0(natts * (sizeof(Datum) + sizeof(bool)));
	element->nulls = (bool *) (element->values + natts);
	memset(element->nulls, true, natts);
}

/*
 * Add an element of these columns of a consumer's staging table.
 */
Element *
batch_append_staged(StagedReader *reader, Batch *batch, Progress *progress, Datum *staged,
					bool *nulls)
{
	Element *element = batch_append(batch);

	element->progress = progress;
	element->offset = DatumGetInt64(staged[STAGED_OFFSET - 1]);
	element->element = DatumGetInt32(staged[STAGED_ELEMENT - 1]);
	if (!nulls[STAGED_TIMESTAMP - 1])
		element->kafka_timestamp = DatumGetTimestampTz(staged[STAGED_TIMESTAMP - 1]);
	element->sqlstate = DatumGetInt32(staged[STAGED_SQLSTATE - 1]);
	element_allocate_values(reader->stream, element);
	if (element->sqlstate != 0)
	{
		element->stage = "decode";
		element->reason = TextDatumGetCString(staged[STAGED_REASON - 1]);
		return element;
	}
	element_set_values(reader->stream, element, staged, nulls);
	element->event_time = element_event_time(reader, element);
	return element;
}
