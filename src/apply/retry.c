/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  Dead letters that are tried again: a third source of elements.
 *
 * Letters of which a retry is asked for are decoded with the stream's current
 * definition and decided like all other elements, in pieces (retry_settle.c).
 *
 * A letter stands for one element, or for a whole message that could not be
 * taken apart.  If it can now, all its elements are tried, and because they may
 * be more than a piece, the letter remembers how far they have come; those that
 * fail become letters of their own.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/dead_letter.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "ingest/stream_decoder.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* So many letters at a time, so that fresh events need not wait for long. */
#define LETTERS_AT_ONCE 5000

struct RetryReader
{
	const Stream *stream;
	MemoryContext context;
	Decoder *messages; /* made when they are needed */
	Decoder *rows;
	Decoder *current; /* that has a batch open, or NULL */
	int64 read_until; /* dead_letter_id: a look goes on where the last one ended */

	List *forgotten; /* of Progress: partitions of letters that Kafka has no more */

	/* The message that is being taken apart: letters of one mostly follow one
	 * another. */
	const RetriedLetter *open;
	int next_item;
	Datum *staged; /* scratch, of the batch's life */
	bool *staged_nulls;
};

/*
 * A reader of the letters that are to be retried.  It lives in context.
 */
RetryReader *
retry_reader_create(const Stream *stream, MemoryContext context)
{
	RetryReader *reader = MemoryContextAllocZero(context, sizeof(RetryReader));

	reader->stream = stream;
	reader->context = context;
	return reader;
}

/*
 * Begin with the oldest letter next time: somebody has asked for more, or some
 * were left alone.
 */
void
retry_rewind(RetryReader *reader)
{
	reader->read_until = 0;
}

/* A letter from a row of SPI_tuptable, in the current context. */
static RetriedLetter *
letter_from_row(int row)
{
	RetriedLetter *letter = palloc0(sizeof(RetriedLetter));
	TupleDesc desc = SPI_tuptable->tupdesc;

	for (int i = 0; i < LETTER_COLUMNS; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		letter->values[i] = SPI_getbinval(SPI_tuptable->vals[row], desc, i + 1, &letter->nulls[i]);
		if (letter->nulls[i])
			continue;
		if (attribute->attlen == -1)
			letter->values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(letter->values[i]));
		else
			letter->values[i] =
				datumCopy(letter->values[i], attribute->attbyval, attribute->attlen);
	}
	letter->element = DatumGetInt32(letter->values[LETTER_ELEMENT]);
	letter->done_element = DatumGetInt32(letter->values[LETTER_RETRIED_ELEMENT]);
	return letter;
}

/* The letters to be retried next, as many as a batch takes, in the current
 * context. */
static List *
select_letters(RetryReader *reader)
{
	static SPIPlanPtr plan = NULL;
	const Stream *stream = reader->stream;
	MemoryContext context = CurrentMemoryContext;
	Oid types[4] = {INT4OID, INT4OID, INT8OID, INT8OID};
	Datum values[4];
	List *letters = NIL;
	int rows;

	values[0] = Int32GetDatum(stream->id);
	values[1] = Int32GetDatum(Min(LETTERS_AT_ONCE, detect_max_batch_rows));
	values[2] = Int64GetDatum((int64) detect_max_batch_kilobytes * 1024);
	values[3] = Int64GetDatum(reader->read_until);
	SPI_connect();
	rows = catalog_execute_often(
		&plan,
		"SELECT * FROM (SELECT d.*, sum(payload_bytes) OVER (ORDER BY dead_letter_id) AS bytes "
		"FROM (SELECT * FROM detect._dead_letter WHERE stream_id = $1 "
		"AND retry_asked_at IS NOT NULL AND dead_letter_id > $4 ORDER BY dead_letter_id LIMIT $2) d) b "
		"WHERE COALESCE(bytes - payload_bytes, 0) < $3 ORDER BY dead_letter_id",
		4, types, values);
	MemoryContextSwitchTo(context);
	for (int i = 0; i < rows; i++)
		letters = lappend(letters, letter_from_row(i));
	SPI_finish();
	return letters;
}

/* ---------------------------------------------------------------------
 * From letters to elements
 * ---------------------------------------------------------------------
 */

/* End the batch of one decoder before that of the other begins: each may have a
 * subtransaction open. */
static void
use_decoder(RetryReader *reader, Decoder *decoder)
{
	if (reader->current == decoder)
		return;
	if (reader->current)
		decoder_end_batch(reader->current);
	if (decoder)
		decoder_begin_batch(decoder);
	reader->current = decoder;
}

/* The payload of a letter; NULL when the message had none. */
static const char *
letter_payload(const RetriedLetter *letter, size_t *bytes)
{
	bytea *payload;

	*bytes = 0;
	if (letter->nulls[LETTER_PAYLOAD])
		return NULL;
	payload = DatumGetByteaPP(letter->values[LETTER_PAYLOAD]);
	*bytes = VARSIZE_ANY_EXHDR(payload);
	return VARDATA_ANY(payload);
}

