/*-------------------------------------------------------------------------
 *
 * group_row.c
 *	  Where the rows of groups are that were merged last.
 *
 * The groups of a batch are mostly those of the batch before: their rows are
 * found at once, without the way through the index.
 *
 * What is kept is a guess: nothing is told of rollbacks, of VACUUM, or of what
 * others do.  A row that is found by it counts only if the snapshot sees it and
 * its keys are those of the group; else the caller asks the index.  Since of the
 * versions of a row a snapshot sees one, and the keys are unique, there can be
 * no other.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/group_row.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "common/hashfn.h"
#include "port/pg_bitutils.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

/* Groups beyond that take the place of others: of those that were merged longest
 * ago among the few that share a set, which lie in one cache line. */
#define MAX_GROUPS 65536
#define SET_ROWS   4

/* A group and where its row was. */
typedef struct GroupRow
{
	uint32 hash;
	ItemPointerData tid;
} GroupRow;

struct GroupRows
{
	MemoryContext context;
	int nkeys;
	FmgrInfo *hash_functions; /* NULL: a type of the keys has none */
	Oid *collations;
	uint32 size;			  /* a power of two */
	GroupRow *rows;			  /* sets, of each the row that was merged last first */
	BlockNumber pruned_block; /* the last one */
};

/*
 * Make an empty memory of the rows of a table whose first nkeys columns are the
 * keys.  It lives as long as the current context.
 */
GroupRows *
group_rows_create(TupleDesc tupdesc, int nkeys)
{
	GroupRows *groups = palloc0(sizeof(GroupRows));

	groups->context = CurrentMemoryContext;
	groups->pruned_block = InvalidBlockNumber;
	groups->nkeys = nkeys;
	groups->hash_functions = palloc(nkeys * sizeof(FmgrInfo));
	groups->collations = palloc(nkeys * sizeof(Oid));
	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute column = TupleDescAttr(tupdesc, i);
		TypeCacheEntry *type = lookup_type_cache(column->atttypid, TYPECACHE_HASH_PROC);

		groups->collations[i] = column->attcollation;
		if (!OidIsValid(type->hash_proc))
		{
			groups->hash_functions = NULL;
			return groups;
		}
		fmgr_info_cxt(type->hash_proc, &groups->hash_functions[i], groups->context);
	}
	return groups;
}

/*
 * Begin with a batch: make room for its groups.
 */
void
group_rows_expect(GroupRows *groups, int64 ngroups)
{
	uint32 size = pg_nextpower2_32((uint32) Min(Max(ngroups * 2, SET_ROWS), MAX_GROUPS));

	groups->pruned_block = InvalidBlockNumber;
	if (groups->hash_functions == NULL || size <= groups->size)
		return;
	if (groups->rows)
		pfree(groups->rows);
	groups->rows = MemoryContextAllocZero(groups->context, size * sizeof(GroupRow));
	groups->size = size;
}

/*
 * The hash of the group whose keys a slot has.
 */
uint32
group_rows_hash(const GroupRows *groups, const TupleTableSlot *slot)
{
	uint32 hash = 0;

	if (groups->hash_functions == NULL)
		return 0;
	for (int i = 0; i < groups->nkeys; i++)
	{
		uint32 key =
			slot->tts_isnull[i]
				? 0
				: DatumGetUInt32(FunctionCall1Coll(&groups->hash_functions[i],
												   groups->collations[i], slot->tts_values[i]));

		hash = hash_combine(hash, key);
	}
	return murmurhash32(hash);
}

/* The rows among which that of a hash is. */
static GroupRow *
set_of(const GroupRows *groups, uint32 hash)
{
	return &groups->rows[(hash & (groups->size / SET_ROWS - 1)) * SET_ROWS];
}

/* What was noted for a hash; NULL: nothing. */
static GroupRow *
find_row(const GroupRows *groups, uint32 hash)
{
	GroupRow *set;

	if (groups->size == 0)
		return NULL;
	set = set_of(groups, hash);
	for (int i = 0; i < SET_ROWS; i++)
	{
		if (set[i].hash == hash && ItemPointerIsValid(&set[i].tid))
			return &set[i];
	}
	return NULL;
}

/* Make room in a page, as scans do and the fetch of a single row does not; with
 * none, the next version of the row would go elsewhere, and into the index. */
static void
prune_page(GroupRows *groups, Relation table, BlockNumber block)
{
	Buffer buffer;

	if (groups->pruned_block == block)
		return;
	groups->pruned_block = block;
	buffer = ReadBuffer(table, block);
	heap_page_prune_opt(table, buffer);
	ReleaseBuffer(buffer);
}

/*
 * Fetch the row that was noted for a hash, if the snapshot sees it.  nblocks is
 * the length of the table, a heap, which must not shrink meanwhile.  The caller
 * checks the keys.
 */
bool
group_rows_fetch(GroupRows *groups, uint32 hash, Relation table, BlockNumber nblocks,
				 Snapshot snapshot, TupleTableSlot *slot)
{
	GroupRow *row = find_row(groups, hash);

	/* its row may move within the page */
	ExecClearTuple(slot);
	if (row == NULL || ItemPointerGetBlockNumber(&row->tid) >= nblocks)
		return false;
	prune_page(groups, table, ItemPointerGetBlockNumber(&row->tid));
	return table_tuple_fetch_row_version(table, &row->tid, snapshot, slot);
}

/*
 * Note where the row of a group is.
 */
void
group_rows_note(GroupRows *groups, uint32 hash, const ItemPointerData *tid)
{
	GroupRow *set;
	int last;

	if (groups->size == 0)
		return;
	set = set_of(groups, hash);
	for (last = 0; last < SET_ROWS - 1 && set[last].hash != hash; last++)
		;
	memmove(set + 1, set, last * sizeof(GroupRow));
	set->hash = hash;
	set->tid = *tid;
}
