/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  Partial states into the state table of a rollup.
 *
 * Each group of a batch is looked up once, by the unique index on the group
 * columns, and its row is updated or inserted.  INSERT … ON CONFLICT DO UPDATE
 * would do the same, but it has to expect other writers: it locks a row before
 * it updates it, and inserts in two steps, each with a WAL record of its own.
 * The applier is the only writer of a group, beside whoever fills a rollup with groups
 * of other times, so there is nobody to expect; one who changes states by hand at that
 * moment makes the merge fail, and it is tried again.  Groups that are new are written
 * many at a time (heap_rows.c), unless the state table has triggers.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/merge_plan.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/executor.h"
#include "heap_rows.h"
#include "index_key.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* New groups that are written together. */
#define NEW_ROWS 4096

typedef struct NewRows
{
	int count;
	HeapTuple tuples[NEW_ROWS];
	uint32 hashes[NEW_ROWS];
	ItemPointerData tids[NEW_ROWS];
} NewRows;

/* One merge. */
typedef struct Merge
{
	const MergePlan *plan;
	Relation state_table;
	BlockNumber nblocks; /* of the state table, when the merge began; 0: no heap */
	Relation index;
	EState *estate;
	ResultRelInfo *result;
	EPQState epq;
	IndexScanDesc scan;
	ScanKeyData keys[INDEX_MAX_KEYS];	   /* of groups without NULL */
	ScanKeyData null_keys[INDEX_MAX_KEYS]; /* what stands for a key that is NULL */
	TupleTableSlot *partial;
	TupleTableSlot *stored;
	TupleTableSlot *merged;
	ProjectionInfo *projection; /* from stored and partial to merged */
	NewRows *new_rows;			/* NULL: each is inserted at once */
	bool are_new;				/* no group is there */
} Merge;

/* Whether an index is unique on the group columns, NULLs included. */
static bool
is_group_index(const Form_pg_index form, int nkeys)
{
	bool fits = form->indisunique && form->indnullsnotdistinct && form->indimmediate &&
				form->indisvalid && form->indnkeyatts == nkeys;

	for (int i = 0; fits && i < nkeys; i++)
		fits = form->indkey.values[i] == i + 1;
	return fits;
}

/* Open the index by which groups are found: by its lock, that of a writer. */
static Relation
open_group_index(const Rollup *rollup, Relation state_table, int nkeys)
{
	List *indexes = RelationGetIndexList(state_table);
	ListCell *cell;

	foreach(cell, indexes)
	{
		Relation index = index_open(lfirst_oid(cell), RowExclusiveLock);

		if (is_group_index(index->rd_index, nkeys) && RelationGetIndexPredicate(index) == NIL)
			return index;
		index_close(index, RowExclusiveLock);
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("the state table of rollup \"%s\" has no unique index on its groups",
						   rollup->name),
					errhint("Drop the rollup with detect.drop_rollup and create it again.")));
}

/* Prepare the look-up of groups. */
static void
init_keys(Merge *merge)
{
	for (int i = 0; i < merge->plan->nkeys; i++)
	{
		index_key_init(&merge->keys[i], merge->index, i);
		ScanKeyEntryInitialize(&merge->null_keys[i], SK_ISNULL | SK_SEARCHNULL, i + 1,
							   InvalidStrategy, InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
	}
}

/* Begin to merge into a state table; end_merge() ends it. */
static void
begin_merge(Merge *merge, const Rollup *rollup, Relation state_table)
{
	MergePlan *plan = rollup->merge_plan;
	TupleDesc tupdesc = RelationGetDescr(state_table);
	List **slots;

	merge_plan_prepare(plan, rollup, tupdesc);
	merge->plan = plan;
	merge->state_table = state_table;
	if (state_table->rd_tableam == GetHeapamTableAmRoutine())
		merge->nblocks = RelationGetNumberOfBlocks(state_table);
	/* What the batch before has left behind can be pruned once no snapshot is
	 * older.  When this transaction began readers still had such ones; they are
	 * over by now, and this looks again. */
	(void) GetOldestNonRemovableTransactionId(state_table);
	merge->index = open_group_index(rollup, state_table, plan->nkeys);
	init_keys(merge);
	merge->scan =
		compat_index_beginscan(state_table, merge->index, GetActiveSnapshot(), plan->nkeys);

	merge->estate = CreateExecutorState();
	merge->result = makeNode(ResultRelInfo);
	InitResultRelInfo(merge->result, state_table, 0, NULL, 0);
	ExecOpenIndices(merge->result, false);
	compat_eval_plan_qual_init(&merge->epq, merge->estate);
	slots = &merge->estate->es_tupleTable;
	merge->partial = ExecAllocTableSlot(slots, tupdesc, &TTSOpsMinimalTuple);
	merge->merged = ExecAllocTableSlot(slots, tupdesc, &TTSOpsVirtual);
	merge->stored = table_slot_create(state_table, slots);
	merge->projection = ExecBuildProjectionInfo(
		plan->targets, GetPerTupleExprContext(merge->estate), merge->merged, NULL, NULL);
	if (heap_rows_can_write(merge->result))
	{
		merge->new_rows = MemoryContextAlloc(merge->estate->es_query_cxt, sizeof(NewRows));
		merge->new_rows->count = 0;
	}
	AfterTriggerBeginQuery();
}

/* The state table stays locked until the transaction ends. */
static void
end_merge(Merge *merge)
{
	AfterTriggerEndQuery(merge->estate);
	index_endscan(merge->scan);
	EvalPlanQualEnd(&merge->epq);
	ExecCloseIndices(merge->result);
	ExecResetTupleTable(merge->estate->es_tupleTable, false);
	FreeExecutorState(merge->estate);
	index_close(merge->index, NoLock);
}

/* Whether the stored row has the keys of the partial one. */
static bool
has_same_keys(Merge *merge)
{
	int nkeys = merge->plan->nkeys;

	slot_getsomeattrs(merge->stored, nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		bool isnull = merge->partial->tts_isnull[i];

		if (isnull != merge->stored->tts_isnull[i])
			return false;
		if (!isnull && !DatumGetBool(FunctionCall2Coll(
						   &merge->keys[i].sk_func, merge->keys[i].sk_collation,
						   merge->stored->tts_values[i], merge->partial->tts_values[i])))
			return false;
	}
	return true;
}

/* Find the row of the partial slot's group by the index. */
static bool
look_up_group(Merge *merge)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	int nkeys = merge->plan->nkeys;

	for (int i = 0; i < nkeys; i++)
	{
		keys[i] = merge->partial->tts_isnull[i] ? merge->null_keys[i] : merge->keys[i];
		keys[i].sk_argument = merge->partial->tts_values[i];
	}
	index_rescan(merge->scan, keys, nkeys, NULL, 0);
	return index_getnext_slot(merge->scan, ForwardScanDirection, merge->stored);
}

