/*-------------------------------------------------------------------------
 *
 * fault_point.c
 *	  What happens at the points where tests let a process of ours fail.
 *
 * Only in builds with FAULT_POINTS=1.  detect.fault_point holds items that are
 * separated by commas,
 *
 *		point:action[:nth[:times[:label]]]		or		mutant_name
 *
 * with an action of kill (SIGKILL of the process itself), a SQLSTATE (an error
 * with it), or wait (until nobody holds the advisory lock
 * hashtext('<point>')).  An item fires at the nth visit of a process and at
 * those after it, so many times in all; both are 1 by default.
 *
 * How often it has fired must survive the crash that it causes: each time is a
 * line with the item's text in the file detect_fault_points of the data
 * directory.  So an item fires again only under another label, and a test
 * that adds lines disarms it at once: a process reads and writes the file, and
 * kills itself, while it holds the file's lock.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "fault_point.h"

#ifdef DETECT_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#define RECORD_FILE	  "detect_fault_points"
#define ITEMS_MAX	  32
#define ITEM_BYTES	  128
#define MUTANT_PREFIX "mutant_"

typedef enum FaultAction
{
	FAULT_KILL,
	FAULT_ERROR,
	FAULT_WAIT,
	FAULT_MUTATE
} FaultAction;

/* One item of the setting. */
typedef struct Fault
{
	char text[ITEM_BYTES];
	char point[NAMEDATALEN]; /* or the mutant */
	FaultAction action;
	int sqlstate; /* of FAULT_ERROR */
	int nth;
	int times;
	int visits; /* of this process since it has the setting */
} Fault;

typedef struct Faults
{
	int count;
	Fault faults[ITEMS_MAX];
} Faults;

static char *fault_point_setting;
static Faults *faults;	 /* as the setting has them; NULL: none */
static bool is_attached; /* this process is one of ours */

