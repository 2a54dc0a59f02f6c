/*-------------------------------------------------------------------------
 *
 * events.c
 *	  Elements through the stream's query into the events table.
 *
 * Two statements of the executor, both with a saved plan: the stream's query
 * (query.c), and the insert of the rows that passed.  What was accepted is what
 * the events table's AFTER INSERT trigger then sees: only that is handed to the
 * rollups.  Where nothing but that trigger looks at the rows they are written as
 * COPY would (events_write.c), and handed on without it.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/relation.h"
#include "access/table.h"
#include "apply/edit.h"
#include "apply/events_internal.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#define ACCEPTED_RELATION "_accepted"

PG_FUNCTION_INFO_V1(detect_accepted);

const char *events_stage = "apply";

/* The applier's own insert, while it runs. */
static Events *inserting = NULL;

static char *
insert_text(const Stream *stream)
{
	StringInfoData columns;
	ListCell *cell;

	initStringInfo(&columns);
	foreach(cell, stream->events_columns)
		appendStringInfo(&columns, "%s%s", cell == list_head(stream->events_columns) ? "" : ", ",
						 quote_identifier(lfirst(cell)));
	return psprintf(
		"INSERT INTO %s (%s) SELECT %s FROM %s",
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
								   get_rel_name(stream->events_table)),
		columns.data, columns.data, ACCEPTED_RELATION);
}

/* Reset callback: SPI keeps saved plans outside of our memory. */
static void
free_plans(void *arg)
{
	Events *events = arg;

	if (events->query.plan)
		SPI_freeplan(events->query.plan);
	if (events->insert.plan)
		SPI_freeplan(events->insert.plan);
}

/*
 * Prepare for batches of a stream; called in a transaction.  What is kept
 * lives in context.
 */
Events *
events_create(const Stream *stream, MemoryContext context)
{
	MemoryContext old_context = MemoryContextSwitchTo(context);
	Events *events = palloc0(sizeof(Events));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	events->stream = stream;
	events->context = context;
	events->query_sql = query_text(stream);
	events->insert_sql = insert_text(stream);
	events->accepted_trigger = LookupFuncName(
		list_make2(makeString(DETECT_SCHEMA), makeString("_accepted")), 0, NULL, false);
	callback->func = free_plans;
	callback->arg = events;
	MemoryContextRegisterResetCallback(context, callback);
	MemoryContextSwitchTo(old_context);
	events_reload(events);
	return events;
}

/*
 * Have somebody look at all that the events table accepts from now on.
 */
void
events_set_witness(Events *events, AcceptedWitness witness, void *argument)
{
	events->witness = witness;
	events->witness_argument = argument;
}

/*
 * Load the stream's rollups again; called in a transaction.
 */
void
events_reload(Events *events)
{
	MemoryContext context =
		AllocSetContextCreate(events->context, "detect rollups", ALLOCSET_DEFAULT_SIZES);
	RollupSet *rollups = rollup_set_load(events->stream, context);

	/* an error above leaves the old ones in place */
	if (events->rollup_context)
		MemoryContextDelete(events->rollup_context);
	events->rollup_context = context;
	events->rollups = rollups;
}

/*
 * The rollups of the stream, until they are loaded again.
 */
RollupSet *
events_rollups(const Events *events)
{
	return events->rollups;
}

/*
 * Whether the error that ended events_apply() was raised by a rollup.
 */
bool
events_failed_in_rollup(const Events *events)
{
	return events->in_rollups;
}

/*
 * Have rollups that fail set aside from now on, or not any more.  False when it
 * was so already.
 */
bool
events_guard_rollups(Events *events, bool guarded)
{
	bool changed = events->rollups_guarded != guarded;

	events->rollups_guarded = guarded;
	events->in_rollups = false;
	return changed;
}

/* Hand what the table accepted to the rollups. */
static void
hand_over(Events *events, Relation rel, Tuplestorestate *accepted)
{
	step_time(STEP_INSERT, &events->step_began);
	events_stage = "rollup";
	/* what a rollup makes of events is no matter of theirs */
	if (events->witness)
		events->witness(rel, accepted, events->witness_argument);
	else
	{
		events->in_rollups = true;
		rollup_set_apply(events->rollups, accepted, events->rollups_guarded);
		events->in_rollups = false;
	}
	step_time(STEP_ROLLUP, &events->step_began);
}

/*
 * Room for rows of the piece, which live as long as it does.
 */
Tuplestorestate *
events_begin_rows(const Events *events)
{
	MemoryContext saved_context = MemoryContextSwitchTo(events->apply_context);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, detect_max_batch_kilobytes * 4);

	MemoryContextSwitchTo(saved_context);
	return rows;
}

/* Write the rows that passed; false when that is a matter for the executor. */
static bool
write_rows(Events *events, SPIPlanPtr plan, QueryEnvironment *environment)
{
	Relation rel;

	events->accepted = events_begin_rows(events);
	events->failed_at_row = true;
	events->was_handed_over = events_write(events, plan, environment);
	events->failed_at_row = false;
	if (!events->was_handed_over)
		return false;
	events->naccepted = events->nrows;
	/* they are among the accepted ones now; rollups need the memory */
	tuplestore_end(events->rows);
	events->rows = NULL;
	if (events->nrows == 0)
		return true;
	rel = table_open(events->stream->events_table, NoLock);
	hand_over(events, rel, events->accepted);
	table_close(rel, NoLock);
	return true;
}

