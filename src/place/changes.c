/*-------------------------------------------------------------------------
 *
 * changes.c
 *	  How every process learns that the places of a locator have changed.
 *
 * A trigger on the place table sends an invalidation of the locators' views at
 * commit, through PostgreSQL's own channel: so it reaches every session and
 * worker, standbys, two-phase commits and rollbacks, and the process itself
 * between two commands.  Nothing else ever changes those views, so ANALYZE and
 * VACUUM of the place table cost no places.  The trigger fires for each row,
 * because logical replication fires no others, and because PostgreSQL gives
 * row triggers to partitions of the present and the future; it looks at nothing
 * and registers once a command.  Which rows have changed is none of its business:
 * each process sees for itself (place_rows.c).
 *
 * A commit that is seen before it has told is change_commit.c's.  What replaces the
 * rows without a trigger is seen by the files: place_table.c.
 *
 * The trigger fires before its row is there.  So as long as a command changes
 * places, what others have triggers look at while it runs is stale at once, and
 * so is what they have left when it ends.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "storage/lmgr.h"
#include "stream.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(detect_place_changed);

/* A place table that this process has changed. */
typedef struct ChangedTable
{
	Oid relid;			  /* hash key */
	uint64 registered_in; /* pending_era when its views were invalidated */
	int nviews;
	Oid *views;
	int ncommands; /* that are changing it now */
} ChangedTable;

/* A command that changes places, as long as it runs: fn_extra of the trigger. */
typedef struct ChangingCommand
{
	Oid relid;
	MemoryContextCallback on_end;
} ChangingCommand;

static HTAB *changed_tables = NULL;
static uint64 pending_era = 1; /* grows when what is registered may be over */
static uint64 own_changes = 0; /* of this process, undone ones too */
static uint64 undone_changes = 0;
static int ncommands = 0; /* of all tables */

static bool
contains_oid(const Oid *oids, int count, Oid wanted)
{
	for (int i = 0; i < count; i++)
	{
		if (oids[i] == wanted)
			return true;
	}
	return false;
}

/* Our own invalidation has been absorbed: the next change needs another. */
static void
note_absorbed(Oid relid)
{
	HASH_SEQ_STATUS status;
	ChangedTable *table;

	if (changed_tables == NULL)
		return;
	hash_seq_init(&status, changed_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || contains_oid(table->views, table->nviews, relid))
			table->registered_in = 0;
	}
}

/* Called for each relation that is invalidated, with InvalidOid for all. */
static void
watch_relation(Datum arg, Oid relid)
{
	ListCell *cell;
	List *all = locator_all();

	foreach(cell, all)
	{
		Locator *locator = lfirst(cell);

		if (!OidIsValid(relid) || relid == locator->view)
		{
			locator->is_stale = true;
			locator->is_loaded = false;
		}
		if (!OidIsValid(relid) || contains_oid(locator->members, locator->nmembers, relid))
			locator->is_suspect = true;
	}
	list_free(all);
	note_absorbed(relid);
}

static void
watch_transaction(XactEvent event, void *arg)
{
	ListCell *cell;

	if (event == XACT_EVENT_PRE_COMMIT)
	{
		locator_forget_dropped();
		if (my_slot)
			locator_publish_stats();
		change_commit_begin();
	}
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	change_commit_forget();
	pending_era++;
	foreach(cell, locator_all())
		locator_end_transaction_places(lfirst(cell));
}

static void
watch_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	pending_era++;
	/* one that has written nothing leaves places as they are */
	if (TransactionIdIsValid(GetCurrentTransactionIdIfAny()))
	{
		own_changes++;
		undone_changes++;
	}
}

/*
 * Begin to learn of changes, before the first locator is loaded or the first
 * place changed.
 */
void
changes_watch(void)
{
	static bool is_watching = false;

	if (is_watching)
		return;
	relation_change_listen(watch_relation);
	RegisterXactCallback(watch_transaction, NULL);
	change_commit_watch();
	RegisterSubXactCallback(watch_subtransaction, NULL);
	is_watching = true;
}

/*
 * A number that grows with each change by this process, and with each that is
 * undone.
 */
uint64
changes_own(void)
{
	return own_changes;
}

/*
 * A number that grows when a part of a transaction is undone that has written something.
 */
uint64
changes_undone(void)
{
	return undone_changes;
}

/* ---------------------------------------------------------------------
 * The trigger
 * ---------------------------------------------------------------------
 */

/* The table that this process changes. */
static ChangedTable *
get_changed_table(Oid relid)
{
	ChangedTable *table;
	bool found;

	if (changed_tables == NULL)
	{
		HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(ChangedTable)};

		changes_watch();
		changed_tables = hash_create("detect changed tables", 16, &control, HASH_ELEM | HASH_BLOBS);
	}
	table = hash_search(changed_tables, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(table, 0, sizeof(ChangedTable));
		table->relid = relid;
	}
	return table;
}

/* Register an invalidation of all locators of a table, once until it has been
 * absorbed. */
static void
register_change(Oid relid)
{
	ChangedTable *table = get_changed_table(relid);
	ListCell *cell;
	List *views;

	if (table->registered_in == pending_era)
		return;
	views = locator_views_of_table(relid);
	table->nviews = 0;
	if (table->views)
		pfree(table->views);
	table->views = MemoryContextAlloc(TopMemoryContext, (list_length(views) + 1) * sizeof(Oid));
	foreach(cell, views)
	{
		CacheInvalidateRelcacheByRelid(lfirst_oid(cell));
		change_commit_note(lfirst_oid(cell));
		table->views[table->nviews++] = lfirst_oid(cell);
	}
	table->registered_in = pending_era;
	own_changes++;
}

