/*-------------------------------------------------------------------------
 *
 * mock_broker.c
 *	  A Kafka cluster for tests: librdkafka's mock brokers behind a pipe.
 *
 *		mock_broker [--brokers N | --bootstrap HOST:PORT]
 *
 * prints "bootstrap 127.0.0.1:port,…", then obeys one command a line on
 * stdin and answers each with one line, "ok …" or "error …".  The hard idea
 * is that nothing is left behind: it listens on the loopback interface only,
 * on ports that the kernel chooses, and ends when stdin closes or when its
 * parent dies.
 *
 * With --bootstrap there is no mock cluster: "messages" and "ends" go to the
 * cluster that is there, in transactions.
 *
 *		topic NAME PARTITIONS
 *		produce TOPIC PARTITION KEY PAYLOAD [@MILLISECONDS] [HEADER=VALUE ...] [*HEADERS]
 *		messages TOPIC PATH			each line as in "produce": PARTITION KEY …,
 *									or begin, commit, abort; tells the offsets
 *		file TOPIC PATH				each line a message, partitions in turn
 *		ends TOPIC					where its partitions end
 *		down ID | up ID | rtt ID MS	ID 0 is all brokers
 *		leader TOPIC PARTITION ID	ID -1 is none
 *		error API_KEY COUNT CODE...	the next COUNT requests fail, codes in turn
 *		clear_errors API_KEY
 *		topic_error TOPIC CODE		what metadata tells of it; 0 ends it
 *		quit
 *
 * Fields are separated by tabs if the line has one, else by spaces.  A key,
 * payload or header value of "-" is null; \xHH is a byte, \\ a backslash; *N are
 * N headers without name and value.  API keys: Produce 0, Fetch 1, ListOffsets 2,
 * Metadata 3, OffsetCommit 8, FindCoordinator 10.  A partition keeps the last 5 MB.  Topics that are
 * asked for come into being, with 4 partitions: "topic_error NAME 3" makes
 * one that does not exist.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define MAX_FIELDS			64
#define MAX_ERRORS			1000
#define MAX_MESSAGES		100000
#define MAX_PARTITIONS		100
#define DELIVERY_TIMEOUT_MS 30000
#define DELIVERY_PENDING	(-1)
#define DELIVERY_FAILED		(-2)

static rd_kafka_t *producer;
static rd_kafka_mock_cluster_t *cluster;
static long long delivered;
static long long failed;
static rd_kafka_resp_err_t last_failure;

/*
 * Answer a command with one line.
 */
static void
answer(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

/*
 * Answer a command that gave an error code.
 */
static void
answer_code(rd_kafka_resp_err_t error)
{
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		answer("ok");
	else
		answer("error %s", rd_kafka_err2name(error));
}

/*
 * Give up: the cluster can't be started.
 */
static void
die(const char *what, const char *reason)
{
	fprintf(stderr, "mock_broker: %s: %s\n", what, reason);
	exit(1);
}

/*
 * Read an integer; false if text is none or out of int's range.
 */
static bool
read_int(const char *text, int *number)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || value < -2147483647L || value > 2147483647L)
		return false;
	*number = (int) value;
	return true;
}

/*
 * Resolve \xHH and \\ in place.  Returns false if an escape is wrong.
 */
static bool
unescape(char *text, size_t *nbytes)
{
	char *out = text;

	for (char *in = text; *in != '\0'; in++)
	{
		unsigned int byte;

		if (*in != '\\')
			*out++ = *in;
		else if (in[1] == '\\')
		{
			*out++ = '\\';
			in++;
		}
		else if (in[1] == 'x' && strspn(in + 2, "0123456789abcdefABCDEF") >= 2 &&
				 sscanf(in + 2, "%2x", &byte) == 1)
		{
			*out++ = (char) byte;
			in += 3;
		}
		else
			return false;
	}
	*nbytes = out - text;
	return true;
}

/*
 * Note the fate of a message; where it has an owner, tell it the offset.
 */
static void
note_delivery(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	int64_t *offset = message->_private;

	(void) handle;
	(void) opaque;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		failed++;
		last_failure = message->err;
	}
	else
		delivered++;
	if (offset != NULL)
		*offset = message->err ? DELIVERY_FAILED : message->offset;
}

