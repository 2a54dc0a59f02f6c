/*-------------------------------------------------------------------------
 *
 * kafka.c
 *	  The door to librdkafka: the only file that includes its header.
 *
 * The hard idea: two worlds of threads meet in this file, and they meet in
 * queues alone.  librdkafka's threads never run our code; what they have to
 * say waits in one of two queues until PostgreSQL's thread takes it out:
 *
 *		broker threads --> consumer queue --> messages, ends, partition errors
 *		all threads    --> main queue     --> log lines, client errors, commits
 *
 * Both queues write a byte into one pipe when they stop being empty, so that
 * a caller can sleep on latch and pipe together.  A byte is written only for
 * a queue that was empty: whoever leaves elements behind must put a byte
 * back, or the wake-up is lost.  kafka_poll() does so.
 *
 * The other rule: what the library owns must be given back before its handle
 * is destroyed, in the process that created it, whatever ERROR came between.
 * A reset callback of the client's memory context sees to that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <librdkafka/rdkafka.h>

#include "ingest/kafka.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#if RD_KAFKA_VERSION < 0x020000ff
#error "detect needs librdkafka 2.0.0 or later"
#endif

#define FIRST_SLICE_MS			100 /* blocking calls are cut to this … */
#define LONGEST_SLICE_MS		800 /* … or to this, for distant brokers */
#define LOG_INTERVAL_MS			60000	/* at most one library log line in */
#define TROUBLE_LIFE_MS			60000	/* older ones explain nothing */
#define FETCH_NUDGE_INTERVAL_MS 10	/* see nudge_fetchers */
#define EXIT_PATIENCE_S			5	/* see close_clients_at_exit */
#define MAX_COMMITS_UNDER_WAY	16
#define MAX_CLIENT_ID_BYTES		64	/* long ones crash librdkafka < 2.5 */
#define CLIENT_ID_PREFIX		"detect-"

/* Up to where a partition has been delivered. */
typedef struct KafkaCursor
{
	const char *topic;
	int32		partition;
	int64		next_offset;	/* whatever lies below is not delivered again */
} KafkaCursor;

struct KafkaClient
{
	MemoryContext context;		/* holds this struct and all it points to */
	MemoryContext text_context; /* error texts, until the next release */
	MemoryContextCallback on_reset;
	KafkaClient *next_open;		/* in open_clients */
	pid_t		creator_pid;

	rd_kafka_conf_t *conf;		/* until rd_kafka_new() takes it over */
	rd_kafka_t *handle;
	rd_kafka_queue_t *main_queue;
	rd_kafka_queue_t *consumer_queue;
	int			wake_read_fd;
	int			wake_write_fd;

	const char *brokers;		/* bootstrap.servers, for error messages */
	const char *username;		/* "" where there is none */
	const char *password;

	rd_kafka_message_t **messages;	/* handed out and not released */
	int			nmessages;
	int			max_messages;

	KafkaCursor *cursors;		/* the assignment, sorted */
	int			ncursors;
	KafkaCursor *last_cursor;	/* of the last message … */
	rd_kafka_topic_t *last_topic;	/* … which was in this topic */

	int			commits_under_way;
	bool		was_flooded;	/* the last poll left elements behind */
	TimestampTz last_nudge;
	rd_kafka_resp_err_t trouble;	/* worst client error of this request */
	char		trouble_text[512];	/* of the last one … */
	TimestampTz trouble_time;	/* … and when that was */
};

/* One property that detect decides.  The optional ones are not known to
 * every version of the library. */
typedef struct FixedProperty
{
	const char *name;
	const char *value;
	bool		is_optional;
} FixedProperty;

/* What a server's options may override. */
static const FixedProperty default_properties[] = {
	{"fetch.error.backoff.ms", "100", false},
	{"fetch.max.bytes", "8388608", false},
	{"fetch.message.max.bytes", "1048576", false},
	{"fetch.queue.backoff.ms", "10", true},
	{"fetch.wait.max.ms", "100", false},
	{"queued.max.messages.kbytes", "16384", false},
	{"reconnect.backoff.max.ms", "3000", false},
};

/* What nothing may override: the promises of the pipeline rest on these. */
static const FixedProperty fixed_properties[] = {
	{"allow.auto.create.topics", "false", false},
	{"auto.offset.reset", "error", false},
	{"check.crcs", "true", false},
	{"enable.auto.commit", "false", false},
	{"enable.auto.offset.store", "false", false},
	{"enable.metrics.push", "false", true},
	/* an end of partition tells us to step over control records */
	{"enable.partition.eof", "true", false},
	{"isolation.level", "read_committed", false},
	{"log.queue", "true", false},
	{"socket.keepalive.enable", "true", false},
	{"topic.metadata.refresh.interval.ms", "30000", false},
};

static KafkaClient *open_clients = NULL;
static int	exit_code;

/* Of the process, not of a client: retries open one after the other. */
static TimestampTz last_log_line = 0;
static int	suppressed_log_lines = 0;

/* One blocking request, made again in slices until it succeeds. */
typedef rd_kafka_resp_err_t (*KafkaRequest) (KafkaClient *client,
											 void *argument, int slice_ms);

