/*-------------------------------------------------------------------------
 *
 * place_rows.c
 *	  Places made of the rows of a place table, and only of those that changed.
 *
 * Nobody writes down which rows have changed.  A process remembers from which
 * version of which row it has made each place: where that row lies in which file,
 * and which transaction wrote it.  After a change it goes over the rows that its
 * new snapshot sees, in their physical order, and looks at nothing but that:
 * versions that it knows keep their places, others are made into places, and
 * known ones that were not met are gone.  So what it has is what the snapshot
 * sees, in whatever order transactions have committed, were prepared or rolled
 * back, on a standby and under replication too, and whether or not triggers have
 * told of each row; writers pay nothing.  To pass a row takes far less than to
 * build a place.
 *
 * The rule that makes it right: in one file, two rows that were ever visible at
 * one position are versions of different transactions.  For VACUUM and pruning
 * give a position away only when the transaction that wrote there is over; what
 * a transaction itself takes back at once, when ON CONFLICT finds another row,
 * no snapshot has seen.  Four things would break it, and have all places made
 * again: other files (TRUNCATE, CLUSTER, a rewritten or another partition); a
 * file made or emptied in this transaction, which TRUNCATE then empties in place;
 * a definition that was written again (detect.refresh_locator); and transaction
 * numbers that may have come round.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place_rows.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* So many transactions may pass before their numbers come round, by far. */
#define LAST_AGE ((uint64) 1 << 30)

#define ROWS_PER_CHECK 512

/* With so many more rows than places, an index finds them faster. */
#define SPARSE		100
#define SPARSE_ROWS 10000

/* Rows that are being read. */
typedef struct RowReader
{
	Locator *locator;
	Places *places;
	bool is_update;
	Size limit; /* of the bytes that places may take */
	PlaceExpressions *expressions;
	List *relations; /* the members, open */

	/* The versions that are known, in order, and how far they have been met. */
	const RowVersion *known;
	int nknown;
	int at;

	/* Those that are there. */
	RowVersion *versions;
	int count;
	int capacity;
} RowReader;

/* ---------------------------------------------------------------------
 * The place table and its partitions
 * ---------------------------------------------------------------------
 */

/* Whether versions of rows can be told apart in a relation, if it has rows. */
static bool
has_versions(Relation rel)
{
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return true;
	return rel->rd_rel->relkind == RELKIND_RELATION &&
		   rel->rd_tableam == GetHeapamTableAmRoutine() && !compat_has_new_storage(rel);
}

/* Whether rows can be read without the planner, which computes some columns. */
static bool
has_stored_columns(Relation rel)
{
	TupleDesc tupdesc = RelationGetDescr(rel);

	for (int i = 0; i < tupdesc->natts; i++)
	{
		char generated = TupleDescAttr(tupdesc, i)->attgenerated;

		if (generated != '\0' && generated != ATTRIBUTE_GENERATED_STORED)
			return false;
	}
	return true;
}

/* Close the members; their locks are kept, as those of a query are. */
static void
close_members(List *relations)
{
	ListCell *cell;

	foreach(cell, relations)
		table_close(lfirst(cell), NoLock);
	list_free(relations);
}

/* Open the place table and its partitions; NIL when versions of their rows can't
 * be told apart. */
static List *
open_members(const Locator *locator)
{
	List *relations = NIL;
	bool can_read = true;
	ListCell *cell;

	if (locator->relkind != RELKIND_RELATION && locator->relkind != RELKIND_PARTITIONED_TABLE)
		return NIL;
	LockRelationOid(locator->place_table, AccessShareLock);
	foreach(cell, find_all_inheritors(locator->place_table, AccessShareLock, NULL))
	{
		Relation rel = relation_open(lfirst_oid(cell), NoLock);

		relations = lappend(relations, rel);
		can_read &= has_versions(rel) && has_stored_columns(rel);
	}
	if (can_read && list_length(relations) <= PG_UINT16_MAX)
		return relations;
	close_members(relations);
	return NIL;
}

static void
remember_members(Places *places, List *relations)
{
	places->nmembers = list_length(relations);
	places->members = places_alloc(places, places->nmembers * sizeof(RowMember));
	for (int i = 0; i < places->nmembers; i++)
	{
		Relation rel = list_nth(relations, i);

		places->members[i] = (RowMember){RelationGetRelid(rel), rel->rd_rel->relfilenode};
	}
}

