/*-------------------------------------------------------------------------
 *
 * place_table.c
 *	  Is a place table still what it was when places were made of it?
 *
 * What replaces the rows without a trigger, TRUNCATE of a partition, ATTACH, DETACH,
 * changes the files of the table: it is recognized by a fingerprint of these, looked at
 * whenever the place table or one of its partitions is invalidated.  A file that this
 * transaction has made is looked at by each statement: TRUNCATE empties it in place and
 * tells nobody.  Of a materialized view any invalidation counts, for it can be refreshed
 * in place.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "common/hashfn.h"
#include "compat.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Whether the row trigger of a table, or of a partition, fires always.  Each
 * version of the trigger goes into the fingerprint: while it was disabled, or the
 * partition stood alone, nobody told of changes. */
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
		*structure = hash_combine64(*structure, ItemPointerGetBlockNumber(&tuple->t_self));
		*structure = hash_combine64(*structure, ItemPointerGetOffsetNumber(&tuple->t_self));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return fires;
}

/* The place table and its partitions, as of now: under the snapshot of a statement
 * that began earlier, one that is being detached would still be there. */
static List *
find_members(const Locator *locator)
{
	List *members;

	if (locator->relkind != RELKIND_RELATION && locator->relkind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(locator->place_table);
	PushActiveSnapshot(locator_newest_snapshot());
	members = find_all_inheritors(locator->place_table, AccessShareLock, NULL);
	PopActiveSnapshot();
	return members;
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

/* Put the file of a member into the fingerprint, and whether it is empty. */
static void
add_file(Relation rel, uint64 *structure)
{
	*structure = hash_combine64(*structure, RelationGetRelid(rel));
	*structure = hash_combine64(*structure, rel->rd_rel->relfilenode);
	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		*structure = hash_combine64(*structure, RelationGetNumberOfBlocks(rel) == 0);
}

/* See whether the place table of a locator is still what it was; if not, its places are
 * stale. */
static void
look(Locator *locator)
{
	bool has_triggers =
		locator->relkind == RELKIND_RELATION || locator->relkind == RELKIND_PARTITIONED_TABLE;
	int fallback = FALLBACK_NONE;
	bool is_foreign = false;
	uint64 structure = 0;
	List *members;
	ListCell *cell;

	/* first, since it may be invalidated while its partitions are looked for */
	if (locator->nmembers == 0)
		remember_members(locator, list_make1_oid(locator->place_table));
	members = find_members(locator);
	remember_members(locator, members);
	foreach(cell, members)
	{
		Relation rel = relation_open(lfirst_oid(cell), AccessShareLock);

		add_file(rel, &structure);
		locator->is_suspect |= compat_has_new_storage(rel);
		if (has_triggers && !has_trigger(RelationGetRelid(rel), &structure))
			fallback = FALLBACK_TRIGGER;
		/* what changes elsewhere fires no trigger, and each user may see something else */
		is_foreign |= has_triggers && rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE;
		relation_close(rel, AccessShareLock);
	}
	if (locator->relkind == RELKIND_RELATION && list_length(members) > 1)
		fallback = FALLBACK_CHILDREN;
	else if (is_foreign)
		fallback = FALLBACK_FOREIGN;
	/* REFRESH … CONCURRENTLY changes rows in place and fires no trigger */
	if (structure != locator->structure || fallback != FALLBACK_NONE ||
		locator->relkind == RELKIND_MATVIEW)
	{
		locator->is_stale = true;
		locator->is_sparse = false;
		locator_end_transaction_places(locator); /* it may have been this transaction */
	}
	locator->structure = structure;
	locator->table_fallback = fallback;
}

/*
 * If the place table of a locator was invalidated, look at it.  A look that fails,
 * because somebody has it locked for long, is taken again.
 */
void
place_table_look(Locator *locator)
{
	if (!locator->is_suspect)
		return;
	/* first, since it may be invalidated meanwhile */
	locator->is_suspect = false;
	PG_TRY();
	{
		look(locator);
	}
	PG_CATCH();
	{
		locator->is_suspect = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
}
