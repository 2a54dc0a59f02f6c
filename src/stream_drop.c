/*-------------------------------------------------------------------------
 *
 * stream_drop.c
 *	  detect.drop_stream: the definition goes, the events stay.
 *
 * A stream may have lost some of its objects; whatever is still there is
 * dropped, and what detect's own tables know of it is deleted.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/attempt.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "rollup/rollup.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(detect_drop_stream);

/*
 * Drop one of a stream's objects if it is still there.
 */
void
stream_drop_object(Oid classid, Oid objectid)
{
	ObjectAddress object;

	if (!OidIsValid(objectid))
		return;
	ObjectAddressSet(object, classid, objectid);
	performDeletion(&object, DROP_RESTRICT,
					PERFORM_DELETION_SKIP_EXTENSIONS | PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/*
 * Delete what detect's own tables know of a stream.
 */
void
stream_forget(int32 stream_id)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream_id)};
	const char *tables[] = {"_stream",
							"_applied_progress",
							"_staged_progress",
							"_paused_partition",
							"_dead_letter",
							"_unknown_field",
							"_edit",
							"_problem"};

	rollup_repair_unseen_edits(stream_id);
	SPI_connect();
	for (int i = 0; i < lengthof(tables); i++)
		catalog_execute(psprintf("DELETE FROM detect.%s WHERE stream_id = $1", tables[i]), 1, types,
						values, NULL);
	SPI_finish();
	staging_tables_drop(stream_id);
	attempt_forget(stream_id);
	stream_changed();
}

/* Raise an error unless the caller may drop a stream.  Its owner is that of
 * its query; without one, that of the events table. */
static void
check_may_drop(const char *name, Oid events_table)
{
	Oid owned = get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));

	if (!OidIsValid(owned))
		owned = events_table;
	if (!superuser() && (get_rel_name(owned) == NULL || !compat_owns_relation(owned, GetUserId())))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of stream \"%s\"", name)));
}

/*
 * detect.drop_stream(stream, if_exists): the definition goes, the events table
 * with its rows and the rollups over it stay.
 */
Datum
detect_drop_stream(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool if_exists = PG_GETARG_BOOL(1);
	Oid events_table;
	int32 stream_id = stream_number(name, &events_table);

	if (stream_id == 0)
	{
		(void) stream_load(name, if_exists); /* raises the error */
		ereport(NOTICE, (errmsg("stream \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	check_may_drop(name, events_table);
	stream_lock(stream_id, AccessExclusiveLock);
	/* objects are dropped by name: whoever had the lock may have made others */
	if (stream_number(name, &events_table) != stream_id)
		stream_raise_changed(name);
	check_may_drop(name, events_table);

	history_record("drop_stream", name, NULL);
	stream_drop_events_triggers(events_table);
	stream_forget(stream_id);
	stream_drop_object(RelationRelationId,
					   get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false)));
	stream_drop_object(RelationRelationId,
					   get_relname_relid(name, get_namespace_oid(DETECT_STAGING_SCHEMA, false)));
	PG_RETURN_VOID();
}
