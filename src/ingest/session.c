/*-------------------------------------------------------------------------
 *
 * session.c
 *	  The session of a worker: its settings, and what code of users leaves in it.
 *
 * ALTER ROLE … SET and ALTER DATABASE … SET reach background workers too.
 * What would change the meaning of an element or of a definition is therefore
 * pinned, with a source that neither of them nor the configuration file
 * overrides.  default_transaction_read_only is not pinned: a database that is
 * read-only for maintenance holds its streams up until it is over.
 *
 * A worker's session lives for days, and in each batch code of users runs in it:
 * queries, triggers, defaults, types.  Whatever that has SET, locked, prepared
 * or left open is undone before the next transaction of the stream begins, and
 * before the worker waits, so that each batch begins in the same session.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "ingest/worker.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#define LOCK_TIMEOUT_MS 500

#define BATCH_WORK_KILOBYTES 65536

typedef struct PinnedSetting
{
	const char *name;
	const char *value;
	bool is_of_data; /* what values mean, and which objects are found */
} PinnedSetting;

/* Those that this version of PostgreSQL lacks are left out. */
static const PinnedSetting pinned_settings[] = {
	/* A role that its owner SETs to another one would work as that one. */
	{"role", "none", false},
	/* Nothing that a user made is found without naming its schema. */
	{"search_path", "", true},

	{"array_nulls", "on", true},
	{"bytea_output", "hex", true},
	{"DateStyle", "ISO, YMD", true},
	{"default_transaction_deferrable", "off", false},
	{"default_transaction_isolation", "read committed", false},
	/* An element that fails must not end the worker. */
	{"exit_on_error", "off", false},
	{"extra_float_digits", "1", true},
	/* Look-ups would find some of the rows. */
	{"gin_fuzzy_search_limit", "0", true},
	{"IntervalStyle", "postgres", true},
	{"quote_all_identifiers", "off", true},
	{"restrict_nonsystem_relation_kind", "", true},
	{"row_security", "on", true},
	{"session_replication_role", "origin", false},
	{"standard_conforming_strings", "on", true},
	{"TimeZone", "UTC", true},
	{"timezone_abbreviations", "Default", true},
	{"transform_null_equals", "off", true},
	{"xmlbinary", "base64", true},
	{"xmloption", "content", true},

	/* Effects and progress are lost together, and read again. */
	{"synchronous_commit", "off", false},
	{"statement_timeout", "0", false},
	{"transaction_timeout", "0", false},
	/* It would compile a plan anew for each batch. */
	{"jit", "off", false},
};

static bool is_undone = false; /* what was left, and no transaction has run since */

/* Code of users runs in transactions. */
static void
transaction_ended(XactEvent event, void *argument)
{
	is_undone = false;
}

/* Whether PostgreSQL has a setting of this name. */
static bool
has_setting(const char *name)
{
	return GetConfigOption(name, true, false) != NULL;
}

/*
 * Pin the settings of this worker's session; called once it is connected.
 */
void
session_pin_settings(WorkerDuty duty)
{
	RegisterXactCallback(transaction_ended, NULL);
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		if (has_setting(pinned_settings[i].name))
			SetConfigOption(pinned_settings[i].name, pinned_settings[i].value, PGC_SUSET,
							PGC_S_OVERRIDE);
	}

	/*
	 * Who waits for a lock makes others wait behind him; and of a deadlock the
	 * worker shall be the one that gives up, before anybody's command fails.
	 * Building an index concurrently waits for old transactions by design, and
	 * looks for deadlocks all the time (chore_command.c): the log would have each
	 * look.
	 */
	if (duty == DUTY_MAINTAIN)
		SetConfigOption("log_lock_waits", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout",
					duty == DUTY_MAINTAIN
						? "0"
						: psprintf("%d", Max(Min(LOCK_TIMEOUT_MS, DeadlockTimeout / 2), 1)),
					PGC_SUSET, PGC_S_OVERRIDE);

	/* transition tables, joins and groups of a batch should not spill */
	if ((duty == DUTY_APPLY || duty == DUTY_FILL) && work_mem < BATCH_WORK_KILOBYTES)
		SetConfigOption("work_mem", CppAsString2(BATCH_WORK_KILOBYTES), PGC_USERSET,
						PGC_S_OVERRIDE);
}

/*
 * Have what follows in this subtransaction, which the caller rolls back, find
 * objects and understand values as a worker does.
 */
void
session_imitate_worker(void)
{
	for (int i = 0; i < lengthof(pinned_settings); i++)
	{
		if (pinned_settings[i].is_of_data && has_setting(pinned_settings[i].name))
			(void) set_config_option(pinned_settings[i].name, pinned_settings[i].value, PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
}

/* Drop what is in the session's temporary schema, if it has one. */
static void
drop_temporary(void)
{
	Oid schema;
	Oid toast_schema;

	GetTempNamespaceState(&schema, &toast_schema);
	if (!OidIsValid(schema))
		return;
	transaction_begin();
	/* catalogs may have values out of line */
	PushActiveSnapshot(GetTransactionSnapshot());
	ResetTempTableNamespace();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Undo what code of users has left in this worker's session, as DISCARD ALL does
 * for a client.  The caller is in no transaction.  What SET SESSION
 * AUTHORIZATION has done, in the worker of a superuser, ends the worker.
 */
void
session_undo(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (is_undone)
		return;
	PortalHashTableDeleteAll();
	LockReleaseSession(USER_LOCKMETHOD);
	DropAllPreparedStatements();
	if (GetUserId() != GetSessionUserId())
		SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
	/* what is pinned is what settings are reset to */
	ResetAllOptions();
	if (GetUserId() != me.order.owner)
	{
		ereport(LOG, (errmsg("\"%s\" exits because its session has another user",
							 MyBgworkerEntry->bgw_name)));
		proc_exit(0);
	}
	drop_temporary();
	MemoryContextSwitchTo(context);
	is_undone = true;
}
