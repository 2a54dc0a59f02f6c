/*-------------------------------------------------------------------------
 *
 * events.c
 *	  Elements through the stream's query into the events table.
 *
 * Two statements of the executor, both with a saved plan.  The first runs the
 * text of the stream's view with the elements as an ephemeral relation of the
 * staging table's name; each row that comes out is led back to its element by
 * the ordinal and checked here, in C.  The second inserts the rows that passed.
 * What was accepted is what the events table's AFTER INSERT trigger then sees:
 * only that is handed to the rollups.
 *
 * The plans freeze the number of rows that they were made for, so they are
 * made anew when a batch is ten times larger or smaller.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/relation.h"
#include "access/table.h"
#include "apply/batch.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "rollup/rollup.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#define ACCEPTED_RELATION "_accepted"
#define REJECT_REASON "reject_reason"

PG_FUNCTION_INFO_V1(detect_accepted);

/* A plan and the number of rows that it was made for. */
typedef struct SizedPlan
{
	SPIPlanPtr	plan;
	double		rows;
} SizedPlan;

struct Events
{
	const Stream *stream;
	MemoryContext context;
	char	   *query_sql;
	char	   *insert_sql;
	SizedPlan	query;
	SizedPlan	insert;
	RollupSet  *rollups;
	MemoryContext rollup_context;

	/* Of one call of events_apply(). */
	MemoryContext apply_context;
	Batch	   *batch;
	Dedup	   *dedup;
	Tuplestorestate *rows;		/* that passed the query */
	int64		nrows;
	TupleDesc	row_desc;
	bool		was_handed_over;
	int64		naccepted;
};

/* Takes the rows of the query. */
typedef struct RowReceiver
{
	DestReceiver pub;
	Events	   *events;
	AttrNumber	ordinal;
	AttrNumber	reject_reason;
	int			nidentity;
	AttrNumber *identity;		/* columns of the output, 0 where it lacks one */
} RowReceiver;

/* Leads an accepted row back to its element. */
typedef struct IdentityEntry
{
	Identity	identity;
	Element    *element;
} IdentityEntry;

const char *events_stage = "apply";

/* The applier's own insert, while it runs. */
static Events *inserting = NULL;

static AttrNumber
find_output_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(NameStr(TupleDescAttr(desc, i)->attname), name) == 0)
			return i + 1;
	}
	return InvalidAttrNumber;
}

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	RowReceiver *receiver = (RowReceiver *) self;
	const Stream *stream = receiver->events->stream;
	MemoryContext old_context;
	const AttrNumber *attnums;

	receiver->ordinal = find_output_column(desc, DETECT_ORDINAL);
	receiver->reject_reason = find_output_column(desc, REJECT_REASON);
	receiver->nidentity = dedup_columns(receiver->events->dedup, &attnums);
	receiver->identity = palloc(Max(receiver->nidentity, 1) * sizeof(AttrNumber));
	for (int i = 0; i < receiver->nidentity; i++)
		receiver->identity[i] = find_output_column(desc, get_attname(stream->staging_table, attnums[i], false));
	old_context = MemoryContextSwitchTo(receiver->events->apply_context);
	receiver->events->row_desc = CreateTupleDescCopy(desc);
	MemoryContextSwitchTo(old_context);
}

static void
receiver_shutdown(DestReceiver *self)
{
}

static void
receiver_destroy(DestReceiver *self)
{
}

/* What the query made of an element breaks a rule of the stream. */
static void
refuse_row(const Events *events, const Element *element, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("the query of stream \"%s\" %s", events->stream->name, what),
			 element->progress->partition == SQL_PARTITION ?
			 errdetail("This was seen at an element that SQL staged.") :
			 errdetail("This was seen at partition %d, offset %lld.", element->progress->partition,
					   (long long) element->offset),
			 errhint("%s", hint)));
}

/* A key that the query changes would let a duplicate pass as a new event. */
static void
check_identity(RowReceiver *receiver, const Element *element, TupleTableSlot *slot)
{
	Datum		values[INDEX_MAX_KEYS];
	Identity	identity;

	if (receiver->nidentity == 0)
		return;
	for (int i = 0; i < receiver->nidentity; i++)
	{
		AttrNumber	attnum = receiver->identity[i];

		if (attnum == InvalidAttrNumber || slot->tts_isnull[attnum - 1])
			refuse_row(receiver->events, element, "does not hand on the key and the event time",
					   "Let the query output the columns of key and event_time as they are.");
		values[i] = slot->tts_values[attnum - 1];
	}
	identity = dedup_identity(receiver->events->dedup, values);
	if (identity.low != element->identity.low || identity.high != element->identity.high)
		refuse_row(receiver->events, element, "changes the key or the event time of an element",
				   "Let the query output the columns of key and event_time as they are.");
}

