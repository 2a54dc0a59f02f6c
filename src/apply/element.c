/*-------------------------------------------------------------------------
 *
 * element.c
 *	  Elements of a batch, with the values of the stream's columns.
 *
 * Of a staged row the columns of the stream are kept, and not the message, which is
 * the larger part (staged_message.c).  Values that are staged as another type are
 * converted when the element is tried, because that may fail.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier.h"
#include "apply/staged_read.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

/*
 * Room for one more element.
 */
Element *
batch_append(Batch *batch)
{
	if (batch->count == batch->allocated)
	{
		batch->allocated = batch->allocated ? batch->allocated * 2 : 256;
		/* no more than the batch may have, if no message goes beyond it */
		if (batch->count < batch->limit)
			batch->allocated = Min(batch->allocated, batch->limit);
		batch->elements =
			batch->elements
				? repalloc_huge(batch->elements, batch->allocated * sizeof(Element))
				: MemoryContextAllocHuge(CurrentMemoryContext, batch->allocated * sizeof(Element));
	}
	memset(&batch->elements[batch->count], 0, sizeof(Element));
	batch->elements[batch->count].kafka_timestamp = DT_NOBEGIN;
	batch->elements[batch->count].event_time = DT_NOBEGIN;
	return &batch->elements[batch->count++];
}

/*
 * Memory for the values of an element, all of them NULL, and for more bytes, which
 * the result points to.
 */
char *
element_allocate_values(const Stream *stream, Element *element, Size more_bytes)
{
	int natts = stream->natts;
	Size bytes = MAXALIGN(natts * (sizeof(Datum) + sizeof(bool)));

	element->values = palloc(bytes + more_bytes);
	element->nulls = (bool *) (element->values + natts);
	memset(element->values, 0, natts * sizeof(Datum));
	memset(element->nulls, true, natts);
	return (char *) element->values + bytes;
}

/* How many bytes the staged values of an element take beside their pointers. */
static Size
values_bytes(const StagedReader *reader, const Datum *staged, const bool *staged_nulls)
{
	Size bytes = 0;

	for (int i = 0; i < reader->stream->ncolumns; i++)
	{
		const StagedColumn *column = &reader->columns[i];

		if (column->source >= 0 && column->length != 0 && !staged_nulls[column->source])
			bytes += MAXALIGN(datumGetSize(staged[column->source], false, column->length));
	}
	return bytes;
}

/*
 * The values of a stream's columns, as copies of those of a staged row, not converted.
 */
static void
element_set_values(const StagedReader *reader, Element *element, const Datum *staged,
				   const bool *staged_nulls)
{
	const Stream *stream = reader->stream;
	char *room =
		element_allocate_values(stream, element, values_bytes(reader, staged, staged_nulls));

	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StagedColumn *column = &reader->columns[i];
		Datum *value = &element->values[stream->columns[i].attnum - 1];
		bool *isnull = &element->nulls[stream->columns[i].attnum - 1];
		Size bytes;

		if (stream->columns[i].source == COLUMN_KAFKA_TOPIC)
		{
			*value = CStringGetTextDatum(element->progress->topic);
			*isnull = false;
		}
		if (column->source < 0 || staged_nulls[column->source])
			continue;
		*isnull = false;
		*value = staged[column->source];
		if (column->length == 0)
			continue;
		bytes = datumGetSize(*value, false, column->length);
		*value = PointerGetDatum(memcpy(room, DatumGetPointer(*value), bytes));
		room += MAXALIGN(bytes);
	}
}

/*
 * Prepare the conversion of a column, in the current context.
 */
void
conversion_prepare(Conversion *conversion, const StreamColumn *column)
{
	Oid function;

	conversion->column = column;
	conversion->checks_null = get_typtype(column->type) == TYPTYPE_DOMAIN;
	getTypeInputInfo(column->type, &function, &conversion->input_parameter);
	fmgr_info(function, &conversion->input);
	if (!decode_takes_structure(column->type))
		return;
	conversion->opening = OidIsValid(get_element_type(getBaseType(column->type))) ? '[' : '{';
	conversion->prepared_in = InvalidLocalTransactionId;
	conversion->structure_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect structure", ALLOCSET_SMALL_SIZES);
	conversion->value_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect value", ALLOCSET_SMALL_SIZES);
}

/* Whether the text of an array or a composite is JSON, as it stood in a message.  It may
 * as well be a literal, which begins otherwise, but for bounds before an array.  What of
 * it was a string is not known any more: a string of JSON is taken as JSON. */
static bool
is_structure(const Conversion *conversion, const char *text)
{
	return conversion->opening != '\0' && *text == conversion->opening &&
		   text[strspn(text, "[]0123456789:+- ")] != '=';
}

