/*-------------------------------------------------------------------------
 *
 * piece.c
 *	  A batch applied in pieces, each in one transaction.
 *
 * An error in data makes the next piece smaller (piece_failed.c), until a single
 * element remains, which then becomes a dead letter in the commit that passes it;
 * pieces that succeed make the next one larger.  Since they commit in order,
 * progress never passes an element that has no outcome.
 *
 * Memory follows commits: what is known of progress and identities changes
 * here only after the commit that made it so.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/applier_internal.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "rollup/rollup.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A piece in which so many rows were refused at most may be followed by a
 * larger one. */
#define FEW_REFUSED 2

/* Whether an element is the last one of its message. */
static bool
ends_message(const Batch *batch, int i)
{
	const Element *element = &batch->elements[i];

	return i + 1 == batch->count || element[1].progress != element->progress ||
		   element[1].offset != element->offset;
}

/* Count the outcomes of a piece in copies of the progress, and write those. */
static List *
advance_progress(Applier *applier, Batch *batch, int from, int to)
{
	List *advanced = NIL;
	ListCell *cell;

	foreach(cell, applier->applied)
		((Progress *) lfirst(cell))->advanced = NULL;
	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];
		Progress *progress = element->progress->advanced;

		if (element->is_gone || element->progress->is_forgotten)
			continue;
		if (progress == NULL)
		{
			progress = palloc(sizeof(Progress));
			*progress = *element->progress;
			element->progress->advanced = progress;
			advanced = lappend(advanced, progress);
		}
		if (!element->is_void)
			progress->outcomes[element->outcome]++;
		if (element->replaces_letter)
			progress->outcomes[OUTCOME_DEAD_LETTER]--;
		if (batch->source != SOURCE_KAFKA)
			continue;
		progress->last = element;
		progress->last_offset = element->offset;
		progress->last_element = element->element;
		/* a message of which elements are left is read again after a crash */
		progress->next_offset = element->offset + (ends_message(batch, i) ? 1 : 0);
		if (element->kafka_timestamp != DT_NOBEGIN)
			progress->last_timestamp = element->kafka_timestamp;
	}
	foreach(cell, advanced)
	{
		Progress *progress = lfirst(cell);
		Progress *staged =
			progress_find(batch->staged_progress, progress->topic, progress->partition);

		if (batch->source == SOURCE_KAFKA)
			progress->last_fingerprint = staged_fingerprint(applier->stream, progress->last);
		/* past control records, which are no messages */
		if (staged && staged->last_offset == progress->last_offset && progress_is_whole(progress))
			progress->next_offset = staged->next_offset;
	}
	progress_write_applied(applier->stream, advanced);
	return advanced;
}

/* Write the dead letters of a piece, and settle those that were retried. */
static void
write_dead_letters(Applier *applier, Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		const Element *element = &batch->elements[i];

		if (element->is_gone)
			continue;
		if (element->letter)
			retry_settle(applier->letters, batch, i, to);
		else if (element->outcome == OUTCOME_DEAD_LETTER)
			dead_letters_write(applier->letters, element);
	}
	dead_letters_close(applier->letters);
}

/*
 * Say how many identities are in memory.
 */
void
remember_identities(Applier *applier)
{
	my_slot->identities = dedup_identities(applier->dedup);
	my_slot->identity_bytes = dedup_bytes(applier->dedup);
}

/* After the commit: what is known follows. */
static void
remember_commit(Applier *applier, Batch *batch, int from, int to, List *advanced)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz newest = DT_NOBEGIN;
	ListCell *cell;

	foreach(cell, advanced)
	{
		Progress *progress = lfirst(cell);
		Progress *known = progress_find(applier->applied, progress->topic, progress->partition);
		char *topic = known->topic;

		*known = *progress;
		known->topic = topic;
	}
	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];

		if (element->is_gone || element->is_void)
			continue;
		my_slot->outcomes[element->outcome]++;
		/* a letter is as old as it is, however fast it is retried */
		if (element->kafka_timestamp == DT_NOBEGIN || element->letter != NULL)
			continue;
		slot_record_freshness(my_slot, now, now - element->kafka_timestamp, 1);
		newest = Max(newest, element->kafka_timestamp);
	}
	applier->lag_ms = newest == DT_NOBEGIN ? 0 : TimestampDifferenceMilliseconds(newest, now);
	my_slot->batches++;
	my_slot->elements += to - from;
	my_slot->last_batch_at = now;
	remember_identities(applier);
	applier->rate_elements += to - from;
	applier->last_batch_at = now;
}

/*
 * Let memory follow what others have done, and have rollups repaired for it.
 * In a transaction for this alone.
 */
void
follow_others(Applier *applier)
{
	MemoryContext saved_context = MemoryContextSwitchTo(applier->batch_context);
	EditTimes *edited = edit_times_create(applier->stream);

	dedup_follow(applier->dedup, edited);
	rollup_queue_repairs(applier->stream, edited);
	FAULT_POINT("after_edits");
	applier->may_fill |= edited->count > 0;
	MemoryContextSwitchTo(saved_context);
}

