/*-------------------------------------------------------------------------
 *
 * accept_gap.c
 *	  detect.accept_gap: a partition that has a gap is read on.
 *
 * The consumer has found the gap and paused the partition (ingest/gap.c); what
 * Kafka has instead is asked here, while the stream goes on.  As with a seek,
 * applied progress is then set under the stream's lock, and what is staged is
 * thrown away, both until commit.  What is staged of a partition with a gap may
 * be nowhere else any more: it must be applied first.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Where reading goes on of a partition that does not exist: nowhere. */
#define NO_OFFSET (-1)

enum
{
	ARG_GAP_STREAM,
	ARG_GAP_TOPIC,
	ARG_GAP_PARTITION,
	ARG_AT_OFFSET
};

PG_FUNCTION_INFO_V1(detect_accept_gap);

/* What the caller wants. */
typedef struct GapRequest
{
	const Stream *stream;
	List *topics; /* of char * */
	bool all_partitions;
	int32 partition;
	bool at_offset_is_given;
	int64 at_offset;
} GapRequest;

/* One partition with a gap, and where it is to be read next. */
typedef struct Gap
{
	const Progress *staged;
	KafkaRange has;	   /* what Kafka has of it now … */
	bool exists;	   /* … if it exists */
	int64 next_offset; /* NO_OFFSET: it is forgotten */
} Gap;

static GapRequest
read_request(FunctionCallInfo fcinfo)
{
	GapRequest request = {.all_partitions = PG_ARGISNULL(ARG_GAP_PARTITION),
						  .at_offset_is_given = !PG_ARGISNULL(ARG_AT_OFFSET)};

	if (PG_ARGISNULL(ARG_GAP_STREAM))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("detect.accept_gap needs the name of a stream")));
	request.stream = stream_load(text_to_cstring(PG_GETARG_TEXT_PP(ARG_GAP_STREAM)), false);
	stream_check_owner(request.stream);
	if (!request.all_partitions)
		request.partition = PG_GETARG_INT32(ARG_GAP_PARTITION);
	request.topics = seek_topics(fcinfo, request.stream, ARG_GAP_TOPIC, ARG_GAP_PARTITION);
	if (request.at_offset_is_given && request.all_partitions)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("at_offset is an offset of one partition"),
						errhint("Name topic and partition, or leave at_offset out.")));
	if (request.at_offset_is_given)
		request.at_offset = PG_GETARG_INT64(ARG_AT_OFFSET);
	return request;
}

/* The gaps that are meant, a List of Gap: what detect.stat_partition shows. */
static List *
find_gaps(const GapRequest *request)
{
	List *gaps = NIL;
	ListCell *cell;

	/* no consumer may have run since a crash */
	progress_restore_paused(request->stream);
	foreach(cell, progress_read_staged(request->stream))
	{
		const Progress *staged = lfirst(cell);
		Gap *gap;

		if (staged->paused_reason == NULL || names_position(request->topics, staged->topic) < 0 ||
			(!request->all_partitions && staged->partition != request->partition))
			continue;
		gap = palloc0(sizeof(Gap));
		gap->staged = staged;
		gap->has.topic = staged->topic;
		gap->has.partition = staged->partition;
		gaps = lappend(gaps, gap);
	}
	if (gaps == NIL && !request->all_partitions)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("partition %d of topic \"%s\" has no gap", request->partition,
							   (char *) linitial(request->topics)),
						errhint("detect.seek has it read on from elsewhere.")));
	return gaps;
}

/* ---------------------------------------------------------------------
 * What there is instead: Kafka knows
 * ---------------------------------------------------------------------
 */

/* The offset to read from next: the first one unless the caller names one. */
static int64
choose_offset(const GapRequest *request, const Gap *gap)
{
	if (!request->at_offset_is_given)
		return gap->has.from;
	if (request->at_offset < gap->has.from || request->at_offset > gap->has.to)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition %d of topic \"%s\" has no offset %lld", gap->has.partition,
						gap->has.topic, (long long) request->at_offset),
				 errdetail("It begins at offset %lld, and its next message will have offset %lld.",
						   (long long) gap->has.from, (long long) gap->has.to),
				 errhint("Give an offset in this range, or leave at_offset out.")));
	return request->at_offset;
}

