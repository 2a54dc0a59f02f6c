/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The settings of detect, in alphabetical order.
 *
 * Only what belongs to the server is a setting; what belongs to one stream is
 * an argument of detect.create_stream.  detect.max_streams sizes shared
 * memory, so it exists only where the library is preloaded: the views take
 * its absence as "not preloaded".
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "fault_point.h"
#include "miscadmin.h"
#include "utils/guc.h"

int detect_batch_timeout_ms = 60000;				/* of one transaction; 0: no limit */
int detect_dead_letter_payload_kilobytes = 1024;	/* kept of one dead letter */
int detect_identity_memory_kilobytes = 1024 * 1024; /* of one stream */
int detect_max_batch_rows = 100000;					/* elements in one commit */
int detect_max_batch_kilobytes = 32768;				/* payload in one commit */
int detect_max_batch_ms = 250;						/* of one commit; 0: no limit */
int detect_max_streams = 64;						/* slots in shared memory */
int detect_retry_interval_ms = 1000;				/* first back-off */
bool detect_superuser_streams = false;				/* may a superuser own one? */
int detect_locator_kilobytes = 65536;				/* places of one session */
int detect_worker_locator_kilobytes = 1048576;		/* places of one worker */

/*
 * Define the settings.  The caller is _PG_init.
 */
void
settings_define(void)
{
	DefineCustomIntVariable(
		"detect.batch_timeout", "Sets the time that applying a batch may take.",
		"A batch that takes longer is applied in smaller pieces, down to one element. Zero turns this off.",
		&detect_batch_timeout_ms, 60000, 0, 24 * 60 * 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL,
		NULL, NULL);

	DefineCustomIntVariable("detect.dead_letter_payload_size",
							"Sets the greatest payload that a dead letter keeps.",
							"A longer one is cut, and read from Kafka again when it is retried.",
							&detect_dead_letter_payload_kilobytes, 1024, 1, 1024 * 1024, PGC_SIGHUP,
							GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"detect.identity_memory", "Sets the memory that the identities of one stream may take.",
		"Beyond it partitions, or a plain table, get a unique index in its stead.",
		&detect_identity_memory_kilobytes, 1024 * 1024, 64, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_KB,
		NULL, NULL, NULL);

	DefineCustomIntVariable("detect.locator_memory",
							"Sets the memory that the places of locators may take in a session.",
							"Beyond it locators answer from their place tables.",
							&detect_locator_kilobytes, 65536, 0, MAX_KILOBYTES, PGC_USERSET,
							GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"detect.max_batch_rows", "Sets the greatest number of elements that one commit applies.",
		NULL, &detect_max_batch_rows, 100000, 1, 10000000, PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("detect.max_batch_size",
							"Sets the greatest amount of payload that one commit stages.", NULL,
							&detect_max_batch_kilobytes, 32768, 64, 1024 * 1024, PGC_SIGHUP,
							GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"detect.max_batch_time", "Sets the time that one commit should take at most.",
		"Batches have as many elements as fit into it by the time that those before took. "
		"Zero turns this off.",
		&detect_max_batch_ms, 250, 0, 60 * 60 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable(
			"detect.max_streams",
			"Sets the number of streams that can run in all databases together.", NULL,
			&detect_max_streams, 64, 1, 10000, PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomIntVariable(
		"detect.retry_interval", "Sets the time before a failed worker or batch is tried again.",
		"It doubles with each failure in a row, up to one minute.", &detect_retry_interval_ms, 1000,
		10, 60000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomBoolVariable(
		"detect.superuser_streams", "Allows superusers to own streams.",
		"A worker runs other people's triggers and functions as the owner of its stream.",
		&detect_superuser_streams, false, PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("detect.worker_locator_memory",
							"Sets the memory that the places of locators may take in a worker.",
							"Beyond it locators answer from their place tables.",
							&detect_worker_locator_kilobytes, 1048576, 0, MAX_KILOBYTES, PGC_SIGHUP,
							GUC_UNIT_KB, NULL, NULL, NULL);

	fault_points_define();
	MarkGUCPrefixReserved("detect");
}
