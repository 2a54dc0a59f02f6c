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
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "ingest/staging.h"
#include "utils/builtins.h"

static int64
row_int64(int row, int column)
{
	bool isnull;

	return DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}

/* Rows of one of the progress tables, ordered by topic and partition. */
static int
progress_select(const Stream *stream, const char *sql)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};

	return catalog_execute(sql, 1, types, values, NULL);
}

/* The columns that both tables have, from a row of SPI_tuptable. */
static Progress *
progress_from_row(int row)
{
	Progress *progress = palloc0(sizeof(Progress));
	bool isnull;

	progress->topic = pstrdup(SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1));
	progress->partition =
		DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 2, &isnull));
	progress->last_offset = row_int64(row, 3);
	progress->next_offset = row_int64(row, 4);
	progress->last_timestamp = DT_NOBEGIN;
	return progress;
}

/*
 * Applied progress of all partitions, a List of Progress in the current memory
 * context.
 */
List *
progress_read_applied(const Stream *stream)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *result = NIL;
	int rows;

	SPI_connect();
	rows = progress_select(
		stream, "SELECT kafka_topic, kafka_partition, last_offset, next_offset, accepted, "
				"duplicates, filtered, expired, dead_letters, last_timestamp, last_element, "
				"COALESCE(last_fingerprint, 0) "
				"FROM detect._applied_progress WHERE stream_id = $1 ORDER BY 1, 2");
	MemoryContextSwitchTo(caller_context);
	for (int i = 0; i < rows; i++)
	{
		Progress *progress = progress_from_row(i);
		bool isnull;
		Datum timestamp;

		for (int outcome = 0; outcome < OUTCOMES; outcome++)
			progress->outcomes[outcome] = row_int64(i, 5 + outcome);
		timestamp = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 10, &isnull);
		if (!isnull)
			progress->last_timestamp = DatumGetTimestampTz(timestamp);
		progress->last_element =
			DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 11, &isnull));
		progress->last_fingerprint = row_int64(i, 12);
		result = lappend(result, progress);
	}
	SPI_finish();
	return result;
}

/*
 * Staged progress of all partitions, likewise.
 */
List *
progress_read_staged(const Stream *stream)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *result = NIL;
	int rows;

	SPI_connect();
	rows =
		progress_select(stream, "SELECT kafka_topic, kafka_partition, last_offset, next_offset, "
								"end_offset, paused_reason, waits_since, paused_since, is_missing "
								"FROM detect._staged_progress WHERE stream_id = $1 ORDER BY 1, 2");
	MemoryContextSwitchTo(caller_context);
	for (int i = 0; i < rows; i++)
	{
		Progress *progress = progress_from_row(i);
		bool isnull;
		Datum time;

		progress->end_offset = row_int64(i, 5);
		progress->paused_reason = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 6);
		time = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 7, &isnull);
		if (!isnull)
			progress->waits_since = DatumGetTimestampTz(time);
		time = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 8, &isnull);
		if (!isnull)
			progress->paused_since = DatumGetTimestampTz(time);
		progress->is_missing =
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 9, &isnull));
		result = lappend(result, progress);
	}
	SPI_finish();
	return result;
}

/*
 * The progress of one partition in such a list, or NULL.
 */
Progress *
progress_find(List *progresses, const char *topic, int32 partition)
{
	ListCell *cell;

	foreach(cell, progresses)
	{
		Progress *progress = lfirst(cell);

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

/*
 * Write the applied progress of one partition.  The applier is the only writer
 * of such a row while it holds the stream's lock.
 */
void
progress_write_applied(const Stream *stream, const Progress *progress)
{
	Datum values[13] = {0};
	bool nulls[13] = {0};

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(progress->topic);
	values[2] = Int32GetDatum(progress->partition);
	values[3] = Int64GetDatum(progress->last_offset);
	values[4] = Int32GetDatum(progress->last_element);
	values[5] = Int64GetDatum(progress->next_offset);
	values[6] = TimestampTzGetDatum(progress->last_timestamp);
	nulls[6] = TIMESTAMP_IS_NOBEGIN(progress->last_timestamp);
	values[7] = Int64GetDatum(progress->last_fingerprint);
	nulls[7] = progress->last_fingerprint == NO_FINGERPRINT;
	for (int outcome = 0; outcome < OUTCOMES; outcome++)
		values[8 + outcome] = Int64GetDatum(progress->outcomes[outcome]);
	catalog_upsert("_applied_progress", 3, values, nulls);
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
}

/*
 * Write the staged progress of one partition; its consumer is the only writer.
 */
void
progress_write_staged(const Stream *stream, const Progress *progress)
{
	Datum values[10] = {0};
	bool nulls[10] = {0};

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(progress->topic);
	values[2] = Int32GetDatum(progress->partition);
	values[3] = Int64GetDatum(progress->last_offset);
	values[4] = Int64GetDatum(progress->next_offset);
	values[5] = Int64GetDatum(progress->end_offset);
	if (progress->paused_reason)
		values[6] = CStringGetTextDatum(progress->paused_reason);
	nulls[6] = progress->paused_reason == NULL;
	values[7] = TimestampTzGetDatum(progress->paused_since);
	nulls[7] = progress->paused_reason == NULL;
	values[8] = BoolGetDatum(progress->is_missing);
	values[9] = TimestampTzGetDatum(progress->waits_since);
	nulls[9] = progress->waits_since == 0;
	catalog_upsert("_staged_progress", 3, values, nulls);
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
	progress_select(stream,
					"UPDATE detect._staged_progress p SET last_offset = a.last_offset, "
					"next_offset = a.next_offset FROM detect._applied_progress a "
					"WHERE p.stream_id = $1 AND a.stream_id = p.stream_id "
					"AND a.kafka_topic = p.kafka_topic AND a.kafka_partition = p.kafka_partition");
	SPI_finish();
}

/*
 * Let partitions that are paused by themselves be tried again.
 */
void
progress_resume_partitions(const Stream *stream)
{
	SPI_connect();
	progress_select(
		stream,
		"UPDATE detect._staged_progress SET paused_reason = NULL, "
		"paused_since = NULL, is_missing = false WHERE stream_id = $1 AND paused_reason IS NOT NULL");
	SPI_finish();
}
