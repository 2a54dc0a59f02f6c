/*-------------------------------------------------------------------------
 *
 * dead_letter_refill.c
 *	  Dead letters that are not whole get their messages from Kafka again.
 *
 * Done by the session that asks for a retry, so that the applier reads no
 * topic twice and waits for no broker.  Letters come in the order of their
 * positions, some thousands at a time; messages are written in bounded amounts.
 * A letter whose message Kafka does not have any more stays, and says so: also where
 * a topic that was made again has another one there, of another time.  So does
 * one whose message is too large: nothing would be gained by reading it again.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "dead_letter_verbs.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define POSITIONS_AT_ONCE 2000
#define KAFKA_TIMEOUT_MS  60000 /* for as many positions */
#define MESSAGES_AT_ONCE  1000

#define TOO_LARGE "sqlstate = '54DM1'"
#define TO_FILL	  "NOT is_whole AND NOT " TOO_LARGE " AND "

#define GONE_REASON "; Kafka does not have the message any more"

/* The columns of a message that a letter takes. */
enum
{
	REFILL_TOPIC,
	REFILL_PARTITION,
	REFILL_OFFSET,
	REFILL_TIMESTAMP,
	REFILL_PAYLOAD,
	REFILL_KEY,
	REFILL_HEADERS,
	REFILL_COLUMNS
};

static const Oid refill_types[REFILL_COLUMNS] = {TEXTOID,  INT4OID,	 INT8OID, TIMESTAMPTZOID,
												 BYTEAOID, BYTEAOID, TEXTOID};

/* Messages that were read and are not written yet, column by column. */
typedef struct Refill
{
	int32 stream_id;
	const char *server; /* that is read */
	MemoryContext context;
	int count;
	Size bytes;
	Datum values[REFILL_COLUMNS][MESSAGES_AT_ONCE];
	bool nulls[REFILL_COLUMNS][MESSAGES_AT_ONCE];
} Refill;

/* The first positions behind another one of letters that are not whole; how
 * many.  NULL begins. */
static int
select_positions(const LetterChoice *choice, const KafkaPosition *after, KafkaPosition *positions)
{
	MemoryContext context = CurrentMemoryContext;
	Oid types[9] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID,
					INT4OID, INT8OID,		 INT4OID,		 TEXTOID};
	char nulls[9] = {' ', ' ', ' ', choice->nulls[3], ' ', ' ', ' ', ' ', ' '};
	Datum values[9];
	int count;

	memcpy(values, choice->values, sizeof(choice->values));
	values[4] = CStringGetTextDatum(after ? after->topic : "");
	values[5] = Int32GetDatum(after ? after->partition : 0);
	values[6] = Int64GetDatum(after ? after->next_offset : 0);
	values[7] = Int32GetDatum(POSITIONS_AT_ONCE);
	values[8] = CStringGetTextDatum(choice->stream->server);
	SPI_connect();
	count = catalog_execute("SELECT DISTINCT kafka_topic, kafka_partition, kafka_offset "
							"FROM detect._dead_letter WHERE kafka_server = $9 "
							"AND " TO_FILL LETTERS_CHOSEN
							" AND (kafka_topic, kafka_partition, kafka_offset) > ($5, $6, $7) "
							"ORDER BY kafka_topic, kafka_partition, kafka_offset LIMIT $8",
							9, types, values, nulls);
	for (int i = 0; i < count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool isnull;

		positions[i].topic = MemoryContextStrdup(context, SPI_getvalue(row, desc, 1));
		positions[i].partition = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		positions[i].next_offset = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
	}
	SPI_finish();
	return count;
}

/* Write the messages that were read into their letters. */
static void
write_messages(Refill *refill)
{
	MemoryContext old_context = MemoryContextSwitchTo(refill->context);
	Oid types[2 + REFILL_COLUMNS] = {INT4OID};
	Datum values[2 + REFILL_COLUMNS];
	int dims[1] = {refill->count};
	int lbs[1] = {1};

	values[0] = Int32GetDatum(refill->stream_id);
	for (int i = 0; i < REFILL_COLUMNS; i++)
	{
		int16 typlen;
		bool typbyval;
		char typalign;

		get_typlenbyvalalign(refill_types[i], &typlen, &typbyval, &typalign);
		types[1 + i] = get_array_type(refill_types[i]);
		values[1 + i] =
			PointerGetDatum(construct_md_array(refill->values[i], refill->nulls[i], 1, dims, lbs,
											   refill_types[i], typlen, typbyval, typalign));
	}
	types[1 + REFILL_COLUMNS] = TEXTOID;
	values[1 + REFILL_COLUMNS] = CStringGetTextDatum(refill->server);
	SPI_connect();
	/* each message looks its letters up by itself */
	catalog_execute(
		"UPDATE detect._dead_letter d SET payload = m.payload, "
		"payload_bytes = octet_length(m.payload), kafka_key = m.key, "
		"kafka_headers = m.headers::jsonb, is_whole = true "
		"FROM (SELECT payload, key, headers, unnest(ARRAY(SELECT l.ctid FROM detect._dead_letter l "
		"WHERE l.stream_id = $1 AND l.kafka_server = $9 AND l.kafka_topic = u.topic "
		"AND l.kafka_partition = u.partition AND l.kafka_offset = u.position "
		"AND l.kafka_timestamp IS NOT DISTINCT FROM u.timestamp AND NOT l.is_whole "
		"ORDER BY l.element)) AS letter "
		"FROM unnest($2, $3, $4, $5, $6, $7, $8) "
		"AS u (topic, partition, position, timestamp, payload, key, headers)) m "
		"WHERE d.ctid = m.letter",
		2 + REFILL_COLUMNS, types, values, NULL);
	SPI_finish();
	refill->count = 0;
	refill->bytes = 0;
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(refill->context);
}

