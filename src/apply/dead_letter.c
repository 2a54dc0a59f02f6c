/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Elements that could not become events, kept with their bytes and why.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "apply/batch.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

/* Attributes of detect._dead_letter. */
enum
{
	LETTER_ID,
	LETTER_STREAM,
	LETTER_TOPIC,
	LETTER_PARTITION,
	LETTER_OFFSET,
	LETTER_ELEMENT,
	LETTER_TIMESTAMP,
	LETTER_KEY,
	LETTER_HEADERS,
	LETTER_PAYLOAD,
	LETTER_STAGE,
	LETTER_SQLSTATE,
	LETTER_REASON,
	LETTER_ATTEMPTS,
	LETTER_RECORDED_AT,
	LETTER_COLUMNS
};

/* A row that SQL staged has no payload: its columns as JSON stand for it, but
 * for the ordinal, which is ours. */
static Datum
sql_row_payload(const Stream *stream, const Element *element)
{
	Relation rel = table_open(stream->staging_table, AccessShareLock);
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(rel));
	Datum row;
	Datum json;

	desc->tdtypeid = RECORDOID;
	TupleDescAttr(desc, stream->ordinal_attnum - 1)->attisdropped = true;
	row = heap_copy_tuple_as_datum(element->staged, BlessTupleDesc(desc));
	json = DirectFunctionCall1(row_to_json, row);
	table_close(rel, AccessShareLock);
	return json; /* text and bytea have the same form */
}

/* What Kafka said of the element's message. */
static void
fill_message(const Stream *stream, const Element *element, Datum *values, bool *nulls)
{
	Relation rel = table_open(staging_table_oid(stream->id, 0), AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	HeapTuple tuple = element->staged;
	bool isnull;

	values[LETTER_TOPIC] = CStringGetTextDatum(element->progress->topic);
	values[LETTER_PARTITION] = Int32GetDatum(element->progress->partition);
	values[LETTER_OFFSET] = Int64GetDatum(element->offset);
	values[LETTER_TIMESTAMP] =
		heap_getattr(tuple, STAGED_TIMESTAMP, desc, &nulls[LETTER_TIMESTAMP]);
	values[LETTER_KEY] = heap_getattr(tuple, STAGED_KEY, desc, &nulls[LETTER_KEY]);
	values[LETTER_PAYLOAD] =
		heap_getattr(element->message, STAGED_PAYLOAD, desc, &nulls[LETTER_PAYLOAD]);
	values[LETTER_HEADERS] = heap_getattr(tuple, STAGED_HEADERS, desc, &isnull);
	nulls[LETTER_HEADERS] = isnull;
	if (!isnull)
		values[LETTER_HEADERS] = DirectFunctionCall1(
			jsonb_in, CStringGetDatum(TextDatumGetCString(values[LETTER_HEADERS])));
	table_close(rel, AccessShareLock);
}

/*
 * Keep an element as a dead letter, in the transaction that passes its offset.
 */
void
dead_letter_write(const Stream *stream, const Element *element)
{
	Datum values[LETTER_COLUMNS] = {0};
	bool nulls[LETTER_COLUMNS] = {0};

	Assert(element->sqlstate != 0);
	if (element->progress->partition == SQL_PARTITION)
	{
		nulls[LETTER_TOPIC] = nulls[LETTER_PARTITION] = nulls[LETTER_OFFSET] = true;
		nulls[LETTER_TIMESTAMP] = nulls[LETTER_KEY] = nulls[LETTER_HEADERS] = true;
		values[LETTER_PAYLOAD] = sql_row_payload(stream, element);
	}
	else
		fill_message(stream, element, values, nulls);
	values[LETTER_ID] = Int64GetDatum(catalog_next_id("_dead_letter_id"));
	values[LETTER_STREAM] = Int32GetDatum(stream->id);
	values[LETTER_ELEMENT] = Int32GetDatum(element->element);
	values[LETTER_STAGE] = CStringGetTextDatum(element->stage);
	values[LETTER_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(element->sqlstate));
	values[LETTER_REASON] = CStringGetTextDatum(element->reason);
	values[LETTER_ATTEMPTS] = Int32GetDatum(1);
	values[LETTER_RECORDED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	catalog_insert("_dead_letter", values, nulls);
}
