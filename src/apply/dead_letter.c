/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Elements that could not become events, kept with their bytes and why.
 *
 * Letters are written in the transaction that passes their elements; the
 * table stays open for as long as that has some to write.  What of a letter is
 * kept depends on how many the stream has: past dead_letter_limit either the
 * position alone is kept, and a retry reads Kafka again, or an error pauses the
 * stream.  How many there are is counted once and then follows commits.  Others
 * delete letters too, or fill them; they invalidate the stream's definition,
 * which has them counted again.
 *
 * A letter is unique by the place of its element and the time of its message, so
 * that those of a topic that was made again do not take the place of older ones.
 * One that comes again, because it was retried or its message was read again,
 * counts an attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/dead_letter.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "ingest/kafka.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Letters that one transaction deletes because they are old. */
#define EXPIRED_AT_ONCE 1000

/*
 * The letters of a stream; nothing is read yet.  It lives in context.
 */
DeadLetters *
dead_letters_create(const Stream *stream, MemoryContext context)
{
	DeadLetters *letters = MemoryContextAllocZero(context, sizeof(DeadLetters));

	letters->stream = stream;
	letters->kept = -1;
	return letters;
}

/*
 * Somebody else may have deleted letters, or filled them.
 */
void
dead_letters_recount(DeadLetters *letters)
{
	letters->kept = -1;
}

/* How many letters with a payload the stream has. */
static int64
count_kept(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};
	int64 count;
	bool isnull;

	SPI_connect();
	catalog_execute("SELECT count(*) FROM detect._dead_letter "
					"WHERE stream_id = $1 AND (is_whole OR payload IS NOT NULL)",
					1, types, values, NULL);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return count;
}

/* Open what writing needs, unless this transaction has. */
static void
open_letters(DeadLetters *letters)
{
	const Stream *stream = letters->stream;

	if (letters->writer)
		return;
	if (stream->dead_letter_limit >= 0 && letters->kept < 0)
		letters->kept = count_kept(stream);
	letters->open_kept = 0;
	letters->writer = catalog_open("_dead_letter", LETTER_COLUMNS);
	letters->found =
		table_slot_create(letters->writer->rel, &letters->writer->estate->es_tupleTable);
	letters->retry_index =
		index_open(catalog_relation("_dead_letter_retry", false), AccessShareLock);
	letters->element_index =
		index_open(catalog_relation("_dead_letter_element", false), AccessShareLock);
	letters->new_ground = NIL;
	letters->sequence = catalog_relation("_dead_letter_id", false);
	letters->row_desc = dead_letter_row_desc(stream);
}

/* Whether there is room for one more letter; of those that SQL staged there
 * always is, unless the stream is to pause. */
static bool
has_room(const DeadLetters *letters, bool from_sql)
{
	const Stream *stream = letters->stream;
	const char *name = quote_literal_cstr(stream->name);

	if (stream->dead_letter_limit < 0 ||
		letters->kept + letters->open_kept < stream->dead_letter_limit)
		return true;
	if (stream->keep_offsets)
		return from_sql;
	ereport(
		ERROR,
		(errcode(ERRCODE_DEAD_LETTER_LIMIT),
		 errmsg("stream \"%s\" has %lld dead letters, and its dead_letter_limit is %lld",
				stream->name, (long long) (letters->kept + letters->open_kept),
				(long long) stream->dead_letter_limit),
		 errhint(
			 "See why in detect.dead_letter; mend it and call detect.retry_dead_letters(%s), or call detect.purge_dead_letters(%s), or raise dead_letter_limit with detect.alter_stream.",
			 name, name)));
}

/* ---------------------------------------------------------------------
 * Letters by their keys
 * ---------------------------------------------------------------------
 */

/* Find the letter with these keys; it is in letters->found then. */
static bool
find_letter(DeadLetters *letters, Relation index, ScanKey keys, int nkeys)
{
	IndexScanDesc scan =
		compat_index_beginscan(letters->writer->rel, index, GetActiveSnapshot(), nkeys);
	bool found;

	index_rescan(scan, keys, nkeys, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, letters->found);
	index_endscan(scan);
	return found;
}

/* Find the letter of the same place and time; of many letters of a partition, the
 * first whose offset is not below this one. */
