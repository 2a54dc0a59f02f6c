/*-------------------------------------------------------------------------
 *
 * staging.h
 *	  The hand-over tables between consumers and the applier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_STAGING_H
#define DETECT_STAGING_H

#include "detect.h"

/* Columns of a consumer's staging table, before those of the stream. */
enum
{
	STAGED_OFFSET = 1,		/* of the message */
	STAGED_PREVIOUS_OFFSET, /* of the message staged before it in its partition */
	STAGED_TIMESTAMP,		/* kafka_timestamp, NULL when Kafka has none */
	STAGED_PARTITION,
	STAGED_ELEMENT,	 /* 0, or the item of the message's array, or -1 */
	STAGED_SQLSTATE, /* 0, or why it could not be decoded */
	STAGED_TOPIC,	 /* its place among the stream's topics */
	STAGED_REASON,
	STAGED_PAYLOAD,
	STAGED_KEY,
	STAGED_HEADERS,
	STAGED_FIXED_COLUMNS = STAGED_HEADERS
};

/* Not resolved yet: begin where the stream's start says. */
#define START_OFFSET (-1)

/* The element of a whole message that could not be taken apart. */
#define ELEMENT_MESSAGE (-1)

/* Where a partition of a topic stands, in staging or in effect.  Of a message
 * with many elements the first ones may be applied and the others not; then
 * next_offset is its own. */
typedef struct Progress
{
	char *topic;
	int32 partition;
	int64 last_offset;			/* of the last message */
	int32 last_element;			/* applied progress alone: of that message */
	int64 next_offset;			/* to read from Kafka; START_OFFSET: as start says */
	int64 end_offset;			/* staged progress alone: of the topic */
	TimestampTz last_timestamp; /* applied progress alone; DT_NOBEGIN: none */
	int64 last_fingerprint;		/* applied progress alone: of the last message */
	int64 outcomes[OUTCOMES];	/* applied progress alone */
	char *paused_reason;		/* staged progress alone */
	TimestampTz paused_since;	/* likewise */
	bool is_missing;			/* likewise: paused because Kafka does not have it */
	TimestampTz waits_since;	/* likewise: for an open transaction; 0: it does not */
	TimestampTz held_up_since;	/* the consumer's look: the same, not certain yet */
	int64 eof_offset;			/* likewise: where nothing more was delivered */
	int64 expected_offset;		/* likewise: what was applied last, read again */
	int64 expected_fingerprint; /* likewise: NO_FINGERPRINT: it was, or is not */
	TimestampTz shrunk_since;	/* likewise: it ends before end_offset; 0: it does not */
	int64 read_offset;			/* the applier's look: last message read */
	int32 read_element;			/* and the element of it */
	const struct Element *last; /* the applier's piece: the last element applied */
	struct Progress *advanced;	/* likewise: the copy in which it is counted */
	bool is_forgotten;			/* of letters alone: nobody counts its outcomes */
} Progress;

/* A message is none that is known. */
#define NO_FINGERPRINT 0

/* in ingest/gap.c */
extern int64 message_fingerprint(TimestampTz timestamp, const char *key, Size key_bytes,
								 const char *payload, Size payload_bytes);

/* in ingest/staging.c */
extern int staging_writers(const Stream *stream);
extern int staging_writer_of(const Stream *stream, const char *topic, int32 partition);
extern Oid staging_table_oid(int32 stream_id, int writer);
extern Oid staging_table_ensure(const Stream *stream, int writer);
extern void staging_tables_drop(int32 stream_id);
extern BlockNumber staging_blocks(Relation rel);
extern void staging_discard(const Stream *stream);
extern bool staging_is_drained(const Stream *stream, int writer, List *staged, List *applied);
extern bool staging_truncate(const Stream *stream, int writer, BlockNumber at_least);

/* in ingest/staging_pages.c */
extern void staging_write(Relation rel, HeapTuple *rows, int nrows);
extern void staging_reuse(void);
extern BlockNumber staging_end(void);

/* in ingest/progress.c */
extern List *progress_read_applied(const Stream *stream);
extern List *progress_read_staged(const Stream *stream);
extern Progress *progress_find(List *progresses, const char *topic, int32 partition);
extern bool progress_is_whole(const Progress *progress);
extern void progress_write_applied(const Stream *stream, const List *progresses);
extern void progress_write_start(const Stream *stream, const Progress *progress);
extern void
progress_seek(const Stream *stream, const char *topic, int32 partition, int64 next_offset);
extern void progress_forget(const Stream *stream, const char *topic, int32 partition);
extern void progress_write_staged(const Stream *stream, const List *progresses);
extern void progress_keep_paused(const Stream *stream, const List *progresses);
extern void progress_restore_paused(const Stream *stream);
extern void progress_forget_staged(const Stream *stream);
extern void progress_resume_partitions(const Stream *stream);

#endif /* DETECT_STAGING_H */
