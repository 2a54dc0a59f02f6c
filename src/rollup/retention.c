/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Groups of a rollup that are older than its retention.
 *
 * The age of a group is told by its bucket (bucket.c).  A bucket is old when
 * the time from which on groups are kept lies in a later one; so no width need
 * be known, and the bucket of now minus retention stays whole.
 *
 * That time is kept_from in detect._rollup.  It only moves forward, in the
 * transaction that deletes the first of the groups that have become old, and
 * events of older buckets are passed over from the next batch on: a group that
 * went never comes back in part.  So it goes no further than just behind the
 * groups that there are: a clock that was ahead once shall not have events passed
 * over when it is right again.  The applier does it between two batches, a
 * bounded number of groups at a time.  What becomes of the events is another
 * matter, the stream's retention.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/stratnum.h"
#include "apply/applier.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fault_point.h"
#include "nodes/makefuncs.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* Groups that one transaction deletes at most. */
#define CHUNK_GROUPS 10000

/* What one step deletes. */
typedef struct ExpireStep
{
	RollupSet *set;
	Rollup *rollup;
	bool are_more;
} ExpireStep;

/*
 * The condition that an event's bucket is not older than kept_from.  A bucket
 * that is NULL has no age.
 */
Node *
retention_condition(const RollupShape *shape, const Stream *stream, TimestampTz kept_from)
{
	int bucket = bucket_key(shape, stream);
	Expr *expr;
	Node *is_kept;

	if (bucket < 0)
		return NULL;
	expr = shape->keys[bucket].expr;
	is_kept = partial_comparison(expr, BTGreaterEqualStrategyNumber,
								 bucket_of(shape, stream, bucket, kept_from));
	return (Node *) make_orclause(list_make2(is_kept, partial_is_null(expr)));
}

/*
 * Raise an error unless a retention is a positive interval.
 */
void
retention_check_interval(const Interval *retention)
{
	Interval zero = {0};

	if (retention == NULL)
		return;
	if (!compat_interval_is_finite(retention))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("retention must not be infinite"),
				 errhint("Leave it out to keep groups for ever.")));
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(retention),
										  IntervalPGetDatum(&zero))) <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retention must be longer than zero"),
						errhint("Leave it out to keep groups for ever.")));
}

/*
 * Raise an error unless the groups of a rollup have an age.
 */
void
retention_check(const RollupShape *shape, const Stream *stream)
{
	if (bucket_key(shape, stream) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("retention needs a group column that tells how old a group is"),
						errdetail(stream->event_time == NULL
									  ? "Stream \"%s\" has no event time."
									  : "No group column is a time made of the event time of "
										"stream \"%s\" alone.",
								  stream->name),
						errhint("Group by date_bin or date_trunc of the event time.")));
}

/* What groups that are older than a bucket are found by: the index on the groups, if the
 * bucket leads it, whatever statistics say of buckets that are gone. */
static char *
older_groups_sql(const Rollup *rollup, int bucket, int limit)
{
	const char *column = quote_identifier(get_attname(rollup->state_table, bucket + 1, false));

	return psprintf("SELECT ctid FROM " DETECT_STATE_SCHEMA ".%s WHERE %s < $1 %s%s LIMIT %d",
					quote_identifier(get_rel_name(rollup->state_table)), column,
					bucket == 0 ? "ORDER BY " : "", bucket == 0 ? column : "", limit);
}

/*
 * Whether a rollup has groups whose bucket is older than that of a time.
 */
bool
retention_has_older(const Rollup *rollup, TimestampTz time)
{
	RollupShape *shape = shape_load(rollup->query_view, rollup->stream->events_table);
	int bucket = bucket_key(shape, rollup->stream);
	int nest_level = partial_enter_time_zone(rollup);
	bool found = false;
	ActingUser caller;

	/* functions of his are in the expression of the bucket, and operators in the caller's
	 * path */
	caller = rollup_act_as_owner(rollup->name);
	sql_set("search_path", "pg_catalog, pg_temp");
	if (bucket >= 0)
	{
		const Const *oldest = bucket_of(shape, rollup->stream, bucket, time);
		Oid types[1] = {oldest->consttype};
		Datum values[1] = {oldest->constvalue};

		SPI_connect();
		if (SPI_execute_with_args(older_groups_sql(rollup, bucket, 1), 1, types, values, NULL, true,
								  1) != SPI_OK_SELECT)
			elog(ERROR, "could not look for old groups of rollup \"%s\"", rollup->name);
		found = SPI_processed > 0;
		SPI_finish();
	}
	sql_act_as_before(&caller);
	AtEOXact_GUC(true, nest_level);
	return found;
}

/* Read from when on groups are to be kept, and whether old ones may be left;
 * false when all are kept. */
static bool
read_wanted(const Rollup *rollup, TimestampTz *wanted, bool *expiring)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(rollup->id)};
	bool isnull = true;

	SPI_connect();
	/* As a timestamp without time zone, since months are those of UTC. */
	if (catalog_execute("SELECT GREATEST(kept_from, (now() AT TIME ZONE 'UTC' - retention) "
						"AT TIME ZONE 'UTC'), expiring FROM detect._rollup WHERE rollup_id = $1",
						1, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];

		*expiring = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		*wanted = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_finish();
	return !isnull;
}

