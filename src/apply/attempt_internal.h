/*-------------------------------------------------------------------------
 *
 * attempt_internal.h
 *	  The file that attempts are noted in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_ATTEMPT_INTERNAL_H
#define DETECT_ATTEMPT_INTERNAL_H

#include "apply/attempt.h"
#include "port/pg_crc32c.h"

/* An element that has crashed the server so often, while no other one was
 * tried with it, is not tried again. */
#define CRASHES_TO_PAUSE 2

/* Where an element comes from, or the last one of a partition in a range. */
typedef struct AttemptPosition
{
	int32 source;	 /* a BatchSource */
	int32 partition; /* of SOURCE_KAFKA, else 0 */
	uint64 topic;	 /* its hash, likewise */
	int64 number;	 /* the offset, the place of the row, or the letter's */
	int64 element;
} AttemptPosition;

/* How an attempt went; the values are in files. */
typedef enum AttemptState
{
	ATTEMPT_OVER = 1,
	ATTEMPT_OPEN = 2,	 /* found by the next applier: it has crashed */
	ATTEMPT_INNOCENT = 3 /* another process has crashed */
} AttemptState;

/* The content of the file.  The state comes first, so that it is changed in
 * place, and is not in the checksum. */
typedef struct AttemptNote
{
	uint32 state;
	pg_crc32c checksum; /* of what follows */
	Oid staging_table;	/* of the stream: its number may have been another's */
	int32 crashes;		/* of the accused; 0: there is none */
	bool is_single;		/* the attempt is at single alone */
	bool rejects;		/* the accused is to become a dead letter */
	AttemptPosition single;
	AttemptPosition accused; /* it has crashed the server when it was alone */
	int32 nsuspects;		 /* ranges that crashes have left, first in the array */
	int32 nranges;			 /* all of it, with those of the attempt */
	AttemptPosition ranges[FLEXIBLE_ARRAY_MEMBER];
} AttemptNote;

/* in apply/attempt_file.c */
extern AttemptNote *attempt_file_read(const Stream *stream);
extern void attempt_file_open(const Stream *stream);
extern void attempt_file_write(AttemptNote *note, AttemptState state);
extern void attempt_file_set_state(AttemptState state);

#endif /* DETECT_ATTEMPT_INTERNAL_H */
