/*-------------------------------------------------------------------------
 *
 * alter.c
 *	  detect.alter_rollup: another query, another retention.
 *
 * A new query is not put in the place of the old one at once, because its
 * states are not there yet.  It becomes a definition of its own, with states, a
 * query and a row, under the name _new_<rollup_id>, which the applier fills as
 * any new rollup while the old one is kept and read.  Once it is complete the
 * applier lets it take the old one's place (swap.c).  Until then it can be
 * altered again or abandoned, and goes with its rollup.
 *
 * A longer retention keeps what is still there: buckets that are gone stay
 * gone, so that none is there in part.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "apply/dedup.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* The arguments of detect.alter_rollup. */
enum
{
	ALTER_ARG_ROLLUP,
	ALTER_ARG_QUERY,
	ALTER_ARG_RETENTION,
	ALTER_ARG_RESET,
	ALTER_ROLLUP_ARGS
};

static const char *const argument_names[ALTER_ROLLUP_ARGS] = {"rollup", "query", "retention",
															  "reset"};

/* What is to be changed. */
typedef struct RollupChange
{
	char *query;		 /* NULL: not given */
	Interval *retention; /* NULL: not given */
	bool resets_query;
	bool resets_retention;
} RollupChange;

PG_FUNCTION_INFO_V1(detect_alter_rollup);

/* Read which arguments are to become their defaults. */
static void
read_reset(RollupChange *change, ArrayType *reset)
{
	Datum *names;
	bool *nulls;
	int n;

	deconstruct_array(reset, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		const char *name = nulls[i] ? "NULL" : TextDatumGetCString(names[i]);

		if (strcmp(name, "query") == 0)
			change->resets_query = true;
		else if (strcmp(name, "retention") == 0)
			change->resets_retention = true;
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" of a rollup cannot be reset", name),
					 errhint("What can be reset is retention, and query while a new one is being "
							 "built.")));
	}
}

/* Read the arguments of a call. */
static void
read_arguments(FunctionCallInfo fcinfo, RollupChange *change)
{
	const char *both = NULL;

	if (PG_ARGISNULL(ALTER_ARG_ROLLUP))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("rollup must not be null")));
	if (!PG_ARGISNULL(ALTER_ARG_QUERY))
		change->query = text_to_cstring(PG_GETARG_TEXT_PP(ALTER_ARG_QUERY));
	if (!PG_ARGISNULL(ALTER_ARG_RETENTION))
		change->retention = PG_GETARG_INTERVAL_P(ALTER_ARG_RETENTION);
	if (!PG_ARGISNULL(ALTER_ARG_RESET))
		read_reset(change, PG_GETARG_ARRAYTYPE_P(ALTER_ARG_RESET));
	if (change->query != NULL && change->resets_query)
		both = "query";
	else if (change->retention != NULL && change->resets_retention)
		both = "retention";
	if (both != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is both given and reset", both), errhint("Leave one of them out.")));
}

/* ---------------------------------------------------------------------
 * Another query
 * ---------------------------------------------------------------------
 */

/* From when on a table has partitions, and so may have events; false when that
 * cannot be told. */
static bool
find_oldest_partition(const Stream *stream, TimestampTz *oldest)
{
	ListCell *cell;

	*oldest = DT_NOEND;
	if (stream->event_time == NULL || !partition_is_by_event_time(stream))
		return false;
	foreach(cell, find_inheritance_children(stream->events_table, NoLock))
	{
		TimestampTz from;
		TimestampTz until;

		if (!partition_bounds(lfirst_oid(cell), &from, &until))
			return false;
		*oldest = Min(*oldest, from);
	}
	return !TIMESTAMP_NOT_FINITE(*oldest);
}

/* Tell that groups of a rollup will go because their events have gone. */
static void
tell_lost_groups(const char *name, const RollupRow *row, const Stream *stream)
{
	Rollup rollup = {.stream = stream, .name = unconstify(char *, name)};
	TimestampTz oldest;

	rollup.time_zone = row->time_zone;
	rollup.query_view = rollup_query_view(name);
	rollup.state_table = rollup_state_table(name);
	if (find_oldest_partition(stream, &oldest) && retention_has_older(&rollup, oldest))
		ereport(NOTICE,
				(errmsg("groups of rollup \"%s\" from before %s go when the new query takes over",
						name, timestamptz_to_str(oldest)),
				 errdetail("Their events are not there any more.")));
}