/*
 * Begin the transaction of a piece, with memory that knows of all that others
 * had done to the events table before; false when the definition has changed.
 */
static bool
begin_piece(Applier *applier)
{
	bool has_followed = false;

	for (;;)
	{
		if (!stream_transaction_begin(applier->stream))
			return false;
		if (dedup_begin_batch(applier->dedup, !has_followed))
			return true;
		follow_others(applier);
		stream_transaction_commit();
		has_followed = true;
	}
}

/*
 * Let memory follow what others have done while nothing was staged; false when
 * the definition has changed.
 */
bool
follow_edits(Applier *applier)
{
	if (!begin_piece(applier))
		return false;
	stream_transaction_commit();
	remember_identities(applier);
	return true;
}

/* Apply a piece in one transaction; false when the definition has changed. */
static bool
apply_piece(Applier *applier, Batch *batch, int from, int to)
{
	MemoryContext old_context;
	List *advanced;
	instr_time begun;
	instr_time since;

	events_stage = "apply";
	if (!begin_piece(applier))
		return false;
	INSTR_TIME_SET_CURRENT(begun);
	time_limit_begin();
	if (batch->source == SOURCE_SQL)
		staged_take_sql(applier->stream, batch, from, to);
	if (batch->source == SOURCE_LETTERS)
		retry_take(applier->letters, batch, from, to);
	FAULT_POINT("before_apply");
	if (FAULT_MUTANT("progress_first"))
	{
		(void) advance_progress(applier, batch, from, to);
		stream_transaction_commit();
		if (!begin_piece(applier))
			return false;
	}
	decide_piece(applier->stream, applier->readers[0], applier->dedup, applier->events, batch, from,
				 to);
	FAULT_POINT("after_events");

	INSTR_TIME_SET_CURRENT(since);
	write_dead_letters(applier, batch, from, to);
	FAULT_POINT("after_dead_letters");
	old_context = MemoryContextSwitchTo(applier->batch_context);
	advanced = advance_progress(applier, batch, from, to);
	MemoryContextSwitchTo(old_context);
	FAULT_POINT("before_apply_commit");
	stream_transaction_commit();
	time_limit_end();
	FAULT_POINT("after_apply_commit");
	dedup_commit_batch(applier->dedup);
	dead_letters_commit(applier->letters);
	remember_commit(applier, batch, from, to, advanced);
	pace_measure(applier, to - from, begun);
	step_time(STEP_COMMIT, &since);
	return true;
}

/* Try a piece; the error if it failed, after everything is as before, and
 * whether that was because it took too long. */
static ErrorData *
try_piece(Applier *applier, Batch *batch, int from, int to, bool *changed, bool *timed_out)
{
	ErrorData *volatile error = NULL;

	attempt_begin(applier->attempt, batch, from, to);
	PG_TRY();
	{
		*changed = !apply_piece(applier, batch, from, to);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(applier->batch_context);
		error = CopyErrorData();
		FlushErrorState();
		*timed_out = time_limit_was_hit(error);
		time_limit_end();
		HOLD_INTERRUPTS();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		dedup_abort_batch(applier->dedup);
		events_abort(applier->events);
		dead_letters_abort(applier->letters);
	}
	PG_END_TRY();
	attempt_end(applier->attempt, error == NULL && !*changed);
	if (*timed_out)
		time_limit_explain(error);
	return error;
}

/* A piece is applied: what follows for the next one. */
static void
piece_succeeded(Applier *applier, const Batch *batch, int from, int to)
{
	int refused = 0;
	bool has_passed = false;

	for (int i = from; i < to; i++)
	{
		refused += events_searched_for(applier->events, &batch->elements[i]);
		has_passed |= batch->elements[i].sqlstate == 0;
	}
	if (has_passed)
		applier->unknown_failures = 0;
	if (has_passed && batch->source == applier->missing_source)
		applier->missing_partitions = 0;
	applier->time_outs = 0;
	(void) events_guard_rollups(applier->events, false);
	if (refused == 0)
		(void) events_look_for_refused(applier->events, false);
	if (refused <= FEW_REFUSED && applier->piece_size <= INT_MAX / 2 &&
		to - from >= applier->piece_size)
		applier->piece_size *= 2;
}

/*
 * Apply a whole batch; false when the definition has changed on the way, which
 * leaves the rest for later.
 */
bool
apply_batch(Applier *applier, Batch *batch)
{
	int from = 0;

	while (from < batch->count)
	{
		int limit = Min(applier->piece_size, pace_elements(applier));
		int to = from + Min(batch->count - from, limit);
		bool changed = false;
		bool timed_out = false;
		ErrorData *error;

		to = attempt_limit(applier->attempt, batch, from, to);
		error = try_piece(applier, batch, from, to, &changed, &timed_out);
		if (changed)
			return false;
		if (error == NULL)
		{
			piece_succeeded(applier, batch, from, to);
			from = to;
		}
		else
			piece_failed(applier, batch, from, to, error, timed_out);
		CHECK_FOR_INTERRUPTS();
	}
	attempt_batch_done(applier->attempt, batch);
	return true;
}
