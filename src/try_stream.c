/*-------------------------------------------------------------------------
 *
 * try_stream.c
 *	  detect.try_stream: what messages would become, and nothing is kept.
 *
 * The sample is read first, while no lock is held.  Then the stream is made
 * for real in a subtransaction, and each element goes the way that it goes in
 * the applier, through the same functions, in a subtransaction of its own, so
 * that one that fails costs one.  At the end all of it is rolled back;
 * sequences alone do not forget.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "apply/applier.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "ingest/kafka.h"
#include "ingest/stream_decoder.h"
#include "miscadmin.h"
#include "stream.h"
#include "try_sample.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define ARG_SAMPLE	DEFINITION_ARGS
#define TRY_COLUMNS 9
#define MAX_SAMPLE	100000

PG_FUNCTION_INFO_V1(detect_try_stream);

static const char *const outcome_words[OUTCOMES] = {"accepted", "duplicate", "filtered", "expired",
													"dead_letter"};

/* A stream that is tried; lives in context, all but what leaves as rows. */
typedef struct Trial
{
	ReturnSetInfo *result;
	MemoryContext context;
	MemoryContext element_context; /* reset after each element */
	const Stream *stream;
	TupleDesc columns_desc; /* of the stream's columns, without the ordinal */
	StagedReader *reader;
	Dedup *dedup;
	Events *events;
	Batch *batch;
	char *accepted; /* the row that the events table has accepted, as JSON */
} Trial;

/* ---------------------------------------------------------------------
 * What becomes of it
 * ---------------------------------------------------------------------
 */

static char *
row_as_json(Datum row)
{
	return TextDatumGetCString(DirectFunctionCall1(row_to_json, row));
}

/* Keep the row that the events table has just accepted. */
static void
witness_accepted(Relation events_table, Tuplestorestate *accepted, void *argument)
{
	Trial *trial = argument;
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(RelationGetDescr(events_table), &TTSOpsMinimalTuple);

	tuplestore_rescan(accepted);
	if (tuplestore_gettupleslot(accepted, true, false, slot))
		trial->accepted = MemoryContextStrdup(trial->element_context,
											  row_as_json(ExecFetchSlotHeapTupleDatum(slot)));
	ExecDropSingleTupleTableSlot(slot);
}

/* What the element shows: the event, else its columns, else nothing. */
static char *
element_as_json(const Trial *trial, const Element *element)
{
	HeapTuple tuple;

	if (trial->accepted)
		return trial->accepted;
	if (!element->is_converted)
		return NULL;
	tuple = heap_form_tuple(trial->columns_desc, element->values, element->nulls);
	return row_as_json(heap_copy_tuple_as_datum(tuple, trial->columns_desc));
}

static void
emit_element(const Trial *trial, const Element *element)
{
	bool failed = element->outcome == OUTCOME_DEAD_LETTER;
	char *event = element_as_json(trial, element);
	Datum values[TRY_COLUMNS] = {0};
	bool nulls[TRY_COLUMNS] = {0};

	values[0] = CStringGetTextDatum(element->progress->topic);
	values[1] = Int32GetDatum(element->progress->partition);
	values[2] = Int64GetDatum(element->offset);
	values[3] = Int32GetDatum(element->element);
	values[4] = CStringGetTextDatum(outcome_words[element->outcome]);
	nulls[5] = nulls[6] = nulls[7] = !failed;
	if (failed)
	{
		values[5] = CStringGetTextDatum(element->stage);
		values[6] = CStringGetTextDatum(unpack_sql_state(element->sqlstate));
		values[7] = CStringGetTextDatum(element->reason);
	}
	nulls[8] = event == NULL;
	if (event)
		values[8] = DirectFunctionCall1(jsonb_in, CStringGetDatum(event));
	tuplestore_putvalues(trial->result->setResult, trial->result->setDesc, values, nulls);
}

/* An element that failed: as the applier would blame it.  What is wrong with
 * all of them is an error here too. */
static void
blame_element(Trial *trial, Element *element, ErrorData *error)
{
	FailureKind kind = failure_kind(error);

	if (kind != FAILURE_DATA && kind != FAILURE_UNKNOWN && !failure_is_refused_value(error))
		ReThrowError(error);
	if (element->has_identity)
		element_release_identity(trial->dedup, element);
	if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		dedup_owns_constraint(trial->dedup, error->schema_name, error->table_name,
							  error->constraint_name))
	{
		element->outcome = OUTCOME_DUPLICATE;
		return;
	}
	element->outcome = OUTCOME_DEAD_LETTER;
	element->sqlstate = error->sqlerrcode;
	element->stage = events_stage;
	element->reason = error->message;
}

/* The element that is decided. */
typedef struct TrialStep
{
	Trial *trial;
	int element;
} TrialStep;

/* For subtransaction_try(). */
static void
decide_element(void *arg)
{
	const TrialStep *step = arg;
	Trial *trial = step->trial;

	decide_piece(trial->stream, trial->reader, trial->dedup, trial->events, trial->batch,
				 step->element, step->element + 1);
}

