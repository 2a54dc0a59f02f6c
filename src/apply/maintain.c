/*-------------------------------------------------------------------------
 *
 * maintain.c
 *	  Does the chores of partitions that are past: a unique index, and their
 *	  end.
 *
 * CREATE INDEX CONCURRENTLY and DETACH PARTITION CONCURRENTLY commit within,
 * so each runs as a top-level command of a short-lived worker, through a
 * portal like a command of a client.  Nobody waits for a chore: an index waits
 * for others as long as it takes, a partition's end for about a second, and
 * is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "compat.h"
#include "executor/spi.h"
#include "fault_point.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/chore.h"
#include "apply/partition.h"

/* The problem of an index that can't be built, and how many of the keys that
 * keep it from being built are shown. */
#define PROBLEM_INDEX "unique index"
#define SHOWN_KEYS	  5

static int failures = 0; /* of the present run */
static bool is_told;	 /* the first of them is in the log */

/* Runs a command as a client's would be; it may commit within. */
static void
run_through_portal(const char *sql)
{
	RawStmt *statement = linitial_node(RawStmt, pg_parse_query(sql));
	List *queries = pg_analyze_and_rewrite_fixedparams(statement, sql, NULL, 0, NULL);
	List *plans = pg_plan_queries(queries, sql, 0, NULL);
	Portal portal = CreatePortal("", true, true);

	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(statement->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	(void) compat_portal_run(portal);
	PortalDrop(portal, false);
}

/* Begins a transaction and stays in the current context, which outlives it. */
static void
begin_reading(void)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
}

static void
end_reading(void)
{
	MemoryContext context = CurrentMemoryContext;

	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/*
 * Runs a command in transactions of its own.  Result is NULL, or the error,
 * in the current context, which outlives transactions.  Zero means no
 * lock_timeout.
 */
static ErrorData *
run_command(const char *sql, int lock_timeout_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *volatile error = NULL;

	SetConfigOption("lock_timeout", psprintf("%d", lock_timeout_ms), PGC_USERSET, PGC_S_SESSION);
	debug_query_string = sql;
	pgstat_report_activity(STATE_RUNNING, sql);
	PG_TRY();
	{
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		run_through_portal(sql);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}

/* What the user can do about a chore that failed, or NULL. */
static const char *
failure_remedy(const char *partition, const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_UNIQUE_VIOLATION:
			return "Delete all but one of the rows with each of these keys; until then the identities stay in memory.";
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
			return psprintf("%s must own the partition and may need CREATE on its schema.",
							quote_identifier(GetUserNameFromId(GetUserId(), false)));
		case ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST:
			return "Drop what depends on it.";
		default:
			return error->hint;
	}
}

/*
 * Tells of a chore that failed: the first of a run in the log and in the
 * stream's reason, of the others how many.  Being kept waiting is no failure.
 */
static void
report_failure(const char *chore, const char *partition, const ErrorData *error)
{
	char *reason = psprintf("could not %s partition %s: %s", chore, partition, error->message);
	bool is_locked = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	const char *remedy;
	int left_out;

	if (!is_locked && failures++ > 0)
		return;
	/* names are looked up */
	begin_reading();
	remedy = failure_remedy(partition, error);
	end_reading();
	is_told = log_is_due(LOG_CHORE, &left_out);
	if (is_told)
		ereport(LOG, (errcode(error->sqlerrcode), errmsg("%s", reason), log_left_out(left_out),
					  remedy ? errhint("%s", remedy) : 0));
	/* the detail may show keys, which belong into no log */
	if (error->detail)
		reason = psprintf("%s: %s", reason, error->detail);
	if (my_slot != NULL && !is_locked)
		slot_record_error(my_slot, error->sqlerrcode,
						  remedy ? psprintf("%s. %s", reason, remedy) : reason);
}

/* Ends a run: how many chores failed, or that none does any more. */
static void
report_end(const Stream *stream)
{
	if (failures > 1 && is_told)
		ereport(LOG, (errmsg("%d more partitions of stream \"%s\" could not be tended",
							 failures - 1, stream->name)));
	if (failures == 0 && my_slot != NULL)
		slot_clear_reason(my_slot, DUTY_MAINTAIN);
}

/* Lets the applier see at once what can leave its memory. */
static void
tell_applier(const Stream *stream)
{
	begin_reading();
	slot_wake_at_commit(stream->id);
	end_reading();
}

/* A relation's name with its schema, quoted; NULL if it is gone. */
static char *
qualified_name(Oid relation)
{
	char *name = get_rel_name(relation);

	if (name == NULL)
		return NULL;
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), name);
}

