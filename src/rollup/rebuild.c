/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  detect.retry_rollup and detect.rebuild_rollup.
 *
 * Both say what is to be done: the applier does it between two batches
 * (aside.c, repair.c, fill.c).
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/repair.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_retry_rollup);
PG_FUNCTION_INFO_V1(detect_rebuild_rollup);

/*
 * SQL: detect.retry_rollup(rollup).  A try that has begun already may not see what the
 * caller has mended, and would write its failure over what we ask for: it is waited for.
 */
Datum
detect_retry_rollup(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid types[1] = {INT4OID};
	Datum values[1];
	RollupRow rollup;
	Stream *stream = definition_lock(name, &rollup);

	values[0] = Int32GetDatum(rollup.id);
	SPI_connect();
	catalog_execute(
		"UPDATE detect._rollup SET state = 'behind', error = NULL, failed_event = NULL, "
		"retry_at = NULL, attempts = 0 WHERE $1 IN (rollup_id, replaces) AND state = 'failed'",
		1, types, values, NULL);
	catalog_execute("UPDATE detect._repair SET error = NULL, retry_at = '-infinity', attempts = 0 "
					"WHERE rollup_id = $1 AND retry_at < 'infinity'",
					1, types, values, NULL);
	SPI_finish();
	history_record("retry_rollup", name, NULL);
	definition_changed(stream);
	PG_RETURN_VOID();
}

/* The time range that is asked for. */
static TimeRange
requested_range(FunctionCallInfo fcinfo)
{
	TimeRange range = {DT_NOBEGIN, DT_NOEND};

	if (!PG_ARGISNULL(1))
		range.from = PG_GETARG_TIMESTAMPTZ(1);
	if (!PG_ARGISNULL(2))
		range.until = PG_GETARG_TIMESTAMPTZ(2);
	if (range.from >= range.until)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_time must be before to_time"),
				 errhint("Groups from from_time on and before to_time are computed again.")));
	return range;
}

/* Whether some states are such that the aggregates cannot read them. */
static bool
has_foreign_states(const char *name, const RollupRow *rollup)
{
	return aggregate_state_is_foreign(shape_load(rollup_query_view(name), rollup->events_table),
									  rollup_state_table(name));
}

/* Whether not all of a rollup is asked for. */
static bool
is_part(const TimeRange *range)
{
	return !TIMESTAMP_IS_NOBEGIN(range->from) || !TIMESTAMP_IS_NOEND(range->until);
}

/* Raise an error unless the rollup has buckets that a range can be told by. */
static void
check_has_buckets(const char *name, const RollupShape *shape, const Stream *stream)
{
	int key = bucket_key(shape, stream);

	if (key < 0 || !bucket_is_ordered(shape, key))
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("rollup \"%s\" can only be rebuilt as a whole", name),
			 errdetail("It has no group column made of the event time by date_bin or date_trunc."),
			 errhint("Leave from_time and to_time out.")));
}

/* Raise an error if events of the range are gone. */
static void
check_nothing_gone(const char *name, const Rollup *rollup, const RollupShape *shape,
				   TimeRange range)
{
	const Stream *stream = rollup->stream;
	int key = bucket_key(shape, stream);
	TimeRange gone;

	if (key >= 0 && bucket_is_ordered(shape, key))
		range = bucket_cover(shape, rollup, key, range);
	if (!repair_find_gone(stream, range.from, range.until, &gone))
		return;
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("rollup \"%s\" cannot be rebuilt without loss", name),
					errdetail("Events from %s to %s are gone; its groups would lose them.",
							  pstrdup(timestamptz_to_str(gone.from)),
							  pstrdup(timestamptz_to_str(gone.until))),
					errhint("Give times that leave these out, or allow_loss => true.")));
}

