/*-------------------------------------------------------------------------
 *
 * kafka_internal.h
 *	  Behind the door: the only file that includes librdkafka's header.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_KAFKA_INTERNAL_H
#define DETECT_KAFKA_INTERNAL_H

#include <librdkafka/rdkafka.h>

#include "ingest/kafka.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#if RD_KAFKA_VERSION < 0x020000ff
#error "detect needs librdkafka 2.0.0 or later"
#endif

/* Up to where a partition has been delivered. */
typedef struct KafkaCursor
{
	const char *topic;
	int32 partition;
	int64 next_offset; /* whatever lies below is not delivered again */
} KafkaCursor;

struct KafkaClient
{
	MemoryContext context;		/* holds this struct and all it points to */
	MemoryContext text_context; /* error texts, until the next release */
	MemoryContextCallback on_reset;
	KafkaClient *next_open; /* in open_clients */
	pid_t creator_pid;

	rd_kafka_conf_t *conf; /* until rd_kafka_new() takes it over */
	rd_kafka_t *handle;
	rd_kafka_queue_t *main_queue;
	rd_kafka_queue_t *consumer_queue;
	int wake_read_fd;
	int wake_write_fd;
	WaitEventSet *wait_events; /* NULL until something is waited for */

	const char *group;	  /* which our commits are made for */
	const char *brokers;  /* bootstrap.servers, for error messages */
	const char *username; /* "" where there is none */
	const char *password;

	rd_kafka_message_t **messages; /* handed out and not released */
	int nmessages;
	int max_messages;

	KafkaCursor *cursors;		  /* the assignment, sorted … */
	MemoryContext cursor_context; /* … with the names of its topics */
	int ncursors;
	KafkaCursor *last_cursor;	  /* of the last message … */
	rd_kafka_topic_t *last_topic; /* … which was in this topic */

	bool cannot_close; /* a topic went away while it was read: see kafka.c */
	bool is_committing;
	instr_time committing_since;
	bool was_flooded; /* the last poll left elements behind */
	TimestampTz last_nudge;
	rd_kafka_resp_err_t trouble; /* worst client error of this request */
	char trouble_text[512];		 /* of the last one … */
	char certificate_text[512];	 /* what was wrong with the last one */
	TimestampTz trouble_time;	 /* … and when that was */
};

/* in kafka_error.c */
extern KafkaErrorKind kafka_error_kind(rd_kafka_resp_err_t error);
extern bool kafka_error_is_missing(rd_kafka_resp_err_t error);
extern char *kafka_copy_text(MemoryContext context, const char *text);
extern bool kafka_take_from_main_queue(KafkaClient *client, KafkaEvent *event, bool *is_event);

/* in kafka_property.c */
extern void kafka_set_properties(KafkaClient *client, const KafkaProperty *properties,
								 int nproperties, const char *client_name, const KafkaFetch *fetch);

/* in kafka_request.c */
extern rd_kafka_topic_partition_list_t *
kafka_list_positions(const KafkaPosition *positions, int npositions);

#endif /* DETECT_KAFKA_INTERNAL_H */
