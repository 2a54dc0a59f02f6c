/*-------------------------------------------------------------------------
 *
 * kafka_header.c
 *	  The headers of a message as JSON.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest/kafka_internal.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"

/*
 * Append bytes as a JSON string: as they are if they are text, else as
 * hexadecimal digits after \x.  Text that begins with \x becomes hexadecimal
 * too, so that a reader can tell.
 */
static void
append_header_text(StringInfo json, const char *bytes, size_t nbytes)
{
	bool is_text = memchr(bytes, '\0', nbytes) == NULL &&
				   !(nbytes >= 2 && bytes[0] == '\\' && bytes[1] == 'x');
	char *text;

	if (is_text && GetDatabaseEncoding() == PG_UTF8)
		is_text = pg_verify_mbstr(PG_UTF8, bytes, (int) nbytes, true);
	else if (is_text)
	{
		for (size_t i = 0; i < nbytes && is_text; i++)
			is_text = !IS_HIGHBIT_SET(bytes[i]);
	}

	if (is_text)
		text = pnstrdup(bytes, nbytes);
	else
	{
		text = palloc(nbytes * 2 + 3);
		strcpy(text, "\\x");
		text[2 + hex_encode(bytes, nbytes, text + 2)] = '\0';
	}
	escape_json(json, text);
	pfree(text);
}

/*
 * The headers of a message as a JSON array of [name, value] pairs, in their
 * order, repeated names included; a value can be null.  NULL if the message
 * has none.  The message is not too large (kafka_message_excess).
 */
char *
kafka_message_headers(const KafkaEvent *event)
{
	StringInfoData json;
	const char *name;
	const void *value;
	size_t value_bytes;

	if (event->headers_error != RD_KAFKA_RESP_ERR_NO_ERROR)
		ereport(ERROR, (errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
						errmsg("could not read the headers of a Kafka message"),
						errdetail_internal("%s", rd_kafka_err2str(event->headers_error))));
	if (event->headers == NULL)
		return NULL;

	initStringInfo(&json);
	for (size_t i = 0; rd_kafka_header_get_all(event->headers, i, &name, &value, &value_bytes) ==
					   RD_KAFKA_RESP_ERR_NO_ERROR;
		 i++)
	{
		appendStringInfoString(&json, i == 0 ? "[[" : ", [");
		append_header_text(&json, name, strlen(name));
		appendStringInfoString(&json, ", ");
		if (value == NULL)
			appendStringInfoString(&json, "null");
		else
			append_header_text(&json, value, value_bytes);
		appendStringInfoChar(&json, ']');
	}
	if (json.len == 0)
		return NULL;
	appendStringInfoChar(&json, ']');
	return json.data;
}