static bool
is_same_message(const RetriedLetter *a, const RetriedLetter *b)
{
	return DatumGetInt64(a->values[LETTER_OFFSET]) == DatumGetInt64(b->values[LETTER_OFFSET]) &&
		   a->nulls[LETTER_TIMESTAMP] == b->nulls[LETTER_TIMESTAMP] &&
		   a->values[LETTER_TIMESTAMP] == b->values[LETTER_TIMESTAMP] &&
		   datumIsEqual(a->values[LETTER_SERVER], b->values[LETTER_SERVER], false, -1) &&
		   DatumGetInt32(a->values[LETTER_PARTITION]) ==
			   DatumGetInt32(b->values[LETTER_PARTITION]) &&
		   datumIsEqual(a->values[LETTER_TOPIC], b->values[LETTER_TOPIC], false, -1);
}

/* Have the decoder stand before an item of the letter's message. */
static bool
open_message(RetryReader *reader, const RetriedLetter *letter, int item, DecodeError *error)
{
	size_t bytes;
	const char *payload = letter_payload(letter, &bytes);

	if (reader->open && is_same_message(reader->open, letter) && reader->next_item <= item)
		return true;
	reader->open = NULL;
	if (!decoder_begin_message(reader->messages, payload, bytes, error))
		return false;
	reader->open = letter;
	reader->next_item = 0;
	return true;
}

/* Decode the next item of the open message into the columns after those that
 * all staged rows have. */
static bool
next_item(RetryReader *reader, DecodeError *error)
{
	reader->next_item++;
	return decoder_next_element(reader->messages, reader->staged + STAGED_FIXED_COLUMNS,
								reader->staged_nulls + STAGED_FIXED_COLUMNS, error);
}

/* Decode one item of the letter's message. */
static bool
decode_item(RetryReader *reader, const RetriedLetter *letter, int item, DecodeError *error)
{
	if (!open_message(reader, letter, item, error))
		return false;
	if (item >= decoder_element_count(reader->messages))
	{
		error->sqlstate = ERRCODE_INVALID_PARAMETER_VALUE;
		error->reason = psprintf("message has no item %d", item);
		return false;
	}
	while (reader->next_item < item)
		(void) next_item(reader, error);
	return next_item(reader, error);
}

/* The columns that all staged rows have, as the message's consumer would stage
 * them. */
static void
fill_staged(RetryReader *reader, const RetriedLetter *letter)
{
	memset(reader->staged_nulls, true, STAGED_FIXED_COLUMNS);
	reader->staged[STAGED_OFFSET - 1] = letter->values[LETTER_OFFSET];
	reader->staged[STAGED_PARTITION - 1] = letter->values[LETTER_PARTITION];
	reader->staged_nulls[STAGED_OFFSET - 1] = reader->staged_nulls[STAGED_PARTITION - 1] = false;
	for (int i = 0; i < LETTER_MESSAGE_COLUMNS; i++)
	{
		const LetterColumn *column = &letter_message[i];

		reader->staged[column->staged - 1] = letter->values[column->letter];
		reader->staged_nulls[column->staged - 1] = letter->nulls[column->letter];
	}
	if (!letter->nulls[LETTER_HEADERS])
	{
		Jsonb *headers = DatumGetJsonbP(letter->values[LETTER_HEADERS]);

		reader->staged[STAGED_HEADERS - 1] =
			CStringGetTextDatum(JsonbToCString(NULL, &headers->root, VARSIZE_ANY_EXHDR(headers)));
	}
}

/* Add an element of a message, decoded or with the reason why not. */
static Element *
append_item(RetryReader *reader, StagedReader *staged_reader, Batch *batch, Progress *progress,
			RetriedLetter *letter, int item, const DecodeError *error)
{
	Element *element;

	reader->staged[STAGED_ELEMENT - 1] = Int32GetDatum(item);
	reader->staged[STAGED_SQLSTATE - 1] = Int32GetDatum(error ? error->sqlstate : 0);
	if (error)
		reader->staged[STAGED_REASON - 1] = CStringGetTextDatum(error->reason);
	element =
		batch_append_staged(staged_reader, batch, progress, reader->staged, reader->staged_nulls);
	element->letter = letter;
	element->replaces_letter = item == letter->element || item == 0;
	return element;
}

/* Add the elements of a message that was a letter as a whole. */
static void
append_message(RetryReader *reader, StagedReader *staged_reader, Batch *batch, Progress *progress,
			   RetriedLetter *letter)
{
	int before = batch->count;
	DecodeError error;
	int count;

	reader->open = NULL;
	if (!open_message(reader, letter, 0, &error))
	{
		append_item(reader, staged_reader, batch, progress, letter, ELEMENT_MESSAGE, &error);
		return;
	}
	count = decoder_element_count(reader->messages);
	for (int i = 0; i < count; i++)
	{
		bool is_decoded = next_item(reader, &error);

		if (i > letter->done_element)
			append_item(reader, staged_reader, batch, progress, letter, i,
						is_decoded ? NULL : &error);
	}
	/* no items, or all of them done: the letter goes */
	if (batch->count == before)
	{
		Element *element = batch_append(batch);

		element->progress = progress;
		element->letter = letter;
		element->is_void = element->is_converted = element->replaces_letter = true;
	}
}

