/*-------------------------------------------------------------------------
 *
 * kafka_request.c
 *	  Questions to a broker that wait for the answer.
 *
 * The library's blocking calls are deaf to PostgreSQL's interrupts, so each is
 * made in slices, again and again until it succeeds or time is up.  Slices
 * grow, because a distant broker never answers within a short one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault_point.h"
#include "ingest/kafka_internal.h"
#include "miscadmin.h"

#define FIRST_SLICE_MS	   100		  /* blocking calls are cut to this … */
#define FIRST_RIGHT_SCRAM  0x020601ff /* version of the library */
#define LONGEST_SLICE_MS   1600		  /* … or to this, for distant brokers */
#define TROUBLE_LIFE_MS	   60000	  /* older ones explain nothing */
#define COMMIT_TIMEOUT_MS  3600000	  /* the longest that the library takes; … */
#define COMMIT_PATIENCE_MS 1800000	  /* … no commit may come near it */
#define SMALL_PATIENCE_MS  2000		  /* under the limits of tests */

/* One blocking request, made again in slices until it succeeds. */
typedef rd_kafka_resp_err_t (*KafkaRequest)(KafkaClient *client, void *argument, int slice_ms);

typedef struct PartitionCountRequest
{
	const char *topic;
	int partition_count;
} PartitionCountRequest;

typedef struct OffsetRequest
{
	KafkaPosition *positions;
	int npositions;
	int64 at; /* ms since 1970, or a logical offset */
} OffsetRequest;

/*
 * The library's form of positions; the caller destroys it.
 */
rd_kafka_topic_partition_list_t *
kafka_list_positions(const KafkaPosition *positions, int npositions)
{
	rd_kafka_topic_partition_list_t *list;

	list = rd_kafka_topic_partition_list_new(npositions);
	for (int i = 0; i < npositions; i++)
		rd_kafka_topic_partition_list_add(list, positions[i].topic, positions[i].partition)
			->offset = positions[i].next_offset;
	return list;
}

/* What to do about an error of configuration.  Before 2.6.1 the library sends a
 * nonce that Kafka 4 refuses, which it calls invalid credentials. */
static const char *
configuration_hint(const char *reason)
{
	if (strstr(reason, "SCRAM") != NULL && rd_kafka_version() < FIRST_RIGHT_SCRAM)
		return psprintf(
			"Check the credentials of the user mapping. This librdkafka, %s, cannot use SCRAM with Kafka 4: that needs 2.6.1, or PLAIN over SASL_SSL.",
			rd_kafka_version_str());
	return "Check the security options of the server and the credentials of its user mapping.";
}

/*
 * Raise the error of a request about topic.
 */
static void
raise_request_error(KafkaClient *client, const char *topic, rd_kafka_resp_err_t error,
					const char *reason)
{
	int sqlstate = ERRCODE_CONNECTION_FAILURE;
	const char *hint =
		"Check that the brokers in option \"bootstrap_servers\", and the addresses they advertise, can be reached from the database server.";

	switch (error)
	{
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			sqlstate = ERRCODE_UNDEFINED_OBJECT;
			hint =
				"Check the name of the topic. Topics must exist: they are never created from here.";
			break;

		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			sqlstate = ERRCODE_INSUFFICIENT_PRIVILEGE;
			hint = "Allow the Kafka user to read and describe the topic.";
			break;

		default:
			if (kafka_error_kind(error) == KAFKA_ERROR_CONFIGURATION)
			{
				sqlstate = ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
				hint = configuration_hint(reason);
			}
			break;
	}

	ereport(ERROR, (errcode(sqlstate),
					errmsg("could not query topic \"%s\" at Kafka brokers \"%s\": %s", topic,
						   client->brokers, kafka_copy_text(CurrentMemoryContext, reason)),
					errhint("%s", hint)));
}

/*
 * Make a request, again and again in short slices, until it succeeds, fails
 * for good or timeout_ms have passed; ERROR unless it succeeds.  A slice that
 * is too short for the distance to the broker never succeeds, so they grow.
 */
