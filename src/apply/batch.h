/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  The elements that the applier works on between two commits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_BATCH_H
#define DETECT_BATCH_H

#include "detect.h"
#include "apply/dedup.h"
#include "ingest/staging.h"
#include "storage/itemptr.h"

typedef struct RetriedLetter RetriedLetter;

/* One element; its ordinal is its index in the batch. */
typedef struct Element
{
	Progress *progress; /* of its partition, in the applier's list */
	int64 offset;
	int32 element;
	TimestampTz kafka_timestamp; /* DT_NOBEGIN: none */
	bool is_converted;			 /* element_convert() has been here */
	bool has_identity;			 /* undecodable elements have none */
	Identity identity;
	TimestampTz event_time; /* DT_NOBEGIN: none */

	/* Decided anew whenever the element is tried. */
	bool is_gone;  /* a row staged by SQL that somebody else took */
	bool has_row;  /* the query gave a row for it */
	bool was_seen; /* in the events table, by a trigger that looked */
	Outcome outcome;

	bool is_known;	 /* our unique index has refused it */
	bool is_refused; /* by the events table, which the piece was applied without */

	/* Known to fail: why.  sqlstate is 0 while nothing speaks against it. */
	int sqlstate;
	const char *stage; /* decode, check, query or apply */
	const char *reason;

	RetriedLetter *letter; /* that it comes from, else NULL */
	bool replaces_letter;  /* in the counts: of many elements only the first */
	bool is_void;		   /* stands for a message that has no elements */

	ItemPointerData message_tid; /* staged by a consumer: the first row of its message */
	HeapTuple sql_row;			 /* staged by SQL: the row, in the batch's context */
	Datum *values;				 /* of the staging table's columns, by attnum - 1 */
	bool *nulls;
} Element;

/* Where the elements of a batch come from. */
typedef enum BatchSource
{
	SOURCE_KAFKA,  /* consumers' staging tables */
	SOURCE_SQL,	   /* detect_staging.<stream> */
	SOURCE_LETTERS /* dead letters that are retried */
} BatchSource;

/* A batch lives in the applier's batch context. */
typedef struct Batch
{
	int count;
	int allocated;
	int limit; /* of elements, but that no message is torn apart */
	Element *elements;
	Size bytes;	 /* of their staged rows */
	bool is_cut; /* more is staged than fits */
	BatchSource source;
	bool has_locked_rows;  /* that somebody else holds for now */
	int taken;			   /* rows and letters that were not held by others */
	TimestampTz now;	   /* when it was read: what is late, what is ahead */
	List *staged_progress; /* of the same look, NIL for SQL */
} Batch;

/* Events before are expired, events after are a producer's mistake. */
typedef struct EventTimes
{
	TimestampTz oldest; /* DT_NOBEGIN without retention */
	TimestampTz newest;
} EventTimes;

typedef struct Events Events;

/* Shown what the events table has accepted. */
typedef void (*AcceptedWitness)(Relation events_table, Tuplestorestate *accepted, void *argument);

/* in apply/staged_read.c */
typedef struct StagedReader StagedReader;
extern StagedReader *staged_reader_create(const Stream *stream, int writer, MemoryContext context);
extern bool staged_read(StagedReader *reader, Batch *batch, List *applied);
extern void staged_read_sql(StagedReader *reader, Batch *batch, Progress *sql_progress);
extern void staged_take_sql(const Stream *stream, Batch *batch, int from, int to);
extern void staged_reader_rewind(StagedReader *reader);
extern void staged_reader_restart(StagedReader *reader);
extern BlockNumber staged_reader_blocks(const StagedReader *reader);

/* in apply/element.c */
extern Element *batch_append(Batch *batch);
extern Element *batch_append_staged(const StagedReader *reader, Batch *batch, Progress *progress,
									const Datum *staged, const bool *nulls);
extern char *element_allocate_values(const Stream *stream, Element *element, Size more_bytes);
extern TimestampTz element_event_time(const StagedReader *reader, const Element *element);
extern void element_convert(StagedReader *reader, Element *element);
extern void batch_check_event_times(StagedReader *reader, Batch *batch);

/* in apply/staged_message.c */
extern void
staged_message(const Stream *stream, const Element *element, Datum *values, bool *nulls);
extern int64 staged_fingerprint(const Stream *stream, const Element *element);

/* in apply/events.c */
extern const char *events_stage; /* where an element is, for its dead letter */
extern Events *events_create(const Stream *stream, MemoryContext context);
extern void
events_apply(Events *events, Batch *batch, Element **candidates, int ncandidates, Dedup *dedup);
extern void events_reload(Events *events);
extern struct RollupSet *events_rollups(const Events *events);
extern bool events_failed_in_rollup(const Events *events);
extern bool events_guard_rollups(Events *events, bool guarded);
extern void events_abort(Events *events);
extern void events_set_witness(Events *events, AcceptedWitness witness, void *argument);

/* in apply/refused.c */
extern bool events_look_for_refused(Events *events, bool look);
extern bool events_searched_for(const Events *events, const Element *element);
extern void events_keep_order(Events *events, const Element *next);
extern bool events_failed_at_row(const Events *events);
extern const Element *events_piece_end(const Events *events);

/* in apply/decide.c */
extern void decide_piece(const Stream *stream, StagedReader *reader, Dedup *dedup, Events *events,
						 Batch *batch, int from, int to);
extern void element_release_identity(Dedup *dedup, const Element *element);
extern EventTimes event_times(const Stream *stream, TimestampTz now);
extern TimestampTz *batch_times_to_cover(const Stream *stream, const Batch *batch, int *ntimes);

/* in apply/query.c */
extern void query_check_text(const Stream *stream);

#endif /* DETECT_BATCH_H */