static bool
find_by_place(DeadLetters *letters, const Datum *values, const bool *nulls, bool or_behind)
{
	static const struct
	{
		int column;
		RegProcedure equal;
	} place[] = {
		{LETTER_STREAM, F_INT4EQ},			 {LETTER_SERVER, F_TEXTEQ}, {LETTER_TOPIC, F_TEXTEQ},
		{LETTER_PARTITION, F_INT4EQ},		 {LETTER_OFFSET, F_INT8EQ}, {LETTER_ELEMENT, F_INT4EQ},
		{LETTER_TIMESTAMP, F_TIMESTAMPTZ_EQ}};
	const int last = lengthof(place) - 1;
	ScanKeyData keys[lengthof(place)];

	for (int i = 0; i < lengthof(place); i++)
	{
		ScanKeyInit(&keys[i], i + 1, BTEqualStrategyNumber, place[i].equal,
					values[place[i].column]);
		keys[i].sk_collation = letters->element_index->rd_indcollation[i];
	}
	if (nulls[LETTER_TIMESTAMP])
		ScanKeyEntryInitialize(&keys[last], SK_ISNULL | SK_SEARCHNULL, last + 1, InvalidStrategy,
							   InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
	if (!or_behind)
		return find_letter(letters, letters->element_index, keys, lengthof(place));
	ScanKeyInit(&keys[4], 5, BTGreaterEqualStrategyNumber, F_INT8GE, values[LETTER_OFFSET]);
	return find_letter(letters, letters->element_index, keys, 5);
}

/* Find the letter that an element has already: its message was read before.
 * Offsets grow, so where no letter lies ahead none needs to be looked for. */
static bool
find_older(DeadLetters *letters, const Element *element, const Datum *values, const bool *nulls)
{
	if (element->progress->partition == SQL_PARTITION)
		return false;
	if (element->letter == NULL)
	{
		if (list_member_ptr(letters->new_ground, element->progress))
			return false;
		if (!find_by_place(letters, values, nulls, true))
		{
			MemoryContext old_context =
				MemoryContextSwitchTo(GetMemoryChunkContext(letters->writer));

			letters->new_ground = lappend(letters->new_ground, element->progress);
			MemoryContextSwitchTo(old_context);
			return false;
		}
	}
	return find_by_place(letters, values, nulls, false);
}

/* The values of the letter that was found. */
static void
found_values(DeadLetters *letters, Datum *values, bool *nulls)
{
	slot_getallattrs(letters->found);
	memcpy(values, letters->found->tts_values, LETTER_COLUMNS * sizeof(Datum));
	memcpy(nulls, letters->found->tts_isnull, LETTER_COLUMNS * sizeof(bool));
}

/* Get the version of a letter that this transaction has locked. */
static void
fetch_locked(DeadLetters *letters, const RetriedLetter *letter)
{
	ItemPointerData tid = letter->tid;

	if (!table_tuple_fetch_row_version(letters->writer->rel, &tid, GetActiveSnapshot(),
									   letters->found))
		elog(ERROR, "a dead letter that is locked has gone");
}

/* ---------------------------------------------------------------------
 * What the applier does
 * ---------------------------------------------------------------------
 */

/* Write a letter in the place of an older one of the same element. */
static void
write_again(DeadLetters *letters, Datum *values, bool *nulls)
{
	Datum old[LETTER_COLUMNS];
	bool old_nulls[LETTER_COLUMNS];

	found_values(letters, old, old_nulls);
	values[LETTER_ID] = old[LETTER_ID];
	values[LETTER_RETRIED_ELEMENT] = old[LETTER_RETRIED_ELEMENT];
	values[LETTER_ATTEMPTS] = Int32GetDatum(DatumGetInt32(old[LETTER_ATTEMPTS]) + 1);
	values[LETTER_RECORDED_AT] = old[LETTER_RECORDED_AT];
	letters->open_kept += dead_letter_is_kept(values, nulls) - dead_letter_is_kept(old, old_nulls);
	catalog_rewrite(letters->writer, letters->found, values, nulls);
}

/*
 * Keep an element as a dead letter, in the transaction that passes it.  Raises
 * ERRCODE_DEAD_LETTER_LIMIT when the stream is to pause instead.
 */
void
dead_letters_write(DeadLetters *letters, const Element *element)
{
	Datum values[LETTER_COLUMNS] = {0};
	bool nulls[LETTER_COLUMNS] = {0};
	MemoryContext old_context;

	Assert(element->sqlstate != 0);
	open_letters(letters);
	old_context = MemoryContextSwitchTo(GetPerTupleMemoryContext(letters->writer->estate));
	dead_letter_fill_source(letters, element, values, nulls);
	dead_letter_fill_failure(element, values, nulls);
	if (has_room(letters, nulls[LETTER_TOPIC]) && element->sqlstate != ERRCODE_MESSAGE_TOO_LARGE)
		dead_letter_cut_payload(values, nulls);
	else
		dead_letter_drop_payload(values, nulls);
	if (find_older(letters, element, values, nulls))
		write_again(letters, values, nulls);
	else
	{
		values[LETTER_ID] = Int64GetDatum(nextval_internal(letters->sequence, false));
		values[LETTER_ATTEMPTS] = Int32GetDatum(1);
		values[LETTER_RETRIED_ELEMENT] = Int32GetDatum(ELEMENT_MESSAGE);
		values[LETTER_RECORDED_AT] = values[LETTER_LAST_ATTEMPT_AT];
		letters->open_kept += dead_letter_is_kept(values, nulls);
		catalog_write(letters->writer, values, nulls);
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * Lock a letter that is to be retried; false when it has gone, or somebody else
 * is at it.
 */
bool
dead_letters_lock(DeadLetters *letters, RetriedLetter *letter)
{
	ScanKeyData keys[2];
	TM_FailureData failure;

	open_letters(letters);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, letter->values[LETTER_STREAM]);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT8EQ, letter->values[LETTER_ID]);
	if (!find_letter(letters, letters->retry_index, keys, lengthof(keys)))
		return false;
	letter->tid = letters->found->tts_tid;
	return table_tuple_lock(letters->writer->rel, &letter->tid, GetActiveSnapshot(), letters->found,
							GetCurrentCommandId(false), LockTupleExclusive, LockWaitSkip, 0,
							&failure) == TM_Ok;
}

/*
 * A letter that was retried has failed again: an attempt more, and why.  What
 * the retry has read from Kafka goes again where it is over the limit.
 */
void
dead_letters_fail_again(DeadLetters *letters, const Element *element)
{
	const Stream *stream = letters->stream;
	MemoryContext old_context =
		MemoryContextSwitchTo(GetPerTupleMemoryContext(letters->writer->estate));
	Datum values[LETTER_COLUMNS];
	bool nulls[LETTER_COLUMNS];

	fetch_locked(letters, element->letter);
	found_values(letters, values, nulls);
	dead_letter_fill_failure(element, values, nulls);
	values[LETTER_ATTEMPTS] = Int32GetDatum(DatumGetInt32(values[LETTER_ATTEMPTS]) + 1);
	if (stream->keep_offsets && !nulls[LETTER_TOPIC] && stream->dead_letter_limit >= 0 &&
		letters->kept + letters->open_kept > stream->dead_letter_limit)
	{
		dead_letter_drop_payload(values, nulls);
		letters->open_kept--;
	}
	else if (!nulls[LETTER_TOPIC])
		dead_letter_cut_payload(values, nulls);
	catalog_rewrite(letters->writer, letters->found, values, nulls);
	MemoryContextSwitchTo(old_context);
}

/*
 * Of a message that is a letter as a whole, elements up to this one have their
 * outcome, and others have not yet.
 */
void
dead_letters_note_done(DeadLetters *letters, const Element *element)
{
	Datum values[LETTER_COLUMNS];
	bool nulls[LETTER_COLUMNS];

	fetch_locked(letters, element->letter);
	found_values(letters, values, nulls);
	values[LETTER_RETRIED_ELEMENT] = Int32GetDatum(element->element);
	catalog_rewrite(letters->writer, letters->found, values, nulls);
}

/*
 * Delete a letter whose element has another outcome now.
 */
void
dead_letters_delete(DeadLetters *letters, const RetriedLetter *letter)
{
	ItemPointerData tid = letter->tid;

	simple_table_tuple_delete(letters->writer->rel, &tid, GetActiveSnapshot());
	letters->open_kept--;
}

/*
 * Delete letters that are older than they are to be kept, some at a time and
 * none that a retry is asked for.  Called in a transaction; true when there may
 * be more.
 */
bool
dead_letters_expire(DeadLetters *letters)
{
	const Stream *stream = letters->stream;
	Oid types[3] = {INT4OID, INTERVALOID, INT4OID};
	Datum values[3];
	int64 deleted;
	bool isnull;

	if (stream->dead_letter_retention == NULL)
		return false;
	values[0] = Int32GetDatum(stream->id);
	values[1] = IntervalPGetDatum(stream->dead_letter_retention);
	values[2] = Int32GetDatum(EXPIRED_AT_ONCE);
	SPI_connect();
	catalog_execute("WITH old AS (SELECT ctid FROM detect._dead_letter "
					"WHERE stream_id = $1 AND recorded_at < now() - $2 AND retry_asked_at IS NULL "
					"ORDER BY recorded_at LIMIT $3 FOR UPDATE SKIP LOCKED), "
					"gone AS (DELETE FROM detect._dead_letter d USING old "
					"WHERE d.ctid = old.ctid "
					"RETURNING d.is_whole OR d.payload IS NOT NULL AS kept) "
					"SELECT count(*), count(*) FILTER (WHERE kept) FROM gone",
					3, types, values, NULL);
	deleted =
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	letters->open_kept -=
		DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	SPI_finish();
	return deleted == EXPIRED_AT_ONCE;
}

/*
 * Close what writing has opened, before the commit.
 */
void
dead_letters_close(DeadLetters *letters)
{
	if (letters->writer == NULL)
		return;
	index_close(letters->retry_index, NoLock);
	index_close(letters->element_index, NoLock);
	catalog_close(letters->writer);
	letters->writer = NULL;
}

/*
 * The transaction has committed: the count follows.
 */
void
dead_letters_commit(DeadLetters *letters)
{
	if (letters->kept >= 0)
		letters->kept += letters->open_kept;
	letters->open_kept = 0;
}

/*
 * The transaction was aborted, and all that it had open is gone.
 */
void
dead_letters_abort(DeadLetters *letters)
{
	letters->writer = NULL;
	letters->open_kept = 0;
}
