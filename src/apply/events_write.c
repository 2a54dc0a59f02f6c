/*-------------------------------------------------------------------------
 *
 * events_write.c
 *	  Rows into the events table as COPY writes them, many at a time.
 *
 * The planner's own plan of the insert is run without its ModifyTable node:
 * what lies below gives rows in the table's layout, with defaults and casts,
 * after the executor has looked at privileges.  Each row finds its partition
 * and passes its constraints here; all rows of a partition then go to its pages
 * together, with one WAL record a page in place of one a row, and into its
 * indexes.  The rollups read the rows that were written, so that nobody has to
 * capture them.
 *
 * That is only for tables where nothing else happens to a row: no trigger but
 * ours, no policy, no rule, no generated column, ordinary heaps, and no plan
 * that another extension has changed.  All rows find their partition before the
 * first one is written, so that it is not too late to leave the whole piece to
 * the executor.  Rows that NOT NULL or CHECK refuse are left out here, which costs
 * the others nothing; any other row that is refused is looked for there (refused.c).
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "apply/events_internal.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "heap_rows.h"
#include "miscadmin.h"
#include "tcop/dest.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Room for so many rows at first. */
#define TARGET_ROWS 1000

/* A partition, or the table itself, and the rows that go there. */
typedef struct Target
{
	ResultRelInfo *result;	 /* the key */
	TupleConversionMap *map; /* from the events table's columns to its own, or NULL */
	TupleTableSlot *slot;	 /* of its layout, if there is a map */
	ExprState **checks;		 /* its CHECK constraints */
	HeapTuple *tuples;
	int ntuples;
	int allocated;
} Target;

/* A row that a constraint refuses. */
typedef struct RefusedRow
{
	int64 number; /* among those of the plan, from 0 */
	Target *target;
	HeapTuple tuple;
} RefusedRow;

/* Takes the rows of the plan. */
typedef struct Writer
{
	DestReceiver pub;
	EState *estate;
	ResultRelInfo *root;
	ModifyTableState *state;		/* what routing asks for */
	PartitionTupleRouting *routing; /* NULL: not partitioned */
	HTAB *targets;
	Target *last;
	MemoryContext rows_context; /* of the rows of all targets */
	Tuplestorestate *accepted;
	int64 nreceived; /* rows of the plan, which are those that passed, in their order */
	List *refused;	 /* of RefusedRow * */
	bool fits;		 /* every target so far can be written to */
} Writer;

/* Whether an insert into the events table fires our own trigger and no other. */
static bool
fires_ours_alone(const TriggerDesc *triggers, Oid ours)
{
	int fired = 0;

	if (triggers == NULL || triggers->trig_insert_before_statement)
		return false;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if ((trigger->tgtype & TRIGGER_TYPE_INSERT) == 0)
			continue;
		if (trigger->tgfoid != ours || trigger->tgenabled != TRIGGER_FIRES_ALWAYS ||
			trigger->tgqual != NULL)
			return false;
		fired++;
	}
	return fired == 1;
}

/* The insert's ModifyTable node, NULL if it does more than insert the rows of
 * what lies below it. */
static const ModifyTable *
plain_insert(const CachedPlan *cached, const PlannedStmt **stmt)
{
	const ModifyTable *insert;

	if (list_length(cached->stmt_list) != 1)
		return NULL;
	*stmt = linitial_node(PlannedStmt, cached->stmt_list);
	if ((*stmt)->commandType != CMD_INSERT || !IsA((*stmt)->planTree, ModifyTable))
		return NULL;
	insert = (const ModifyTable *) (*stmt)->planTree;
	if (list_length(insert->resultRelations) != 1 || insert->withCheckOptionLists != NIL ||
		insert->returningLists != NIL || insert->onConflictAction != ONCONFLICT_NONE ||
		IsA(outerPlan(insert), CustomScan))
		return NULL;
	return insert;
}

