/*-------------------------------------------------------------------------
 *
 * detect.h
 *	  The nouns of detect as C types, and a table of contents of its files.
 *
 * server, stream, message, element, staging table, batch, event, events
 * table, place table, rollup, dead letter, progress, consumer, applier and
 * launcher mean what README.md says, here and everywhere.
 *
 * Lock order within a process: the stream's lock (stream_lock), then
 * relations, then detect_shared->lock, which is held for a few instructions
 * only and never across anything that can raise an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_H
#define DETECT_H

#include "postgres.h"

#include "access/attnum.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "monitor/log_limit.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "postmaster/bgworker.h"
#include "storage/lockdefs.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/portal.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#define DETECT_VERSION "1.0"

/* Schemas that the extension owns. */
#define DETECT_SCHEMA		  "detect"
#define DETECT_STAGING_SCHEMA "detect_staging" /* <stream>: fed by SQL */
#define DETECT_QUERY_SCHEMA	  "detect_query"   /* <stream>, <rollup>: views */
#define DETECT_STATE_SCHEMA	  "detect_state"   /* <rollup>: partial states */

/* The column of a staging table that leads a row back to its element. */
#define DETECT_ORDINAL "_ordinal"

/* The name under which a stream's query reads its elements. */
#define DETECT_BATCH "batch"

/* An output column of a stream's query: why an element is rejected, or NULL. */
#define REJECT_REASON "reject_reason"

/* What follows when a stream has as many dead letters as it may keep. */
#define ON_LIMIT_PAUSE		  "pause"
#define ON_LIMIT_KEEP_OFFSETS "keep_offsets"

/* Progress of the elements that SQL staged is kept under this partition. */
#define SQL_TOPIC	  ""
#define SQL_PARTITION (-1)

#define REASON_BYTES 512

/* How many relations an applier can have tended at a time, beside partitions that
 * are past: indexed because their identities exceed the memory for them, or, state
 * tables of rollups, cut off. */
#define CHORES_WANTED 16

/* ---------------------------------------------------------------------
 * Definitions, as the workers and verbs load them
 * ---------------------------------------------------------------------
 */

/* Where the value of a stream's column comes from. */
typedef enum ColumnSource
{
	COLUMN_FIELD, /* a path in the payload */
	COLUMN_KAFKA_TOPIC,
	COLUMN_KAFKA_PARTITION,
	COLUMN_KAFKA_OFFSET,
	COLUMN_KAFKA_TIMESTAMP,
	COLUMN_KAFKA_KEY,
	COLUMN_KAFKA_HEADERS,
	COLUMN_KAFKA_VALUE,
	COLUMN_ORDINAL
} ColumnSource;

/* One column of detect_staging.<stream>. */
typedef struct StreamColumn
{
	AttrNumber attnum; /* in detect_staging.<stream> */
	char *name;
	Oid type;
	int32 typmod;
	Oid collation;
	ColumnSource source;
	char *path;		 /* of COLUMN_FIELD */
	Oid staged_type; /* in a consumer's table, see stream_columns.c */
	int32 staged_typmod;
} StreamColumn;

/* Times from one on and before another; either may be infinite. */
typedef struct TimeRange
{
	TimestampTz from;
	TimestampTz until;
} TimeRange;

/* A stream's definition; lives in the context it was loaded in. */
typedef struct Stream
{
	int32 id;
	char *name;
	Oid owner;	  /* of the query view */
	char *server; /* NULL: fed by SQL alone */
	List *topics; /* of char *, NIL without a server; their order is kept */
	Oid events_table;
	Oid staging_table;	  /* detect_staging.<name> */
	Oid query_view;		  /* detect_query.<name> */
	char *start;		  /* earliest, latest or a timestamp */
	char *unnest;		  /* path of an array of elements, or NULL */
	int consumers;		  /* 0: one worker consumes and applies */
	List *key;			  /* of char *: columns of the identity */
	char *event_time;	  /* NULL: events have no time */
	List *events_columns; /* of char *: what the query's rows fill */
	bool default_query;	  /* nobody wrote it: the same-named columns */
	Interval *partition_interval;
	Interval *retention;			 /* NULL: for ever */
	int64 dead_letter_limit;		 /* kept with their payload; -1: no limit */
	bool keep_offsets;				 /* past the limit; else the stream pauses */
	Interval *dead_letter_retention; /* NULL: for ever */
	int ncolumns;
	StreamColumn *columns; /* without the ordinal, in table order */
	AttrNumber ordinal_attnum;
	int natts; /* of detect_staging.<name>, dropped ones too */
	bool paused;
	char *paused_reason;
	bool is_copy; /* made in another database than this one */
} Stream;

