/*-------------------------------------------------------------------------
 *
 * constraint.c
 *	  Whether a row passes NOT NULL and CHECK, without an error if it does not.
 *
 * The executor's ExecConstraints() raises an error for the first row that is refused,
 * and an error ends everything that was done for the others.  Here a row is asked
 * first.  One that is refused is then given to ExecConstraints() alone, in a
 * subtransaction, so that its error is the one that PostgreSQL raises.  What the
 * expression of a constraint itself raises is raised.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/events_internal.h"
#include "compat.h"
#include "executor/executor.h"
#include "utils/rel.h"

/*
 * The CHECK constraints of a relation for constraints_pass(), which live as long as
 * the estate; NULL where there are none.
 */
ExprState **
constraints_prepare(Relation rel, EState *estate)
{
	const TupleConstr *constraints = RelationGetDescr(rel)->constr;
	ExprState **checks;

	if (constraints == NULL || constraints->num_check == 0)
		return NULL;
	checks =
		MemoryContextAllocZero(estate->es_query_cxt, constraints->num_check * sizeof(ExprState *));
	for (int i = 0; i < constraints->num_check; i++)
	{
		if (compat_check_is_enforced(&constraints->check[i]))
			checks[i] = ExecPrepareExpr(stringToNode(constraints->check[i].ccbin), estate);
	}
	return checks;
}

/*
 * Whether a row of a relation passes its constraints, in the order in which
 * ExecConstraints() looks at them.
 */
bool
constraints_pass(Relation rel, ExprState **checks, TupleTableSlot *slot, EState *estate)
{
	TupleDesc desc = RelationGetDescr(rel);
	ExprContext *context = GetPerTupleExprContext(estate);

	if (desc->constr == NULL)
		return true;
	for (int i = 0; desc->constr->has_not_null && i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attnotnull && slot_attisnull(slot, i + 1))
			return false;
	}
	context->ecxt_scantuple = slot;
	for (int i = 0; i < desc->constr->num_check; i++)
	{
		if (checks[i] && !ExecCheck(checks[i], context))
			return false;
	}
	return true;
}

/* A row that is refused. */
typedef struct RefusedStep
{
	ResultRelInfo *result;
	TupleTableSlot *slot;
	EState *estate;
} RefusedStep;

/* For subtransaction_try(). */
static void
refused_step(void *arg)
{
	const RefusedStep *step = arg;

	ExecConstraints(step->result, step->slot, step->estate);
}

/*
 * The error of a row that has not passed, in the current context.
 */
ErrorData *
constraints_refusal(ResultRelInfo *result, HeapTuple tuple, EState *estate)
{
	Relation rel = result->ri_RelationDesc;
	RefusedStep step = {.result = result, .estate = estate};
	ErrorData *error;

	step.slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, step.slot, false);
	step.slot->tts_tableOid = RelationGetRelid(rel);
	error = subtransaction_try(refused_step, &step, false);
	ExecDropSingleTupleTableSlot(step.slot);
	/* a constraint that gives another answer each time is nothing to rely on */
	if (error == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg(
				 "new row for relation \"%s\" violates a check constraint that then lets it pass",
				 RelationGetRelationName(rel)),
			 errtable(rel)));
	return error;
}