/*
 * Cut a line into fields, in place; returns how many.
 */
static int
split(char *line, char **fields)
{
	char separator = strchr(line, '\t') != NULL ? '\t' : ' ';
	int nfields = 0;

	line[strcspn(line, "\r\n")] = '\0';
	while (line != NULL && nfields < MAX_FIELDS)
	{
		fields[nfields++] = line;
		line = strchr(line, separator);
		if (line != NULL)
			*line++ = '\0';
	}
	return nfields;
}

/*
 * Add so many headers without name and value.
 */
static bool
add_empty_headers(rd_kafka_headers_t *headers, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (rd_kafka_header_add(headers, "", 0, NULL, 0) != RD_KAFKA_RESP_ERR_NO_ERROR)
			return false;
	}
	return true;
}

/*
 * Read the optional fields of "produce": a time and headers.  The caller
 * owns *headers, which can be NULL.
 */
static bool
read_extras(char **fields, int nfields, int64_t *timestamp_ms, rd_kafka_headers_t **headers)
{
	*timestamp_ms = 0;
	*headers = NULL;
	for (int i = 0; i < nfields; i++)
	{
		char *value = strchr(fields[i], '=');
		size_t nbytes = 0;

		if (fields[i][0] == '@')
		{
			*timestamp_ms = strtoll(fields[i] + 1, NULL, 10);
			continue;
		}
		if (*headers == NULL)
			*headers = rd_kafka_headers_new(4);
		if (fields[i][0] == '*')
		{
			if (!add_empty_headers(*headers, atoi(fields[i] + 1)))
				return false;
			continue;
		}
		if (value == NULL)
			return false;
		*value++ = '\0';
		if (strcmp(value, "-") == 0)
			value = NULL;
		else if (!unescape(value, &nbytes))
			return false;
		if (rd_kafka_header_add(*headers, fields[i], -1, value, nbytes) !=
			RD_KAFKA_RESP_ERR_NO_ERROR)
			return false;
	}
	return true;
}

/*
 * Send the message of these fields: PARTITION KEY PAYLOAD, times and headers.
 * While the producer is polled, *offset becomes the message's own, or
 * DELIVERY_FAILED.
 */
static rd_kafka_resp_err_t
send_message(const char *topic, char **fields, int nfields, int64_t *offset)
{
	int partition;
	size_t key_bytes = 0;
	size_t payload_bytes = 0;
	char *key = nfields < 3 || strcmp(fields[1], "-") == 0 ? NULL : fields[1];
	char *payload = nfields < 3 || strcmp(fields[2], "-") == 0 ? NULL : fields[2];
	int64_t timestamp_ms;
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t error;

	if (nfields < 3 || !read_int(fields[0], &partition) ||
		(key != NULL && !unescape(key, &key_bytes)) ||
		(payload != NULL && !unescape(payload, &payload_bytes)) ||
		!read_extras(fields + 3, nfields - 3, &timestamp_ms, &headers))
		return RD_KAFKA_RESP_ERR__INVALID_ARG;
	if (headers == NULL)
		headers = rd_kafka_headers_new(1);

	*offset = DELIVERY_PENDING;
	error = rd_kafka_producev(
		producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
		RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_KEY(key, key_bytes),
		RD_KAFKA_V_VALUE(payload, payload_bytes), RD_KAFKA_V_TIMESTAMP(timestamp_ms),
		RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(offset), RD_KAFKA_V_END);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_headers_destroy(headers);
	return error;
}

/*
 * produce TOPIC PARTITION KEY PAYLOAD [@MILLISECONDS] [HEADER=VALUE ...]
 */
static void
produce_one(char **fields, int nfields)
{
	int64_t offset;
	rd_kafka_resp_err_t error = send_message(fields[1], fields + 2, nfields - 2, &offset);

	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		answer_code(error);
		return;
	}

	/* message.timeout.ms ends this loop, whatever the brokers do */
	while (offset == DELIVERY_PENDING)
		rd_kafka_poll(producer, 100);
	if (offset == DELIVERY_FAILED)
		answer_code(last_failure);
	else
		answer("ok %" PRId64, offset);
}

