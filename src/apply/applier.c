/*-------------------------------------------------------------------------
 *
 * applier.c
 *	  What is staged becomes events, rollups, dead letters and progress.
 *
 * A batch is read in one transaction, which also makes partitions that it lacks,
 * or the first of many; it is applied in another one: either everything that it
 * causes and the progress past it commit, or nothing does.  See read_batch.c for the
 * first, pace.c for how much that is, piece.c for what follows when something fails,
 * and upkeep.c for what is done between two batches.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/applier_internal.h"
#include "executor/spi.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* Looks that nobody asked for: at rows that were locked, at rows whose trigger
 * did not fire. */
#define LOCKED_LOOK_MS 100
#define IDLE_LOOK_MS   10000

/*
 * An applier for a stream; nothing is read yet.  It lives in context.
 */
Applier *
applier_create(const Stream *stream, MemoryContext context)
{
	Applier *applier = MemoryContextAllocZero(context, sizeof(Applier));

	applier->stream = stream;
	applier->rate_since = GetCurrentTimestamp();
	applier->context = AllocSetContextCreate(context, "detect applier", ALLOCSET_DEFAULT_SIZES);
	/* rows by the ten thousand, which another kind would round up to powers of two */
	applier->batch_context =
		GenerationContextCreate(context, "detect batch", ALLOCSET_DEFAULT_SIZES);
	applier->piece_size = INT_MAX;
	pace_begin(applier);
	applier->attempt = attempt_create(stream, context);
	return applier;
}

/*
 * Read applied progress into the applier's memory; an error leaves what is there.
 */
