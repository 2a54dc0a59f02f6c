/*-------------------------------------------------------------------------
 *
 * seek.c
 *	  detect.seek: a stream reads on from another time or offset.
 *
 * Kafka is asked first, while the stream goes on; then applied progress is set
 * under the stream's lock, and what is staged is thrown away, both until
 * commit.  Going back is harmless because what was applied is known by its
 * key: a stream that keeps every message is not allowed to.  Going forward
 * skips messages, and says how many.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "ingest/staging.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

enum
{
	ARG_SEEK_STREAM,
	ARG_TO_TIME,
	ARG_TO_OFFSET,
	ARG_SEEK_TOPIC,
	ARG_SEEK_PARTITION
};

PG_FUNCTION_INFO_V1(detect_seek);

/* What the caller wants. */
typedef struct SeekRequest
{
	const Stream *stream;
	List *topics; /* of char * */
	bool all_partitions;
	int32 partition;
	bool by_time;
	TimestampTz time;
	int64 offset;
} SeekRequest;

/* One partition, and where it is to be read next. */
typedef struct SeekMove
{
	KafkaPosition to;
	int64 first_offset; /* that the topic still has */
} SeekMove;

/*
 * The topics that are meant by two arguments: the named one, or all, of which one
 * partition may be named only if there is one topic.
 */
List *
seek_topics(FunctionCallInfo fcinfo, const Stream *stream, int topic_arg, int partition_arg)
{
	char *topic;

	if (stream->server == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("stream \"%s\" is fed by SQL alone", stream->name),
						errhint("It reads no offsets: insert the rows again.")));
	if (PG_ARGISNULL(topic_arg))
	{
		if (!PG_ARGISNULL(partition_arg) && list_length(stream->topics) > 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("stream \"%s\" reads %d topics, each with a partition %d", stream->name,
							list_length(stream->topics), PG_GETARG_INT32(partition_arg)),
					 errhint("Name one of them in topic.")));
		return stream->topics;
	}
	topic = text_to_cstring(PG_GETARG_TEXT_PP(topic_arg));
	if (names_position(stream->topics, topic) >= 0)
		return list_make1(topic);
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("stream \"%s\" does not read topic \"%s\"", stream->name, topic),
					errhint("See topics in the view detect.stream.")));
	return NIL; /* keep compiler quiet */
}

static SeekRequest
read_request(FunctionCallInfo fcinfo)
{
	SeekRequest request = {.all_partitions = PG_ARGISNULL(ARG_SEEK_PARTITION)};

	if (PG_ARGISNULL(ARG_SEEK_STREAM))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("detect.seek needs the name of a stream")));
	request.stream = stream_load(text_to_cstring(PG_GETARG_TEXT_PP(ARG_SEEK_STREAM)), false);
	stream_check_owner(request.stream);
	if (PG_ARGISNULL(ARG_TO_TIME) == PG_ARGISNULL(ARG_TO_OFFSET))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("detect.seek needs either to_time or to_offset"),
				 errhint("For example: to_time => now() - interval '1 hour'; '-infinity' is the "
						 "first message that is left, 'infinity' the end.")));
	if (!request.all_partitions)
		request.partition = PG_GETARG_INT32(ARG_SEEK_PARTITION);
	request.topics = seek_topics(fcinfo, request.stream, ARG_SEEK_TOPIC, ARG_SEEK_PARTITION);
	request.by_time = !PG_ARGISNULL(ARG_TO_TIME);
	if (request.by_time)
		request.time = PG_GETARG_TIMESTAMPTZ(ARG_TO_TIME);
	else
		request.offset = PG_GETARG_INT64(ARG_TO_OFFSET);
	return request;
}

/* ---------------------------------------------------------------------
 * Where to: Kafka knows
 * ---------------------------------------------------------------------
 */

/* Find where one partition is to be read next. */
static SeekMove *
find_move(const SeekRequest *request, KafkaClient *client, const char *topic, int32 partition)
{
	SeekMove *move = palloc(sizeof(SeekMove));
	int64 end;

	move->to.topic = topic;
	move->to.partition = partition;
	move->to.next_offset = request->offset;
	kafka_query_watermarks(client, topic, partition, &move->first_offset, &end,
						   KAFKA_STATEMENT_TIMEOUT_MS);
	if (request->by_time && TIMESTAMP_NOT_FINITE(request->time))
		move->to.next_offset = TIMESTAMP_IS_NOBEGIN(request->time) ? move->first_offset : end;
	else if (request->by_time)
		kafka_offsets_for_time(client, &move->to, 1, kafka_time_ms(request->time),
							   KAFKA_STATEMENT_TIMEOUT_MS);
	else if (request->offset < move->first_offset || request->offset > end)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("partition %d of topic \"%s\" has no offset %lld", partition, topic,
					(long long) request->offset),
			 errdetail("It begins at offset %lld, and its next message will have offset %lld.",
					   (long long) move->first_offset, (long long) end),
			 errhint(
				 "Give an offset in this range, with topic and partition where they differ, or to_time.")));
	return move;
}

/* The partitions of a topic that are meant. */
static List *
find_topic_moves(const SeekRequest *request, KafkaClient *client, const char *topic, List *moves)
{
	int partitions = kafka_partition_count(client, topic, KAFKA_STATEMENT_TIMEOUT_MS);

	if (partitions == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("topic \"%s\" does not exist on server \"%s\"", topic,
							   request->stream->server),
						errhint("Name another one in topic, or create it.")));
	if (!request->all_partitions && (request->partition < 0 || request->partition >= partitions))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("topic \"%s\" has no partition %d", topic, request->partition),
						errhint("It has partitions 0 to %d.", partitions - 1)));
	for (int i = 0; i < partitions; i++)
	{
		if (request->all_partitions || request->partition == i)
			moves = lappend(moves, find_move(request, client, topic, i));
	}
	return moves;
}