/*
 * Begin, commit or abort a transaction.  What it holds has its offsets
 * afterwards, aborted or not.
 */
static rd_kafka_resp_err_t
change_transaction(const char *verb)
{
	rd_kafka_error_t *error;
	rd_kafka_resp_err_t code;

	if (strcmp(verb, "begin") == 0)
		error = rd_kafka_begin_transaction(producer);
	else
	{
		code = rd_kafka_flush(producer, DELIVERY_TIMEOUT_MS);
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
			return code;
		error = strcmp(verb, "commit") == 0
					? rd_kafka_commit_transaction(producer, DELIVERY_TIMEOUT_MS)
					: rd_kafka_abort_transaction(producer, DELIVERY_TIMEOUT_MS);
	}
	code = rd_kafka_error_code(error);
	rd_kafka_error_destroy(error);
	return code;
}

/*
 * Send what a file says; *offsets, of the messages in order, are the caller's
 * to free.
 */
static rd_kafka_resp_err_t
send_file(const char *topic, FILE *file, int64_t **offsets, int *noffsets)
{
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
	char *line = NULL;
	size_t line_capacity = 0;
	char *fields[MAX_FIELDS];

	*noffsets = 0;
	*offsets = calloc(MAX_MESSAGES, sizeof(int64_t));
	while (error == RD_KAFKA_RESP_ERR_NO_ERROR && getline(&line, &line_capacity, file) >= 0)
	{
		int nfields = split(line, fields);

		if (nfields == 1)
			error = change_transaction(fields[0]);
		else if (*noffsets == MAX_MESSAGES)
			error = RD_KAFKA_RESP_ERR__QUEUE_FULL;
		else
			error = send_message(topic, fields, nfields, &(*offsets)[(*noffsets)++]);
		rd_kafka_poll(producer, 0);
	}
	free(line);

	/* also after an error: what was sent points to the offsets */
	while (rd_kafka_outq_len(producer) > 0)
		rd_kafka_poll(producer, 100);
	return error;
}

/*
 * messages TOPIC PATH
 */
static void
produce_messages(char **fields)
{
	FILE *file = fopen(fields[2], "r");
	long long failed_before = failed;
	int64_t *offsets;
	int noffsets;
	rd_kafka_resp_err_t error;

	if (file == NULL)
	{
		answer("error %s", strerror(errno));
		return;
	}
	error = send_file(fields[1], file, &offsets, &noffsets);
	fclose(file);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && failed > failed_before)
		error = last_failure;
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		answer_code(error);
	else
	{
		printf("ok");
		for (int i = 0; i < noffsets; i++)
			printf(" %" PRId64, offsets[i]);
		answer("");
	}
	free(offsets);
}

/*
 * Send one line of a file, waiting while the producer's queue is full.
 */
static rd_kafka_resp_err_t
produce_line(const char *topic, int partition, char *line, size_t nbytes)
{
	rd_kafka_resp_err_t error;

	do
	{
		error =
			rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_VALUE(line, nbytes), RD_KAFKA_V_END);
		rd_kafka_poll(producer, error == RD_KAFKA_RESP_ERR__QUEUE_FULL ? 100 : 0);
	} while (error == RD_KAFKA_RESP_ERR__QUEUE_FULL);
	return error;
}

/*
 * The number of partitions of a topic, 0 if there is none or no answer.
 */
static int
partition_count(const char *name)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, name, NULL);
	const struct rd_kafka_metadata *metadata;
	int count = 0;

	if (topic == NULL)
		return 0;
	if (rd_kafka_metadata(producer, 0, topic, &metadata, 5000) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topic_cnt == 1)
			count = metadata->topics[0].partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_topic_destroy(topic);
	return count;
}

/*
 * ends TOPIC
 */
static void
tell_ends(const char *topic)
{
	int npartitions = partition_count(topic);
	int64_t ends[MAX_PARTITIONS];

	if (npartitions == 0 || npartitions > MAX_PARTITIONS)
	{
		answer("error no such topic");
		return;
	}
	for (int i = 0; i < npartitions; i++)
	{
		int64_t begin;
		rd_kafka_resp_err_t error =
			rd_kafka_query_watermark_offsets(producer, topic, i, &begin, &ends[i], 5000);

		if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			answer_code(error);
			return;
		}
	}
	printf("ok");
	for (int i = 0; i < npartitions; i++)
		printf(" %" PRId64, ends[i]);
	answer("");
}