void
applier_load_progress(Applier *applier)
{
	MemoryContext context =
		AllocSetContextCreate(applier->context, "detect progress", ALLOCSET_SMALL_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	List *applied = progress_read_applied(applier->stream);

	if (progress_find(applied, SQL_TOPIC, SQL_PARTITION) == NULL)
	{
		Progress *sql = palloc0(sizeof(Progress));

		sql->topic = pstrdup(SQL_TOPIC);
		sql->partition = SQL_PARTITION;
		sql->last_timestamp = DT_NOBEGIN;
		applied = lappend(applied, sql);
	}
	MemoryContextSwitchTo(old_context);
	if (applier->progress_context)
		MemoryContextDelete(applier->progress_context);
	applier->progress_context = context;
	applier->applied = applied;
}

/* A reader for each writer; the first one reads what SQL stages, too. */
static void
create_readers(Applier *applier)
{
	applier->nreaders = Max(staging_writers(applier->stream), 1);
	applier->first_reader = 0;
	applier->readers =
		MemoryContextAlloc(applier->context, applier->nreaders * sizeof(StagedReader *));
	for (int i = 0; i < applier->nreaders; i++)
		applier->readers[i] = staged_reader_create(applier->stream, i, applier->context);
}

/*
 * Have all sources looked at from their beginning.
 */
void
applier_rewind(Applier *applier)
{
	retry_rewind(applier->retry_reader);
	for (int i = 0; i < applier->nreaders; i++)
		staged_reader_rewind(applier->readers[i]);
}

/* Make the staging tables that are missing, in a transaction of its own: consumers,
 * which begin at the same time, wait for it. */
static bool
ensure_staging_tables(Applier *applier)
{
	if (!stream_transaction_begin(applier->stream))
		return false;
	stream_check_objects(applier->stream);
	for (int writer = 0; writer < staging_writers(applier->stream); writer++)
		staging_table_ensure(applier->stream, writer);
	stream_transaction_commit();
	return true;
}

/* Load what an applier keeps from batch to batch. */
static bool
load(Applier *applier)
{
	MemoryContextReset(applier->context);
	applier->progress_context = NULL;
	if (!ensure_staging_tables(applier) || !stream_transaction_begin(applier->stream))
		return false;
	if (FAULT_MUTANT("staged_survives"))
	{
		SPI_connect();
		(void) catalog_execute("ALTER TABLE detect._staged_progress SET LOGGED", 0, NULL, NULL,
							   NULL);
		SPI_finish();
	}
	applier_load_progress(applier);
	create_readers(applier);
	applier->dedup = dedup_create(applier->stream, applier->context);
	applier->events = events_create(applier->stream, applier->context);
	applier->letters = dead_letters_create(applier->stream, applier->context);
	applier->retry_reader = retry_reader_create(applier->stream, applier->context);
	if (!dedup_begin_batch(applier->dedup, true))
		follow_others(applier);
	stream_transaction_commit();
	applier->kafka.due = applier->sql.due = applier->retry.due = applier->next_expire = 0;
	applier->next_compaction = 0;
	remember_identities(applier);
	applier->is_loaded = true;
	applier->may_fill = true;
	applier->must_reload = false;
	/* a consumer in this process says so itself, when it has found its broker */
	if (applier->stream->server == NULL || applier->stream->consumers > 0)
		slot_set_state(my_slot, STREAM_RUNNING);
	return true;
}

/*
 * Something has changed, though not the stream's definition: rollups are made
 * and dropped, and verbs set progress.
 */
void
applier_reload(Applier *applier)
{
	applier->must_reload = true;
}

/*
 * After an aborted round: what was read and not applied is read again.  Memory
 * of progress and identities is as the last commit left it.
 */
void
applier_forget(Applier *applier)
{
	if (!applier->is_loaded)
		return;
	dedup_abort_batch(applier->dedup);
	events_abort(applier->events);
	dead_letters_abort(applier->letters);
	applier_rewind(applier);
}

/* Progress past the end of what was staged, where no message stood. */
static bool
advance_without_messages(Applier *applier, Batch *batch)
{
	List *advanced = NIL;
	ListCell *cell;

	MemoryContextSwitchTo(applier->batch_context);
	foreach(cell, batch->staged_progress)
	{
		Progress *staged = lfirst(cell);
		Progress *applied = progress_find(applier->applied, staged->topic, staged->partition);

		if (applied && staged->last_offset <= applied->last_offset &&
			staged->next_offset > applied->next_offset && progress_is_whole(applied))
		{
			Progress *progress = palloc(sizeof(Progress));

			*progress = *applied;
			progress->next_offset = staged->next_offset;
			advanced = lappend(advanced, progress);
		}
	}
	if (advanced == NIL)
		return true;
	if (!stream_transaction_begin(applier->stream))
		return false;
	progress_write_applied(applier->stream, advanced);
	stream_transaction_commit();
	foreach(cell, advanced)
	{
		Progress *progress = lfirst(cell);

		progress_find(applier->applied, progress->topic, progress->partition)->next_offset =
			progress->next_offset;
	}
	return true;
}

/* Begin again at the front of the staging table when all in it is applied, and
 * nobody but this process stages more. */
static void
reuse_staging(Applier *applier, const Batch *batch)
{
	if (applier->stream->consumers > 0 || batch->is_cut ||
		!staging_is_drained(applier->stream, 0, batch->staged_progress, applier->applied))
		return;
	staging_reuse();
	staged_reader_restart(applier->readers[0]);
}

/* Read and apply once; true when there is more to do at once. */
static bool
apply_once(Applier *applier, BatchSource source, int *next_look_ms)
{
	Batch *batch;
	bool more;

	*next_look_ms = 0;
	MemoryContextReset(applier->batch_context);
	batch = read_batch(applier, source);
	if (batch == NULL)
		return true;
	if (batch->count == 0 ? !advance_without_messages(applier, batch) || !follow_edits(applier)
						  : !apply_batch(applier, batch))
	{
		/* rows that were read and not applied must be read again */
		applier_rewind(applier);
		return true;
	}
	if (source == SOURCE_KAFKA)
	{
		applier->has_backlog = batch->is_cut;
		if (batch->count > 0)
		{
			applier->element_bytes = batch->bytes / batch->count;
			reuse_staging(applier, batch);
		}
	}
	if (source == SOURCE_LETTERS && batch->has_locked_rows)
		retry_rewind(applier->retry_reader);
	/* a batch that others hold row by row is no reason to hurry */
	more = batch->is_cut && (source == SOURCE_KAFKA || batch->taken > 0);
	if (!more)
		*next_look_ms = batch->has_locked_rows ? LOCKED_LOOK_MS : IDLE_LOOK_MS;
	return more;
}

/* Look at a source of staged rows if that may be worth while. */
static bool
look_at(Applier *applier, Lookout *lookout, uint32 commits, BatchSource source)
{
	TimestampTz now = GetCurrentTimestamp();
	int next_look_ms;
	bool more;

	if (lookout->seen_commits == commits && now < lookout->due)
		return false;
	lookout->due = now; /* in case of an error */
	more = apply_once(applier, source, &next_look_ms);
	lookout->seen_commits = commits;
	lookout->due = TimestampTzPlusMilliseconds(now, next_look_ms);
	return more;
}

/* After a change: progress that somebody has set, and rollups. */
static bool
reload(Applier *applier)
{
	if (!stream_transaction_begin(applier->stream))
		return false;
	stream_check_objects(applier->stream);
	applier_load_progress(applier);
	events_reload(applier->events);
	dead_letters_recount(applier->letters);
	stream_transaction_commit();
	applier_rewind(applier);
	applier->kafka.due = applier->sql.due = applier->retry.due = applier->next_expire = 0;
	applier->must_reload = false;
	applier->may_fill = true;
	return true;
}

/* The rate over the last second or so. */
static void
measure_rate(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(applier->rate_since, now, 1000))
		return;
	my_slot->events_per_second = applier->rate_elements * 1e6 / (now - applier->rate_since);
	applier->rate_since = now;
	applier->rate_elements = 0;
}

