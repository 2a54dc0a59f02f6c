/*-------------------------------------------------------------------------
 *
 * rollup.h
 *	  Rollups: a GROUP BY over an events table, kept as partial states.
 *
 * A rollup has three relations: the view detect_query.<name> holds the user's
 * query, the table detect_state.<name> holds one row a group with the partial
 * states of its aggregates, and a view in the user's schema finalizes them.
 * A new definition of a rollup is kept beside it as one more rollup, without a
 * view, under a name of our own (alter.c), until it takes its place (swap.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_ROLLUP_H
#define DETECT_ROLLUP_H

#include "detect.h"

#include "apply/edit.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "nodes/primnodes.h"
#include "portability/instr_time.h"
#include "sql.h"
#include "tcop/dest.h"
#include "utils/jsonb.h"

/* ---------------------------------------------------------------------
 * For the applier
 * ---------------------------------------------------------------------
 */

/* The rollups of one stream, loaded. */
typedef struct RollupSet RollupSet;

/* in rollup/rollup.c */
extern RollupSet *rollup_set_load(const Stream *stream, MemoryContext context);
extern void rollup_set_apply(RollupSet *set, Tuplestorestate *events, bool is_guarded);
extern TimestampTz rollup_set_due(const RollupSet *set);

/* in rollup/fill.c */
extern bool rollup_set_fill(RollupSet *set);

/* in rollup/fill_worker.c, for the worker of that duty */
extern bool fill_worker_step(const Stream *stream);

/* in rollup/compact.c */
extern bool rollup_set_compact(RollupSet *set);
extern List *rollup_states_to_vacuum(const RollupSet *set);

/* in rollup/repair_queue.c */
extern void rollup_queue_repairs(const Stream *stream, EditTimes *edited);
extern void rollup_repair_unseen_edits(int32 stream_id);

/* in rollup/retention.c */
extern bool rollup_set_expire(RollupSet *set);

/* ---------------------------------------------------------------------
 * Among the files of this folder
 * ---------------------------------------------------------------------
 */

/* A column of the state table by which its rows are told apart. */
typedef struct RollupKey
{
	char *name;
	Expr *expr;			/* over the query's tables */
	Index sortgroupref; /* 0: the constant key of a query without groups */
	Oid type;
	int32 typmod;
	Oid collation;
} RollupKey;

/* A column of the state table that holds the partial states of an aggregate. */
typedef struct RollupState
{
	char *name;
	Aggref *aggref;	 /* over the query's tables */
	bool serialized; /* as its serial function makes it, because it is internal */
	bool finalized;	 /* false: the state is the result */
	int position;	 /* in the query */
	Oid type;		 /* of the column */
	Oid collation;
	Oid combine_function;
} RollupState;

/* How a rollup's query is split into keys and states. */
typedef struct RollupShape
{
	Query *query;	/* its join aliases are flattened */
	int events_rti; /* of the events table in its range table */
	int ngroups;	/* 0: one row for all events */
	int nkeys;		/* ngroups, or 1 for the constant key */
	RollupKey *keys;
	int nstates;
	RollupState *states;
} RollupShape;

typedef enum RollupPhase
{
	ROLLUP_NEW,		/* nothing is in, batches pass it by */
	ROLLUP_FILLING, /* events from filled_from on are in */
	ROLLUP_ACTIVE,	/* all events are in */
	ROLLUP_FAILED,	/* aside: it misses batches, and is tried again */
	ROLLUP_BEHIND	/* aside: it is catching up with what it has missed */
} RollupPhase;

/* The longest wait before a rollup that failed is tried again. */
#define ROLLUP_RETRY_MAX_MS (60 * 60 * 1000)

#define ROLLUP_PHASES (ROLLUP_BEHIND + 1)

typedef struct PartialPlan PartialPlan;
typedef struct MergePlan MergePlan;