/* The last bucket that a rollup has a group of, as a time; false when there is none. */
static bool
newest_bucket(const Rollup *rollup, int bucket, Oid type, TimestampTz *newest)
{
	bool isnull = true;
	Datum value = (Datum) 0;

	SPI_connect();
	if (SPI_execute(psprintf("SELECT pg_catalog.max(%s) FROM " DETECT_STATE_SCHEMA ".%s",
							 quote_identifier(get_attname(rollup->state_table, bucket + 1, false)),
							 quote_identifier(get_rel_name(rollup->state_table))),
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for the newest group of rollup \"%s\"", rollup->name);
	if (SPI_processed > 0)
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		*newest = partition_time(getBaseType(type), value);
	SPI_finish();
	return !isnull;
}

/* From when on groups are kept once those that are older than wanted, whose bucket is
 * oldest, are gone: that, or the first time behind all groups that there are. */
static TimestampTz
kept_without_older(const Rollup *rollup, const RollupShape *shape, int bucket, TimestampTz wanted,
				   const Const *oldest)
{
	TimestampTz newest = 0;
	TimestampTz before;
	TimestampTz behind = wanted;

	if (!newest_bucket(rollup, bucket, oldest->consttype, &newest))
		return rollup->phase == ROLLUP_ACTIVE && rollup->kept_from != 0 ? rollup->kept_from
																		: wanted;
	if (partition_time(getBaseType(oldest->consttype), oldest->constvalue) <= newest ||
		TIMESTAMP_NOT_FINITE(newest) || TIMESTAMP_NOT_FINITE(wanted))
		return wanted;
	/* buckets of local time begin within a day of that time in UTC */
	before = newest - USECS_PER_DAY;
	while (behind - before > 1)
	{
		TimestampTz middle = before + (behind - before) / 2;

		if (bucket_time(shape, rollup->stream, bucket, middle) > newest)
			behind = middle;
		else
			before = middle;
	}
	return Max(behind, rollup->kept_from);
}

/* Delete some of the groups whose bucket is older than one; the result tells
 * whether there may be more. */
static bool
delete_groups(const Rollup *rollup, int bucket, const Const *oldest)
{
	const char *table = quote_identifier(get_rel_name(rollup->state_table));
	Oid types[1] = {oldest->consttype};
	Datum values[1] = {oldest->constvalue};
	int64 deleted;

	SPI_connect();
	if (SPI_execute_with_args(psprintf("DELETE FROM " DETECT_STATE_SCHEMA
									   ".%s WHERE ctid = ANY (ARRAY(%s))",
									   table, older_groups_sql(rollup, bucket, CHUNK_GROUPS)),
							  1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete old groups of rollup \"%s\"", rollup->name);
	deleted = (int64) SPI_processed;
	SPI_finish();
	return deleted >= CHUNK_GROUPS;
}

/* Write from when on groups are kept, and whether old ones may be left. */
static void
write_kept(const Rollup *rollup, TimestampTz kept_from, bool expiring)
{
	Oid types[3] = {INT4OID, TIMESTAMPTZOID, BOOLOID};
	Datum values[3];

	values[0] = Int32GetDatum(rollup->id);
	values[1] = TimestampTzGetDatum(kept_from);
	values[2] = BoolGetDatum(expiring);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET kept_from = $2, expiring = $3 WHERE rollup_id = $1",
					3, types, values, NULL);
	SPI_finish();
}

/* Delete the next of a rollup's old groups, if its oldest bucket has moved or
 * some are left. */
static void
expire_step(void *arg)
{
	ExpireStep *step = (ExpireStep *) arg;
	Rollup *rollup = step->rollup;
	const Stream *stream = rollup->stream;
	TimestampTz wanted = 0;
	bool expiring = false;
	RollupShape *shape;
	int nest_level;
	int bucket;
	Const *oldest;
	TimestampTz kept_from;

	if (!read_wanted(rollup, &wanted, &expiring))
		return;
	shape = shape_load(rollup->query_view, stream->events_table);
	bucket = bucket_key(shape, stream);
	if (bucket < 0)
		return;

	nest_level = partial_enter_time_zone(rollup);
	oldest = bucket_of(shape, stream, bucket, wanted);
	if (expiring || rollup->kept_from == 0 ||
		!equal(oldest, bucket_of(shape, stream, bucket, rollup->kept_from)))
	{
		kept_from = kept_without_older(rollup, shape, bucket, wanted, oldest);
		step->are_more = delete_groups(rollup, bucket, oldest);
		/* of an idle stream all groups are gone at last, and nothing changes any more */
		if (kept_from != rollup->kept_from || step->are_more != expiring)
		{
			write_kept(rollup, kept_from, step->are_more);
			step->set->is_stale = true;
		}
		FAULT_POINT("after_group_expiry");
	}
	AtEOXact_GUC(true, nest_level);
}

/*
 * Delete some of the groups that are older than their rollup's retention, in a
 * transaction of the caller, under the stream's lock, between two batches.  The
 * result tells whether there may be more.  A rollup whose groups can't be
 * deleted now has them deleted another time.
 */
bool
rollup_set_expire(RollupSet *set)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect rollup expire", ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);
	bool are_more = false;
	int left_out;

	rollup_set_refresh(set);
	/* an idle stream has no batch that would notice what has vanished */
	if (set->nrollups > 0)
		gone_follow(set->stream);
	for (int i = 0; i < set->nrollups; i++)
	{
		ExpireStep step = {set, &set->rollups[i], false};
		ErrorData *error = aside_try(expire_step, &step, true);

		if (error == NULL)
			are_more |= step.are_more;
		else if (log_is_due(LOG_EXPIRY, &left_out))
			ereport(LOG, (errcode(error->sqlerrcode),
						  errmsg("could not delete old groups of rollup \"%s\": %s",
								 set->rollups[i].name, failure_message_for_log(error)),
						  log_left_out(left_out)));

		/*
		 * The stream's lock is not held while one rollup after the other is
		 * waited for: a command that holds them all and wants that lock would
		 * be the victim of a deadlock.
		 */
		if (error != NULL && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			break;
	}
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	return are_more;
}