/* Take one row of the query's output. */
static bool
receiver_receive(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	Events	   *events = receiver->events;
	Element    *element;

	slot_getallattrs(slot);
	element = &events->batch->elements[DatumGetInt64(slot->tts_values[receiver->ordinal - 1])];
	if (element->has_row)
		refuse_row(events, element, "gives more than one row for one element",
				   "Join with at most one row for each element: make the joined keys unique.");
	element->has_row = true;

	if (receiver->reject_reason != InvalidAttrNumber &&
		!slot->tts_isnull[receiver->reject_reason - 1])
	{
		MemoryContext old_context = MemoryContextSwitchTo(GetMemoryChunkContext(events->batch));

		element->sqlstate = ERRCODE_RAISE_EXCEPTION;
		element->stage = "query";
		element->reason = TextDatumGetCString(slot->tts_values[receiver->reject_reason - 1]);
		MemoryContextSwitchTo(old_context);
		return true;
	}
	check_identity(receiver, element, slot);
	tuplestore_puttupleslot(events->rows, slot);
	events->nrows++;
	return true;
}

/* The text of the stream's view, its staging table named without a schema. */
static char *
query_text(const Stream *stream)
{
	int			nest_level = NewGUCNestLevel();
	char	   *definition;

	(void) set_config_option("search_path", DETECT_STAGING_SCHEMA, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	definition = TextDatumGetCString(DirectFunctionCall1(pg_get_viewdef,
														 ObjectIdGetDatum(stream->query_view)));
	AtEOXact_GUC(true, nest_level);
	return definition;
}

static char *
insert_text(const Stream *stream)
{
	StringInfoData columns;
	ListCell   *cell;

	initStringInfo(&columns);
	foreach(cell, stream->events_columns)
		appendStringInfo(&columns, "%s%s", cell == list_head(stream->events_columns) ? "" : ", ",
						 quote_identifier(lfirst(cell)));
	return psprintf("INSERT INTO %s (%s) SELECT %s FROM %s",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->events_table)),
											   get_rel_name(stream->events_table)),
					columns.data, columns.data, ACCEPTED_RELATION);
}

/*
 * Prepare for batches of a stream; called in a transaction.  What is kept
 * lives in context.
 */
Events *
events_create(const Stream *stream, MemoryContext context)
{
	MemoryContext old_context = MemoryContextSwitchTo(context);
	Events	   *events = palloc0(sizeof(Events));

	events->stream = stream;
	events->context = context;
	events->query_sql = query_text(stream);
	events->insert_sql = insert_text(stream);
	events->rollup_context = AllocSetContextCreate(context, "detect rollups", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(old_context);
	events_reload(events);
	return events;
}

/*
 * Load the stream's rollups again; called in a transaction.
 */
void
events_reload(Events *events)
{
	MemoryContextReset(events->rollup_context);
	events->rollups = rollup_set_load(events->stream, events->rollup_context);
}

/*
 * Take one step of filling rollups from the events that were there before
 * them.  Called in a transaction, under the stream's lock; false when there is
 * nothing to fill.
 */
bool
events_fill_rollups(Events *events)
{
	return rollup_set_fill(events->rollups);
}

/* Make an ephemeral relation known to the SPI level that is open. */
static void
register_relation(const char *name, Oid relid, TupleDesc desc, Tuplestorestate *rows, double nrows)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	int			result;

	enr->md.name = pstrdup(name);
	enr->md.reliddesc = relid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = nrows;
	enr->reldata = rows;
	result = SPI_register_relation(enr);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\": %s", name, SPI_result_code_string(result));
}

/* The query must read the elements, and not the staging table of that name. */
static void
check_reads_batch(SPIPlanPtr plan, const Stream *stream)
{
	ListCell   *source;
	int			found = 0;

	foreach(source, SPI_plan_get_plan_sources(plan))
	{
		ListCell   *query;

		foreach(query, ((CachedPlanSource *) lfirst(source))->query_list)
		{
			ListCell   *rte;

			foreach(rte, lfirst_node(Query, query)->rtable)
				found += lfirst_node(RangeTblEntry, rte)->rtekind == RTE_NAMEDTUPLESTORE;
		}
	}
	if (found != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("the query of stream \"%s\" does not read its elements", stream->name),
				 errhint("A common table expression may hide \"%s\": give it another name.", stream->name)));
}

