/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  The two progresses of a stream: staged and applied.
 *
 * Staged progress is unlogged and commits with the staged rows; applied
 * progress is logged and commits with what the rows caused.  A crash empties
 * the former together with the rows that it describes, and the consumer then
 * starts again from the latter: so nothing is lost, and because the applier
 * skips what lies below applied progress, nothing is counted twice.
 *
 * Why a partition is paused is in both kinds of table: staged progress is where it is
 * looked for, and a logged one from where it comes back.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/spi.h"
#include "fault_point.h"
#include "ingest/staging.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Columns of the two progress tables, of which those that both have come first, and of
 * the one that has why partitions are paused, which has their keys. */
enum
{
	PROGRESS_STREAM,
	PROGRESS_TOPIC,
	PROGRESS_PARTITION,
	PROGRESS_LAST_OFFSET,
	PROGRESS_KEYS = PROGRESS_LAST_OFFSET,

	APPLIED_LAST_ELEMENT = PROGRESS_LAST_OFFSET + 1,
	APPLIED_NEXT_OFFSET,
	APPLIED_LAST_TIMESTAMP,
	APPLIED_LAST_FINGERPRINT,
	APPLIED_OUTCOMES,
	APPLIED_COLUMNS = APPLIED_OUTCOMES + OUTCOMES,

	STAGED_NEXT_OFFSET = PROGRESS_LAST_OFFSET + 1,
	STAGED_END_OFFSET,
	STAGED_PAUSED_REASON,
	STAGED_PAUSED_SINCE,
	STAGED_IS_MISSING,
	STAGED_WAITS_SINCE,
	STAGED_COLUMNS,

	PAUSED_END_OFFSET = PROGRESS_KEYS,
	PAUSED_REASON,
	PAUSED_SINCE,
	PAUSED_COLUMNS
};

/* Makes the rest of a progress, in the current memory context. */
typedef void (*ProgressReader)(Progress *progress, const Datum *values, const bool *nulls);

static void
read_applied(Progress *progress, const Datum *values, const bool *nulls)
{
	progress->last_element = DatumGetInt32(values[APPLIED_LAST_ELEMENT]);
	progress->next_offset = DatumGetInt64(values[APPLIED_NEXT_OFFSET]);
	if (!nulls[APPLIED_LAST_TIMESTAMP])
		progress->last_timestamp = DatumGetTimestampTz(values[APPLIED_LAST_TIMESTAMP]);
	progress->last_fingerprint = nulls[APPLIED_LAST_FINGERPRINT]
									 ? NO_FINGERPRINT
									 : DatumGetInt64(values[APPLIED_LAST_FINGERPRINT]);
	for (int outcome = 0; outcome < OUTCOMES; outcome++)
		progress->outcomes[outcome] = DatumGetInt64(values[APPLIED_OUTCOMES + outcome]);
}

static void
read_staged(Progress *progress, const Datum *values, const bool *nulls)
{
	progress->next_offset = DatumGetInt64(values[STAGED_NEXT_OFFSET]);
	progress->end_offset = DatumGetInt64(values[STAGED_END_OFFSET]);
	if (!nulls[STAGED_PAUSED_REASON])
		progress->paused_reason = TextDatumGetCString(values[STAGED_PAUSED_REASON]);
	if (!nulls[STAGED_PAUSED_SINCE])
		progress->paused_since = DatumGetTimestampTz(values[STAGED_PAUSED_SINCE]);
	progress->is_missing = DatumGetBool(values[STAGED_IS_MISSING]);
	if (!nulls[STAGED_WAITS_SINCE])
		progress->waits_since = DatumGetTimestampTz(values[STAGED_WAITS_SINCE]);
}

/* The progress of all partitions that one of the tables has, in order.  Without
 * SQL: the applier asks before each batch. */