/* Whether the members are the files that places were made from. */
static bool
are_same_members(const Places *places, List *relations)
{
	if (places->nmembers != list_length(relations))
		return false;
	for (int i = 0; i < places->nmembers; i++)
	{
		Relation rel = list_nth(relations, i);

		if (places->members[i].relid != RelationGetRelid(rel) ||
			places->members[i].relfilenode != rel->rd_rel->relfilenode)
			return false;
	}
	return true;
}

/* ---------------------------------------------------------------------
 * Rows
 * ---------------------------------------------------------------------
 */

/* Keep what decides on the order of a place that was made of the current row. */
static void
keep_order(RowReader *reader, ExprContext *context, int index)
{
	Places *places = reader->places;

	for (int i = 0; i < places->norder; i++)
	{
		const OrderExpression *order = &reader->expressions->order[i];
		NullableDatum value = {places->places[index].key, false};

		if (order->state)
			value.value = ExecEvalExpr(order->state, context, &value.isnull);
		if (order->state && !value.isnull)
			value.value = places_copy(places, value.value, order->by_value, order->length);
		places->order[(Size) index * places->norder + i] = value;
	}
}

/* Make the row in a slot a place; NO_PLACE when it is none. */
static int
take_row(RowReader *reader, TupleTableSlot *slot)
{
	const PlaceExpressions *expressions = reader->expressions;
	ExprContext *context = GetPerTupleExprContext(expressions->estate);
	MemoryContext caller_context;
	int index = NO_PLACE;

	ResetExprContext(context);
	context->ecxt_scantuple = slot;
	caller_context = MemoryContextSwitchTo(context->ecxt_per_tuple_memory);
	if (ExecQual(expressions->condition, context))
	{
		bool has_no_key;
		bool has_no_place;
		Datum key = ExecEvalExpr(expressions->key, context, &has_no_key);
		Datum place = ExecEvalExpr(expressions->place, context, &has_no_place);

		/* the view leaves these out, unless its owner has changed it */
		if (!has_no_key && !has_no_place)
		{
			index = places_add_row(reader->locator, reader->places, key, place);
			keep_order(reader, context, index);
		}
	}
	MemoryContextSwitchTo(caller_context);
	return index;
}

/* Remember a version that is there. */
static void
remember(RowReader *reader, const RowVersion *version)
{
	if (reader->count == reader->capacity)
	{
		reader->capacity += Max(reader->capacity / 2, ROWS_PER_CHECK);
		reader->versions =
			repalloc_huge(reader->versions, (Size) reader->capacity * sizeof(RowVersion));
	}
	reader->versions[reader->count++] = *version;
}

/* Where a version lies, compared with another one. */
static inline int
compare_positions(const RowVersion *left, const RowVersion *right)
{
	if (left->member != right->member)
		return left->member < right->member ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid, (ItemPointer) &right->tid);
}

/* The next known version was not met. */
static void
lose_known(RowReader *reader)
{
	int place = reader->known[reader->at++].place;

	if (place != NO_PLACE)
		places_remove(reader->places, place);
}

/* Meet a version: true when it is known, else the caller makes a place of it. */
static inline bool
meet(RowReader *reader, RowVersion *version)
{
	int position = -1;

	while (reader->at < reader->nknown &&
		   (position = compare_positions(&reader->known[reader->at], version)) < 0)
		lose_known(reader);
	if (reader->at == reader->nknown || position > 0)
		return false;
	if (reader->known[reader->at].xmin != version->xmin)
	{
		lose_known(reader);
		return false;
	}
	version->place = reader->known[reader->at++].place;
	return true;
}

/* Whether it is worth while to read on. */
static bool
may_go_on(RowReader *reader)
{
	const Places *places = reader->places;

	CHECK_FOR_INTERRUPTS();
	if (reader->is_update && places_are_worn(places))
		return false;
	if (!reader->is_update && reader->count > SPARSE_ROWS + SPARSE * (int64) places->count)
	{
		reader->locator->is_sparse = true;
		return false;
	}
	return places_bytes(places) <= reader->limit;
}

/* Read the rows of one member that a snapshot sees; false when it was not worth
 * while. */
