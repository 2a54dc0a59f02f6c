/*-------------------------------------------------------------------------
 *
 * unknown_field.c
 *	  Members of messages that no column takes, told in detect._unknown_field.
 *
 * A decoder counts them (decode_unknown.c); a consumer adds its counts to the
 * table now and then.  Several consumers of a stream do so at once, and each
 * holds the rows that it has updated until it commits: so all of them update
 * rows in the same order, that of their names.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "ingest/consumer_internal.h"
#include "utils/builtins.h"

#define INTERVAL_MS 10000

/*
 * Whether there are counts, and it is time to tell of them.
 */
bool
consumer_tells_unknown(const Consumer *consumer)
{
	int nfields;

	if (!time_is_over(consumer->unknown_fields_due, GetCurrentTimestamp(), INTERVAL_MS))
		return false;
	(void) decoder_unknown_fields(consumer->decoder, &nfields);
	return nfields > 0;
}

static int
compare_fields(const void *a, const void *b)
{
	const UnknownField *left = a;
	const UnknownField *right = b;

	if (left->of_item != right->of_item)
		return left->of_item ? 1 : -1;
	return strcmp(left->name, right->name);
}

/*
 * Add the counts to those of the table, in a transaction under the stream's
 * lock; consumer_forget_unknown() follows its commit.
 */
void
consumer_write_unknown(const Consumer *consumer)
{
	static SPIPlanPtr plan = NULL;
	Oid types[3] = {INT4OID, TEXTOID, INT8OID};
	Datum values[3];
	int nfields;
	UnknownField *fields = decoder_unknown_fields(consumer->decoder, &nfields);

	qsort(fields, nfields, sizeof(UnknownField), compare_fields);
	values[0] = Int32GetDatum(consumer->stream->id);
	SPI_connect();
	for (int i = 0; i < nfields; i++)
	{
		values[1] = CStringGetTextDatum(fields[i].of_item ? psprintf("@.%s", fields[i].name)
														  : fields[i].name);
		values[2] = Int64GetDatum((int64) fields[i].count);
		catalog_execute_often(
			&plan,
			"INSERT INTO detect._unknown_field AS u VALUES ($1, $2, $3, now()) "
			"ON CONFLICT (stream_id, name) DO UPDATE SET "
			"elements = u.elements + EXCLUDED.elements, last_seen = EXCLUDED.last_seen",
			3, types, values);
	}
	SPI_finish();
}

/*
 * Begin to count anew, after the commit.
 */
void
consumer_forget_unknown(Consumer *consumer)
{
	decoder_reset_unknown_fields(consumer->decoder);
	consumer->unknown_fields_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), INTERVAL_MS);
}

/*
 * Tell of them while nothing else is to be written; false when the definition
 * has changed.
 */
bool
consumer_flush_unknown(Consumer *consumer)
{
	if (!consumer_tells_unknown(consumer))
		return true;
	if (!stream_transaction_begin(consumer->stream))
		return false;
	consumer_write_unknown(consumer);
	stream_transaction_commit();
	consumer_forget_unknown(consumer);
	return true;
}
