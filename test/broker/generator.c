/*-------------------------------------------------------------------------
 *
 * generator.c
 *	  Produces the detections of a town's cameras into a Kafka topic.
 *
 *	  generator --bootstrap HOST:PORT --topic NAME [options]
 *
 * It prints one JSON object at the end, the ledger: what was produced, how
 * much of it is distinct, and how much is wrong in which way.  A test compares
 * the database with that ledger.
 *
 * The hard idea: event number i is a pure function of (seed, i, start).  All
 * its random numbers are hashes of these, nothing is remembered, and so a
 * duplicate of event i is made by computing event i again.  Two runs with the
 * same options and the same --start produce the same bytes; which partition a
 * message goes to is part of that.
 *
 * The idempotent producer of the library keeps retries from adding duplicates
 * that the ledger would not know of.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE /* strptime, timegm */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define US_PER_S		   INT64_C(1000000)
#define NS_PER_MS		   1000000L
#define TIMEOUT_MS		   60000
#define DEFAULT_EVENT_RATE 10000
#define DUPLICATE_REACH	   100000 /* how far back a duplicate may go */
#define MAX_MESSAGE_BYTES  512
#define NAME_BYTES		   256 /* of a topic; Kafka allows 249 */

/* The town that the locations lie in; examples/city_cameras has the same. */
#define TOWN_WEST		13.0
#define TOWN_SOUTH		52.3
#define TOWN_WIDTH		0.8
#define TOWN_HEIGHT		0.4
#define LOCATION_STRIDE 7919   /* a prime: spreads neighbours in rank */
#define CAMERA_REACH	0.0015 /* degrees between a camera and what it sees */

/* What can be wrong with a message; its key says "broken-" and the name. */
typedef enum BrokenKind
{
	NOT_BROKEN = -1,
	BROKEN_INVALID_JSON,
	BROKEN_WRONG_TYPE,
	BROKEN_EMPTY,
	BROKEN_MISSING_KEY,
	BROKEN_OUT_OF_RANGE,
	BROKEN_FAR_FUTURE,
	NUM_BROKEN_KINDS
} BrokenKind;

static const char *const broken_names[NUM_BROKEN_KINDS] = {
	"invalid_json", "wrong_type", "empty", "missing_key", "out_of_range", "far_future"};

/* Independent random numbers of one event: the salts of its hashes. */
typedef enum Draw
{
	DRAW_BROKEN,
	DRAW_BROKEN_KIND,
	DRAW_LATE,
	DRAW_LATENESS,
	DRAW_JITTER,
	DRAW_LOCATION,
	DRAW_CAMERA,
	DRAW_ITEM,
	DRAW_CONFIDENCE,
	DRAW_LON,
	DRAW_LAT,
	DRAW_PARTITION,
	DRAW_DUPLICATE,
	DRAW_ORIGINAL,
	DRAW_ABORT
} Draw;

static const char *const items[] = {
	"car",		   "person",	 "bicycle", "truck",	"bus",		  "motorcycle",
	"dog",		   "scooter",	 "tram",	"van",		"backpack",	  "stroller",
	"cat",		   "suitcase",	 "taxi",	"trailer",	"ambulance",  "police car",
	"fire engine", "wheelchair", "horse",	"umbrella", "skateboard", "delivery robot"};
#define NUM_ITEMS ((int) (sizeof(items) / sizeof(items[0])))

typedef struct Options
{
	const char *bootstrap;
	const char *topic;
	const char *file; /* write lines here instead of producing */
	const char *compression;
	int topics;		   /* 0: topic is one; else names begin with it and end with a number */
	int partitions;	   /* 0: as many as the topic has */
	double rate;	   /* messages a second; 0: as fast as possible */
	double event_rate; /* events a second of event time */
	int64_t count;	   /* messages; -1: no bound */
	double seconds;	   /* 0: no bound */
	double duplicates;
	double late;
	double broken;
	BrokenKind broken_kind; /* NOT_BROKEN: all kinds in turn */
	uint64_t seed;
	int64_t first_oid;
	int locations;
	int64_t start_us; /* event time of event 0, since 1970 */
	int transaction;  /* messages a transaction; 0: none */
	double abort;	  /* aborted transactions for each committed one */
} Options;