static void
put(Refill *refill, int column, Datum value, bool isnull)
{
	refill->values[column][refill->count] = value;
	refill->nulls[column][refill->count] = isnull;
}

/* Take one message that was read. */
static void
receive_message(const KafkaEvent *event, void *arg)
{
	Refill *refill = arg;
	MemoryContext old_context = MemoryContextSwitchTo(refill->context);
	KafkaMessage *message = kafka_copy_message(event);

	put(refill, REFILL_TOPIC, CStringGetTextDatum(message->topic), false);
	put(refill, REFILL_PARTITION, Int32GetDatum(message->partition), false);
	put(refill, REFILL_OFFSET, Int64GetDatum(message->offset), false);
	put(refill, REFILL_TIMESTAMP, TimestampTzGetDatum(message->timestamp),
		TIMESTAMP_IS_NOBEGIN(message->timestamp));
	put(refill, REFILL_PAYLOAD, PointerGetDatum(message->payload), message->payload == NULL);
	put(refill, REFILL_KEY, PointerGetDatum(message->key), message->key == NULL);
	put(refill, REFILL_HEADERS,
		message->headers ? CStringGetTextDatum(message->headers) : (Datum) 0,
		message->headers == NULL);
	refill->count++;
	refill->bytes += event->payload_bytes;
	MemoryContextSwitchTo(old_context);
	if (refill->count == MESSAGES_AT_ONCE ||
		refill->bytes >= (Size) detect_max_batch_kilobytes * 1024)
		write_messages(refill);
}

/* Read the messages of all chosen letters that are not whole.  Letters are found in the
 * order of the index on their positions: where statistics say that a stream has few,
 * which index is taken does not matter to the planner, and one would read all letters
 * again each time. */
static void
read_messages(const LetterChoice *choice, KafkaClient *client)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect positions", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old_context = MemoryContextSwitchTo(context);
	Refill *refill = palloc0(sizeof(Refill));
	KafkaPosition *positions = palloc(POSITIONS_AT_ONCE * sizeof(KafkaPosition));
	KafkaPosition last;
	const KafkaPosition *after = NULL;
	int nest_level = sql_begin("enable_sort", "off");
	int count;

	refill->stream_id = choice->stream->id;
	refill->server = choice->stream->server;
	refill->context = AllocSetContextCreate(context, "detect messages", ALLOCSET_DEFAULT_SIZES);
	while ((count = select_positions(choice, after, positions)) > 0)
	{
		/* reading brings them into another order */
		last = positions[count - 1];
		after = &last;
		kafka_read_positions(client, positions, count,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAFKA_TIMEOUT_MS),
							 receive_message, refill);
		if (refill->count > 0)
			write_messages(refill);
	}
	AtEOXact_GUC(true, nest_level);
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(context);
}

/* The same with a client that lasts as long. */
static void
read_from_server(const LetterChoice *choice)
{
	const Stream *stream = choice->stream;
	KafkaClient *client =
		kafka_open_server(GetForeignServerByName(stream->server, false)->serverid, stream->owner,
						  stream->name, NULL, CurrentMemoryContext);

	PG_TRY();
	{
		read_messages(choice, client);
	}
	PG_FINALLY();
	{
		kafka_close(client);
	}
	PG_END_TRY();
}

/* Say of letters that could not be filled that they are lost; how many. */
static int64
mark_gone(const LetterChoice *choice)
{
	return letter_choice_execute(
		choice,
		"UPDATE detect._dead_letter SET reason = reason || CASE WHEN reason LIKE '%" GONE_REASON
		"' THEN '' ELSE '" GONE_REASON "' END WHERE " TO_FILL LETTERS_CHOSEN);
}

/* Tell of letters that stay; detail is a sentence on why. */
static void
tell_of_left(const LetterChoice *choice, int64 count, const char *detail)
{
	if (count > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld dead letter of stream \"%s\" is not retried",
							   "%lld dead letters of stream \"%s\" are not retried", count,
							   (long long) count, choice->stream->name),
				 errdetail_internal("%s", detail), errhint("See reason in detect.dead_letter.")));
}

/*
 * Make the chosen letters whole, by reading their messages from Kafka again.
 */
void
letters_refill(const LetterChoice *choice)
{
	tell_of_left(choice,
				 letter_choice_execute(choice, "SELECT FROM detect._dead_letter WHERE " TOO_LARGE
											   " AND " LETTERS_CHOSEN),
				 "Only the position was kept, because the messages are too large.");
	if (letter_choice_execute(choice,
							  "SELECT FROM detect._dead_letter WHERE " TO_FILL LETTERS_CHOSEN
							  " LIMIT 1") == 0)
		return;
	if (choice->stream->server)
		read_from_server(choice);
	tell_of_left(choice, mark_gone(choice),
				 "Only the position was kept, and Kafka does not have the messages any more.");
}