/* The target of rows that go to a relation, NULL if it is none for us. */
static Target *
find_target(Writer *writer, ResultRelInfo *result)
{
	MemoryContext saved_context;
	Target *target;
	bool found;

	if (writer->last && writer->last->result == result)
		return writer->last;
	target = hash_search(writer->targets, &result, HASH_ENTER, &found);
	if (!found)
	{
		if (!heap_rows_can_write(result))
			return NULL;
		saved_context = MemoryContextSwitchTo(writer->estate->es_query_cxt);
		target->map = writer->routing ? compat_root_to_child_map(result, writer->estate) : NULL;
		target->slot =
			target->map
				? ExecInitExtraTupleSlot(writer->estate, RelationGetDescr(result->ri_RelationDesc),
										 &TTSOpsVirtual)
				: NULL;
		target->checks = constraints_prepare(result->ri_RelationDesc, writer->estate);
		target->ntuples = 0;
		target->allocated = TARGET_ROWS;
		target->tuples = palloc(target->allocated * sizeof(HeapTuple));
		MemoryContextSwitchTo(saved_context);
	}
	writer->last = target;
	return target;
}

/* Keep a row, which is of the target's layout, for writing. */
static void
keep_tuple(Target *target, HeapTuple tuple)
{
	if (target->ntuples == target->allocated)
	{
		target->allocated *= 2;
		target->tuples = repalloc_huge(target->tuples, target->allocated * sizeof(HeapTuple));
	}
	target->tuples[target->ntuples++] = tuple;
}

/* Check a row as its table would, and keep it for writing and for the rollups. */
static void
keep_row(Writer *writer, Target *target, TupleTableSlot *row)
{
	ResultRelInfo *result = target->result;
	Relation rel = result->ri_RelationDesc;
	TupleTableSlot *slot =
		target->map ? execute_attr_map_slot(target->map->attrMap, row, target->slot) : row;
	MemoryContext saved_context;
	bool passes;

	slot->tts_tableOid = RelationGetRelid(rel);
	passes = constraints_pass(rel, target->checks, slot, writer->estate);
	if (passes && writer->routing == NULL && rel->rd_rel->relispartition)
		ExecPartitionCheck(result, slot, writer->estate, true);

	saved_context = MemoryContextSwitchTo(writer->rows_context);
	if (passes)
	{
		keep_tuple(target, ExecCopySlotHeapTuple(slot));
		/* others are copied when they are written, and freed: there is one of each */
		if (target->map)
			tuplestore_puttupleslot(writer->accepted, row);
	}
	else
	{
		RefusedRow *refused = palloc(sizeof(RefusedRow));

		refused->number = writer->nreceived;
		refused->target = target;
		refused->tuple = ExecCopySlotHeapTuple(slot);
		writer->refused = lappend(writer->refused, refused);
	}
	MemoryContextSwitchTo(saved_context);
	writer->nreceived++;
}

/* Take a row of the plan; false ends it. */
static bool
writer_receive(TupleTableSlot *slot, DestReceiver *self)
{
	Writer *writer = (Writer *) self;
	ResultRelInfo *result = writer->root;
	Target *target;

	CHECK_FOR_INTERRUPTS();
	ResetPerTupleExprContext(writer->estate);
	if (writer->routing)
		result =
			ExecFindPartition(writer->state, writer->root, writer->routing, slot, writer->estate);
	target = find_target(writer, result);
	if (target == NULL)
	{
		writer->fits = false;
		return false;
	}
	keep_row(writer, target, slot);
	return true;
}

static void
writer_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
writer_end(DestReceiver *self)
{
}

/* Run what lies below the insert: every row finds its target. */
static void
collect_rows(Writer *writer, const PlannedStmt *stmt, const ModifyTable *insert,
			 QueryEnvironment *environment)
{
	PlannedStmt *below = makeNode(PlannedStmt);
	QueryDesc *query;

	*below = *stmt;
	below->commandType = CMD_SELECT;
	below->planTree = outerPlan(insert);
	below->resultRelations = NIL;
	query = CreateQueryDesc(below, "", GetActiveSnapshot(), InvalidSnapshot, &writer->pub, NULL,
							environment, 0);
	ExecutorStart(query, 0);
	compat_executor_run(query);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
}

/* Tell the elements of rows that are refused why.  Other errors than those of data are
 * raised. */
