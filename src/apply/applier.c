/*-------------------------------------------------------------------------
 *
 * applier.c
 *	  What is staged becomes events, rollups, dead letters and progress.
 *
 * A batch is read in one transaction, in which missing partitions are made
 * too, and applied in another: either everything that it causes and the
 * progress past it commit, or nothing does.  An error in data splits the
 * batch; each part is tried in a transaction of its own, in order, until a
 * single element remains, which then becomes a dead letter in the commit that
 * passes it.  Since parts commit in order, progress never passes an element
 * that has no outcome.
 *
 * Memory follows commits: what is known of progress and identities changes
 * here only after the commit that made it so.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "apply/applier.h"
#include "apply/batch.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A staging table this large is emptied as soon as it is drained. */
#define TRUNCATE_BLOCKS 2048
#define IDLE_WAIT_MS 1000
#define SQL_LOOK_MS 100
#define MAINTAIN_CHECK_MS 60000

/* So many elements in a row failing alone are no matter of data any more. */
#define UNKNOWN_FAILURES 20

struct Applier
{
	const Stream *stream;
	MemoryContext context;
	MemoryContext batch_context;
	StagedReader *reader;
	Dedup	   *dedup;
	Events	   *events;
	List	   *applied;		/* of Progress: as committed */
	bool		is_loaded;
	bool		may_fill;		/* a rollup may want filling */
	bool		must_reload;	/* rollups have changed */
	int			piece_size;		/* elements that one transaction tries */
	int			unknown_failures;
	TimestampTz next_sql_look;
	TimestampTz next_maintain_check;
	TimestampTz last_batch_at;
	TimestampTz rate_since;
	int64		rate_elements;
};

/*
 * An applier for a stream; nothing is read yet.  It lives in context.
 */
Applier *
applier_create(const Stream *stream, MemoryContext context)
{
	Applier    *applier = MemoryContextAllocZero(context, sizeof(Applier));

	applier->stream = stream;
	applier->context = AllocSetContextCreate(context, "detect applier", ALLOCSET_DEFAULT_SIZES);
	applier->batch_context = AllocSetContextCreate(context, "detect batch", ALLOCSET_DEFAULT_SIZES);
	applier->piece_size = INT_MAX;
	/* transition tables and joins of a batch should not spill */
	SetConfigOption("work_mem", "65536", PGC_USERSET, PGC_S_SESSION);
	return applier;
}

/* Begin a transaction under the stream's lock; false when the definition has
 * changed meanwhile, and then no transaction is open. */
static bool
begin_batch_transaction(Applier *applier)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	stream_lock(applier->stream->id, AccessShareLock);
	if (!watch_stale)
		return true;
	PopActiveSnapshot();
	AbortCurrentTransaction();
	return false;
}

