/*-------------------------------------------------------------------------
 *
 * repair_queue.c
 *	  Times whose groups are to be computed again: rows of detect._repair.
 *
 * Whoever takes edits puts their times there, in the same commit
 * (segment_follow.c), and so does detect.rebuild_rollup.  A row goes in the
 * commit that has computed its groups; one that can't be computed stays, with
 * the reason, for detect.stat_rollup to tell.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/repair.h"

#include "apply/applier.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Ranges that one look at the edits leaves. */
#define MAX_RANGES 64

/* Times as an array. */
static Datum
times_to_array(const EditTimes *edited, bool until)
{
	Datum *values = palloc(edited->count * sizeof(Datum));

	for (int i = 0; i < edited->count; i++)
		values[i] = TimestampTzGetDatum(until ? edited->ranges[i].until : edited->ranges[i].from);
	return PointerGetDatum(construct_array(values, edited->count, TIMESTAMPTZOID,
										   sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Have the rollups of a stream repaired for edits that are being taken.  A
 * rollup that is new has nothing to repair.
 */
void
rollup_queue_repairs(const Stream *stream, EditTimes *edited)
{
	Oid types[3] = {OIDOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID};
	Datum values[3];

	if (edited->count == 0)
		return;
	edit_times_merge(edited, MAX_RANGES);
	values[0] = ObjectIdGetDatum(stream->events_table);
	values[1] = times_to_array(edited, false);
	values[2] = times_to_array(edited, true);
	SPI_connect();
	catalog_execute(
		"INSERT INTO detect._repair (rollup_id, repair_id, from_time, until_time, asked, allow_loss, "
		"attempts, retry_at) "
		"SELECT r.rollup_id, nextval('detect._repair_id'), t.from_time, t.until_time, false, false, "
		"0, '-infinity' FROM detect._rollup r, unnest($2, $3) t (from_time, until_time) "
		"WHERE r.events_table = $1 AND r.state <> 'new'",
		3, types, values, NULL);
	SPI_finish();
}

/*
 * What others have done to the events of a stream that goes, and its applier has not
 * looked at, is not known one by one any more: rollups over them are computed again by
 * the next stream of the table.
 */
void
rollup_repair_unseen_edits(int32 stream_id)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream_id)};

	SPI_connect();
	catalog_execute(
		"INSERT INTO detect._repair (rollup_id, repair_id, from_time, until_time, asked, allow_loss, "
		"attempts, retry_at) "
		"SELECT r.rollup_id, nextval('detect._repair_id'), '-infinity', 'infinity', false, false, "
		"0, '-infinity' FROM detect._rollup r JOIN detect._stream s USING (events_table) "
		"WHERE s.stream_id = $1 AND r.state <> 'new' "
		"AND EXISTS (SELECT FROM detect._edit e WHERE e.stream_id = $1)",
		1, types, values, NULL);
	SPI_finish();
}

/*
 * Whether exactly that has been asked for, and is not done.
 */
bool
repair_is_asked(int32 rollup_id, const TimeRange *range)
{
	Oid types[3] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum values[3];
	bool result;

	values[0] = Int32GetDatum(rollup_id);
	values[1] = TimestampTzGetDatum(range->from);
	values[2] = TimestampTzGetDatum(range->until);
	SPI_connect();
	result = catalog_execute("SELECT FROM detect._repair WHERE rollup_id = $1 AND asked "
							 "AND from_time = $2 AND until_time = $3 AND retry_at < 'infinity'",
							 3, types, values, NULL) > 0;
	SPI_finish();
	return result;
}

/*
 * Have the applier compute a range of a rollup again, whatever that takes.  What was
 * refused within it is settled by that.
 */
void
repair_ask(int32 rollup_id, const TimeRange *range, bool allow_loss)
{
	Oid types[4] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID};
	Datum values[4];

	values[0] = Int32GetDatum(rollup_id);
	values[1] = TimestampTzGetDatum(range->from);
	values[2] = TimestampTzGetDatum(range->until);
	values[3] = BoolGetDatum(allow_loss);
	SPI_connect();
	catalog_execute("DELETE FROM detect._repair WHERE rollup_id = $1 AND error IS NOT NULL "
					"AND from_time >= $2 AND until_time <= $3",
					3, types, values, NULL);
	catalog_execute("INSERT INTO detect._repair (rollup_id, repair_id, from_time, until_time, "
					"asked, allow_loss, attempts, retry_at) "
					"VALUES ($1, nextval('detect._repair_id'), $2, $3, true, $4, 0, '-infinity')",
					4, types, values, NULL);
	SPI_finish();
}

/*
 * Read the next repair that is due; false when there is none.
 */
bool
repair_next(const Stream *stream, Repair *repair)
{
	/* further ahead it was put by a clock that was set back since */
	Interval most = {.time = ROLLUP_RETRY_MAX_MS * INT64CONST(1000)};
	Oid types[2] = {OIDOID, INTERVALOID};
	Datum values[2] = {ObjectIdGetDatum(stream->events_table), IntervalPGetDatum(&most)};
	bool found;

	SPI_connect();
	found =
		catalog_execute(
			"SELECT p.repair_id, p.rollup_id, p.from_time, p.until_time, p.asked, p.allow_loss, "
			"p.attempts, (SELECT max(k.repair_id) FROM detect._repair k WHERE k.rollup_id = p.rollup_id) "
			"FROM detect._repair p JOIN detect._rollup r USING (rollup_id) "
			"WHERE r.events_table = $1 AND r.state = 'active' AND (p.retry_at <= now() "
			"OR isfinite(p.retry_at) AND p.retry_at > now() + $2) "
			"ORDER BY p.until_time DESC, p.repair_id LIMIT 1",
			2, types, values, NULL) > 0;
	if (found)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		repair->id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		repair->rollup_id = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		repair->times.from = DatumGetTimestampTz(SPI_getbinval(row, desc, 3, &isnull));
		repair->times.until = DatumGetTimestampTz(SPI_getbinval(row, desc, 4, &isnull));
		repair->asked = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
		repair->allow_loss = DatumGetBool(SPI_getbinval(row, desc, 6, &isnull));
		repair->attempts = DatumGetInt32(SPI_getbinval(row, desc, 7, &isnull));
		repair->last_known_id = DatumGetInt64(SPI_getbinval(row, desc, 8, &isnull));
	}
	SPI_finish();
	return found;
}