/* A plan for so many rows: the kept one if it was made for about as many. */
static SPIPlanPtr
plan_for(SizedPlan *sized, const char *sql, double nrows)
{
	SPIPlanPtr	plan;

	if (sized->plan && nrows < sized->rows * 10 && nrows * 10 > sized->rows)
		return sized->plan;
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (sized->plan)
		SPI_freeplan(sized->plan);
	SPI_keepplan(plan);
	sized->plan = plan;
	sized->rows = nrows;
	return plan;
}

/* The candidates as rows of the staging table. */
static Tuplestorestate *
candidates_to_rows(Events *events, Element **candidates, int ncandidates, TupleDesc desc)
{
	const Stream *stream = events->stream;
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, detect_max_batch_kilobytes * 4);

	for (int i = 0; i < ncandidates; i++)
	{
		Element    *element = candidates[i];

		element->values[stream->ordinal_attnum - 1] = Int64GetDatum(element - events->batch->elements);
		element->nulls[stream->ordinal_attnum - 1] = false;
		tuplestore_putvalues(rows, desc, element->values, element->nulls);
	}
	return rows;
}

/* Run the stream's query over the candidates; the rows that pass are kept. */
static void
run_query(Events *events, Element **candidates, int ncandidates)
{
	const Stream *stream = events->stream;
	Relation	rel = table_open(stream->staging_table, AccessShareLock);
	Tuplestorestate *batch_rows = candidates_to_rows(events, candidates, ncandidates,
													 RelationGetDescr(rel));
	RowReceiver receiver = {
		.pub = {receiver_receive, receiver_startup, receiver_shutdown, receiver_destroy, DestNone},
		.events = events
	};
	SPIExecuteOptions options = {.dest = &receiver.pub};
	SPIPlanPtr	plan;

	events->nrows = 0;
	events->rows = tuplestore_begin_heap(false, false, detect_max_batch_kilobytes * 4);
	SPI_connect();
	register_relation(stream->name, stream->staging_table, NULL, batch_rows, ncandidates);
	plan = plan_for(&events->query, events->query_sql, ncandidates);
	check_reads_batch(plan, stream);
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not run the query of stream \"%s\"", stream->name);
	SPI_finish();
	tuplestore_end(batch_rows);
	table_close(rel, NoLock);
}

/* Insert the rows that passed into the events table. */
static void
run_insert(Events *events)
{
	const Stream *stream = events->stream;
	SPIExecuteOptions options = {0};
	SPIPlanPtr	plan;

	events->was_handed_over = false;
	events->naccepted = 0;
	SPI_connect();
	register_relation(ACCEPTED_RELATION, InvalidOid, events->row_desc, events->rows, events->nrows);
	plan = plan_for(&events->insert, events->insert_sql, events->nrows);
	inserting = events;
	PG_TRY();
	{
		if (SPI_execute_plan_extended(plan, &options) < 0)
			elog(ERROR, "could not insert the events of stream \"%s\"", stream->name);
	}
	PG_FINALLY();
	{
		inserting = NULL;
	}
	PG_END_TRY();
	SPI_finish();
	if (!events->was_handed_over)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("trigger \"_detect_accepted\" of table \"%s\" did not fire",
						get_rel_name(stream->events_table)),
				 errhint("ALTER TABLE … ENABLE ALWAYS TRIGGER _detect_accepted, or drop the stream and create it again; its events stay.")));
}

/* Let go of what one call of events_apply() used. */
static void
events_end(Events *events)
{
	if (events->rows)
		tuplestore_end(events->rows);
	events->rows = NULL;
	events->row_desc = NULL;
}

/* What the trigger saw are fewer rows than were inserted: a BEFORE trigger has
 * dropped some, and their identities tell which. */
static void
settle_dropped(Events *events, Element **candidates, int ncandidates)
{
	int64		dropped = events->nrows - events->naccepted;

	for (int i = ncandidates - 1; i >= 0 && dropped > 0; i--)
	{
		Element    *element = candidates[i];

		if (element->outcome != OUTCOME_ACCEPTED || element->was_seen)
			continue;
		element->outcome = OUTCOME_FILTERED;
		dropped--;
	}
}

/*
 * Try the candidates: each of them ends as accepted, filtered or dead letter.
 * Called in the applier's transaction.  Errors leave everything as it was but
 * for the transaction, which the caller aborts.
 */