static void
commit_batch_transaction(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Read applied progress into the applier's memory. */
static void
load_progress(Applier *applier)
{
	MemoryContext old_context = MemoryContextSwitchTo(applier->context);

	applier->applied = progress_read_applied(applier->stream);
	if (progress_find(applier->applied, SQL_TOPIC, SQL_PARTITION) == NULL)
	{
		Progress   *sql = palloc0(sizeof(Progress));

		sql->topic = pstrdup(SQL_TOPIC);
		sql->partition = SQL_PARTITION;
		sql->last_timestamp = DT_NOBEGIN;
		applier->applied = lappend(applier->applied, sql);
	}
	MemoryContextSwitchTo(old_context);
}

/* Load what an applier keeps from batch to batch. */
static bool
load(Applier *applier)
{
	MemoryContextReset(applier->context);
	if (!begin_batch_transaction(applier))
		return false;
	if (applier->stream->server)
		staging_table_ensure(applier->stream);
	load_progress(applier);
	applier->reader = staged_reader_create(applier->stream, applier->context);
	applier->dedup = dedup_create(applier->stream, applier->context);
	applier->events = events_create(applier->stream, applier->context);
	dedup_begin_batch(applier->dedup);
	commit_batch_transaction();
	dedup_commit_batch(applier->dedup);
	applier->is_loaded = true;
	applier->may_fill = true;
	applier->must_reload = false;
	if (applier->stream->server == NULL)
		slot_set_state(my_slot, STREAM_RUNNING);
	return true;
}

/*
 * Definitions have changed, though not the stream's own: load rollups again.
 */
void
applier_reload(Applier *applier)
{
	applier->must_reload = true;
}

/*
 * Forget everything that an aborted transaction may have left wrong.
 */
void
applier_forget(Applier *applier)
{
	if (applier->is_loaded)
	{
		dedup_abort_batch(applier->dedup);
		events_abort(applier->events);
	}
	applier->is_loaded = false;
}

/* ---------------------------------------------------------------------
 * Reading a batch
 * ---------------------------------------------------------------------
 */

/* Make the partitions that the elements of a batch need. */
static void
ensure_partitions(Applier *applier, Batch *batch)
{
	const Stream *stream = applier->stream;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz *times;
	int			ntimes = 0;

	if (!partition_is_by_event_time(stream))
		return;
	times = palloc(Max(batch->count, 1) * sizeof(TimestampTz));
	for (int i = 0; i < batch->count; i++)
	{
		if (!element_is_out_of_range(stream, &batch->elements[i], now))
			times[ntimes++] = batch->elements[i].event_time;
	}
	partition_ensure(stream, times, ntimes);
}

/* The consumer may have found partitions that the applier has not heard of. */
static List *
read_staged_progress(Applier *applier)
{
	List	   *staged = progress_read_staged(applier->stream);
	ListCell   *cell;

	foreach(cell, staged)
	{
		Progress   *progress = lfirst(cell);

		if (progress_find(applier->applied, progress->topic, progress->partition) == NULL)
		{
			load_progress(applier);
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
	ereport(LOG,
			(errmsg("staged rows of stream \"%s\" are missing; reading them from Kafka again",
					applier->stream->name)));
	staging_discard(applier->stream);
	staged_reader_rewind(applier->reader);
}

/* Read what consumers have staged.  Progress first: rows are then seen by a
 * snapshot that is not older. */
static Batch *
read_staged(Applier *applier)
{
	List	   *staged_progress = read_staged_progress(applier);
	Batch	   *batch;

	PushActiveSnapshot(GetTransactionSnapshot());
	batch = staged_read(applier->reader, applier->applied, staged_progress);
	PopActiveSnapshot();
	if (batch == NULL)
	{
		stage_again(applier);
		batch = palloc0(sizeof(Batch));
	}
	return batch;
}

/* Read the next batch, NULL when the definition has changed. */
static Batch *
read_batch(Applier *applier, bool from_sql)
{
	MemoryContext old_context;
	Batch	   *batch;
	instr_time	since;

	INSTR_TIME_SET_CURRENT(since);
	if (!begin_batch_transaction(applier))
		return NULL;
	old_context = MemoryContextSwitchTo(applier->batch_context);
	if (from_sql)
		batch = staged_read_sql(applier->reader, progress_find(applier->applied, SQL_TOPIC, SQL_PARTITION));
	else
		batch = read_staged(applier);
	MemoryContextSwitchTo(old_context);
	ensure_partitions(applier, batch);
	commit_batch_transaction();
	step_time(STEP_READ, &since);
	return batch;
}

/* ---------------------------------------------------------------------
 * Applying a batch
 * ---------------------------------------------------------------------
 */

/* Take the rows that SQL staged; one that is locked or gone is left alone. */
static void
take_sql_rows(Applier *applier, Batch *batch, int from, int to)
{
	Relation	rel = table_open(applier->stream->staging_table, RowExclusiveLock);
	TM_FailureData failure;

	for (int i = from; i < to; i++)
	{
		Element    *element = &batch->elements[i];

		element->is_gone = table_tuple_delete(rel, &element->sql_tid, GetCurrentCommandId(true),
											  GetActiveSnapshot(), InvalidSnapshot, false,
											  &failure, false) != TM_Ok;
	}
	table_close(rel, NoLock);
}

/* Count the outcomes of a piece in copies of the progress, and write those. */
static List *
advance_progress(Applier *applier, Batch *batch, int from, int to)
{
	List	   *advanced = NIL;
	ListCell   *cell;

	for (int i = from; i < to; i++)
	{
		Element    *element = &batch->elements[i];
		Progress   *progress;

		if (element->is_gone)
			continue;
		progress = progress_find(advanced, element->progress->topic, element->progress->partition);
		if (progress == NULL)
		{
			progress = palloc(sizeof(Progress));
			*progress = *element->progress;
			advanced = lappend(advanced, progress);
		}
		progress->outcomes[element->outcome]++;
		if (batch->from_sql)
			continue;
		progress->last_offset = element->offset;
		progress->next_offset = element->offset + 1;
		if (element->kafka_timestamp != DT_NOBEGIN)
			progress->last_timestamp = element->kafka_timestamp;
	}
	foreach(cell, advanced)
	{
		Progress   *progress = lfirst(cell);
		Progress   *staged = progress_find(batch->staged_progress, progress->topic, progress->partition);

		/* past control records, which are no messages */
		if (staged && staged->last_offset == progress->last_offset)
			progress->next_offset = staged->next_offset;
		progress_write_applied(applier->stream, progress);
	}
	return advanced;
}

/* Write the dead letters of a piece. */
static void
write_dead_letters(Applier *applier, Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		Element    *element = &batch->elements[i];

		if (!element->is_gone && element->outcome == OUTCOME_DEAD_LETTER)
			dead_letter_write(applier->stream, element);
	}
}

/* After the commit: what is known follows. */
static void
remember_commit(Applier *applier, Batch *batch, int from, int to, List *advanced)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, advanced)
	{
		Progress   *progress = lfirst(cell);
		Progress   *known = progress_find(applier->applied, progress->topic, progress->partition);
		char	   *topic = known->topic;

		*known = *progress;
		known->topic = topic;
	}
	for (int i = from; i < to; i++)
	{
		Element    *element = &batch->elements[i];

		if (element->is_gone)
			continue;
		my_slot->outcomes[element->outcome]++;
		if (element->kafka_timestamp != DT_NOBEGIN)
			slot_record_freshness(my_slot, now - element->kafka_timestamp, 1);
	}
	my_slot->batches++;
	my_slot->elements += to - from;
	my_slot->last_batch_at = now;
	my_slot->identities = dedup_identities(applier->dedup);
	my_slot->identity_bytes = dedup_bytes(applier->dedup);
	applier->rate_elements += to - from;
	applier->last_batch_at = now;
}

