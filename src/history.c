/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Who called which verb, when, and what it did.
 *
 * Each verb writes its row in its own transaction: what was rolled back never
 * happened.  A row belongs to the definition of its time, by number, so that
 * who later takes a name does not see what happened under it before.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

/* Old rows that one transaction deletes at most. */
#define FORGET_AT_ONCE 1000

#define RECORD_SQL                                                                              \
	"INSERT INTO detect._history SELECT nextval('detect._history_id'), clock_timestamp(), $1, " \
	"NULLIF($2, $1), $3, $4, (SELECT stream_id FROM detect._stream WHERE name = $4 "            \
	"UNION ALL SELECT rollup_id FROM detect._rollup WHERE name = $4 "                           \
	"UNION ALL SELECT locator_id FROM detect._locator WHERE name = $4), $5"

/*
 * Record that the caller has used a verb on a stream, rollup or locator, which
 * still exists; detail may be NULL, and holds no secrets.
 */
void
history_record(const char *verb, const char *object, const char *detail)
{
	Oid types[5] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[5];

	values[0] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[1] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[2] = CStringGetTextDatum(verb);
	values[3] = CStringGetTextDatum(object);
	values[4] = detail ? CStringGetTextDatum(detail) : (Datum) 0;
	SPI_connect();
	catalog_execute(RECORD_SQL, 5, types, values, detail ? NULL : "    n");
	SPI_finish();
}

/*
 * Delete some of what is older than a year; whether there may be more.  Rows
 * that another stream's applier is deleting are left to it.
 */
bool
history_forget_old(void)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(FORGET_AT_ONCE)};
	int forgotten;

	SPI_connect();
	forgotten = catalog_execute(
		"DELETE FROM detect._history WHERE history_id IN (SELECT history_id FROM detect._history "
		"WHERE at < now() - interval '1 year' ORDER BY history_id LIMIT $1 FOR UPDATE SKIP LOCKED)",
		1, types, values, NULL);
	SPI_finish();
	return forgotten == FORGET_AT_ONCE;
}