/* What became of an element; the order is that of the counters. */
typedef enum Outcome
{
	OUTCOME_ACCEPTED,
	OUTCOME_DUPLICATE,
	OUTCOME_FILTERED,
	OUTCOME_EXPIRED,
	OUTCOME_DEAD_LETTER,
	OUTCOMES
} Outcome;

/* Steps of the budget, timed by the workers. */
typedef enum Step
{
	STEP_FETCH,
	STEP_DECODE,
	STEP_STAGE,
	STEP_READ,
	STEP_DEDUP,
	STEP_QUERY,
	STEP_INSERT,
	STEP_ROLLUP,
	STEP_COMMIT,
	STEPS
} Step;

/* ---------------------------------------------------------------------
 * Shared memory: who runs, and how it goes
 * ---------------------------------------------------------------------
 */

typedef enum WorkerDuty
{
	DUTY_PROBE,	   /* tells the launcher a database's streams */
	DUTY_APPLY,	   /* the applier; consumes too if alone */
	DUTY_MAINTAIN, /* indexes of closed partitions, retention */
	DUTY_FILL,	   /* reads history for new rollups */
	DUTY_CONSUME,  /* a consumer beside the applier: of these several */
	DUTIES
} WorkerDuty;

/* A slot has an entry for each duty, and for each consumer: DUTY_CONSUME is
 * the first of them, and the last duty. */
#define MAX_CONSUMERS	  16
#define WORKER_ENTRIES	  (DUTY_CONSUME + MAX_CONSUMERS)
#define ENTRY_DUTY(entry) ((WorkerDuty) Min((entry), DUTY_CONSUME))

/* Whether the duty of an entry is done once, when the applier asks for it; that it
 * fails does not hold the stream up. */
#define ENTRY_IS_DONE_ONCE(entry) ((entry) == DUTY_MAINTAIN || (entry) == DUTY_FILL)

typedef enum StreamState
{
	STREAM_STOPPED,	   /* no worker yet, or none any more */
	STREAM_STARTING,   /* loading definitions and identities */
	STREAM_CONNECTING, /* waiting for the broker */
	STREAM_RUNNING,
	STREAM_RETRYING, /* environment error, same batch again; or the worker itself */
	STREAM_WAITING	 /* for a worker slot of the server */
} StreamState;

/* What a process has of a locator in memory, and how it answers. */
typedef struct LocatorStats
{
	Oid view;	  /* detect_query.<locator>; InvalidOid: several together */
	int fallback; /* Fallback of the last statement: see place/locator.h */
	int64 places;
	int64 vertices;
	int64 bytes;
	int64 builds;		  /* of all places */
	int64 partial_builds; /* of those that had changed */
	int64 places_built;	  /* by both */
	double build_ms;
	TimestampTz built_at; /* 0: never */
	int64 from_memory;	  /* look-ups */
	int64 from_query;
} LocatorStats;

/* Of so many locators a worker tells one by one, of the others together. */
#define WORKER_LOCATORS 8

/* One worker of a stream that should run, or runs. */
typedef struct WorkerEntry
{
	int pid;
	PGPROC *proc;
	bool exited_cleanly; /* the last worker, with code 0 */
	bool waits_for_slot; /* the server had none free for it */
	StreamState state;
	Oid events_table;	  /* of maintenance, once it has begun */
	int64 step_us[STEPS]; /* since it started */
	int nlocators;
	LocatorStats locators[WORKER_LOCATORS + 1]; /* as of its last commit */
} WorkerEntry;

#define FRESHNESS_BUCKETS 128

/* How long events took from kafka_timestamp to commit: a histogram over
 * logarithmic buckets, two generations, so that a view shows the last 10 to
 * 20 seconds. */
typedef struct Freshness
{
	TimestampTz since;
	uint32 current[FRESHNESS_BUCKETS];
	uint32 previous[FRESHNESS_BUCKETS];
} Freshness;

/* One stream that should run, or runs.  Written under detect_shared->lock,
 * but for the counters, which only the stream's applier writes. */