/* Apply a piece in one transaction; false when the definition has changed. */
static bool
apply_piece(Applier *applier, Batch *batch, int from, int to)
{
	MemoryContext old_context;
	List	   *advanced;
	instr_time	since;

	if (!begin_batch_transaction(applier))
		return false;
	if (batch->from_sql)
		take_sql_rows(applier, batch, from, to);
	dedup_begin_batch(applier->dedup);
	decide_piece(applier->stream, applier->reader, applier->dedup, applier->events, batch, from, to);

	INSTR_TIME_SET_CURRENT(since);
	write_dead_letters(applier, batch, from, to);
	old_context = MemoryContextSwitchTo(applier->batch_context);
	advanced = advance_progress(applier, batch, from, to);
	MemoryContextSwitchTo(old_context);
	commit_batch_transaction();
	dedup_commit_batch(applier->dedup);
	remember_commit(applier, batch, from, to, advanced);
	step_time(STEP_COMMIT, &since);
	return true;
}

/* Try a piece; the error if it failed, after everything is as before. */
static ErrorData *
try_piece(Applier *applier, Batch *batch, int from, int to, bool *changed)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		*changed = !apply_piece(applier, batch, from, to);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(applier->batch_context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		dedup_abort_batch(applier->dedup);
		events_abort(applier->events);
	}
	PG_END_TRY();
	return error;
}

/* An element that failed alone: a duplicate after all, or a dead letter. */
static void
blame_element(Applier *applier, Element *element, const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION && error->constraint_name &&
		dedup_owns_constraint(applier->dedup, error->schema_name, error->table_name,
							  error->constraint_name))
	{
		element->is_known = true;
		return;
	}
	element->sqlstate = error->sqlerrcode;
	element->stage = events_stage;
	element->reason = error->message;
	events_stage = "apply";
}

/* Whether an error is for the applier to deal with; the worker deals with the
 * others. */
static bool
is_about_elements(Applier *applier, const ErrorData *error)
{
	FailureKind kind = failure_kind(error);

	if (kind == FAILURE_UNKNOWN)
		return applier->unknown_failures < UNKNOWN_FAILURES;
	return kind == FAILURE_DATA;
}

/*
 * Apply the elements from .. to - 1, splitting where something fails.  False
 * when the definition has changed, which leaves the rest for later.
 */
static bool
apply_range(Applier *applier, Batch *batch, int from, int to)
{
	bool		changed = false;
	ErrorData  *error = try_piece(applier, batch, from, to, &changed);

	if (changed)
		return false;
	if (error == NULL)
	{
		if (to - from > 1)
			applier->unknown_failures = 0;
		return true;
	}
	if (!is_about_elements(applier, error))
		ReThrowError(error);
	if (to - from == 1)
	{
		Element    *element = &batch->elements[from];

		if (element->sqlstate != 0)
			ReThrowError(error);	/* even its dead letter can't be written */
		if (failure_kind(error) == FAILURE_UNKNOWN)
			applier->unknown_failures++;
		blame_element(applier, element, error);
		return apply_range(applier, batch, from, to);
	}
	/* where there is one there are more: small pieces are cheaper to split */
	applier->piece_size = Max((to - from) / 2, 16);
	return apply_range(applier, batch, from, from + (to - from) / 2) &&
		apply_range(applier, batch, from + (to - from) / 2, to);
}

