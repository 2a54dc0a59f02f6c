/*-------------------------------------------------------------------------
 *
 * partition_end.c
 *	  A partition past retention is detached and dropped.
 *
 * Its end waits for others for about a second, and is tried again.  A comment
 * marks the partition before it is detached, so that one that was detached and
 * not yet dropped is known for ours.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "fault_point.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply/chore.h"
#include "apply/partition.h"
#include "ingest/worker.h"

/* Whether a relation is still what was detached to be dropped: somebody may have attached
 * it again, or taken its mark off, to keep it.  Nobody can until the end of the
 * transaction. */
static bool
is_detached(Oid relation)
{
	LockRelationOid(relation, AccessExclusiveLock);
	return get_rel_name(relation) != NULL && !get_rel_relispartition(relation) &&
		   chore_is_marked(relation);
}

/*
 * Drops a partition that is detached.  Called outside any transaction.
 */
void
partition_drop(Oid partition, const char *name)
{
	ErrorData *error =
		chore_run_command_if(is_detached, partition, psprintf("DROP TABLE IF EXISTS %s", name),
							 partition_lock_timeout_ms());

	if (error != NULL)
		chore_failed("drop", name, error);
}

/* The way a partition can be detached: concurrently, unless there is a default
 * partition; NULL if the events table is gone. */
static const char *
way_to_detach(Oid events_table)
{
	const char *way = NULL;
	Relation table;

	chore_begin_reading();
	table = try_relation_open(events_table, AccessShareLock);
	if (table != NULL)
	{
		way = OidIsValid(partition_ranges(table)->default_partition) ? "" : "CONCURRENTLY";
		relation_close(table, AccessShareLock);
	}
	chore_end_reading();
	return way;
}

/*
 * Takes the mark off a partition that stays, lest it be dropped when somebody else
 * detaches it.  Called outside any transaction.
 */
void
partition_unmark(const char *name)
{
	ErrorData *error = chore_run_command(psprintf("COMMENT ON TABLE %s IS NULL", name),
										 partition_lock_timeout_ms());

	if (error != NULL)
		chore_failed("uncomment", name, error);
}

/* Sees to a partition that was not detached after all: unless its detach is
 * pending, it is no more marked.  Result tells whether the detach is pending. */
static bool
check_pending(Oid partition, const char *name)
{
	bool is_attached;
	bool is_pending = false;

	chore_begin_reading();
	is_attached = get_rel_relispartition(partition);
	if (is_attached)
		is_pending = partition_is_detaching(partition);
	chore_end_reading();

	if (is_attached && !is_pending)
		partition_unmark(name);
	return is_pending;
}

/*
 * Detaches a partition past retention and drops it.  A detach that was kept
 * waiting is pending, and finished another time; result is false then, as no
 * other partition can be detached until then.  Called outside any transaction.
 */
bool
partition_retire(const Stream *stream, Oid partition, const char *name, bool is_pending)
{
	char *table = chore_read_relation_name(stream->events_table);
	const char *way = is_pending ? "FINALIZE" : way_to_detach(stream->events_table);
	ErrorData *error = NULL;

	if (table == NULL || way == NULL)
		return false;
	if (!is_pending)
		error = chore_run_command(psprintf("COMMENT ON TABLE %s IS %s", name,
										   quote_literal_cstr(PARTITION_RETIRED_COMMENT)),
								  partition_lock_timeout_ms());
	if (error != NULL)
	{
		chore_failed("retire", name, error);
		return true;
	}
	FAULT_POINT("before_detach");
	/* that may have taken long, and what is past retention may not be any more: it is left
	 * to the next run, if there is one */
	AcceptInvalidationMessages();
	if (watch_stale && !is_pending)
	{
		partition_unmark(name);
		worker_follow_definition();
		return true;
	}
	error = chore_run_command(psprintf("ALTER TABLE %s DETACH PARTITION %s %s", table, name, way),
							  partition_lock_timeout_ms());
	if (error != NULL)
	{
		chore_failed("detach", name, error);
		return !check_pending(partition, name);
	}
	FAULT_POINT("before_partition_drop");
	partition_drop(partition, name);
	FAULT_POINT("after_partition_drop");
	return true;
}
