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
 * What replaces the rows without a trigger, TRUNCATE of a partition, ATTACH,
 * DETACH, a refreshed materialized view, changes the files of the table: it is
 * recognized by a fingerprint of these, looked at whenever the place table or
 * one of its partitions is invalidated.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "nodes/value.h"
#include "stream.h"
#include "utils/fmgroids.h"
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
} ChangedTable;

static HTAB *changed_tables = NULL;
static uint64 pending_era = 1; /* grows when what is registered may be over */
static uint64 own_changes = 0; /* of this process, undone ones too */

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
		locator_forget_dropped();
	if (event == XACT_EVENT_PRE_COMMIT && my_slot)
		locator_publish_stats();
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
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
	own_changes++;
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
	CacheRegisterRelcacheCallback(watch_relation, (Datum) 0);
	RegisterXactCallback(watch_transaction, NULL);
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

/* ---------------------------------------------------------------------
 * The trigger
 * ---------------------------------------------------------------------
 */

/* Register an invalidation of all locators of a table, once until it has been
 * absorbed. */
static void
register_change(Oid relid)
{
	ChangedTable *table;
	ListCell *cell;
	List *views;
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
		table->registered_in = 0;
		table->nviews = 0;
		table->views = NULL;
	}
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
		table->views[table->nviews++] = lfirst_oid(cell);
	}
	table->registered_in = pending_era;
	own_changes++;
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
 * Drop the triggers of a place table that no locator uses any more.
 */
void
changes_drop_triggers(Oid place_table)
{
	if (locator_views_of_table(place_table) != NIL)
		return;
	stream_drop_object(TriggerRelationId, get_trigger_oid(place_table, PLACE_ROW_TRIGGER, true));
	stream_drop_object(TriggerRelationId,
					   get_trigger_oid(place_table, PLACE_TRUNCATE_TRIGGER, true));
}

/* ---------------------------------------------------------------------
 * The fingerprint
 * ---------------------------------------------------------------------
 */

/* Whether the row trigger of a table, or of a partition, fires always.  Each
 * version of the trigger goes into the fingerprint: while it was disabled,
 * nobody told of changes. */
static bool
has_trigger(Oid relid, uint64 *structure)
{
	Relation triggers = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	bool fires = false;

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(PLACE_ROW_TRIGGER));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 2, keys);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		fires = ((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled == TRIGGER_FIRES_ALWAYS;
		*structure = hash_combine64(*structure, HeapTupleHeaderGetRawXmin(tuple->t_data));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return fires;
}

/* The place table and its partitions. */
static List *
find_members(const Locator *locator)
{
	if (locator->relkind == RELKIND_RELATION || locator->relkind == RELKIND_PARTITIONED_TABLE)
		return find_all_inheritors(locator->place_table, AccessShareLock, NULL);
	return list_make1_oid(locator->place_table);
}

static void
remember_members(Locator *locator, List *members)
{
	ListCell *cell;

	locator->nmembers = 0;
	if (locator->members)
		pfree(locator->members);
	locator->members = NULL;
	locator->members =
		MemoryContextAlloc(TopMemoryContext, (list_length(members) + 1) * sizeof(Oid));
	foreach(cell, members)
		locator->members[locator->nmembers++] = lfirst_oid(cell);
}

/*
 * If the place table was invalidated, see whether it is still what it was; if
 * not, its places are stale.
 */
void
changes_look(Locator *locator)
{
	bool has_triggers =
		locator->relkind == RELKIND_RELATION || locator->relkind == RELKIND_PARTITIONED_TABLE;
	uint64 structure = 0;
	List *members;
	ListCell *cell;

	if (!locator->is_suspect)
		return;
	locator->is_suspect = false;
	locator->table_fallback = FALLBACK_NONE;
	members = find_members(locator);
	remember_members(locator, members);
	foreach(cell, members)
	{
		Relation rel = relation_open(lfirst_oid(cell), AccessShareLock);

		structure = hash_combine64(structure, RelationGetRelid(rel));
		structure = hash_combine64(structure, rel->rd_rel->relfilenode);
		if (has_triggers && !has_trigger(RelationGetRelid(rel), &structure))
			locator->table_fallback = FALLBACK_TRIGGER;
		relation_close(rel, AccessShareLock);
	}
	if (locator->relkind == RELKIND_RELATION && list_length(members) > 1)
		locator->table_fallback = FALLBACK_CHILDREN;
	if (structure != locator->structure || locator->table_fallback != FALLBACK_NONE)
	{
		locator->is_stale = true;
		locator->is_sparse = false;
		locator_end_transaction_places(locator); /* it may have been this transaction */
	}
	locator->structure = structure;
}
