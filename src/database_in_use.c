/*-------------------------------------------------------------------------
 *
 * database_in_use.c
 *	  What to type when a worker keeps a database from being dropped, renamed,
 *	  moved or copied.
 *
 * PostgreSQL waits five seconds for the sessions of that database to leave, and
 * then says that there are some.  Workers do not leave for it, but for one that builds
 * an index, which PostgreSQL ends as it does with autovacuum: who drops a
 * database with a stream that runs shall know.  So the error only gets a hint,
 * by a callback that is called while it is raised.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

/* The database that nobody may be in for this statement; NULL if it is no such
 * statement. */
static const char *
database_to_be_left(Node *statement)
{
	ListCell *cell;

	if (IsA(statement, DropdbStmt))
		return ((DropdbStmt *) statement)->dbname;
	if (IsA(statement, AlterDatabaseStmt))
		return ((AlterDatabaseStmt *) statement)->dbname;
	if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return ((RenameStmt *) statement)->subname;
	if (!IsA(statement, CreatedbStmt))
		return NULL;
	foreach(cell, ((CreatedbStmt *) statement)->options)
	{
		DefElem *option = lfirst(cell);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			return defGetString(option);
	}
	return NULL;
}

/* Whether a worker of ours is in a database. */
static bool
has_workers(Oid database)
{
	bool found = false;

	LWLockAcquire(detect_shared->lock, LW_SHARED);
	for (int i = 0; i < detect_shared->nslots; i++)
	{
		const StreamSlot *slot = &detect_shared->slots[i];

		if (!slot->in_use || slot->database != database)
			continue;
		for (int entry = DUTY_APPLY; entry < WORKER_ENTRIES; entry++)
			found |= slot->workers[entry].pid != 0;
	}
	LWLockRelease(detect_shared->lock);
	return found;
}

/* A statement that is run: the database that it needs for itself alone. */
typedef struct StatementInProgress
{
	Oid database;
	bool drops;
} StatementInProgress;

/* Called for whatever is raised while the statement runs.  Others than superusers
 * see and pause only streams of roles that they are members of. */
static void
add_hint(void *arg)
{
	const StatementInProgress *statement = arg;

	if (geterrcode() != ERRCODE_OBJECT_IN_USE || !has_workers(statement->database))
		return;
	if (statement->drops)
		errhint("Workers of detect are among them: as a superuser in that database, "
				"SELECT detect.pause(stream) FROM detect.stream; then try again, or add WITH "
				"(FORCE).");
	else
		errhint("Workers of detect are among them: as a superuser in that database, "
				"SELECT detect.pause(stream) FROM detect.stream; then try again, and afterwards "
				"SELECT detect.resume(stream) FROM detect.stream;");
}

/* Run a statement as always, with that callback where it may be of use. */
static void
process_utility(PlannedStmt *planned, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
				DestReceiver *receiver, QueryCompletion *completion)
{
	const char *name = database_to_be_left(planned->utilityStmt);
	StatementInProgress statement = {
		.database = name && detect_shared ? get_database_oid(name, true) : InvalidOid,
		.drops = IsA(planned->utilityStmt, DropdbStmt)};
	ErrorContextCallback callback = {
		.callback = add_hint, .arg = &statement, .previous = error_context_stack};

	if (OidIsValid(statement.database))
		error_context_stack = &callback;
	if (prev_process_utility)
		prev_process_utility(planned, query_string, read_only_tree, context, params, environment,
							 receiver, completion);
	else
		standard_ProcessUtility(planned, query_string, read_only_tree, context, params, environment,
								receiver, completion);
	if (OidIsValid(statement.database))
		error_context_stack = callback.previous;
}

/*
 * Have such errors hinted at in all sessions; the caller is _PG_init while
 * libraries are preloaded.
 */
void
database_in_use_register(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
