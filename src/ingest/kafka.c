/*-------------------------------------------------------------------------
 *
 * kafka.c
 *	  The door to librdkafka: a client, from its properties to its end.
 *
 * The hard idea: two worlds of threads meet behind this door, in the files
 * kafka_*.c, and they meet in queues alone.  librdkafka's threads never run our
 * code; what they have to say waits in one of two queues until PostgreSQL's
 * thread takes it out:
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
 * A reset callback of the client's memory context sees to that.  There is one
 * exception: the library waits for ever when it is to end a client that a topic
 * was taken away from while it was read.  Such a client is stopped, and left to
 * the end of the process, which then ends without waiting for its threads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "compat.h"
#include "ingest/kafka_internal.h"
#include "miscadmin.h"
#include "port.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#define EXIT_PATIENCE_S 5 /* see close_clients_at_exit */

static KafkaClient *open_clients = NULL;
static bool has_left_clients = false; /* that could not be closed */
static int exit_code;

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
	if (client->cannot_close)
	{
		(void) rd_kafka_assign(client->handle, NULL);
		has_left_clients = true;
		return;
	}
	if (client->consumer_queue)
		rd_kafka_queue_destroy(client->consumer_queue);
	if (client->main_queue)
		rd_kafka_queue_destroy(client->main_queue);
	if (client->handle)
		rd_kafka_destroy_flags(client->handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	if (client->conf)
		rd_kafka_conf_destroy(client->conf);
	if (client->wait_events)
		FreeWaitEventSet(client->wait_events);
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
	sigset_t alarm_only;

	(void) argument;
	if (open_clients == NULL && !has_left_clients)
		return;

	exit_code = code;
	pqsignal(SIGALRM, exit_now);
	sigemptyset(&alarm_only);
	sigaddset(&alarm_only, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
	alarm(EXIT_PATIENCE_S);
	while (open_clients != NULL && open_clients->creator_pid == getpid())
		give_back_to_library(open_clients);
	if (has_left_clients)
		exit_now(0);
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
 * Swallow a log line.  The library may call this from a thread of its own
 * before the log queue exists, so it must not touch PostgreSQL.
 */
static void
ignore_log_line(const rd_kafka_t *handle, int level, const char *facility, const char *text)
{
	(void) handle;
	(void) level;
	(void) facility;
	(void) text;
}

/* What may be wrong with a broker's certificate, by OpenSSL's numbers. */
static const struct
{
	int error;
	const char *meaning;
} certificate_errors[] = {
	{9, "it is not valid yet"},
	{10, "it has expired"},
	{18, "it is signed by itself"},
	{19, "its authority is not among those of ssl_ca_pem or ssl_ca_location"},
	{20, "its authority is not among those of ssl_ca_pem or ssl_ca_location"},
	{21, "its authority is not among those of ssl_ca_pem or ssl_ca_location"},
	{62, "it is that of another host"},
	{64, "it is that of another address"},
};

/*
 * Say what is wrong with a certificate, which the library keeps to itself; it
 * logs what is put into text.  OpenSSL has decided: nothing passes here that
 * it refuses.  Runs on a thread of the library, so it must not touch PostgreSQL.
 */
static int
explain_certificate(rd_kafka_t *handle, const char *broker, int32_t broker_id, int *error,
					int depth, const char *certificate, size_t size, char *text, size_t text_bytes,
					void *argument)
{
	const char *meaning = "see X509_verify_cert_error_string";

	for (int i = 0; i < (int) lengthof(certificate_errors); i++)
	{
		if (certificate_errors[i].error == *error)
			meaning = certificate_errors[i].meaning;
	}
	if (*error != 0)
		snprintf(text, text_bytes, "%s (error %d)", meaning, *error);
	return *error == 0;
}

/* How much later than it asked a thread may be woken by time alone: before 2.4 the
 * library spins through the last millisecond before each of its timers, unless it
 * oversleeps. */
#define THREAD_TIMER_SLACK_NS 2000000

/* Threads begin with the slack of the thread that starts them; what it was, 0 where
 * there is none. */
static long
set_timer_slack(long slack_ns)
{
#ifdef PR_SET_TIMERSLACK
	long former_slack_ns = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);

	(void) prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0);
	return Max(former_slack_ns, 0);
#else
	return 0;
#endif
}

