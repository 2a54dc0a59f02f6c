/*-------------------------------------------------------------------------
 *
 * partial.c
 *	  Partial states of a batch: the planner's own plan, stopped half way.
 *
 * PostgreSQL can emit partial states only below a Gather node.  Here the query
 * is planned as usual and without parallelism, and then the Agg node on top,
 * with its Aggrefs, is told to stop before the final functions and to
 * serialize what is internal (AGGSPLIT_INITIAL_SERIAL), exactly as the planner
 * marks the lower half of a parallel aggregation.  So whatever the executor
 * can aggregate, hashed or sorted, spilling or not, it can aggregate here.
 *
 * A plan is kept until something it was made from changes.  The plan cache
 * does not take plans that were altered, so the same is done for ours: lock
 * what the plan reads, which absorbs invalidations, and only then look whether
 * it is still valid.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/instrument.h"
#include "jit/jit.h"
#include "lib/ilist.h"
#include "nodes/plannodes.h"
#include "optimizer/planner.h"
#include "sql.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* The name of a batch in plans and error messages. */
#define BATCH_NAME "batch"

/* A plan is made again for a batch that is so many times larger or smaller. */
#define REPLAN_FACTOR 10

/* What stands for the text of a query that nobody wrote. */
#define QUERY_TEXT "partial states of a rollup"

struct PartialPlan
{
	dlist_node node;	   /* in all_plans */
	MemoryContext context; /* of stmt alone */
	PlannedStmt *stmt;	   /* NULL: not planned yet */
	bool valid;
	Oid events_table; /* a plan over a batch does not name it */
	int64 planned_rows;
	bool has_from; /* of the source it was made for */
	TimestampTz from;
	TimestampTz kept_from; /* of the rollup, when it was made */
};

/* Every plan in this process, so that invalidations find them. */
static dlist_head all_plans = DLIST_STATIC_INIT(all_plans);

/* Counts what has become invalid in this process, plans or not. */
static uint64 invalidations = 0;

/* Relcache callback: relid InvalidOid stands for every relation. */
static void
invalidate_relation(Datum arg, Oid relid)
{
	dlist_iter iter;

	invalidations++;
	dlist_foreach(iter, &all_plans)
	{
		PartialPlan *plan = dlist_container(PartialPlan, node, iter.cur);

		if (plan->stmt == NULL)
			continue;
		if (relid == InvalidOid || relid == plan->events_table ||
			list_member_oid(plan->stmt->relationOids, relid))
			plan->valid = false;
	}
}

/* Syscache callback for functions and types: hash 0 stands for all of them. */
static void
invalidate_object(Datum arg, int cacheid, uint32 hash)
{
	dlist_iter iter;

	invalidations++;
	dlist_foreach(iter, &all_plans)
	{
		PartialPlan *plan = dlist_container(PartialPlan, node, iter.cur);
		ListCell *cell;

		if (plan->stmt == NULL)
			continue;
		foreach(cell, plan->stmt->invalItems)
		{
			PlanInvalItem *item = lfirst_node(PlanInvalItem, cell);

			if (item->cacheId == cacheid && (hash == 0 || item->hashValue == hash))
				plan->valid = false;
		}
	}
}

/* Syscache callback for what plans do not list: operators and the like. */
static void
invalidate_all(Datum arg, int cacheid, uint32 hash)
{
	invalidate_relation(arg, InvalidOid);
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	relation_change_listen(invalidate_relation);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_object, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_object, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AMOPOPID, invalidate_all, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, invalidate_all, (Datum) 0);
	registered = true;
}

/* Reset callback: the memory of a plan goes away. */
static void
forget_plan(void *plan)
{
	dlist_delete(&((PartialPlan *) plan)->node);
}

/*
 * Make an empty plan that lives as long as context.
 */
PartialPlan *
partial_plan_create(MemoryContext context)
{
	PartialPlan *plan = MemoryContextAllocZero(context, sizeof(PartialPlan));
	MemoryContextCallback *callback = MemoryContextAllocZero(context, sizeof(*callback));

	register_callbacks();
	plan->context = AllocSetContextCreate(context, "detect partial plan", ALLOCSET_SMALL_SIZES);
	dlist_push_tail(&all_plans, &plan->node);
	callback->func = forget_plan;
	callback->arg = plan;
	MemoryContextRegisterResetCallback(context, callback);
	return plan;
}

/* Whether a plan is valid and fits the source; its relations are locked. */
static bool
plan_fits(const Rollup *rollup, const PartialPlan *plan, const PartialSource *source)
{
	int64 rows;

	if (plan->stmt == NULL || !plan->valid || plan->kept_from != rollup->kept_from)
		return false;
	if (source->batch == NULL || source->has_until)
		return false;
	if (plan->has_from != source->has_from || (plan->has_from && plan->from != source->from))
		return false;
	rows = tuplestore_tuple_count(source->batch);
	return rows <= plan->planned_rows * REPLAN_FACTOR && plan->planned_rows <= rows * REPLAN_FACTOR;
}

/* Lock what a plan reads, as the plan cache does before it uses a plan. */
static void
lock_relations(const PlannedStmt *stmt)
{
	ListCell *cell;

	foreach(cell, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

		/* of a view there is the query that stands for it */
		if (rte->rtekind == RTE_RELATION ||
			(rte->rtekind == RTE_SUBQUERY && OidIsValid(rte->relid)))
			LockRelationOid(rte->relid, rte->rellockmode);
	}
}

