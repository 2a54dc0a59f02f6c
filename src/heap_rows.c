/*-------------------------------------------------------------------------
 *
 * heap_rows.c
 *	  Many rows into a table at a time.
 *
 * Rows that go to the same page have one WAL record there, as with COPY, where
 * each has its own otherwise.  No trigger is fired and no constraint is looked
 * at but unique ones and those of exclusion, so the caller asks first whether
 * the table has any of the others.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "compat.h"
#include "executor/executor.h"
#include "heap_rows.h"
#include "miscadmin.h"
#include "utils/rel.h"

/* So many rows are given to the table at a time, as COPY does. */
#define ROWS_AT_ONCE 1000

/*
 * Whether nothing happens to rows of a table or a partitioned table but that
 * they are checked and stored.
 */
bool
heap_rows_are_plain(const ResultRelInfo *result)
{
	const TriggerDesc *triggers = result->ri_TrigDesc;
	const TupleConstr *constr = RelationGetDescr(result->ri_RelationDesc)->constr;

	return !(triggers && (triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
						  triggers->trig_insert_instead_row)) &&
		   !(constr && (constr->has_generated_stored || compat_has_virtual_columns(constr)));
}

/*
 * Whether heap_rows_write() can write to a relation.
 */
bool
heap_rows_can_write(const ResultRelInfo *result)
{
	const Relation rel = result->ri_RelationDesc;

	return rel->rd_rel->relkind == RELKIND_RELATION &&
		   rel->rd_tableam == GetHeapamTableAmRoutine() && heap_rows_are_plain(result);
}

/*
 * Write rows that have passed the table's constraints, and their index entries.
 * The tuples are freed; tids, unless it is NULL, has room to say where each is,
 * and copies, unless it is NULL, gets a copy of each.  The indexes are open.
 */
void
heap_rows_write(ResultRelInfo *result, EState *estate, HeapTuple *tuples, int ntuples,
				ItemPointerData *tids, Tuplestorestate *copies)
{
	Relation rel = result->ri_RelationDesc;
	int nslots = Min(ntuples, ROWS_AT_ONCE);
	TupleTableSlot **slots = palloc(nslots * sizeof(TupleTableSlot *));
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(rel));
	BulkInsertState bulk = GetBulkInsertState();

	/* of a copy: each slot would pin that of the table */
	for (int i = 0; i < nslots; i++)
		slots[i] = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	for (int from = 0; from < ntuples; from += ROWS_AT_ONCE)
	{
		int count = Min(ntuples - from, ROWS_AT_ONCE);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
		{
			if (copies != NULL)
				tuplestore_puttuple(copies, tuples[from + i]);
			ExecStoreHeapTuple(tuples[from + i], slots[i], true);
		}
		table_multi_insert(rel, slots, count, GetCurrentCommandId(true), 0, bulk);
		for (int i = 0; i < count; i++)
		{
			if (result->ri_NumIndices > 0)
				(void) compat_insert_index_tuples(result, slots[i], estate);
			if (tids != NULL)
				tids[from + i] = slots[i]->tts_tid;
			ResetPerTupleExprContext(estate);
		}
	}
	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	FreeBulkInsertState(bulk);
	pfree(slots);
}
