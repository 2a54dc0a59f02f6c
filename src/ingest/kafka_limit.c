/*-------------------------------------------------------------------------
 *
 * kafka_limit.c
 *	  Messages that are larger than can be kept, or read.
 *
 * A value of PostgreSQL has less than 1 GB, and so has a row, in which several
 * values of a message stand together on its way to an event or a dead letter;
 * a byte of a header can take six as JSON.  What is too large is told before any
 * of it is copied: a copy would fail, and so would each further try.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault_point.h"
#include "ingest/decode.h"
#include "ingest/kafka_internal.h"

#define KEY_AND_HEADERS_MAX_BYTES (32 * 1024 * 1024)

/* Brackets, quotes and commas around a header, as if they were its own. */
#define HEADER_EXTRA_BYTES 16

/* Under the limits of tests. */
#define SMALL_PAYLOAD_BYTES			(64 * 1024)
#define SMALL_KEY_AND_HEADERS_BYTES (4 * 1024)

/* How many bytes the headers of a message have. */
static Size
header_bytes(const KafkaEvent *event)
{
	const char *name;
	const void *value;
	size_t value_bytes;
	Size bytes = 0;

	if (event->headers == NULL)
		return 0;
	for (size_t i = 0; rd_kafka_header_get_all(event->headers, i, &name, &value, &value_bytes) ==
					   RD_KAFKA_RESP_ERR_NO_ERROR;
		 i++)
		bytes += strlen(name) + value_bytes + HEADER_EXTRA_BYTES;
	return bytes;
}

/*
 * Why a message is too large to be kept, in the current memory context; NULL
 * when it is not.
 */
char *
kafka_message_excess(const KafkaEvent *event)
{
	Size payload_limit = FAULT_LIMIT(MAX_PAYLOAD_BYTES, SMALL_PAYLOAD_BYTES);
	Size limit = FAULT_LIMIT(KEY_AND_HEADERS_MAX_BYTES, SMALL_KEY_AND_HEADERS_BYTES);
	Size bytes;

	if (event->payload_bytes > payload_limit)
		return psprintf("payload has %zu bytes, more than %zu", event->payload_bytes,
						payload_limit);
	/* the library reads no more than 100,000 */
	if (event->headers_error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return psprintf("headers are too many or can't be read: %s",
						rd_kafka_err2str(event->headers_error));
	bytes = event->key_bytes + header_bytes(event);
	if (bytes > limit)
		return psprintf("key and headers have %zu bytes, more than %zu", bytes, limit);
	return NULL;
}
