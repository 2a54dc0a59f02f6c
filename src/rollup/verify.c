/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  detect.verify_rollup: the groups that differ from what the events give.
 *
 * Events and states commit together, so under one snapshot, the caller's, they
 * fit whatever the stream does meanwhile.  The events are aggregated as the
 * applier would do it, into rows of the state table's type, and one statement
 * compares those with the rows that are kept (verify_sql.c).
 *
 * A snapshot does not show events that are dropped or truncated after it was
 * taken.  So what is gone is asked for last, when the partitions are locked.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include <math.h>

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "sql.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The name under which the statement reads what was recomputed. */
#define RECOMPUTED_NAME "recomputed"

/* Events are read from so much before the buckets that are asked for, until so
 * much after them: where clocks are set back, a bucket in local time has
 * events of earlier and of later than it seems. */
#define CLOCK_SLACK USECS_PER_DAY

/* Results of limited precision are alike within these, relatively: the sum of
 * the same numbers depends on their order. */
#define ALIKE_FLOAT8 1e-9
#define ALIKE_FLOAT4 1e-5

/* What is verified. */
typedef struct Verification
{
	const Stream *stream;
	const Rollup *rollup;
	RollupShape *shape;
	bool has_from; /* buckets that begin at or after from are asked for */
	TimestampTz from;
	bool has_to; /* and before to */
	TimestampTz to;
	VerifyScope scope;
} Verification;

PG_FUNCTION_INFO_V1(detect_verify_rollup);
PG_FUNCTION_INFO_V1(detect_alike_float8);
PG_FUNCTION_INFO_V1(detect_alike_float4);

/* Raise an error unless a rollup has what it should have of the events. */
static void
check_phase(const Rollup *rollup)
{
	if (rollup->phase == ROLLUP_NEW)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" has no events yet", rollup->name),
						errhint("Wait until it is filled: SELECT detect.wait_for_rollup(%s);",
								quote_literal_cstr(rollup->name))));
	if (rollup_is_aside(rollup))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rollup \"%s\" is set aside and misses events", rollup->name),
						errdetail("See events_missed and error in detect.stat_rollup."),
						errhint("Mend what it failed by, then: SELECT detect.retry_rollup(%s);",
								quote_literal_cstr(rollup->name))));
}

/* Take the limits of what is asked for. */
static void
take_limits(Verification *verification, FunctionCallInfo fcinfo)
{
	verification->has_from = !PG_ARGISNULL(1) && PG_GETARG_TIMESTAMPTZ(1) != DT_NOBEGIN;
	verification->has_to = !PG_ARGISNULL(2) && PG_GETARG_TIMESTAMPTZ(2) != DT_NOEND;
	if (verification->has_from)
		verification->from = PG_GETARG_TIMESTAMPTZ(1);
	if (verification->has_to)
		verification->to = PG_GETARG_TIMESTAMPTZ(2);
	if (!verification->has_from && !verification->has_to)
		return;
	if (verification->scope.bucket < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rollup \"%s\" has no buckets that from_time and to_time could choose",
						verification->rollup->name),
				 errdetail("No group column is a time made of the event time of "
						   "stream \"%s\" alone.",
						   verification->stream->name),
				 errhint("Leave them out to verify all groups.")));
	if (verification->has_from && TIMESTAMP_NOT_FINITE(verification->from))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("from_time must not be infinity")));
	if (verification->has_to && TIMESTAMP_NOT_FINITE(verification->to))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("to_time must not be -infinity")));
}

/* ---------------------------------------------------------------------
 * Buckets
 * ---------------------------------------------------------------------
 */

/* The bucket of a time, as its type stores it; a limit without end stays one. */
static int64
bucket_at(const Verification *verification, TimestampTz time)
{
	const VerifyScope *scope = &verification->scope;
	bool is_date = scope->bucket_type == DATEOID;
	const Const *bucket;

	if (time == DT_NOBEGIN)
		return is_date ? DATEVAL_NOBEGIN : DT_NOBEGIN;
	if (time == DT_NOEND)
		return is_date ? DATEVAL_NOEND : DT_NOEND;
	bucket = bucket_of(verification->shape, verification->stream, scope->bucket, time);
	return is_date ? DatumGetDateADT(bucket->constvalue) : DatumGetTimestamp(bucket->constvalue);
}

/* The last bucket that begins before a time. */
static int64
bucket_before(const Verification *verification, TimestampTz time)
{
	return bucket_at(verification, TIMESTAMP_NOT_FINITE(time) ? time : time - 1);
}

