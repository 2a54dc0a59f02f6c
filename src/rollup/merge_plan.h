/*-------------------------------------------------------------------------
 *
 * merge_plan.h
 *	  How a stored row of a rollup's states is merged with a partial one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_MERGE_PLAN_H
#define DETECT_MERGE_PLAN_H

#include "rollup/group_row.h"
#include "rollup/rollup.h"

/* What is known of a rollup's state table from one merge to the next. */
struct MergePlan
{
	MemoryContext context;
	TupleDesc tupdesc; /* of the state table; NULL until the first merge */
	int nkeys;
	int nstates;
	List *targets; /* the merged row: stored columns are inner, those of a batch outer */
	GroupRows *groups;
};

extern void merge_plan_prepare(MergePlan *plan, const Rollup *rollup, TupleDesc tupdesc);

#endif /* DETECT_MERGE_PLAN_H */
