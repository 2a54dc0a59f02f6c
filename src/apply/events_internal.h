/*-------------------------------------------------------------------------
 *
 * events_internal.h
 *	  What events.c, query.c and plan.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_EVENTS_INTERNAL_H
#define DETECT_EVENTS_INTERNAL_H

#include "apply/batch.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "rollup/rollup.h"

/* A plan and the number of rows that it was made for. */
typedef struct SizedPlan
{
	SPIPlanPtr plan;
	double rows;
} SizedPlan;

struct Events
{
	const Stream *stream;
	MemoryContext context;
	char *query_sql;
	char *insert_sql;
	Oid accepted_trigger; /* the function of our trigger */
	SizedPlan query;
	SizedPlan insert;
	RollupSet *rollups;
	MemoryContext rollup_context;
	bool in_rollups;		 /* or an error has come from there */
	bool rollups_guarded;	 /* one that fails is set aside */
	bool looks_for_refused;	 /* rows that the events table refuses */
	bool has_other_targets;	 /* partitions that only the executor can write to */
	bool checks_rows;		 /* rows that a constraint refuses are found at once */
	AcceptedWitness witness; /* NULL: nobody looks */
	void *witness_argument;

	/* Of one call of events_apply(). */
	MemoryContext apply_context;
	Batch *batch;
	Element **candidates;
	int ncandidates;
	Dedup *dedup;
	Tuplestorestate *rows; /* that passed the query */
	int64 nrows;
	TupleDesc row_desc;
	Tuplestorestate *accepted; /* rows that were written here, NULL: the executor's */
	AttrNumber ordinal_attnum; /* in it */
	bool failed_at_row;		   /* the insert, before it had read all rows */
	ErrorData *refusal;		   /* of the row that was refused last, or NULL */
	const Element *piece_end;  /* a piece that failed may end before it, or NULL */
	bool was_handed_over;
	int64 naccepted;
	instr_time step_began; /* the step that is being timed */
};

/* in apply/events.c */
extern Tuplestorestate *events_begin_rows(const Events *events);
extern void events_insert(Events *events);

/* in apply/constraint.c */
extern ExprState **constraints_prepare(Relation rel, EState *estate);
extern bool
constraints_pass(Relation rel, ExprState **checks, TupleTableSlot *slot, EState *estate);
extern ErrorData *constraints_refusal(ResultRelInfo *result, HeapTuple tuple, EState *estate);

/* in apply/events_seen.c */
extern void events_mark_seen(Events *events, TriggerData *trigdata);
extern void events_settle_dropped(Events *events, Element **candidates, int ncandidates);

/* in apply/events_write.c */
extern bool events_write(Events *events, SPIPlanPtr plan, QueryEnvironment *environment);

/* in apply/refused.c */
extern void events_insert_unrefused(Events *events);
extern void events_refuse(Events *events, Element *element, ErrorData *error);

/* in apply/plan.c */
extern QueryEnvironment *plan_register_relation(const char *name, Oid relid, TupleDesc desc,
												Tuplestorestate *rows, double nrows);
extern SPIPlanPtr plan_for_rows(SizedPlan *sized, const char *sql, double nrows);

/* in apply/query.c */
extern char *query_text(const Stream *stream);
extern void query_run(Events *events, Element **candidates, int ncandidates);

#endif /* DETECT_EVENTS_INTERNAL_H */