typedef struct PartitionCountRequest
{
	const char *topic;
	int			partition_count;
} PartitionCountRequest;

typedef struct OffsetRequest
{
	KafkaPosition *positions;
	int			npositions;
	int64		at;				/* ms since 1970, or a logical offset */
} OffsetRequest;

/*
 * What an error of the library asks of the stream.
 */
static KafkaErrorKind
error_kind(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return KAFKA_ERROR_OFFSET;

		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
		case RD_KAFKA_RESP_ERR__SSL:
			return KAFKA_ERROR_CONFIGURATION;

		default:
			return KAFKA_ERROR_TRANSIENT;
	}
}

/*
 * Copy a text of the library into context; bytes that could be invalid in
 * the database's encoding become question marks.
 */
static char *
copy_library_text(MemoryContext context, const char *text)
{
	char	   *copy = MemoryContextStrdup(context, text);

	for (char *c = copy; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c))
			*c = '?';
	}
	return copy;
}

/*
 * Give everything back to the library.  Runs when the client's context is
 * reset or deleted, and at exit: raises nothing, allocates nothing.
 */
static void
give_back_to_library(void *argument)
{
	KafkaClient *client = argument;
	KafkaClient **link = &open_clients;

	/* The threads did not survive a fork: the library would wait for them. */
	if (client->creator_pid != getpid())
		return;

	while (*link != NULL && *link != client)
		link = &(*link)->next_open;
	if (*link == client)
		*link = client->next_open;

	for (int i = 0; i < client->nmessages; i++)
		rd_kafka_message_destroy(client->messages[i]);
	client->nmessages = 0;
	if (client->consumer_queue)
		rd_kafka_queue_destroy(client->consumer_queue);
	if (client->main_queue)
		rd_kafka_queue_destroy(client->main_queue);
	if (client->handle)
		rd_kafka_destroy_flags(client->handle,
							   RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	if (client->conf)
		rd_kafka_conf_destroy(client->conf);
	if (client->wake_read_fd >= 0)
	{
		close(client->wake_read_fd);
		close(client->wake_write_fd);
		ReleaseExternalFD();
		ReleaseExternalFD();
	}
}

/*
 * Leave at once: the library did not stop its threads in time.
 */
static void
exit_now(int signal_number)
{
	(void) signal_number;
	_exit(exit_code);
}

/*
 * Close what is still open when the process ends: exit() runs destructors,
 * and threads of the library must not run beside them.  Shared memory has
 * been left by now, so that giving up the wait harms nobody.
 */
static void
close_clients_at_exit(int code, Datum argument)
{
	sigset_t	alarm_only;

	(void) argument;
	if (open_clients == NULL)
		return;

	exit_code = code;
	pqsignal(SIGALRM, exit_now);
	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
	alarm(EXIT_PATIENCE_S);
	while (open_clients != NULL && open_clients->creator_pid == getpid())
		give_back_to_library(open_clients);
	alarm(0);
}

/*
 * Do what a process needs once, before its first client.
 */
static void
prepare_process(void)
{
	static bool is_prepared = false;

	if (is_prepared)
		return;
#ifdef __GLIBC__

	/*
	 * Messages are allocated by the library's threads and freed by ours; an
	 * arena for each thread would keep the peak of each.
	 */
	mallopt(M_ARENA_MAX, 2);
#endif
	on_proc_exit(close_clients_at_exit, (Datum) 0);
	is_prepared = true;
}

/*
 * Set one property.  Its value may be a secret, and the library's complaint
 * may quote it.
 */
static void
set_property(KafkaClient *client, const char *name, const char *value,
			 bool is_optional, bool is_secret)
{
	char		reason[512];
	rd_kafka_conf_res_t result;

	result = rd_kafka_conf_set(client->conf, name, value,
							   reason, sizeof(reason));
	if (result == RD_KAFKA_CONF_OK ||
		(result == RD_KAFKA_CONF_UNKNOWN && is_optional))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
			 errmsg("the Kafka library refuses its property \"%s\"", name),
			 is_secret ? 0 :
			 errdetail_internal("%s", copy_library_text(CurrentMemoryContext,
														reason)),
			 errhint("Correct the option \"%s\" of the server or of its user mapping.",
					 name)));
}

/*
 * The name that brokers see, short and of harmless characters.  The group
 * bears it too: nobody ever joins it, but lag monitors find our commits there.
 */
static void
set_client_name(KafkaClient *client, const char *client_name)
{
	char		id[MAX_CLIENT_ID_BYTES + 1];

	snprintf(id, sizeof(id), CLIENT_ID_PREFIX "%s", client_name);
	for (char *c = id; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c) || (!isalnum((unsigned char) *c) &&
								   strchr("-_.", *c) == NULL))
			*c = '-';
	}
	set_property(client, "client.id", id, false, false);
	set_property(client, "group.id", id, false, false);
}

/*
 * Fill client->conf, and keep what we need to know of the properties.  Ours
 * come last, so that they hold even if the allow-list had a hole.
 */