/*
 * Start the library's threads.
 */
static void
create_handle(KafkaClient *client)
{
	char reason[512];
	sigset_t all_signals;
	sigset_t former_signals;
	long former_slack_ns;

	rd_kafka_conf_set_log_cb(client->conf, ignore_log_line);
	(void) rd_kafka_conf_set_ssl_cert_verify_cb(client->conf, explain_certificate);
	rd_kafka_conf_set_events(client->conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);

	/*
	 * A signal handler of PostgreSQL must not run on another thread. The
	 * library blocks signals in its threads by itself; we do not rely on it.
	 */
	sigfillset(&all_signals);
	pthread_sigmask(SIG_SETMASK, &all_signals, &former_signals);
	former_slack_ns = set_timer_slack(THREAD_TIMER_SLACK_NS);
	client->handle = rd_kafka_new(RD_KAFKA_CONSUMER, client->conf, reason, sizeof(reason));
	(void) set_timer_slack(former_slack_ns);
	pthread_sigmask(SIG_SETMASK, &former_signals, NULL);

	if (client->handle == NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
						errmsg("could not start a Kafka client for brokers \"%s\": %s",
							   client->brokers, kafka_copy_text(CurrentMemoryContext, reason)),
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
	int fds[2];

	if (pipe(fds) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not create a pipe for the Kafka client: %m")));
	client->wake_read_fd = fds[0];
	client->wake_write_fd = fds[1];
	ReserveExternalFD();
	ReserveExternalFD();
	if (!pg_set_noblock(fds[0]) || !pg_set_noblock(fds[1]) ||
		fcntl(fds[0], F_SETFD, FD_CLOEXEC) != 0 || fcntl(fds[1], F_SETFD, FD_CLOEXEC) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not set up the pipe of the Kafka client: %m")));

	client->main_queue = rd_kafka_queue_get_main(client->handle);
	client->consumer_queue = rd_kafka_queue_get_consumer(client->handle);
	if (client->main_queue == NULL || client->consumer_queue == NULL)
		elog(ERROR, "Kafka client has no queues");
	error = rd_kafka_set_log_queue(client->handle, client->main_queue);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		elog(ERROR, "Kafka client has no log queue: %s", rd_kafka_err2name(error));
	rd_kafka_queue_io_event_enable(client->main_queue, fds[1], "m", 1);
	rd_kafka_queue_io_event_enable(client->consumer_queue, fds[1], "c", 1);
}

/*
 * Start a client in a child of context; nothing is fetched before
 * kafka_assign(), and no broker needs to be up.  The caller must not be the
 * postmaster, and closes the client with kafka_close(), or by letting go of
 * context.  fetch: NULL if brokers are to answer as soon as they have any message.
 */
KafkaClient *
kafka_open(const KafkaProperty *properties, int nproperties, const char *client_name,
		   const KafkaFetch *fetch, MemoryContext context)
{
	MemoryContext client_context;
	KafkaClient *client;

	prepare_process();
	client_context = AllocSetContextCreate(context, "Kafka client", ALLOCSET_SMALL_SIZES);
	client = MemoryContextAllocZero(client_context, sizeof(KafkaClient));
	client->context = client_context;
	client->text_context =
		AllocSetContextCreate(client_context, "Kafka error texts", ALLOCSET_SMALL_SIZES);
	client->cursor_context =
		AllocSetContextCreate(client_context, "Kafka cursors", ALLOCSET_SMALL_SIZES);
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
		kafka_set_properties(client, properties, nproperties, client_name, fetch);
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
 * What to wait on: the process' latch, and a descriptor that is readable when
 * kafka_poll() may have something to give.  It can be readable without need, never
 * the other way round.  The set is the client's.
 */
WaitEventSet *
kafka_wait_events(KafkaClient *client)
{
	if (client->wait_events == NULL)
	{
		WaitEventSet *events = compat_create_wait_event_set(3);

		AddWaitEventToSet(events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(events, WL_SOCKET_READABLE, client->wake_read_fd, NULL, NULL);
		client->wait_events = events;
	}
	return client->wait_events;
}