/* The same, in a transaction of its own and the current context. */
static char *
read_qualified_name(Oid relation)
{
	char *name;

	begin_reading();
	name = qualified_name(relation);
	end_reading();
	return name;
}

/* Our indexes on a partition that never became valid: names, quoted. */
static List *
invalid_indexes(Relation table)
{
	List *names = NIL;
	List *indexes = RelationGetIndexList(table);
	char *prefix = makeObjectName(RelationGetRelationName(table), NULL, "identity");
	ListCell *cell;

	foreach(cell, indexes)
	{
		char *name = get_rel_name(lfirst_oid(cell));

		if (name != NULL && strncmp(name, prefix, strlen(prefix)) == 0 &&
			!get_index_isvalid(lfirst_oid(cell)))
			names = lappend(names, qualified_name(lfirst_oid(cell)));
	}
	return names;
}

/* Drops what an index build that failed or was interrupted left behind. */
static void
drop_invalid_indexes(Oid partition)
{
	List *names = NIL;
	ListCell *cell;
	Relation table;

	begin_reading();
	table = try_relation_open(partition, AccessShareLock);
	if (table != NULL)
	{
		names = invalid_indexes(table);
		relation_close(table, AccessShareLock);
	}
	end_reading();

	foreach(cell, names)
	{
		ErrorData *error =
			run_command(psprintf("DROP INDEX CONCURRENTLY IF EXISTS %s", (char *) lfirst(cell)), 0);

		if (error != NULL)
			report_failure("drop an invalid index of", lfirst(cell), error);
	}
}

/* The command that makes a partition's index; NULL if it needs none. */
static char *
index_command(const Stream *stream, Oid partition)
{
	char *command = NULL;
	IdentityColumns *columns;

	begin_reading();
	columns = identity_columns(stream);
	if (chore_lacks_index(partition, columns))
	{
		char *index = ChooseRelationName(get_rel_name(partition), NULL, "identity",
										 get_rel_namespace(partition), false);

		command =
			psprintf("CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s)", quote_identifier(index),
					 qualified_name(partition), identity_columns_list(columns));
	}
	end_reading();
	return command;
}

/* The first keys that stand more than once in a relation, with how often, as
 * text; NULL if there are none. */
static char *
repeated_keys(const Stream *stream, const char *name)
{
	char *list = identity_columns_list(identity_columns(stream));
	char *sql = psprintf("SELECT pg_catalog.string_agg(k, ', ') FROM ("
						 "SELECT pg_catalog.format('(%%s) %%s times', "
						 "pg_catalog.concat_ws(', ', %s), pg_catalog.count(*)) AS k "
						 "FROM %s GROUP BY %s HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 "
						 "ORDER BY %s LIMIT %d) r",
						 list, name, list, list, SHOWN_KEYS);
	MemoryContext context = CurrentMemoryContext;
	char *keys = NULL;

	SPI_connect();
	if (SPI_execute(sql, true, 0) == SPI_OK_SELECT && SPI_processed == 1)
		keys = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (keys != NULL)
		keys = MemoryContextStrdup(context, keys);
	SPI_finish();
	return keys;
}

/* Notes how the build of an index went, with the keys that it failed on: a
 * problem until it is built.  What could not be noted is in the log. */
static void
note_index(const Stream *stream, Oid partition, const char *name, const ErrorData *failure)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		begin_reading();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (failure == NULL)
			problem_clear(stream->id, PROBLEM_INDEX, partition);
		else
		{
			char *detail =
				psprintf("the unique index of %s was not built: %s", name, failure->message);
			char *keys = failure->sqlerrcode == ERRCODE_UNIQUE_VIOLATION
							 ? repeated_keys(stream, name)
							 : NULL;
			const char *remedy = failure_remedy(name, failure);

			if (keys != NULL)
				detail = psprintf("%s: %s", detail, keys);
			problem_set(stream->id, PROBLEM_INDEX, partition, detail, remedy);
		}
		PopActiveSnapshot();
		end_reading();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/* Gives a partition its unique index. */
static void
index_partition(const Stream *stream, Oid partition, const char *name)
{
	char *command;
	ErrorData *error;

	drop_invalid_indexes(partition);
	command = index_command(stream, partition);
	if (command == NULL)
		return;

	FAULT_POINT("before_index_build");
	error = run_command(command, 0);
	FAULT_POINT("after_index_build");
	if (error != NULL)
	{
		drop_invalid_indexes(partition);
		report_failure("build the unique index of", name, error);
	}
	note_index(stream, partition, name, error);
}

static void
drop_partition(const char *name)
{
	ErrorData *error =
		run_command(psprintf("DROP TABLE IF EXISTS %s", name), partition_lock_timeout_ms());

	if (error != NULL)
		report_failure("drop", name, error);
}

