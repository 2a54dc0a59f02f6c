/*-------------------------------------------------------------------------
 *
 * kafka_error.c
 *	  What the library says of itself: errors, sorted, and log lines.
 *
 * All of it waits in the main queue until PostgreSQL's thread takes it out.
 * Log lines are written sparingly; one kind of them is an event too, because
 * the library tells in no other way that a topic has lost its partitions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest/kafka_internal.h"
#include "monitor/log_limit.h"

/*
 * What an error of the library asks of the stream.
 */
KafkaErrorKind
kafka_error_kind(rd_kafka_resp_err_t error)
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
 * Whether an error says that a topic or a partition does not exist.
 */
bool
kafka_error_is_missing(rd_kafka_resp_err_t error)
{
	return error == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		   error == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
		   error == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/*
 * Copy a text of the library into context; bytes that could be invalid in
 * the database's encoding become question marks.
 */
char *
kafka_copy_text(MemoryContext context, const char *text)
{
	char *copy = MemoryContextStrdup(context, text);

	for (char *c = copy; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c))
			*c = '?';
	}
	return copy;
}

/*
 * Write a log line of the library, unless one was of late: a broken broker
 * produces one every few seconds.
 */
static void
report_log_line(int level, const char *text)
{
	char *copy = kafka_copy_text(CurrentMemoryContext, text);
	int left_out;

	if (level >= 7)
		ereport(DEBUG1, (errmsg_internal("Kafka client: %s", copy)));
	else if (log_is_due(LOG_KAFKA_CLIENT, &left_out))
		ereport(LOG, (errmsg("Kafka client: %s", copy), log_left_out(left_out)));
	pfree(copy);
}

/* Whether an error is that of a connection that was lost: the library calls whatever
 * ends a handshake one of authentication or of TLS. */
static bool
is_lost_connection(rd_kafka_resp_err_t error, const char *text)
{
	static const char *const signs[] = {
		"Broker transport failure", "imed out",	   "SSL transport error",
		"Connection reset",			"Broken pipe", "unexpected eof"};

	if (error != RD_KAFKA_RESP_ERR__AUTHENTICATION && error != RD_KAFKA_RESP_ERR__SSL)
		return false;
	for (int i = 0; i < lengthof(signs); i++)
	{
		if (strstr(text, signs[i]) != NULL)
			return true;
	}
	return false;
}

/*
 * Keep a client error, as the reason for the next request that fails.
 */
static void
remember_trouble(KafkaClient *client, rd_kafka_resp_err_t error, const char *text)
{
	/* "3 of 3 brokers are down" says less than what was said before. */
	if (error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || kafka_error_is_missing(error) ||
		kafka_error_kind(client->trouble) == KAFKA_ERROR_CONFIGURATION)
		return;
	client->trouble = is_lost_connection(error, text) ? RD_KAFKA_RESP_ERR__TRANSPORT : error;
	client->trouble_time = GetCurrentTimestamp();
	if (error == RD_KAFKA_RESP_ERR__SSL && client->certificate_text[0] != '\0')
		text = client->certificate_text;
	strlcpy(client->trouble_text, text, sizeof(client->trouble_text));
}

/*
 * Keep what a log line says of a certificate: the error that follows it says
 * less.
 */
static void
remember_certificate(KafkaClient *client, const char *facility, const char *text)
{
	const char *certificate = strstr(text, "Certificate (");

	if (strcmp(facility, "SSLCERTVRFY") == 0 && certificate != NULL)
		strlcpy(client->certificate_text, certificate, sizeof(client->certificate_text));
}

/*
 * Whether a log line says that a topic has got another number of partitions: no
 * event does, not even when the topic is gone.  If it has fewer, those are gone
 * while they were read.
 */
static bool
tells_partition_count(KafkaClient *client, const char *facility, const char *text)
{
	const char *counts = strstr(text, " changed from ");
	int before;
	int now;

	if (strcmp(facility, "PARTCNT") != 0 || counts == NULL ||
		sscanf(counts, " changed from %d to %d", &before, &now) != 2)
		return false;
	client->cannot_close |= now < before;
	return true;
}

/*
 * What an error says, in words of ours where the library speaks of a property
 * that is none of our options; in the current memory context.
 */
static char *
error_text(const char *text)
{
	const char *size = strstr(text, "Invalid response size ");
	int bytes;
	int limit;

	if (size == NULL || sscanf(size, "Invalid response size %d (0..%d)", &bytes, &limit) != 2)
		return pstrdup(text);
	return psprintf("a broker's answer has %d bytes, more than %d: a message is too large for the "
					"option \"fetch_max_bytes\" of the server, or this is no Kafka",
					bytes, limit);
}

/*
 * Describe an error of the client as a whole.
 */
static void
describe_client_error(KafkaClient *client, KafkaEvent *event, rd_kafka_resp_err_t error,
					  const char *text)
{
	memset(event, 0, sizeof(KafkaEvent));
	event->kind = KAFKA_CLIENT_ERROR;
	event->error_kind = kafka_error_kind(error);
	event->error = kafka_copy_text(client->text_context, text);
}

/*
 * Take one element out of the main queue.  Returns false when it is empty.
 * An error is remembered in client->trouble and, if event is not NULL,
 * described there: *is_event tells.
 */
bool
kafka_take_from_main_queue(KafkaClient *client, KafkaEvent *event, bool *is_event)
{
	rd_kafka_event_t *found = rd_kafka_queue_poll(client->main_queue, 0);
	rd_kafka_resp_err_t error;
	const char *facility;
	const char *text;
	char *error_words;
	int level;

	*is_event = false;
	if (found == NULL)
		return false;

	switch (rd_kafka_event_type(found))
	{
		case RD_KAFKA_EVENT_LOG:
			if (rd_kafka_event_log(found, &facility, &text, &level) != 0)
				break;
			remember_certificate(client, facility, text);
			report_log_line(level, text);
			*is_event = tells_partition_count(client, facility, text) && event != NULL;
			if (*is_event)
				describe_client_error(client, event, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, text);
			break;

		case RD_KAFKA_EVENT_ALTERCONSUMERGROUPOFFSETS_RESULT:
			client->is_committing = false;
			error = rd_kafka_event_error(found);
			ereport(DEBUG1, (errmsg_internal("Kafka group commit: %s", rd_kafka_err2str(error))));
			break;

		case RD_KAFKA_EVENT_ERROR:
			error = rd_kafka_event_error(found);
			error_words = error_text(rd_kafka_event_error_string(found));
			remember_trouble(client, error, error_words);
			client->cannot_close |= kafka_error_is_missing(error);
			*is_event = event != NULL;
			if (*is_event)
				describe_client_error(client, event, error, error_words);
			pfree(error_words);
			break;

		default:
			break;
	}
	rd_kafka_event_destroy(found);
	return true;
}