/* A command that has changed places is over, or has failed. */
static void
end_command(void *arg)
{
	const ChangingCommand *command = arg;
	ChangedTable *table = get_changed_table(command->relid);

	table->ncommands--;
	ncommands--;
	for (int i = 0; i < table->nviews; i++)
		locator_set_stale(table->views[i]);
	own_changes++;
}

/* A command begins to change places: the memory of its executor tells when it is
 * over. */
static void
begin_command(FmgrInfo *trigger, Oid relid)
{
	ChangingCommand *command = MemoryContextAlloc(trigger->fn_mcxt, sizeof(ChangingCommand));

	command->relid = relid;
	command->on_end.func = end_command;
	command->on_end.arg = command;
	get_changed_table(relid)->ncommands++;
	ncommands++;
	MemoryContextRegisterResetCallback(trigger->fn_mcxt, &command->on_end);
	trigger->fn_extra = command;
}

/* Whether a command changes places of a locator now. */
static bool
is_changing(const Locator *locator)
{
	HASH_SEQ_STATUS status;
	ChangedTable *table;
	bool result = false;

	if (ncommands == 0)
		return false;
	hash_seq_init(&status, changed_tables);
	while ((table = hash_seq_search(&status)) != NULL)
		result |= table->ncommands > 0 && contains_oid(table->views, table->nviews, locator->view);
	return result;
}

/*
 * Trigger on place tables, before each row is inserted, updated or deleted, and
 * before TRUNCATE.
 */
Datum
detect_place_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigdata->tg_event) ||
		TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) == TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		ereport(
			ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("detect._place_changed() must be a BEFORE row trigger, or one of TRUNCATE")));
	if (fcinfo->flinfo->fn_extra == NULL)
		begin_command(fcinfo->flinfo, RelationGetRelid(trigdata->tg_relation));
	register_change(RelationGetRelid(trigdata->tg_relation));
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newtuple
																	   : trigdata->tg_trigtuple);
}

/* Make one trigger, which fires under any session_replication_role. */
static void
make_trigger(Oid place_table, const char *name, bool row, int16 events)
{
	CreateTrigStmt *create = makeNode(CreateTrigStmt);

	if (OidIsValid(get_trigger_oid(place_table, name, true)))
		return;
	/* a partition that has a locator of its own has it */
	create->replace = true;
	create->trigname = pstrdup(name);
	create->funcname = list_make2(makeString(DETECT_SCHEMA), makeString("_place_changed"));
	create->row = row;
	create->timing = TRIGGER_TYPE_BEFORE;
	create->events = events;
	(void) CreateTriggerFiringOn(create, NULL, place_table, InvalidOid, InvalidOid, InvalidOid,
								 InvalidOid, InvalidOid, NULL, false, false, TRIGGER_FIRES_ALWAYS);
	CommandCounterIncrement();
}

/*
 * Have changes of a place table told, as far as it can have triggers.  The
 * caller has the right to make them, or they are there.
 */
void
changes_make_triggers(Oid place_table)
{
	make_trigger(place_table, PLACE_ROW_TRIGGER, true,
				 TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE);
	make_trigger(place_table, PLACE_TRUNCATE_TRIGGER, false, TRIGGER_TYPE_TRUNCATE);
}

/*
 * Wait for whoever changes the rows of a place table just now, and let nobody begin: he
 * would tell the locators alone that there were when he began.
 */
void
changes_lock_table(Oid place_table)
{
	LockRelationOid(place_table, ShareRowExclusiveLock);
	(void) find_all_inheritors(place_table, ShareRowExclusiveLock, NULL);
}

/* What a partition had from its parent is gone; as far as the caller may, it gets its own
 * again if it has a locator. */
static void
remake_triggers_of_partitions(Oid place_table)
{
	ListCell *cell;
	List *partitions = NIL;

	if (get_rel_relkind(place_table) == RELKIND_PARTITIONED_TABLE)
		partitions = find_all_inheritors(place_table, NoLock, NULL);
	foreach(cell, partitions)
	{
		Oid partition = lfirst_oid(cell);

		if (partition != place_table && locator_views_of_table(partition) != NIL &&
			pg_class_aclcheck(partition, GetUserId(), ACL_TRIGGER) == ACLCHECK_OK)
			changes_make_triggers(partition);
	}
}

/*
 * Drop the triggers of a place table that no locator uses any more.
 */
void
changes_drop_triggers(Oid place_table)
{
	if (get_rel_name(place_table) == NULL || locator_views_of_table(place_table) != NIL)
		return;
	/* somebody may be making another locator, which counts on them */
	LockRelationOid(place_table, AccessExclusiveLock);
	if (locator_views_of_table(place_table) != NIL)
		return;
	stream_drop_object(TriggerRelationId, get_trigger_oid(place_table, PLACE_ROW_TRIGGER, true));
	stream_drop_object(TriggerRelationId,
					   get_trigger_oid(place_table, PLACE_TRUNCATE_TRIGGER, true));
	remake_triggers_of_partitions(place_table);
}

/* ---------------------------------------------------------------------
 * Looking
 * ---------------------------------------------------------------------
 */

/*
 * Find out whether the places of a locator are stale, where nobody has said so.
 */
void
changes_look(Locator *locator)
{
	place_table_look(locator);
	if (is_changing(locator))
	{
		locator->is_stale = true;
		own_changes++;
	}
}