/* Find out which partitions of a topic with gaps exist.  Of a topic that does
 * not, another one will be read from its beginning. */
static void
look_at_topic(KafkaClient *client, const char *topic, List *gaps)
{
	int partitions = kafka_partition_count(client, topic, KAFKA_STATEMENT_TIMEOUT_MS);
	ListCell *cell;

	foreach(cell, gaps)
	{
		Gap *gap = lfirst(cell);

		if (strcmp(gap->has.topic, topic) != 0)
			continue;
		gap->exists = gap->has.partition < partitions;
		gap->next_offset = partitions == 0 ? 0 : NO_OFFSET;
	}
}

/* Find out where the partitions that exist are to be read from. */
static void
look_at_ranges(const GapRequest *request, KafkaClient *client, List *gaps)
{
	KafkaRange *ranges = palloc(Max(list_length(gaps), 1) * sizeof(KafkaRange));
	int nranges = 0;
	ListCell *cell;

	foreach(cell, gaps)
	{
		if (((Gap *) lfirst(cell))->exists)
			ranges[nranges++] = ((Gap *) lfirst(cell))->has;
	}
	if (nranges == 0)
		return;
	kafka_query_ranges(client, ranges, nranges, KAFKA_STATEMENT_TIMEOUT_MS);
	nranges = 0;
	foreach(cell, gaps)
	{
		Gap *gap = lfirst(cell);

		if (!gap->exists)
			continue;
		gap->has = ranges[nranges++];
		gap->next_offset = choose_offset(request, gap);
	}
}

/* Find out of all gaps where reading goes on. */
static void
look_at_kafka(const GapRequest *request, List *gaps)
{
	const Stream *stream = request->stream;
	KafkaClient *client =
		kafka_open_server(GetForeignServerByName(stream->server, false)->serverid, stream->owner,
						  stream->name, NULL, CurrentMemoryContext);
	ListCell *cell;

	PG_TRY();
	{
		foreach(cell, request->topics)
			look_at_topic(client, lfirst(cell), gaps);
		look_at_ranges(request, client, gaps);
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
}

/* ---------------------------------------------------------------------
 * Acceptance, under the stream's lock
 * ---------------------------------------------------------------------
 */

/* What was found must still be so. */
static void
check_gaps(const Stream *stream, List *staged, List *gaps)
{
	ListCell *cell;

	foreach(cell, gaps)
	{
		const Gap *gap = lfirst(cell);
		const Progress *now = progress_find(staged, gap->has.topic, gap->has.partition);

		if (now == NULL || now->paused_reason == NULL ||
			strcmp(now->paused_reason, gap->staged->paused_reason) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("gaps of stream \"%s\" have changed meanwhile", stream->name),
					 errhint("See detect.stat_partition, and call detect.accept_gap again.")));
	}
}

/* What is staged is thrown away: of no partition with a gap may it be more than
 * is applied. */
static void
check_is_applied(List *staged, List *applied)
{
	ListCell *cell;

	foreach(cell, staged)
	{
		const Progress *here = lfirst(cell);
		const Progress *progress = progress_find(applied, here->topic, here->partition);

		if (here->paused_reason == NULL || progress == NULL ||
			here->next_offset <= progress->next_offset)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("messages of partition %d of topic \"%s\" are staged and not applied yet",
						here->partition, here->topic),
				 errdetail("Kafka may not have them any more."),
				 errhint("Let the stream run until detect.stat_partition shows applied_offset and "
						 "staged_offset alike.")));
	}
}

/* Refuse what could make events of messages that are events already.  Whether
 * it would, only the caller knows. */