/*
 * When the next repair that failed is tried again; DT_NOEND if none is.
 */
TimestampTz
repair_next_retry(const Stream *stream)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(stream->events_table)};
	TimestampTz due = DT_NOEND;
	bool isnull;
	Datum value;

	SPI_connect();
	catalog_execute("SELECT min(p.retry_at) FROM detect._repair p JOIN detect._rollup r "
					"USING (rollup_id) WHERE r.events_table = $1 AND r.state = 'active'",
					1, types, values, NULL);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		due = DatumGetTimestampTz(value);
	SPI_finish();
	return due;
}

/*
 * Note that a repair is done down to a time, or altogether.
 */
void
repair_write_done(const Repair *repair, TimestampTz until)
{
	Oid types[3] = {INT4OID, INT8OID, TIMESTAMPTZOID};
	Datum values[3];

	values[0] = Int32GetDatum(repair->rollup_id);
	values[1] = Int64GetDatum(repair->id);
	values[2] = TimestampTzGetDatum(until);
	SPI_connect();
	if (until <= repair->times.from)
		catalog_execute("DELETE FROM detect._repair WHERE rollup_id = $1 AND repair_id = $2", 2,
						types, values, NULL);
	else
		catalog_execute("UPDATE detect._repair SET until_time = $3, error = NULL, attempts = 0, "
						"retry_at = '-infinity' WHERE rollup_id = $1 AND repair_id = $2",
						3, types, values, NULL);
	SPI_finish();
}

/*
 * Forget the other repairs after edits that lie within what was computed: those
 * edits were committed before, and are in it.  When somebody has asked, also those that
 * were refused.
 */
void
repair_write_covered(const Repair *repair, const TimeRange *computed)
{
	Oid types[6] = {INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, BOOLOID};
	Datum values[6];

	values[0] = Int32GetDatum(repair->rollup_id);
	values[1] = Int64GetDatum(repair->id);
	values[2] = TimestampTzGetDatum(computed->from);
	values[3] = TimestampTzGetDatum(computed->until);
	/* what was queued since may be about a partition that was not read */
	values[4] = Int64GetDatum(repair->last_known_id);
	values[5] = BoolGetDatum(repair->asked);
	SPI_connect();
	catalog_execute("DELETE FROM detect._repair WHERE rollup_id = $1 AND repair_id <> $2 "
					"AND NOT asked AND from_time >= $3 AND until_time <= $4 "
					"AND (retry_at < 'infinity' OR $6) AND repair_id <= $5",
					6, types, values, NULL);
	SPI_finish();
}

/*
 * Note that the groups of a range stay as they are, and why: in one row for
 * each reason.
 */
void
repair_write_refused(const Repair *repair, const TimeRange *times, const char *reason)
{
	Oid types[4] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID};
	Datum values[4];

	values[0] = Int32GetDatum(repair->rollup_id);
	values[1] = TimestampTzGetDatum(times->from);
	values[2] = TimestampTzGetDatum(times->until);
	values[3] = CStringGetTextDatum(reason);
	SPI_connect();
	catalog_execute(
		"WITH known AS (UPDATE detect._repair SET from_time = LEAST(from_time, $2), "
		"until_time = GREATEST(until_time, $3) "
		"WHERE rollup_id = $1 AND error = $4 AND retry_at = 'infinity' RETURNING repair_id) "
		"INSERT INTO detect._repair (rollup_id, repair_id, from_time, until_time, asked, "
		"allow_loss, attempts, retry_at, error) "
		"SELECT $1, nextval('detect._repair_id'), $2, $3, false, false, 0, 'infinity', $4 "
		"WHERE NOT EXISTS (SELECT FROM known)",
		4, types, values, NULL);
	SPI_finish();
}

/*
 * Note that a repair has failed.
 */
void
repair_write_failed(const Rollup *rollup, const Repair *repair, const ErrorData *error)
{
	Oid types[4] = {INT4OID, INT8OID, TIMESTAMPTZOID, TEXTOID};
	Datum values[4];
	int left_out;

	if (repair->attempts == 0 && log_is_due(LOG_ROLLUP - rollup->id, &left_out))
		ereport(WARNING, (errcode(error->sqlerrcode),
						  errmsg("groups of rollup \"%s\" could not be computed again: %s",
								 rollup->name, failure_message_for_log(error)),
						  errhint("Remove the cause: it is tried again by itself.")));
	values[0] = Int32GetDatum(repair->rollup_id);
	values[1] = Int64GetDatum(repair->id);
	values[2] = TimestampTzGetDatum(aside_retry_time(repair->attempts + 1, ROLLUP_RETRY_MAX_MS));
	values[3] = CStringGetTextDatum(error->message);
	SPI_connect();
	catalog_execute("UPDATE detect._repair SET attempts = attempts + 1, retry_at = $3, error = $4 "
					"WHERE rollup_id = $1 AND repair_id = $2",
					4, types, values, NULL);
	SPI_finish();
}