/* Have the executor insert the rows that passed. */
static void
insert_rows(Events *events, SPIPlanPtr plan)
{
	SPIExecuteOptions options = {0};

	inserting = events;
	PG_TRY();
	{
		if (SPI_execute_plan_extended(plan, &options) < 0)
			elog(ERROR, "could not insert the events of stream \"%s\"", events->stream->name);
	}
	PG_CATCH();
	{
		inserting = NULL;
		events->failed_at_row = !tuplestore_ateof(events->rows);
		PG_RE_THROW();
	}
	PG_END_TRY();
	inserting = NULL;
}

/*
 * Insert the rows that passed into the events table.
 */
void
events_insert(Events *events)
{
	const Stream *stream = events->stream;
	QueryEnvironment *environment;
	SPIPlanPtr plan;

	events->was_handed_over = events->failed_at_row = false;
	events->naccepted = 0;
	SPI_connect();
	environment = plan_register_relation(ACCEPTED_RELATION, InvalidOid, events->row_desc,
										 events->rows, events->nrows);
	plan = plan_for_rows(&events->insert, events->insert_sql, events->nrows);
	/* a row that is refused is looked for by the executor */
	if (events->looks_for_refused || !write_rows(events, plan, environment))
		insert_rows(events, plan);
	SPI_finish();
	if (!events->was_handed_over)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("trigger \"_detect_accepted\" of table \"%s\" did not fire",
					get_rel_name(stream->events_table)),
			 errhint(
				 "ALTER TABLE %s ENABLE ALWAYS TRIGGER _detect_accepted; or drop the stream and create it again, its events stay.",
				 quote_qualified_identifier(
					 get_namespace_name(get_rel_namespace(stream->events_table)),
					 get_rel_name(stream->events_table)))));
}

/* Let go of what one call of events_apply() used. */
static void
events_end(Events *events)
{
	if (events->rows)
		tuplestore_end(events->rows);
	if (events->accepted)
		tuplestore_end(events->accepted);
	events->rows = events->accepted = NULL;
	events->row_desc = NULL;
}

/*
 * Try the candidates: each of them ends as accepted, filtered or dead letter.
 * Called in the applier's transaction.  Errors leave everything as it was but
 * for the transaction, which the caller aborts.
 */
void
events_apply(Events *events, Batch *batch, Element **candidates, int ncandidates, Dedup *dedup)
{
	events->apply_context =
		GenerationContextCreate(CurrentMemoryContext, "detect piece", ALLOCSET_DEFAULT_SIZES);
	events->batch = batch;
	events->candidates = candidates;
	events->ncandidates = ncandidates;
	events->dedup = dedup;
	events->in_rollups = events->failed_at_row = false;
	events->refusal = NULL;
	events->piece_end = NULL;
	for (int i = 0; i < ncandidates; i++)
		candidates[i]->has_row = candidates[i]->was_seen = false;

	INSTR_TIME_SET_CURRENT(events->step_began);
	events_stage = "query";
	query_run(events, candidates, ncandidates);
	step_time(STEP_QUERY, &events->step_began);
	for (int i = 0; i < ncandidates; i++)
		candidates[i]->outcome = candidates[i]->sqlstate  ? OUTCOME_DEAD_LETTER
								 : candidates[i]->has_row ? OUTCOME_ACCEPTED
														  : OUTCOME_FILTERED;
	if (events->nrows > 0)
	{
		events_stage = "insert";
		if (events->looks_for_refused)
			events_insert_unrefused(events);
		else
			events_insert(events);
		step_time(STEP_INSERT, &events->step_began);
		if (events->naccepted != events->nrows)
			events_settle_dropped(events, candidates, ncandidates);
	}
	events_end(events);
	events_stage = "apply";
}

/*
 * Forget what an aborted transaction was about; its memory is gone already.
 */
void
events_abort(Events *events)
{
	events->rows = events->accepted = NULL;
	events->row_desc = NULL;
	inserting = NULL;
}

/*
 * AFTER INSERT statement trigger of an events table and its partitions.  In the
 * applier's own insert it hands what the table accepted to the rollups; from
 * any other it queues the rows for the applier.
 */
Datum
detect_accepted(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) || trigdata->tg_newtable == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg(
				 "detect._accepted() must be an AFTER INSERT statement trigger with a new table"),
			 errhint("detect.create_stream makes it.")));
	/* a row that a trigger of the user inserts meanwhile is one by hand */
	if (inserting == NULL ||
		inserting->stream->events_table != RelationGetRelid(trigdata->tg_relation) ||
		DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH)) > 1)
	{
		edit_queue(trigdata);
		return PointerGetDatum(NULL);
	}

	inserting->was_handed_over = true;
	inserting->naccepted = tuplestore_tuple_count(trigdata->tg_newtable);
	if (inserting->naccepted != inserting->nrows ||
		(trigdata->tg_relation->trigdesc &&
		 trigdata->tg_relation->trigdesc->trig_insert_before_row))
		events_mark_seen(inserting, trigdata);
	if (inserting->naccepted > 0)
		hand_over(inserting, trigdata->tg_relation, trigdata->tg_newtable);
	return PointerGetDatum(NULL);
}
