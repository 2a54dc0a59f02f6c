/*-------------------------------------------------------------------------
 *
 * fill_worker.c
 *	  A worker that fills rollups beside the applier, a chunk at a time.
 *
 * The stream does not wait while a chunk is read.  What makes that exact:
 *
 * 1. Under the fill lock (fill.c) the worker writes down which chunk it reads and
 *	  commits.  From the next batch on the applier, which leaves events below the
 *	  frontier out as before, writes down those of the chunk (missed.c).
 * 2. It locks what it reads, takes a snapshot, and aggregates the chunk.  A batch
 *	  that the snapshot sees is in what was read, with what it wrote down.
 * 3. Under the stream's lock and the fill lock it looks whether the chunk is still
 *	  to be filled, merges, absorbs what the snapshot did not see of what was written
 *	  down, and moves the frontier, in one transaction.
 *
 * Edits by others need nothing of that: the applier repairs groups after each, once
 * the rollup is active.  A worker that ends before its commit leaves the frontier
 * where it was; whoever fills the chunk then forgets what was written down for it.
 *
 * Merging many groups takes long, too.  Where buckets are in order, chunks end with
 * buckets: no batch has events of the groups of such a chunk, which are merged, with
 * what was written down by then, before the locks of step 3.  Else a chunk has no more
 * events than are merged in MERGE_MS.
 *
 * Any error leaves the chunk to the applier, which meets it again if it lasts, and
 * knows what follows.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/xact.h"
#include "apply/applier.h"
#include "catalog/pg_type.h"
#include "fault_point.h"
#include "ingest/worker.h"
#include "miscadmin.h"
#include "sql.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A chunk is to be read within so long: its snapshot holds back VACUUM. */
#define CHUNK_MS 3000

/* The first one that nobody waits for has so many events. */
#define FIRST_CHUNK_EVENTS 1000000

/* The stream waits for a merge under its lock so long. */
#define MERGE_MS		100
#define MEASURED_EVENTS 10000

/* When so many chunks in a row were read in vain, the applier fills the next one. */
#define MAX_UNWANTED 3

/* The chunk that is being filled. */
typedef struct Chunk
{
	const Stream *stream;
	MemoryContext context; /* of all that follows */
	Rollup *rollup;		   /* as it was when the chunk was begun */
	PartialPlan *plan;
	PartialSource source;
	bool is_apart;		   /* no batch has events of its groups */
	int64 last_seen_batch; /* among those that were written down, by the snapshot */
	Tuplestorestate *partial;
	int64 rows;
	double locked_ms; /* how long the stream had to wait */
} Chunk;

/* Write down that a chunk is being read, and forget what was written down for
 * one that was not filled. */
static void
write_chunk(const Chunk *chunk)
{
	Oid types[2] = {INT4OID, TIMESTAMPTZOID};
	Datum values[2];

	values[0] = Int32GetDatum(chunk->rollup->id);
	values[1] = TimestampTzGetDatum(chunk->rollup->chunk_from);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET chunk_from = $2 WHERE rollup_id = $1", 2, types,
					values, NULL);
	SPI_finish();
	missed_delete(chunk->rollup, PG_INT64_MAX);
}

/* The group column with which chunks can end, or -1. */
static int
chunk_bucket_key(const Chunk *chunk, const RollupShape *shape)
{
	int key = bucket_key(shape, chunk->stream);

	if (key >= 0 && bucket_is_ordered(shape, key) &&
		bucket_slack_usec(shape, chunk->stream, key) == 0)
		return key;
	return -1;
}

/* Choose what is read next below the frontier.  It begins with a bucket, and does
 * not reach below the bucket in which the frontier lies unless that begins there. */