static void
check_key(const GapRequest *request, const Gap *gap, const Progress *applied)
{
	if (request->stream->key != NIL || request->at_offset_is_given ||
		gap->next_offset == NO_OFFSET || gap->next_offset > applied->last_offset ||
		applied->last_fingerprint == NO_FINGERPRINT)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("stream \"%s\" has no key: it cannot know which messages of partition %d of "
				"topic \"%s\" it had already",
				request->stream->name, gap->has.partition, gap->has.topic),
		 errdetail("The partition has offsets %lld to %lld now, and is applied up to offset %lld.",
				   (long long) gap->has.from, (long long) gap->has.to,
				   (long long) applied->last_offset),
		 errhint("Name topic, partition and at_offset: the first offset if the topic was made "
				 "again, otherwise one behind the messages that are events.")));
}

/* Keep for ever what was accepted. */
static void
record_gap(const Stream *stream, const Gap *gap, const Progress *applied)
{
	Oid types[11] = {INT4OID, TEXTOID, TEXTOID,		   INT4OID, INT8OID, INT8OID,
					 INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum values[11];
	char nulls[] = "           ";
	/* retention has left the offsets behind; other losses have changed them */
	int64 end_offset = gap->exists && gap->has.from > applied->next_offset
						   ? gap->next_offset
						   : Max(gap->staged->end_offset, applied->next_offset);

	values[0] = Int32GetDatum(stream->id);
	values[1] = CStringGetTextDatum(stream->name);
	values[2] = CStringGetTextDatum(gap->has.topic);
	values[3] = Int32GetDatum(gap->has.partition);
	values[4] = Int64GetDatum(applied->next_offset);
	values[5] = Int64GetDatum(end_offset);
	values[6] = Int64GetDatum(gap->next_offset);
	if (gap->next_offset == NO_OFFSET)
		nulls[6] = 'n';
	values[7] = CStringGetTextDatum(gap->staged->paused_reason);
	values[8] = TimestampTzGetDatum(gap->staged->paused_since);
	values[9] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[10] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	SPI_connect();
	catalog_execute("INSERT INTO detect._gap SELECT nextval('detect._gap_id'), $1, $2, $3, $4, $5, "
					"$6, $7, $8, $9, clock_timestamp(), $10, NULLIF($11, $10)",
					11, types, values, nulls);
	SPI_finish();
}

/* Accept one gap; the detail says from where to where. */
static void
accept_gap(const GapRequest *request, const Gap *gap, List *applied, StringInfo detail)
{
	const Stream *stream = request->stream;
	const Progress *progress = progress_find(applied, gap->has.topic, gap->has.partition);

	if (progress == NULL)
		elog(ERROR, "partition %d of topic \"%s\" has a gap and no progress", gap->has.partition,
			 gap->has.topic);
	check_key(request, gap, progress);
	record_gap(stream, gap, progress);
	if (gap->next_offset == NO_OFFSET)
		progress_forget(stream, gap->has.topic, gap->has.partition);
	else
		progress_seek(stream, gap->has.topic, gap->has.partition, gap->next_offset);
	appendStringInfo(
		detail, "%s%s/%d: %lld to %s", detail->len > 0 ? ", " : "", gap->has.topic,
		gap->has.partition, (long long) progress->next_offset,
		gap->next_offset == NO_OFFSET ? "nowhere" : psprintf("%lld", (long long) gap->next_offset));
}

/*
 * detect.accept_gap(stream, topic, partition, at_offset): of how many partitions
 * a gap is accepted; see README.md.
 */
Datum
detect_accept_gap(PG_FUNCTION_ARGS)
{
	GapRequest request = read_request(fcinfo);
	const Stream *stream = request.stream;
	List *gaps = find_gaps(&request);
	StringInfoData detail;
	List *staged;
	List *applied;
	ListCell *cell;

	if (gaps == NIL)
		PG_RETURN_INT64(0);
	look_at_kafka(&request, gaps);
	seek_lock_stream(stream, "detect.accept_gap");
	staged = progress_read_staged(stream);
	check_gaps(stream, staged, gaps);
	applied = progress_read_applied(stream);
	check_is_applied(staged, applied);
	initStringInfo(&detail);
	foreach(cell, gaps)
		accept_gap(&request, lfirst(cell), applied, &detail);
	staging_discard(stream);
	stream_changed();
	history_record("accept_gap", stream->name, detail.data);
	PG_RETURN_INT64(list_length(gaps));
}
