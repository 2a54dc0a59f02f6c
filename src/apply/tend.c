/*-------------------------------------------------------------------------
 *
 * tend.c
 *	  What the applier asks of maintenance: indexes, the end of partitions, VACUUM.
 *
 * The applier alone knows how much memory identities take.  When it is more
 * than they may, it names the partitions that shall leave it in its slot, and
 * a short-lived worker builds their indexes; they leave memory once that is
 * done, and not before.  Until then partitions are made with their index from
 * the start, since a long transaction can keep a build waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier_internal.h"
#include "rollup/rollup.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define BOUND_CHECK_MS 1000 /* while it is exceeded */

#define PROBLEM_MEMORY "identity memory"

/* Say that the bound is exceeded, or not any more, unless that is known. */
static void
tell_bound(const Applier *applier, bool is_over_bound)
{
	const Stream *stream = applier->stream;

	if (is_over_bound == applier->is_over_bound && applier->bound_is_told)
		return;
	if (is_over_bound)
		problem_set(stream->id, PROBLEM_MEMORY, stream->events_table,
					psprintf("identities take more memory than detect.identity_memory, %s, while "
							 "unique indexes are built in their stead",
							 GetConfigOptionByName("detect.identity_memory", NULL, false)),
					"If it lasts: builds wait for long transactions, see "
					"pg_stat_progress_create_index.");
	else
		problem_clear(stream->id, PROBLEM_MEMORY, InvalidOid);
}

/* Whether there is news of the bound: it is exceeded or kept again, or is
 * exceeded for another second. */
static bool
bound_is_due(const Applier *applier, bool is_over_bound, TimestampTz now)
{
	if (is_over_bound != applier->is_over_bound || !applier->bound_is_told)
		return true;
	return is_over_bound && now >= applier->next_bound_check;
}

/* Whether maintenance has something to do: with partitions that are past, when
 * all are looked at, and with those that must leave memory. */
static bool
maintenance_is_due(Applier *applier, bool looks_at_all, const List *wanted, TimestampTz now)
{
	if (!looks_at_all)
		return maintain_wants(wanted);
	applier->next_maintain_check = TimestampTzPlusMilliseconds(now, MAINTAIN_CHECK_MS);
	dedup_watch(applier->dedup);
	return maintain_is_due(applier->stream, wanted);
}

/*
 * Ask for indexes of closed partitions, for retention, and for VACUUM of state
 * tables when they are due.
 */
void
tend_partitions(Applier *applier)
{
	TimestampTz now = GetCurrentTimestamp();
	bool is_over_bound;
	bool looks_at_all;
	List *wanted;

	MemoryContextSwitchTo(applier->batch_context);
	wanted =
		dedup_beyond_bound(applier->dedup, detect_identity_memory_kilobytes * INT64CONST(1024));
	is_over_bound = wanted != NIL;
	wanted = list_concat(wanted, rollup_states_to_vacuum(events_rollups(applier->events)));
	if (dedup_repeats_ended(applier->dedup))
	{
		maintain_retry();
		applier->next_maintain_check = now;
	}
	looks_at_all = now >= applier->next_maintain_check;
	if (!looks_at_all && !bound_is_due(applier, is_over_bound, now))
		return;
	if (!stream_transaction_begin(applier->stream))
		return;
	maintain_wants_no_more(slot_chores_wanted(my_slot), wanted);
	slot_want_chores(my_slot, wanted);
	tell_bound(applier, is_over_bound);
	if (maintenance_is_due(applier, looks_at_all, wanted, now))
	{
		slot_want_duty(my_slot, DUTY_MAINTAIN);
		launcher_wake();
	}
	stream_transaction_commit();
	applier->next_bound_check = TimestampTzPlusMilliseconds(now, BOUND_CHECK_MS);
	applier->is_over_bound = is_over_bound;
	applier->bound_is_told = true;
}