/* Choose the buckets that are asked for.  No value lies between one and the
 * next, so any from just above one is as good as that. */
static void
choose_buckets(Verification *verification)
{
	VerifyScope *scope = &verification->scope;

	scope->has_wanted = verification->has_from || verification->has_to;
	if (!scope->has_wanted)
		return;
	if (verification->has_from && !TIMESTAMP_NOT_FINITE(verification->from))
		verification->from = bucket_reach(verification->shape, verification->stream, scope->bucket,
										  verification->from, -1);
	if (verification->has_to && !TIMESTAMP_NOT_FINITE(verification->to))
		verification->to = bucket_reach(verification->shape, verification->stream, scope->bucket,
										verification->to, 1);
	scope->wanted.first = bucket_at(verification, DT_NOBEGIN);
	scope->wanted.last = bucket_at(verification, DT_NOEND);
	if (verification->has_from)
		scope->wanted.first = bucket_before(verification, verification->from) + 1;
	if (verification->has_to)
		scope->wanted.last = bucket_before(verification, verification->to);
}

/* Append a range of buckets to those that begin before it, or make the last of
 * them longer if they touch. */
static List *
append_buckets(List *ranges, int64 first, int64 last)
{
	BucketRange *range = ranges == NIL ? NULL : llast(ranges);

	if (first > last)
		return ranges;
	if (range != NULL && (first <= range->last || first - 1 == range->last))
	{
		range->last = Max(range->last, last);
		return ranges;
	}
	range = palloc(sizeof(BucketRange));
	range->first = first;
	range->last = last;
	return lappend(ranges, range);
}

/* Find out which groups can't be verified, for some of their events are gone,
 * or the groups themselves are going. */
static void
find_gone(Verification *verification)
{
	VerifyScope *scope = &verification->scope;
	List *gone = gone_ranges(verification->stream);
	TimestampTz kept_from = verification->rollup->kept_from;
	ListCell *cell;

	scope->all_gone = scope->bucket < 0 && gone != NIL;
	if (scope->bucket < 0)
		return;
	if (kept_from != 0)
		scope->gone = append_buckets(scope->gone, bucket_at(verification, DT_NOBEGIN),
									 bucket_at(verification, kept_from) - 1);
	foreach(cell, gone)
	{
		const TimeRange *range = lfirst(cell);

		scope->gone = append_buckets(scope->gone, bucket_at(verification, range->from),
									 bucket_before(verification, range->until));
		scope->timeless_gone |= range->from == DT_NOBEGIN;
	}
}

/* ---------------------------------------------------------------------
 * Events
 * ---------------------------------------------------------------------
 */

/* A time after all events of the buckets that begin before another, found by
 * trying; false when there is none. */
static bool
end_of_buckets(const Verification *verification, TimestampTz to, TimestampTz *end)
{
	int64 last = bucket_before(verification, to);

	for (int64 step = USECS_PER_SEC; IS_VALID_TIMESTAMP(to + step); step *= 2)
	{
		*end = to + step;
		if (bucket_at(verification, *end) != last)
			return true;
	}
	return false;
}

/* Whether events can be chosen by their time: by partial_query.c. */
static bool
has_timestamps(const Stream *stream)
{
	Oid type = getBaseType(
		get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time)));

	return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
}

/* Choose the events to read: at least all those of the buckets that are asked
 * for, and of a rollup that is filling exactly those that are in it. */
static void
choose_events(const Verification *verification, PartialSource *source)
{
	const Rollup *rollup = verification->rollup;
	TimestampTz end;

	if (rollup->phase == ROLLUP_FILLING)
	{
		source->has_from = true;
		source->from = rollup->filled_from;
	}
	if (!verification->scope.has_wanted || !has_timestamps(verification->stream))
		return;
	if (verification->has_from && IS_VALID_TIMESTAMP(verification->from - CLOCK_SLACK))
	{
		source->from =
			Max(verification->from - CLOCK_SLACK, source->has_from ? source->from : DT_NOBEGIN);
		source->has_from = true;
	}
	if (verification->has_to && end_of_buckets(verification, verification->to, &end) &&
		IS_VALID_TIMESTAMP(end + CLOCK_SLACK))
	{
		source->has_until = true;
		source->until = end + CLOCK_SLACK;
	}
}