/* A rollup as the applier knows it. */
typedef struct Rollup
{
	const Stream *stream;
	int32 id;
	int32 replaces; /* the rollup whose new definition this is, or 0 */
	char *name;		/* by which users know it */
	Oid query_view;
	Oid state_table;
	char *time_zone;
	RollupPhase phase;			  /* as last committed */
	TimestampTz filled_from;	  /* while ROLLUP_FILLING */
	bool has_chunk;				  /* a worker reads the chunk below it, … */
	TimestampTz chunk_from;		  /* … from here on; DT_NOBEGIN: all that is left */
	RollupPhase aside_phase;	  /* that it had, while it is aside */
	TimestampTz retry_at;		  /* while ROLLUP_FAILED, or until it replaces another */
	TimestampTz kept_from;		  /* older buckets are gone; 0: none are */
	int server_major;			  /* that serialized its states; 0: none is */
	int attempts;				  /* since it failed first */
	TransactionId seen_from;	  /* snapshots of a later xmin see all of it */
	BlockNumber compacted_blocks; /* of the state table, when it was compacted last */
	int compact_rest;			  /* looks until it is compacted again at that size */
	PartialPlan *batch_plan;
	MergePlan *merge_plan;
} Rollup;

struct RollupSet
{
	const Stream *stream;
	MemoryContext context;
	int nrollups;
	Rollup *rollups;
	TimestampTz applied_until; /* last written to the catalog */
	bool is_stale;			   /* phases must be read again */
	TimestampTz repair_due;	   /* of the next repair that failed */
	TimestampTz fill_due;	   /* what a worker fills is looked at again; DT_NOEND: it fills none */
	TimestampTz fill_asked_at; /* a worker was asked for; 0: it was not */
	int compact_next;		   /* the rollup whose state table is compacted or looked at next */
	BlockNumber compact_begin; /* blocks before it have no more room */
	BlockNumber compact_end;   /* blocks from it on are empty; 0: it is not being compacted */
	BlockNumber compact_target; /* where the end is to be */
};

/* Which events partial_run aggregates. */
typedef struct PartialSource
{
	Tuplestorestate *batch; /* rows as the events table has them; NULL: the table */
	bool has_from;			/* event time >= from */
	TimestampTz from;
	bool has_until; /* event time < until, or NULL unless has_from */
	TimestampTz until;
	int bucket_key; /* of the two that follow; NULL: no bound */
	const Const *first_bucket;
	const Const *last_bucket; /* buckets that are NULL lie before all others */
	Snapshot snapshot;		  /* NULL: the transaction's newest */
} PartialSource;

/* What a rollup that is aside reads to catch up. */
typedef struct MissedEvents
{
	Tuplestorestate *events; /* rows as the events table has them */
	int64 last_batch;		 /* that they belong to; 0: nothing is missed */
	int64 lost;				 /* events that are not there any more */
} MissedEvents;

/* The row of a rollup, as verbs read it. */
typedef struct RollupRow
{
	int32 id;
	Oid events_table;
	Oid public_view;
	char *time_zone;
	TimestampTz kept_from; /* 0: none are gone */
	bool is_foreign;	   /* its states were serialized by others than would be now */
	Interval *retention;   /* NULL: for ever */
	int32 new_id;		   /* of its new definition, 0: it has none */
} RollupRow;

/* Another width of a rollup that is being made. */
typedef struct CoarserRollup
{
	char *name;
	Interval *retention; /* NULL: for ever */
	Query *query;
} CoarserRollup;

/* Buckets from first to last, both included: the values of their type, as they
 * are stored. */
typedef struct BucketRange
{
	int64 first;
	int64 last;
} BucketRange;

/* Which groups of a rollup detect.verify_rollup compares. */
typedef struct VerifyScope
{
	int bucket;			/* among the keys; -1: the rollup has none */
	Oid bucket_type;	/* without domains */
	bool has_wanted;	/* only these buckets are asked for */
	BucketRange wanted; /* none: first is beyond last */
	bool all_gone;		/* none can be verified */
	bool timeless_gone; /* nor can buckets without a finite time */
	List *gone;			/* nor these: of BucketRange, in order, apart */
} VerifyScope;

/* in rollup/aggregate_state.c */
extern Oid aggregate_state_stored_type(Oid deserial_function);
extern char *aggregate_state_maker(const Aggref *aggref);
extern Datum aggregate_state_make(const char *maker, Datum serialized);
extern bool aggregate_state_is_foreign(const RollupShape *shape, Oid state_table);