typedef struct Ledger
{
	int64_t produced;
	int64_t distinct;
	int64_t duplicates;
	int64_t late;
	int64_t broken[NUM_BROKEN_KINDS];
	int64_t aborted;
	int64_t failed;
	int64_t bytes;
} Ledger;

/* Where messages go: a topic or a file. */
typedef struct Sink
{
	FILE *file;
	rd_kafka_t *kafka;
	int partitions;
} Sink;

static Options options = {.broken_kind = NOT_BROKEN,
						  .compression = "none",
						  .count = -1,
						  .event_rate = -1,
						  .first_oid = 1,
						  .locations = 10000,
						  .seed = 1,
						  .start_us = -1};
static Ledger ledger;
static volatile sig_atomic_t stop_requested = 0;

/* Prints a message and ends the program. */
static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("generator: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* SIGINT, SIGTERM: finish what is under way and print the ledger. */
static void
request_stop(int signal_number)
{
	(void) signal_number;
	stop_requested = 1;
}

/* The time of a clock in microseconds. */
static int64_t
clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * US_PER_S + now.tv_nsec / 1000;
}

/* A random 64-bit number for one draw of one event (splitmix64's finisher). */
static uint64_t
draw(int64_t event, Draw which)
{
	uint64_t x = options.seed * UINT64_C(0x9E3779B97F4A7C15) ^
				 ((uint64_t) event * 32 + (uint64_t) which + 1) * UINT64_C(0xD1342543DE82EF95);

	x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
	return x ^ (x >> 31);
}

/* The same as a number from [0, 1). */
static double
draw_fraction(int64_t event, Draw which)
{
	return (double) (draw(event, which) >> 11) * 0x1.0p-53;
}

/* What is wrong with an event; events in order take the kinds in turn. */
static BrokenKind
event_broken_kind(int64_t event)
{
	if (draw_fraction(event, DRAW_BROKEN) >= options.broken)
		return NOT_BROKEN;
	if (options.broken_kind != NOT_BROKEN)
		return options.broken_kind;
	return (BrokenKind) (draw(event, DRAW_BROKEN_KIND) % NUM_BROKEN_KINDS);
}

/* Is the event one to three hours late? */
static bool
event_is_late(int64_t event)
{
	return draw_fraction(event, DRAW_LATE) < options.late;
}

/* When a camera saw the event. */
static int64_t
event_time_us(int64_t event)
{
	int64_t time_us =
		options.start_us + (int64_t) ((double) event * (double) US_PER_S / options.event_rate);

	time_us -= (int64_t) (draw_fraction(event, DRAW_JITTER) * 0.2 * (double) US_PER_S);
	if (event_is_late(event))
		time_us -=
			(int64_t) ((1 + 2 * draw_fraction(event, DRAW_LATENESS)) * 3600 * (double) US_PER_S);
	return time_us;
}

/* Writes a time as ISO 8601 in UTC with microseconds. */
static void
format_time(char *buffer, size_t buffer_bytes, int64_t time_us)
{
	time_t seconds = time_us / US_PER_S;
	struct tm parts;
	size_t used;

	gmtime_r(&seconds, &parts);
	used = strftime(buffer, buffer_bytes, "%Y-%m-%dT%H:%M:%S", &parts);
	snprintf(buffer + used, buffer_bytes - used, ".%06dZ", (int) (time_us % US_PER_S));
}

/*
 * Writes the payload of an event, broken in the given way, and returns its
 * length.  Some locations and items are much more frequent than others: the
 * square of a uniform number chooses.  Busy locations lie all over the town.
 */
