/*-------------------------------------------------------------------------
 *
 * partial_receiver.c
 *	  Partial states on their way from the executor into a tuplestore.
 *
 * The executor gives an internal state as its serial function made it, bytea.
 * Where the state table has a column of detect.aggregate_state for it, the value
 * is made here: this and _combine and _merge, which begin with such values, are
 * the places where one comes into being.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "executor/tstoreReceiver.h"
#include "nodes/plannodes.h"
#include "tcop/dest.h"
#include "utils/memutils.h"

typedef struct PartialReceiver
{
	DestReceiver receiver;
	Tuplestorestate *partial;
	char **makers; /* by column; NULL: the value is stored as it is */
	Datum *values;
	MemoryContext row_context;
} PartialReceiver;

static void
begin_rows(DestReceiver *self, int operation, TupleDesc tupdesc)
{
}

static void
end_rows(DestReceiver *self)
{
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	PartialReceiver *receiver = (PartialReceiver *) self;
	TupleDesc tupdesc = slot->tts_tupleDescriptor;
	MemoryContext saved_context = MemoryContextSwitchTo(receiver->row_context);

	slot_getallattrs(slot);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		receiver->values[i] = slot->tts_values[i];
		if (receiver->makers[i] != NULL && !slot->tts_isnull[i])
			receiver->values[i] = aggregate_state_make(receiver->makers[i], slot->tts_values[i]);
	}
	MemoryContextSwitchTo(saved_context);
	/* to a tuple one type of variable length is like the other */
	tuplestore_putvalues(receiver->partial, tupdesc, receiver->values, slot->tts_isnull);
	MemoryContextReset(receiver->row_context);
	return true;
}

static void
destroy(DestReceiver *self)
{
	MemoryContextDelete(((PartialReceiver *) self)->row_context);
	pfree(self);
}

/* The makers of the states that a plan gives, by column; NULL when it gives
 * none of our type. */
static char **
plan_makers(const PlannedStmt *stmt)
{
	List *targets = stmt->planTree->targetlist;
	char **makers = palloc0(list_length(targets) * sizeof(char *));
	bool has_some = false;
	ListCell *cell;

	foreach(cell, targets)
	{
		Expr *expr = lfirst_node(TargetEntry, cell)->expr;

		if (!IsA(expr, Aggref))
			continue;
		makers[foreach_current_index(cell)] = aggregate_state_maker((Aggref *) expr);
		has_some |= makers[foreach_current_index(cell)] != NULL;
	}
	return has_some ? makers : NULL;
}

/*
 * A receiver for the rows of a plan that stops at partial states, which go into
 * a tuplestore as the state table has them.
 */
DestReceiver *
partial_receiver_create(const PlannedStmt *stmt, Tuplestorestate *partial)
{
	char **makers = plan_makers(stmt);
	PartialReceiver *receiver;
	DestReceiver *plain;

	if (makers == NULL)
	{
		plain = CreateDestReceiver(DestTuplestore);
		SetTuplestoreDestReceiverParams(plain, partial, CurrentMemoryContext, false, NULL, NULL);
		return plain;
	}
	receiver = palloc0(sizeof(PartialReceiver));
	receiver->receiver.receiveSlot = receive_row;
	receiver->receiver.rStartup = begin_rows;
	receiver->receiver.rShutdown = end_rows;
	receiver->receiver.rDestroy = destroy;
	receiver->receiver.mydest = DestTuplestore;
	receiver->partial = partial;
	receiver->makers = makers;
	receiver->values = palloc(list_length(stmt->planTree->targetlist) * sizeof(Datum));
	receiver->row_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect partial row", ALLOCSET_DEFAULT_SIZES);
	return &receiver->receiver;
}