/* Find the row of the partial slot's group. */
static bool
find_group(Merge *merge, uint32 hash)
{
	return (group_rows_fetch(merge->plan->groups, hash, merge->state_table, merge->nblocks,
							 merge->scan->xs_snapshot, merge->stored) &&
			has_same_keys(merge)) ||
		   look_up_group(merge);
}

/* Write the groups that are new so far, and note where they are. */
static void
write_new_rows(Merge *merge)
{
	NewRows *rows = merge->new_rows;

	if (rows == NULL || rows->count == 0)
		return;
	heap_rows_write(merge->result, merge->estate, rows->tuples, rows->count, rows->tids, NULL);
	for (int i = 0; i < rows->count && !merge->are_new; i++)
		group_rows_note(merge->plan->groups, rows->hashes[i], &rows->tids[i]);
	rows->count = 0;
}

/* The group in the partial slot is new. */
static void
insert_group(Merge *merge, uint32 hash)
{
	NewRows *rows = merge->new_rows;
	MemoryContext saved_context;

	if (rows == NULL)
	{
		ExecSimpleRelationInsert(merge->result, merge->estate, merge->partial);
		if (!merge->are_new)
			group_rows_note(merge->plan->groups, hash, &merge->partial->tts_tid);
		return;
	}
	merge->partial->tts_tableOid = RelationGetRelid(merge->state_table);
	if (RelationGetDescr(merge->state_table)->constr)
		ExecConstraints(merge->result, merge->partial, merge->estate);
	saved_context = MemoryContextSwitchTo(merge->estate->es_query_cxt);
	rows->tuples[rows->count] = ExecCopySlotHeapTuple(merge->partial);
	MemoryContextSwitchTo(saved_context);
	rows->hashes[rows->count++] = hash;
	if (rows->count == NEW_ROWS)
		write_new_rows(merge);
}

/* Merge the group in the partial slot. */
static void
merge_group(Merge *merge)
{
	GroupRows *groups = merge->plan->groups;
	ExprContext *context = GetPerTupleExprContext(merge->estate);
	uint32 hash = 0;

	slot_getsomeattrs(merge->partial, merge->plan->nkeys);
	if (!merge->are_new)
		hash = group_rows_hash(groups, merge->partial);
	if (merge->are_new || !find_group(merge, hash))
		insert_group(merge, hash);
	else if (merge->plan->nstates > 0)
	{
		context->ecxt_innertuple = merge->stored;
		context->ecxt_outertuple = merge->partial;
		ExecSimpleRelationUpdate(merge->result, merge->estate, &merge->epq, merge->stored,
								 ExecProject(merge->projection));
		group_rows_note(groups, hash, &merge->merged->tts_tid);
	}
	ResetPerTupleExprContext(merge->estate);
}

/* Raise an error if a crash would empty the states, or has. */
static void
require_logged(const Rollup *rollup, Relation state_table)
{
	if (!RelationIsPermanent(state_table))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("the state table of rollup \"%s\" is not logged", rollup->name),
						errhint("ALTER TABLE " DETECT_STATE_SCHEMA
								".%s SET LOGGED; if the server has crashed "
								"since it was set UNLOGGED, SELECT detect.rebuild_rollup(%s), too.",
								quote_identifier(RelationGetRelationName(state_table)),
								quote_literal_cstr(rollup->name))));
}

/*
 * Merge partial states into the rollup's state table: each group of it is there
 * once.  With are_new the caller knows that none of these groups is there; if one
 * is, an error is raised.
 */
void
merge_partial(const Rollup *rollup, Tuplestorestate *partial, bool are_new)
{
	Merge merge = {.are_new = are_new};
	Relation state_table;

	if (tuplestore_tuple_count(partial) == 0)
		return;
	state_table = table_open(rollup->state_table, RowExclusiveLock);
	require_logged(rollup, state_table);
	/* what this transaction has merged before is to be found */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	begin_merge(&merge, rollup, state_table);
	if (!are_new)
		group_rows_expect(merge.plan->groups, tuplestore_tuple_count(partial));
	while (tuplestore_gettupleslot(partial, true, false, merge.partial))
	{
		CHECK_FOR_INTERRUPTS();
		merge_group(&merge);
	}
	write_new_rows(&merge);
	end_merge(&merge);
	PopActiveSnapshot();
	table_close(state_table, NoLock);
}