static size_t
format_event(char *buffer, int64_t event, BrokenKind broken)
{
	double place = draw_fraction(event, DRAW_LOCATION);
	double thing = draw_fraction(event, DRAW_ITEM);
	int64_t rank = (int64_t) (place * place * options.locations);
	int location = (int) (rank * LOCATION_STRIDE % options.locations);
	int camera = location * 4 + (int) (draw(event, DRAW_CAMERA) % 4) + 1;
	int columns = (int) ceil(sqrt((double) options.locations));
	int rows = (options.locations + columns - 1) / columns;
	double lon = TOWN_WEST + TOWN_WIDTH * (location % columns + 0.5) / columns;
	double lat = TOWN_SOUTH + TOWN_HEIGHT * (location / columns + 0.5) / rows;
	double confidence = 0.5 + 0.5 * draw_fraction(event, DRAW_CONFIDENCE);
	int64_t time_us = event_time_us(event);
	char oid[64];
	char camera_text[32];
	char time_text[64];
	int length;

	lon += CAMERA_REACH * (2 * draw_fraction(event, DRAW_LON) - 1);
	lat += CAMERA_REACH * (2 * draw_fraction(event, DRAW_LAT) - 1);
	if (broken == BROKEN_OUT_OF_RANGE)
		confidence += 1;
	if (broken == BROKEN_FAR_FUTURE)
		time_us += INT64_C(10) * 365 * 86400 * US_PER_S;
	format_time(time_text, sizeof(time_text), time_us);
	snprintf(oid, sizeof(oid), "\"detection_oid\": %lld, ",
			 (long long) (options.first_oid + event));
	snprintf(camera_text, sizeof(camera_text), broken == BROKEN_WRONG_TYPE ? "\"gate %d\"" : "%d",
			 camera);
	if (broken == BROKEN_EMPTY)
		return 0;
	length =
		snprintf(buffer, MAX_MESSAGE_BYTES,
				 "{%s\"video_camera_oid\": %s, \"geographical_location_oid\": %d, "
				 "\"item_name\": \"%s\", \"confidence\": %.4f, \"timestamp_detected\": \"%s\", "
				 "\"lon\": %.6f, \"lat\": %.6f}",
				 broken == BROKEN_MISSING_KEY ? "" : oid, camera_text, location + 1,
				 items[(int) (thing * thing * NUM_ITEMS)], confidence, time_text, lon, lat);
	return broken == BROKEN_INVALID_JSON ? (size_t) length / 2 : (size_t) length;
}

/* A message that the broker did not take is one that the ledger counts wrong. */
static void
count_delivery(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque)
{
	(void) kafka;
	(void) opaque;
	if (message->err)
	{
		if (ledger.failed++ == 0)
			fprintf(stderr, "generator: not delivered: %s\n", rd_kafka_err2str(message->err));
	}
}

/* Sets a property of the library. */
static void
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		die("could not set %s: %s", name, error);
}

/* The topic of message number `turn`, in a buffer of NAME_BYTES. */
static const char *
topic_of(int64_t turn, char *name)
{
	if (options.topics == 0)
		return options.topic;
	snprintf(name, NAME_BYTES, "%s%lld", options.topic, (long long) (turn % options.topics));
	return name;
}

/* How many partitions the (first) topic has; asking also creates it where the broker allows
 * that. */
static int
count_partitions(rd_kafka_t *kafka)
{
	char name[NAME_BYTES];
	rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka, topic_of(0, name), NULL);
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t error;
	int count;

	error = rd_kafka_metadata(kafka, 0, topic, &metadata, TIMEOUT_MS);
	if (error)
		die("could not ask for topic \"%s\": %s", topic_of(0, name), rd_kafka_err2str(error));
	if (metadata->topic_cnt < 1 || metadata->topics[0].partition_cnt < 1)
		die("topic \"%s\" does not exist", topic_of(0, name));
	count = metadata->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(topic);
	return count;
}

/* Ends the program when a call about transactions failed. */
static void
check_transaction(const char *what, rd_kafka_error_t *error)
{
	if (error)
		die("could not %s: %s", what, rd_kafka_error_string(error));
}