static void
set_properties(KafkaClient *client, const KafkaProperty *properties,
			   int nproperties, const char *client_name)
{
	const char *mechanism = NULL;
	bool		has_mechanism = false;

	set_client_name(client, client_name);
	for (int i = 0; i < (int) lengthof(default_properties); i++)
		set_property(client, default_properties[i].name,
					 default_properties[i].value,
					 default_properties[i].is_optional, false);

	for (int i = 0; i < nproperties; i++)
	{
		const KafkaProperty *property = &properties[i];

		/* Not GSSAPI, the library's default: that runs a shell command. */
		if (strcmp(property->name, "security.protocol") == 0 &&
			pg_strncasecmp(property->value, "sasl", 4) == 0)
			mechanism = "PLAIN";
		else if (strcmp(property->name, "sasl.mechanism") == 0)
			has_mechanism = true;

		set_property(client, property->name, property->value,
					 false, property->is_secret);
		if (strcmp(property->name, "bootstrap.servers") == 0)
			client->brokers = MemoryContextStrdup(client->context,
												  property->value);
		else if (strcmp(property->name, "sasl.username") == 0)
			client->username = MemoryContextStrdup(client->context,
												   property->value);
		else if (strcmp(property->name, "sasl.password") == 0)
			client->password = MemoryContextStrdup(client->context,
												   property->value);
	}

	if (mechanism != NULL && !has_mechanism)
		set_property(client, "sasl.mechanism", mechanism, false, false);
	for (int i = 0; i < (int) lengthof(fixed_properties); i++)
		set_property(client, fixed_properties[i].name,
					 fixed_properties[i].value,
					 fixed_properties[i].is_optional, false);
}

/*
 * Swallow a log line.  The library may call this from a thread of its own
 * before the log queue exists, so it must not touch PostgreSQL.
 */
static void
ignore_log_line(const rd_kafka_t *handle, int level,
				const char *facility, const char *text)
{
	(void) handle;
	(void) level;
	(void) facility;
	(void) text;
}

/*
 * Start the library's threads.
 */
static void
create_handle(KafkaClient *client)
{
	char		reason[512];
	sigset_t	all_signals;
	sigset_t	former_signals;

	rd_kafka_conf_set_log_cb(client->conf, ignore_log_line);
	rd_kafka_conf_set_events(client->conf,
							 RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG |
							 RD_KAFKA_EVENT_OFFSET_COMMIT);

	/*
	 * A signal handler of PostgreSQL must not run on another thread. The
	 * library blocks signals in its threads by itself; we do not rely on it.
	 */
	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &former_signals);
	client->handle = rd_kafka_new(RD_KAFKA_CONSUMER, client->conf,
								  reason, sizeof(reason));
	pthread_sigmask(SIG_SETMASK, &former_signals, NULL);

	if (client->handle == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not start a Kafka client for brokers \"%s\"",
						client->brokers),
				 errdetail_internal("%s",
									copy_library_text(CurrentMemoryContext,
													  reason)),
				 errhint("Check the options of the server and of its user mapping.")));
	client->conf = NULL;
}

/*
 * Open the wake-up pipe and tie both queues to it.
 */
