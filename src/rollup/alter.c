/*-------------------------------------------------------------------------
 *
 * alter.c
 *	  detect.alter_rollup: another retention.
 *
 * A longer retention keeps what is still there: buckets that are gone stay
 * gone, so that none is there in part.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "rewrite/rewriteHandler.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(detect_alter_rollup);

/* Whether reset names retention; it can name nothing else. */
static bool
resets_retention(ArrayType *reset)
{
	Datum *names;
	bool *nulls;
	int n;

	deconstruct_array(reset, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i] || strcmp(TextDatumGetCString(names[i]), "retention") != 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("\"%s\" of a rollup cannot be reset",
								   nulls[i] ? "NULL" : TextDatumGetCString(names[i])),
							errhint("What can be reset is retention.")));
	}
	return n > 0;
}

/* Raise an error unless the groups of the rollup have an age. */
static void
check_age(const char *name, const Stream *stream)
{
	Relation view = table_open(rollup_query_view(name), AccessShareLock);
	RollupShape *shape = shape_create(get_view_query(view), stream->events_table);

	retention_check(shape, stream);
	table_close(view, NoLock);
}

/* Write another retention of a rollup; NULL keeps groups for ever. */
static void
write_retention(const RollupRow *rollup, const Interval *retention)
{
	Oid types[2] = {INT4OID, INTERVALOID};
	Datum values[2];

	values[0] = Int32GetDatum(rollup->id);
	values[1] = IntervalPGetDatum(retention);
	SPI_connect();
	catalog_execute("UPDATE detect._rollup SET retention = $2 WHERE rollup_id = $1", 2, types,
					values, retention ? NULL : " n");
	SPI_finish();
}

/* What the history says of a change. */
static char *
describe_retention(const Interval *retention)
{
	if (retention == NULL)
		return "retention for ever";
	return psprintf("retention %s", DatumGetCString(DirectFunctionCall1(
										interval_out, IntervalPGetDatum(retention))));
}

/*
 * SQL: detect.alter_rollup(rollup, retention, reset).
 */
Datum
detect_alter_rollup(PG_FUNCTION_ARGS)
{
	Interval *retention = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	bool reset = !PG_ARGISNULL(2) && resets_retention(PG_GETARG_ARRAYTYPE_P(2));
	RollupRow rollup;
	Stream *stream;
	char *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("rollup must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	definition_get(name, &rollup);
	if (retention != NULL && reset)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention is both given and reset"), errhint("Leave one of them out.")));
	definition_check_retention(retention);
	stream = stream_load_by_events_table(rollup.events_table);
	if (retention != NULL)
	{
		if (stream == NULL)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("rollup \"%s\" has no stream any more", name),
							errhint("Create a stream for its events table first.")));
		check_age(name, stream);
	}
	if (retention != NULL || reset)
	{
		write_retention(&rollup, retention);
		history_record("alter_rollup", name, describe_retention(retention));
	}
	definition_changed(stream);
	PG_RETURN_VOID();
}