static List *
progress_read(const Stream *stream, const char *table, ProgressReader read)
{
	Relation rel = table_open(catalog_relation(table, false), AccessShareLock);
	Relation index = index_open(compat_primary_key_index(rel), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetTransactionSnapshot());
	/* there may be more than we know, dropped or of another version */
	int columns = RelationGetNumberOfAttributes(rel);
	Datum *values = palloc(columns * sizeof(Datum));
	bool *nulls = palloc(columns * sizeof(bool));
	List *result = NIL;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple tuple;

	ScanKeyInit(&key, PROGRESS_STREAM + 1, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(stream->id));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		Progress *progress = palloc0(sizeof(Progress));

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
		progress->topic = TextDatumGetCString(values[PROGRESS_TOPIC]);
		progress->partition = DatumGetInt32(values[PROGRESS_PARTITION]);
		progress->last_offset = DatumGetInt64(values[PROGRESS_LAST_OFFSET]);
		progress->last_timestamp = DT_NOBEGIN;
		read(progress, values, nulls);
		result = lappend(result, progress);
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Applied progress of all partitions, a List of Progress in the current memory
 * context, ordered by topic and partition.
 */
List *
progress_read_applied(const Stream *stream)
{
	return progress_read(stream, "_applied_progress", read_applied);
}

/*
 * Staged progress of all partitions, likewise.
 */
List *
progress_read_staged(const Stream *stream)
{
	return progress_read(stream, "_staged_progress", read_staged);
}

/*
 * The progress of one partition in such a list, or NULL.
 */
Progress *
progress_find(List *progresses, const char *topic, int32 partition)
{
	int count = list_length(progresses);
	int at = Max(partition, 0);

	/* The partitions of a topic mostly stand in order, from the first one on. */
	for (int i = 0; i < count; i++, at++)
	{
		Progress *progress;

		if (at >= count)
			at = 0;
		progress = list_nth(progresses, at);
		if (progress->partition == partition && strcmp(progress->topic, topic) == 0)
			return progress;
	}
	return NULL;
}

/*
 * Whether all elements of the last message are applied.
 */
bool
progress_is_whole(const Progress *progress)
{
	return progress->next_offset != progress->last_offset;
}

/* Makes what is behind the keys of a row, whose values begin as 0 and none is null. */
typedef void (*ProgressFiller)(const Progress *progress, Datum *values, bool *nulls);

static void
fill_applied(const Progress *progress, Datum *values, bool *nulls)
{
	values[PROGRESS_LAST_OFFSET] = Int64GetDatum(progress->last_offset);
	values[APPLIED_LAST_ELEMENT] = Int32GetDatum(progress->last_element);
	values[APPLIED_NEXT_OFFSET] = Int64GetDatum(progress->next_offset);
	values[APPLIED_LAST_TIMESTAMP] = TimestampTzGetDatum(progress->last_timestamp);
	nulls[APPLIED_LAST_TIMESTAMP] = TIMESTAMP_IS_NOBEGIN(progress->last_timestamp);
	values[APPLIED_LAST_FINGERPRINT] = Int64GetDatum(progress->last_fingerprint);
	nulls[APPLIED_LAST_FINGERPRINT] = progress->last_fingerprint == NO_FINGERPRINT;
	for (int outcome = 0; outcome < OUTCOMES; outcome++)
		values[APPLIED_OUTCOMES + outcome] = Int64GetDatum(progress->outcomes[outcome]);
}

static void
fill_staged(const Progress *progress, Datum *values, bool *nulls)
{
	values[PROGRESS_LAST_OFFSET] = Int64GetDatum(progress->last_offset);
	values[STAGED_NEXT_OFFSET] = Int64GetDatum(progress->next_offset);
	values[STAGED_END_OFFSET] = Int64GetDatum(progress->end_offset);
	if (progress->paused_reason)
		values[STAGED_PAUSED_REASON] = CStringGetTextDatum(progress->paused_reason);
	nulls[STAGED_PAUSED_REASON] = progress->paused_reason == NULL;
	values[STAGED_PAUSED_SINCE] = TimestampTzGetDatum(progress->paused_since);
	nulls[STAGED_PAUSED_SINCE] = progress->paused_reason == NULL;
	values[STAGED_IS_MISSING] = BoolGetDatum(progress->is_missing);
	values[STAGED_WAITS_SINCE] = TimestampTzGetDatum(progress->waits_since);
	nulls[STAGED_WAITS_SINCE] = progress->waits_since == 0;
}

static void
fill_paused(const Progress *progress, Datum *values, bool *nulls)
{
	values[PAUSED_END_OFFSET] = Int64GetDatum(progress->end_offset);
	values[PAUSED_REASON] = CStringGetTextDatum(progress->paused_reason);
	values[PAUSED_SINCE] = TimestampTzGetDatum(progress->paused_since);
}

/* Write the progress of partitions to one of the tables. */
static void
progress_write(const Stream *stream, const char *table, int columns, ProgressFiller fill,
			   const List *progresses)
{
	CatalogWriter *writer = catalog_open(table, columns);
	ListCell *cell;

	foreach(cell, progresses)
	{
		const Progress *progress = lfirst(cell);
		Datum values[Max(APPLIED_COLUMNS, STAGED_COLUMNS)] = {0};
		bool nulls[Max(APPLIED_COLUMNS, STAGED_COLUMNS)] = {0};

		values[PROGRESS_STREAM] = Int32GetDatum(stream->id);
		values[PROGRESS_TOPIC] = CStringGetTextDatum(progress->topic);
		values[PROGRESS_PARTITION] = Int32GetDatum(progress->partition);
		fill(progress, values, nulls);
		catalog_upsert(writer, PROGRESS_KEYS, values, nulls);
	}
	catalog_close(writer);
}

/*
 * Write the applied progress of partitions, a List of Progress.  The applier is
 * the only writer of such rows while it holds the stream's lock.
 */
void
progress_write_applied(const Stream *stream, const List *progresses)
{
	progress_write(stream, "_applied_progress", APPLIED_COLUMNS, fill_applied, progresses);
}

/*
 * Write the staged progress of partitions, a List of Progress; the consumer that
 * reads a partition is the only writer of its row.
 */
void
progress_write_staged(const Stream *stream, const List *progresses)
{
	progress_write(stream, "_staged_progress", STAGED_COLUMNS, fill_staged, progresses);
	/* a crash must not happen to take it together with the rows */
	if (FAULT_MUTANT("staged_survives"))
		ForceSyncCommit();
}

/*
 * Keep in a logged table why partitions are paused, a List of Progress, so that neither
 * a crash nor a failover has them read on.  The caller is the writer of their staged
 * progress.
 */
void
progress_keep_paused(const Stream *stream, const List *progresses)
{
	progress_write(stream, "_paused_partition", PAUSED_COLUMNS, fill_paused, progresses);
	ForceSyncCommit();
}

/*
 * Pause those partitions again whose staged progress a crash has taken.
 */
void
progress_restore_paused(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	SPI_connect();
	catalog_execute(
		"INSERT INTO detect._staged_progress SELECT stream_id, kafka_topic, kafka_partition, "
		"a.last_offset, a.next_offset, GREATEST(p.end_offset, a.next_offset), p.paused_reason, "
		"p.paused_since, false FROM detect._paused_partition p JOIN detect._applied_progress a "
		"USING (stream_id, kafka_topic, kafka_partition) WHERE stream_id = $1 "
		"ON CONFLICT (stream_id, kafka_topic, kafka_partition) DO NOTHING",
		1, types, values, NULL);
	SPI_finish();
}

/* The SQL that sets where a partition is read next, and keeps its outcomes.
 * What stands before that is not what was applied last. */
#define SET_POSITION_SQL                                                                        \
	"INSERT INTO detect._applied_progress AS a VALUES ($1, $2, $3, $4, 2147483647, $5, NULL, "  \
	"NULL, 0, 0, 0, 0, 0) ON CONFLICT (stream_id, kafka_topic, kafka_partition) DO UPDATE SET " \
	"last_offset = EXCLUDED.last_offset, last_element = EXCLUDED.last_element, "                \
	"next_offset = EXCLUDED.next_offset, last_fingerprint = NULL"

static void
set_position(const Stream *stream, const char *sql, const char *topic, int32 partition,
			 int64 last_offset, int64 next_offset)
{
	Oid types[5] = {INT4OID, TEXTOID, INT4OID, INT8OID, INT8OID};
	Datum values[5];

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(topic);
	values[2] = Int32GetDatum(partition);
	values[3] = Int64GetDatum(last_offset);
	values[4] = Int64GetDatum(next_offset);
	SPI_connect();
	catalog_execute(sql, 5, types, values, NULL);
	SPI_finish();
}

/*
 * Write where reading of a partition begins, unless somebody has written it
 * meanwhile.
 */
void
progress_write_start(const Stream *stream, const Progress *progress)
{
	set_position(stream, SET_POSITION_SQL " WHERE a.next_offset < 0", progress->topic,
				 progress->partition, progress->last_offset, progress->next_offset);
}

/* Delete one partition's row of a progress table. */
static void
delete_row(const char *sql, const Stream *stream, const char *topic, int32 partition)
{
	Oid types[3] = {INT4OID, TEXTOID, INT4OID};
	Datum values[3];

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(topic);
	values[2] = Int32GetDatum(partition);
	SPI_connect();
	catalog_execute(sql, 3, types, values, NULL);
	SPI_finish();
}

#define THIS_PARTITION " WHERE stream_id = $1 AND kafka_topic = $2 AND kafka_partition = $3"

/*
 * Have a partition read from another offset, or from where the stream's start
 * says (START_OFFSET), whether it was paused or not.  The caller holds the
 * stream's lock exclusively and throws away what is staged.
 */
void
progress_seek(const Stream *stream, const char *topic, int32 partition, int64 next_offset)
{
	set_position(stream, SET_POSITION_SQL, topic, partition,
				 next_offset == START_OFFSET ? START_OFFSET - 1 : next_offset - 1, next_offset);
	delete_row("DELETE FROM detect._staged_progress" THIS_PARTITION, stream, topic, partition);
	delete_row("DELETE FROM detect._paused_partition" THIS_PARTITION, stream, topic, partition);
}

/*
 * Forget a partition that does not exist any more, with its outcomes; the duty
 * of the caller is that of progress_seek().
 */
void
progress_forget(const Stream *stream, const char *topic, int32 partition)
{
	delete_row("DELETE FROM detect._applied_progress" THIS_PARTITION, stream, topic, partition);
	delete_row("DELETE FROM detect._staged_progress" THIS_PARTITION, stream, topic, partition);
	delete_row("DELETE FROM detect._paused_partition" THIS_PARTITION, stream, topic, partition);
}

/*
 * Forget what is staged, so that the consumer starts from applied progress.
 * Partitions that are paused stay so, unless their topic is read no more.
 */
void
progress_forget_staged(const Stream *stream)
{
	Oid types[2] = {INT4OID, TEXTARRAYOID};
	Datum values[2];

	values[0] = Int32GetDatum(stream->id);
	values[1] = names_to_array(stream->topics);
	SPI_connect();
	catalog_execute("DELETE FROM detect._staged_progress WHERE stream_id = $1 "
					"AND (paused_reason IS NULL OR kafka_topic <> ALL ($2))",
					2, types, values, NULL);
	catalog_execute("DELETE FROM detect._paused_partition WHERE stream_id = $1 "
					"AND kafka_topic <> ALL ($2)",
					2, types, values, NULL);
	catalog_execute("UPDATE detect._staged_progress p SET last_offset = a.last_offset, "
					"next_offset = a.next_offset FROM detect._applied_progress a "
					"WHERE p.stream_id = $1 AND a.stream_id = p.stream_id "
					"AND a.kafka_topic = p.kafka_topic AND a.kafka_partition = p.kafka_partition",
					1, types, values, NULL);
	SPI_finish();
}

/*
 * Let partitions that are paused by themselves be tried again.
 */
void
progress_resume_partitions(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	/* where they did end is known to these rows, and is compared again */
	progress_restore_paused(stream);
	SPI_connect();
	catalog_execute(
		"UPDATE detect._staged_progress SET paused_reason = NULL, "
		"paused_since = NULL, is_missing = false WHERE stream_id = $1 AND paused_reason IS NOT NULL",
		1, types, values, NULL);
	catalog_execute("DELETE FROM detect._paused_partition WHERE stream_id = $1", 1, types, values,
					NULL);
	SPI_finish();
}
