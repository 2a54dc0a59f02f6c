/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What the workers of this database's streams say in shared memory.
 *
 * Each slot is copied under the lock and turned into a row afterwards, so
 * that nothing which can raise an error happens under it.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"

#define SLOT_COLUMNS 19

PG_FUNCTION_INFO_V1(detect_slots);

/* A word for how the stream is doing, as views show it. */
static const char *
state_word(const StreamSlot *slot)
{
	if (slot->wanted && slot->pids[DUTY_APPLY] == 0)
		return "waiting for a worker";
	switch (slot->state)
	{
		case STREAM_STOPPED:
			return "stopped";
		case STREAM_STARTING:
			return "starting";
		case STREAM_CONNECTING:
			return "connecting";
		case STREAM_RUNNING:
			return "running";
		case STREAM_RETRYING:
			return "retrying";
	}
	elog(ERROR, "unknown stream state %d", (int) slot->state);
	return NULL; /* keep compiler quiet */
}

/* The time of each step as bigint[]. */
static Datum
step_array(const StreamSlot *slot)
{
	Datum elements[STEPS];

	for (int step = 0; step < STEPS; step++)
		elements[step] = Int64GetDatum(slot->step_us[step]);
	return PointerGetDatum(
		construct_array(elements, STEPS, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Whether the caller may see it: reasons quote names and values. */
static bool
may_see(const StreamSlot *slot)
{
	return has_privs_of_role(GetUserId(), slot->owner) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* Append a row for a slot that was copied under the lock. */
static void
emit_slot(ReturnSetInfo *result, const StreamSlot *slot, TimestampTz now)
{
	Datum values[SLOT_COLUMNS];
	bool nulls[SLOT_COLUMNS] = {0};
	double p50_ms = 0;
	double p99_ms = 0;
	int i = 0;

	values[i++] = Int32GetDatum(slot->stream_id);
	values[i++] = CStringGetTextDatum(state_word(slot));
	nulls[i] = slot->state_since == 0;
	values[i++] = TimestampTzGetDatum(slot->state_since);
	nulls[i] = slot->reason[0] == '\0';
	values[i++] = CStringGetTextDatum(slot->reason);
	nulls[i] = slot->last_sqlstate == 0;
	values[i++] = CStringGetTextDatum(unpack_sql_state(slot->last_sqlstate));
	nulls[i] = slot->last_error_at == 0;
	values[i++] = TimestampTzGetDatum(slot->last_error_at);
	values[i++] = Int64GetDatum(slot->retries);
	values[i++] = Int64GetDatum(slot->batches);
	values[i++] = Int64GetDatum(slot->elements);
	values[i++] = Int64GetDatum(slot->identities);
	values[i++] = Int64GetDatum(slot->identity_bytes);
	nulls[i] = slot->last_batch_at == 0;
	values[i++] = TimestampTzGetDatum(slot->last_batch_at);
	values[i++] = Float8GetDatum(slot->events_per_second);
	nulls[i] = !freshness_percentile(&slot->freshness, 0.50, now, &p50_ms);
	values[i++] = Float8GetDatum(p50_ms);
	nulls[i] = !freshness_percentile(&slot->freshness, 0.99, now, &p99_ms);
	values[i++] = Float8GetDatum(p99_ms);
	values[i++] = step_array(slot);
	nulls[i] = slot->pids[DUTY_APPLY] == 0;
	values[i++] = Int32GetDatum(slot->pids[DUTY_APPLY]);
	nulls[i] = slot->pids[DUTY_CONSUME] == 0;
	values[i++] = Int32GetDatum(slot->pids[DUTY_CONSUME]);
	nulls[i] = slot->pids[DUTY_MAINTAIN] == 0;
	values[i++] = Int32GetDatum(slot->pids[DUTY_MAINTAIN]);
	Assert(i == SLOT_COLUMNS);

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * detect._slots(): a row for each stream of this database that has a slot;
 * none where the library is not preloaded.
 */
Datum
detect_slots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();

	InitMaterializedSRF(fcinfo, 0);
	if (detect_shared == NULL)
		return (Datum) 0;
	if (result->setDesc->natts != SLOT_COLUMNS)
		elog(ERROR, "detect._slots has %d columns, not %d", result->setDesc->natts, SLOT_COLUMNS);

	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot slot;

		LWLockAcquire(detect_shared->lock, LW_SHARED);
		slot = detect_shared->slots[i];
		LWLockRelease(detect_shared->lock);
		if (slot.in_use && !slot.dropped && slot.database == MyDatabaseId && may_see(&slot))
			emit_slot(result, &slot, now);
	}
	return (Datum) 0;
}