/* Add the element of a row that SQL staged. */
static void
append_row(RetryReader *reader, StagedReader *staged_reader, Batch *batch, Progress *progress,
		   RetriedLetter *letter)
{
	const Stream *stream = reader->stream;
	Element *element = batch_append(batch);
	DecodeError error;
	size_t bytes;
	const char *payload = letter_payload(letter, &bytes);

	element->progress = progress;
	element->offset = -1;
	element->letter = letter;
	element->replaces_letter = true;
	(void) element_allocate_values(stream, element, 0);
	if (!decoder_begin_message(reader->rows, payload, bytes, &error) ||
		!decoder_next_element(reader->rows, reader->staged, reader->staged_nulls, &error))
	{
		element->sqlstate = error.sqlstate;
		element->stage = "decode";
		element->reason = error.reason;
		return;
	}
	for (int i = 0; i < stream->ncolumns; i++)
	{
		element->values[stream->columns[i].attnum - 1] = reader->staged[i];
		element->nulls[stream->columns[i].attnum - 1] = reader->staged_nulls[i];
	}
	element->event_time = element_event_time(staged_reader, element);
}

/* The progress of a letter's partition.  One that Kafka has no more was forgotten with
 * its outcomes, so those of its letters are counted nowhere. */
static Progress *
letter_progress(RetryReader *reader, List *applied, const RetriedLetter *letter)
{
	bool from_sql = letter->nulls[LETTER_TOPIC];
	char *topic = from_sql ? pstrdup(SQL_TOPIC) : TextDatumGetCString(letter->values[LETTER_TOPIC]);
	int32 partition = from_sql ? SQL_PARTITION : DatumGetInt32(letter->values[LETTER_PARTITION]);
	Progress *progress = progress_find(applied, topic, partition);

	if (progress == NULL)
		progress = progress_find(reader->forgotten, topic, partition);
	if (progress == NULL)
	{
		progress = palloc0(sizeof(Progress));
		progress->topic = topic;
		progress->partition = partition;
		progress->last_timestamp = DT_NOBEGIN;
		progress->is_forgotten = true;
		reader->forgotten = lappend(reader->forgotten, progress);
	}
	return progress;
}

/* Add the elements of a letter to the batch. */
static void
append_letter(RetryReader *reader, StagedReader *staged_reader, Batch *batch, List *applied,
			  RetriedLetter *letter)
{
	bool from_sql = letter->nulls[LETTER_TOPIC];
	Progress *progress = letter_progress(reader, applied, letter);
	DecodeError error;

	use_decoder(reader, from_sql ? reader->rows : reader->messages);
	if (from_sql)
	{
		append_row(reader, staged_reader, batch, progress, letter);
		return;
	}
	fill_staged(reader, letter);
	if (letter->element == ELEMENT_MESSAGE)
		append_message(reader, staged_reader, batch, progress, letter);
	else if (decode_item(reader, letter, letter->element, &error))
		append_item(reader, staged_reader, batch, progress, letter, letter->element, NULL);
	else
		append_item(reader, staged_reader, batch, progress, letter, letter->element, &error);
}

static void
open_decoders(RetryReader *reader)
{
	int nfields;

	if (reader->messages == NULL)
		reader->messages = stream_message_decoder(reader->stream, reader->context, &nfields);
	if (reader->rows == NULL)
		reader->rows = stream_row_decoder(reader->stream, reader->context);
}

/*
 * The letters that are to be retried next, decoded, in the order in which they
 * were written.  The caller is in a transaction with an active snapshot, holds
 * the stream's lock, and has the batch's memory current.
 */
Batch *
retry_read(RetryReader *reader, StagedReader *staged_reader, List *applied)
{
	Batch *batch = palloc0(sizeof(Batch));
	List *letters = select_letters(reader);
	int ncolumns = STAGED_FIXED_COLUMNS + reader->stream->ncolumns;
	ListCell *cell;

	batch->source = SOURCE_LETTERS;
	batch->is_cut = letters != NIL;
	if (letters == NIL)
	{
		retry_rewind(reader);
		return batch;
	}
	open_decoders(reader);
	reader->open = NULL;
	reader->forgotten = NIL;
	reader->current = NULL; /* an error may have left it */
	reader->staged = palloc0(ncolumns * sizeof(Datum));
	reader->staged_nulls = palloc0(ncolumns * sizeof(bool));
	foreach(cell, letters)
		append_letter(reader, staged_reader, batch, applied, lfirst(cell));
	use_decoder(reader, NULL);
	reader->read_until = DatumGetInt64(((RetriedLetter *) llast(letters))->values[LETTER_ID]);
	return batch;
}