/* Decide one element in a subtransaction of its own. */
static void
try_element(Trial *trial, int i)
{
	TrialStep step = {trial, i};
	ErrorData *error;

	CHECK_FOR_INTERRUPTS();
	trial->accepted = NULL;
	events_stage = "apply";
	MemoryContextSwitchTo(trial->element_context);
	error = subtransaction_try(decide_element, &step, true);
	if (error)
		events_abort(trial->events);
	if (error)
		blame_element(trial, &trial->batch->elements[i], error);
	emit_element(trial, &trial->batch->elements[i]);
	MemoryContextReset(trial->element_context);
}

/* ---------------------------------------------------------------------
 * The trial
 * ---------------------------------------------------------------------
 */

/* Make the partitions that the batch's times ask for. */
static void
make_partitions(const Trial *trial)
{
	int ntimes;
	TimestampTz *times = batch_times_to_cover(trial->stream, trial->batch, &ntimes);

	while (partition_ensure(trial->stream, times, ntimes, false) > 0)
		CHECK_FOR_INTERRUPTS();
}

/* Columns that the user may see, as a row type. */
static TupleDesc
columns_desc(const Stream *stream)
{
	Relation rel = table_open(stream->staging_table, AccessShareLock);
	TupleDesc desc = CreateTupleDescCopy(RelationGetDescr(rel));

	table_close(rel, AccessShareLock);
	desc->tdtypeid = RECORDOID;
	desc->tdtypmod = -1;
	TupleDescAttr(desc, stream->ordinal_attnum - 1)->attisdropped = true;
	compat_attribute_changed(desc, stream->ordinal_attnum - 1);
	return BlessTupleDesc(desc);
}

/* What the applier checks at its commit is to be checked at once. */
static void
check_constraints_at_once(void)
{
	SPI_connect();
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
	SPI_finish();
}

/* Make the stream and send the sample through it.  The caller undoes all. */
static void
run_trial(Trial *trial, StreamDefinition *definition, List *messages)
{
	Stream *stream = stream_create(definition);

	trial->stream = stream;
	CommandCounterIncrement();
	check_constraints_at_once();
	session_imitate_worker();
	PushActiveSnapshot(GetLatestSnapshot());
	trial->columns_desc = columns_desc(stream);
	trial->reader = staged_reader_create(stream, 0, trial->context);
	trial->batch = sample_decode(stream, trial->reader, messages);
	batch_check_event_times(trial->reader, trial->batch);
	make_partitions(trial);
	trial->dedup = dedup_create(stream, trial->context);
	trial->events = events_create(stream, trial->context);
	events_set_witness(trial->events, witness_accepted, trial);
	if (!dedup_begin_batch(trial->dedup, true))
	{
		dedup_follow(trial->dedup, NULL);
		(void) dedup_begin_batch(trial->dedup, false);
	}
	for (int i = 0; i < trial->batch->count; i++)
		try_element(trial, i);
	PopActiveSnapshot();
}

/* Run the trial in a subtransaction, and take everything back. */
static void
run_and_undo(Trial *trial, StreamDefinition *definition, List *messages)
{
	MemoryContext caller_context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int level = GetCurrentTransactionNestLevel();
	ErrorData *volatile error = NULL;

	trial->context = AllocSetContextCreate(caller_context, "detect trial", ALLOCSET_DEFAULT_SIZES);
	trial->element_context =
		AllocSetContextCreate(trial->context, "detect element", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(trial->context);
	PG_TRY();
	{
		run_trial(trial, definition, messages);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller_context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (trial->dedup)
		dedup_end_lookups(trial->dedup);
	MemoryContextSwitchTo(caller_context);
	MemoryContextDelete(trial->context);
	/* the decoder may have left one of its own open */
	while (GetCurrentTransactionNestLevel() > level)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller_context);
	CurrentResourceOwner = owner;
	if (error)
		ReThrowError(error);
}

static int
read_sample_size(FunctionCallInfo fcinfo)
{
	int sample = PG_ARGISNULL(ARG_SAMPLE) ? 0 : PG_GETARG_INT32(ARG_SAMPLE);

	if (sample < 1 || sample > MAX_SAMPLE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("sample must be 1 to %d, not %d", MAX_SAMPLE, sample)));
	return sample;
}

/*
 * detect.try_stream(name, …, sample): see README.md.
 */
Datum
detect_try_stream(PG_FUNCTION_ARGS)
{
	Trial trial = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	StreamDefinition *definition;
	int sample;

	admin_require("detect.try_stream");
	sample = read_sample_size(fcinfo);
	InitMaterializedSRF(fcinfo, 0);
	stream_check_caller();
	if (PG_ARGISNULL(ARG_NAME))
	{
		fcinfo->args[ARG_NAME].value = CStringGetTextDatum("try_stream");
		fcinfo->args[ARG_NAME].isnull = false;
	}
	definition = stream_definition_from_call(fcinfo, NULL, NULL);
	if (definition->stream->server == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("detect.try_stream needs a server, to read messages from"),
						errhint("CREATE SERVER … FOREIGN DATA WRAPPER detect_kafka, and name it in "
								"server. Payloads alone can be tried with detect.decode.")));
	run_and_undo(&trial, definition, sample_read(definition->stream, sample));
	return (Datum) 0;
}
