/*-------------------------------------------------------------------------
 *
 * server.c
 *	  What detect.health() asks of the server and SQL cannot tell.
 *
 * The library that is loaded, the launcher, how many workers all databases
 * together want, and the room on disk.  None of it names a stream, so everybody
 * may see it, but for the disk: that is for members of pg_monitor.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include <sys/statvfs.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#define SERVER_COLUMNS 4
#define DISK_COLUMNS   3

PG_FUNCTION_INFO_V1(detect_server);
PG_FUNCTION_INFO_V1(detect_disks);

/* The launcher, and a worker for each duty of each stream, of all databases. */
static int
workers_wanted(int *launcher_pid, bool *no_worker_slot)
{
	int wanted = 1;

	LWLockAcquire(detect_shared->lock, LW_SHARED);
	*launcher_pid = detect_shared->launcher_pid;
	*no_worker_slot = detect_shared->no_worker_slot;
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		const StreamSlot *slot = &detect_shared->slots[i];

		if (slot->in_use && slot->wanted)
			wanted += 1 + slot->consumers;
	}
	LWLockRelease(detect_shared->lock);
	return wanted;
}

/*
 * detect._server(): one row.  Without a preloaded library there is neither a
 * launcher nor a worker.
 */
Datum
detect_server(PG_FUNCTION_ARGS)
{
	Datum values[SERVER_COLUMNS];
	bool nulls[SERVER_COLUMNS] = {0};
	int launcher_pid = 0;
	bool no_worker_slot = false;
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(DETECT_VERSION);
	values[2] = Int32GetDatum(detect_shared ? workers_wanted(&launcher_pid, &no_worker_slot) : 0);
	values[1] = Int32GetDatum(launcher_pid);
	nulls[1] = launcher_pid == 0;
	values[3] = BoolGetDatum(no_worker_slot);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* Append a row for the file system of a directory, if it can be told. */
static void
emit_disk(ReturnSetInfo *result, const char *holds, const char *directory)
{
	Datum values[DISK_COLUMNS];
	bool nulls[DISK_COLUMNS] = {0};
	struct statvfs disk;

	if (statvfs(directory, &disk) != 0)
		return;
	values[0] = CStringGetTextDatum(holds);
	values[1] = Int64GetDatum((int64) disk.f_bavail * (int64) disk.f_frsize);
	values[2] = Int64GetDatum((int64) disk.f_blocks * (int64) disk.f_frsize);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * detect._disks(): room where the server writes.  Tablespaces elsewhere are
 * not looked at.
 */
Datum
detect_disks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS))
		return (Datum) 0;
	emit_disk(result, "the data directory", DataDir);
	emit_disk(result, "pg_wal", "pg_wal");
	return (Datum) 0;
}