void
events_apply(Events *events, Batch *batch, Element **candidates, int ncandidates, Dedup *dedup)
{
	instr_time	since;

	events->apply_context = CurrentMemoryContext;
	events->batch = batch;
	events->dedup = dedup;
	for (int i = 0; i < ncandidates; i++)
		candidates[i]->has_row = candidates[i]->was_seen = false;

	INSTR_TIME_SET_CURRENT(since);
	events_stage = "query";
	run_query(events, candidates, ncandidates);
	step_time(STEP_QUERY, &since);
	for (int i = 0; i < ncandidates; i++)
		candidates[i]->outcome = candidates[i]->sqlstate ? OUTCOME_DEAD_LETTER :
			candidates[i]->has_row ? OUTCOME_ACCEPTED : OUTCOME_FILTERED;
	if (events->nrows > 0)
	{
		events_stage = "insert";
		run_insert(events);
		step_time(STEP_INSERT, &since);
		if (events->naccepted != events->nrows)
			settle_dropped(events, candidates, ncandidates);
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
	events->rows = NULL;
	events->row_desc = NULL;
	inserting = NULL;
}

/* The elements that the query gave a row for, by their identity. */
static HTAB *
index_by_identity(Events *events)
{
	HASHCTL		control = {
		.keysize = sizeof(Identity),
		.entrysize = sizeof(IdentityEntry),
		.hcxt = CurrentMemoryContext
	};
	HTAB	   *index = hash_create("detect elements by identity", events->nrows, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (int i = 0; i < events->batch->count; i++)
	{
		Element    *element = &events->batch->elements[i];
		IdentityEntry *entry;

		if (!element->has_row || element->sqlstate != 0)
			continue;
		entry = hash_search(index, &element->identity, HASH_ENTER, NULL);
		entry->element = element;
	}
	return index;
}

/* Which elements the events table accepted, where a BEFORE trigger may drop
 * rows or change them. */
static void
mark_seen(Events *events, TriggerData *trigdata)
{
	Relation	rel = trigdata->tg_relation;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	HTAB	   *index = index_by_identity(events);
	const AttrNumber *staging_attnums;
	int			nidentity = dedup_columns(events->dedup, &staging_attnums);
	AttrNumber	attnums[INDEX_MAX_KEYS];

	for (int i = 0; i < nidentity; i++)
		attnums[i] = get_attnum(RelationGetRelid(rel),
								get_attname(events->stream->staging_table, staging_attnums[i], false));
	tuplestore_rescan(trigdata->tg_newtable);
	while (nidentity > 0 && tuplestore_gettupleslot(trigdata->tg_newtable, true, false, slot))
	{
		Datum		values[INDEX_MAX_KEYS];
		Identity	identity;
		IdentityEntry *entry;

		for (int i = 0; i < nidentity; i++)
		{
			bool		isnull;

			values[i] = slot_getattr(slot, attnums[i], &isnull);
		}
		identity = dedup_identity(events->dedup, values);
		entry = hash_search(index, &identity, HASH_FIND, NULL);
		if (entry == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("a trigger of table \"%s\" changes the key or the event time of events",
							RelationGetRelationName(rel)),
					 errhint("Let triggers hand key and event time on unchanged.")));
		entry->element->was_seen = true;
	}
	tuplestore_rescan(trigdata->tg_newtable);
	hash_destroy(index);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * AFTER INSERT statement trigger of an events table.  In the applier's own
 * insert it hands what the table accepted to the rollups.
 */
Datum
detect_accepted(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	instr_time	since;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigdata->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) || trigdata->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("detect._accepted() must be an AFTER INSERT statement trigger with a new table"),
				 errhint("detect.create_stream makes it.")));
	if (inserting == NULL ||
		inserting->stream->events_table != RelationGetRelid(trigdata->tg_relation))
		return PointerGetDatum(NULL);

	inserting->was_handed_over = true;
	inserting->naccepted = tuplestore_tuple_count(trigdata->tg_newtable);
	if (inserting->naccepted != inserting->nrows ||
		(trigdata->tg_relation->trigdesc && trigdata->tg_relation->trigdesc->trig_insert_before_row))
		mark_seen(inserting, trigdata);
	if (inserting->naccepted > 0)
	{
		INSTR_TIME_SET_CURRENT(since);
		events_stage = "rollup";
		rollup_set_apply(inserting->rollups, trigdata);
		step_time(STEP_ROLLUP, &since);
	}
	return PointerGetDatum(NULL);
}
