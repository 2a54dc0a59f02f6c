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
	rows = progress_select(stream,
						   "SELECT kafka_topic, kafka_partition, last_offset, next_offset, "
						   "accepted, duplicates, filtered, expired, dead_letters, last_timestamp "
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
	rows = progress_select(
		stream,
		"SELECT kafka_topic, kafka_partition, last_offset, next_offset, "
		"end_offset, paused_reason FROM detect._staged_progress WHERE stream_id = $1 ORDER BY 1, 2");
	MemoryContextSwitchTo(caller_context);
	for (int i = 0; i < rows; i++)
	{
		Progress *progress = progress_from_row(i);

		progress->end_offset = row_int64(i, 5);
		progress->paused_reason = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 6);
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
 * Write the applied progress of one partition.  The applier is the only writer
 * of such a row while it holds the stream's lock.
 */
void
progress_write_applied(const Stream *stream, const Progress *progress)
{
	Datum values[11] = {0};
	bool nulls[11] = {0};

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(progress->topic);
	values[2] = Int32GetDatum(progress->partition);
	values[3] = Int64GetDatum(progress->last_offset);
	values[4] = Int64GetDatum(progress->next_offset);
	values[5] = TimestampTzGetDatum(progress->last_timestamp);
	nulls[5] = TIMESTAMP_IS_NOBEGIN(progress->last_timestamp);
	for (int outcome = 0; outcome < OUTCOMES; outcome++)
		values[6 + outcome] = Int64GetDatum(progress->outcomes[outcome]);
	catalog_upsert("_applied_progress", 3, values, nulls);
}

/*
 * Write the staged progress of one partition; its consumer is the only writer.
 */
void
progress_write_staged(const Stream *stream, const Progress *progress)
{
	Datum values[7] = {0};
	bool nulls[7] = {0};

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(progress->topic);
	values[2] = Int32GetDatum(progress->partition);
	values[3] = Int64GetDatum(progress->last_offset);
	values[4] = Int64GetDatum(progress->next_offset);
	values[5] = Int64GetDatum(progress->end_offset);
	if (progress->paused_reason)
		values[6] = CStringGetTextDatum(progress->paused_reason);
	nulls[6] = progress->paused_reason == NULL;
	catalog_upsert("_staged_progress", 3, values, nulls);
}

/*
 * Forget what is staged, so that the consumer starts from applied progress.
 */
void
progress_forget_staged(const Stream *stream)
{
	SPI_connect();
	progress_select(stream, "DELETE FROM detect._staged_progress WHERE stream_id = $1");
	SPI_finish();
}

/*
 * Let partitions that are paused by themselves be tried again.
 */
void
progress_resume_partitions(const Stream *stream)
{
	SPI_connect();
	progress_select(stream, "UPDATE detect._staged_progress SET paused_reason = NULL "
							"WHERE stream_id = $1 AND paused_reason IS NOT NULL");
	SPI_finish();
}