/* Raise an error unless the caller may replace the query behind the view. */
static void
check_public_view(const char *name, Oid view)
{
	if (!OidIsValid(rollup_view_of(view, rollup_state_table(name))))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("the view of rollup \"%s\" does not exist any more", name),
						errhint("Drop the rollup with detect.drop_rollup and create it again.")));
	if (!compat_owns_relation(view, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, get_rel_name(view));
}

/* Begin to build another definition of a rollup, in the place of one that is
 * being built. */
static void
build_query(const char *name, const RollupRow *rollup, const Stream *stream,
			const RollupChange *change)
{
	const Interval *retention = change->retention;
	Query *query;
	Stream *source;

	definition_require_stream(name, stream);
	stream_check_owner(stream);
	check_public_view(name, rollup->public_view);
	query = definition_parse_query(change->query);
	source = query_check(query);
	if (source->id != stream->id)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the new query of rollup \"%s\" reads events of another stream", name),
				 errdetail("It reads those of stream \"%s\", not of \"%s\".", source->name,
						   stream->name),
				 errhint("Create another rollup for them.")));
	if (retention == NULL && !change->resets_retention)
		retention = rollup->retention;
	definition_drop_new(rollup);
	(void) definition_make(definition_new_name(rollup->id), query, stream, retention, rollup);
	tell_lost_groups(name, rollup, stream);
}

/* Keep the old query after all. */
static void
abandon_query(const char *name, RollupRow *rollup)
{
	if (rollup->new_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no new query of rollup \"%s\" is being built", name),
				 errhint("One that has taken over is changed back with detect.alter_rollup.")));
	definition_drop_new(rollup);
	rollup->new_id = 0;
}

/* ---------------------------------------------------------------------
 * Another retention
 * ---------------------------------------------------------------------
 */

/* Raise an error unless the groups of a query have an age. */
static void
check_age(const char *name, const Stream *stream)
{
	retention_check(shape_load(rollup_query_view(name), stream->events_table), stream);
}

/* Change the retention of a rollup, and of its new definition; NULL keeps
 * groups for ever. */
static void
change_retention(const char *name, const RollupRow *rollup, const Stream *stream,
				 const Interval *retention)
{
	Oid types[2] = {INT4OID, INTERVALOID};
	Datum values[2];

	retention_check_interval(retention);
	if (retention != NULL)
	{
		definition_require_stream(name, stream);
		check_age(name, stream);
		if (rollup->new_id != 0)
			check_age(definition_new_name(rollup->id), stream);
	}
	values[0] = Int32GetDatum(rollup->id);
	values[1] = IntervalPGetDatum(retention);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET retention = $2 WHERE $1 IN (rollup_id, replaces)", 2,
					types, values, retention ? NULL : " n");
	SPI_finish();
}

/*
 * SQL: detect.alter_rollup(rollup, query, retention, reset).
 */
Datum
detect_alter_rollup(PG_FUNCTION_ARGS)
{
	RollupChange change = {0};
	RollupRow rollup;
	Stream *stream;
	char *name;
	char *detail;

	read_arguments(fcinfo, &change);
	name = text_to_cstring(PG_GETARG_TEXT_PP(ALTER_ARG_ROLLUP));
	stream = definition_lock(name, &rollup);

	if (change.resets_query)
		abandon_query(name, &rollup);
	if (change.query != NULL)
		build_query(name, &rollup, stream, &change);
	else if (change.retention != NULL || change.resets_retention)
		change_retention(name, &rollup, stream, change.retention);

	detail = arguments_given(fcinfo, argument_names, ALTER_ROLLUP_ARGS);
	if (detail[0] != '\0')
		history_record("alter_rollup", name, detail);
	definition_changed(stream);
	PG_RETURN_VOID();
}
