/*-------------------------------------------------------------------------
 *
 * json_value.c
 *	  From a JSON value to a Datum, without the input function of its type.
 *
 * Each conversion here must give, bit for bit, what the input function gives
 * for the same text.  Whatever is in doubt is handed to the input function
 * (FAST_UNKNOWN); an error is told here only where it can't be anything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "decode_internal.h"

#define IS_DIGIT(c) ((unsigned char) ((c) - '0') <= 9)

static FastResult convert_bool(const JsonValue *value, Datum *result);
static FastResult convert_text(int32 typmod, const JsonValue *value, Datum *result);
static FastResult convert_json(const JsonValue *value, Datum *result);
static FastResult convert_uuid(const JsonValue *value, Datum *result);
static int hex_digit(char c);

/*
 * How values of that type are converted here, FAST_NONE if not at all.
 */
FastKind
json_fast_kind(Oid type, int32 typmod)
{
	switch (type)
	{
		case BOOLOID:
			return FAST_BOOL;
		case INT2OID:
			return FAST_INT2;
		case INT4OID:
			return FAST_INT4;
		case INT8OID:
			return FAST_INT8;
		case FLOAT4OID:
			return FAST_FLOAT4;
		case FLOAT8OID:
			return FAST_FLOAT8;
		case TEXTOID:
		case VARCHAROID:
			return FAST_TEXT;
		case JSONOID:
			return FAST_JSON;
		case DATEOID:
			return FAST_DATE;
		case TIMESTAMPOID:
			return typmod < 0 ? FAST_TIMESTAMP : FAST_NONE;
		case TIMESTAMPTZOID:
			return typmod < 0 ? FAST_TIMESTAMPTZ : FAST_NONE;
		case UUIDOID:
			return FAST_UUID;
		default:
			return FAST_NONE;
	}
}

/*
 * Convert a value that is neither absent nor null.
 *
 * By-reference results are allocated in the current context.
 */
FastResult
json_value_convert(FastKind kind, int32 typmod, const JsonValue *value, Datum *result,
				   DecodeError *error)
{
	switch (kind)
	{
		case FAST_BOOL:
			return convert_bool(value, result);
		case FAST_INT2:
		case FAST_INT4:
		case FAST_INT8:
		case FAST_FLOAT4:
		case FAST_FLOAT8:
			return json_number_convert(kind, value, result, error);
		case FAST_TEXT:
			return convert_text(typmod, value, result);
		case FAST_JSON:
			return convert_json(value, result);
		case FAST_DATE:
		case FAST_TIMESTAMP:
		case FAST_TIMESTAMPTZ:
			if (value->kind != JSON_KIND_STRING)
				return FAST_UNKNOWN;
			return json_time_convert(kind, value->start, value->end, result);
		case FAST_UUID:
			return convert_uuid(value, result);
		case FAST_NONE:
			break;
	}
	return FAST_UNKNOWN;
}

/*
 * bool, from true and false.
 */
static FastResult
convert_bool(const JsonValue *value, Datum *result)
{
	if (value->kind != JSON_KIND_TRUE && value->kind != JSON_KIND_FALSE)
		return FAST_UNKNOWN;
	*result = BoolGetDatum(value->kind == JSON_KIND_TRUE);
	return FAST_DONE;
}

/*
 * text and varchar: the text of a string, the JSON text of anything else.
 */
static FastResult
convert_text(int32 typmod, const JsonValue *value, Datum *result)
{
	size_t bytes = value->end - value->start;
	text *copy;

	/* So few bytes can't be too many characters. */
	if (typmod >= VARHDRSZ && bytes > (size_t) (typmod - VARHDRSZ))
		return FAST_UNKNOWN;

	copy = palloc(bytes + VARHDRSZ);
	if (value->has_escapes)
		bytes = json_unescape(value->start, value->end, VARDATA(copy));
	else
		memcpy(VARDATA(copy), value->start, bytes);
	SET_VARSIZE(copy, bytes + VARHDRSZ);
	*result = PointerGetDatum(copy);
	return FAST_DONE;
}

/*
 * json: the text of the value as it stands in the payload.
 */
static FastResult
convert_json(const JsonValue *value, Datum *result)
{
	int quote = value->kind == JSON_KIND_STRING ? 1 : 0;
	const char *start = value->start - quote;

	*result = PointerGetDatum(cstring_to_text_with_len(start, value->end + quote - start));
	return FAST_DONE;
}

/*
 * uuid, from its canonical form in letters of either case.
 */
static FastResult
convert_uuid(const JsonValue *value, Datum *result)
{
	const char *p = value->start;
	pg_uuid_t *uuid;

	if (value->kind != JSON_KIND_STRING || value->end - value->start != 36)
		return FAST_UNKNOWN;

	uuid = palloc(sizeof(pg_uuid_t));
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high;
		int low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *p++ != '-')
			return FAST_UNKNOWN;
		high = hex_digit(*p++);
		low = hex_digit(*p++);
		if (high < 0 || low < 0)
			return FAST_UNKNOWN;
		uuid->data[i] = high * 16 + low;
	}
	*result = UUIDPGetDatum(uuid);
	return FAST_DONE;
}

/*
 * What a hexadecimal digit stands for, or -1.
 */
static int
hex_digit(char c)
{
	if (IS_DIGIT(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}
