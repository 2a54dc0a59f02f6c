/*-------------------------------------------------------------------------
 *
 * locator_stats.c
 *	  What processes have of their locators in memory: detect.stat_locator.
 *
 * A session tells of itself.  A worker writes what it has into its entry of the
 * stream's slot before each commit, so that whoever sees the events of a batch
 * sees its look-ups counted; for that the entry has room for some locators, and
 * the rest is told of as one.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#define LOCATOR_COLUMNS 15

PG_FUNCTION_INFO_V1(detect_locators);

/* ---------------------------------------------------------------------
 * This process
 * ---------------------------------------------------------------------
 */

/* What this process has of a locator; false when it was dropped. */
static bool
find_stats(const Locator *locator, LocatorStats *stats)
{
	const Places *places =
		locator->transaction_places ? locator->transaction_places : locator->places;

	*stats = locator->stats;
	if (places)
	{
		stats->places = places->count - places->ngone;
		stats->vertices = places->vertices;
		stats->bytes = (int64) places_bytes(places);
	}
	return locator->name[0] != '\0' && get_rel_name(locator->view) != NULL;
}

static void
add_stats(LocatorStats *sum, const LocatorStats *stats)
{
	sum->places += stats->places;
	sum->vertices += stats->vertices;
	sum->bytes += stats->bytes;
	sum->builds += stats->builds;
	sum->partial_builds += stats->partial_builds;
	sum->places_built += stats->places_built;
	sum->build_ms += stats->build_ms;
	sum->built_at = Max(sum->built_at, stats->built_at);
	sum->from_memory += stats->from_memory;
	sum->from_query += stats->from_query;
	sum->fallback = Max(sum->fallback, stats->fallback);
}

/*
 * Write what this worker has of its locators into its entry; in a transaction.
 */
void
locator_publish_stats(void)
{
	LocatorStats published[WORKER_LOCATORS + 1] = {0};
	int count = 0;
	ListCell *cell;
	List *all = locator_all();

	foreach(cell, all)
	{
		LocatorStats stats;

		if (!find_stats(lfirst(cell), &stats))
			continue;
		if (count < WORKER_LOCATORS)
			published[count++] = stats;
		else
		{
			add_stats(&published[WORKER_LOCATORS], &stats);
			count = WORKER_LOCATORS + 1;
		}
	}
	list_free(all);
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	memcpy(my_entry->locators, published, sizeof(published));
	my_entry->nlocators = count;
	LWLockRelease(detect_shared->lock);
}

/* ---------------------------------------------------------------------
 * SQL
 * ---------------------------------------------------------------------
 */

/* The row of one locator of a process; stream_id is 0 for a session. */
static void
emit_stats(ReturnSetInfo *result, int pid, int32 stream_id, const char *duty,
		   const LocatorStats *stats)
{
	const char *name = OidIsValid(stats->view) ? get_rel_name(stats->view) : NULL;
	const char *reason = locator_fallback_text(stats->fallback);
	Datum values[LOCATOR_COLUMNS] = {0};
	bool nulls[LOCATOR_COLUMNS] = {0};
	int i = 0;

	values[i++] = Int32GetDatum(pid);
	nulls[i] = stream_id == 0;
	values[i++] = Int32GetDatum(stream_id);
	values[i++] = CStringGetTextDatum(duty);
	nulls[i] = name == NULL;
	values[i++] = name ? CStringGetTextDatum(name) : (Datum) 0;
	values[i++] = Int64GetDatum(stats->places);
	values[i++] = Int64GetDatum(stats->vertices);
	values[i++] = Int64GetDatum(stats->bytes);
	values[i++] = Int64GetDatum(stats->builds);
	values[i++] = Int64GetDatum(stats->partial_builds);
	values[i++] = Int64GetDatum(stats->places_built);
	values[i++] = Float8GetDatum(stats->build_ms);
	nulls[i] = stats->built_at == 0;
	values[i++] = TimestampTzGetDatum(stats->built_at);
	values[i++] = Int64GetDatum(stats->from_memory);
	values[i++] = Int64GetDatum(stats->from_query);
	nulls[i] = reason == NULL;
	values[i++] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	Assert(i == LOCATOR_COLUMNS);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Whether the caller may see what a worker has of a locator: as the owner of
 * the stream, or of the locator.  One that was dropped meanwhile nobody sees. */
static bool
may_see(const StreamSlot *slot, const LocatorStats *stats)
{
	Oid owner = InvalidOid;

	if (OidIsValid(stats->view))
	{
		owner = relation_owner(stats->view, true);
		if (!OidIsValid(owner))
			return false;
	}
	return stats_may_see(slot->owner) || (OidIsValid(owner) && stats_may_see(owner));
}

/* The rows of the workers of a slot that was copied under the lock. */
static void
emit_workers(ReturnSetInfo *result, const StreamSlot *slot)
{
	for (int entry = DUTY_APPLY; entry < WORKER_ENTRIES; entry++)
	{
		const WorkerEntry *worker = &slot->workers[entry];

		for (int i = 0; worker->pid != 0 && i < worker->nlocators; i++)
		{
			if (may_see(slot, &worker->locators[i]))
				emit_stats(result, worker->pid, slot->stream_id,
						   worker_duty_names[ENTRY_DUTY(entry)], &worker->locators[i]);
		}
	}
}

/*
 * detect._locators(): the locators that this session has used, and those of the
 * workers of this database's streams.
 */
Datum
detect_locators(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	StreamSlot slot;
	LocatorStats stats;
	ListCell *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, locator_all())
	{
		if (find_stats(lfirst(cell), &stats))
			emit_stats(result, MyProcPid, 0, "session", &stats);
	}
	for (int i = 0; detect_shared && i < detect_shared->nslots; i++)
	{
		if (stats_copy_slot(i, &slot))
			emit_workers(result, &slot);
	}
	return (Datum) 0;
}
