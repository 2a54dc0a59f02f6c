/*-------------------------------------------------------------------------
 *
 * query.c
 *	  Elements through the stream's query.
 *
 * The text of the stream's view is run with the elements as an ephemeral
 * relation of the staging table's name.  Each row that comes out is led back
 * to its element by the ordinal and checked here, row by row: one row at most
 * for each element, key and event time as they were.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "apply/events_internal.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_coerce.h"
#include "sql.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Takes the rows of the query. */
typedef struct RowReceiver
{
	DestReceiver pub;
	Events *events;
	AttrNumber ordinal;
	AttrNumber reject_reason;
	int nidentity;
	AttrNumber *identity; /* columns of the output, 0 where it lacks one */
} RowReceiver;

/* Somebody has altered the view by other means than detect.alter_stream. */
static void
refuse_view(const Stream *stream)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					errmsg("view \"%s.%s\" is not what detect made any more", DETECT_QUERY_SCHEMA,
						   stream->name),
					errhint("Give the query again: SELECT detect.alter_stream(%s, query => ...).",
							quote_literal_cstr(stream->name))));
}

/* The column of this name, 0 where there is none.  What we read by its name
 * must be of its type, for the owner can rename the columns of the view; or of one
 * with the same values, such as the type below a domain. */
static AttrNumber
find_typed_column(const Stream *stream, TupleDesc desc, const char *name, Oid type)
{
	for (int i = 0; i < desc->natts; i++)
	{
		const Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (strcmp(NameStr(attribute->attname), name) != 0)
			continue;
		if (attribute->atttypid != type &&
			!IsBinaryCoercible(attribute->atttypid, getBaseType(type)))
			refuse_view(stream);
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

	receiver->ordinal = find_typed_column(stream, desc, DETECT_ORDINAL, INT8OID);
	if (receiver->ordinal == InvalidAttrNumber)
		refuse_view(stream);
	receiver->reject_reason = find_typed_column(stream, desc, REJECT_REASON, TEXTOID);
	receiver->nidentity = dedup_columns(receiver->events->dedup, &attnums);
	receiver->identity = palloc(Max(receiver->nidentity, 1) * sizeof(AttrNumber));
	for (int i = 0; i < receiver->nidentity; i++)
		receiver->identity[i] =
			find_typed_column(stream, desc, get_attname(stream->staging_table, attnums[i], false),
							  get_atttype(stream->staging_table, attnums[i]));
	old_context = MemoryContextSwitchTo(receiver->events->apply_context);
	receiver->events->row_desc = CreateTupleDescCopy(desc);
	receiver->events->ordinal_attnum = receiver->ordinal;
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
	ereport(
		ERROR,
		(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
		 errmsg("the query of stream \"%s\" %s", events->stream->name, what),
		 element->progress->partition == SQL_PARTITION
			 ? errdetail("This was seen at an element that SQL staged.")
			 : errdetail("This was seen at topic \"%s\", partition %d, offset %lld, element %d.",
						 element->progress->topic, element->progress->partition,
						 (long long) element->offset, element->element),
		 errhint("%s", hint)));
}

/* A key that the query changes would let a duplicate pass as a new event. */
static void
check_identity(RowReceiver *receiver, const Element *element, TupleTableSlot *slot)
{
	Datum values[INDEX_MAX_KEYS];
	Identity identity;

	if (receiver->nidentity == 0)
		return;
	for (int i = 0; i < receiver->nidentity; i++)
	{
		AttrNumber attnum = receiver->identity[i];

		if (attnum == InvalidAttrNumber || slot->tts_isnull[attnum - 1])
			refuse_row(receiver->events, element, "does not hand on the key and the event time",
					   "Let the query output the columns of key and event_time as they are.");
		values[i] = slot->tts_values[attnum - 1];
	}
	identity = dedup_identity(receiver->events->dedup, values);
	if (!identity_equals(&identity, &element->identity))
		refuse_row(receiver->events, element, "changes the key or the event time of an element",
				   "Let the query output the columns of key and event_time as they are.");
}

/* The element that a row came from.  The view belongs to the stream's owner,
 * who can give it another query: then the number may be anything. */
static Element *
element_of_row(const RowReceiver *receiver, TupleTableSlot *slot)
{
	const Batch *batch = receiver->events->batch;
	int64 ordinal = -1;

	if (!slot->tts_isnull[receiver->ordinal - 1])
		ordinal = DatumGetInt64(slot->tts_values[receiver->ordinal - 1]);
	if (ordinal < 0 || ordinal >= batch->count)
		refuse_view(receiver->events->stream);
	return &batch->elements[ordinal];
}

/* Take one row of the query's output. */
static bool
receiver_receive(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	Events *events = receiver->events;
	Element *element;

	slot_getallattrs(slot);
	element = element_of_row(receiver, slot);
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

/*
 * The text of the stream's view, its staging table named without a schema.
 */
char *
query_text(const Stream *stream)
{
	int nest_level = sql_begin("search_path", DETECT_STAGING_SCHEMA);
	char *definition = TextDatumGetCString(
		DirectFunctionCall1(pg_get_viewdef, ObjectIdGetDatum(stream->query_view)));

	AtEOXact_GUC(true, nest_level);
	return definition;
}

/* The query must read the elements, and not the staging table of that name. */
static void
check_reads_batch(SPIPlanPtr plan, const Stream *stream)
{
	ListCell *source;
	int found = 0;

	foreach(source, SPI_plan_get_plan_sources(plan))
	{
		ListCell *query;

		/* one that could not be analyzed again says why, and is tried again */
		if (((CachedPlanSource *) lfirst(source))->query_list == NIL)
			return;
		foreach(query, ((CachedPlanSource *) lfirst(source))->query_list)
		{
			ListCell *rte;

			foreach(rte, lfirst_node(Query, query)->rtable)
				found += lfirst_node(RangeTblEntry, rte)->rtekind == RTE_NAMEDTUPLESTORE;
		}
	}
	if (found != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("the query of stream \"%s\" does not read its elements", stream->name),
				 errhint("A common table expression may hide \"%s\": give it another name.",
						 stream->name)));
}

/* The candidates as rows of the staging table. */
static Tuplestorestate *
candidates_to_rows(Events *events, Element **candidates, int ncandidates, TupleDesc desc)
{
	const Stream *stream = events->stream;
	Tuplestorestate *rows = events_begin_rows(events);

	for (int i = 0; i < ncandidates; i++)
	{
		Element *element = candidates[i];

		element->values[stream->ordinal_attnum - 1] =
			Int64GetDatum(element - events->batch->elements);
		element->nulls[stream->ordinal_attnum - 1] = false;
		tuplestore_putvalues(rows, desc, element->values, element->nulls);
	}
	return rows;
}

/*
 * Raise an error unless the query of a new stream can be run by its owner.
 */
void
query_check_text(const Stream *stream)
{
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);
	ActingUser caller = sql_act_as(stream->owner, SECURITY_RESTRICTED_OPERATION);
	SPIPlanPtr plan;
	char *sql;

	/* the view is as new as the stream */
	PushActiveSnapshot(GetLatestSnapshot());
	sql = query_text(stream);
	PopActiveSnapshot();
	SPI_connect();
	plan_register_relation(stream->name, stream->staging_table, NULL, rows, 1);
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	check_reads_batch(plan, stream);
	SPI_finish();
	sql_act_as_before(&caller);
	tuplestore_end(rows);
}

/*
 * Run the stream's query over the candidates; the rows that pass are kept in
 * events->rows.
 */
void
query_run(Events *events, Element **candidates, int ncandidates)
{
	const Stream *stream = events->stream;
	Relation rel = table_open(stream->staging_table, AccessShareLock);
	Tuplestorestate *batch_rows =
		candidates_to_rows(events, candidates, ncandidates, RelationGetDescr(rel));
	RowReceiver receiver = {
		.pub = {receiver_receive, receiver_startup, receiver_shutdown, receiver_destroy, DestNone},
		.events = events};
	SPIExecuteOptions options = {.dest = &receiver.pub};
	SPIPlanPtr plan;

	events->nrows = 0;
	events->rows = events_begin_rows(events);
	SPI_connect();
	plan_register_relation(stream->name, stream->staging_table, NULL, batch_rows, ncandidates);
	plan = plan_for_rows(&events->query, events->query_sql, ncandidates);
	check_reads_batch(plan, stream);
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not run the query of stream \"%s\"", stream->name);
	SPI_finish();
	tuplestore_end(batch_rows);
	table_close(rel, NoLock);
}
