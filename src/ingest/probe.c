/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Which databases the launcher asks for their streams, and when.
 *
 * The launcher may connect to no database, so it sends a short-lived worker
 * into the one in question, which does what is in reconcile.c.  One probe runs at a time, and none waits long
 * for a lock, so that no database can hold up the others.  A request that comes while the
 * same database is being probed is kept: that probe may not have seen it.  One that is
 * closed for a while is looked at now and then: nobody tells when it is open again.
 *
 * While a probe is due or runs, no worker is started: what slots say may be out
 * of date, and workers might leave no worker slot for the probe, without which
 * nobody would learn why a stream does not run.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#define DATABASE_IS_BROKEN (-2) /* datconnlimit after a failed DROP DATABASE */

/* When a database is asked again that was closed, or could not be written. */
#define LATER_MS	   60000
#define SMALL_LATER_MS 500 /* under the limits of tests */

/* A database to be probed. */
typedef struct Probe
{
	Oid database;
	TimestampTz due;
	int failures; /* in a row */
} Probe;

/* All in TopMemoryContext. */
static List *open_probes = NIL; /* of Probe * */
static Probe *running_probe = NULL;
static BackgroundWorkerHandle *running_handle = NULL;

static Probe *
probe_find(Oid database)
{
	ListCell *lc;

	foreach(lc, open_probes)
	{
		if (((Probe *) lfirst(lc))->database == database)
			return lfirst(lc);
	}
	return NULL;
}

/*
 * Have a database probed at a time, or earlier if that was asked before.
 */
void
probe_request(Oid database, TimestampTz due)
{
	Probe *probe = probe_find(database);
	MemoryContext old_context;

	if (probe)
	{
		probe->due = Min(probe->due, due);
		return;
	}
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	probe = palloc0(sizeof(Probe));
	probe->database = database;
	probe->due = due;
	open_probes = lappend(open_probes, probe);
	MemoryContextSwitchTo(old_context);
}

/* OIDs of the databases that may be probed, and of users' that are closed, in
 * the current context.  Reads a shared catalog, for which no database is needed. */
static List *
connectable_databases(List **closed)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *result = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	*closed = NIL;
	transaction_begin();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old_context = MemoryContextSwitchTo(caller_context);

		if (form->datallowconn && !form->datistemplate && form->datconnlimit != DATABASE_IS_BROKEN)
			result = lappend_oid(result, form->oid);
		else if (form->datconnlimit != DATABASE_IS_BROKEN && form->oid >= FirstNormalObjectId)
			*closed = lappend_oid(*closed, form->oid);
		MemoryContextSwitchTo(old_context);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller_context);
	return result;
}

/* Have a closed database probed later: who opens it again does not say so. */
static void
probe_later(Oid database)
{
	probe_request(database, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														FAULT_LIMIT(LATER_MS, SMALL_LATER_MS)));
}

/* The databases that may be probed.  The streams of one that cannot be entered any more
 * are gone: for good, or as long as it is closed. */
static List *
look_at_databases(void)
{
	List *closed;
	List *databases = connectable_databases(&closed);
	ListCell *lc;

	foreach(lc, closed)
		probe_later(lfirst_oid(lc));
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot *slot = &detect_shared->slots[i];

		if (slot->in_use && !list_member_oid(databases, slot->database))
		{
			slot->wanted = false;
			slot->dropped = true;
		}
	}
	LWLockRelease(detect_shared->lock);
	return databases;
}

/*
 * Have every connectable database probed, now.
 */
void
probe_request_all(void)
{
	ListCell *lc;

	foreach(lc, look_at_databases())
		probe_request(lfirst_oid(lc), GetCurrentTimestamp());
}

/* Wake the workers of a database, so that they see at once that definitions
 * have changed.  The caller holds the lock. */
static void
wake_workers(Oid database)
{
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		StreamSlot *slot = &detect_shared->slots[i];

		if (!slot->in_use || slot->database != database)
			continue;
		for (int entry = 0; entry < WORKER_ENTRIES; entry++)
		{
			if (slot->workers[entry].proc)
				SetLatch(&slot->workers[entry].proc->procLatch);
		}
	}
}

