/*-------------------------------------------------------------------------
 *
 * kafka.h
 *	  The door to librdkafka: types of our own, no type of the library.
 *
 * Everything here runs on PostgreSQL's thread.  The library's threads never
 * call back into the server: logs, errors and messages arrive through its
 * queues and are taken out by kafka_poll().
 *
 * Ownership: a KafkaClient owns all its messages.  kafka_poll() hands out
 * pointers that stay valid until kafka_release_messages() or kafka_close(),
 * whichever comes first; an ERROR between the two leaks nothing, because
 * kafka_close() releases what is still out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_KAFKA_H
#define DETECT_KAFKA_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/latch.h"

/* Of a dead letter whose message was too large to be kept. */
#define ERRCODE_MESSAGE_TOO_LARGE MAKE_SQLSTATE('5', '4', 'D', 'M', '1')

/* How long a statement of a user waits for a broker's answer. */
#define KAFKA_STATEMENT_TIMEOUT_MS 10000

/* Longer ones crash librdkafka < 2.5. */
#define KAFKA_MAX_CLIENT_ID_BYTES 64

typedef struct KafkaClient KafkaClient;

/* One property of the connection, already checked by the allow-list. */
typedef struct KafkaProperty
{
	const char *name; /* librdkafka's name: "bootstrap.servers" */
	const char *value;
	bool is_secret; /* never shown, not even in errors */
} KafkaProperty;

/* Where to read next. */
typedef struct KafkaPosition
{
	const char *topic;
	int32 partition;
	int64 next_offset;
} KafkaPosition;

/* A part of a partition, from an offset, inclusive, to another, exclusive. */
typedef struct KafkaRange
{
	const char *topic;
	int32 partition;
	int64 from;
	int64 to;
} KafkaRange;

typedef enum KafkaEventKind
{
	KAFKA_MESSAGE,			/* a message */
	KAFKA_END_OF_PARTITION, /* nothing below offset is left to deliver */
	KAFKA_PARTITION_ERROR,	/* this partition can't be read: see error */
	KAFKA_CLIENT_ERROR		/* brokers, authentication, … : see error */
} KafkaEventKind;

/* What an error asks of the stream. */
typedef enum KafkaErrorKind
{
	KAFKA_ERROR_TRANSIENT,	   /* the library retries by itself: tell, wait */
	KAFKA_ERROR_CONFIGURATION, /* no such topic, not authorised, bad login */
	KAFKA_ERROR_OFFSET		   /* next_offset is out of the topic's range */
} KafkaErrorKind;

/* One thing that kafka_poll() found.  payload and key may be NULL: a message
 * without payload (tombstone) differs from one with an empty payload. */
typedef struct KafkaEvent
{
	KafkaEventKind kind;
	const char *topic; /* NULL for KAFKA_CLIENT_ERROR */
	int32 partition;
	int64 offset; /* of the message; of the end */
	bool has_timestamp;
	int64 timestamp_ms; /* since 1970, as the broker tells it */
	const char *payload;
	size_t payload_bytes;
	const char *key;
	size_t key_bytes;
	KafkaErrorKind error_kind;
	bool is_missing;   /* the error: this topic or partition does not exist */
	const char *error; /* text without secrets, NULL if no error */
	void *handle;	   /* the library's message, opaque */
	void *headers;	   /* those of a message, likewise; NULL: it has none … */
	int headers_error; /* … or they cannot be read */
} KafkaEvent;

/* How long a broker holds a fetch, unless it is asked otherwise. */
#define KAFKA_FETCH_WAIT_MS 170

/* When brokers answer a fetch, unless the options of the server say otherwise. */
typedef struct KafkaFetch
{
	int min_bytes; /* at once, if they have so much … */
	int wait_ms;   /* … else after so long */
} KafkaFetch;

/* in kafka.c */
extern KafkaClient *
kafka_open(const KafkaProperty *properties, int nproperties, const char *client_name,
		   const KafkaFetch *fetch, MemoryContext context);
extern void kafka_close(KafkaClient *client);
extern WaitEventSet *kafka_wait_events(KafkaClient *client);
extern int kafka_poll(KafkaClient *client, KafkaEvent *events, int max_events);
extern void kafka_release_messages(KafkaClient *client);
extern char *kafka_message_headers(const KafkaEvent *event);
extern char *kafka_message_excess(const KafkaEvent *event);
extern void kafka_assign(KafkaClient *client, const KafkaPosition *positions, int npositions);
extern int kafka_partition_count(KafkaClient *client, const char *topic, int timeout_ms);
extern KafkaRange *
kafka_topic_ranges(KafkaClient *client, const char *topic, TimestampTz deadline, int *nranges);
extern void kafka_query_watermarks(KafkaClient *client, const char *topic, int32 partition,
								   int64 *low_offset, int64 *high_offset, int timeout_ms);
extern void
kafka_query_ranges(KafkaClient *client, KafkaRange *ranges, int nranges, int timeout_ms);
extern bool
kafka_cached_end(KafkaClient *client, const char *topic, int32 partition, int64 *end_offset);
extern void kafka_offsets_for_time(KafkaClient *client, KafkaPosition *positions, int npositions,
								   int64 timestamp_ms, int timeout_ms);
extern void kafka_commit(KafkaClient *client, const KafkaPosition *positions, int npositions);
extern bool kafka_is_committing(KafkaClient *client);
extern bool kafka_commit_hangs(KafkaClient *client);

/* Takes one message, and copies what it keeps. */
typedef void (*KafkaReceiver)(const KafkaEvent *message, void *argument);

/* A message in memory of ours. */
typedef struct KafkaMessage
{
	char *topic;
	int32 partition;
	int64 offset;
	TimestampTz timestamp; /* DT_NOBEGIN: none that PostgreSQL can hold */
	bytea *payload;		   /* NULL: none */
	bytea *key;			   /* NULL: none */
	char *headers;		   /* JSON; NULL: none */
} KafkaMessage;

/* What kafka_keep_message() collects: more than limit_bytes is an error. */
typedef struct KafkaMessages
{
	List *list; /* of KafkaMessage */
	Size bytes;
	Size limit_bytes;
} KafkaMessages;

/* in kafka_read.c */
extern int64 kafka_time_ms(TimestampTz time);
extern int kafka_remaining_ms(TimestampTz deadline);
extern bool kafka_event_timestamp(const KafkaEvent *event, TimestampTz *timestamp);
extern KafkaMessage *kafka_copy_message(const KafkaEvent *event);
extern void kafka_keep_message(const KafkaEvent *event, void *messages);
extern int kafka_compare_messages(const ListCell *a, const ListCell *b);
extern KafkaClient *kafka_open_server(Oid server, Oid user, const char *client_name,
									  const KafkaFetch *fetch, MemoryContext context);
extern void kafka_read_ranges(KafkaClient *client, const KafkaRange *ranges, int nranges,
							  TimestampTz deadline, KafkaReceiver receive, void *argument);
extern void kafka_read_positions(KafkaClient *client, KafkaPosition *positions, int npositions,
								 TimestampTz deadline, KafkaReceiver receive, void *argument);

/* in server_option.c */
extern List *kafka_connection_properties(Oid server_id, Oid user_id);

#endif /* DETECT_KAFKA_H */