/* in rollup/aside.c */
extern ErrorData *aside_try(void (*step)(void *arg), void *arg, bool keep);
extern ErrorData *
aside_try_absorb(const Rollup *rollup, PartialPlan *plan, const PartialSource *source, bool keep);
extern TimestampTz aside_retry_time(int failures, int64 max_ms);
extern bool aside_is_due(TimestampTz retry_at);
extern void aside_write(Rollup *rollup, const ErrorData *error, const char *event);
extern bool aside_catch_up(Rollup *rollup);

/* in rollup/blame.c */
extern char *blame_event(const Rollup *rollup, const ErrorData *error, const PartialSource *source);

/* in rollup/bucket.c */
extern int bucket_key(const RollupShape *shape, const Stream *stream);
extern Const *bucket_of(const RollupShape *shape, const Stream *stream, int key, TimestampTz time);
extern bool bucket_is_ordered(const RollupShape *shape, int key);
extern TimestampTz
bucket_begin(const RollupShape *shape, const Stream *stream, int key, TimestampTz time);
extern TimestampTz
bucket_end(const RollupShape *shape, const Stream *stream, int key, TimestampTz time);
extern TimeRange
bucket_cover(const RollupShape *shape, const Rollup *rollup, int key, TimeRange times);
extern int64 bucket_slack_usec(const RollupShape *shape, const Stream *stream, int key);
extern TimestampTz
bucket_time(const RollupShape *shape, const Stream *stream, int key, TimestampTz time);
extern TimestampTz bucket_reach(const RollupShape *shape, const Stream *stream, int key,
								TimestampTz time, int direction);

/* in rollup/coarser.c */
extern List *coarser_list(Jsonb *definition, const RollupShape *shape, const Stream *stream);

/* in rollup/definition.c */
extern bool definition_find(const char *name, RollupRow *row);
extern void definition_changed(const Stream *stream);
extern void definition_get(const char *name, RollupRow *row);
extern Stream *definition_lock(const char *name, RollupRow *row);
extern void definition_require_stream(const char *name, const Stream *stream);
extern Query *definition_parse_query(char *text);
extern RollupShape *definition_make(const char *name, Query *query, const Stream *stream,
									const Interval *retention, const RollupRow *replaced);
extern char *definition_new_name(int32 id);
extern void definition_drop_new(const RollupRow *row);
extern void definition_drop_relations(const char *name);

/* in rollup/fill.c */
extern void fill_lock(const Stream *stream, LOCKMODE mode);
extern void fill_write_progress(const Rollup *rollup, const PartialSource *chunk, int64 rows);

/* in rollup/fill_chunk.c */
extern bool fill_has_chunks(const Stream *stream);
extern bool fill_next_chunk(const Stream *stream, const TimestampTz *frontier, TimestampTz *from);
extern bool fill_newest_end(const Stream *stream, TimestampTz *end);
extern double fill_estimate_events(const Stream *stream, TimestampTz from, TimestampTz until);
extern void fill_forget_chunks(void);
extern void fill_expect_chunk(double events);
extern void fill_limit_chunk(double events);
extern void fill_measure_chunk(const Stream *stream, const PartialSource *chunk, int64 events,
							   instr_time since, double target_ms);

/* in rollup/gone.c */
extern List *gone_ranges(const Stream *stream);

/* in rollup/gone_follow.c */
extern void gone_follow(const Stream *stream);
extern void gone_note_made(Oid events_table, Oid relation);
extern void gone_reload(void);
extern void gone_forget_unused(void);

/* in rollup/implied.c */
extern void implied_remove(const PlannedStmt *stmt, Plan *plan);

/* in rollup/join.c */
extern PlannedStmt *join_plan(Query *query, const char *text);

/* in rollup/missed.c */
extern void missed_write(const Rollup *rollup, Tuplestorestate *events);
extern void missed_write_chunk(const Rollup *rollup, Tuplestorestate *events);
extern ErrorData *missed_read(const Rollup *rollup, MissedEvents *missed);
extern void missed_delete(const Rollup *rollup, int64 last_batch);
extern int64 missed_last_batch(const Rollup *rollup, Snapshot snapshot);
extern char *missed_describe(const Stream *stream, Tuplestorestate *event);

