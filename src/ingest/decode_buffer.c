/*-------------------------------------------------------------------------
 *
 * decode_buffer.c
 *	  The payload as valid text in the server's encoding.
 *
 * Payloads are UTF-8.  The copy goes on with zero bytes, so that the scanner
 * needs no tests for the end, and it may be converted in place of the payload
 * where the database has another encoding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "decode_internal.h"

#define INITIAL_CAPACITY_BYTES 8192

/* A buffer above this is not kept for the next batch. */
#define KEPT_CAPACITY_BYTES (1024 * 1024)

/* Room for two quotes and a zero byte. */
#define SCRATCH_EXTRA_BYTES 3

/* What is converted to the server's encoding. */
typedef struct EncodingCall
{
	const char *text;
	size_t bytes;
} EncodingCall;

static void reserve(DecodeBuffer *buffer, size_t text_bytes);
static void fill(DecodeBuffer *buffer, const char *text, size_t text_bytes);
static bool is_ascii(const DecodeBuffer *buffer);
static bool fail_encoding(const DecodeBuffer *buffer, size_t valid_bytes, DecodeError *error);
static bool convert_encoding(DecodeBuffer *buffer, DecodeGuard *guard, DecodeError *error);
static Datum run_encoding(void *argument);

/*
 * Make a buffer in 'context'; it was all zeros before.
 */
void
decode_buffer_init(DecodeBuffer *buffer, MemoryContext context)
{
	buffer->context = context;
	reserve(buffer, INITIAL_CAPACITY_BYTES);
}

/*
 * Start a batch: give the memory of unusually large payloads back.
 */
void
decode_buffer_begin(DecodeBuffer *buffer)
{
	if (buffer->capacity_bytes > KEPT_CAPACITY_BYTES)
		reserve(buffer, INITIAL_CAPACITY_BYTES);
}

/*
 * Copy a payload into the buffer.
 *
 * Returns false when it is no text.  Zero bytes in payloads of ASCII alone are
 * left to the scanner, which expects none.
 */
bool
decode_buffer_load(DecodeBuffer *buffer, DecodeGuard *guard, const char *payload,
				   size_t payload_bytes, DecodeError *error)
{
	size_t valid_bytes;

	if (payload_bytes > MAX_PAYLOAD_BYTES)
		return decode_fail(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						   "payload has %zu bytes, more than %d", payload_bytes, MAX_PAYLOAD_BYTES);

	fill(buffer, payload, payload_bytes);
	if (is_ascii(buffer))
		return true;
	valid_bytes = pg_encoding_verifymbstr(PG_UTF8, buffer->text, (int) buffer->bytes);
	if (valid_bytes < buffer->bytes)
		return fail_encoding(buffer, valid_bytes, error);
	if (GetDatabaseEncoding() == PG_UTF8)
		return true;
	return convert_encoding(buffer, guard, error);
}

/*
 * Get new memory, for texts of so many bytes.
 */
static void
reserve(DecodeBuffer *buffer, size_t text_bytes)
{
	/* In between an error may leave neither, but never freed ones. */
	buffer->capacity_bytes = 0;
	if (buffer->text)
		pfree(buffer->text);
	buffer->text = NULL;
	if (buffer->scratch)
		pfree(buffer->scratch);
	buffer->scratch = NULL;

	buffer->text = MemoryContextAlloc(buffer->context, text_bytes + JSON_PADDING_BYTES);
	buffer->scratch = MemoryContextAlloc(buffer->context, text_bytes + SCRATCH_EXTRA_BYTES);
	buffer->capacity_bytes = text_bytes;
}

/*
 * Put a text into the buffer.
 */
static void
fill(DecodeBuffer *buffer, const char *text, size_t text_bytes)
{
	if (text_bytes > buffer->capacity_bytes)
		reserve(buffer, text_bytes + text_bytes / 2);
	memcpy(buffer->text, text, text_bytes);
	memset(buffer->text + text_bytes, 0, JSON_PADDING_BYTES);
	buffer->bytes = text_bytes;
}

/*
 * Are there only ASCII bytes?  The zero bytes at the end may be read too.
 */
static bool
is_ascii(const DecodeBuffer *buffer)
{
	uint64 bits = 0;

	for (size_t i = 0; i < buffer->bytes; i += sizeof(uint64))
	{
		uint64 word;

		memcpy(&word, buffer->text + i, sizeof(word));
		bits |= word;
	}
	return (bits & UINT64CONST(0x8080808080808080)) == 0;
}

/*
 * Tell where a payload ceases to be text.
 */
static bool
fail_encoding(const DecodeBuffer *buffer, size_t valid_bytes, DecodeError *error)
{
	const char *bad = buffer->text + valid_bytes;
	StringInfoData sequence;
	int sequence_bytes;

	if (*bad == '\0')
		return decode_fail(error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
						   "payload contains a zero byte at byte %zu", valid_bytes + 1);

	sequence_bytes = Min(pg_encoding_mblen(PG_UTF8, bad), (int) (buffer->bytes - valid_bytes));
	initStringInfo(&sequence);
	for (int i = 0; i < sequence_bytes; i++)
		appendStringInfo(&sequence, " 0x%02x", (unsigned char) bad[i]);
	return decode_fail(error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
					   "payload is not valid UTF-8 at byte %zu:%s", valid_bytes + 1, sequence.data);
}

/*
 * Convert the UTF-8 text in the buffer to the server's encoding.
 */
static bool
convert_encoding(DecodeBuffer *buffer, DecodeGuard *guard, DecodeError *error)
{
	EncodingCall call = {buffer->text, buffer->bytes};
	char *converted;
	Datum result;

	if (!guard_call(guard, run_encoding, &call, false, &result, error))
		return false;
	converted = DatumGetCString(result);
	if (converted == buffer->text)
		return true;
	fill(buffer, converted, strlen(converted));
	pfree(converted);
	return true;
}

/*
 * The guarded call.
 */
static Datum
run_encoding(void *argument)
{
	EncodingCall *call = argument;

	return CStringGetDatum(pg_any_to_server(call->text, (int) call->bytes, PG_UTF8));
}