/* All of them, a List of SeekMove. */
static List *
find_moves(const SeekRequest *request)
{
	const Stream *stream = request->stream;
	KafkaClient *client =
		kafka_open_server(GetForeignServerByName(stream->server, false)->serverid, stream->owner,
						  stream->name, NULL, CurrentMemoryContext);
	List *volatile moves = NIL;
	ListCell *cell;

	PG_TRY();
	{
		foreach(cell, request->topics)
			moves = find_topic_moves(request, client, lfirst(cell), moves);
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
	return moves;
}

/* ---------------------------------------------------------------------
 * The move, under the stream's lock
 * ---------------------------------------------------------------------
 */

static bool
same_topics(List *a, List *b)
{
	ListCell *left;
	ListCell *right;

	if (list_length(a) != list_length(b))
		return false;
	forboth(left, a, right, b)
	{
		if (strcmp(lfirst(left), lfirst(right)) != 0)
			return false;
	}
	return true;
}

/*
 * Lock the stream for a verb; what Kafka was asked must still be what is meant.
 */
void
seek_lock_stream(const Stream *stream, const char *verb)
{
	Stream *now;

	stream_lock(stream->id, AccessExclusiveLock);
	now = stream_load_by_id(stream->id, true);
	if (now == NULL || now->server == NULL || strcmp(now->server, stream->server) != 0 ||
		!same_topics(now->topics, stream->topics))
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("stream \"%s\" was altered or dropped meanwhile", stream->name),
						errhint("Call %s again.", verb)));
	stream_check_owner(now);
}

/* Whether a partition has been given a place to begin. */
static bool
has_begun(const Progress *progress)
{
	return progress != NULL && progress->next_offset != START_OFFSET;
}

/* A single partition that begins makes its topic a known one, whose others
 * then begin at their first message, whatever start says. */
static void
check_topic_has_begun(const SeekRequest *request, List *applied)
{
	const char *topic = linitial(request->topics);
	ListCell *cell;

	if (request->all_partitions)
		return;
	foreach(cell, applied)
	{
		const Progress *progress = lfirst(cell);

		if (strcmp(progress->topic, topic) == 0 && has_begun(progress))
			return;
	}
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("stream \"%s\" has not begun to read topic \"%s\"",
						   request->stream->name, topic),
					errhint("Leave partition out, or wait until detect.stat_partition shows it.")));
}

/* Refuse what would make events of messages that are events already. */
static void
check_backwards(const Stream *stream, const Progress *progress, const SeekMove *move)
{
	int64 elements = 0;

	if (stream->key != NIL || move->to.next_offset > progress->last_offset)
		return;
	for (int outcome = 0; outcome < OUTCOMES; outcome++)
		elements += progress->outcomes[outcome];
	if (elements == 0)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("stream \"%s\" cannot go back: it has no key, and would double events",
				stream->name),
		 errdetail("Partition %d of topic \"%s\" is applied up to offset %lld.", move->to.partition,
				   move->to.topic, (long long) progress->last_offset),
		 errhint("Drop the stream, delete its events, and create it again with start, or give it "
				 "a key with detect.alter_stream.")));
}

/* Tell how many messages will never be read. */
static void
tell_skipped(const SeekMove *move, int64 from)
{
	int64 skipped = move->to.next_offset - Max(from, move->first_offset);

	if (skipped > 0)
		ereport(NOTICE, (errmsg("%lld messages of topic \"%s\", partition %d, are skipped",
								(long long) skipped, move->to.topic, move->to.partition)));
}

/* Set the progress of one partition; whether it moves.  The detail says from
 * where to where. */
static bool
apply_move(const SeekRequest *request, const SeekMove *move, List *applied, StringInfo detail)
{
	const Progress *progress = progress_find(applied, move->to.topic, move->to.partition);
	bool begun = has_begun(progress);

	if (begun)
		check_backwards(request->stream, progress, move);
	if (begun && progress->next_offset == move->to.next_offset)
		return false;
	tell_skipped(move, begun ? progress->next_offset : move->first_offset);
	progress_seek(request->stream, move->to.topic, move->to.partition, move->to.next_offset);
	appendStringInfo(detail, "%s%s/%d: %s to %lld", detail->len > 0 ? ", " : "", move->to.topic,
					 move->to.partition,
					 begun ? psprintf("%lld", (long long) progress->next_offset)
						   : request->stream->start,
					 (long long) move->to.next_offset);
	return true;
}

/*
 * detect.seek(stream, to_time, to_offset, topic, partition): how many
 * partitions are read from elsewhere; see README.md.
 */
Datum
detect_seek(PG_FUNCTION_ARGS)
{
	SeekRequest request = read_request(fcinfo);
	const Stream *stream = request.stream;
	List *moves = find_moves(&request);
	StringInfoData detail;
	List *applied;
	ListCell *cell;
	int64 moved = 0;

	seek_lock_stream(stream, "detect.seek");
	applied = progress_read_applied(stream);
	check_topic_has_begun(&request, applied);
	initStringInfo(&detail);
	foreach(cell, moves)
		moved += apply_move(&request, lfirst(cell), applied, &detail);
	if (moved > 0)
	{
		staging_discard(stream);
		stream_changed();
	}
	history_record("seek", stream->name, moved > 0 ? detail.data : "nothing moved");
	PG_RETURN_INT64(moved);
}
