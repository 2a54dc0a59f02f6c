/*-------------------------------------------------------------------------
 *
 * reconcile.c
 *	  The duty of a probe: make slots of a database's streams.
 *
 * Definitions are read in one transaction and told to shared memory after it.
 * A probe fills free slots and says of its database's others what is wanted;
 * it frees none, for only the launcher knows whether their workers have ended.
 *
 * What would make a worker fail at its very connection is looked for here and
 * pauses the stream with a reason, because such a worker cannot tell.  That is
 * written last: where it cannot be, in a database that is read-only or while somebody
 * has the stream's lock, the other streams run nevertheless, and it is tried later.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "compat.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A stream as its database defines it. */
typedef struct ProbedStream
{
	int32 id;
	char *name;
	bool paused;
	int consumers;
	bool at_home; /* in the database it was made in */
	bool has_owner;
	Oid owner;
	char *owner_name;
	bool owner_can_log_in;
	bool owner_is_superuser;
	bool owner_can_connect;
	const char *obstacle; /* why no worker can run, or NULL */
	const char *remedy;
} ProbedStream;

/* One row of the query below, in the current context. */
static ProbedStream *
probed_stream_from_row(HeapTuple row, TupleDesc desc)
{
	ProbedStream *stream = palloc0(sizeof(ProbedStream));
	bool isnull;

	stream->id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
	stream->name = SPI_getvalue(row, desc, 2);
	stream->paused = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
	stream->consumers = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
	stream->at_home = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
	stream->owner = DatumGetObjectId(SPI_getbinval(row, desc, 6, &isnull));
	stream->has_owner = !isnull;
	stream->owner_name = SPI_getvalue(row, desc, 7);
	stream->owner_can_log_in = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
	stream->owner_is_superuser = DatumGetBool(SPI_getbinval(row, desc, 9, &isnull));
	stream->owner_can_connect = DatumGetBool(SPI_getbinval(row, desc, 10, &isnull));
	return stream;
}

/* Definitions of all streams of this database, in the current context; the
 * caller is in a transaction. */
static List *
probe_read_streams(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	Oid types[3] = {INT8OID, INT8OID, INT8OID};
	Datum values[3];
	List *result = NIL;

	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = Int64GetDatum((int64) MyDatabaseId);
	values[2] = Int64GetDatum((int64) catalog_relation("_stream", false));
	SPI_connect();
	catalog_execute("SELECT s.stream_id, s.name, s.paused, s.consumers,"
					" s.home_system = $1 AND s.home_database = $2 AND s.home_catalog = $3,"
					" r.oid, r.rolname::text,"
					" r.rolcanlogin, r.rolsuper,"
					" has_database_privilege(r.oid, $2::oid, 'CONNECT')"
					" FROM detect._stream s"
					" LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					"  AND n.nspname = 'detect_query' JOIN pg_roles r ON r.oid = c.relowner)"
					" ON c.relname::text = s.name"
					" ORDER BY s.stream_id",
					3, types, values, NULL);
	MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old_context = MemoryContextSwitchTo(caller_context);

		result =
			lappend(result, probed_stream_from_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(old_context);
	}
	SPI_finish();
	return result;
}

/* Why no worker can run for a stream, and what to do; NULL when one can.  Both
 * are in the current context; the caller is in a transaction. */
static const char *
probe_obstacle(const ProbedStream *stream, const char **remedy)
{
	const char *role = stream->owner_name;

	if (!stream->at_home)
	{
		*remedy = psprintf("SELECT detect.resume(%s) -- if this database is to take over",
						   quote_literal_cstr(stream->name));
		return "this is a copy of another database";
	}
	if (!stream->has_owner)
	{
		*remedy = "give it back its name, or drop the stream with detect.drop_stream and create it "
				  "again; its events stay";
		return psprintf("the view \"detect_query.%s\" is missing", stream->name);
	}
	if (COMPAT_WORKER_NEEDS_LOGIN && !stream->owner_can_log_in)
	{
		*remedy = psprintf(
			"ALTER ROLE %s LOGIN, or another owner of view detect_query.%s; then call detect.resume",
			quote_identifier(role), quote_identifier(stream->name));
		return psprintf("role \"%s\", which owns the stream, may not log in", role);
	}
	if (!stream->owner_can_connect)
	{
		*remedy =
			psprintf("GRANT CONNECT ON DATABASE %s TO %s; then call detect.resume",
					 quote_identifier(get_database_name(MyDatabaseId)), quote_identifier(role));
		return psprintf("role \"%s\", which owns the stream, may not connect to this database",
						role);
	}
	if (stream->owner_is_superuser && !detect_superuser_streams)
	{
		*remedy = psprintf("ALTER VIEW detect_query.%s OWNER TO a role that is no superuser, "
						   "or set detect.superuser_streams; then call detect.resume",
						   quote_identifier(stream->name));
		return psprintf("role \"%s\", which owns the stream, is a superuser", role);
	}
	return NULL;
}

static bool
stream_is_wanted(const ProbedStream *stream)
{
	return !stream->paused && stream->obstacle == NULL;
}

/* A slot for a new stream, or NULL.  The caller holds the lock. */
static StreamSlot *
take_free_slot(const ProbedStream *stream)
{
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot *slot = &detect_shared->slots[i];
		uint32 generation = slot->generation + 1;

		if (slot->in_use)
			continue;
		memset(slot, 0, sizeof(StreamSlot));
		slot->in_use = true;
		slot->generation = generation;
		slot->database = MyDatabaseId;
		slot->stream_id = stream->id;
		return slot;
	}
	return NULL;
}