static void
refuse_rows(Events *events, const Writer *writer)
{
	/* the last error may be raised after all, when SPI's memory is gone */
	MemoryContext saved_context = MemoryContextSwitchTo(events->apply_context);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(events->row_desc, &TTSOpsMinimalTuple);
	int64 number = -1;
	ListCell *cell;

	Assert(writer->nreceived == events->nrows);
	tuplestore_select_read_pointer(events->rows, 0);
	tuplestore_rescan(events->rows);
	foreach(cell, writer->refused)
	{
		const RefusedRow *row = lfirst(cell);
		bool isnull;

		for (; number < row->number; number++)
		{
			if (!tuplestore_gettupleslot(events->rows, true, false, slot))
				elog(ERROR, "a row that has passed the query is missing");
		}
		events_refuse(
			events,
			&events->batch
				 ->elements[DatumGetInt64(slot_getattr(slot, events->ordinal_attnum, &isnull))],
			constraints_refusal(row->target->result, row->tuple, writer->estate));
	}
	events->nrows -= list_length(writer->refused);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextSwitchTo(saved_context);
}

/* Prepare for rows of a plan; end_writer() ends it. */
static void
begin_writer(Writer *writer, const Events *events, const PlannedStmt *stmt,
			 const ModifyTable *insert)
{
	HASHCTL control = {.keysize = sizeof(ResultRelInfo *), .entrysize = sizeof(Target)};
	EState *estate = CreateExecutorState();
	MemoryContext saved_context = MemoryContextSwitchTo(estate->es_query_cxt);
	ModifyTableState *state = makeNode(ModifyTableState);
	int rti = linitial_int(insert->resultRelations);

	compat_init_range_table(estate, stmt);
	writer->root = makeNode(ResultRelInfo);
	ExecInitResultRelation(estate, writer->root, rti);
	state->ps.state = estate;
	state->operation = CMD_INSERT;
	state->mt_nrels = 1;
	state->resultRelInfo = state->rootResultRelInfo = writer->root;
	control.hcxt = estate->es_query_cxt;
	writer->targets =
		hash_create("detect targets", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	writer->rows_context = GenerationContextCreate(estate->es_query_cxt, "detect written rows",
												   ALLOCSET_DEFAULT_SIZES);
	writer->estate = estate;
	writer->state = state;
	if (writer->root->ri_RelationDesc->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		writer->routing = ExecSetupPartitionTupleRouting(estate, writer->root->ri_RelationDesc);
	else
		ExecOpenIndices(writer->root, false);
	writer->fits =
		fires_ours_alone(writer->root->ri_TrigDesc, events->accepted_trigger) &&
		(writer->routing ? heap_rows_are_plain(writer->root) : heap_rows_can_write(writer->root));
	MemoryContextSwitchTo(saved_context);
}

static void
end_writer(Writer *writer)
{
	if (writer->routing)
		ExecCleanupTupleRouting(writer->state, writer->routing);
	ExecResetTupleTable(writer->estate->es_tupleTable, false);
	ExecCloseResultRelations(writer->estate);
	ExecCloseRangeTableRelations(writer->estate);
	FreeExecutorState(writer->estate);
}

/* Write what was collected. */
static void
write_rows(Writer *writer)
{
	MemoryContext saved_context = MemoryContextSwitchTo(writer->estate->es_query_cxt);
	HASH_SEQ_STATUS status;
	Target *target;

	hash_seq_init(&status, writer->targets);
	while ((target = hash_seq_search(&status)) != NULL)
		heap_rows_write(target->result, writer->estate, target->tuples, target->ntuples, NULL,
						target->map ? NULL : writer->accepted);
	MemoryContextSwitchTo(saved_context);
	/* rollups see the rows */
	CommandCounterIncrement();
}

/*
 * Write the rows of the insert's plan, which reads an ephemeral relation of the
 * SPI level that is open, and keep them in events->accepted, in the layout of the
 * events table.  False when the executor has to do it: then nothing was written.
 */
bool
events_write(Events *events, SPIPlanPtr plan, QueryEnvironment *environment)
{
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);
	const PlannedStmt *stmt;
	const ModifyTable *insert = cached ? plain_insert(cached, &stmt) : NULL;
	Writer writer = {.pub = {writer_receive, writer_startup, writer_end, writer_end, DestNone},
					 .accepted = events->accepted};

	events->checks_rows = false;
	if (insert != NULL && !events->has_other_targets)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		begin_writer(&writer, events, stmt, insert);
		if (writer.fits)
		{
			events->checks_rows = true;
			collect_rows(&writer, stmt, insert, environment);
			events->has_other_targets = !writer.fits;
		}
		if (writer.fits && writer.refused != NIL)
			refuse_rows(events, &writer);
		if (writer.fits)
			write_rows(&writer);
		end_writer(&writer);
		PopActiveSnapshot();
	}
	if (cached)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	return writer.fits;
}