typedef struct StreamSlot
{
	bool in_use;
	uint32 generation; /* grows when the slot changes hands */
	Oid database;
	int32 stream_id;
	Oid owner;
	bool wanted;  /* neither paused nor dropped */
	bool dropped; /* to be freed once no worker of it runs */
	int consumers;
	bool duty_wanted[DUTIES]; /* that is done once, when the applier asks for it */
	int nchores_wanted;		  /* beside those of partitions that are past */
	Oid chores_wanted[CHORES_WANTED];
	char name[NAMEDATALEN];

	WorkerEntry workers[WORKER_ENTRIES];

	/* How often something was staged: the applier looks when they change. */
	uint32 staged_commits; /* by a consumer */
	uint32 sql_commits;	   /* by SQL */

	/* Stats. */
	bool is_running;
	TimestampTz state_since;   /* that it is, or is not */
	char reason[REASON_BYTES]; /* why it retries or stopped */
	int reason_entry;		   /* of the worker who said so */
	int last_sqlstate;
	TimestampTz last_error_at;
	int64 retries;
	int64 batches;
	int64 elements;
	int64 identities; /* held in memory */
	int64 identity_bytes;
	int64 outcomes[OUTCOMES]; /* since the worker started */
	TimestampTz last_batch_at;
	double events_per_second;
	Freshness freshness;
	LogLimit log_limit;
} StreamSlot;

#define PROBE_REQUESTS 64
#define PLACE_COMMITS  64

typedef struct DetectShared
{
	LWLock *lock;
	PGPROC *launcher; /* NULL while it is not running */
	int launcher_pid;
	bool probe_succeeded;	/* the probe that ran last … */
	bool probe_has_written; /* … has paused what can't run, too */
	bool no_worker_slot;	/* all worker slots of the server are taken */
	bool slots_exhausted;	/* a stream wanted one and got none */
	bool probe_all;			/* look at every connectable database */
	int nprobe_requests;
	Oid probe_requests[PROBE_REQUESTS];
	pg_atomic_uint32 place_commits[PLACE_COMMITS]; /* that are under way, by locator */
	int nslots;
	StreamSlot slots[FLEXIBLE_ARRAY_MEMBER];
} DetectShared;

/* NULL unless the library is in shared_preload_libraries. */
extern DetectShared *detect_shared;

/* What a dynamic worker is told in bgw_extra. */
typedef struct WorkerOrder
{
	WorkerDuty duty;
	int entry; /* duty, or for consumers DUTY_CONSUME and their number */
	int slot;
	uint32 generation;
	Oid database;
	Oid owner;
	int32 stream_id;
} WorkerOrder;

/* ---------------------------------------------------------------------
 * in settings.c
 * ---------------------------------------------------------------------
 */
extern int detect_batch_timeout_ms;
extern int detect_dead_letter_payload_kilobytes;
extern int detect_locator_kilobytes;
extern int detect_max_streams;
extern int detect_max_batch_rows;
extern int detect_max_batch_kilobytes;
extern int detect_max_batch_ms;
extern int detect_retry_interval_ms;
extern int detect_identity_memory_kilobytes;
extern bool detect_superuser_streams;
extern int detect_worker_locator_kilobytes;
extern void settings_define(void);

/* ---------------------------------------------------------------------
 * in catalog.c: our own tables, read and written by C
 * ---------------------------------------------------------------------
 */

/* A table of ours, open for simple inserts and updates. */
typedef struct CatalogWriter
{
	Relation rel;
	EState *estate;
	ResultRelInfo *result;
	TupleTableSlot *slot;
	int columns;				  /* that values are given for */
	struct CatalogLookup *lookup; /* of rows that are replaced; NULL: none so far */
} CatalogWriter;

extern Oid catalog_relation(const char *name, bool missing_ok);
extern Oid catalog_owner(void);
extern Oid relation_owner(Oid relid, bool missing_ok);
extern bool catalog_installed(void);
extern void catalog_check_version(int sqlstate);
extern CatalogWriter *catalog_open(const char *table, int columns);
extern void catalog_close(CatalogWriter *writer);
extern void catalog_write(CatalogWriter *writer, const Datum *values, const bool *nulls);
extern void catalog_rewrite(CatalogWriter *writer, TupleTableSlot *found, const Datum *values,
							const bool *nulls);
extern void catalog_insert(const char *table, int columns, const Datum *values, const bool *nulls);
extern void
catalog_upsert(CatalogWriter *writer, int nkeys, const Datum *values, const bool *nulls);
extern int
catalog_execute(const char *sql, int nargs, Oid *argtypes, Datum *values, const char *nulls);
extern int
catalog_execute_often(SPIPlanPtr *plan, const char *sql, int nargs, Oid *argtypes, Datum *values);
extern int catalog_read(const char *sql, int nargs, Oid *argtypes, Datum *values);
extern void catalog_use_default_storage(void);
extern int64 catalog_next_id(const char *sequence);

/* ---------------------------------------------------------------------
 * in stream.c: definitions of streams
 * ---------------------------------------------------------------------
 */