/* Raise an error unless a range of a rollup can be computed again. */
static void
check_range(const char *name, const RollupRow *row, const TimeRange *range, bool allow_loss)
{
	Rollup rollup = {.stream = stream_load_by_events_table(row->events_table),
					 .time_zone = row->time_zone,
					 .kept_from = row->kept_from};
	RollupShape *shape;
	int nest_level;

	definition_require_stream(name, rollup.stream);
	shape = shape_load(rollup_query_view(name), row->events_table);
	nest_level = partial_enter_time_zone(&rollup);
	if (is_part(range))
	{
		check_has_buckets(name, shape, rollup.stream);
		if (row->is_foreign)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("rollup \"%s\" can only be rebuilt as a whole", name),
					 errdetail(
						 "Its states were serialized by another major version of PostgreSQL, or by "
						 "an aggregate that has been replaced."),
					 errhint("Leave from_time and to_time out.")));
	}
	if (!allow_loss)
		check_nothing_gone(name, &rollup, shape, *range);
	AtEOXact_GUC(true, nest_level);
}

/*
 * Let a rollup begin from nothing, as one that is new: its states are another
 * major version's or another aggregate's, so that not even the groups beside a
 * chunk can stay.  The caller has its stream's lock.
 */
static void
start_anew(const char *name, const RollupRow *rollup)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(rollup->id)};
	ActingUser caller;

	caller = rollup_act_as_owner(name);
	sql_execute(psprintf("TRUNCATE " DETECT_STATE_SCHEMA ".%s", quote_identifier(name)));
	sql_act_as_before(&caller);
	SPI_connect();
	catalog_execute("DELETE FROM detect._missed WHERE rollup_id = $1", 1, types, values, NULL);
	catalog_execute("DELETE FROM detect._repair WHERE rollup_id = $1", 1, types, values, NULL);
	catalog_execute("UPDATE detect._rollup SET state = 'new', filled_from = NULL, rows_filled = 0, "
					"aside_state = NULL, error = NULL, failed_event = NULL, retry_at = NULL, "
					"attempts = 0, events_lost = 0, filling_since = NULL WHERE rollup_id = $1",
					1, types, values, NULL);
	SPI_finish();
}

/* Have the new definition of a rollup compute the range again, too, if it has read anything
 * yet. */
static void
ask_new_definition(const char *name, const RollupRow *rollup, const Stream *stream,
				   const TimeRange *range, bool allow_loss)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(rollup->new_id)};
	bool is_new;

	SPI_connect();
	is_new = catalog_execute("SELECT FROM detect._rollup WHERE rollup_id = $1 "
							 "AND 'new' IN (state, aside_state)",
							 1, types, values, NULL) > 0;
	SPI_finish();
	if (is_new)
		return;
	if (is_part(range))
		check_has_buckets(
			name,
			shape_load(rollup_query_view(definition_new_name(rollup->id)), rollup->events_table),
			stream);
	repair_ask(rollup->new_id, range, allow_loss);
}

/* What the history says of a rebuild. */
static char *
describe_rebuild(const TimeRange *range, bool allow_loss)
{
	return psprintf("from %s to %s%s", pstrdup(timestamptz_to_str(range->from)),
					pstrdup(timestamptz_to_str(range->until)), allow_loss ? ", allowing loss" : "");
}

/*
 * SQL: detect.rebuild_rollup(rollup, from_time, to_time, allow_loss).  A repair under
 * way, which may not see why somebody asks, is waited for; and a new definition that is
 * being filled has read events and places as they were, too.
 */
Datum
detect_rebuild_rollup(PG_FUNCTION_ARGS)
{
	bool allow_loss = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	Stream *stream;
	RollupRow rollup;
	TimeRange range;
	char *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("rollup must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	stream = definition_lock(name, &rollup);
	range = requested_range(fcinfo);
	/* the stream waits while states of extensions are looked through: without its lock a
	 * new definition could take the place of what is read */
	rollup.is_foreign |= has_foreign_states(name, &rollup);
	check_range(name, &rollup, &range, allow_loss);
	if (rollup.is_foreign)
		start_anew(name, &rollup);
	else
		repair_ask(rollup.id, &range, allow_loss);
	if (rollup.new_id != 0)
		ask_new_definition(name, &rollup, stream, &range, allow_loss);
	history_record("rebuild_rollup", name, describe_rebuild(&range, allow_loss));
	definition_changed(stream);
	PG_RETURN_VOID();
}
