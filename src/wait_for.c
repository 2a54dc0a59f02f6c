/*-------------------------------------------------------------------------
 *
 * wait_for.c
 *	  detect.wait_for: until a stream has applied what there was at the call.
 *
 * It takes no lock: it only looks, with a fresh snapshot each time.  What there
 * was is noted at the call, by source: where Kafka's partitions end, which rows
 * SQL had staged, which letters were to be retried, which edits were queued.
 * A rollup that was made before the call has begun when it returns: batches go into
 * it from then on, and its newest events are in.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define LOOK_AGAIN_MS 20

PG_FUNCTION_INFO_V1(detect_wait_for);

/* What must be applied before wait_for returns. */
typedef struct WaitTarget
{
	const Stream *stream;
	List *ends;			   /* of KafkaPosition *: to be reached */
	Snapshot at_call;	   /* rows that SQL had staged */
	TimestampTz called_at; /* what was asked to be retried until then */
	int64 last_edit;	   /* of the events table, by others; 0: none */
	TimestampTz deadline;
} WaitTarget;

/* Ask Kafka where each partition of a topic ends now. */
static void
find_topic_ends(WaitTarget *target, KafkaClient *client, const char *topic)
{
	TimestampTz deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAFKA_STATEMENT_TIMEOUT_MS);
	int partitions;
	KafkaRange *ranges =
		kafka_topic_ranges(client, topic, Min(deadline, target->deadline), &partitions);

	if (partitions == 0)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist, so that there is nothing to wait for", topic),
				 errhint("Stream \"%s\" reads it as soon as it exists.", target->stream->name)));
	for (int i = 0; i < partitions; i++)
	{
		KafkaPosition *end = palloc(sizeof(KafkaPosition));

		end->topic = topic;
		end->partition = i;
		end->next_offset = ranges[i].to;
		target->ends = lappend(target->ends, end);
	}
}

/* The same of all partitions of the stream. */
static void
find_ends(WaitTarget *target)
{
	const Stream *stream = target->stream;
	Oid server = GetForeignServerByName(stream->server, false)->serverid;
	KafkaClient *client =
		kafka_open_server(server, stream->owner, stream->name, NULL, CurrentMemoryContext);
	ListCell *cell;

	PG_TRY();
	{
		foreach(cell, stream->topics)
			find_topic_ends(target, client, lfirst(cell));
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
}

/* How many messages up to the ends are not applied yet. */
static int64
messages_missing(const WaitTarget *target)
{
	List *applied = progress_read_applied(target->stream);
	ListCell *cell;
	int64 missing = 0;

	foreach(cell, target->ends)
	{
		KafkaPosition *end = lfirst(cell);
		Progress *progress = progress_find(applied, end->topic, end->partition);

		missing +=
			end->next_offset - Min(progress ? Max(progress->next_offset, 0) : 0, end->next_offset);
	}
	return missing;
}

/* What this transaction has staged is not there for the applier yet. */
static void
check_is_not_ours(const WaitTarget *target, Datum xmin)
{
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this transaction has work for stream \"%s\", which is applied when it commits",
					target->stream->name),
			 errhint("Commit first, then call detect.wait_for.")));
}

/* How many rows that SQL had staged at the call are still there.  The lock is
 * not kept: whoever drops the stream would wait for us, and the applier for
 * him. */
static int64
rows_missing(const WaitTarget *target)
{
	Relation rel = try_table_open(target->stream->staging_table, AccessShareLock);
	TupleTableSlot *slot;
	TableScanDesc scan;
	int64 missing = 0;

	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("stream \"%s\" does not exist", target->stream->name),
						errdetail("It was dropped while it was waited for.")));
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		check_is_not_ours(target, slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));
		missing += table_tuple_satisfies_snapshot(rel, slot, target->at_call);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return missing;
}

/* How many rows a query of ours gives, which selects their xmin: none of them may be
 * ours.  Its parameters are the stream, the call's time, the last edit, and the events
 * table. */
static int64
count_missing(const WaitTarget *target, const char *sql)
{
	Oid types[4] = {INT4OID, TIMESTAMPTZOID, INT8OID, OIDOID};
	Datum values[4];
	int64 missing;

	values[0] = Int32GetDatum(target->stream->id);
	values[1] = TimestampTzGetDatum(target->called_at);
	values[2] = Int64GetDatum(target->last_edit);
	values[3] = ObjectIdGetDatum(target->stream->events_table);
	SPI_connect();
	missing = catalog_execute(sql, 4, types, values, NULL);
	for (int64 i = 0; i < missing; i++)
	{
		bool isnull;

		check_is_not_ours(target,
						  SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_finish();
	return missing;
}

/* How many dead letters that were to be retried at the call still are; of many
 * only that there are many. */
static int64
retries_missing(const WaitTarget *target)
{
	return count_missing(target, "SELECT xmin FROM detect._dead_letter WHERE stream_id = $1 "
								 "AND retry_asked_at <= $2 ORDER BY dead_letter_id LIMIT 1000");
}

/* The last edit of the stream that is queued; 0 if none is. */
static int64
find_last_edit(const WaitTarget *target)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(target->stream->id)};
	Datum last_edit;
	bool isnull;

	SPI_connect();
	catalog_execute("SELECT max(edit_id) FROM detect._edit WHERE stream_id = $1", 1, types, values,
					NULL);
	last_edit = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_finish();
	return isnull ? 0 : DatumGetInt64(last_edit);
}

