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
	STAGED_ELEMENT,	 /* 0, or the item of the message's array */
	STAGED_SQLSTATE, /* 0, or why it could not be decoded */
	STAGED_TOPIC,
	STAGED_REASON,
	STAGED_PAYLOAD,
	STAGED_KEY,
	STAGED_HEADERS,
	STAGED_FIXED_COLUMNS = STAGED_HEADERS
};

/* Where a partition of a topic stands, in staging or in effect. */
typedef struct Progress
{
	char *topic;
	int32 partition;
	int64 last_offset;			/* of the last message */
	int64 next_offset;			/* to read from Kafka */
	int64 end_offset;			/* staged progress alone: of the topic */
	TimestampTz last_timestamp; /* applied progress alone; DT_NOBEGIN: none */
	int64 outcomes[OUTCOMES];	/* applied progress alone */
	char *paused_reason;		/* staged progress alone */
	int64 read_offset;			/* the applier's look: last message read */
	int32 read_element;			/* and the element of it */
} Progress;

/* in ingest/staging.c */
extern Oid staging_table_oid(int32 stream_id);
extern Oid staging_table_ensure(const Stream *stream);
extern void staging_table_drop(int32 stream_id);
extern BlockNumber staging_blocks(Relation rel);
extern void staging_discard(const Stream *stream);
extern bool staging_truncate(const Stream *stream, BlockNumber at_least);

/* in ingest/progress.c */
extern List *progress_read_applied(const Stream *stream);
extern List *progress_read_staged(const Stream *stream);
extern Progress *progress_find(List *progresses, const char *topic, int32 partition);
extern void progress_write_applied(const Stream *stream, const Progress *progress);
extern void progress_write_staged(const Stream *stream, const Progress *progress);
extern void progress_forget_staged(const Stream *stream);
extern void progress_resume_partitions(const Stream *stream);

#endif /* DETECT_STAGING_H */