/* Opens the topic or the file. */
static void
sink_open(Sink *sink)
{
	rd_kafka_conf_t *conf;
	char error[512];

	memset(sink, 0, sizeof(*sink));
	sink->partitions = options.partitions > 0 ? options.partitions : 1;
	if (options.file)
	{
		sink->file = fopen(options.file, "w");
		if (sink->file == NULL)
			die("could not open \"%s\": %s", options.file, strerror(errno));
		return;
	}

	conf = rd_kafka_conf_new();
	set_property(conf, "bootstrap.servers", options.bootstrap);
	set_property(conf, "client.id", "generator");
	set_property(conf, "enable.idempotence", "true");
	set_property(conf, "compression.codec", options.compression);
	set_property(conf, "linger.ms", options.rate > 0 ? "5" : "50");
	set_property(conf, "queue.buffering.max.messages", "200000");
	if (options.transaction > 0)
		set_property(conf, "transactional.id", "generator");
	rd_kafka_conf_set_dr_msg_cb(conf, count_delivery);
	sink->kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (sink->kafka == NULL)
		die("could not create a producer: %s", error);
	if (options.partitions == 0)
		sink->partitions = count_partitions(sink->kafka);
	if (options.transaction > 0)
		check_transaction("prepare transactions",
						  rd_kafka_init_transactions(sink->kafka, TIMEOUT_MS));
}