static void
choose_source(Chunk *chunk, const RollupShape *shape)
{
	PartialSource *source = &chunk->source;
	int key = chunk_bucket_key(chunk, shape);
	TimestampTz frontier_bucket = DT_NOBEGIN;

	if (key >= 0)
	{
		frontier_bucket = bucket_begin(shape, chunk->stream, key, source->until);
		chunk->is_apart = frontier_bucket == source->until;
	}
	if (chunk->is_apart)
		fill_expect_chunk(FIRST_CHUNK_EVENTS);
	if (!fill_next_chunk(chunk->stream, &source->until, &source->from))
		source->from = DT_NOBEGIN;
	if (chunk->is_apart)
		source->from = bucket_begin(shape, chunk->stream, key, source->from);
	else
		source->from = Max(source->from, frontier_bucket);
	source->has_from = !TIMESTAMP_IS_NOBEGIN(source->from);
}

/* Choose what is read next of a rollup. */
static void
choose_chunk(Chunk *chunk)
{
	Rollup *rollup = chunk->rollup;
	const RollupShape *shape = shape_load(rollup->query_view, chunk->stream->events_table);
	int nest_level = partial_enter_time_zone(rollup);

	chunk->source.has_until = true;
	chunk->source.until = rollup->filled_from;
	choose_source(chunk, shape);
	AtEOXact_GUC(true, nest_level);
	rollup->has_chunk = true;
	rollup->chunk_from = chunk->source.from;
}

/* Begin the next chunk of a rollup of the stream; false when none is being filled. */
static bool
begin_chunk(Chunk *chunk)
{
	static int32 last_rollup = 0;
	RollupSet *set;

	MemoryContextSwitchTo(chunk->context);
	fill_lock(chunk->stream, AccessExclusiveLock);
	set = rollup_set_load(chunk->stream, chunk->context);
	for (int i = 0; i < set->nrollups && chunk->rollup == NULL; i++)
	{
		if (set->rollups[i].phase == ROLLUP_FILLING)
			chunk->rollup = &set->rollups[i];
	}
	if (chunk->rollup == NULL || !fill_has_chunks(chunk->stream))
		return false;
	if (chunk->rollup->id != last_rollup)
		fill_forget_chunks();
	last_rollup = chunk->rollup->id;
	chunk->plan = partial_plan_create(chunk->context);
	choose_chunk(chunk);
	write_chunk(chunk);
	return true;
}

/* Aggregate the chunk. */
static void
read_chunk(Chunk *chunk)
{
	FAULT_POINT("after_chunk_begin");
	partial_lock(chunk->rollup, chunk->plan, &chunk->source);
	chunk->source.snapshot = RegisterSnapshot(GetLatestSnapshot());
	chunk->last_seen_batch = missed_last_batch(chunk->rollup, chunk->source.snapshot);
	chunk->partial = tuplestore_begin_heap(false, false, work_mem);
	rollup_check_server_major(chunk->rollup);
	chunk->rows = partial_run(chunk->rollup, chunk->plan, &chunk->source, chunk->partial);
	UnregisterSnapshot(chunk->source.snapshot);
	chunk->source.snapshot = NULL;
	FAULT_POINT("after_chunk_read");
}

/* Whether the chunk is still to be filled, as it was read. */
static bool
is_wanted(const Chunk *chunk)
{
	const Rollup *begun = chunk->rollup;
	const Rollup *now;

	PushActiveSnapshot(GetTransactionSnapshot());
	now = rollup_load(chunk->stream, begun->id);
	PopActiveSnapshot();
	return now != NULL && now->phase == ROLLUP_FILLING && now->has_chunk &&
		   now->chunk_from == begun->chunk_from && now->filled_from == begun->filled_from &&
		   (now->kept_from == begun->kept_from || now->kept_from <= begun->chunk_from);
}

/* Absorb what batches wrote down since the snapshot. */
static void
absorb_missed(const Chunk *chunk)
{
	PartialSource source = chunk->source;

	missed_delete(chunk->rollup, chunk->last_seen_batch);
	for (;;)
	{
		MissedEvents missed = {0};
		ErrorData *error = missed_read(chunk->rollup, &missed);

		if (error != NULL)
			ReThrowError(error);
		if (missed.last_batch == 0)
			break;
		source.batch = missed.events;
		rollup_absorb(chunk->rollup, chunk->plan, &source);
		missed_delete(chunk->rollup, missed.last_batch);
		tuplestore_end(missed.events);
	}
}