static void
connect_queues(KafkaClient *client)
{
	rd_kafka_resp_err_t error;
	int			fds[2];

	if (pipe(fds) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe for the Kafka client: %m")));
	client->wake_read_fd = fds[0];
	client->wake_write_fd = fds[1];
	ReserveExternalFD();
	ReserveExternalFD();
	if (!pg_set_noblock(fds[0]) || !pg_set_noblock(fds[1]) ||
		fcntl(fds[0], F_SETFD, FD_CLOEXEC) != 0 ||
		fcntl(fds[1], F_SETFD, FD_CLOEXEC) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not set up the pipe of the Kafka client: %m")));

	client->main_queue = rd_kafka_queue_get_main(client->handle);
	client->consumer_queue = rd_kafka_queue_get_consumer(client->handle);
	if (client->main_queue == NULL || client->consumer_queue == NULL)
		elog(ERROR, "Kafka client has no queues");
	error = rd_kafka_set_log_queue(client->handle, client->main_queue);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		elog(ERROR, "Kafka client has no log queue: %s",
			 rd_kafka_err2name(error));
	rd_kafka_queue_io_event_enable(client->main_queue, fds[1], "m", 1);
	rd_kafka_queue_io_event_enable(client->consumer_queue, fds[1], "c", 1);
}

/*
 * Start a client in a child of context; nothing is fetched before
 * kafka_assign(), and no broker needs to be up.  The caller must not be the
 * postmaster, and closes the client with kafka_close(), or by letting go of
 * context.
 */
KafkaClient *
kafka_open(const KafkaProperty *properties, int nproperties,
		   const char *client_name, MemoryContext context)
{
	MemoryContext client_context;
	KafkaClient *client;

	prepare_process();
	client_context = AllocSetContextCreate(context, "Kafka client",
										   ALLOCSET_SMALL_SIZES);
	client = MemoryContextAllocZero(client_context, sizeof(KafkaClient));
	client->context = client_context;
	client->text_context = AllocSetContextCreate(client_context,
												 "Kafka error texts",
												 ALLOCSET_SMALL_SIZES);
	client->creator_pid = getpid();
	client->wake_read_fd = -1;
	client->brokers = client->username = client->password = "";
	client->on_reset.func = give_back_to_library;
	client->on_reset.arg = client;
	client->next_open = open_clients;
	open_clients = client;
	MemoryContextRegisterResetCallback(client_context, &client->on_reset);

	PG_TRY();
	{
		client->conf = rd_kafka_conf_new();
		set_properties(client, properties, nproperties, client_name);
		create_handle(client);
		connect_queues(client);
	}
	PG_CATCH();
	{
		MemoryContextDelete(client_context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return client;
}

/*
 * End the client: its messages are gone, its threads have ended.  Does
 * nothing to the library in another process than the creator.
 */
void
kafka_close(KafkaClient *client)
{
	MemoryContextDelete(client->context);
}

/*
 * A descriptor that is readable when kafka_poll() may have something to give.
 * It can be readable without need, never the other way round.
 */
int
kafka_event_fd(KafkaClient *client)
{
	return client->wake_read_fd;
}

/*
 * Write a log line of the library, or count it: broken brokers produce a
 * line every few seconds, and one a minute tells the story.
 */
static void
report_log_line(int level, const char *text)
{
	TimestampTz now = GetCurrentTimestamp();
	int			suppressed = suppressed_log_lines;
	char	   *copy;

	if (level < 7 && last_log_line != 0 &&
		!TimestampDifferenceExceeds(last_log_line, now,
									LOG_INTERVAL_MS))
	{
		suppressed_log_lines++;
		return;
	}

	copy = copy_library_text(CurrentMemoryContext, text);
	if (level >= 7)
		ereport(DEBUG1, (errmsg_internal("Kafka client: %s", copy)));
	else
	{
		last_log_line = now;
		suppressed_log_lines = 0;
		ereport(LOG,
				(errmsg("Kafka client: %s", copy),
				 suppressed == 0 ? 0 :
				 errdetail_plural("%d earlier line was left out.",
								  "%d earlier lines were left out.",
								  suppressed, suppressed)));
	}
	pfree(copy);
}

/*
 * Keep a client error, as the reason for the next request that fails.
 */
static void
remember_trouble(KafkaClient *client, rd_kafka_resp_err_t error,
				 const char *text)
{
	/* "3 of 3 brokers are down" says less than what was said before. */
	if (error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ||
		error_kind(client->trouble) == KAFKA_ERROR_CONFIGURATION)
		return;
	client->trouble = error;
	client->trouble_time = GetCurrentTimestamp();
	strlcpy(client->trouble_text, text, sizeof(client->trouble_text));
}

/*
 * Take one element out of the main queue.  Returns false when it is empty.
 * An error is remembered in client->trouble and, if event is not NULL,
 * described there: *is_event tells.
 */
static bool
take_from_main_queue(KafkaClient *client, KafkaEvent *event, bool *is_event)
{
	rd_kafka_event_t *found = rd_kafka_queue_poll(client->main_queue, 0);
	rd_kafka_resp_err_t error;
	const char *facility;
	const char *text;
	int			level;

	*is_event = false;
	if (found == NULL)
		return false;

	switch (rd_kafka_event_type(found))
	{
		case RD_KAFKA_EVENT_LOG:
			if (rd_kafka_event_log(found, &facility, &text, &level) == 0)
				report_log_line(level, text);
			break;

		case RD_KAFKA_EVENT_OFFSET_COMMIT:
			client->commits_under_way--;
			error = rd_kafka_event_error(found);
			if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
				ereport(DEBUG1,
						(errmsg_internal("Kafka group commit failed: %s",
										 rd_kafka_err2str(error))));
			break;

		case RD_KAFKA_EVENT_ERROR:
			error = rd_kafka_event_error(found);
			text = rd_kafka_event_error_string(found);
			remember_trouble(client, error, text);
			if (event == NULL)
				break;
			memset(event, 0, sizeof(KafkaEvent));
			event->kind = KAFKA_CLIENT_ERROR;
			event->error_kind = error_kind(error);
			event->error = copy_library_text(client->text_context, text);
			*is_event = true;
			break;

		default:
			break;
	}
	rd_kafka_event_destroy(found);
	return true;
}

/*
 * Order of cursors: by partition, then by topic.
 */
static int
compare_cursors(const void *a, const void *b)
{
	const KafkaCursor *left = a;
	const KafkaCursor *right = b;

	if (left->partition != right->partition)
		return left->partition < right->partition ? -1 : 1;
	return strcmp(left->topic, right->topic);
}

/*
 * The cursor of a message's partition, NULL if that is not assigned.
 * Messages of one partition come in runs, hence the memory of the last one.
 */
static KafkaCursor *
find_cursor(KafkaClient *client, const rd_kafka_message_t *message)
{
	KafkaCursor wanted;

	if (client->last_cursor != NULL && client->last_topic == message->rkt &&
		client->last_cursor->partition == message->partition)
		return client->last_cursor;

	wanted.topic = rd_kafka_topic_name(message->rkt);
	wanted.partition = message->partition;
	client->last_topic = message->rkt;
	client->last_cursor = client->ncursors == 0 ? NULL :
		bsearch(&wanted, client->cursors, client->ncursors,
				sizeof(KafkaCursor), compare_cursors);
	return client->last_cursor;
}

/*
 * Describe an error that came through the consumer queue.  Returns false if
 * it concerns the group alone: we use that for commits, which may fail.
 */
static bool
describe_error(const rd_kafka_message_t *message, KafkaEvent *event,
			   MemoryContext text_context)
{
	const char *text = rd_kafka_message_errstr(message);

	if (message->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
	{
		ereport(DEBUG1,
				(errmsg_internal("Kafka group is not accessible: %s",
								 rd_kafka_err2str(message->err))));
		return false;
	}

	event->kind = message->rkt ? KAFKA_PARTITION_ERROR : KAFKA_CLIENT_ERROR;
	event->offset = message->offset;
	event->error_kind = error_kind(message->err);
	event->error = copy_library_text(text_context,
									 text ? text : rd_kafka_err2str(message->err));
	return true;
}

/*
 * Describe what the consumer queue gave.  Returns false if it is nothing for
 * the caller: delivered before, or of a partition that is not assigned.
 */
static bool
describe_message(KafkaClient *client, rd_kafka_message_t *message,
				 KafkaEvent *event)
{
	KafkaCursor *cursor = NULL;
	rd_kafka_timestamp_type_t timestamp_type;

	event->handle = message;
	event->topic = NULL;
	event->partition = message->partition;
	event->payload = event->key = event->error = NULL;
	event->payload_bytes = event->key_bytes = 0;
	event->has_timestamp = false;

	if (message->rkt != NULL)
	{
		cursor = find_cursor(client, message);
		if (cursor == NULL)
			return false;
		event->topic = cursor->topic;
	}
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
		message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return describe_error(message, event, client->text_context);

	/* Known bugs of several versions deliver again: never twice from here. */
	if (cursor == NULL || message->offset < cursor->next_offset)
		return false;
	event->offset = message->offset;
	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		event->kind = KAFKA_END_OF_PARTITION;
		cursor->next_offset = message->offset;
		return true;
	}

	event->kind = KAFKA_MESSAGE;
	cursor->next_offset = message->offset + 1;
	event->payload = message->payload;
	event->payload_bytes = message->len;
	event->key = message->key;
	event->key_bytes = message->key_len;
	event->timestamp_ms = rd_kafka_message_timestamp(message, &timestamp_type);
	event->has_timestamp =
		(timestamp_type != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE);
	return true;
}

/*
 * Take up to wanted messages out of the consumer queue, append them to those
 * that are out, return how many came.
 */
static int
take_from_consumer_queue(KafkaClient *client, int wanted)
{
	ssize_t		taken;
	int			needed = client->nmessages + wanted;

	if (needed > client->max_messages)
	{
		Size		bytes = mul_size(needed, sizeof(rd_kafka_message_t *));

		client->messages = client->messages == NULL ?
			MemoryContextAllocHuge(client->context, bytes) :
			repalloc_huge(client->messages, bytes);
		client->max_messages = needed;
	}
	taken = rd_kafka_consume_batch_queue(client->consumer_queue, 0,
										 client->messages + client->nmessages,
										 wanted);
	if (taken < 0)
		elog(ERROR, "could not take messages from the Kafka client: %s",
			 rd_kafka_err2name(rd_kafka_last_error()));
	client->nmessages += (int) taken;
	return (int) taken;
}

/*
 * Let broker threads look at the queue again.  Before 2.2, where
 * fetch.queue.backoff.ms came, a broker thread that finds the queue full
 * sleeps up to a second, however fast we empty it; it listens to a wake-up
 * alone, and among the calls that send one (without a request to the broker)
 * setting the credentials, to what they are, is the only harmless one.
 */
static void
nudge_fetchers(KafkaClient *client, bool is_flooded)
{
	bool		was_flooded = client->was_flooded;
	TimestampTz now;
	rd_kafka_error_t *error;

	client->was_flooded = is_flooded;
	if (rd_kafka_version() >= 0x020200ff || !(is_flooded || was_flooded))
		return;
	now = GetCurrentTimestamp();
	if (is_flooded && !TimestampDifferenceExceeds(client->last_nudge, now,
												  FETCH_NUDGE_INTERVAL_MS))
		return;

	client->last_nudge = now;
	error = rd_kafka_sasl_set_credentials(client->handle, client->username,
										  client->password);
	if (error != NULL)
		rd_kafka_error_destroy(error);
}

/*
 * Take what is there, without waiting: fill up to max_events of events and
 * return how many.  What they point to lives until kafka_release_messages().
 * Offsets of one partition only grow, from the one that was assigned.
 */
int
kafka_poll(KafkaClient *client, KafkaEvent *events, int max_events)
{
	char		wake_bytes[16];
	bool		is_event;
	int			nevents = 0;

	Assert(max_events > 0);

	/* Before looking: a byte written from here on wakes the caller again. */
	while (read(client->wake_read_fd, wake_bytes, sizeof(wake_bytes)) > 0)
		;

	while (nevents < max_events &&
		   take_from_main_queue(client, &events[nevents], &is_event))
	{
		if (is_event)
			nevents++;
	}

	while (nevents < max_events)
	{
		int			wanted = max_events - nevents;
		int			first = client->nmessages;
		int			taken = take_from_consumer_queue(client, wanted);

		for (int i = first; i < first + taken; i++)
		{
			if (describe_message(client, client->messages[i], &events[nevents]))
				nevents++;
		}
		if (taken < wanted)
			break;
	}

	/* Failure means a full pipe, and then the caller wakes anyway. */
	if (nevents == max_events &&
		write(client->wake_write_fd, "p", 1) < 0 && errno != EAGAIN)
		elog(ERROR, "could not write to the pipe of the Kafka client: %m");
	nudge_fetchers(client, nevents == max_events);
	return nevents;
}

/*
 * Give back all messages that kafka_poll() has handed out.
 */
void
kafka_release_messages(KafkaClient *client)
{
	for (int i = 0; i < client->nmessages; i++)
		rd_kafka_message_destroy(client->messages[i]);
	client->nmessages = 0;
	client->last_cursor = NULL; /* its topic may be gone with the messages */
	MemoryContextReset(client->text_context);
}

/*
 * Append bytes as a JSON string: as they are if they are text, else as
 * hexadecimal digits after \x.  Text that begins with \x becomes hexadecimal
 * too, so that a reader can tell.
 */
static void
append_header_text(StringInfo json, const char *bytes, size_t nbytes)
{
	bool		is_text = memchr(bytes, '\0', nbytes) == NULL &&
		!(nbytes >= 2 && bytes[0] == '\\' && bytes[1] == 'x');
	char	   *text;

	if (nbytes > MaxAllocSize / 2 - 3)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
				 errmsg("a header of a Kafka message is too long: %zu bytes",
						nbytes)));

	if (is_text && GetDatabaseEncoding() == PG_UTF8)
		is_text = pg_verify_mbstr(PG_UTF8, bytes, (int) nbytes, true);
	else if (is_text)
	{
		for (size_t i = 0; i < nbytes && is_text; i++)
			is_text = !IS_HIGHBIT_SET(bytes[i]);
	}

	if (is_text)
		text = pnstrdup(bytes, nbytes);
	else
	{
		text = palloc(nbytes * 2 + 3);
		strcpy(text, "\\x");
		text[2 + hex_encode(bytes, nbytes, text + 2)] = '\0';
	}
	escape_json(json, text);
	pfree(text);
}

/*
 * The headers of a message as a JSON array of [name, value] pairs, in their
 * order, repeated names included; a value can be null.  NULL if the message
 * has none.
 */
char *
kafka_message_headers(const KafkaEvent *event)
{
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t error;
	StringInfoData json;
	const char *name;
	const void *value;
	size_t		value_bytes;

	error = rd_kafka_message_headers(event->handle, &headers);
	if (error == RD_KAFKA_RESP_ERR__NOENT)
		return NULL;
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("could not read the headers of a Kafka message"),
				 errdetail_internal("%s", rd_kafka_err2str(error))));

	initStringInfo(&json);
	for (size_t i = 0;
		 rd_kafka_header_get_all(headers, i, &name, &value,
								 &value_bytes) == RD_KAFKA_RESP_ERR_NO_ERROR;
		 i++)
	{
		appendStringInfoString(&json, i == 0 ? "[[" : ", [");
		append_header_text(&json, name, strlen(name));
		appendStringInfoString(&json, ", ");
		if (value == NULL)
			appendStringInfoString(&json, "null");
		else
			append_header_text(&json, value, value_bytes);
		appendStringInfoChar(&json, ']');
	}
	if (json.len == 0)
		return NULL;
	appendStringInfoChar(&json, ']');
	return json.data;
}