static void
make_request(KafkaClient *client, KafkaRequest request, void *argument, const char *topic,
			 int timeout_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	rd_kafka_resp_err_t error;
	int slice_ms = FIRST_SLICE_MS;
	bool is_event;

	client->trouble = RD_KAFKA_RESP_ERR_NO_ERROR;
	for (;;)
	{
		TimestampTz slice_start = GetCurrentTimestamp();
		long left_ms = timeout_ms - TimestampDifferenceMilliseconds(start, slice_start);
		long pause_ms;

		CHECK_FOR_INTERRUPTS();
		error = request(client, argument, Max(Min(slice_ms, left_ms), 1));
		if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
			return;
		/* what was queued for a broker that is lost fails like its handshake, of which
		 * the event says what was wrong */
		if (error == RD_KAFKA_RESP_ERR__SSL || error == RD_KAFKA_RESP_ERR__AUTHENTICATION)
			error = RD_KAFKA_RESP_ERR__TRANSPORT;

		while (kafka_take_from_main_queue(client, NULL, &is_event))
			;
		if (kafka_error_kind(error) == KAFKA_ERROR_CONFIGURATION)
			raise_request_error(client, topic, error, rd_kafka_err2str(error));
		if (kafka_error_kind(client->trouble) == KAFKA_ERROR_CONFIGURATION)
			raise_request_error(client, topic, client->trouble, client->trouble_text);
		if (left_ms <= slice_ms || slice_start < start)
			break;

		/* Some errors come at once: don't hammer the broker. */
		pause_ms =
			FIRST_SLICE_MS - TimestampDifferenceMilliseconds(slice_start, GetCurrentTimestamp());
		if (pause_ms > 0)
			pg_usleep(pause_ms * 1000);
		slice_ms = Min(slice_ms * 2, LONGEST_SLICE_MS);
	}

	/* The library tells the same trouble again after half a minute only. */
	raise_request_error(
		client, topic, error,
		TimestampDifferenceExceeds(client->trouble_time, GetCurrentTimestamp(), TROUBLE_LIFE_MS)
			? rd_kafka_err2str(error)
			: client->trouble_text);
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
	else if (kafka_error_kind(error) != KAFKA_ERROR_CONFIGURATION &&
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
	for (int i = 0; i < client->ncursors; i++)
		client->cannot_close |= client->cursors[i].partition >= request.partition_count &&
								strcmp(client->cursors[i].topic, topic) == 0;
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

	list = kafka_list_positions(request->positions, request->npositions);
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = request->at;
	error = rd_kafka_offsets_for_times(client->handle, list, slice_ms);
	for (int i = 0; i < list->cnt; i++)
	{
		if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR &&
			(error == RD_KAFKA_RESP_ERR_NO_ERROR ||
			 kafka_error_kind(error) == KAFKA_ERROR_TRANSIENT))
			error = list->elems[i].err;
	}
	for (int i = 0; i < list->cnt && error == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		request->positions[i].next_offset = list->elems[i].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return error;
}

/*
 * Fill in the ranges that partitions have: from the lowest offset that the
 * broker still has to the one after the last that can be read (of an open
 * transaction nothing can).  Two requests to each broker, for however many.
 * ERROR if no answer comes within timeout_ms, about all of them.  Not
 * rd_kafka_query_watermark_offsets(): that waits for its answer beyond any
 * timeout.
 */
void
kafka_query_ranges(KafkaClient *client, KafkaRange *ranges, int nranges, int timeout_ms)
{
	KafkaPosition *positions = palloc(mul_size(Max(nranges, 1), sizeof(KafkaPosition)));
	OffsetRequest request = {positions, nranges, RD_KAFKA_OFFSET_BEGINNING};

	Assert(nranges > 0);
	for (int i = 0; i < nranges; i++)
		positions[i] = (KafkaPosition){ranges[i].topic, ranges[i].partition, 0};
	make_request(client, request_offsets, &request, ranges[0].topic, timeout_ms);
	for (int i = 0; i < nranges; i++)
		ranges[i].from = positions[i].next_offset;
	request.at = RD_KAFKA_OFFSET_END;
	make_request(client, request_offsets, &request, ranges[0].topic, timeout_ms);
	for (int i = 0; i < nranges; i++)
		ranges[i].to = Max(positions[i].next_offset, ranges[i].from);
	pfree(positions);
}

/*
 * The ranges of all partitions of a topic, in the current context; none if it does not
 * exist.
 */
KafkaRange *
kafka_topic_ranges(KafkaClient *client, const char *topic, TimestampTz deadline, int *nranges)
{
	KafkaRange *ranges;

	*nranges = kafka_partition_count(client, topic, kafka_remaining_ms(deadline));
	ranges = palloc0(mul_size(Max(*nranges, 1), sizeof(KafkaRange)));
	for (int i = 0; i < *nranges; i++)
	{
		ranges[i].topic = topic;
		ranges[i].partition = i;
	}
	if (*nranges > 0)
		kafka_query_ranges(client, ranges, *nranges, kafka_remaining_ms(deadline));
	return ranges;
}

/*
 * The range of one partition.
 */
void
kafka_query_watermarks(KafkaClient *client, const char *topic, int32 partition, int64 *low_offset,
					   int64 *high_offset, int timeout_ms)
{
	KafkaRange range = {topic, partition, 0, 0};

	kafka_query_ranges(client, &range, 1, timeout_ms);
	*low_offset = range.from;
	*high_offset = range.to;
}

/*
 * The end of a partition as the last fetch told it, without asking: false if
 * none did.  Messages of open transactions lie below this end.
 */
bool
kafka_cached_end(KafkaClient *client, const char *topic, int32 partition, int64 *end_offset)
{
	rd_kafka_resp_err_t error;
	int64_t low;
	int64_t high;

	error = rd_kafka_get_watermark_offsets(client->handle, topic, partition, &low, &high);
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
kafka_offsets_for_time(KafkaClient *client, KafkaPosition *positions, int npositions,
					   int64 timestamp_ms, int timeout_ms)
{
	OffsetRequest request = {positions, npositions, RD_KAFKA_OFFSET_END};
	int64 *ends;

	if (npositions == 0)
		return;

	/*
	 * Ends first: asked afterwards, they could lie above a message that came
	 * in between.
	 */
	make_request(client, request_offsets, &request, positions[0].topic, timeout_ms);
	ends = palloc(mul_size(npositions, sizeof(int64)));
	for (int i = 0; i < npositions; i++)
		ends[i] = positions[i].next_offset;

	request.at = Max(timestamp_ms, 0); /* below 0 are logical offsets */
	make_request(client, request_offsets, &request, positions[0].topic, timeout_ms);
	for (int i = 0; i < npositions; i++)
	{
		if (positions[i].next_offset < 0)
			positions[i].next_offset = ends[i];
	}
	pfree(ends);
}

/*
 * Tell the group how far we are, for the eyes of lag monitors only: nothing
 * waits for it, nothing reads it, and it may fail.  As an administrator would
 * set a group's offsets, since a consumer's own commit that has not found the
 * group's coordinator keeps rd_kafka_destroy() waiting for ever.
 *
 * One at a time.  One whose time is up would have the library abort, and the
 * server with it, when the coordinator is found after all (2.0.2: the request is
 * failed twice).  So it has more time than we leave it: kafka_commit_hangs().
 */
void
kafka_commit(KafkaClient *client, const KafkaPosition *positions, int npositions)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_AlterConsumerGroupOffsets_t *commit;
	rd_kafka_AdminOptions_t *commit_options;
	char reason[512];

	Assert(!client->is_committing);
	if (npositions == 0)
		return;

	list = kafka_list_positions(positions, npositions);
	commit = rd_kafka_AlterConsumerGroupOffsets_new(client->group, list);
	commit_options =
		rd_kafka_AdminOptions_new(client->handle, RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS);
	(void) rd_kafka_AdminOptions_set_request_timeout(commit_options, COMMIT_TIMEOUT_MS, reason,
													 sizeof(reason));
	rd_kafka_AlterConsumerGroupOffsets(client->handle, &commit, 1, commit_options,
									   client->main_queue);
	rd_kafka_AdminOptions_destroy(commit_options);
	rd_kafka_AlterConsumerGroupOffsets_destroy(commit);
	rd_kafka_topic_partition_list_destroy(list);
	ereport(DEBUG1, (errmsg_internal("Kafka group commit of %d partitions", npositions)));
	client->is_committing = true;
	INSTR_TIME_SET_CURRENT(client->committing_since);
}

/*
 * Whether a commit is not answered yet.
 */
bool
kafka_is_committing(KafkaClient *client)
{
	return client->is_committing;
}

/*
 * Whether a commit has not been answered for so long that the client must be
 * closed, and another one opened.
 */
bool
kafka_commit_hangs(KafkaClient *client)
{
	instr_time elapsed;

	if (!client->is_committing)
		return false;
	INSTR_TIME_SET_CURRENT(elapsed);
	INSTR_TIME_SUBTRACT(elapsed, client->committing_since);
	return INSTR_TIME_GET_MILLISEC(elapsed) > FAULT_LIMIT(COMMIT_PATIENCE_MS, SMALL_PATIENCE_MS);
}
