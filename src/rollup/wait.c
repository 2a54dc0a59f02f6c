/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  detect.wait_for_rollup: until a rollup is filled or rebuilt, or a new query
 *	  of it has taken over.
 *
 * The caller's own snapshot would never show what the worker commits, at least
 * not above READ COMMITTED, so each look takes the latest snapshot and holds
 * it no longer than the look.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How long to sleep between two looks. */
#define LOOK_INTERVAL_MS 20

/* Columns of detect._rollup. */
#define ATTNUM_ROLLUP_ID   1
#define ATTNUM_NAME		   2
#define ATTNUM_STATE	   6
#define ATTNUM_FILLED_FROM 7
#define ATTNUM_ERROR	   10
#define ATTNUM_REPLACES	   22

/* What one look at a rollup's row has found. */
typedef struct RollupLook
{
	int32 id;		   /* of the rollup itself */
	bool is_made_here; /* by this transaction */
	bool is_new;	   /* the new definition of another one */
	bool is_active;
	char *state;
	char *filled_from; /* NULL while nothing is in */
	char *error;	   /* why it was set aside, or NULL */
	bool has_repairs;
	char *repair_error; /* why groups are not computed again, or NULL */
} RollupLook;

PG_FUNCTION_INFO_V1(detect_wait_for_rollup);

/* Fill in a look from the row of a rollup. */
static void
read_row(TupleTableSlot *slot, RollupLook *look)
{
	Datum xmin;
	Datum value;
	bool isnull;

	look->id = DatumGetInt32(slot_getattr(slot, ATTNUM_REPLACES, &isnull));
	look->is_new = !isnull;
	if (isnull)
		look->id = DatumGetInt32(slot_getattr(slot, ATTNUM_ROLLUP_ID, &isnull));
	xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);
	look->is_made_here = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	look->state = TextDatumGetCString(slot_getattr(slot, ATTNUM_STATE, &isnull));
	look->is_active = strcmp(look->state, "active") == 0;
	value = slot_getattr(slot, ATTNUM_FILLED_FROM, &isnull);
	look->filled_from = isnull ? NULL : pstrdup(timestamptz_to_str(DatumGetTimestampTz(value)));
	value = slot_getattr(slot, ATTNUM_ERROR, &isnull);
	look->error = isnull ? NULL : TextDatumGetCString(value);
}

/* Look at what is to be computed again, with the active snapshot. */
static void
look_at_repairs(RollupLook *look)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(look->id)};

	look->repair_error = NULL;
	SPI_connect();
	look->has_repairs =
		catalog_execute("SELECT error FROM detect._repair WHERE rollup_id = $1 "
						"AND retry_at < 'infinity' ORDER BY error NULLS LAST LIMIT 1",
						1, types, values, NULL) > 0;
	if (look->has_repairs)
	{
		char *error = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		look->repair_error = error ? MemoryContextStrdup(context, error) : NULL;
	}
	SPI_finish();
}

/* Look for the row with a value in a column, as it is now; false when there is
 * none. */
static bool
look_for_row(Relation rel, Snapshot snapshot, ScanKey key, RollupLook *look)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 1, key);
	bool found = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	if (found)
		read_row(slot, look);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* Look at a rollup's row as it is now, or at that of its new definition if it
 * has one; false when there is none. */
