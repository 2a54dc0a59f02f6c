/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The process that decides which workers run.
 *
 * One static process, connected to no database.  Slots in shared memory say
 * what is wanted: probe.c fills them, from each connectable database at start
 * and from then on from the databases that backends name at their commit.
 * In launch.c it starts a dynamic worker for whatever is wanted and does not
 * run, and frees the slots of what is gone.
 *
 * Backends never start a worker: they tell the launcher at commit, when what
 * they did can be seen by others.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include <math.h>

#include "access/xact.h"
#include "common/pg_prng.h"
#include "compat.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define LAUNCHER_RESTART_S 5
#define RETRY_DELAY_MAX_MS 60000
#define RETRY_JITTER	   0.13
#define IDLE_WAIT_MS	   60000

static bool no_worker_slot_logged;

/* In backends: the transaction has changed definitions. */
static bool probe_wanted_at_commit;

/*
 * Register the launcher; the caller is _PG_init while libraries are preloaded.
 */
void
launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "detect", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "detect_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "detect launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "detect launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * Raise an error unless streams can run on this server.  The caller is in a
 * transaction of a database that has the extension.
 */
void
launcher_require(void)
{
	if (detect_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"detect\" is not in \"shared_preload_libraries\""),
				 errhint("Add \"detect\" to shared_preload_libraries and restart the server.")));
	catalog_check_version(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE);
}

/*
 * Let the launcher turn its loop once.
 */
void
launcher_wake(void)
{
	LWLockAcquire(detect_shared->lock, LW_SHARED);
	if (detect_shared->launcher)
		SetLatch(&detect_shared->launcher->procLatch);
	LWLockRelease(detect_shared->lock);
}

/* Hand this database's OID to the launcher. */
static void
launcher_send_probe_request(void)
{
	bool known = false;

	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < detect_shared->nprobe_requests; i++)
		known |= detect_shared->probe_requests[i] == MyDatabaseId;
	if (!known && detect_shared->nprobe_requests < PROBE_REQUESTS)
		detect_shared->probe_requests[detect_shared->nprobe_requests++] = MyDatabaseId;
	else if (!known)
		detect_shared->probe_all = true;
	LWLockRelease(detect_shared->lock);
	launcher_wake();
}

/* A prepared transaction is found later: by the probe after any worker's end. */
static void
launcher_at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		probe_wanted_at_commit = false;
}

/* When a commit is visible to others and its invalidations are sent. */
static void
launcher_at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (!probe_wanted_at_commit || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (is_commit)
		launcher_send_probe_request();
	probe_wanted_at_commit = false;
}

/*
 * Have the launcher look at this database once the current transaction has
 * committed.  Does nothing where the library is not preloaded.
 */
void
launcher_probe_at_commit(void)
{
	static bool registered = false;

	if (detect_shared == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(launcher_at_transaction_end, NULL);
		RegisterResourceReleaseCallback(launcher_at_release, NULL);
		registered = true;
	}
	probe_wanted_at_commit = true;
}

/*
 * How long to wait after so many failures in a row have gone before: from
 * detect.retry_interval doubling to a minute, with jitter, so that what failed
 * together is not tried together.
 */
int
launcher_retry_delay_ms(int failures)
{
	double delay_ms = ldexp(detect_retry_interval_ms, Min(failures, 20));
	double jitter = RETRY_JITTER * (2.0 * pg_prng_double(&pg_global_prng_state) - 1.0);

	return (int) (Min(delay_ms, RETRY_DELAY_MAX_MS) * (1.0 + jitter));
}

/*
 * Whether what such a delay put off is due.
 */
bool
launcher_is_due(TimestampTz due, TimestampTz now)
{
	return time_is_over(due, now, (int64) (RETRY_DELAY_MAX_MS * (1 + RETRY_JITTER)));
}

/*
 * Register a dynamic worker; object is the name of what it works for.  False
 * when all worker slots of the server are taken, which is logged once until a
 * worker is registered again.
 */
bool
launcher_start(const WorkerOrder *order, const char *object, BackgroundWorkerHandle **handle)
{
	const char *duty = worker_duty_names[order->duty];
	MemoryContext old_context;
	BackgroundWorker worker;
	bool registered;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "detect", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "detect_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "detect %s %s", duty, object);
	snprintf(worker.bgw_type, BGW_MAXLEN, "detect %s", duty);
	StaticAssertStmt(sizeof(WorkerOrder) <= BGW_EXTRALEN, "WorkerOrder must fit into bgw_extra");
	memcpy(worker.bgw_extra, order, sizeof(WorkerOrder));

	old_context = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, handle);
	MemoryContextSwitchTo(old_context);

	if (!registered && !no_worker_slot_logged)
		ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						  errmsg("\"%s\" is waiting for a worker slot", worker.bgw_name),
						  errhint("Increase max_worker_processes, now %d, and restart the server.",
								  max_worker_processes)));
	no_worker_slot_logged = !registered;
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->no_worker_slot = !registered;
	LWLockRelease(detect_shared->lock);
	return registered;
}

/* Nobody may set the latch of a process that is gone. */
static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->launcher = NULL;
	detect_shared->launcher_pid = 0;
	LWLockRelease(detect_shared->lock);
}

/* Become the launcher: signals, a connection to no database, a latch that
 * others can set. */
static void
launcher_attach(void)
{
	pqsignal(SIGINT, SIG_IGN); /* there is no query to cancel */
	worker_attach_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	on_shmem_exit(launcher_detach, (Datum) 0);
	LWLockAcquire(detect_shared->lock, LW_EXCLUSIVE);
	detect_shared->launcher = MyProc;
	detect_shared->launcher_pid = MyProcPid;
	LWLockRelease(detect_shared->lock);
}

/* Wait until something is due or somebody sets the latch. */
static void
launcher_wait(TimestampTz next_due)
{
	static uint32 wait_event = 0;
	long wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_due);

	if (wait_event == 0)
		wait_event = compat_wait_event("DetectLauncherMain");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(wait_ms + 1, IDLE_WAIT_MS), wait_event);
	ResetLatch(MyLatch);
}

/*
 * The launcher's main program.
 */
void
detect_launcher_main(Datum arg)
{
	MemoryContext cycle_context;

	launcher_attach();
	fault_points_attach();
	ereport(LOG, (errmsg("detect launcher started")));
	cycle_context =
		AllocSetContextCreate(TopMemoryContext, "detect launcher cycle", ALLOCSET_DEFAULT_SIZES);
	probe_request_all();

	for (;;)
	{
		TimestampTz next_due;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextSwitchTo(cycle_context);

		/* an end comes before the change that forgives it */
		(void) launch_tend_slots();
		(void) probe_tend();
		next_due = launch_tend_slots();
		/* A worker's end that was just counted has asked for a probe. */
		next_due = Min(next_due, probe_tend());
		MemoryContextReset(cycle_context);
		launcher_wait(next_due);
	}
}