/*
 * file TOPIC PATH
 */
static void
produce_file(char **fields)
{
	FILE *file = fopen(fields[2], "r");
	int npartitions = partition_count(fields[1]);
	long long nlines = 0;
	long long failed_before = failed;
	char *line = NULL;
	size_t line_capacity = 0;
	ssize_t nbytes;
	rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;

	if (file == NULL || npartitions == 0)
	{
		answer("error %s", file == NULL ? strerror(errno) : "no such topic");
		if (file != NULL)
			fclose(file);
		return;
	}
	while (error == RD_KAFKA_RESP_ERR_NO_ERROR &&
		   (nbytes = getline(&line, &line_capacity, file)) >= 0)
	{
		if (nbytes > 0 && line[nbytes - 1] == '\n')
			nbytes--;
		error = produce_line(fields[1], (int) (nlines++ % npartitions), line, nbytes);
	}
	free(line);
	fclose(file);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		error = rd_kafka_flush(producer, DELIVERY_TIMEOUT_MS);
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR && failed > failed_before)
		error = last_failure;
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
		answer("ok %lld", nlines);
	else
		answer_code(error);
}

/*
 * error API_KEY COUNT CODE...
 */
static void
push_errors(char **fields, int nfields)
{
	static rd_kafka_resp_err_t errors[MAX_ERRORS];
	int api_key;
	int count;
	int code;

	if (!read_int(fields[1], &api_key) || !read_int(fields[2], &count) || count < 1 ||
		count > MAX_ERRORS)
	{
		answer("error bad field");
		return;
	}
	for (int i = 0; i < count; i++)
	{
		if (!read_int(fields[3 + i % (nfields - 3)], &code))
		{
			answer("error bad field");
			return;
		}
		errors[i] = (rd_kafka_resp_err_t) code;
	}
	rd_kafka_mock_push_request_errors_array(cluster, (int16_t) api_key, count, errors);
	answer("ok");
}

/*
 * down ID, up ID, rtt ID MS
 */
static void
change_broker(char **fields, int nfields)
{
	int id;
	int rtt_ms = 0;

	if (!read_int(fields[1], &id) || (nfields > 2 && !read_int(fields[2], &rtt_ms)))
	{
		answer("error bad field");
		return;
	}
	if (id == 0)
		id = -1;
	if (strcmp(fields[0], "down") == 0)
		answer_code(rd_kafka_mock_broker_set_down(cluster, id));
	else if (strcmp(fields[0], "up") == 0)
		answer_code(rd_kafka_mock_broker_set_up(cluster, id));
	else
		answer_code(rd_kafka_mock_broker_set_rtt(cluster, id, rtt_ms));
}

/*
 * Obey one command of nfields fields.  Returns false on "quit".
 */
static bool
obey(char **fields, int nfields)
{
	const char *verb = fields[0];
	int number;
	int id;

	if (strcmp(verb, "quit") == 0)
	{
		answer("ok");
		return false;
	}
	if (strcmp(verb, "produce") == 0 && nfields >= 5)
		produce_one(fields, nfields);
	else if (strcmp(verb, "messages") == 0 && nfields == 3)
		produce_messages(fields);
	else if (strcmp(verb, "ends") == 0 && nfields == 2)
		tell_ends(fields[1]);
	else if (cluster == NULL)
		answer("error not a mock cluster");
	else if (strcmp(verb, "file") == 0 && nfields == 3)
		produce_file(fields);
	else if (strcmp(verb, "error") == 0 && nfields >= 4)
		push_errors(fields, nfields);
	else if ((strcmp(verb, "down") == 0 && nfields == 2) ||
			 (strcmp(verb, "up") == 0 && nfields == 2) ||
			 (strcmp(verb, "rtt") == 0 && nfields == 3))
		change_broker(fields, nfields);
	else if (strcmp(verb, "topic") == 0 && nfields == 3 && read_int(fields[2], &number) &&
			 number > 0)
		answer_code(rd_kafka_mock_topic_create(cluster, fields[1], number, 1));
	else if (strcmp(verb, "leader") == 0 && nfields == 4 && read_int(fields[2], &number) &&
			 read_int(fields[3], &id))
		answer_code(rd_kafka_mock_partition_set_leader(cluster, fields[1], number, id));
	else if (strcmp(verb, "clear_errors") == 0 && nfields == 2 && read_int(fields[1], &number))
	{
		rd_kafka_mock_clear_request_errors(cluster, (int16_t) number);
		answer("ok");
	}
	else if (strcmp(verb, "topic_error") == 0 && nfields == 3 && read_int(fields[2], &number))
	{
		rd_kafka_mock_topic_set_error(cluster, fields[1], (rd_kafka_resp_err_t) number);
		answer("ok");
	}
	else
		answer("error unknown command");
	return true;
}

