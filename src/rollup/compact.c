/*-------------------------------------------------------------------------
 *
 * compact.c
 *	  The state table of a rollup shrinks again after it has grown.
 *
 * While somebody holds an old snapshot, no version of a group's row can go, and
 * the table grows with each batch.  VACUUM frees that room later, but gives back
 * only what is at the end, and there are rows there.  So the applier moves rows
 * from the end to the front, some at a time, between two batches, and then asks
 * maintenance for a VACUUM that cuts off what is left.
 *
 * A row moves in one transaction: it is deleted, and written again in a page
 * with room.  So a reader sees one of the two, whatever its snapshot.  The
 * applier is the only writer of a state table; a row that somebody else has
 * locked or changes at that moment stays where it is.
 *
 * What is free is read off the free space map, which is VACUUM's word, so
 * nothing begins while an old snapshot is held.  Pages that were emptied are
 * taken off the map, so that nobody writes there; some free ones before them
 * stay, or the next rows would make the table longer.  VACUUM puts a page on the
 * map again, but passes over one that it knows to be all visible: such pages are
 * looked at themselves.  A pass that is interrupted is not taken up again; the
 * next look begins another.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "apply/applier.h"
#include "executor/executor.h"
#include "fault_point.h"
#include "heap_rows.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* VACUUM cuts off nothing smaller than 1000 blocks, or a sixteenth. */
#define LEAST_BLOCKS 1024

/* A table is compacted when it is so many times as large as it need be, and is
 * so many times as large afterwards. */
#define MOST_TIMES	 1.7
#define TARGET_TIMES 1.2

/* Looks that are left out before VACUUM has cut off something. */
#define REST_LOOKS 10

/* A look reads the free space of so many blocks, evenly spread. */
#define LOOK_BLOCKS 4096

/* What one step reads and moves, about. */
#define STEP_BLOCKS 64
#define STEP_ROWS	1000

/* What one step works on. */
typedef struct CompactStep
{
	Rollup *rollup;
	BlockNumber begin; /* as in RollupSet */
	BlockNumber end;
	BlockNumber target;
	Relation table;
	EState *estate;
	ResultRelInfo *result;
	Size reserve; /* room on each page that is left to updates */
	int blocks;	  /* that were read */
	int rows;	  /* that were moved */
} CompactStep;

/* Whether rows are left to be moved. */
static bool
are_more(const CompactStep *step)
{
	return step->end > step->target && step->end > step->begin + 1;
}