/* After the clock was set back everything is due: it would be for as long as that was. */
static void
follow_clock(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < applier->run_at)
	{
		applier->kafka.due = applier->sql.due = applier->retry.due = 0;
		applier->next_expiry = applier->next_maintain_check = applier->next_expire = 0;
		applier->next_compaction = applier->next_bound_check = applier->history_due = 0;
		applier->truncate_due = applier->last_batch_at = applier->rate_since = 0;
		applier->may_fill = true;
	}
	applier->run_at = now;
}

/*
 * Apply what is staged, once, and tend what lies beside it.  True when there
 * is more to do at once.
 */
bool
applier_run(Applier *applier)
{
	bool more;

	if (!applier->is_loaded && !load(applier))
		return true;
	if (applier->must_reload && !reload(applier))
		return true;
	follow_clock(applier);
	/* first, since that may make room among the dead letters; who asks for a
	 * retry has the applier reloaded */
	more = look_at(applier, &applier->retry, 0, SOURCE_LETTERS);
	if (applier->stream->server)
		more |= look_at(applier, &applier->kafka, my_slot->staged_commits, SOURCE_KAFKA);
	more |= look_at(applier, &applier->sql, my_slot->sql_commits, SOURCE_SQL);
	more = upkeep_run(applier, more);
	measure_rate(applier);
	return more;
}

/*
 * How many elements are to be staged before the applier runs again: what one
 * commit may apply, or none while more is staged already.
 */
int
applier_wants(const Applier *applier)
{
	/* a little less than fits: others may be larger, and what is left over is a
	 * commit of its own */
	double fitting = 0.95 * detect_max_batch_kilobytes * 1024 / Max(applier->element_bytes, 1);

	return applier->has_backlog ? 0 : Max((int) Min(pace_elements(applier), fitting), 1);
}

/*
 * How long the worker may wait before it runs the applier again.  What was committed
 * while the applier was at work need not have left the latch set: whoever waits for a
 * lock or a buffer resets it.
 */
int
applier_wait_ms(const Applier *applier)
{
	TimestampTz due = Min(Min(applier->sql.due, applier->retry.due), upkeep_due(applier));

	if (applier->sql.seen_commits != my_slot->sql_commits)
		return 0;
	if (applier->stream->server && applier->kafka.seen_commits != my_slot->staged_commits)
		return 0;
	if (applier->stream->server)
		due = Min(due, applier->kafka.due);
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due);
}
