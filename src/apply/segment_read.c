/*-------------------------------------------------------------------------
 *
 * segment_read.c
 *	  The identities of a segment in memory: read from its rows, and counted.
 *
 * An identity is in memory as long as some row has it.  Hardly any has two
 * rows, which only others than the applier can make: so the set holds each
 * identity once, and the rows beyond the first are counted beside it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "apply/segment.h"

#define PREFETCHED	  32
#define FIRST_REPEATS 16

/* Rows of an identity beyond the first one. */
typedef struct Repeat
{
	Identity identity; /* hash key */
	int64 rows;
} Repeat;

/* Notes one more row of an identity that has one already. */
static void
add_repeat(const SegmentMap *map, Segment *segment, const Identity *identity)
{
	Repeat *repeat;
	bool found;

	if (segment->repeats == NULL)
	{
		HASHCTL control = {
			.keysize = sizeof(Identity), .entrysize = sizeof(Repeat), .hcxt = map->context};

		segment->repeats = hash_create("detect repeated identities", FIRST_REPEATS, &control,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	repeat = hash_search(segment->repeats, identity, HASH_ENTER, &found);
	repeat->rows = found ? repeat->rows + 1 : 1;
}

/* Takes one such row back; false if the identity has no more than one. */
static bool
remove_repeat(SegmentMap *map, Segment *segment, const Identity *identity)
{
	Repeat *repeat = NULL;

	if (segment->repeats != NULL)
		repeat = hash_search(segment->repeats, identity, HASH_FIND, NULL);
	if (repeat == NULL)
		return false;
	if (--repeat->rows == 0)
		(void) hash_search(segment->repeats, identity, HASH_REMOVE, NULL);
	map->repeats_ended |= hash_get_num_entries(segment->repeats) == 0;
	return true;
}

/*
 * Counts a row into the memory of a segment.
 */
void
segment_add_row(const SegmentMap *map, Segment *segment, const Identity *identity)
{
	if (!identity_set_add(segment->identities, identity))
		add_repeat(map, segment, identity);
}

/*
 * Takes a row out of the memory of a segment: its identity is free once no
 * other row has it.
 */
void
segment_remove_row(SegmentMap *map, Segment *segment, const Identity *identity)
{
	if (!remove_repeat(map, segment, identity))
		(void) identity_set_remove(segment->identities, identity);
}

/*
 * Frees the memory of a segment.
 */
void
segment_forget(Segment *segment)
{
	if (segment->identities != NULL)
		identity_set_destroy(segment->identities);
	if (segment->repeats != NULL)
		hash_destroy(segment->repeats);
	segment->identities = NULL;
	segment->repeats = NULL;
	segment->filenode = InvalidOid;
}

/*
 * Memory that the identities of a segment take.
 */
int64
segment_bytes(const Segment *segment)
{
	int64 bytes = 0;

	if (segment->identities != NULL)
		bytes += identity_set_bytes(segment->identities);
	if (segment->repeats != NULL)
		bytes += hash_estimate_size(hash_get_num_entries(segment->repeats), sizeof(Repeat));
	return bytes;
}

/* The identity of a row; false if a column is NULL, as no element's is. */
static bool
row_identity(const SegmentMap *map, TupleTableSlot *slot, const AttrNumber *attnums,
			 Identity *identity)
{
	Datum values[INDEX_MAX_KEYS];
	int i;

	for (i = 0; i < map->columns->n; i++)
	{
		if (slot->tts_isnull[attnums[i] - 1])
			return false;
		values[i] = slot->tts_values[attnums[i] - 1];
	}
	*identity = identity_hash(map->hasher, values);
	return true;
}

/* Adds the identities of all rows that a scan gives to a segment.  Each waits
 * in a short queue for its place to come from main memory. */
static void
add_rows(const SegmentMap *map, TableScanDesc scan, TupleTableSlot *slot, const AttrNumber *attnums,
		 AttrNumber last_attnum, Segment *segment)
{
	Identity queue[PREFETCHED];
	int queued = 0;
	int i;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getsomeattrs(slot, last_attnum);
		if (!row_identity(map, slot, attnums, &queue[queued]))
			continue;
		identity_set_prefetch(segment->identities, &queue[queued]);
		if (++queued < PREFETCHED)
			continue;
		for (i = 0; i < queued; i++)
			segment_add_row(map, segment, &queue[i]);
		queued = 0;
	}
	for (i = 0; i < queued; i++)
		segment_add_row(map, segment, &queue[i]);
}

/* Makes room for the identities of a relation, about, in one go: for no more than may be
 * in memory, and for none where PostgreSQL has never counted rows. */
static void
expect_identities(Segment *segment, Relation table)
{
	double most = (double) detect_identity_memory_kilobytes * 1024 / sizeof(Identity);
	BlockNumber pages;
	double rows = 0;
	double visible;

	if (RELKIND_HAS_TABLE_AM(table->rd_rel->relkind) && table->rd_rel->reltuples >= 0)
		estimate_rel_size(table, NULL, &pages, &rows, &visible);
	identity_set_expect(segment->identities,
						identity_set_count(segment->identities) + (int64) Min(rows, most));
}

/* Adds the identities of all rows of a relation to a segment. */
static void
read_identities(const SegmentMap *map, Segment *segment, Oid relation, Snapshot snapshot)
{
	Relation table = table_open(relation, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(table, NULL);
	TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL);
	AttrNumber attnums[INDEX_MAX_KEYS];
	AttrNumber last_attnum = 0;
	int i;

	expect_identities(segment, table);
	for (i = 0; i < map->columns->n; i++)
	{
		attnums[i] = get_attnum(relation, map->columns->names[i]);
		last_attnum = Max(last_attnum, attnums[i]);
	}
	add_rows(map, scan, slot, attnums, last_attnum, segment);

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(table, NoLock);
}

/*
 * Reads the identities of a segment into memory, as a snapshot sees them: of a
 * plain table with those that inherit from it.  The caller has locked it since
 * before the snapshot was taken, so that no TRUNCATE came between.  An error
 * leaves the segment to be read again.
 */
void
segment_read(const SegmentMap *map, Segment *segment, Snapshot snapshot)
{
	Relation table = table_open(segment->relation, AccessShareLock);
	List *relations = list_make1_oid(segment->relation);
	ListCell *cell;

	segment_forget(segment);
	segment->must_read = true;
	segment->identities = identity_set_create(map->context);
	if (table->rd_rel->relhassubclass)
		relations = find_all_inheritors(segment->relation, AccessShareLock, NULL);
	foreach(cell, relations)
		read_identities(map, segment, lfirst_oid(cell), snapshot);
	segment->filenode = table->rd_rel->relfilenode;
	segment->must_read = false;
	list_free(relations);
	table_close(table, NoLock);
}