/*
 * The library's form of positions; the caller destroys it.
 */
static rd_kafka_topic_partition_list_t *
list_of_positions(const KafkaPosition *positions, int npositions)
{
	rd_kafka_topic_partition_list_t *list;

	list = rd_kafka_topic_partition_list_new(npositions);
	for (int i = 0; i < npositions; i++)
		rd_kafka_topic_partition_list_add(list, positions[i].topic,
										  positions[i].partition)->offset =
			positions[i].next_offset;
	return list;
}

/*
 * Copy positions into client->cursors, sorted.
 */
static void
set_cursors(KafkaClient *client, const KafkaPosition *positions,
			int npositions)
{
	KafkaCursor *cursors;

	cursors = MemoryContextAllocZero(client->context,
									 mul_size(Max(npositions, 1),
											  sizeof(KafkaCursor)));
	for (int i = 0; i < npositions; i++)
	{
		if (positions[i].next_offset < 0)
			elog(ERROR, "offset to read from is not absolute: " INT64_FORMAT,
				 positions[i].next_offset);
		cursors[i].topic = MemoryContextStrdup(client->context,
											   positions[i].topic);
		cursors[i].partition = positions[i].partition;
		cursors[i].next_offset = positions[i].next_offset;
	}
	qsort(cursors, npositions, sizeof(KafkaCursor), compare_cursors);

	/* Former topic names stay: events that are out may point to them. */
	if (client->cursors != NULL)
		pfree(client->cursors);
	client->cursors = cursors;
	client->ncursors = npositions;
	client->last_cursor = NULL;
}

