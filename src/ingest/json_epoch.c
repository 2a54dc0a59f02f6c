/*-------------------------------------------------------------------------
 *
 * json_epoch.c
 *	  Times that are counted since 1970: columns of detect.epoch_ms and its like.
 *
 * JSON has no type for times, and many who write it count: Unix seconds, Java and
 * JavaScript milliseconds, others micro- or nanoseconds.  The number does not tell
 * which, so the type of the column does.  The decimal number is shifted by powers of
 * ten, never through floating point, and rounded to the microsecond, half away from
 * zero: the same number is the same time wherever it is read, which identities rely on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "datatype/timestamp.h"
#include "utils/timestamp.h"

#include "decode_internal.h"

/* Digits of a microsecond behind those of a second. */
#define MICROSECOND_DIGITS 6
#define DIGITS_A_UNIT	   3

/* Powers of ten below this one fit into 64 bits. */
#define MAX_SHIFT 19

/* No time has as many, without what is behind the digit that it is rounded by. */
#define MAX_SHORTENED_BYTES 40

#define UNIX_EPOCH_US ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

static bool read_shortened(const JsonValue *value, int fraction_digits, Decimal *decimal);
static bool shift_decimal(const Decimal *decimal, int digits, int64 *result);

/*
 * Convert a number, or a string that is nothing but one, to timestamptz.
 *
 * FAST_UNKNOWN for anything else, which is the text of a time or nothing.
 */
FastResult
json_epoch_convert(EpochUnit unit, const JsonValue *value, Datum *result, DecodeError *error)
{
	Decimal decimal;
	int64 timestamp;
	int unit_digits = (unit - EPOCH_S) * DIGITS_A_UNIT;

	if (!json_number_read(value, &decimal))
		return FAST_UNKNOWN;
	if ((!decimal.fits &&
		 !read_shortened(value, Max(MICROSECOND_DIGITS + 1 - unit_digits, 0), &decimal)) ||
		!shift_decimal(&decimal, MICROSECOND_DIGITS - unit_digits, &timestamp) ||
		pg_sub_s64_overflow(timestamp, UNIX_EPOCH_US, &timestamp) || !IS_VALID_TIMESTAMP(timestamp))
	{
		decode_fail(error, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
					"value \"%.*s\" is out of range for a time since 1970",
					(int) Min(value->end - value->start, MAX_QUOTED_BYTES), value->start);
		return FAST_ERROR;
	}
	*result = Int64GetDatum(timestamp);
	return FAST_DONE;
}

/*
 * Read a number that has more digits than fit, with so many of those behind its point.
 * False if it has no point, or an exponent, or still too many.
 */
static bool
read_shortened(const JsonValue *value, int fraction_digits, Decimal *decimal)
{
	const char *point = memchr(value->start, '.', value->end - value->start);
	char text[MAX_SHORTENED_BYTES + 1];
	JsonValue shortened = {.start = text, .kind = JSON_KIND_NUMBER};
	size_t bytes;

	if (point == NULL || memchr(point, 'e', value->end - point) ||
		memchr(point, 'E', value->end - point))
		return false;
	bytes = point - value->start;
	if (fraction_digits > 0)
		bytes = Min(bytes + 1 + fraction_digits, value->end - value->start);
	if (bytes > MAX_SHORTENED_BYTES)
		return false;
	memcpy(text, value->start, bytes);
	text[bytes] = '\0';
	shortened.end = text + bytes;
	return json_number_read(&shortened, decimal) && decimal->fits;
}

/*
 * The whole number next to decimal * 10 ^ digits.  False if it has too many digits.
 */
static bool
shift_decimal(const Decimal *decimal, int digits, int64 *result)
{
	uint64 number = decimal->mantissa;
	uint64 power = 1;
	int shift = decimal->exponent + digits;

	if (number == 0)
	{
		*result = 0;
		return true;
	}
	if (shift > MAX_SHIFT)
		return false;
	for (int i = 0; i < Min(abs(shift), MAX_SHIFT); i++)
		power *= 10;
	if (shift >= 0)
	{
		if (number > PG_INT64_MAX / power)
			return false;
		number *= power;
	}
	else if (shift < -MAX_SHIFT)
		number = 0;
	else
		number = number / power + (number % power >= power / 2);

	if (number > PG_INT64_MAX)
		return false;
	*result = decimal->is_negative ? -(int64) number : (int64) number;
	return true;
}
