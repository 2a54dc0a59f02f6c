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

/* How long a broker is waited for: the applier may be waiting. */
#define BROKER_TIMEOUT_MS 3000

/* How often partitions are looked at anew because a broker was lost. */
#define CONSUMER_DOUBT_MS 1000

struct Consumer
{
	const Stream *stream;
	int number;			   /* among those of the stream, from 0 */
	MemoryContext context; /* the worker's */
	MemoryContext round_context;
	MemoryContext progress_context; /* until it looks at partitions again */
	KafkaClient *client;			/* NULL until it first looks for a broker */
	int client_partitions;			/* that it was opened for */
	bool is_connected;				/* partitions are found and assigned */
	bool is_doubtful;				/* a broker was lost: look again at partitions … */
	TimestampTz doubt_due;			/* … but not before */
	bool must_assign;				/* partitions were paused: read the others alone */
	int connect_failures;			/* in a row */
	TimestampTz connect_due;		/* not to be tried before */
	Decoder *decoder;
	int nfields;		 /* columns that the decoder fills */
	List *progresses;	 /* of Progress: staged, as committed */
	int npartitions;	 /* of all topics, those of other consumers too */
	char *missing_topic; /* what to say of one that does not exist, or NULL */
	bool has_missing;	 /* a topic, or a partition that was read, does not exist */
	KafkaEvent *events;	 /* polled and not staged yet */
	int nevents;
	int max_events;
	bool is_patient; /* brokers answer with single messages, but wait long for one */
	int rounds;		 /* that had rows, since … */
	TimestampTz rounds_since;
	bool is_polling;			  /* or a poll has failed, and has taken messages perhaps */
	instr_time step_began;		  /* the step that is being timed */
	TimestampTz staged_at;		  /* the last time that there were rows */
	TimestampTz linger_until;	  /* 0: it does not */
	int vain_lingers;			  /* in a row */
	int left_out_rounds;		  /* that are not lingered after */
	TimestampTz locked_out_since; /* of the staging table; 0: it was not */
	bool has_unpublished;		  /* progress that the group was not told */
	TimestampTz publish_due;
	TimestampTz partitions_due;		/* when to look for new partitions */
	TimestampTz ends_due;			/* when to look whether partitions shrink */
	TimestampTz transactions_due;	/* when to look for open transactions */
	TimestampTz unknown_fields_due; /* when to tell of them again */
};

/* What a consumer finds out when it connects; lives in the round's memory. */
typedef struct Connection
{
	List *staged;	  /* of Progress, likewise the others: as it was found */
	List *applied;	  /* likewise */
	List *progresses; /* of the partitions that this consumer reads, or would */
	List *starts;	  /* of those that nobody has read yet */
	List *changed;	  /* of those that are missing now, or not any more */
	char *missing;	  /* what to say of a topic that never existed, or NULL */
} Connection;

/* in ingest/poll.c */
extern void consumer_poll(Consumer *consumer, int at_most);
extern bool consumer_has_news(Consumer *consumer);
extern bool consumer_is_answered(const Consumer *consumer);
extern bool consumer_must_look_again(Consumer *consumer);

/* in ingest/patience.c */
extern KafkaFetch consumer_fetch(const Consumer *consumer, int partitions);
extern bool consumer_changes_patience(Consumer *consumer);

/* in ingest/linger.c */
extern bool consumer_is_behind(const Consumer *consumer);
extern void consumer_end_lingering(Consumer *consumer);
extern bool consumer_lingers(const Consumer *consumer, TimestampTz now);
extern bool consumer_linger(Consumer *consumer, int rows, bool is_cut);

/* in ingest/stage.c */
typedef struct StageWriter StageWriter;
extern StageWriter *stage_begin(Consumer *consumer);
extern int stage_message(StageWriter *writer, const KafkaEvent *event, const Progress *progress);
extern void stage_end(StageWriter *writer);

/* in ingest/gap.c */
extern void gap_expect(Progress *progress, const Progress *applied);
extern void gap_mark_missing(Progress *progress, int npartitions);
extern bool consumer_find_gaps(Consumer *consumer);

/* in ingest/open_transaction.c */
extern bool consumer_look_for_transactions(Consumer *consumer);

/* in ingest/unknown_field.c */
extern bool consumer_tells_unknown(const Consumer *consumer);
extern void consumer_write_unknown(const Consumer *consumer);
extern void consumer_forget_unknown(Consumer *consumer);
extern bool consumer_flush_unknown(Consumer *consumer);

/* in ingest/position.c */
extern void positions_choose(Consumer *consumer, Connection *connection);
extern bool positions_write(Consumer *consumer, const Connection *connection);
extern void positions_keep(Consumer *consumer, const Connection *connection);
extern void consumer_assign(Consumer *consumer);

/* in ingest/connect.c */
extern bool consumer_connect(Consumer *consumer);
extern void consumer_note_running(Consumer *consumer);
extern void consumer_look_again(Consumer *consumer);
extern void consumer_take_broker_error(Consumer *consumer);
extern void consumer_disconnect(Consumer *consumer);
extern bool consumer_can_change_client(const Consumer *consumer);
extern void consumer_publish_applied(Consumer *consumer);
extern bool consumer_finds_new_partitions(Consumer *consumer, int overdue_ms);

#endif /* DETECT_CONSUMER_INTERNAL_H */