/*
 * Read these partitions from these offsets from now on, and no others.  What
 * was fetched before and not yet handed out is discarded.
 */
void
kafka_assign(KafkaClient *client, const KafkaPosition *positions,
			 int npositions)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t error;
	int			kept = client->nmessages;

	/*
	 * Stop everything first and throw away what is queued: a message of the
	 * former position that slipped through after a step back would let the
	 * cursor jump over all that lies between.
	 */
	error = rd_kafka_assign(client->handle, NULL);
	while (error == RD_KAFKA_RESP_ERR_NO_ERROR &&
		   take_from_consumer_queue(client, 1000) > 0)
	{
		while (client->nmessages > kept)
			rd_kafka_message_destroy(client->messages[--client->nmessages]);
	}

	set_cursors(client, positions, npositions);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && npositions > 0)
	{
		list = list_of_positions(positions, npositions);
		error = rd_kafka_assign(client->handle, list);
		rd_kafka_topic_partition_list_destroy(list);
	}
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("could not assign partitions to the Kafka client"),
				 errdetail_internal("%s", rd_kafka_err2str(error))));
}

/*
 * Raise the error of a request about topic.
 */
static void
raise_request_error(KafkaClient *client, const char *topic,
					rd_kafka_resp_err_t error, const char *reason)
{
	int			sqlstate = ERRCODE_CONNECTION_FAILURE;
	const char *hint = "Check that the brokers in option \"bootstrap_servers\", and the addresses they advertise, can be reached from the database server.";

	switch (error)
	{
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			sqlstate = ERRCODE_UNDEFINED_OBJECT;
			hint = "Check the name of the topic. Topics must exist: they are never created from here.";
			break;

		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			sqlstate = ERRCODE_INSUFFICIENT_PRIVILEGE;
			hint = "Allow the Kafka user to read and describe the topic.";
			break;

		default:
			if (error_kind(error) == KAFKA_ERROR_CONFIGURATION)
			{
				sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
				hint = "Check the security options of the server and the credentials of its user mapping.";
			}
			break;
	}

	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("could not query topic \"%s\" at Kafka brokers \"%s\"",
					topic, client->brokers),
			 errdetail_internal("%s", copy_library_text(CurrentMemoryContext,
														reason)),
			 errhint("%s", hint)));
}