extern Stream *stream_load(const char *name, bool missing_ok);
extern Stream *stream_load_by_id(int32 stream_id, bool missing_ok);
extern Stream *stream_load_by_events_table(Oid events_table);
extern int32 stream_number(const char *name, Oid *events_table);
extern int stream_topic_index(const Stream *stream, const char *topic);
extern char *stream_member_path(const char *from, const char *name);
extern ColumnSource stream_column_source(const char *name, Oid *reserved_type);
extern void stream_require_logged(Oid table);
extern void stream_check_objects(const Stream *stream);
extern void stream_check_not_null(const Stream *stream, const char *column);
extern void stream_lock(int32 stream_id, LOCKMODE mode);
extern bool stream_try_lock(int32 stream_id);
extern void stream_check_owner(const Stream *stream);
extern void stream_raise_changed(const char *name);
extern Stream *stream_lock_named(const char *name, LOCKMODE mode, bool missing_ok);
extern void stream_set_paused(int32 stream_id, const char *reason, const char *remedy);
extern void stream_changed(void);

/* ---------------------------------------------------------------------
 * in name.c: lists of names
 * ---------------------------------------------------------------------
 */
extern Datum names_to_array(const List *names);
extern List *names_from_array(Datum array);
extern int names_position(const List *names, const char *name);

/* ---------------------------------------------------------------------
 * in citus.c: tables that are not what they look like
 * ---------------------------------------------------------------------
 */
extern bool citus_has_table(Oid relation);
extern Oid citus_table_in_query(Node *query);

/* ---------------------------------------------------------------------
 * in relation_change.c: who hears that a relation has changed
 * ---------------------------------------------------------------------
 */
extern void relation_change_listen(void (*listener)(Datum arg, Oid relation));

/* ---------------------------------------------------------------------
 * in database_in_use.c: workers that keep a database from being dropped
 * ---------------------------------------------------------------------
 */
extern void database_in_use_register(void);

/* ---------------------------------------------------------------------
 * in admin.c: who may make streams
 * ---------------------------------------------------------------------
 */
extern void admin_require(const char *verb);

/* ---------------------------------------------------------------------
 * in history.c: who called which verb
 * ---------------------------------------------------------------------
 */
extern void history_record(const char *verb, const char *object, const char *detail);
extern bool history_forget_old(void);

/* ---------------------------------------------------------------------
 * in subtransaction.c: a step that may fail
 * ---------------------------------------------------------------------
 */
extern ErrorData *subtransaction_try(void (*step)(void *arg), void *arg, bool keep);

/* Whether a time that was at most so far ahead when it was set is over: also after the
 * clock was set back, when it is further ahead than that. */
static inline bool
time_is_over(TimestampTz until, TimestampTz now, int64 most_ms)
{
	return now >= until || until - now > most_ms * 1000;
}

/* Whether so much time has passed since a time; also after the clock was set back, which
 * leaves nobody waiting for as long as that was. */
static inline bool
time_has_passed(TimestampTz since, TimestampTz now, int64 ms)
{
	return now < since || now - since >= ms * 1000;
}

/* ---------------------------------------------------------------------
 * in stream_transaction.c: transactions of workers
 * ---------------------------------------------------------------------
 */
extern void transaction_begin(void);
extern void transaction_flush_all(void);
extern bool stream_transaction_begin(const Stream *stream);
extern void stream_transaction_commit(void);

/* ---------------------------------------------------------------------
 * in events_trigger.c: the triggers of an events table and its partitions
 * ---------------------------------------------------------------------
 */
#define EVENTS_TRIGGER "_detect_accepted" /* a table that has any of them has this one */

extern void events_triggers_make(Oid relation);
extern bool events_triggers_may_make(Oid partition);
extern bool events_triggers_watch(Relation table);

/* ---------------------------------------------------------------------
 * in monitor/problem.c: what a DBA should know of, until it is over
 * ---------------------------------------------------------------------
 */
extern void problem_set(int32 stream_id, const char *problem, Oid relation, const char *detail,
						const char *remedy);
extern void problem_clear(int32 stream_id, const char *problem, Oid relation);

/* ---------------------------------------------------------------------
 * in monitor/stats.c: what slots say, and to whom
 * ---------------------------------------------------------------------
 */
extern bool stats_copy_slot(int i, StreamSlot *copy);
extern bool stats_may_see(Oid owner);

/* ---------------------------------------------------------------------
 * in ingest/launcher.c: the process that decides which workers run
 * ---------------------------------------------------------------------
 */
