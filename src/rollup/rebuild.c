/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  detect.retry_rollup: a rollup that failed is tried again at once.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(detect_retry_rollup);

/*
 * SQL: detect.retry_rollup(rollup).
 */
Datum
detect_retry_rollup(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid types[1] = {INT4OID};
	Datum values[1];
	RollupRow rollup;

	definition_get(name, &rollup);
	values[0] = Int32GetDatum(rollup.id);
	SPI_connect();
	catalog_execute(
		"UPDATE detect._rollup SET state = 'behind', error = NULL, failed_event = NULL, "
		"retry_at = NULL, attempts = 0 WHERE $1 IN (rollup_id, replaces) AND state = 'failed'",
		1, types, values, NULL);
	SPI_finish();
	history_record("retry_rollup", name, NULL);
	definition_changed(stream_load_by_events_table(rollup.events_table));
	PG_RETURN_VOID();
}