/* Take over what backends asked for at their commits. */
static void
probe_take_requests(void)
{
	Oid requests[PROBE_REQUESTS];
	int nrequests;
	bool all;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < detect_shared->nprobe_requests; i++)
		wake_workers(detect_shared->probe_requests[i]);
	nrequests = detect_shared->nprobe_requests;
	memcpy(requests, detect_shared->probe_requests, nrequests * sizeof(Oid));
	all = detect_shared->probe_all;
	detect_shared->nprobe_requests = 0;
	detect_shared->probe_all = false;
	LWLockRelease(detect_shared->lock);

	for (int i = 0; i < nrequests; i++)
	{
		probe_request(requests[i], GetCurrentTimestamp());
		launch_forgive(requests[i]);
	}
	if (all)
		probe_request_all();
}

/* Put the probe that failed, or could not start, back for later; who has asked since it
 * began may have mended why. */
static void
probe_retry(Probe *probe)
{
	Probe *newer = probe_find(probe->database);
	int delay_ms = launcher_retry_delay_ms(probe->failures);
	TimestampTz due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);

	if (newer == NULL)
	{
		probe_request(probe->database, due);
		newer = probe_find(probe->database);
	}
	newer->due = Min(newer->due, due);
	newer->failures = probe->failures + 1;
}

/* If the running probe has ended, put it away or ask again. */
static void
probe_reap(void)
{
	pid_t pid;
	bool succeeded;
	bool has_written;

	if (running_probe == NULL || GetBackgroundWorkerPid(running_handle, &pid) != BGWH_STOPPED)
		return;
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	succeeded = detect_shared->probe_succeeded;
	has_written = detect_shared->probe_has_written;
	LWLockRelease(detect_shared->lock);
	if (!succeeded)
		probe_retry(running_probe);
	else if (!has_written)
		probe_later(running_probe->database);
	pfree(running_handle);
	pfree(running_probe);
	running_handle = NULL;
	running_probe = NULL;
}

/* The probe that has been due for longest, or NULL. */
static Probe *
probe_next(void)
{
	Probe *next = NULL;
	ListCell *lc;

	foreach(lc, open_probes)
	{
		Probe *probe = lfirst(lc);

		if (next == NULL || probe->due < next->due)
			next = probe;
	}
	return next;
}

/*
 * Whether no worker of a database may be started: some database is about to be
 * probed or just being probed, or the last probe of this one has failed, so
 * that it may be gone.
 */
bool
probe_is_open(Oid database)
{
	Probe *next = probe_next();
	Probe *own = probe_find(database);

	return running_probe != NULL ||
		   (next != NULL && launcher_is_due(next->due, GetCurrentTimestamp())) ||
		   (own != NULL && own->failures > 0);
}

/* Whether somebody has a database for himself, as who drops or renames it:
 * whoever connects then waits for him. */
static bool
database_is_locked(Oid database)
{
	MemoryContext caller_context = CurrentMemoryContext;
	LOCKTAG tag;
	bool available;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	transaction_begin();
	available = LockAcquire(&tag, RowExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller_context);
	return !available;
}

/* Send a worker into a database; it is off the list of open probes. */
static void
probe_start(Probe *probe)
{
	WorkerOrder order = {.duty = DUTY_PROBE, .database = probe->database};
	char object[32];

	open_probes = list_delete_ptr(open_probes, probe);
	if (!list_member_oid(look_at_databases(), probe->database))
	{
		pfree(probe);
		return;
	}

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->probe_succeeded = detect_shared->probe_has_written = false;
	LWLockRelease(detect_shared->lock);

	snprintf(object, sizeof(object), "database %u", probe->database);
	if (!database_is_locked(probe->database) && launcher_start(&order, object, &running_handle))
		running_probe = probe;
	else
	{
		probe_retry(probe);
		pfree(probe);
	}
}

/*
 * The launcher's share of the work on probes: ends, requests, starts.  Returns
 * when it is to be called again, unless the latch is set before.
 */
TimestampTz
probe_tend(void)
{
	Probe *next;

	probe_take_requests();
	probe_reap();
	while (running_probe == NULL && (next = probe_next()) != NULL &&
		   launcher_is_due(next->due, GetCurrentTimestamp()))
		probe_start(next);

	if (running_probe != NULL || (next = probe_next()) == NULL)
		return DT_NOEND;
	return next->due;
}
