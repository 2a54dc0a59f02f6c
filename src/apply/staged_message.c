/*-------------------------------------------------------------------------
 *
 * staged_message.c
 *	  What Kafka said of an element's message, from its staged row once more.
 *
 * A batch has the columns of its elements in memory, not their messages, which few
 * ask for: dead letters, and the last element of each partition.  The first row of a
 * message, which has the payload, stays where it was read until everything staged is
 * applied, unless somebody rewrites the table.  Therefore the row that is found has
 * to be the right one; when it is not, the batch is read again.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "access/tableam.h"
#include "apply/batch.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Whether a staged row is of an element's message. */
static bool
is_of_message(const Stream *stream, const Element *element, const Datum *values)
{
	const Progress *progress = element->progress;

	return DatumGetInt64(values[STAGED_OFFSET - 1]) == element->offset &&
		   DatumGetInt32(values[STAGED_PARTITION - 1]) == progress->partition &&
		   DatumGetInt16(values[STAGED_TOPIC - 1]) == stream_topic_index(stream, progress->topic);
}

/* A copy of the row at a place, NULL if there is none. */
static HeapTuple
fetch_row(Relation rel, ItemPointerData tid)
{
	TupleTableSlot *slot;
	HeapTuple tuple = NULL;

	/* a table that was rewritten is shorter perhaps */
	if (ItemPointerGetBlockNumber(&tid) >= RelationGetNumberOfBlocks(rel))
		return NULL;
	slot = table_slot_create(rel, NULL);
	if (table_tuple_fetch_row_version(rel, &tid, SnapshotAny, slot))
		tuple = ExecCopySlotHeapTuple(slot);
	ExecDropSingleTupleTableSlot(slot);
	return tuple;
}

/*
 * The columns that all staged rows have, for the message that an element came with:
 * room for STAGED_FIXED_COLUMNS.  In a transaction under the stream's lock.
 */
void
staged_message(const Stream *stream, const Element *element, Datum *values, bool *nulls)
{
	const Progress *progress = element->progress;
	int writer = staging_writer_of(stream, progress->topic, progress->partition);
	Relation rel = table_open(staging_table_oid(stream->id, writer), AccessShareLock);
	HeapTuple tuple = fetch_row(rel, element->message_tid);

	for (int i = 0; i < STAGED_FIXED_COLUMNS && tuple != NULL; i++)
		values[i] = heap_getattr(tuple, i + 1, RelationGetDescr(rel), &nulls[i]);
	table_close(rel, NoLock);
	if (tuple == NULL || !is_of_message(stream, element, values))
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("a staged message of stream \"%s\" is not where it was read",
							   stream->name)));
}

/*
 * The fingerprint of the message that an element came with.  As staged_message().
 */
int64
staged_fingerprint(const Stream *stream, const Element *element)
{
	static const int columns[] = {STAGED_KEY - 1, STAGED_PAYLOAD - 1};
	Datum values[STAGED_FIXED_COLUMNS];
	bool nulls[STAGED_FIXED_COLUMNS];
	const char *bytes[] = {NULL, NULL};
	Size nbytes[] = {0, 0};

	staged_message(stream, element, values, nulls);
	for (int i = 0; i < lengthof(columns); i++)
	{
		bytea *whole;

		if (nulls[columns[i]])
			continue;
		whole = DatumGetByteaPP(values[columns[i]]);
		bytes[i] = VARDATA_ANY(whole);
		nbytes[i] = VARSIZE_ANY_EXHDR(whole);
	}
	return message_fingerprint(element->kafka_timestamp, bytes[0], nbytes[0], bytes[1], nbytes[1]);
}
