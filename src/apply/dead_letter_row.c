/*-------------------------------------------------------------------------
 *
 * dead_letter_row.c
 *	  What is kept of a dead letter: the row of its element.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "apply/dead_letter.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Of a letter of which the position alone is kept. */
#define SHORT_REASON_BYTES 100

/* What is kept of a message; headers are text there and jsonb here. */
const LetterColumn letter_message[LETTER_MESSAGE_COLUMNS] = {
	{LETTER_TIMESTAMP, STAGED_TIMESTAMP},
	{LETTER_KEY, STAGED_KEY},
	{LETTER_HEADERS, STAGED_HEADERS},
	{LETTER_PAYLOAD, STAGED_PAYLOAD},
};

/*
 * How a row that SQL staged is shown as JSON: without the ordinal, which is
 * ours.  Types that are not built in are shown as what they are staged as, so most as
 * text: what their casts make of them need not lead back.
 */
TupleDesc
dead_letter_row_desc(const Stream *stream)
{
	Relation rel = table_open(stream->staging_table, AccessShareLock);
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(rel));

	table_close(rel, NoLock);
	desc->tdtypeid = RECORDOID;
	TupleDescAttr(desc, stream->ordinal_attnum - 1)->attisdropped = true;
	compat_attribute_changed(desc, stream->ordinal_attnum - 1);
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (column->type >= FirstNormalObjectId)
			TupleDescInitEntry(desc, column->attnum, column->name, column->staged_type,
							   column->staged_typmod, 0);
	}
	return BlessTupleDesc(desc);
}

/* A row that SQL staged has no payload: its columns as JSON stand for it. */
static Datum
sql_row_payload(DeadLetters *letters, const Element *element)
{
	TupleDesc desc = letters->row_desc;
	Datum *values = palloc(desc->natts * sizeof(Datum));
	bool *nulls = palloc(desc->natts * sizeof(bool));

	memcpy(values, element->values, desc->natts * sizeof(Datum));
	memcpy(nulls, element->nulls, desc->natts * sizeof(bool));
	nulls[letters->stream->ordinal_attnum - 1] = true;
	for (int i = 0; i < letters->stream->ncolumns; i++)
	{
		const StreamColumn *column = &letters->stream->columns[i];
		int at = column->attnum - 1;
		Oid output;
		bool is_varlena;

		if (nulls[at] || column->type < FirstNormalObjectId || column->staged_type != TEXTOID)
			continue;
		getTypeOutputInfo(column->type, &output, &is_varlena);
		values[at] = CStringGetTextDatum(OidOutputFunctionCall(output, values[at]));
	}
	/* text and bytea have the same form */
	return DirectFunctionCall1(row_to_json,
							   HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* What Kafka said of the element's message. */
static void
fill_message(DeadLetters *letters, const Element *element, Datum *values, bool *nulls)
{
	Datum staged[STAGED_FIXED_COLUMNS];
	bool staged_nulls[STAGED_FIXED_COLUMNS];

	staged_message(letters->stream, element, staged, staged_nulls);
	for (int i = 0; i < LETTER_MESSAGE_COLUMNS; i++)
	{
		const LetterColumn *column = &letter_message[i];

		values[column->letter] = staged[column->staged - 1];
		nulls[column->letter] = staged_nulls[column->staged - 1];
	}
	if (!nulls[LETTER_HEADERS])
		values[LETTER_HEADERS] = DirectFunctionCall1(
			jsonb_in, CStringGetDatum(TextDatumGetCString(values[LETTER_HEADERS])));
}

/*
 * Where the element comes from, with all that is known of it.
 */
void
dead_letter_fill_source(DeadLetters *letters, const Element *element, Datum *values, bool *nulls)
{
	bool from_sql = element->progress->partition == SQL_PARTITION;

	values[LETTER_STREAM] = Int32GetDatum(letters->stream->id);
	values[LETTER_SERVER] = element->letter ? element->letter->values[LETTER_SERVER]
							: from_sql		? CStringGetTextDatum("")
											: CStringGetTextDatum(letters->stream->server);
	values[LETTER_ELEMENT] = Int32GetDatum(element->element);
	nulls[LETTER_TOPIC] = nulls[LETTER_PARTITION] = nulls[LETTER_OFFSET] = from_sql;
	if (from_sql)
	{
		nulls[LETTER_TIMESTAMP] = nulls[LETTER_KEY] = nulls[LETTER_HEADERS] = true;
		values[LETTER_PAYLOAD] = sql_row_payload(letters, element);
	}
	else
	{
		values[LETTER_TOPIC] = CStringGetTextDatum(element->progress->topic);
		values[LETTER_PARTITION] = Int32GetDatum(element->progress->partition);
		values[LETTER_OFFSET] = Int64GetDatum(element->offset);
		if (element->letter)
		{
			for (int i = LETTER_TIMESTAMP; i <= LETTER_PAYLOAD; i++)
			{
				values[i] = element->letter->values[i];
				nulls[i] = element->letter->nulls[i];
			}
		}
		else
			fill_message(letters, element, values, nulls);
	}
	nulls[LETTER_PAYLOAD_BYTES] = nulls[LETTER_PAYLOAD];
	if (!nulls[LETTER_PAYLOAD])
		values[LETTER_PAYLOAD_BYTES] =
			Int64GetDatum(toast_raw_datum_size(values[LETTER_PAYLOAD]) - VARHDRSZ);
	values[LETTER_IS_WHOLE] = BoolGetDatum(true);
}

/*
 * Why the element failed, and when.
 */
void
dead_letter_fill_failure(const Element *element, Datum *values, bool *nulls)
{
	values[LETTER_STAGE] = CStringGetTextDatum(element->stage);
	values[LETTER_SQLSTATE] = CStringGetTextDatum(unpack_sql_state(element->sqlstate));
	values[LETTER_REASON] = CStringGetTextDatum(element->reason);
	values[LETTER_LAST_ATTEMPT_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[LETTER_RETRY_ASKED_AT] = true;
}

/*
 * Cut a payload that is too long; what SQL staged is to be had nowhere else.
 */
void
dead_letter_cut_payload(Datum *values, const bool *nulls)
{
	int32 limit_bytes = detect_dead_letter_payload_kilobytes * 1024;

	if (nulls[LETTER_TOPIC] || nulls[LETTER_PAYLOAD] ||
		DatumGetInt64(values[LETTER_PAYLOAD_BYTES]) <= limit_bytes)
		return;
	values[LETTER_PAYLOAD] =
		PointerGetDatum(PG_DETOAST_DATUM_SLICE(values[LETTER_PAYLOAD], 0, limit_bytes));
	values[LETTER_IS_WHOLE] = BoolGetDatum(false);
}

/*
 * Keep the position alone.
 */
void
dead_letter_drop_payload(Datum *values, bool *nulls)
{
	char *reason = TextDatumGetCString(values[LETTER_REASON]);

	nulls[LETTER_KEY] = nulls[LETTER_HEADERS] = nulls[LETTER_PAYLOAD] = true;
	values[LETTER_IS_WHOLE] = BoolGetDatum(false);
	reason[pg_mbcliplen(reason, strlen(reason), SHORT_REASON_BYTES)] = '\0';
	values[LETTER_REASON] = CStringGetTextDatum(reason);
}

/*
 * Whether a letter has a payload, or would have one if its message had; these
 * are limited.
 */
bool
dead_letter_is_kept(const Datum *values, const bool *nulls)
{
	return DatumGetBool(values[LETTER_IS_WHOLE]) || !nulls[LETTER_PAYLOAD];
}