/* Apply a whole batch; false when the definition has changed on the way. */
static bool
apply_batch(Applier *applier, Batch *batch)
{
	int			from = 0;

	while (from < batch->count)
	{
		int			size = Min(batch->count - from, applier->piece_size);

		if (!apply_range(applier, batch, from, from + size))
			return false;
		from += size;
		if (applier->piece_size <= INT_MAX / 2 && size >= applier->piece_size)
			applier->piece_size *= 2;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* Progress past the end of what was staged, where no message stood. */
static bool
advance_without_messages(Applier *applier, Batch *batch)
{
	List	   *advanced = NIL;
	ListCell   *cell;

	foreach(cell, batch->staged_progress)
	{
		Progress   *staged = lfirst(cell);
		Progress   *applied = progress_find(applier->applied, staged->topic, staged->partition);

		if (applied && staged->last_offset <= applied->last_offset &&
			staged->next_offset > applied->next_offset)
			advanced = lappend(advanced, staged);
	}
	if (advanced == NIL)
		return true;
	if (!begin_batch_transaction(applier))
		return false;
	foreach(cell, advanced)
	{
		Progress   *staged = lfirst(cell);
		Progress	progress = *progress_find(applier->applied, staged->topic, staged->partition);

		progress.next_offset = staged->next_offset;
		progress_write_applied(applier->stream, &progress);
	}
	commit_batch_transaction();
	foreach(cell, advanced)
	{
		Progress   *staged = lfirst(cell);

		progress_find(applier->applied, staged->topic, staged->partition)->next_offset = staged->next_offset;
	}
	return true;
}

/* Read and apply once; true when there is more to do at once. */
static bool
apply_once(Applier *applier, bool from_sql)
{
	Batch	   *batch;
	bool		more;

	MemoryContextReset(applier->batch_context);
	batch = read_batch(applier, from_sql);
	if (batch == NULL)
		return true;
	if (batch->count == 0)
		more = !advance_without_messages(applier, batch);
	else
		more = !apply_batch(applier, batch) || batch->is_cut;

	/* rows that were read and not applied must be read again */
	if (more && !batch->is_cut)
		staged_reader_rewind(applier->reader);
	return more;
}

/* ---------------------------------------------------------------------
 * Between batches
 * ---------------------------------------------------------------------
 */

/* Empty the staging table when it is drained and large, or the stream idle. */
static void
truncate_staging(Applier *applier)
{
	bool		is_idle = TimestampDifferenceExceeds(applier->last_batch_at, GetCurrentTimestamp(), IDLE_WAIT_MS);
	BlockNumber blocks = staged_reader_blocks(applier->reader);

	if (applier->stream->server == NULL || blocks == 0 || (!is_idle && blocks < TRUNCATE_BLOCKS))
		return;
	if (!begin_batch_transaction(applier))
		return;
	if (staging_truncate(applier->stream, is_idle ? 1 : TRUNCATE_BLOCKS))
		staged_reader_rewind(applier->reader);
	commit_batch_transaction();
	slot_wake(my_slot, DUTY_CONSUME);
}

/* Load rollups again after a change, and fill one step of those that want it. */
static bool
tend_rollups(Applier *applier)
{
	bool		filled;

	if (!applier->must_reload && !applier->may_fill)
		return false;
	if (!begin_batch_transaction(applier))
		return true;
	if (applier->must_reload)
	{
		events_reload(applier->events);
		applier->must_reload = false;
		applier->may_fill = true;
	}
	filled = events_fill_rollups(applier->events);
	commit_batch_transaction();
	applier->may_fill = filled;
	return filled;
}

/* Ask for indexes of closed partitions and for retention when they are due. */
static void
tend_partitions(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < applier->next_maintain_check)
		return;
	applier->next_maintain_check = TimestampTzPlusMilliseconds(now, MAINTAIN_CHECK_MS);
	if (!begin_batch_transaction(applier))
		return;
	if (maintain_is_due(applier->stream))
	{
		slot_want_maintenance(my_slot);
		launcher_wake();
	}
	commit_batch_transaction();
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

/*
 * Apply what is staged, once, and tend what lies beside it.  True when there
 * is more to do at once.
 */
bool
applier_run(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		more = false;

	if (!applier->is_loaded && !load(applier))
		return true;
	if (applier->stream->server)
		more = apply_once(applier, false);
	if (applier->stream->server == NULL || now >= applier->next_sql_look)
	{
		more |= apply_once(applier, true);
		applier->next_sql_look = TimestampTzPlusMilliseconds(now, SQL_LOOK_MS);
	}
	more |= tend_rollups(applier);
	if (!more)
		truncate_staging(applier);
	tend_partitions(applier);
	measure_rate(applier);
	return more;
}

/*
 * How long the worker may wait before it runs the applier again.
 */
int
applier_wait_ms(const Applier *applier)
{
	return applier->stream->server ? SQL_LOOK_MS : IDLE_WAIT_MS;
}
