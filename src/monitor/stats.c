/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  What the workers of this database's streams say in shared memory.
 *
 * Each slot is copied under the lock and turned into a row afterwards, so
 * that nothing which can raise an error happens under it.
 *
 * Staged progress is in a table, but an unlogged one, which a query may not
 * even name on a standby: the views read it through a function.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"

#define SLOT_COLUMNS   15
#define WORKER_COLUMNS 6
#define STAGED_COLUMNS 8

PG_FUNCTION_INFO_V1(detect_slots);
PG_FUNCTION_INFO_V1(detect_staged_offsets);
PG_FUNCTION_INFO_V1(detect_workers);

/* A word for a state, as views show it. */
static const char *
state_word(StreamState state)
{
	switch (state)
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
		case STREAM_WAITING:
			return "waiting for a worker";
	}
	elog(ERROR, "unknown stream state %d", (int) state);
	return NULL; /* keep compiler quiet */
}

/* The time of each step as bigint[]. */
static Datum
step_array(const WorkerEntry *worker)
{
	Datum elements[STEPS];

	for (int step = 0; step < STEPS; step++)
		elements[step] = Int64GetDatum(worker->step_us[step]);
	return PointerGetDatum(
		construct_array(elements, STEPS, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Whether the caller may see what belongs to an owner: reasons quote names and
 * values.
 */
bool
stats_may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
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
	values[i++] = CStringGetTextDatum(state_word(slot_state(slot)));
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
	Assert(i == SLOT_COLUMNS);

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Append a row for each worker of a slot that was copied under the lock. */
static void
emit_workers(ReturnSetInfo *result, const StreamSlot *slot)
{
	for (int entry = DUTY_APPLY; entry < WORKER_ENTRIES; entry++)
	{
		const WorkerEntry *worker = &slot->workers[entry];
		WorkerDuty duty = ENTRY_DUTY(entry);
		Datum values[WORKER_COLUMNS];
		bool nulls[WORKER_COLUMNS] = {0};

		values[0] = Int32GetDatum(slot->stream_id);
		values[1] = CStringGetTextDatum(worker_duty_names[duty]);
		values[2] = Int32GetDatum(entry - duty);
		values[3] = Int32GetDatum(worker->pid);
		nulls[3] = worker->pid == 0;
		values[4] = CStringGetTextDatum(state_word(worker->state));
		values[5] = step_array(worker);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * Copy a slot by its number; false when it is none of this database's streams.
 */
bool
stats_copy_slot(int i, StreamSlot *copy)
{
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	*copy = detect_shared->slots[i];
	LWLockRelease(detect_shared->lock);
	return copy->in_use && !copy->dropped && copy->database == MyDatabaseId;
}

/* Begin a set of rows; how many slots there are to look at. */
static int
begin_rows(FunctionCallInfo fcinfo, int natts)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (result->setDesc->natts != natts)
		elog(ERROR, "function has %d columns, not %d", result->setDesc->natts, natts);
	return detect_shared ? detect_shared->nslots : 0;
}

/*
 * detect._slots(): a row for each stream of this database that has a slot;
 * none where the library is not preloaded.
 */
Datum
detect_slots(PG_FUNCTION_ARGS)
{
	int nslots = begin_rows(fcinfo, SLOT_COLUMNS);
	TimestampTz now = GetCurrentTimestamp();
	StreamSlot slot;

	for (int i = 0; i < nslots; i++)
	{
		if (stats_copy_slot(i, &slot) && stats_may_see(slot.owner))
			emit_slot((ReturnSetInfo *) fcinfo->resultinfo, &slot, now);
	}
	return (Datum) 0;
}

/*
 * detect._workers(): a row for each worker that these streams have or may have.
 */
Datum
detect_workers(PG_FUNCTION_ARGS)
{
	int nslots = begin_rows(fcinfo, WORKER_COLUMNS);
	StreamSlot slot;

	for (int i = 0; i < nslots; i++)
	{
		if (stats_copy_slot(i, &slot) && stats_may_see(slot.owner))
			emit_workers((ReturnSetInfo *) fcinfo->resultinfo, &slot);
	}
	return (Datum) 0;
}

/*
 * detect._staged_offsets(): staged progress of this database's streams; no rows on a
 * standby, which has none.
 */
Datum
detect_staged_offsets(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	begin_rows(fcinfo, STAGED_COLUMNS);
	if (RecoveryInProgress())
		return (Datum) 0;
	SPI_connect();
	catalog_read(
		"SELECT p.stream_id, p.kafka_topic, p.kafka_partition, p.next_offset, p.end_offset, "
		"p.paused_reason, p.paused_since, p.waits_since, detect._stream_owner(s.name) "
		"FROM detect._staged_progress p JOIN detect._stream s USING (stream_id)",
		0, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum values[STAGED_COLUMNS + 1];
		bool nulls[STAGED_COLUMNS + 1];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
		if (!nulls[STAGED_COLUMNS] && stats_may_see(DatumGetObjectId(values[STAGED_COLUMNS])))
			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