/* Aggregate the events under the active snapshot. */
static Tuplestorestate *
recompute(const Verification *verification)
{
	Tuplestorestate *partial = tuplestore_begin_heap(false, false, work_mem);
	PartialSource source = {.snapshot = GetActiveSnapshot()};

	choose_events(verification, &source);
	(void) partial_run(verification->rollup, verification->rollup->batch_plan, &source, partial);
	return partial;
}

/* ---------------------------------------------------------------------
 * Comparing
 * ---------------------------------------------------------------------
 */

/* Run the statement under the active snapshot, into the function's result. */
static void
compare(const Verification *verification, Relation state_table, Tuplestorestate *recomputed,
		ReturnSetInfo *result)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	SPIExecuteOptions options = {.read_only = true};
	int nest_level = NewGUCNestLevel();
	char *sql;

	relation->md.name = RECOMPUTED_NAME;
	relation->md.tupdesc = CreateTupleDescCopy(RelationGetDescr(state_table));
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = (double) tuplestore_tuple_count(recomputed);
	relation->reldata = recomputed;
	options.dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(options.dest, result->setResult, CurrentMemoryContext, false,
									NULL, NULL);

	sql_set("search_path", "pg_catalog, pg_temp");
	sql = verify_sql(verification->shape, &verification->scope, state_table, RECOMPUTED_NAME);
	SPI_connect();
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER ||
		SPI_execute_extended(sql, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not compare the groups of rollup \"%s\"", verification->rollup->name);
	SPI_finish();
	AtEOXact_GUC(true, nest_level);
}

/* Verify a rollup whose row has been found. */
static void
verify(const RollupRow *row, const char *name, FunctionCallInfo fcinfo)
{
	Verification verification = {.stream = stream_load_by_events_table(row->events_table)};
	Relation state_table;
	Tuplestorestate *recomputed;
	int nest_level;

	if (verification.stream == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the stream of rollup \"%s\" does not exist any more", name),
						errhint("Create a stream over its events table.")));
	verification.rollup = rollup_load(verification.stream, row->id);
	if (verification.rollup == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("rollup \"%s\" does not exist", name)));
	check_phase(verification.rollup);

	verification.shape = shape_load(verification.rollup->query_view, row->events_table);
	state_table = table_open(verification.rollup->state_table, AccessShareLock);
	merge_check_state_table(verification.rollup, verification.shape, RelationGetDescr(state_table));
	verification.scope.bucket = bucket_key(verification.shape, verification.stream);
	if (verification.scope.bucket >= 0)
		verification.scope.bucket_type =
			getBaseType(verification.shape->keys[verification.scope.bucket].type);
	take_limits(&verification, fcinfo);

	nest_level = partial_enter_time_zone(verification.rollup);
	choose_buckets(&verification);
	recomputed = recompute(&verification);
	find_gone(&verification);
	AtEOXact_GUC(true, nest_level);
	compare(&verification, state_table, recomputed, (ReturnSetInfo *) fcinfo->resultinfo);
	tuplestore_end(recomputed);
	table_close(state_table, NoLock);
}

/*
 * SQL: detect.verify_rollup(rollup, from_time, to_time).
 */
Datum
detect_verify_rollup(PG_FUNCTION_ARGS)
{
	RollupRow row;
	char *name;
	ActingUser caller;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("name of a rollup must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	definition_get(name, &row);
	InitMaterializedSRF(fcinfo, 0);

	caller = rollup_act_as_owner(name);
	verify(&row, name, fcinfo);
	sql_act_as_before(&caller);
	return (Datum) 0;
}

/* Whether two numbers are the same, or differ relatively by no more than so
 * much. */
static bool
is_alike(double kept, double recomputed, double tolerance)
{
	if (kept == recomputed || (isnan(kept) && isnan(recomputed)))
		return true;
	if (!isfinite(kept) || !isfinite(recomputed))
		return false;
	return fabs(kept - recomputed) <= tolerance * Max(fabs(kept), fabs(recomputed));
}

/*
 * SQL: detect._alike(kept, recomputed): two results, NULL being one.
 */
Datum
detect_alike_float8(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(PG_ARGISNULL(0) && PG_ARGISNULL(1));
	PG_RETURN_BOOL(is_alike(PG_GETARG_FLOAT8(0), PG_GETARG_FLOAT8(1), ALIKE_FLOAT8));
}

Datum
detect_alike_float4(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(PG_ARGISNULL(0) && PG_ARGISNULL(1));
	PG_RETURN_BOOL(is_alike(PG_GETARG_FLOAT4(0), PG_GETARG_FLOAT4(1), ALIKE_FLOAT4));
}