/* What the database defines is what its slots want.  The caller holds the
 * lock. */
static void
update_slot(StreamSlot *slot, const ProbedStream *stream)
{
	slot->owner = stream->owner;
	slot->consumers = stream->consumers;
	/* of a consumer that is wanted no more, nobody else would take it back */
	if (slot->reason_entry >= DUTY_CONSUME + stream->consumers)
		slot->reason[0] = '\0';
	/* who resumes a stream wants to see what becomes of it */
	if (!slot->wanted && stream_is_wanted(stream))
	{
		memset(&slot->log_limit, 0, sizeof(LogLimit));
		slot->state_since = GetCurrentTimestamp();
	}
	slot->wanted = stream_is_wanted(stream);
	strlcpy(slot->name, stream->name, NAMEDATALEN);
}

/* Whether workers of a stream may still run in a slot that was given up: two appliers of
 * one stream at a time would count twice. */
static bool
is_ending(const ProbedStream *stream)
{
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		const StreamSlot *slot = &detect_shared->slots[i];

		if (slot->in_use && slot->dropped && slot->database == MyDatabaseId &&
			slot->stream_id == stream->id)
			return true;
	}
	return false;
}

/*
 * Bring the slots of this database up to date with its streams.  Returns how
 * many streams found no slot.  Does nothing for a launcher that is gone: its
 * successor sends probes of its own, which must not be overtaken.
 */
static int
reconcile_slots(List *streams)
{
	int without_slot = 0;
	ListCell *lc;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	if (detect_shared->launcher_pid != MyBgworkerEntry->bgw_notify_pid)
	{
		LWLockRelease(detect_shared->lock);
		return 0;
	}
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot *slot = &detect_shared->slots[i];
		bool defined = false;

		if (!slot->in_use || slot->database != MyDatabaseId)
			continue;
		foreach(lc, streams)
			defined |= ((ProbedStream *) lfirst(lc))->id == slot->stream_id;
		if (!defined)
		{
			slot->wanted = false;
			slot->dropped = true;
		}
	}
	foreach(lc, streams)
	{
		ProbedStream *stream = lfirst(lc);
		StreamSlot *slot = slot_find(MyDatabaseId, stream->id);

		if (slot == NULL && stream_is_wanted(stream) && is_ending(stream))
			/* freeing that slot asks for another probe */
			detect_shared->slots_exhausted = true;
		else if (slot == NULL && stream_is_wanted(stream))
		{
			slot = take_free_slot(stream);
			if (slot == NULL)
				without_slot++;
		}
		if (slot)
			update_slot(slot, stream);
	}
	detect_shared->slots_exhausted |= without_slot > 0;
	LWLockRelease(detect_shared->lock);
	return without_slot;
}

/* Read the streams of this database, into memory that outlives the
 * transaction. */
static List *
probe_read(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *streams = NIL;
	ListCell *lc;

	transaction_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(caller_context);
	if (catalog_installed())
		streams = probe_read_streams();
	foreach(lc, streams)
	{
		ProbedStream *stream = lfirst(lc);

		if (!stream->paused)
			stream->obstacle = probe_obstacle(stream, &stream->remedy);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller_context);
	return streams;
}

/* Pause a stream if still no worker can run for it.  False when somebody has its lock, who
 * may just mend that.  In a transaction. */
static bool
pause_obstructed(int32 stream_id)
{
	ListCell *lc;

	if (!stream_try_lock(stream_id))
		return false;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, probe_read_streams())
	{
		ProbedStream *stream = lfirst(lc);

		if (stream->id != stream_id || stream->paused ||
			(stream->obstacle = probe_obstacle(stream, &stream->remedy)) == NULL)
			continue;
		stream_set_paused(stream->id, stream->obstacle, stream->remedy);
		ereport(WARNING, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						  errmsg("stream \"%s\" is paused: %s", stream->name, stream->obstacle),
						  errhint("%s", stream->remedy)));
	}
	PopActiveSnapshot();
	return true;
}

/* Pause the streams that no worker can run for; false when some could not be looked at. */
static bool
probe_pause_obstructed(List *streams)
{
	bool is_done = true;
	ListCell *lc;

	foreach(lc, streams)
	{
		const ProbedStream *stream = lfirst(lc);

		if (stream->obstacle == NULL)
			continue;
		transaction_begin();
		is_done &= pause_obstructed(stream->id);
		CommitTransactionCommand();
	}
	return is_done;
}

/*
 * The duty of a probe, in a worker that is connected as superuser: its session
 * runs no code but PostgreSQL's and our own.
 */
void
probe_run(void)
{
	List *streams = probe_read();
	int without_slot = reconcile_slots(streams);

	if (without_slot > 0)
		ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						  errmsg_plural("%d stream has no slot and does not run",
										"%d streams have no slot and do not run", without_slot,
										without_slot),
						  errhint("Increase detect.max_streams, now %d, and restart the server.",
								  detect_max_streams)));
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->probe_succeeded = true;
	LWLockRelease(detect_shared->lock);

	if (!probe_pause_obstructed(streams))
		return;
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->probe_has_written = true;
	LWLockRelease(detect_shared->lock);
}