static bool
look_at_rollup(const char *name, RollupLook *look)
{
	Relation rel = table_open(catalog_relation("_rollup", false), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	bool found;

	ScanKeyInit(&key, ATTNUM_NAME, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	key.sk_collation = C_COLLATION_OID;
	found = look_for_row(rel, snapshot, &key, look) && !look->is_new;
	if (found)
	{
		PushActiveSnapshot(snapshot);
		look_at_repairs(look);
		PopActiveSnapshot();
		ScanKeyInit(&key, ATTNUM_REPLACES, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(look->id));
		(void) look_for_row(rel, snapshot, &key, look);
	}
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

/* Raise the error of a new definition that cannot be waited for any longer. */
static void
report_not_swapped(const char *name, const RollupLook *look)
{
	if (look->error != NULL && !look->is_active)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the new query of rollup \"%s\" is set aside", name),
						errdetail("%s", look->error),
						errhint("Remove the cause: it is tried again by itself, or at once with "
								"detect.retry_rollup. Or abandon it: SELECT "
								"detect.alter_rollup(%s, reset => '{query}').",
								quote_literal_cstr(name))));
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("the new query of rollup \"%s\" has not taken over yet", name),
					look->error != NULL ? errdetail("%s", look->error)
										: errdetail("Its state is \"%s\".", look->state),
					errhint("Wait longer; detect.stat_rollup shows how far it is.")));
}

/* Raise the error of a rollup that cannot be waited for any longer. */
static void
report_not_filled(const char *name, const RollupLook *look)
{
	if (look->is_new)
		report_not_swapped(name, look);
	if (look->error != NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" is set aside", name), errdetail("%s", look->error),
						errhint("Remove the cause: it is tried again by itself, or at once with "
								"detect.retry_rollup.")));
	if (look->repair_error != NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("groups of rollup \"%s\" could not be computed again", name),
						errdetail("%s", look->repair_error),
						errhint("Remove the cause: it is tried again by itself, or at once with "
								"detect.retry_rollup.")));
	if (look->is_active)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" is not rebuilt yet", name),
						errhint("Wait longer; detect.stat_rollup shows how far it is.")));
	if (look->filled_from != NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" is not filled yet", name),
						errdetail("Events from %s on are in.", look->filled_from),
						errhint("Wait longer; detect.stat_rollup shows how far it is.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("rollup \"%s\" is not filled yet", name),
			 errdetail("Its state is \"%s\": the stream's worker has not begun.", look->state),
			 errhint("See detect.stat_stream for what the worker does, or wait longer.")));
}

/* Sleep for a moment, unless it is time to give up. */
static void
wait_a_moment(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL_MS,
					 compat_wait_event("DetectWaitForRollup"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Raise an error if a transaction cannot wait for what it sees. */
static void
check_may_wait(const char *name, const RollupLook *look)
{
	if (look->is_made_here)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" was made by this transaction and is filled after its commit",
						look->is_new ? "the new query of rollup" : "rollup", name),
				 errhint("Call detect.wait_for_rollup in the next transaction.")));
	if (look->is_new && IsolationUsesXactSnapshot())
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						errmsg("the new query of rollup \"%s\" does not take over before this "
							   "transaction, which keeps its snapshot, has ended",
							   name),
						errhint("Call detect.wait_for_rollup in a READ COMMITTED transaction.")));
}

/*
 * SQL: detect.wait_for_rollup(rollup, timeout).
 */
Datum
detect_wait_for_rollup(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum timeout = PG_GETARG_DATUM(1);
	TimestampTz deadline = DatumGetTimestampTz(DirectFunctionCall2(
		timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), timeout));
	RollupLook look;
	int32 id;

	if (!look_at_rollup(name, &look))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("rollup \"%s\" does not exist", name),
				 errhint("See the view detect.rollup.")));
	if (!has_privs_of_role(GetUserId(), rollup_owner(name)))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of rollup \"%s\"", name)));
	id = look.id;
	/* by a snapshot that is kept more may be read later */
	if (!IsolationUsesXactSnapshot())
		swap_wait_begin(id);
	while (look.is_new || !look.is_active || look.has_repairs)
	{
		bool has_failed = look.error != NULL && !look.is_active;

		check_may_wait(name, &look);
		if (has_failed || look.repair_error != NULL || GetCurrentTimestamp() >= deadline)
			report_not_filled(name, &look);
		wait_a_moment();
		if (!look_at_rollup(name, &look))
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("rollup \"%s\" does not exist", name),
							errdetail("It was dropped while it was waited for.")));
	}
	if (!IsolationUsesXactSnapshot())
		swap_wait_end(id);
	PG_RETURN_VOID();
}