/* An array or a composite from JSON. */
static Datum
convert_structure(Conversion *conversion, const char *text)
{
	const StreamColumn *column = conversion->column;
	MemoryContext caller_context;
	Datum value;

	if (conversion->prepared_in != compat_lxid())
	{
		MemoryContext old_context;

		MemoryContextReset(conversion->structure_context);
		old_context = MemoryContextSwitchTo(conversion->structure_context);
		decode_structure_init(&conversion->structure, column->name, column->type, column->typmod);
		MemoryContextSwitchTo(old_context);
	}
	/* a call that fails leaves nothing of use */
	conversion->prepared_in = InvalidLocalTransactionId;
	/* and one that does not, some kilobytes */
	caller_context = MemoryContextSwitchTo(conversion->value_context);
	value = decode_structure(&conversion->structure, text);
	MemoryContextSwitchTo(caller_context);
	value = datumCopy(value, false, -1);
	MemoryContextReset(conversion->value_context);
	conversion->prepared_in = compat_lxid();
	return value;
}

/* A value of a column's own type; an error if the type refuses it. */
static Datum
convert(Conversion *conversion, Datum value)
{
	const StreamColumn *column = conversion->column;

	if (column->staged_type == TEXTOID)
	{
		char *literal = TextDatumGetCString(value);

		if (is_structure(conversion, literal))
			return convert_structure(conversion, literal);
		return InputFunctionCall(&conversion->input, literal, conversion->input_parameter,
								 column->typmod);
	}
	domain_check(value, false, column->type, &conversion->domain, conversion->input.fn_mcxt);
	return value;
}

/*
 * Convert the columns that are staged as another type.  Called in the transaction that
 * applies the element, with the batch's memory current, so that a value that its type
 * refuses costs one element.  Such an element is converted again, alone: until all of
 * its values can be converted it keeps those that are staged.
 */
void
element_convert(StagedReader *reader, Element *element)
{
	for (int i = 0; i < reader->nconversions; i++)
	{
		Conversion *conversion = &reader->conversions[i];
		int at = conversion->column->attnum - 1;

		if (!element->nulls[at])
			conversion->value = convert(conversion, element->values[at]);
		else if (conversion->checks_null)
			domain_check((Datum) 0, true, conversion->column->type, &conversion->domain,
						 conversion->input.fn_mcxt);
	}
	for (int i = 0; i < reader->nconversions; i++)
	{
		const Conversion *conversion = &reader->conversions[i];
		int at = conversion->column->attnum - 1;

		if (!element->nulls[at])
			element->values[at] = conversion->value;
	}
	element->is_converted = true;
}

/* Elements whose event times are converted, for nothing but the error. */
typedef struct EventTimesStep
{
	StagedReader *reader;
	const Batch *batch;
	int from;
	int to;
} EventTimesStep;

/* For subtransaction_try(). */
static void
event_times_step(void *arg)
{
	const EventTimesStep *step = arg;
	Conversion *conversion = step->reader->event_time_conversion;
	int at = conversion->column->attnum - 1;

	for (int i = step->from; i < step->to; i++)
	{
		const Element *element = &step->batch->elements[i];

		CHECK_FOR_INTERRUPTS();
		if (element->sqlstate == 0 && !element->is_converted && !element->nulls[at])
			(void) convert(conversion, element->values[at]);
	}
}

/* Refuse those of some elements whose event time its domain refuses. */
static void
refuse_event_times(StagedReader *reader, Batch *batch, int from, int to)
{
	EventTimesStep step = {reader, batch, from, to};
	ErrorData *error = subtransaction_try(event_times_step, &step, false);
	int middle = from + (to - from) / 2;

	if (error == NULL)
		return;
	if (failure_kind(error) != FAILURE_DATA && failure_kind(error) != FAILURE_UNKNOWN)
		ReThrowError(error);
	if (to - from > 1)
	{
		refuse_event_times(reader, batch, from, middle);
		refuse_event_times(reader, batch, middle, to);
		return;
	}
	batch->elements[from].sqlstate = error->sqlerrcode;
	batch->elements[from].stage = "apply";
	batch->elements[from].reason = error->message;
}

/*
 * Refuse the elements of a batch whose event time its domain refuses, before partitions
 * are made: it would refuse the bounds of theirs, too.  Called in a transaction, with the
 * batch's memory current.
 */
void
batch_check_event_times(StagedReader *reader, Batch *batch)
{
	if (reader->stream->partition_interval != NULL && reader->event_time_conversion != NULL &&
		batch->count > 0)
		refuse_event_times(reader, batch, 0, batch->count);
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
 * Add an element of these columns of a consumer's staging table, which are copied.
 */
Element *
batch_append_staged(const StagedReader *reader, Batch *batch, Progress *progress,
					const Datum *staged, const bool *nulls)
{
	Element *element = batch_append(batch);

	element->progress = progress;
	element->offset = DatumGetInt64(staged[STAGED_OFFSET - 1]);
	element->element = DatumGetInt32(staged[STAGED_ELEMENT - 1]);
	if (!nulls[STAGED_TIMESTAMP - 1])
		element->kafka_timestamp = DatumGetTimestampTz(staged[STAGED_TIMESTAMP - 1]);
	element->sqlstate = DatumGetInt32(staged[STAGED_SQLSTATE - 1]);
	if (element->sqlstate != 0)
	{
		element->stage = "decode";
		element->reason = TextDatumGetCString(staged[STAGED_REASON - 1]);
		return element;
	}
	element_set_values(reader, element, staged, nulls);
	element->event_time = element_event_time(reader, element);
	return element;
}
