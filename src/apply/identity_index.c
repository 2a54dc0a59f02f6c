/*-------------------------------------------------------------------------
 *
 * identity_index.c
 *	  Looking identities up in a unique index of the events table.
 *
 * Any unique B-tree on exactly the identity's columns will do, in any order,
 * the user's primary key for one.  So will one on the key alone, where the
 * identity is key and event time: it leads to at most one row, whose event
 * time is then compared.  The index must mean by equal what the type means.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "compat.h"
#include "index_key.h"
#include "nodes/bitmapset.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "apply/identity.h"

typedef enum IndexFit
{
	FITS_NOT,
	FITS_KEY_ALONE,
	FITS_IDENTITY
} IndexFit;

struct IndexProbe
{
	MemoryContext context; /* scans keep what they allocate on the way */
	Relation table;
	Relation index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	int event_time; /* position to compare in the row, or -1 */
	AttrNumber event_time_attnum;
	Oid event_time_type;
	int nkeys;
	int positions[INDEX_MAX_KEYS]; /* in the identity, by index column */
	ScanKeyData keys[INDEX_MAX_KEYS];
};

/* Position in the identity of an index column, or -1. */
static int
index_column_position(Relation index, Relation table, int column, const IdentityColumns *columns)
{
	AttrNumber attnum = index->rd_index->indkey.values[column];
	int i;

	if (attnum <= 0)
		return -1;
	for (i = 0; i < columns->n; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(RelationGetDescr(table), attnum - 1)->attname),
				   columns->names[i]) == 0)
			return i;
	}
	return -1;
}

/* Tells whether an index column means by equal what the identity means. */
static bool
index_column_agrees(Relation index, int column, const IdentityColumns *columns, int position)
{
	Oid opcintype = index->rd_opcintype[column];
	Oid collation = index->rd_indcollation[column];
	Oid equality = lookup_type_cache(columns->types[position], TYPECACHE_EQ_OPR)->eq_opr;

	if (get_opfamily_member(index->rd_opfamily[column], opcintype, opcintype,
							BTEqualStrategyNumber) != equality)
		return false;
	return collation == columns->collations[position] ||
		   (get_collation_isdeterministic(collation) &&
			get_collation_isdeterministic(columns->collations[position]));
}

/* Tells how an index fits, be it valid yet or not. */
static IndexFit
index_fit(Relation index, Relation table, const IdentityColumns *columns)
{
	Form_pg_index form = index->rd_index;
	Bitmapset *seen = NULL;
	int i;

	if (!form->indisunique || !form->indimmediate || index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return FITS_NOT;

	for (i = 0; i < form->indnkeyatts; i++)
	{
		int position = index_column_position(index, table, i, columns);

		if (position < 0 || bms_is_member(position, seen) ||
			!index_column_agrees(index, i, columns, position))
			return FITS_NOT;
		seen = bms_add_member(seen, position);
	}

	if (form->indnkeyatts == columns->n)
		return FITS_IDENTITY;
	if (columns->event_time_added && form->indnkeyatts == columns->n - 1 &&
		!bms_is_member(columns->event_time, seen))
		return FITS_KEY_ALONE;
	return FITS_NOT;
}

/*
 * Tells whether an index finds every row.  One built over broken chains of
 * updates doesn't, for snapshots as old as it: *soon says that it will.
 */
static bool
index_is_usable(Relation index, bool *soon)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || !form->indisready || !form->indislive)
		return false;
	if (form->indcheckxmin &&
		!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data),
							   TransactionXmin))
	{
		*soon = true;
		return false;
	}
	return true;
}

/*
 * Finds a unique index of the table in which identities can be looked up, or
 * InvalidOid; then *soon says that there is one, not usable yet.  The caller
 * has the table open, and a snapshot.
 */
Oid
identity_index_find(Relation table, const IdentityColumns *columns, bool *soon)
{
	List *indexes = RelationGetIndexList(table);
	ListCell *cell;
	Oid found = InvalidOid;
	IndexFit found_fit = FITS_NOT;

	*soon = false;
	foreach(cell, indexes)
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);
		IndexFit fit = index_fit(index, table, columns);

		if (fit > found_fit && index_is_usable(index, soon))
		{
			found = lfirst_oid(cell);
			found_fit = fit;
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

/*
 * Tells whether a violation of this index means that an identity is there
 * already: it is one on exactly the identity, valid or just being built.
 */
bool
identity_index_is_ours(Relation table, Oid index_oid, const IdentityColumns *columns)
{
	List *indexes = RelationGetIndexList(table);
	bool ours = false;

	if (list_member_oid(indexes, index_oid))
	{
		Relation index = index_open(index_oid, AccessShareLock);

		ours = index_fit(index, table, columns) == FITS_IDENTITY;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return ours;
}

/*
 * Opens an index found by identity_index_find for lookups.  Result lives in
 * the current context until index_probe_close, or until the current resource
 * owner is released with its transaction aborted.  Since it was found without
 * a lasting lock, it may be gone: then the batch is tried again.
 */
IndexProbe *
index_probe_open(Oid table, Oid index, const IdentityColumns *columns, Snapshot snapshot)
{
	IndexProbe *probe = palloc0_object(IndexProbe);
	bool soon;
	int i;

	probe->context = CurrentMemoryContext;
	probe->table = try_table_open(table, AccessShareLock);
	probe->index = try_relation_open(index, AccessShareLock);
	if (probe->table == NULL || probe->index == NULL || !index_is_usable(probe->index, &soon))
		ereport(
			ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg(
				 "the unique index of a partition was dropped while events were looked up in it")));
	probe->nkeys = probe->index->rd_index->indnkeyatts;
	for (i = 0; i < probe->nkeys; i++)
	{
		probe->positions[i] = index_column_position(probe->index, probe->table, i, columns);
		index_key_init(&probe->keys[i], probe->index, i);
	}

	probe->event_time = -1;
	if (probe->nkeys < columns->n)
	{
		probe->event_time = columns->event_time;
		probe->event_time_attnum = get_attnum(table, columns->names[columns->event_time]);
		probe->event_time_type = columns->types[columns->event_time];
	}

	probe->slot = table_slot_create(probe->table, NULL);
	probe->scan = compat_index_beginscan(probe->table, probe->index, snapshot, probe->nkeys);
	return probe;
}

/* Tells whether the table has a row with these values of the identity. */
bool
index_probe_finds(IndexProbe *probe, const Datum *values)
{
	MemoryContext old = MemoryContextSwitchTo(probe->context);
	bool found;
	int i;

	for (i = 0; i < probe->nkeys; i++)
		probe->keys[i].sk_argument = values[probe->positions[i]];
	index_rescan(probe->scan, probe->keys, probe->nkeys, NULL, 0);
	found = index_getnext_slot(probe->scan, ForwardScanDirection, probe->slot);

	if (found && probe->event_time >= 0)
	{
		bool isnull;
		Datum value = slot_getattr(probe->slot, probe->event_time_attnum, &isnull);

		found = !isnull && partition_time(probe->event_time_type, value) ==
							   partition_time(probe->event_time_type, values[probe->event_time]);
	}
	ExecClearTuple(probe->slot);
	MemoryContextSwitchTo(old);
	return found;
}

/* Ends lookups.  The locks stay until the transaction ends. */
void
index_probe_close(IndexProbe *probe)
{
	index_endscan(probe->scan);
	ExecDropSingleTupleTableSlot(probe->slot);
	index_close(probe->index, NoLock);
	table_close(probe->table, NoLock);
	pfree(probe);
}