/*
 * Make a request, again and again in short slices, until it succeeds, fails
 * for good or timeout_ms have passed; ERROR unless it succeeds.  A slice that
 * is too short for the distance to the broker never succeeds, so they grow.
 */
static void
make_request(KafkaClient *client, KafkaRequest request, void *argument,
			 const char *topic, int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	rd_kafka_resp_err_t error;
	int			slice_ms = FIRST_SLICE_MS;
	bool		is_event;

	client->trouble = RD_KAFKA_RESP_ERR_NO_ERROR;
	for (;;)
	{
		TimestampTz slice_start = GetCurrentTimestamp();
		long		left_ms = timeout_ms -
			TimestampDifferenceMilliseconds(start, slice_start);
		long		pause_ms;

		CHECK_FOR_INTERRUPTS();
		error = request(client, argument, Max(Min(slice_ms, left_ms), 1));
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			return;

		while (take_from_main_queue(client, NULL, &is_event))
			;
		if (error_kind(error) == KAFKA_ERROR_CONFIGURATION)
			raise_request_error(client, topic, error, rd_kafka_err2str(error));
		if (error_kind(client->trouble) == KAFKA_ERROR_CONFIGURATION)
			raise_request_error(client, topic, client->trouble,
								client->trouble_text);
		if (left_ms <= slice_ms)
			break;

		/* Some errors come at once: don't hammer the broker. */
		pause_ms = FIRST_SLICE_MS -
			TimestampDifferenceMilliseconds(slice_start,
											GetCurrentTimestamp());
		if (pause_ms > 0)
			pg_usleep(pause_ms * 1000);
		slice_ms = Min(slice_ms * 2, LONGEST_SLICE_MS);
	}

	/* The library tells the same trouble again after half a minute only. */
	raise_request_error(client, topic, error,
						TimestampDifferenceExceeds(client->trouble_time,
												   GetCurrentTimestamp(),
												   TROUBLE_LIFE_MS) ?
						rd_kafka_err2str(error) : client->trouble_text);
}

/*
 * One slice of kafka_partition_count().
 */