/* Make a planned aggregation stop at partial states. */
static void
stop_half_way(PlannedStmt *stmt, const Rollup *rollup)
{
	Agg *agg = (Agg *) stmt->planTree;
	ListCell *cell;

	if (!IsA(agg, Agg) || agg->aggsplit != AGGSPLIT_SIMPLE)
		elog(ERROR, "unexpected plan node %d for rollup \"%s\"", (int) nodeTag(agg), rollup->name);
	agg->aggsplit = AGGSPLIT_INITIAL_SERIAL;
	foreach(cell, agg->plan.targetlist)
	{
		Expr *expr = lfirst_node(TargetEntry, cell)->expr;

		if (IsA(expr, Aggref))
			mark_partial_aggref((Aggref *) expr, AGGSPLIT_INITIAL_SERIAL);
	}
}

/* Make the plan for a source.  The caller has pushed a snapshot. */
static void
make_plan(const Rollup *rollup, PartialPlan *plan, const PartialSource *source)
{
	Query *query;
	bool has_states;
	PlannedStmt *stmt;
	MemoryContext saved_context;
	uint64 invalidations_before = invalidations;

	plan->stmt = NULL;
	MemoryContextReset(plan->context);
	query = partial_query(rollup, source, BATCH_NAME);
	has_states = query->hasAggs;
	stmt = join_plan(query, QUERY_TEXT);
	if (has_states)
		stop_half_way(stmt, rollup);
	if (source->batch == NULL)
		implied_remove(stmt, stmt->planTree);
	/* A batch is over before anything could be compiled. */
	stmt->jitFlags = PGJIT_NONE;

	saved_context = MemoryContextSwitchTo(plan->context);
	plan->stmt = copyObject(stmt);
	MemoryContextSwitchTo(saved_context);
	/* What changed while planning makes the plan good for this time only. */
	plan->valid = invalidations == invalidations_before;
	plan->events_table = rollup->stream->events_table;
	plan->planned_rows = source->batch ? Max(tuplestore_tuple_count(source->batch), 1) : 0;
	plan->has_from = source->has_from;
	plan->from = source->from;
	plan->kept_from = rollup->kept_from;
}

/* Lock, look, and plan again until the plan is valid under its locks. */
static void
revalidate_plan(const Rollup *rollup, PartialPlan *plan, const PartialSource *source)
{
	if (plan_fits(rollup, plan, source))
	{
		lock_relations(plan->stmt);
		if (plan_fits(rollup, plan, source))
			return;
	}
	/* Planning takes the locks itself, and keeps them. */
	make_plan(rollup, plan, source);
}

/* The environment in which a plan finds its batch. */
static QueryEnvironment *
batch_environment(const Rollup *rollup, const PartialSource *source)
{
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation batch = palloc0(sizeof(EphemeralNamedRelationData));

	batch->md.name = BATCH_NAME;
	batch->md.reliddesc = rollup->stream->events_table;
	batch->md.enrtype = ENR_NAMED_TUPLESTORE;
	batch->md.enrtuples = (double) tuplestore_tuple_count(source->batch);
	batch->reldata = source->batch;
	register_ENR(environment, batch);
	return environment;
}

/* Run a plan into a tuplestore; the result is the number of rows that were
 * aggregated. */
static int64
execute_plan(PlannedStmt *stmt, QueryEnvironment *environment, Tuplestorestate *partial)
{
	DestReceiver *receiver = partial_receiver_create(stmt, partial);
	PlanState *input;
	QueryDesc *query;
	int64 rows = 0;

	query = CreateQueryDesc(stmt, QUERY_TEXT, GetActiveSnapshot(), InvalidSnapshot, receiver, NULL,
							environment, 0);
	ExecutorStart(query, 0);
	/* only what is aggregated is counted: each node would take its time */
	input = outerPlanState(query->planstate);
	if (environment == NULL && input)
		input->instrument = InstrAlloc(1, INSTRUMENT_ROWS, false);
	compat_executor_run(query);
	if (environment == NULL && input)
	{
		InstrEndLoop(input->instrument);
		rows = (int64) input->instrument->ntuples;
	}
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	receiver->rDestroy(receiver);
	return rows;
}

/*
 * Set the time zone of a rollup if the session has another one; the result is
 * for AtEOXact_GUC.
 */
int
partial_enter_time_zone(const Rollup *rollup)
{
	int nest_level = NewGUCNestLevel();

	if (strcmp(pg_get_timezone_name(session_timezone), rollup->time_zone) != 0)
		sql_set("timezone", rollup->time_zone);
	return nest_level;
}

/*
 * Lock what a source is read from, by a plan that is as good as the one by which it
 * is read.
 */
void
partial_lock(const Rollup *rollup, PartialPlan *plan, const PartialSource *source)
{
	int nest_level = partial_enter_time_zone(rollup);

	PushActiveSnapshot(GetTransactionSnapshot());
	revalidate_plan(rollup, plan, source);
	PopActiveSnapshot();
	AtEOXact_GUC(true, nest_level);
}

/*
 * Put the partial states of a source into a tuplestore, one row a group: the
 * columns of the rollup's state table.  The plan is made or made again as
 * needed.  The result is the number of rows that were aggregated, which is
 * counted only for the table itself.  The caller is in a transaction, and
 * resets the memory context that is current.
 */
int64
partial_run(const Rollup *rollup, PartialPlan *plan, const PartialSource *source,
			Tuplestorestate *partial)
{
	int nest_level = partial_enter_time_zone(rollup);
	QueryEnvironment *environment = source->batch ? batch_environment(rollup, source) : NULL;
	int64 rows;

	PushActiveSnapshot(source->snapshot ? source->snapshot : GetTransactionSnapshot());
	revalidate_plan(rollup, plan, source);
	if (source->snapshot == NULL)
	{
		/* A table that was locked until now may have been rewritten: to an older
		 * snapshot it would be empty. */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	rows = execute_plan(plan->stmt, environment, partial);
	PopActiveSnapshot();
	AtEOXact_GUC(true, nest_level);
	return rows;
}