/* in rollup/query_check.c */
extern Stream *query_check(const Query *query);

/* in rollup/shape.c */
extern RollupShape *shape_create(const Query *query, Oid events_table);
extern RollupShape *shape_load(Oid query_view, Oid events_table);
extern List *shape_results(const RollupShape *shape);
extern List *shape_public_targets(const RollupShape *shape, Oid state_table, Node **having);

/* in rollup/relations.c */
extern Oid relation_create_state_table(const char *name, const RollupShape *shape, Oid owner);
extern Query *relation_public_query(const RollupShape *shape, Relation state_table);
extern Oid relation_create_view(const char *name, Query *query, const char *comment);
extern Oid relation_create_public_view(const char *name, const RollupShape *shape, Oid state_table);
extern void relation_check_public_view(Oid view, const RollupShape *shape);
extern void relation_replace_public_view(Oid view, const RollupShape *shape, Oid state_table);
extern void relation_rename(Oid query_view, Oid state_table, const char *name);

/* in rollup/partial.c */
extern PartialPlan *partial_plan_create(MemoryContext context);
extern void partial_lock(const Rollup *rollup, PartialPlan *plan, const PartialSource *source);
extern int64 partial_run(const Rollup *rollup, PartialPlan *plan, const PartialSource *source,
						 Tuplestorestate *partial);

extern int partial_enter_time_zone(const Rollup *rollup);

/* in rollup/partial_query.c */
extern Node *partial_is_null(const Expr *time);
extern Node *partial_comparison(const Expr *time, int strategy, const Const *bound);
extern Query *
partial_query(const Rollup *rollup, const PartialSource *source, const char *batch_name);

/* in rollup/partial_receiver.c */
extern DestReceiver *partial_receiver_create(const PlannedStmt *stmt, Tuplestorestate *partial);

/* in rollup/merge.c */
extern MergePlan *merge_plan_create(MemoryContext context);
extern void
merge_check_state_table(const Rollup *rollup, const RollupShape *shape, TupleDesc tupdesc);
extern void merge_partial(const Rollup *rollup, Tuplestorestate *partial, bool are_new);

/* in rollup/rollup.c */
extern const char *const rollup_phase_names[ROLLUP_PHASES];
extern Rollup *rollup_load(const Stream *stream, int32 id);
extern void rollup_set_refresh(RollupSet *set);
extern void rollup_check_server_major(const Rollup *rollup);
extern bool rollup_is_aside(const Rollup *rollup);
extern int64 rollup_absorb(const Rollup *rollup, PartialPlan *plan, const PartialSource *source);
extern Oid rollup_query_view(const char *name);
extern Oid rollup_state_table(const char *name);
extern Oid rollup_owner(const char *name);
extern void rollup_check_state_table(Oid state_table);
extern ActingUser rollup_act_as_owner(const char *name);

/* in rollup/repair.c */
extern bool rollup_set_repair(RollupSet *set);

/* in rollup/retention.c */
extern Node *
retention_condition(const RollupShape *shape, const Stream *stream, TimestampTz kept_from);
extern void retention_check_interval(const Interval *retention);
extern void retention_check(const RollupShape *shape, const Stream *stream);
extern bool retention_has_older(const Rollup *rollup, TimestampTz time);

/* in rollup/swap.c */
extern void swap_try(Rollup *rollup);
extern void swap_wait_begin(int32 rollup_id);
extern void swap_wait_end(int32 rollup_id);

/* in rollup/verify_sql.c */
extern char *verify_sql(const RollupShape *shape, const VerifyScope *scope, Relation state_table,
						const char *recomputed_name);

/* in rollup/view.c */
extern Oid rollup_view_of(Oid view, Oid state_table);
extern void rollup_record_dependency(Oid state_table, Oid query_view);
extern void rollup_record_dependencies(const Stream *stream);

#endif /* DETECT_ROLLUP_H */
