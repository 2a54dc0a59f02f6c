/*-------------------------------------------------------------------------
 *
 * refused.c
 *	  Rows that the events table refuses, found one by one.
 *
 * The insert takes rows from its input one after another: when one is refused,
 * by a constraint, a type or a row trigger, it is the row that was read last.
 * So the insert runs in a subtransaction, and again without the row that was
 * refused, from the first row on: what a row is refused for may be another one
 * before it.  Rows are in the order of their elements, so each is refused or
 * not as if it had come alone after those before it.  What NOT NULL or CHECK refuse
 * is refused for itself, and mostly found without all that (events_write.c).
 *
 * An element whose identity becomes free by that has its place before rows that
 * are inserted by then: the piece ends before it.
 *
 * What is raised when all rows have been read, as by a foreign key, belongs to
 * no row that could be told: then the caller splits the piece (piece.c).
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/applier.h"
#include "apply/events_internal.h"
#include "executor/tuptable.h"
#include "utils/memutils.h"

/* With more refused rows in a piece, a smaller one is cheaper: each has the rows
 * before it inserted again. */
#define MAX_REFUSED 8

/* A row that has passed the query. */
typedef struct PassedRow
{
	Element *element;
	MinimalTuple tuple;
} PassedRow;

/* In the order of the batch, which is that of their addresses. */
static int
compare_rows(const void *a, const void *b)
{
	const Element *left = ((const PassedRow *) a)->element;
	const Element *right = ((const PassedRow *) b)->element;

	return left < right ? -1 : left > right;
}

/* The rows that have passed, in the order of their elements. */
static PassedRow *
passed_rows(Events *events, TupleTableSlot *slot)
{
	PassedRow *rows = palloc(events->nrows * sizeof(PassedRow));

	for (int i = 0; i < events->nrows; i++)
	{
		bool isnull;

		if (!tuplestore_gettupleslot(events->rows, true, false, slot))
			elog(ERROR, "a row that has passed the query is missing");
		rows[i].element =
			&events->batch
				 ->elements[DatumGetInt64(slot_getattr(slot, events->ordinal_attnum, &isnull))];
		rows[i].tuple = ExecCopySlotMinimalTuple(slot);
	}
	qsort(rows, events->nrows, sizeof(PassedRow), compare_rows);
	return rows;
}

/* Have events->rows be the rows of elements that nothing speaks against. */
static void
keep_rows(Events *events, const PassedRow *rows, int nrows, TupleTableSlot *slot)
{
	tuplestore_clear(events->rows);
	events->nrows = 0;
	for (int i = 0; i < nrows; i++)
	{
		if (!rows[i].element->has_row)
			continue;
		ExecStoreMinimalTuple(rows[i].tuple, slot, false);
		tuplestore_puttupleslot(events->rows, slot);
		events->nrows++;
	}
	ExecClearTuple(slot);
}

/* For subtransaction_try(). */
static void
insert_rows(void *events)
{
	events_insert((Events *) events);
}

/* The element whose row the insert has read last, NULL if it is not to blame. */
static Element *
refused_element(Events *events, const PassedRow *rows)
{
	int64 read = events->nrows;

	if (!events->failed_at_row)
		return NULL;
	while (tuplestore_skiptuples(events->rows, 1, true))
		read--;
	for (const PassedRow *row = rows; read > 0; row++)
	{
		if (row->element->has_row && --read == 0)
			return row->element;
	}
	return NULL;
}

/*
 * The row of an element is refused: it has its outcome, unless the piece fails after
 * all.  Raises the error if it is not about data.
 */
void
events_refuse(Events *events, Element *element, ErrorData *error)
{
	if (failure_kind(error) != FAILURE_DATA)
		ReThrowError(error);
	failure_check_definition(events->stream, error);
	events->refusal = error;
	element->is_refused = true;
	element->has_row = false;
	if (failure_is_duplicate(events->dedup, error))
	{
		element->is_known = true;
		element->outcome = OUTCOME_DUPLICATE;
		return;
	}
	element->sqlstate = error->sqlerrcode;
	element->stage = events_stage;
	element->reason = MemoryContextStrdup(GetMemoryChunkContext(events->batch), error->message);
	element->outcome = OUTCOME_DEAD_LETTER;
}

/*
 * Insert the rows that passed, but for those that are refused: these get their
 * outcome.  Raises what is about no row; then, and when too many are refused,
 * the transaction is to be aborted.
 */
void
events_insert_unrefused(Events *events)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(events->row_desc, &TTSOpsMinimalTuple);
	PassedRow *rows = passed_rows(events, slot);
	int nrows = events->nrows;
	int nrefused = 0;

	for (;;)
	{
		ErrorData *error;
		Element *element;

		keep_rows(events, rows, nrows, slot);
		if (events->nrows == 0 || (error = subtransaction_try(insert_rows, events, true)) == NULL)
			break;
		element = refused_element(events, rows);
		if (element == NULL || failure_kind(error) != FAILURE_DATA)
			ReThrowError(error);
		if (++nrefused > MAX_REFUSED)
		{
			events->piece_end = element;
			ReThrowError(error);
		}
		events_refuse(events, element, error);
		events_stage = "insert";
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Have rows that are refused looked for from now on, or not any more.  False
 * when it was so already.
 */
bool
events_look_for_refused(Events *events, bool look)
{
	bool changed = events->looks_for_refused != look;

	events->looks_for_refused = look;
	return changed;
}

/*
 * Whether this element's row had to be looked for: it was refused for something else
 * than what is found at once.
 */
bool
events_searched_for(const Events *events, const Element *element)
{
	return element->is_refused &&
		   !(events->checks_rows && (element->sqlstate == ERRCODE_NOT_NULL_VIOLATION ||
									 element->sqlstate == ERRCODE_CHECK_VIOLATION));
}

/*
 * A duplicate is to be tried next, as one with its identity has become no
 * event.  If a row was refused its place is before rows that are inserted
 * already: raises why, so that the piece ends before it.
 */
void
events_keep_order(Events *events, const Element *next)
{
	if (events->refusal == NULL)
		return;
	events->piece_end = next;
	ReThrowError(events->refusal);
}

/*
 * Whether the error that ended events_apply() was raised for one of its rows.
 */
bool
events_failed_at_row(const Events *events)
{
	return events->failed_at_row;
}

/*
 * The element before which a piece that failed should end, or NULL.
 */
const Element *
events_piece_end(const Events *events)
{
	return events->piece_end;
}