extern void launcher_register(void);
extern void launcher_require(void);
extern void launcher_probe_at_commit(void);
extern void launcher_wake(void);
extern bool
launcher_start(const WorkerOrder *order, const char *object, BackgroundWorkerHandle **handle);
extern int launcher_retry_delay_ms(int failures);
extern bool launcher_is_due(TimestampTz due, TimestampTz now);
extern PGDLLEXPORT void detect_launcher_main(Datum arg);

/* ---------------------------------------------------------------------
 * in ingest/launch.c: the workers of slots
 * ---------------------------------------------------------------------
 */
extern TimestampTz launch_tend_slots(void);
extern void launch_forgive(Oid database);

/* ---------------------------------------------------------------------
 * in ingest/probe.c: which databases are asked for their streams
 * ---------------------------------------------------------------------
 */
extern void probe_request(Oid database, TimestampTz due);
extern void probe_request_all(void);
extern TimestampTz probe_tend(void);
extern bool probe_is_open(Oid database);

/* ---------------------------------------------------------------------
 * in ingest/reconcile.c: a database's streams become slots
 * ---------------------------------------------------------------------
 */
extern void probe_run(void);

/* ---------------------------------------------------------------------
 * in ingest/slot.c: the shared slots of streams
 *
 * slot_find() is for callers that hold detect_shared->lock or are a worker of
 * the stream; the others take the lock themselves.
 * ---------------------------------------------------------------------
 */
extern Size slot_shmem_bytes(void);
extern void slot_shmem_init(void);
extern StreamSlot *slot_find(Oid database, int32 stream_id);
extern StreamSlot *slot_claim(const WorkerOrder *order);
extern StreamState slot_state(const StreamSlot *slot);
extern void slot_set_state(StreamSlot *slot, StreamState state);
extern void slot_set_reason(StreamSlot *slot, const char *reason);
extern void slot_set_entry_reason(StreamSlot *slot, int entry, const char *reason);
extern void slot_clear_reason(StreamSlot *slot, int entry);
extern void slot_note_error(StreamSlot *slot, int sqlstate, const char *reason);
extern void slot_record_error(StreamSlot *slot, int sqlstate, const char *reason);
extern void slot_wake(StreamSlot *slot, int entry);
extern void slot_wake_at_commit(int32 stream_id);
extern void slot_tell_staged(StreamSlot *slot);
extern void slot_want_duty(StreamSlot *slot, WorkerDuty duty);
extern bool slot_has_worker(const StreamSlot *slot, WorkerDuty duty);
extern void slot_end_filling(int32 stream_id);
extern void slot_begin_maintenance(Oid events_table);
extern void slot_end_maintenance(Oid events_table);
extern void slot_want_chores(StreamSlot *slot, const List *relations);
extern List *slot_chores_wanted(const StreamSlot *slot);

/* ---------------------------------------------------------------------
 * in ingest/freshness.c
 * ---------------------------------------------------------------------
 */
extern void slot_record_freshness(StreamSlot *slot, TimestampTz now, int64 age_us, uint32 events);
extern bool
freshness_percentile(const Freshness *freshness, double fraction, TimestampTz now, double *age_ms);

/* ---------------------------------------------------------------------
 * in ingest/worker.c
 *
 * worker_definition_changed is set when the stream, or a rollup, may have
 * changed.  The worker looks; if it need not exit, it clears the flag and calls
 * consumer_reload() and applier_reload().
 * ---------------------------------------------------------------------
 */
extern StreamSlot *my_slot;	  /* of the worker's stream, else NULL */
extern WorkerEntry *my_entry; /* of the worker in it */
extern bool worker_definition_changed;
extern const char *const worker_duty_names[DUTIES];
extern void worker_attach_signals(void);
extern PGDLLEXPORT void detect_worker_main(Datum arg);

extern double elapsed_ms(instr_time since);
extern void step_time(Step step, instr_time *since);

/* ---------------------------------------------------------------------
 * in ingest/session.c: settings, and what code of users leaves
 * ---------------------------------------------------------------------
 */
extern void session_pin_settings(WorkerDuty duty);
extern void session_imitate_worker(void);
extern void session_undo(void);

/* ---------------------------------------------------------------------
 * in ingest/watch.c: has the worker's stream changed?
 * ---------------------------------------------------------------------
 */
extern bool watch_stale; /* look again: whoever finds it set after taking
								 * the stream's lock does nothing */
extern void watch_begin(const Stream *stream);
extern char *watch_fingerprint(const Stream *stream);

/* ---------------------------------------------------------------------
 * in rollup/…: see rollup/rollup.h
 * ---------------------------------------------------------------------
 */

#endif /* DETECT_H */