/*
 * Create a producer; brokers is NULL for the one that carries the cluster,
 * transactional_id for one without transactions.
 */
static rd_kafka_t *
create_producer(const char *brokers, const char *transactional_id)
{
	const char *properties[][2] = {
		{"log_level", "2"},
		{"linger.ms", "5"},
		{"batch.size", "1000000"},
		{"message.max.bytes", "100000000"},
		{"message.timeout.ms", "20000"},
		{"queue.buffering.max.messages", "200000"},
		{"bootstrap.servers", brokers},
		{"transactional.id", transactional_id},
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *handle;
	char reason[512];

	for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++)
	{
		if (properties[i][1] != NULL &&
			rd_kafka_conf_set(conf, properties[i][0], properties[i][1], reason, sizeof(reason)) !=
				RD_KAFKA_CONF_OK)
			die("could not configure", reason);
	}
	rd_kafka_conf_set_dr_msg_cb(conf, note_delivery);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof(reason));
	if (handle == NULL)
		die("could not start", reason);
	return handle;
}

/*
 * Start the mock cluster and its producer; where it is.
 */
static const char *
start_cluster(rd_kafka_t **carrier, int nbrokers)
{
	*carrier = create_producer(NULL, NULL);
	cluster = rd_kafka_mock_cluster_new(*carrier, nbrokers);
	if (cluster == NULL)
		die("could not start", "no mock cluster");
	producer = create_producer(rd_kafka_mock_cluster_bootstraps(cluster), NULL);
	return rd_kafka_mock_cluster_bootstraps(cluster);
}

/*
 * Make the producer of a cluster that is there already; where it is.
 */
static const char *
join_cluster(const char *bootstrap)
{
	rd_kafka_error_t *error;

	producer = create_producer(bootstrap, "mock_broker");
	error = rd_kafka_init_transactions(producer, DELIVERY_TIMEOUT_MS);
	if (error != NULL)
		die("could not prepare transactions", rd_kafka_error_string(error));
	return bootstrap;
}

/*
 * Start or join a cluster, obey until the end of stdin.
 */
int
main(int argc, char **argv)
{
	rd_kafka_t *carrier = NULL;
	const char *bootstrap = NULL;
	int nbrokers = 1;
	char *line = NULL;
	size_t line_capacity = 0;
	char *fields[MAX_FIELDS];

	if (argc == 3 && strcmp(argv[1], "--bootstrap") == 0)
		bootstrap = argv[2];
	else if (argc == 3 && strcmp(argv[1], "--brokers") == 0 && read_int(argv[2], &nbrokers) &&
			 nbrokers > 0)
		;
	else if (argc != 1)
		die("usage", "mock_broker [--brokers N | --bootstrap HOST:PORT]");

	signal(SIGPIPE, SIG_IGN);
#ifdef __linux__
	prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
	answer("bootstrap %s", bootstrap ? join_cluster(bootstrap) : start_cluster(&carrier, nbrokers));

	while (getline(&line, &line_capacity, stdin) >= 0)
	{
		if (!obey(fields, split(line, fields)))
			break;
	}

	free(line);
	rd_kafka_destroy(producer);
	if (cluster != NULL)
		rd_kafka_mock_cluster_destroy(cluster);
	if (carrier != NULL)
		rd_kafka_destroy(carrier);
	return 0;
}
