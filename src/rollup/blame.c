/*-------------------------------------------------------------------------
 *
 * blame.c
 *	  The event by which a rollup failed.
 *
 * The shortest beginning of the batch that fails is searched for by halving,
 * each try in a subtransaction that is undone; so it takes about as long as
 * the batch times ten.  Its last event is to blame if the batch would pass
 * without it.  Otherwise several are, and none is named.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "apply/applier.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "access/table.h"

/* In larger batches nobody is searched for. */
#define MAX_EVENTS 200000

/* The events of a batch, to be tried in parts. */
typedef struct Suspects
{
	const Rollup *rollup;
	const PartialSource *source;
	PartialPlan *plan;
	int count;
	MinimalTuple *events;
	MemoryContext try_context; /* of one try */
	Tuplestorestate *event;	   /* the one to be described */
	char *description;
	MemoryContext context;
} Suspects;

/* Read all events of a batch into memory. */
static void
read_suspects(Suspects *suspects)
{
	Tuplestorestate *batch = suspects->source->batch;
	Relation rel = table_open(suspects->rollup->stream->events_table, AccessShareLock);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	int count = 0;

	suspects->events = palloc(suspects->count * sizeof(MinimalTuple));
	tuplestore_select_read_pointer(batch, 0);
	tuplestore_rescan(batch);
	while (count < suspects->count && tuplestore_gettupleslot(batch, true, false, slot))
		suspects->events[count++] = ExecCopySlotMinimalTuple(slot);
	suspects->count = count;
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

/* Some of the events, without one of them if that is not negative. */
static Tuplestorestate *
store_suspects(const Suspects *suspects, int from, int to, int without)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	HeapTuple tuple;

	for (int i = from; i < to; i++)
	{
		if (i == without)
			continue;
		tuple = heap_tuple_from_minimal_tuple(suspects->events[i]);
		tuplestore_puttuple(store, tuple);
		heap_freetuple(tuple);
	}
	return store;
}

/* Whether the first events fail, without one of them. */
static bool
fails(Suspects *suspects, int count, int without)
{
	MemoryContext context = MemoryContextSwitchTo(suspects->try_context);
	PartialSource source = *suspects->source;
	ErrorData *error;
	bool failed;

	source.batch = store_suspects(suspects, 0, count, without);
	error = aside_try_absorb(suspects->rollup, suspects->plan, &source, false);
	failed = error != NULL;
	tuplestore_end(source.batch);
	MemoryContextSwitchTo(context);
	MemoryContextReset(suspects->try_context);
	return failed;
}

/* Describe an event, which may fail by the output function of a type. */
static void
describe(void *arg)
{
	Suspects *suspects = (Suspects *) arg;

	suspects->description = missed_describe(suspects->rollup->stream, suspects->event);
}

/*
 * The event without which a batch would not have failed by this error, as
 * text; NULL when there is no such event.  The error is over.
 */
char *
blame_event(const Rollup *rollup, const ErrorData *error, const PartialSource *source)
{
	Suspects suspects = {.rollup = rollup, .source = source};
	int passing = 0;
	int failing;

	suspects.count = (int) Min(tuplestore_tuple_count(source->batch), INT_MAX);
	if (failure_kind(error) != FAILURE_DATA || suspects.count == 0 || suspects.count > MAX_EVENTS)
		return NULL;
	suspects.plan = partial_plan_create(CurrentMemoryContext);
	suspects.try_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect rollup try", ALLOCSET_DEFAULT_SIZES);
	read_suspects(&suspects);
	failing = suspects.count;
	while (failing - passing > 1)
	{
		int count = passing + (failing - passing) / 2;

		CHECK_FOR_INTERRUPTS();
		if (fails(&suspects, count, -1))
			failing = count;
		else
			passing = count;
	}
	if (fails(&suspects, suspects.count, failing - 1))
		return NULL;
	suspects.event = store_suspects(&suspects, failing - 1, failing, -1);
	(void) aside_try(describe, &suspects, false);
	tuplestore_end(suspects.event);
	return suspects.description;
}
