/*-------------------------------------------------------------------------
 *
 * stream_lock.c
 *	  The lock of a stream, and who may take it to change the stream.
 *
 * Whoever waits for the lock may find another stream, or none, when he has it: so what
 * was found before is looked at again, and its owner, too.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

/*
 * Take the stream's lock until the end of the transaction.
 */
void
stream_lock(int32 stream_id, LOCKMODE mode)
{
	if (mode == AccessExclusiveLock)
		slot_end_filling(stream_id);
	LockDatabaseObject(catalog_relation("_stream", false), (Oid) stream_id, 0, mode);
}

/*
 * The same if nobody else has it, and no batch is open.
 */
bool
stream_try_lock(int32 stream_id)
{
	return ConditionalLockDatabaseObject(catalog_relation("_stream", false), (Oid) stream_id, 0,
										 AccessExclusiveLock);
}

static void
check_owner(const char *name, Oid owner)
{
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of stream \"%s\"", name)));
}

/*
 * Raise an error unless the caller may change this stream.
 */
void
stream_check_owner(const Stream *stream)
{
	check_owner(stream->name, stream->owner);
}

/*
 * Raise the error that a stream is not what it was when a verb found it: whoever had its
 * lock has dropped it, or made another one of its name.
 */
void
stream_raise_changed(const char *name)
{
	ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("stream \"%s\" was altered or dropped meanwhile", name),
					errhint("See detect.stream, and try again.")));
}

/* Raise an error unless the caller may have the lock of a stream, whose definition can't
 * be read yet. */
static void
check_may_lock(const char *name)
{
	Oid view = get_relname_relid(name, get_namespace_oid(DETECT_QUERY_SCHEMA, false));
	Oid owner = OidIsValid(view) ? relation_owner(view, true) : InvalidOid;

	if (OidIsValid(owner))
		check_owner(name, owner);
}

/*
 * Lock a stream of the caller's until the end of the transaction, and load it.  Nothing
 * of it is opened before: whoever drops it has its objects locked.  NULL when there is
 * none and missing_ok.
 */
Stream *
stream_lock_named(const char *name, LOCKMODE mode, bool missing_ok)
{
	Oid events_table;
	int32 stream_id = stream_number(name, &events_table);
	Stream *stream;

	if (stream_id == 0 && stream_load(name, missing_ok) == NULL)
		return NULL;
	if (stream_id == 0)
		stream_raise_changed(name); /* it was made a moment ago */
	check_may_lock(name);
	stream_lock(stream_id, mode);
	stream = stream_load_by_id(stream_id, true);
	if (stream == NULL)
		stream_raise_changed(name);
	stream_check_owner(stream);
	return stream;
}