/* Sends one message; waits while the library's queue is full. */
static void
sink_send(Sink *sink, const char *topic, int32_t partition, const char *key, const char *payload,
		  size_t bytes)
{
	rd_kafka_resp_err_t error;

	ledger.bytes += (int64_t) bytes;
	if (sink->file)
	{
		fwrite(payload, 1, bytes, sink->file);
		fputc('\n', sink->file);
		return;
	}
	for (;;)
	{
		error = rd_kafka_producev(sink->kafka, RD_KAFKA_V_TOPIC(topic),
								  RD_KAFKA_V_PARTITION(partition), RD_KAFKA_V_KEY(key, strlen(key)),
								  RD_KAFKA_V_VALUE((void *) payload, bytes),
								  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
		if (error != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			break;
		rd_kafka_poll(sink->kafka, 10);
	}
	if (error)
		die("could not produce: %s", rd_kafka_err2str(error));
}

/* Sends event number `event`; `turn` is the message's own number. */
static void
send_event(Sink *sink, int64_t turn, int64_t event, BrokenKind broken)
{
	char payload[MAX_MESSAGE_BYTES];
	char key[64];
	char topic[NAME_BYTES];
	size_t bytes = format_event(payload, event, broken);
	int32_t partition = (int32_t) (draw(turn, DRAW_PARTITION) % (uint64_t) sink->partitions);

	if (broken == NOT_BROKEN)
		snprintf(key, sizeof(key), "%lld", (long long) (options.first_oid + event));
	else
		snprintf(key, sizeof(key), "broken-%s", broken_names[broken]);
	sink_send(sink, topic_of(turn, topic), partition, key, payload, bytes);
}

/*
 * The event that message number `turn` repeats, or -1: an earlier one that is
 * neither broken nor itself a repetition, no further back than the reach.
 */
static int64_t
original_of(int64_t turn)
{
	int64_t reach = turn < DUPLICATE_REACH ? turn : DUPLICATE_REACH;
	int64_t event;

	if (reach == 0 || draw_fraction(turn, DRAW_DUPLICATE) >= options.duplicates)
		return -1;
	event = turn - 1 - (int64_t) (draw(turn, DRAW_ORIGINAL) % (uint64_t) reach);
	for (; event >= 0; event--)
	{
		if (draw_fraction(event, DRAW_DUPLICATE) >= options.duplicates &&
			event_broken_kind(event) == NOT_BROKEN)
			return event;
	}
	return -1;
}

/* Sends message number `turn` and enters it in the ledger. */
static void
send_turn(Sink *sink, int64_t turn)
{
	int64_t original = original_of(turn);
	BrokenKind broken;

	ledger.produced++;
	if (original >= 0)
	{
		send_event(sink, turn, original, NOT_BROKEN);
		ledger.duplicates++;
		return;
	}

	broken = event_broken_kind(turn);
	if (broken == BROKEN_EMPTY && sink->file)
		broken = BROKEN_INVALID_JSON; /* a file has no empty messages */
	send_event(sink, turn, turn, broken);
	if (broken != NOT_BROKEN)
		ledger.broken[broken]++;
	else
	{
		ledger.distinct++;
		if (event_is_late(turn))
			ledger.late++;
	}
}

/*
 * Sends messages [turn, end) as one transaction.  Before some of them the same
 * number of messages goes out in a transaction that is aborted: a reader that
 * is not "read_committed" finds events with negative keys.
 */
static void
send_transaction(Sink *sink, int64_t turn, int64_t end)
{
	if (draw_fraction(turn, DRAW_ABORT) < options.abort)
	{
		check_transaction("begin", rd_kafka_begin_transaction(sink->kafka));
		for (int64_t i = turn; i < end; i++)
			send_event(sink, i, -options.first_oid - 1 - i, NOT_BROKEN);
		rd_kafka_flush(sink->kafka, TIMEOUT_MS);
		check_transaction("abort", rd_kafka_abort_transaction(sink->kafka, TIMEOUT_MS));
		ledger.aborted += end - turn;
	}
	check_transaction("begin", rd_kafka_begin_transaction(sink->kafka));
	for (; turn < end; turn++)
		send_turn(sink, turn);
	check_transaction("commit", rd_kafka_commit_transaction(sink->kafka, TIMEOUT_MS));
}

/* How many messages should be out by now, at most `bound`. */
static int64_t
messages_due(int64_t elapsed_us, int64_t bound)
{
	double due = (double) elapsed_us * options.rate / (double) US_PER_S;

	return options.rate <= 0 || due >= (double) bound ? bound : (int64_t) due;
}

/* Serves the library's queue, or lets a millisecond pass while nothing is due. */
static void
breathe(Sink *sink, bool idle)
{
	struct timespec pause = {0, NS_PER_MS};

	if (sink->kafka)
		rd_kafka_poll(sink->kafka, 0);
	if (idle)
		nanosleep(&pause, NULL);
}

/* Sends everything that was asked for, at the rate that was asked for. */
static void
run(Sink *sink)
{
	const int64_t step = options.transaction > 0 ? options.transaction : 1000;
	int64_t begin_us = clock_us(CLOCK_MONOTONIC);
	int64_t turn = 0;

	while (!stop_requested && (options.count < 0 || turn < options.count))
	{
		int64_t elapsed_us = clock_us(CLOCK_MONOTONIC) - begin_us;
		int64_t end = turn + step;

		if (options.seconds > 0 && (double) elapsed_us >= options.seconds * (double) US_PER_S)
			break;
		if (options.count >= 0 && end > options.count)
			end = options.count;
		if (options.transaction > 0)
		{
			bool due = messages_due(elapsed_us, end) >= end;

			if (due)
			{
				send_transaction(sink, turn, end);
				turn = end;
			}
			breathe(sink, !due);
		}
		else
		{
			end = messages_due(elapsed_us, end);
			breathe(sink, end <= turn);
			for (; turn < end; turn++)
				send_turn(sink, turn);
		}
	}
}

/* Waits until the last message is written. */
static void
sink_close(Sink *sink)
{
	if (sink->file)
	{
		if (fclose(sink->file) != 0)
			die("could not write \"%s\": %s", options.file, strerror(errno));
		return;
	}
	rd_kafka_flush(sink->kafka, TIMEOUT_MS);
	ledger.failed += rd_kafka_outq_len(sink->kafka);
	rd_kafka_destroy(sink->kafka);
}

/* Prints the ledger. */
static void
print_ledger(double seconds)
{
	printf(
		"{\"produced\": %lld, \"distinct\": %lld, \"duplicates\": %lld, \"late\": %lld, \"broken\": {",
		(long long) ledger.produced, (long long) ledger.distinct, (long long) ledger.duplicates,
		(long long) ledger.late);
	for (int i = 0; i < NUM_BROKEN_KINDS; i++)
		printf("%s\"%s\": %lld", i ? ", " : "", broken_names[i], (long long) ledger.broken[i]);
	printf("}, \"aborted\": %lld, \"failed\": %lld, \"bytes\": %lld, \"seconds\": %.3f}\n",
		   (long long) ledger.aborted, (long long) ledger.failed, (long long) ledger.bytes,
		   seconds);
}

/* Reads an ISO 8601 time in UTC, such as 2026-01-31T12:00:00Z. */
static int64_t
parse_time(const char *text)
{
	struct tm parts = {0};
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);

	if (rest == NULL || (strcmp(rest, "Z") != 0 && *rest != '\0'))
		die("not a time like 2026-01-31T12:00:00Z: \"%s\"", text);
	return (int64_t) timegm(&parts) * US_PER_S;
}

/* Reads a number that must not be negative. */
static double
parse_number(const char *name, const char *text)
{
	char *rest;
	double value = strtod(text, &rest);

	if (rest == text || *rest != '\0' || !(value >= 0))
		die("--%s needs a number that is not negative, not \"%s\"", name, text);
	return value;
}

/* Prints how the program is called, and ends it. */
static void __attribute__((noreturn)) usage(int status)
{
	fputs("usage: generator --bootstrap HOST:PORT --topic NAME [option…]\n"
		  "       generator --file PATH [option…]\n"
		  "  --rate R           messages a second (0: as fast as possible)\n"
		  "  --count N, --seconds S   when to stop (else: at SIGINT or SIGTERM)\n"
		  "  --topics N         write to N topics in turn: NAME0, NAME1, …\n"
		  "  --partitions N     write to partitions 0 … N-1 (else: to all of the topic)\n"
		  "  --duplicates F     share of messages that repeat an earlier one\n"
		  "  --late F           share of events that are 1 to 3 hours late\n"
		  "  --broken F         share of messages that can't become a row\n"
		  "  --broken-kind K    what is wrong with them (else: all kinds in turn)\n"
		  "  --seed N           the same seed and --start give the same messages\n"
		  "  --first-oid N      detection_oid of the first event (1)\n"
		  "  --locations N      how many locations there are (10000)\n"
		  "  --start TIME       event time of the first event (now)\n"
		  "  --event-rate R     events a second of event time (the rate, else 10000)\n"
		  "  --compression C    none, gzip, snappy, lz4 or zstd\n"
		  "  --transaction N    messages a transaction\n"
		  "  --abort F          aborted transactions for each committed one\n",
		  status == 0 ? stdout : stderr);
	exit(status);
}

/* The kind of this name. */
static BrokenKind
parse_broken_kind(const char *value)
{
	for (int kind = 0; kind < NUM_BROKEN_KINDS; kind++)
	{
		if (strcmp(value, broken_names[kind]) == 0)
			return (BrokenKind) kind;
	}
	usage(2);
}

/* Reads one option. */
static void
read_option(const char *name, const char *value)
{
	if (strcmp(name, "help") == 0)
		usage(0);
	else if (strcmp(name, "bootstrap") == 0)
		options.bootstrap = value;
	else if (strcmp(name, "topic") == 0)
		options.topic = value;
	else if (strcmp(name, "file") == 0)
		options.file = value;
	else if (strcmp(name, "compression") == 0)
		options.compression = value;
	else if (strcmp(name, "start") == 0)
		options.start_us = parse_time(value);
	else if (strcmp(name, "topics") == 0)
		options.topics = (int) parse_number(name, value);
	else if (strcmp(name, "partitions") == 0)
		options.partitions = (int) parse_number(name, value);
	else if (strcmp(name, "rate") == 0)
		options.rate = parse_number(name, value);
	else if (strcmp(name, "event-rate") == 0)
		options.event_rate = parse_number(name, value);
	else if (strcmp(name, "count") == 0)
		options.count = (int64_t) parse_number(name, value);
	else if (strcmp(name, "seconds") == 0)
		options.seconds = parse_number(name, value);
	else if (strcmp(name, "duplicates") == 0)
		options.duplicates = parse_number(name, value);
	else if (strcmp(name, "late") == 0)
		options.late = parse_number(name, value);
	else if (strcmp(name, "broken") == 0)
		options.broken = parse_number(name, value);
	else if (strcmp(name, "broken-kind") == 0)
		options.broken_kind = parse_broken_kind(value);
	else if (strcmp(name, "seed") == 0)
		options.seed = (uint64_t) parse_number(name, value);
	else if (strcmp(name, "first-oid") == 0)
		options.first_oid = (int64_t) parse_number(name, value);
	else if (strcmp(name, "locations") == 0)
		options.locations = (int) parse_number(name, value);
	else if (strcmp(name, "transaction") == 0)
		options.transaction = (int) parse_number(name, value);
	else if (strcmp(name, "abort") == 0)
		options.abort = parse_number(name, value);
}

/* Reads the command line and fills in what depends on other options. */
static void
read_options(int argc, char **argv)
{
	static const struct option known[] = {{"help", no_argument, NULL, 0},
										  {"bootstrap", required_argument, NULL, 0},
										  {"topic", required_argument, NULL, 0},
										  {"file", required_argument, NULL, 0},
										  {"compression", required_argument, NULL, 0},
										  {"start", required_argument, NULL, 0},
										  {"topics", required_argument, NULL, 0},
										  {"partitions", required_argument, NULL, 0},
										  {"rate", required_argument, NULL, 0},
										  {"event-rate", required_argument, NULL, 0},
										  {"count", required_argument, NULL, 0},
										  {"seconds", required_argument, NULL, 0},
										  {"duplicates", required_argument, NULL, 0},
										  {"late", required_argument, NULL, 0},
										  {"broken", required_argument, NULL, 0},
										  {"broken-kind", required_argument, NULL, 0},
										  {"seed", required_argument, NULL, 0},
										  {"first-oid", required_argument, NULL, 0},
										  {"locations", required_argument, NULL, 0},
										  {"transaction", required_argument, NULL, 0},
										  {"abort", required_argument, NULL, 0},
										  {NULL, 0, NULL, 0}};
	int index;
	int found;

	while ((found = getopt_long(argc, argv, "", known, &index)) != -1)
	{
		if (found != 0)
			usage(2);
		read_option(known[index].name, optarg);
	}
	if (optind < argc || (options.file == NULL) == (options.bootstrap == NULL) ||
		(options.bootstrap && options.topic == NULL) || options.locations < 1 ||
		(options.file && options.transaction > 0))
		usage(2);
	if (options.event_rate <= 0)
		options.event_rate = options.rate > 0 ? options.rate : DEFAULT_EVENT_RATE;
	if (options.start_us < 0)
	{
		options.start_us = clock_us(CLOCK_REALTIME);
		/* at full speed, let event time end where the clock stands now */
		if (options.rate <= 0)
			options.start_us -=
				options.count < 0
					? 3600 * US_PER_S
					: (int64_t) ((double) options.count * (double) US_PER_S / options.event_rate);
	}
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = request_stop};
	int64_t begin_us;
	Sink sink;

	read_options(argc, argv);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sink_open(&sink);
	begin_us = clock_us(CLOCK_MONOTONIC);
	run(&sink);
	sink_close(&sink);
	print_ledger((double) (clock_us(CLOCK_MONOTONIC) - begin_us) / (double) US_PER_S);
	return ledger.failed > 0 ? 1 : 0;
}