/* Take the locks under which the frontier moves, however long a batch takes: who has
 * them gives way himself, or has this worker cancelled. */
static void
lock_frontier(const Stream *stream)
{
	int nest_level = sql_begin("lock_timeout", "0");

	stream_lock(stream->id, AccessShareLock);
	fill_lock(stream, AccessExclusiveLock);
	AtEOXact_GUC(true, nest_level);
}

/* Merge what was read; false when it is not wanted any more. */
static bool
merge_chunk(Chunk *chunk)
{
	instr_time since;

	if (chunk->is_apart)
	{
		merge_partial(chunk->rollup, chunk->partial, true);
		/* most of it, so that little is left for the locks */
		absorb_missed(chunk);
	}
	FAULT_POINT("before_chunk_lock");
	lock_frontier(chunk->stream);
	if (!worker_definition_holds() || !is_wanted(chunk))
		return false;
	gone_follow(chunk->stream);
	INSTR_TIME_SET_CURRENT(since);
	if (!chunk->is_apart)
		merge_partial(chunk->rollup, chunk->partial, false);
	absorb_missed(chunk);
	chunk->locked_ms = elapsed_ms(since);
	tuplestore_end(chunk->partial);
	fill_write_progress(chunk->rollup, &chunk->source, chunk->rows);
	FAULT_POINT("after_chunk_merge");
	return true;
}

/* Have the next chunk as many events as its time allows. */
static void
measure_chunk(const Chunk *chunk, instr_time since)
{
	transaction_begin();
	fill_measure_chunk(chunk->stream, &chunk->source, chunk->rows, since, CHUNK_MS);
	CommitTransactionCommand();
	/* few events say little about many */
	if (!chunk->is_apart && (chunk->rows >= MEASURED_EVENTS || chunk->locked_ms > MERGE_MS))
		fill_limit_chunk(chunk->rows * MERGE_MS / Max(chunk->locked_ms, 1));
}

/* Read and merge a chunk that has begun, in a transaction of its own; false when that
 * was in vain. */
static bool
fill_chunk(Chunk *chunk)
{
	instr_time since;

	session_undo();
	INSTR_TIME_SET_CURRENT(since);
	transaction_begin();
	MemoryContextSwitchTo(chunk->context);
	PushActiveSnapshot(GetTransactionSnapshot());
	read_chunk(chunk);
	if (!merge_chunk(chunk))
	{
		PopActiveSnapshot();
		AbortCurrentTransaction();
		return false;
	}
	stream_transaction_commit();
	measure_chunk(chunk, since);
	return true;
}

/* Fill the next chunk; false when there is none for this worker. */
static bool
fill_next(const Stream *stream)
{
	static int unwanted = 0;
	Chunk chunk = {.stream = stream, .context = CurrentMemoryContext};
	bool found;

	/* the worker follows its definition first */
	if (!stream_transaction_begin(stream))
		return true;
	found = begin_chunk(&chunk);
	stream_transaction_commit();
	if (!found)
		return false;
	unwanted = fill_chunk(&chunk) ? 0 : unwanted + 1;
	return unwanted < MAX_UNWANTED;
}

/*
 * Fill the next chunk of what is being filled of a stream, as the worker of that
 * duty, in no transaction.  False when there is nothing left to do for it.
 */
bool
fill_worker_step(const Stream *stream)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "detect fill chunk", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	volatile bool found = false;

	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
		found = fill_next(stream);
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
		ereport(DEBUG1, (errmsg("a chunk is left to the applier of stream \"%s\": %s", stream->name,
								failure_message_for_log(error))));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	return found;
}
