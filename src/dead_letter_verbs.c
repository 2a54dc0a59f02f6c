/*-------------------------------------------------------------------------
 *
 * dead_letter_verbs.c
 *	  detect.retry_dead_letters and detect.purge_dead_letters.
 *
 * Both choose letters by when they were recorded and by SQLSTATE, and wait for
 * no batch: they meet the applier at the rows of letters alone.  It skips those
 * that a verb has changed and not committed; a verb waits for those that the
 * open batch retries.  Of letters that are not kept whole a retry first reads
 * the messages from Kafka again, here, so that the applier needs no broker.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "dead_letter_verbs.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_retry_dead_letters);
PG_FUNCTION_INFO_V1(detect_purge_dead_letters);

/* What the arguments choose.  The stream's lock keeps its definition as it is,
 * and no batch out. */
static LetterChoice
choice_from_call(FunctionCallInfo fcinfo, const char *verb)
{
	LetterChoice choice = {.types = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID},
						   .nulls = {' ', ' ', ' ', ' '}};

	for (int i = 0; i < 3; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("stream, from_time and to_time of detect.%s must not be null", verb)));
		choice.values[i] = PG_GETARG_DATUM(i);
	}
	choice.stream =
		stream_lock_named(text_to_cstring(PG_GETARG_TEXT_PP(0)), AccessShareLock, false);
	choice.values[0] = Int32GetDatum(choice.stream->id);
	if (PG_ARGISNULL(3))
		choice.nulls[3] = 'n';
	else
		choice.values[3] = PG_GETARG_DATUM(3);
	if (!PG_ARGISNULL(3) && VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(3)) != 5)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"%s\" is no SQLSTATE", text_to_cstring(PG_GETARG_TEXT_PP(3))),
						errhint("It has five characters, as in the view detect.dead_letter.")));
	return choice;
}

/* Which letters were chosen, and how many there were. */
static void
choice_record(const LetterChoice *choice, const char *verb, int64 letters)
{
	char *sqlstate = choice->nulls[3] == 'n' ? "" : TextDatumGetCString(choice->values[3]);

	history_record(
		verb, choice->stream->name,
		psprintf("%lld letters, from %s to %s%s%s", (long long) letters,
				 DatumGetCString(DirectFunctionCall1(timestamptz_out, choice->values[1])),
				 DatumGetCString(DirectFunctionCall1(timestamptz_out, choice->values[2])),
				 sqlstate[0] ? ", sqlstate " : "", sqlstate));
}

/*
 * Do something with the chosen letters; how many there were.
 */
int64
letter_choice_execute(const LetterChoice *choice, const char *sql)
{
	int64 rows;

	SPI_connect();
	rows = catalog_execute(sql, 4, (Oid *) choice->types, (Datum *) choice->values, choice->nulls);
	SPI_finish();
	return rows;
}

/*
 * detect.retry_dead_letters(stream, from_time, to_time, sqlstate): has letters
 * tried again once this transaction has committed; how many.
 */
Datum
detect_retry_dead_letters(PG_FUNCTION_ARGS)
{
	LetterChoice choice = choice_from_call(fcinfo, "retry_dead_letters");
	int64 asked;

	letters_refill(&choice);
	asked = letter_choice_execute(&choice, "UPDATE detect._dead_letter SET retry_asked_at = now() "
										   "WHERE is_whole AND " LETTERS_CHOSEN);
	choice_record(&choice, "retry_dead_letters", asked);
	if (asked > 0)
	{
		CacheInvalidateRelcacheByRelid(catalog_relation("_stream", false));
		slot_wake_at_commit(choice.stream->id);
	}
	PG_RETURN_INT64(asked);
}

/*
 * detect.purge_dead_letters(stream, from_time, to_time, sqlstate): deletes
 * letters; how many.  What they were counted as stays counted.
 */
Datum
detect_purge_dead_letters(PG_FUNCTION_ARGS)
{
	LetterChoice choice = choice_from_call(fcinfo, "purge_dead_letters");
	int64 purged =
		letter_choice_execute(&choice, "DELETE FROM detect._dead_letter WHERE " LETTERS_CHOSEN);

	choice_record(&choice, "purge_dead_letters", purged);
	/* the applier counts what is left */
	if (purged > 0)
		CacheInvalidateRelcacheByRelid(catalog_relation("_stream", false));
	PG_RETURN_INT64(purged);
}
