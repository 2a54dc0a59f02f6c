/*-------------------------------------------------------------------------
 *
 * session.c
 *	  The settings a worker works under, whatever its role and database say.
 *
 * ALTER ROLE … SET and ALTER DATABASE … SET reach background workers too.
 * What would change the meaning of an element or of a definition is therefore
 * pinned, with a source that neither of them nor the configuration file
 * overrides.  default_transaction_read_only is not pinned: a database that is
 * read-only for maintenance holds its streams up until it is over.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "storage/proc.h"
#include "utils/guc.h"

#define LOCK_TIMEOUT_MS 500

typedef struct PinnedSetting
{
	const char *name;
	const char *value;
	bool is_of_data; /* what values mean, and which objects are found */
} PinnedSetting;

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
	{"extra_float_digits", "1", true},
	{"IntervalStyle", "postgres", true},
	{"quote_all_identifiers", "off", true},
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
	/* It would compile a plan anew for each batch. */
	{"jit", "off", false},
};

/*
 * Pin the settings of this worker's session; called once it is connected.
 */
void
session_pin_settings(WorkerDuty duty)
{
	for (int i = 0; i < lengthof(pinned_settings); i++)
		SetConfigOption(pinned_settings[i].name, pinned_settings[i].value, PGC_SUSET,
						PGC_S_OVERRIDE);

	/*
	 * Who waits for a lock makes others wait behind him; and of a deadlock the
	 * worker shall be the one that gives up, before anybody's command fails.
	 * Building an index concurrently waits for old transactions by design, and
	 * blocks nobody.
	 */
	SetConfigOption("lock_timeout",
					duty == DUTY_MAINTAIN
						? "0"
						: psprintf("%d", Max(Min(LOCK_TIMEOUT_MS, DeadlockTimeout / 2), 1)),
					PGC_SUSET, PGC_S_OVERRIDE);
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
		if (pinned_settings[i].is_of_data)
			(void) set_config_option(pinned_settings[i].name, pinned_settings[i].value, PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
}
