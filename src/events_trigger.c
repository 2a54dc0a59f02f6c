/*-------------------------------------------------------------------------
 *
 * events_trigger.c
 *	  The triggers of an events table and of its partitions.
 *
 * Statement triggers fire for the table that a statement names: what is done
 * to a partition directly fires the partition's alone.  So the events table
 * and each partition have the same four.  ATTACH and DETACH need none: the
 * applier hears of them from PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "compat.h"
#include "miscadmin.h"
#include "sql.h"
#include "storage/lmgr.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/reltrigger.h"

static const struct
{
	const char *name;
	const char *definition;
} events_triggers[] = {
	{EVENTS_TRIGGER, "INSERT ON %s REFERENCING NEW TABLE AS _detect_new FOR EACH STATEMENT "
					 "EXECUTE FUNCTION detect._accepted()"},
	{"_detect_deleted", "DELETE ON %s REFERENCING OLD TABLE AS _detect_old FOR EACH STATEMENT "
						"EXECUTE FUNCTION detect._edited()"},
	{"_detect_updated",
	 "UPDATE ON %s REFERENCING OLD TABLE AS _detect_old NEW TABLE AS _detect_new "
	 "FOR EACH STATEMENT EXECUTE FUNCTION detect._edited()"},
	{"_detect_truncated", "TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION detect._truncated()"},
};

/*
 * Make those of the triggers that a table lacks.  The current user owns it.
 */
void
events_triggers_make(Oid relation)
{
	char *table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
											 get_rel_name(relation));

	for (int i = 0; i < lengthof(events_triggers); i++)
	{
		const char *name = events_triggers[i].name;

		if (OidIsValid(get_trigger_oid(relation, name, true)))
			continue;
		sql_execute(psprintf("CREATE TRIGGER %s AFTER %s", name,
							 psprintf(events_triggers[i].definition, table)));
		sql_execute(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, name));
	}
}

/*
 * Whether a table has all of the triggers, and none is disabled.  The caller
 * has it open.
 */
bool
events_triggers_watch(Relation table)
{
	const TriggerDesc *triggers = table->trigdesc;
	int found = 0;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		for (int j = 0; j < lengthof(events_triggers); j++)
			found += trigger->tgenabled == TRIGGER_FIRES_ALWAYS &&
					 strcmp(trigger->tgname, events_triggers[j].name) == 0;
	}
	return found == lengthof(events_triggers);
}

/*
 * Whether the current user may make the triggers of a partition.
 */
bool
events_triggers_may_make(Oid partition)
{
	return get_rel_relkind(partition) == RELKIND_RELATION &&
		   compat_owns_relation(partition, GetUserId());
}

/*
 * Make the triggers of an events table and of those of its partitions that
 * the current user owns; the others are read without.
 */
void
stream_make_events_triggers(const Stream *stream)
{
	List *partitions = find_inheritance_children(stream->events_table, AccessShareLock);
	ListCell *cell;

	events_triggers_make(stream->events_table);
	foreach(cell, partitions)
	{
		if (events_triggers_may_make(lfirst_oid(cell)))
			events_triggers_make(lfirst_oid(cell));
	}
}

/* Lock an events table or a partition whose index maintenance may be building,
 * which in its turn waits for our snapshot: it gives up, not we. */
static void
lock_against_maintenance(Oid events_table, Oid relation)
{
	if (ConditionalLockRelationOid(relation, AccessExclusiveLock))
		return;
	slot_end_maintenance(events_table);
	LockRelationOid(relation, AccessExclusiveLock);
}

/* Drop the triggers of one table, as far as they are there. */
static void
drop_triggers(Oid events_table, Oid relation)
{
	lock_against_maintenance(events_table, relation);
	for (int i = 0; i < lengthof(events_triggers); i++)
		stream_drop_object(TriggerRelationId,
						   get_trigger_oid(relation, events_triggers[i].name, true));
}

/*
 * Drop the triggers of a stream's events table and its partitions, as far as
 * they are still there.  The caller has the stream's lock exclusively.
 */
void
stream_drop_events_triggers(Oid events_table)
{
	ListCell *cell;

	if (get_rel_name(events_table) == NULL)
		return;
	/* first the parent, as all others: with it no partition can go */
	drop_triggers(events_table, events_table);
	foreach(cell, find_inheritance_children(events_table, NoLock))
		drop_triggers(events_table, lfirst_oid(cell));
}