static rd_kafka_resp_err_t
request_partition_count(KafkaClient *client, void *argument, int slice_ms)
{
	PartitionCountRequest *request = argument;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *topic;
	rd_kafka_resp_err_t error;

	topic = rd_kafka_topic_new(client->handle, request->topic, NULL);
	if (topic == NULL)
		return RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
	error = rd_kafka_metadata(client->handle, 0, topic, &metadata, slice_ms);
	rd_kafka_topic_destroy(topic);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return error;

	if (metadata->topic_cnt != 1)
		error = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	else
		error = metadata->topics[0].err;
	if (error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
	{
		request->partition_count = 0;
		error = RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	else if (error_kind(error) != KAFKA_ERROR_CONFIGURATION &&
			 metadata->topics[0].partition_cnt > 0)
	{
		/* Partitions without a leader count too. */
		request->partition_count = metadata->topics[0].partition_cnt;
		error = RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	else if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		error = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	rd_kafka_metadata_destroy(metadata);
	return error;
}

/*
 * How many partitions topic has; 0 if it does not exist.  ERROR if no broker
 * answers within timeout_ms.  Can be interrupted.
 */
int
kafka_partition_count(KafkaClient *client, const char *topic, int timeout_ms)
{
	PartitionCountRequest request = {.topic = topic};

	make_request(client, request_partition_count, &request, topic, timeout_ms);
	return request.partition_count;
}

/*
 * One slice of a look-up of offsets; fills next_offset of all positions or
 * of none.
 */
static rd_kafka_resp_err_t
request_offsets(KafkaClient *client, void *argument, int slice_ms)
{
	OffsetRequest *request = argument;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t error;

	list = list_of_positions(request->positions, request->npositions);
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = request->at;
	error = rd_kafka_offsets_for_times(client->handle, list, slice_ms);
	for (int i = 0; i < list->cnt; i++)
	{
		if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR &&
			(error == RD_KAFKA_RESP_ERR_NO_ERROR ||
			 error_kind(error) == KAFKA_ERROR_TRANSIENT))
			error = list->elems[i].err;
	}
	for (int i = 0; i < list->cnt && error == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		request->positions[i].next_offset = list->elems[i].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return error;
}

/*
 * The lowest offset that the broker still has, and the one after the last
 * that can be read (of an open transaction nothing can).  ERROR if no answer
 * comes within timeout_ms.  Not rd_kafka_query_watermark_offsets(): that
 * waits for its answer beyond any timeout.
 */
void
kafka_query_watermarks(KafkaClient *client, const char *topic,
					   int32 partition, int64 *low_offset,
					   int64 *high_offset, int timeout_ms)
{
	KafkaPosition position = {topic, partition, 0};
	OffsetRequest request = {&position, 1, RD_KAFKA_OFFSET_BEGINNING};

	make_request(client, request_offsets, &request, topic, timeout_ms);
	*low_offset = position.next_offset;
	request.at = RD_KAFKA_OFFSET_END;
	make_request(client, request_offsets, &request, topic, timeout_ms);
	*high_offset = Max(position.next_offset, *low_offset);
}

/*
 * The end of a partition as the last fetch told it, without asking: false if
 * none did.  Messages of open transactions lie below this end.
 */
bool
kafka_cached_end(KafkaClient *client, const char *topic, int32 partition,
				 int64 *end_offset)
{
	rd_kafka_resp_err_t error;
	int64_t		low;
	int64_t		high;

	error = rd_kafka_get_watermark_offsets(client->handle, topic, partition,
										   &low, &high);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR || high < 0)
		return false;
	*end_offset = high;
	return true;
}

/*
 * Fill next_offset of each position with the offset of the first message at
 * or after timestamp_ms, or with the end where there is none.
 */
void
kafka_offsets_for_time(KafkaClient *client, KafkaPosition *positions,
					   int npositions, int64 timestamp_ms, int timeout_ms)
{
	OffsetRequest request = {positions, npositions, RD_KAFKA_OFFSET_END};
	int64	   *ends;

	if (npositions == 0)
		return;

	/*
	 * Ends first: asked afterwards, they could lie above a message that came
	 * in between.
	 */
	make_request(client, request_offsets, &request, positions[0].topic,
				 timeout_ms);
	ends = palloc(mul_size(npositions, sizeof(int64)));
	for (int i = 0; i < npositions; i++)
		ends[i] = positions[i].next_offset;

	request.at = Max(timestamp_ms, 0);	/* below 0 are logical offsets */
	make_request(client, request_offsets, &request, positions[0].topic,
				 timeout_ms);
	for (int i = 0; i < npositions; i++)
	{
		if (positions[i].next_offset < 0)
			positions[i].next_offset = ends[i];
	}
	pfree(ends);
}

/*
 * Tell the group how far we are, for the eyes of lag monitors only: nothing
 * waits for it, nothing reads it, and it may fail.
 */
void
kafka_commit(KafkaClient *client, const KafkaPosition *positions,
			 int npositions)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t error;

	/* Commits that the broker does not answer must not pile up. */
	if (npositions == 0 || client->commits_under_way >= MAX_COMMITS_UNDER_WAY)
		return;

	list = list_of_positions(positions, npositions);
	error = rd_kafka_commit_queue(client->handle, list, client->main_queue,
								  NULL, NULL);
	rd_kafka_topic_partition_list_destroy(list);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		client->commits_under_way++;
	else
		ereport(DEBUG1,
				(errmsg_internal("Kafka group commit failed: %s",
								 rd_kafka_err2str(error))));
}
