/*-------------------------------------------------------------------------
 *
 * consumer_internal.h
 *	  What the files of the consumer share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_CONSUMER_INTERNAL_H
#define DETECT_CONSUMER_INTERNAL_H

#include "ingest/consumer.h"
#include "ingest/decode.h"
#include "ingest/kafka.h"
#include "ingest/staging.h"

struct Consumer
{
	const Stream *stream;
	int number;			   /* among those of the stream, from 0 */
	MemoryContext context; /* the worker's */
	MemoryContext round_context;
	KafkaClient *client;	 /* NULL until it first looks for a broker */
	bool is_connected;		 /* partitions are found and assigned */
	int connect_failures;	 /* in a row */
	TimestampTz connect_due; /* not to be tried before */
	Decoder *decoder;
	int nfields;		 /* columns that the decoder fills */
	List *progresses;	 /* of Progress: staged, as committed */
	int npartitions;	 /* of all topics, those of other consumers too */
	char *missing_topic; /* what to say of one that does not exist, or NULL */
	KafkaEvent *events;	 /* polled and not staged yet */
	int nevents;
	int max_events;
	instr_time step_began; /* the step that is being timed */
	TimestampTz linger_until;
	bool has_unpublished; /* progress that the group was not told */
	TimestampTz publish_due;
	TimestampTz partitions_due;		/* when to look for new partitions */
	TimestampTz transactions_due;	/* when to look for open transactions */
	TimestampTz unknown_fields_due; /* when to tell of them again */
};

/* in ingest/stage.c */
typedef struct StageWriter StageWriter;
extern StageWriter *stage_begin(Consumer *consumer);
extern int stage_message(StageWriter *writer, const KafkaEvent *event, const Progress *progress);
extern void stage_end(StageWriter *writer);

/* in ingest/open_transaction.c */
extern bool consumer_look_for_transactions(Consumer *consumer);

/* in ingest/connect.c */
extern bool consumer_connect(Consumer *consumer);
extern void consumer_note_running(Consumer *consumer);
extern void consumer_look_for_broker(Consumer *consumer);
extern void consumer_disconnect(Consumer *consumer);
extern void consumer_publish_applied(Consumer *consumer);
extern bool consumer_finds_new_partitions(Consumer *consumer);

#endif /* DETECT_CONSUMER_INTERNAL_H */
