/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  Partial states into the state table of a rollup.
 *
 * One statement a batch, INSERT … ON CONFLICT DO UPDATE, in which each group
 * of the batch touches its row once, in the order of the keys: neighbours in
 * the index are then looked up one after another, and new ones lie together in
 * the table, so that the next batch finds them on the pages that it has just
 * read.  That saves more than sorting the groups costs.  The states of a row are merged by
 * detect._combine, which can merge any, but costs a call of the aggregate's
 * functions in an environment of their own.  Where the combine function is an
 * ordinary strict function of PostgreSQL over plain values (int8pl for count,
 * the larger of two for max) it is called directly: it gives the same, and
 * saves more than half of the time.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "compat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The name under which the statement reads what is to be merged. */
#define PARTIAL_NAME "partial"

struct MergePlan
{
	SPIPlanPtr plan; /* saved; NULL until the first merge */
};

/* Reset callback: SPI keeps saved plans outside of our memory. */
static void
free_plan(void *merge_plan)
{
	MergePlan *merge = (MergePlan *) merge_plan;

	if (merge->plan != NULL)
		SPI_freeplan(merge->plan);
	merge->plan = NULL;
}

/*
 * Make an empty plan that lives as long as context.
 */
MergePlan *
merge_plan_create(MemoryContext context)
{
	MergePlan *merge = MemoryContextAllocZero(context, sizeof(MergePlan));
	MemoryContextCallback *callback = MemoryContextAllocZero(context, sizeof(*callback));

	callback->func = free_plan;
	callback->arg = merge;
	MemoryContextRegisterResetCallback(context, callback);
	return merge;
}

/*
 * Whether a combine function may be called as any function: it is strict, one
 * of PostgreSQL's own, and its state is a plain value, for those that work on
 * arrays expect to be called within an aggregate.
 */
static bool
is_plain_function(const RollupState *state)
{
	HeapTuple tuple;
	Form_pg_proc proc;
	bool plain;

	if (state->serialized || state->combine_function >= FirstGenbkiObjectId ||
		state->type >= FirstGenbkiObjectId || OidIsValid(get_element_type(state->type)))
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(state->combine_function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", state->combine_function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	plain = proc->prolang == INTERNALlanguageId && proc->proisstrict && !proc->proretset &&
			proc->prorettype == state->type && proc->pronargs == 2 &&
			proc->proargtypes.values[0] == state->type &&
			proc->proargtypes.values[1] == state->type;
	ReleaseSysCache(tuple);
	return plain;
}

/* Append the expression that merges a stored state t.x with EXCLUDED.x. */
static void
append_combination(StringInfo sql, const RollupState *state, const char *column)
{
	/* A strict function is not called with NULL: the other state stands. */
	if (is_plain_function(state))
		appendStringInfo(sql, "COALESCE(pg_catalog.%s(t.%s, EXCLUDED.%s), t.%s, EXCLUDED.%s)",
						 quote_identifier(get_func_name(state->combine_function)), column, column,
						 column, column);
	else
		appendStringInfo(
			sql, DETECT_SCHEMA "._combine('%u'::pg_catalog.regprocedure, t.%s, EXCLUDED.%s)",
			state->aggref->aggfnoid, column, column);
}

/* The statement that merges; names come from the state table as it is now. */
static char *
merge_sql(const Rollup *rollup, const RollupShape *shape, TupleDesc tupdesc)
{
	StringInfoData columns;
	StringInfoData keys;
	StringInfoData merges;

	initStringInfo(&columns);
	initStringInfo(&keys);
	initStringInfo(&merges);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		const char *column = quote_identifier(NameStr(TupleDescAttr(tupdesc, i)->attname));

		appendStringInfo(&columns, "%s%s", i > 0 ? ", " : "", column);
		if (i < shape->nkeys)
			appendStringInfo(&keys, "%s%s", i > 0 ? ", " : "", column);
		else
		{
			appendStringInfo(&merges, "%s%s = ", i > shape->nkeys ? ", " : "", column);
			append_combination(&merges, &shape->states[i - shape->nkeys], column);
		}
	}
	return psprintf("INSERT INTO " DETECT_STATE_SCHEMA ".%s AS t (%s) SELECT %s FROM " PARTIAL_NAME
					" ORDER BY %s ON CONFLICT (%s) DO %s%s",
					quote_identifier(get_rel_name(rollup->state_table)), columns.data, columns.data,
					keys.data, keys.data, shape->nstates > 0 ? "UPDATE SET " : "NOTHING",
					merges.data);
}

/*
 * Raise an error unless the state table has the columns that the query needs,
 * in their order.
 */
void
merge_check_state_table(const Rollup *rollup, const RollupShape *shape, TupleDesc tupdesc)
{
	bool fits = tupdesc->natts == shape->nkeys + shape->nstates;

	for (int i = 0; fits && i < tupdesc->natts; i++)
		fits = TupleDescAttr(tupdesc, i)->atttypid ==
			   (i < shape->nkeys ? shape->keys[i].type : shape->states[i - shape->nkeys].type);
	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the state table of rollup \"%s\" does not fit its query", rollup->name),
				 errdetail("Columns of \"%s.%s\" or what the query computes have been changed.",
						   DETECT_STATE_SCHEMA, get_rel_name(rollup->state_table)),
				 errhint("Drop the rollup with detect.drop_rollup and create it again.")));
}

/* Save the plan of the merging statement.  The caller is connected to SPI and
 * has registered the relation that the statement reads. */
static SPIPlanPtr
make_plan(const Rollup *rollup, TupleDesc tupdesc)
{
	RollupShape *shape = shape_load(rollup->query_view, rollup->stream->events_table);
	char *sql;
	SPIPlanPtr plan;

	merge_check_state_table(rollup, shape, tupdesc);
	sql = merge_sql(rollup, shape, tupdesc);
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return plan;
}

/*
 * Merge partial states into the rollup's state table.  The result is the
 * number of groups.
 */
int64
merge_partial(const Rollup *rollup, Tuplestorestate *partial)
{
	EphemeralNamedRelation relation;
	Relation state_table;
	int64 groups;
	int result;

	if (tuplestore_tuple_count(partial) == 0)
		return 0;
	SPI_connect();
	state_table = table_open(rollup->state_table, RowExclusiveLock);
	relation = palloc0(sizeof(EphemeralNamedRelationData));
	relation->md.name = PARTIAL_NAME;
	relation->md.tupdesc = CreateTupleDescCopy(RelationGetDescr(state_table));
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = (double) tuplestore_tuple_count(partial);
	relation->reldata = partial;
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the states of rollup \"%s\"", rollup->name);

	if (rollup->merge_plan->plan == NULL)
		rollup->merge_plan->plan = make_plan(rollup, relation->md.tupdesc);
	result = SPI_execute_plan(rollup->merge_plan->plan, NULL, NULL, false, 0);
	if (result != SPI_OK_INSERT)
		elog(ERROR, "could not merge into rollup \"%s\": %s", rollup->name,
			 SPI_result_code_string(result));
	groups = (int64) SPI_processed;
	table_close(state_table, NoLock);
	SPI_finish();
	return groups;
}
