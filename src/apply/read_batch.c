/*-------------------------------------------------------------------------
 *
 * read_batch.c
 *	  The next batch of an applier, and the partitions that it needs.
 *
 * Consumers commit rows together with their staged progress, and progress is
 * looked at first: so rows that it tells of must be there, and when some are
 * missing for a second look too, all that is staged is read from Kafka again.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier_internal.h"
#include "fault_point.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Make some of the partitions that a batch lacks; how many.  In a transaction that
 * applies nothing. */
static int
make_partitions(const Applier *applier, const Batch *batch)
{
	const Stream *stream = applier->stream;
	TimestampTz *times;
	int ntimes;

	if (stream->partition_interval == NULL)
		return 0;
	times = batch_times_to_cover(stream, batch, &ntimes);
	return partition_ensure(stream, times, ntimes, applier->is_over_bound);
}

/* Some were made: make the others, in transactions of their own, not too many in
 * each; false when the definition has changed. */
static bool
make_more_partitions(Applier *applier, const Batch *batch)
{
	int made;

	do
	{
		FAULT_POINT("after_partition_commit");
		if (!stream_transaction_begin(applier->stream))
			return false;
		MemoryContextSwitchTo(applier->batch_context);
		made = make_partitions(applier, batch);
		stream_transaction_commit();
	} while (made > 0);
	return true;
}

/* A consumer may have found partitions that the applier has not heard of, or
 * where one begins. */
static List *
read_staged_progress(Applier *applier)
{
	List *staged = progress_read_staged(applier->stream);
	ListCell *cell;

	foreach(cell, staged)
	{
		Progress *progress = lfirst(cell);
		Progress *applied = progress_find(applier->applied, progress->topic, progress->partition);

		if (applied == NULL || applied->next_offset == START_OFFSET)
		{
			applier_load_progress(applier);
			break;
		}
	}
	return staged;
}

/*
 * Rows are missing from staging, which should not happen: forget what is
 * staged, so that the consumer reads it again from where applied progress is.
 */
static void
stage_again(Applier *applier)
{
	ereport(LOG, (errmsg("staged rows of stream \"%s\" are missing; reading them from Kafka again",
						 applier->stream->name)));
	staging_discard(applier->stream);
	applier_rewind(applier);
}

/* A batch that has no elements yet, in the current context. */
static Batch *
begin_batch(const Applier *applier, BatchSource source)
{
	Batch *batch = palloc0(sizeof(Batch));

	batch->source = source;
	batch->limit = pace_elements(applier);
	return batch;
}

/* Look at the tables of all writers in turn; NULL when rows are missing. */
static Batch *
look_at_staged(Applier *applier)
{
	Batch *batch = begin_batch(applier, SOURCE_KAFKA);
	bool complete = true;

	batch->staged_progress = read_staged_progress(applier);
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < applier->nreaders && complete && !batch->is_cut; i++)
		complete = staged_read(applier->readers[(applier->first_reader + i) % applier->nreaders],
							   batch, applier->applied);
	PopActiveSnapshot();
	/* who was left out because the batch was full comes first next time */
	applier->first_reader = (applier->first_reader + 1) % applier->nreaders;
	return complete ? batch : NULL;
}

/* Read what consumers have staged.  Progress first: rows are then seen by a
 * snapshot that is not older. */
static Batch *
read_staged(Applier *applier)
{
	Batch *batch = look_at_staged(applier);

	/* a consumer may have committed its first rows of a partition between */
	if (batch == NULL)
		batch = look_at_staged(applier);
	if (batch == NULL)
	{
		stage_again(applier);
		batch = begin_batch(applier, SOURCE_KAFKA);
	}
	return batch;
}

/*
 * Read the next batch, NULL when the definition has changed.
 */
Batch *
read_batch(Applier *applier, BatchSource source)
{
	MemoryContext old_context;
	Batch *batch;
	instr_time since;
	int made;

	INSTR_TIME_SET_CURRENT(since);
	if (!stream_transaction_begin(applier->stream))
		return NULL;
	old_context = MemoryContextSwitchTo(applier->batch_context);
	if (source == SOURCE_SQL)
	{
		batch = begin_batch(applier, source);
		staged_read_sql(applier->readers[0], batch,
						progress_find(applier->applied, SQL_TOPIC, SQL_PARTITION));
	}
	else if (source == SOURCE_LETTERS)
		batch = retry_read(applier->retry_reader, applier->readers[0], applier->applied);
	else
		batch = read_staged(applier);
	FAULT_POINT("after_staged_read");
	batch->now = GetCurrentTimestamp();
	batch_check_event_times(applier->readers[0], batch);
	/* few batches lack one: what finds that out is not worth a transaction */
	made = make_partitions(applier, batch);
	MemoryContextSwitchTo(old_context);
	stream_transaction_commit();
	if (made > 0 && !make_more_partitions(applier, batch))
	{
		applier_rewind(applier);
		return NULL;
	}
	step_time(STEP_READ, &since);
	return batch;
}
