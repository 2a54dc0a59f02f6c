/*-------------------------------------------------------------------------
 *
 * applier_internal.h
 *	  What the files of the applier share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_APPLIER_INTERNAL_H
#define DETECT_APPLIER_INTERNAL_H

#include "apply/applier.h"
#include "apply/attempt.h"
#include "apply/dead_letter.h"

/* How often partitions, and what is kept too long, are looked at. */
#define MAINTAIN_CHECK_MS 60000

/* When a source of staged rows must be looked at again. */
typedef struct Lookout
{
	uint32 seen_commits; /* of the slot's counter */
	TimestampTz due;	 /* even if that has not changed */
} Lookout;

struct Applier
{
	const Stream *stream;
	bool has_backlog;	/* more was staged than the last batch from Kafka took */
	Size element_bytes; /* of the staged rows of that batch, on average */
	MemoryContext context;
	MemoryContext batch_context;
	int nreaders; /* one for each writer, at least one */
	int first_reader;
	StagedReader **readers;
	Attempt *attempt; /* of what it applies now */
	Dedup *dedup;
	Events *events;
	DeadLetters *letters;
	RetryReader *retry_reader;
	List *applied;					/* of Progress: as committed */
	MemoryContext progress_context; /* of that list */
	bool is_loaded;
	bool may_fill;	  /* a rollup may want filling */
	bool must_reload; /* rollups or progress have changed */
	int pace;		  /* elements that one transaction has time for */
	long lag_ms;	  /* of the newest event of the last commit */
	int piece_size;	  /* elements that one transaction tries, after a failure */
	int unknown_failures;
	int missing_partitions;		/* rounds in a row that found none for an event … */
	BatchSource missing_source; /* … from there */
	int time_outs;				/* of one element alone, in a row */
	Lookout kafka;
	Lookout sql;
	Lookout retry;
	TimestampTz run_at;		 /* when it ran last */
	TimestampTz next_expiry; /* of dead letters */
	TimestampTz next_maintain_check;
	TimestampTz next_expire;	  /* old groups of rollups */
	TimestampTz next_compaction;  /* of state tables of rollups */
	TimestampTz next_bound_check; /* of the bound, while it is exceeded */
	bool is_over_bound;			  /* identities take more than they may */
	bool bound_is_told;			  /* is_over_bound is in detect.problem */
	TimestampTz history_due;
	TimestampTz last_batch_at;
	TimestampTz truncate_due; /* the next try, after one that failed */
	TimestampTz rate_since;
	int64 rate_elements;
};

/* in apply/applier.c */
extern void applier_load_progress(Applier *applier);
extern void applier_rewind(Applier *applier);

/* in apply/read_batch.c */
extern Batch *read_batch(Applier *applier, BatchSource source);

/* in apply/piece.c */
extern bool apply_batch(Applier *applier, Batch *batch);
extern void follow_others(Applier *applier);
extern bool follow_edits(Applier *applier);
extern void remember_identities(Applier *applier);

/* in apply/piece_failed.c */
extern void
piece_failed(Applier *applier, Batch *batch, int from, int to, ErrorData *error, bool timed_out);

/* in apply/pace.c */
extern void pace_begin(Applier *applier);
extern int pace_elements(const Applier *applier);
extern void pace_measure(Applier *applier, int count, instr_time since);

/* in apply/tend.c */
extern void tend_partitions(Applier *applier);

/* in apply/upkeep.c */
extern bool upkeep_run(Applier *applier, bool more);
extern TimestampTz upkeep_due(const Applier *applier);

#endif /* DETECT_APPLIER_INTERNAL_H */
