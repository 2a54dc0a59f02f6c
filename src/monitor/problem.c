/*-------------------------------------------------------------------------
 *
 * problem.c
 *	  What a DBA should know of, until it is over: rows of detect._problem.
 *
 * A problem is about a stream and, mostly, one relation.  Who finds it sets it,
 * again and again if need be, and clears it when it is gone: since then says
 * when it began.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

/*
 * Set a problem of a stream, or what is known of it now; one that was dropped
 * meanwhile has none.  The remedy may be NULL.  Called in a transaction with an active snapshot.
 */
void
problem_set(int32 stream_id, const char *problem, Oid relation, const char *detail,
			const char *remedy)
{
	Oid types[5] = {INT4OID, TEXTOID, OIDOID, TEXTOID, TEXTOID};
	Datum values[5] = {Int32GetDatum(stream_id), CStringGetTextDatum(problem),
					   ObjectIdGetDatum(relation), CStringGetTextDatum(detail),
					   remedy ? CStringGetTextDatum(remedy) : (Datum) 0};
	char nulls[5] = {' ', ' ', ' ', ' ', remedy ? ' ' : 'n'};

	SPI_connect();
	catalog_execute(
		"INSERT INTO detect._problem SELECT stream_id, $2, $3, 'warning', $4, $5, now() "
		"FROM detect._stream WHERE stream_id = $1 FOR KEY SHARE "
		"ON CONFLICT (stream_id, problem, relation) DO UPDATE SET detail = $4, remedy = $5",
		5, types, values, nulls);
	SPI_finish();
}

/*
 * A problem is over, if there was one; with InvalidOid whatever relations it was about.
 */
void
problem_clear(int32 stream_id, const char *problem, Oid relation)
{
	Oid types[3] = {INT4OID, TEXTOID, OIDOID};
	Datum values[3] = {Int32GetDatum(stream_id), CStringGetTextDatum(problem),
					   ObjectIdGetDatum(relation)};

	SPI_connect();
	catalog_execute("DELETE FROM detect._problem "
					"WHERE stream_id = $1 AND problem = $2 AND (relation = $3 OR $3 = 0)",
					3, types, values, NULL);
	SPI_finish();
}
