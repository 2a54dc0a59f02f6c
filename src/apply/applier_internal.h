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
#include "apply/batch.h"

/* When a source of staged rows must be looked at again. */
typedef struct Lookout
{
	uint32 seen_commits; /* of the slot's counter */
	TimestampTz due;	 /* even if that has not changed */
} Lookout;

struct Applier
{
	const Stream *stream;
	MemoryContext context;
	MemoryContext batch_context;
	int nreaders; /* one for each writer, at least one */
	int first_reader;
	StagedReader **readers;
	Dedup *dedup;
	Events *events;
	List *applied; /* of Progress: as committed */
	bool is_loaded;
	bool may_fill;	  /* a rollup may want filling */
	bool must_reload; /* rollups or progress have changed */
	int piece_size;	  /* elements that one transaction tries */
	int unknown_failures;
	Lookout kafka;
	Lookout sql;
	TimestampTz next_maintain_check;
	TimestampTz next_expire; /* old groups of rollups */
	TimestampTz last_batch_at;
	TimestampTz truncate_due; /* the next try, after one that failed */
	TimestampTz rate_since;
	int64 rate_elements;
};

/* in apply/piece.c */
extern bool apply_batch(Applier *applier, Batch *batch);

#endif /* DETECT_APPLIER_INTERNAL_H */
