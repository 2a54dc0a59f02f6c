/*-------------------------------------------------------------------------
 *
 * detect.c
 *	  What happens when the library is loaded.
 *
 * The library works without being preloaded: definitions can be read and
 * dropped, and whatever needs a worker says what to set.  Only a preloaded
 * library has shared memory and a launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC;

#define LOCK_TRANCHE "detect"

DetectShared *detect_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

extern PGDLLEXPORT void _PG_init(void);

/*
 * Ask for the memory of the slots and for their lock.
 */
static void
detect_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(slot_shmem_bytes());
	RequestNamedLWLockTranche(LOCK_TRANCHE, 1);
}

/*
 * Find or make the slots.  Runs again after a crash restart, when shared
 * memory is new and empty.
 */
static void
detect_shmem_startup(void)
{
	bool found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	detect_shared = ShmemInitStruct("detect", slot_shmem_bytes(), &found);
	if (!found)
	{
		slot_shmem_init();
		detect_shared->lock = &(GetNamedLWLockTranche(LOCK_TRANCHE))->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Called once a process when the library is loaded; in the postmaster's case
 * every later process inherits the result.
 */
void
_PG_init(void)
{
	/* pg_upgrade moves files about: no worker may write meanwhile. */
	if (IsBinaryUpgrade)
		return;

	settings_define();
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = detect_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = detect_shmem_startup;
	launcher_register();
	database_in_use_register();
}