/* The room for rows on a page, with what is left to updates. */
static Size
room_on_page(Relation table, BlockNumber block)
{
	Buffer buffer = ReadBuffer(table, block);
	Size room;

	heap_page_prune_opt(table, buffer);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	room = PageGetHeapFreeSpace(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	return room;
}

/* How many blocks a table would have if its pages were filled as they should be. */
static double
needed_blocks(Relation table, BlockNumber nblocks)
{
	BlockNumber stride = nblocks / LOOK_BLOCKS + 1;
	Buffer visibility = InvalidBuffer;
	double used = 0; /* pages */
	int looked = 0;

	for (BlockNumber block = 0; block < nblocks; block += stride)
	{
		Size room = GetRecordedFreeSpace(table, block);

		if (room == 0 && VM_ALL_VISIBLE(table, block, &visibility))
			room = room_on_page(table, block);
		used += 1 - (double) room / BLCKSZ;
		looked++;
	}
	if (BufferIsValid(visibility))
		ReleaseBuffer(visibility);
	return used / looked * nblocks * 100 / RelationGetFillFactor(table, HEAP_DEFAULT_FILLFACTOR);
}

/* Begin with a table if it is worth while. */
static void
begin_compaction(CompactStep *step, BlockNumber nblocks)
{
	Rollup *rollup = step->rollup;
	double needed;

	if (nblocks == rollup->compacted_blocks && rollup->compact_rest-- > 0)
		return;
	rollup->compacted_blocks = 0;
	if (nblocks < LEAST_BLOCKS)
		return;
	needed = needed_blocks(step->table, nblocks);
	if (needed * MOST_TIMES >= nblocks)
		return;
	step->target = (BlockNumber) (needed * TARGET_TIMES) + 1;
	step->end = nblocks;
	rollup->compacted_blocks = nblocks;
	rollup->compact_rest = REST_LOOKS;
}

/* The rows of a page that the snapshot sees. */
static int
read_rows(const CompactStep *step, BlockNumber block, HeapTuple *tuples)
{
	TupleTableSlot *slot = table_slot_create(step->table, NULL);
	ItemPointerData first;
	ItemPointerData last;
	TableScanDesc scan;
	int count = 0;

	ItemPointerSet(&first, block, FirstOffsetNumber);
	ItemPointerSet(&last, block, MaxOffsetNumber);
	scan = table_beginscan_tidrange(step->table, GetActiveSnapshot(), &first, &last);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
		tuples[count++] = ExecCopySlotHeapTuple(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return count;
}

/* Delete a row where it is; false when somebody else is at it. */
static bool
delete_row(const CompactStep *step, HeapTuple tuple)
{
	TM_FailureData failure;

	return table_tuple_delete(step->table, &tuple->t_self, GetCurrentCommandId(true),
							  GetActiveSnapshot(), InvalidSnapshot, false, &failure,
							  false) == TM_Ok;
}

/*
 * Move as many of the rows as a page has room for.  The result is how many were
 * dealt with: moved, or left because somebody else is at them.
 */
static int
move_to_page(CompactStep *step, BlockNumber block, HeapTuple *tuples, int ntuples)
{
	HeapTuple moved[MaxHeapTuplesPerPage];
	Size room = room_on_page(step->table, block);
	int count = 0;
	int done = 0;

	for (; done < ntuples; done++)
	{
		Size needed = MAXALIGN(tuples[done]->t_len) + sizeof(ItemIdData);

		if (room < needed + step->reserve)
			break;
		if (!delete_row(step, tuples[done]))
			continue;
		room -= needed;
		moved[count++] = tuples[done];
	}
	if (count > 0)
	{
		RelationSetTargetBlock(step->table, block);
		heap_rows_write(step->result, step->estate, moved, count, NULL, NULL);
		step->rows += count;
	}
	/* who looks for room shall not come here in vain */
	if (done < ntuples)
		RecordPageWithFreeSpace(step->table, block, room);
	return done;
}

/* Move the rows of the last page that is not empty to the first ones with room,
 * and lower the end, unless this step has done enough. */
static void
move_last_page(CompactStep *step)
{
	HeapTuple tuples[MaxHeapTuplesPerPage];
	BlockNumber block = step->end - 1;
	int ntuples = read_rows(step, block, tuples);
	int done = 0;

	step->blocks++;
	while (done < ntuples && step->begin < block && step->blocks < STEP_BLOCKS)
	{
		done += move_to_page(step, step->begin, tuples + done, ntuples - done);
		if (done < ntuples)
		{
			step->begin++;
			step->blocks++;
		}
	}
	if (done < ntuples)
		return;
	RecordPageWithFreeSpace(step->table, block, 0);
	step->end = block;
}

/* Move some rows. */
static void
move_rows(CompactStep *step)
{
	while (are_more(step) && step->blocks < STEP_BLOCKS && step->rows < STEP_ROWS)
	{
		CHECK_FOR_INTERRUPTS();
		move_last_page(step);
	}
}

/* Move some rows of a table that can be written to as we do; one with triggers
 * is left alone. */
static void
try_to_move_rows(CompactStep *step)
{
	const TriggerDesc *triggers;

	step->estate = CreateExecutorState();
	step->result = makeNode(ResultRelInfo);
	InitResultRelInfo(step->result, step->table, 0, NULL, 0);
	triggers = step->result->ri_TrigDesc;
	if (heap_rows_can_write(step->result) &&
		!(triggers && (triggers->trig_delete_before_row || triggers->trig_delete_after_row)))
	{
		step->reserve = RelationGetTargetPageFreeSpace(step->table, HEAP_DEFAULT_FILLFACTOR);
		ExecOpenIndices(step->result, false);
		PushActiveSnapshot(GetTransactionSnapshot());
		move_rows(step);
		PopActiveSnapshot();
		ExecCloseIndices(step->result);
	}
	else
		step->end = 0;
	FreeExecutorState(step->estate);
}

/* Begin with a state table if it is worth while, or go on with it. */
static void
compact_step(void *arg)
{
	CompactStep *step = (CompactStep *) arg;
	BlockNumber nblocks;

	if (ConditionalLockRelationOid(step->rollup->state_table, RowExclusiveLock))
		step->table = try_table_open(step->rollup->state_table, NoLock);
	if (step->table == NULL)
	{
		step->end = 0;
		return;
	}
	nblocks = RELKIND_HAS_STORAGE(step->table->rd_rel->relkind)
				  ? RelationGetNumberOfBlocks(step->table)
				  : 0;
	if (step->end == 0)
		begin_compaction(step, nblocks);
	/* VACUUM may have cut off something meanwhile */
	step->end = Min(step->end, nblocks);
	if (are_more(step))
	{
		try_to_move_rows(step);
		FAULT_POINT("after_row_move");
	}
	table_close(step->table, NoLock);
}

/*
 * Move some rows of the state tables that are much larger than they need be, one
 * table after the other, in a transaction of the caller, under the stream's
 * lock, between two batches.  The result tells whether there is more to move;
 * else all have been looked at.
 */
bool
rollup_set_compact(RollupSet *set)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "detect rollup compaction",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext saved_context = MemoryContextSwitchTo(context);

	for (; set->compact_next < set->nrollups; set->compact_next++)
	{
		Rollup *rollup = &set->rollups[set->compact_next];
		CompactStep step = {.rollup = rollup,
							.begin = set->compact_begin,
							.end = set->compact_end,
							.target = set->compact_target};
		ErrorData *error;

		/* a worker may be adding to it */
		if (rollup->phase == ROLLUP_FILLING)
			continue;
		error = aside_try(compact_step, &step, true);
		set->compact_begin = set->compact_end = 0;
		if (error != NULL)
			ereport(LOG, (errcode(error->sqlerrcode),
						  errmsg("could not move states of rollup \"%s\": %s", rollup->name,
								 failure_message_for_log(error))));
		else if (are_more(&step))
		{
			set->compact_begin = step.begin;
			set->compact_end = step.end;
			set->compact_target = step.target;
			break;
		}
	}
	MemoryContextSwitchTo(saved_context);
	MemoryContextDelete(context);
	if (set->compact_end > 0)
		return true;
	set->compact_next = 0;
	return false;
}

/*
 * The state tables that have been compacted and that VACUUM has not cut off yet,
 * in the current context.
 */
List *
rollup_states_to_vacuum(const RollupSet *set)
{
	List *tables = NIL;

	for (int i = 0; i < set->nrollups; i++)
	{
		const Rollup *rollup = &set->rollups[i];

		if (rollup->compacted_blocks > 0 && !(set->compact_end > 0 && i == set->compact_next))
			tables = lappend_oid(tables, rollup->state_table);
	}
	return tables;
}