static bool
read_member(RowReader *reader, int member, Snapshot snapshot)
{
	Relation rel = list_nth(reader->relations, member);
	Relation table = linitial(reader->relations);
	TupleConversionMap *map =
		convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(table));
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	TupleTableSlot *as_table = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsVirtual);
	/* from the first block on, wherever others are reading */
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	HeapTuple tuple;
	bool go_on = true;

	while (go_on && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		RowVersion version = {.tid = tuple->t_self,
							  .member = member,
							  .xmin = HeapTupleHeaderGetRawXmin(tuple->t_data)};

		if (!meet(reader, &version))
		{
			ExecStoreHeapTuple(tuple, slot, false);
			version.place =
				take_row(reader, map ? execute_attr_map_slot(map->attrMap, slot, as_table) : slot);
		}
		remember(reader, &version);
		if (reader->count % ROWS_PER_CHECK == 0)
			go_on = may_go_on(reader);
	}
	ExecDropSingleTupleTableSlot(slot);
	ExecDropSingleTupleTableSlot(as_table);
	table_endscan(scan);
	return go_on;
}

/* Read all rows that a snapshot sees; false when it was not worth while. */
static bool
read_rows(RowReader *reader, Snapshot snapshot)
{
	int first = reader->places->count;

	reader->capacity = reader->nknown + ROWS_PER_CHECK;
	reader->versions = MemoryContextAllocHuge(reader->places->context,
											  (Size) reader->capacity * sizeof(RowVersion));
	for (int member = 0; member < list_length(reader->relations); member++)
	{
		Relation rel = list_nth(reader->relations, member);

		if (rel->rd_rel->relkind == RELKIND_RELATION && !read_member(reader, member, snapshot))
			return false;
	}
	while (reader->at < reader->nknown)
		lose_known(reader);
	places_rank(reader->places, reader->expressions->sort, first);
	return may_go_on(reader);
}

/* Keep what was read, for the next update. */
static void
keep_versions(const RowReader *reader, Snapshot snapshot)
{
	Places *places = reader->places;

	if (places->versions)
		pfree(places->versions);
	places->versions = reader->versions;
	places->nversions = reader->count;
	places->read_at = ReadNextFullTransactionId();
	places->definition = reader->locator->definition;
	places->horizon = snapshot->xmax;
}

/*
 * Make places of all rows that a snapshot sees, in the current memory context.
 * The caller finishes or frees them.  False when they take more bytes than the
 * limit.  NULL places when only the view can tell.
 */
bool
places_read_rows(Locator *locator, Snapshot snapshot, Size limit, Places **places)
{
	RowReader reader = {.locator = locator, .limit = limit};
	bool is_complete = false;

	*places = NULL;
	reader.relations = locator->is_sparse ? NIL : open_members(locator);
	reader.expressions = reader.relations ? place_expressions_begin(locator) : NULL;
	if (reader.expressions)
	{
		*places = reader.places = places_create(locator->globe);
		reader.places->norder = reader.expressions->norder;
		is_complete = read_rows(&reader, snapshot);
		if (is_complete)
		{
			remember_members(reader.places, reader.relations);
			keep_versions(&reader, snapshot);
		}
		place_expressions_end(reader.expressions);
	}
	close_members(reader.relations);
	if (locator->is_sparse && reader.places)
	{
		MemoryContextDelete(reader.places->context);
		*places = NULL;
	}
	return is_complete;
}

/*
 * Bring places from the snapshot that they were made from to another one.  False
 * when they had better be made again; then they are of no use any more.
 */
bool
places_update_rows(Locator *locator, Snapshot snapshot, Size limit, Places *places)
{
	RowReader reader = {.locator = locator,
						.places = places,
						.is_update = true,
						.limit = limit,
						.known = places->versions,
						.nknown = places->nversions};
	bool is_complete = false;

	if (places->versions == NULL || places->definition != locator->definition ||
		U64FromFullTransactionId(ReadNextFullTransactionId()) -
				U64FromFullTransactionId(places->read_at) >
			LAST_AGE)
		return false;
	reader.relations = open_members(locator);
	if (reader.relations != NIL && are_same_members(places, reader.relations) &&
		(reader.expressions = place_expressions_begin(locator)) != NULL)
	{
		is_complete = read_rows(&reader, snapshot);
		if (is_complete)
			keep_versions(&reader, snapshot);
		place_expressions_end(reader.expressions);
	}
	close_members(reader.relations);
	return is_complete;
}