/* What an action says; false when it is none. */
static bool
parse_action(const char *word, Fault *fault)
{
	if (strcmp(word, "kill") == 0)
		fault->action = FAULT_KILL;
	else if (strcmp(word, "wait") == 0)
		fault->action = FAULT_WAIT;
	else if (strlen(word) == 5 && strspn(word, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5)
	{
		fault->action = FAULT_ERROR;
		fault->sqlstate = MAKE_SQLSTATE(word[0], word[1], word[2], word[3], word[4]);
	}
	else
		return false;
	return true;
}

/* Read an item of the setting; false when it is not of the form that it must
 * have. */
static bool
parse_fault(const char *item, Fault *fault)
{
	char action[NAMEDATALEN] = "";

	memset(fault, 0, sizeof(Fault));
	fault->nth = fault->times = 1;
	if (strlcpy(fault->text, item, ITEM_BYTES) >= ITEM_BYTES)
		return false;
	if (strncmp(item, MUTANT_PREFIX, strlen(MUTANT_PREFIX)) == 0)
	{
		fault->action = FAULT_MUTATE;
		strlcpy(fault->point, item + strlen(MUTANT_PREFIX), NAMEDATALEN);
		return true;
	}
	return sscanf(item, "%63[a-z_]:%63[a-zA-Z0-9]:%d:%d", fault->point, action, &fault->nth,
				  &fault->times) >= 2 &&
		   parse_action(action, fault);
}

/* Check hook: reads the items. */
static bool
check_setting(char **newval, void **extra, GucSource source)
{
	Faults *result = compat_guc_malloc(sizeof(Faults));
	char *copy = strdup(*newval);
	char *state = NULL;
	bool is_valid = result != NULL && copy != NULL;

	if (result)
		memset(result, 0, sizeof(Faults));
	for (char *item = is_valid ? strtok_r(copy, ", ", &state) : NULL; item && is_valid;
		 item = strtok_r(NULL, ", ", &state))
	{
		is_valid = result->count < ITEMS_MAX && parse_fault(item, &result->faults[result->count++]);
		if (!is_valid)
			GUC_check_errdetail("\"%s\" is not point:action[:nth[:times[:label]]].", item);
	}
	free(copy);
	if (!is_valid && result)
		compat_guc_free(result);
	else if (is_valid)
		*extra = result;
	return is_valid;
}

static void
assign_setting(const char *newval, void *extra)
{
	faults = extra;
}

/*
 * Define the setting; the caller is settings_define().
 */
void
fault_points_define(void)
{
	DefineCustomStringVariable("detect.fault_point", "Lets workers fail where tests want them to.",
							   NULL, &fault_point_setting, "", PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   check_setting, assign_setting, NULL);
}

/* Open the record and lock it. */
static int
open_record(void)
{
	int fd = open(RECORD_FILE, O_RDWR | O_CREAT | O_APPEND, 0600);

	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		elog(PANIC, "could not open \"%s\": %m", RECORD_FILE);
	return fd;
}

/* How many lines of the record are this one. */
static int
count_lines(int fd, const char *line)
{
	struct stat status;
	char *content;
	char *state = NULL;
	ssize_t bytes;
	int count = 0;

	if (fstat(fd, &status) != 0 || (content = malloc(status.st_size + 1)) == NULL)
		elog(PANIC, "could not read \"%s\": %m", RECORD_FILE);
	bytes = pread(fd, content, status.st_size, 0);
	content[Max(bytes, 0)] = '\0';
	for (char *found = strtok_r(content, "\n", &state); found; found = strtok_r(NULL, "\n", &state))
		count += strcmp(found, line) == 0;
	free(content);
	return count;
}

/* Enter into the record, and tell the log, that a fault happens; false when it
 * has happened often enough.  A process that is to be killed does not come
 * back. */
static bool
enter_record(const Fault *fault)
{
	int fd = open_record();
	char line[ITEM_BYTES + 1];
	bool happens = count_lines(fd, fault->text) < fault->times;

	snprintf(line, sizeof(line), "%s\n", fault->text);
	if (happens && write(fd, line, strlen(line)) < 0)
		elog(PANIC, "could not write \"%s\": %m", RECORD_FILE);
	if (happens)
		ereport(LOG, (errmsg("fault point fires: %s", fault->text), errhidecontext(true)));
	if (happens && fault->action == FAULT_KILL)
	{
		kill(getpid(), SIGKILL);
		pause();
	}
	close(fd);
	return happens;
}

/* Wait until a test lets go of its lock.  The launcher is in no database, and
 * cannot be held up. */
static void
wait_for_test(const char *name)
{
	int64 key = DatumGetInt32(
		DirectFunctionCall1Coll(hashtext, DEFAULT_COLLATION_OID, CStringGetTextDatum(name)));
	LOCKTAG tag;
	int lock_timeout = LockTimeout;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, 1);
	/* however slow the test's machine is; an error leaves it until settings are reset */
	LockTimeout = 0;
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
	LockTimeout = lock_timeout;
	LockRelease(&tag, ExclusiveLock, true);
}

/*
 * The process is at the point of this name, where an error may be raised or
 * not.
 */
void
fault_point_reached(const char *name, bool may_raise)
{
	if (!is_attached)
		return;
	for (int i = 0; faults != NULL && i < faults->count; i++)
	{
		Fault *fault = &faults->faults[i];

		if (fault->action == FAULT_MUTATE || strcmp(fault->point, name) != 0 ||
			(fault->action == FAULT_ERROR && !may_raise) || ++fault->visits < fault->nth ||
			!enter_record(fault))
			continue;
		if (fault->action == FAULT_WAIT)
			wait_for_test(name);
		else
			ereport(ERROR, (errcode(fault->sqlstate), errmsg("fault point \"%s\"", name)));
	}
}

/*
 * Whether a test wants the code to be wrong in this way.
 */
bool
fault_mutant_is_on(const char *name)
{
	for (int i = 0; faults != NULL && i < faults->count; i++)
	{
		if (faults->faults[i].action == FAULT_MUTATE && strcmp(faults->faults[i].point, name) == 0)
			return true;
	}
	return false;
}

/* Every commit of a process of ours has two points of its own, also those
 * within CREATE INDEX CONCURRENTLY.  After it an error would be a PANIC. */
static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT)
		FAULT_POINT("before_commit");
	else if (event == XACT_EVENT_COMMIT)
		fault_point_reached("after_commit", false);
}

/*
 * This process is one that tests let fail: the launcher or a worker.
 */
void
fault_points_attach(void)
{
	is_attached = true;
	RegisterXactCallback(transaction_ends, NULL);
}

#endif