/* The way a partition can be detached: concurrently, unless there is a default
 * partition; NULL if the events table is gone. */
static const char *
way_to_detach(Oid events_table)
{
	const char *way = NULL;
	Relation table;

	begin_reading();
	table = try_relation_open(events_table, AccessShareLock);
	if (table != NULL)
	{
		way = OidIsValid(partition_ranges(table)->default_partition) ? "" : "CONCURRENTLY";
		relation_close(table, AccessShareLock);
	}
	end_reading();
	return way;
}

/*
 * Sees to a partition that was not detached after all: unless its detach is
 * pending, its comment is taken off, lest it be dropped when somebody else
 * detaches it.  Result tells whether the detach is pending.
 */
static bool
check_pending(Oid partition, const char *name)
{
	bool is_attached;
	bool is_pending = false;
	ErrorData *error = NULL;

	begin_reading();
	is_attached = get_rel_relispartition(partition);
	if (is_attached)
		is_pending = PartitionHasPendingDetach(partition);
	end_reading();

	if (is_attached && !is_pending)
		error =
			run_command(psprintf("COMMENT ON TABLE %s IS NULL", name), partition_lock_timeout_ms());
	if (error != NULL)
		report_failure("uncomment", name, error);
	return is_pending;
}

/*
 * Detaches a partition past retention and drops it.  A detach that was kept
 * waiting is pending, and finished another time; result is false then, as no
 * other partition can be detached until then.
 */
static bool
retire_partition(const Stream *stream, Oid partition, const char *name, bool is_pending)
{
	char *table = read_qualified_name(stream->events_table);
	const char *way = is_pending ? "FINALIZE" : way_to_detach(stream->events_table);
	ErrorData *error = NULL;

	if (table == NULL || way == NULL)
		return false;
	if (!is_pending)
		error = run_command(psprintf("COMMENT ON TABLE %s IS %s", name,
									 quote_literal_cstr(PARTITION_RETIRED_COMMENT)),
							partition_lock_timeout_ms());
	if (error != NULL)
	{
		report_failure("retire", name, error);
		return true;
	}
	FAULT_POINT("before_detach");
	error = run_command(psprintf("ALTER TABLE %s DETACH PARTITION %s %s", table, name, way),
						partition_lock_timeout_ms());
	if (error != NULL)
	{
		report_failure("detach", name, error);
		return !check_pending(partition, name);
	}
	FAULT_POINT("before_partition_drop");
	drop_partition(name);
	FAULT_POINT("after_partition_drop");
	return true;
}

/* Has VACUUM cut off the empty end of a state table.  It takes its time, as
 * autovacuum does, and never makes that give way.  Index entries of the few rows
 * that were there must go, too, or their places stay taken. */
static void
vacuum_states(const char *name)
{
	ErrorData *error;

	SetConfigOption("vacuum_cost_delay", "2ms", PGC_USERSET, PGC_S_SESSION);
	error =
		run_command(psprintf("VACUUM (INDEX_CLEANUP ON) %s", name), Max(DeadlockTimeout / 2, 1));
	if (error != NULL && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ereport(LOG, (errcode(error->sqlerrcode),
					  errmsg("could not vacuum %s: %s", name, error->message)));
}

/* Does one chore; *may_detach says whether partitions can be detached still. */
static void
do_chore(const Stream *stream, const Chore *chore, bool *may_detach)
{
	char *name = read_qualified_name(chore->partition);

	if (name == NULL)
		return;
	switch (chore->kind)
	{
		case CHORE_RETIRE:
		case CHORE_FINISH_DETACH:
			if (*may_detach)
				*may_detach = retire_partition(stream, chore->partition, name,
											   chore->kind == CHORE_FINISH_DETACH);
			break;
		case CHORE_DROP:
			drop_partition(name);
			break;
		case CHORE_INDEX:
			index_partition(stream, chore->partition, name);
			break;
		case CHORE_VACUUM:
			vacuum_states(name);
			break;
	}
}

/*
 * Does the chores of a stream's partitions; those that fail are reported and
 * do not keep the others from being done.  Called outside any transaction
 * as the stream's owner; the stream outlives transactions.
 */
void
maintain_run(const Stream *stream)
{
	MemoryContext context =
		AllocSetContextCreate(TopMemoryContext, "detect chores", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool may_detach = true;
	List *chores;
	ListCell *cell;

	begin_reading();
	chores = chore_list(stream, my_slot ? slot_chores_wanted(my_slot) : NIL);
	end_reading();

	failures = 0;
	foreach(cell, chores)
	{
		CHECK_FOR_INTERRUPTS();
		do_chore(stream, lfirst(cell), &may_detach);
	}
	report_end(stream);
	tell_applier(stream);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