/* How many edits that were queued at the call still are; of many only that
 * there are many.  When none is, how many repairs of rollups they have left. */
static int64
edits_missing(const WaitTarget *target)
{
	int64 missing = count_missing(target, "SELECT xmin FROM detect._edit WHERE stream_id = $1 "
										  "AND edit_id <= $3 ORDER BY edit_id LIMIT 1000");

	if (missing > 0)
		return missing;
	return count_missing(target, "SELECT p.xmin FROM detect._repair p JOIN detect._rollup r "
								 "USING (rollup_id) WHERE r.events_table = $4 "
								 "AND r.state = 'active' AND NOT p.asked AND p.error IS NULL");
}

/* How many rollups that there were at the call the applier has not begun yet. */
static int64
rollups_missing(const WaitTarget *target)
{
	return count_missing(target, "SELECT xmin FROM detect._rollup WHERE events_table = $4 "
								 "AND state = 'new' AND replaces IS NULL AND created_at <= $2");
}

/* A paused stream applies nothing: waiting for it would be in vain. */
static void
check_not_paused(const WaitTarget *target)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(target->stream->id)};

	SPI_connect();
	if (catalog_execute("SELECT paused_reason, paused_remedy FROM detect._stream "
						"WHERE stream_id = $1 AND paused",
						1, types, values, NULL) > 0)
	{
		char *reason = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		char *remedy = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);

		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("stream \"%s\" is paused: %s", target->stream->name, reason),
						remedy ? errhint("%s", remedy) : 0));
	}
	SPI_finish();
}

/* Look once, with a fresh snapshot; the text of what is missing, NULL if all
 * is applied. */
static char *
look(const WaitTarget *target)
{
	int64 messages;
	int64 rows;
	int64 retries;
	int64 edits;
	int64 rollups;

	PushActiveSnapshot(GetLatestSnapshot());
	messages = messages_missing(target);
	rows = rows_missing(target);
	retries = retries_missing(target);
	edits = edits_missing(target);
	rollups = rollups_missing(target);
	if (messages != 0 || rows != 0 || retries != 0 || edits != 0 || rollups != 0)
		check_not_paused(target);
	PopActiveSnapshot();
	if (messages == 0 && rows == 0 && retries == 0 && edits == 0)
		return rollups == 0 ? NULL : psprintf("%lld new rollups", (long long) rollups);
	if (messages == 0 && rows == 0 && retries == 0)
		return psprintf("%lld edits of the events table", (long long) edits);
	if (retries == 0)
		return psprintf("%lld messages and %lld rows staged by SQL", (long long) messages,
						(long long) rows);
	return psprintf("%lld messages, %lld rows staged by SQL and %lld dead letters to be retried",
					(long long) messages, (long long) rows, (long long) retries);
}

/* A stream that its own transaction has made can't run before that commits. */
static void
check_is_committed(const Stream *stream)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(stream->id)};
	bool is_ours = false;

	SPI_connect();
	if (catalog_execute("SELECT xmin FROM detect._stream WHERE stream_id = $1", 1, types, values,
						NULL) > 0)
	{
		bool isnull;
		Datum xmin = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		is_ours = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	}
	SPI_finish();
	if (is_ours)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("stream \"%s\" starts when this transaction commits", stream->name),
						errhint("Commit first, then call detect.wait_for.")));
}

static void
wait_a_little(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_AGAIN_MS,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * detect.wait_for(stream, timeout): returns when everything that was in the
 * topic, or staged by SQL, at the call is applied, and rollups follow what
 * others had done to the events table.
 */
Datum
detect_wait_for(PG_FUNCTION_ARGS)
{
	Stream *stream = stream_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	WaitTarget target = {.stream = stream};
	MemoryContext look_context =
		AllocSetContextCreate(CurrentMemoryContext, "detect look", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context;
	char *missing;

	launcher_require();
	stream_check_owner(stream);
	if (IsolationUsesXactSnapshot())
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
			 errmsg("detect.wait_for cannot see progress in a transaction that keeps its snapshot"),
			 errhint("Call it in a READ COMMITTED transaction.")));
	check_is_committed(stream);
	target.deadline = DatumGetTimestampTz(DirectFunctionCall2(
		timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(1)));
	target.called_at = GetCurrentTimestamp();
	target.at_call = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(target.at_call);
	target.last_edit = find_last_edit(&target);
	PopActiveSnapshot();
	if (stream->server)
		find_ends(&target);
	old_context = MemoryContextSwitchTo(look_context);
	while ((missing = look(&target)) != NULL)
	{
		if (GetCurrentTimestamp() >= target.deadline)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" is behind: %s are not applied", stream->name, missing),
					 errhint("See state, reason and remedy in detect.stat_stream.")));
		wait_a_little();
		MemoryContextReset(look_context);
	}
	MemoryContextSwitchTo(old_context);
	UnregisterSnapshot(target.at_call);
	/* what is said to be applied shall be so after a power cut, too */
	transaction_flush_all();
	PG_RETURN_VOID();
}
