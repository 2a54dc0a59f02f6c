/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A dynamic worker: probe, applier, consumer, maintenance or filling, as ordered.
 *
 * A worker first claims its entry in the stream's slot, so that no second one
 * of its duty can run, then connects as the stream's owner and loads the
 * definition.  It never follows a changed one: it exits with code 0 and the
 * launcher looks what is wanted now.  So does a worker whose order turns out
 * to be out of date.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "apply/dedup.h"
#include "catalog/pg_authid.h"
#include "compat.h"
#include "fault_point.h"
#include "ingest/worker.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "rollup/rollup.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define PROBE_LOCK_TIMEOUT "2s"

StreamSlot *my_slot = NULL;
WorkerEntry *my_entry = NULL;
bool worker_definition_changed = false;
Worker me;

const char *const worker_duty_names[DUTIES] = {"probe", "apply", "maintain", "fill", "consume"};

static MemoryContext definition_context; /* of me.stream and … */
static char *fingerprint;				 /* … of what it was when loaded */

static emit_log_hook_type prev_emit_log_hook = NULL;

/* Whether a role may log in to this database, as a worker of its own must. */
static bool
may_connect(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool can_log_in;

	if (!HeapTupleIsValid(tuple))
		return false;
	can_log_in = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);
	return (can_log_in || !COMPAT_WORKER_NEEDS_LOGIN) &&
		   compat_database_aclcheck(MyDatabaseId, role, ACL_CONNECT) == ACLCHECK_OK;
}

/* Why the stream, as just loaded, is not for this worker; NULL when it is. */
static const char *
definition_objection(const Stream *stream)
{
	if (stream == NULL)
		return "the stream was dropped";
	if (stream->paused)
		return "the stream is paused";
	if (stream->is_copy)
		return "this is a copy of another database";
	if (stream->owner != GetUserId())
		return "the stream has another owner";
	if (superuser_arg(stream->owner) && !detect_superuser_streams)
		return "the stream's owner is a superuser";
	if (!may_connect(stream->owner))
		return "the stream's owner may not connect any more";
	return NULL;
}

/* Load the stream, or see whether it still is what it was; in a transaction.
 * Returns why this worker must exit, or NULL. */
static const char *
definition_check(void)
{
	Stream *stream;
	const char *objection;
	char *found;

	if (!catalog_installed())
		return "the extension was dropped";
	catalog_check_version(ERRCODE_CANNOT_CONNECT_NOW);
	stream = stream_load_by_id(me.order.stream_id, true);
	objection = definition_objection(stream);
	if (objection)
		return objection;

	found = watch_fingerprint(stream);
	if (me.stream == NULL)
	{
		watch_begin(stream);
		fingerprint = found;
		me.stream = stream;
		return NULL;
	}
	return strcmp(found, fingerprint) == 0 ? NULL : "the stream's definition has changed";
}

/*
 * Load the stream's definition at the first call, and see at each later one
 * whether it has changed; if so, or if the stream shall not run, exit.  The
 * caller is in no transaction.
 */
void
worker_follow_definition(void)
{
	MemoryContext caller_context = CurrentMemoryContext;
	const char *why;

	watch_stale = false;
	transaction_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (me.stream == NULL)
	{
		MemoryContextReset(definition_context);
		MemoryContextSwitchTo(definition_context);
	}
	why = definition_check();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller_context);

	if (why)
	{
		ereport(LOG, (errmsg("\"%s\" exits because %s", MyBgworkerEntry->bgw_name, why),
					  errhidecontext(true)));
		proc_exit(0);
	}
}

/*
 * Whether the stream is still what this worker has loaded; in a transaction of the
 * caller, who has the stream's lock.
 */
bool
worker_definition_holds(void)
{
	bool holds;

	if (!watch_stale)
		return true;
	watch_stale = false;
	PushActiveSnapshot(GetTransactionSnapshot());
	holds = definition_check() == NULL;
	PopActiveSnapshot();
	watch_stale |= !holds;
	return holds;
}

/* The FATAL that refuses a connection is all that such a worker gets to say. */
static void
record_connection_failure(ErrorData *error)
{
	if (my_slot && (error->elevel == ERROR || error->elevel == FATAL))
		slot_record_error(my_slot, error->sqlerrcode, error->message);
	if (prev_emit_log_hook)
		prev_emit_log_hook(error);
}

/* Connect to the database as the stream's owner; a probe as superuser. */
static void
worker_connect(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = record_connection_failure;
	if (me.order.duty == DUTY_PROBE)
	{
		/* Holds for the lock on the database, too. */
		SetConfigOption("lock_timeout", PROBE_LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
		BackgroundWorkerInitializeConnectionByOid(me.order.database, InvalidOid, 0);
	}
	else
		BackgroundWorkerInitializeConnectionByOid(me.order.database, me.order.owner,
												  COMPAT_WORKER_CONNECT_FLAGS);
	emit_log_hook = prev_emit_log_hook;

	session_pin_settings(me.order.duty);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_OVERRIDE);
}

/* Build indexes and keep retention, once.  An error ends the worker, and the
 * launcher's back-off keeps it from being tried again at once. */
static void
worker_maintain(void)
{
	worker_follow_definition();
	slot_begin_maintenance(me.stream->events_table);
	maintain_run(me.stream);
	pgstat_report_stat(true);
}

/* Read history for the new rollups of the stream, until there is none to be read. */
static void
worker_fill(void)
{
	malloc_keep();
	do
		worker_follow_definition();
	while (fill_worker_step(me.stream));
	pgstat_report_stat(true);
}

/*
 * Have this process, which has just begun, hear signals, and know the settings.
 */
void
worker_attach_signals(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	/* PostgreSQL has a worker ignore SIGHUP at first: settings that have changed since
	 * it was forked may not have been told */
	ProcessConfigFile(PGC_SIGHUP);
}

/*
 * The main program of each dynamic worker.
 */
void
detect_worker_main(Datum arg)
{
	worker_attach_signals();
	fault_points_attach();

	memcpy(&me.order, MyBgworkerEntry->bgw_extra, sizeof(WorkerOrder));
	if (me.order.duty == DUTY_PROBE)
	{
		worker_connect();
		probe_run();
		return;
	}

	if (slot_claim(&me.order) == NULL)
		proc_exit(0);
	strlcpy(me.stream_name, my_slot->name, NAMEDATALEN);
	worker_connect();

	definition_context =
		AllocSetContextCreate(TopMemoryContext, "detect definition", ALLOCSET_DEFAULT_SIZES);
	watch_begin(NULL);
	if (me.order.duty == DUTY_MAINTAIN)
		worker_maintain();
	else if (me.order.duty == DUTY_FILL)
		worker_fill();
	else
		round_loop();
}
