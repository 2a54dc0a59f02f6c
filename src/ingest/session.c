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
} PinnedSetting;

static const PinnedSetting pinned_settings[] = {
	/* A role that its owner SETs to another one would work as that one. */
	{"role", "none"},
	/* Nothing that a user made is found without naming its schema. */
	{"search_path", ""},

	{"array_nulls", "on"},
	{"bytea_output", "hex"},
	{"DateStyle", "ISO, YMD"},
	{"default_transaction_deferrable", "off"},
	{"default_transaction_isolation", "read committed"},
	{"extra_float_digits", "1"},
	{"IntervalStyle", "postgres"},
	{"quote_all_identifiers", "off"},
	{"row_security", "on"},
	{"session_replication_role", "origin"},
	{"standard_conforming_strings", "on"},
	{"TimeZone", "UTC"},
	{"timezone_abbreviations", "Default"},
	{"transform_null_equals", "off"},
	{"xmlbinary", "base64"},
	{"xmloption", "content"},

	/* Effects and progress are lost together, and read again. */
	{"synchronous_commit", "off"},
	{"statement_timeout", "0"},
	/* It would compile a plan anew for each batch. */
	{"jit", "off"},
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
