/*-------------------------------------------------------------------------
 *
 * pause.c
 *	  detect.pause and detect.resume.
 *
 * The verbs are transactional: they hold the stream's lock until they commit,
 * so that when pause returns no batch is open and none can begin.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xlog.h"
#include "apply/attempt.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "rollup/rollup.h"
#include "stream.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(detect_pause);
PG_FUNCTION_INFO_V1(detect_resume);

/* The stream that a verb is about, locked against batches. */
static Stream *
lock_stream(FunctionCallInfo fcinfo)
{
	return stream_lock_named(text_to_cstring(PG_GETARG_TEXT_PP(0)), AccessExclusiveLock, false);
}

/*
 * detect.pause(stream): when it returns no batch is open and none can begin.
 */
Datum
detect_pause(PG_FUNCTION_ARGS)
{
	Stream *stream = lock_stream(fcinfo);

	history_record("pause", stream->name, stream->paused ? "it was paused already" : NULL);
	if (stream->paused)
		ereport(NOTICE, (errmsg("stream \"%s\" is already paused", stream->name)));
	else
		stream_set_paused(stream->id,
						  psprintf("paused by %s", GetUserNameFromId(GetUserId(), false)),
						  psprintf("SELECT detect.resume(%s)", quote_literal_cstr(stream->name)));
	PG_RETURN_VOID();
}

/* A copy that is resumed becomes an original: it belongs here from now on, and
 * what was staged elsewhere is not its own. */
static void
adopt_copy(const Stream *stream)
{
	Oid types[4] = {INT4OID, INT8OID, INT8OID, INT8OID};
	Datum values[4];

	values[0] = Int32GetDatum(stream->id);
	values[1] = Int64GetDatum((int64) GetSystemIdentifier());
	values[2] = Int64GetDatum((int64) MyDatabaseId);
	values[3] = Int64GetDatum((int64) catalog_relation("_stream", false));
	SPI_connect();
	catalog_execute(
		"UPDATE detect._stream SET home_system = $2, home_database = $3, home_catalog = $4 "
		"WHERE stream_id = $1",
		4, types, values, NULL);
	SPI_finish();
	progress_forget_staged(stream);
	staging_tables_drop(stream->id);
	stream_record_dependencies(stream);
	rollup_record_dependencies(stream);
	ereport(NOTICE, (errmsg("stream \"%s\" was a copy, and runs here from now on", stream->name)));
}

/* Say what becomes of an element that has crashed the server. */
static void
judge_crashes(const Stream *stream, bool reject)
{
	if (reject && !(stream->paused && attempt_accuses(stream)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not paused for an element that has crashed the server",
						stream->name),
				 errhint("Leave reject out.")));
	if (stream->paused)
		attempt_set_reject(stream, reject);
}

/*
 * detect.resume(stream, reject): lets a paused stream go on where it stopped.
 */
Datum
detect_resume(PG_FUNCTION_ARGS)
{
	bool reject = PG_GETARG_BOOL(1);
	Stream *stream;

	launcher_require();
	stream = lock_stream(fcinfo);
	history_record("resume", stream->name,
				   stream->is_copy ? "took over a copy"
				   : reject		   ? "rejected the element that has crashed the server"
								   : NULL);
	judge_crashes(stream, reject);
	if (stream->is_copy)
		adopt_copy(stream);
	progress_resume_partitions(stream);
	stream_set_paused(stream->id, NULL, NULL);
	PG_RETURN_VOID();
}
