/*-------------------------------------------------------------------------
 *
 * json_number.c
 *	  Integers and floating point from the digits of JSON.
 *
 * A number is read as mantissa and power of ten.  Floating point results are
 * rounded correctly, as those of the input functions are: where mantissa and
 * power are exact, one division or multiplication rounds once, and so right;
 * all other numbers go to strtod() and strtof(), which the input functions
 * call too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "decode_internal.h"

#define IS_DIGIT(c) ((unsigned char) ((c) - '0') <= 9)

/* As many digits always fit into 64 bits. */
#define MAX_MANTISSA_DIGITS 19
#define MAX_EXPONENT_DIGITS 4

/* Longer numbers are left to the input function. */
#define MAX_NUMBER_BYTES 100

/*
 * Integers up to here, and the powers of ten below, are exact.  Processors
 * that calculate more precisely than asked would round twice: none for them.
 */
#if FLT_EVAL_METHOD == 0
#define MAX_EXACT_DOUBLE (UINT64CONST(1) << DBL_MANT_DIG)
#define MAX_EXACT_FLOAT	 (UINT64CONST(1) << FLT_MANT_DIG)
#else
#define MAX_EXACT_DOUBLE 0
#define MAX_EXACT_FLOAT	 0
#endif

#define MAX_DOUBLE_POWER 22
#define MAX_FLOAT_POWER	 10

static const double power_of_ten[MAX_DOUBLE_POWER + 1] = {
	1e0,  1e1,	1e2,  1e3,	1e4,  1e5,	1e6,  1e7,	1e8,  1e9,	1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static const float float_power_of_ten[MAX_FLOAT_POWER + 1] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f,
															  1e6f, 1e7f, 1e8f, 1e9f, 1e10f};

static FastResult convert_integer(FastKind kind, const JsonValue *value, const Decimal *decimal,
								  Datum *result, DecodeError *error);
static FastResult convert_float4(const JsonValue *value, const Decimal *decimal, Datum *result);
static FastResult convert_float8(const JsonValue *value, const Decimal *decimal, Datum *result);
static int read_digits(const char **p, Decimal *decimal, int digits);
static bool copy_number(const JsonValue *value, char *buffer);

/*
 * Convert a number, or a string that is nothing but one.
 */
FastResult
json_number_convert(FastKind kind, const JsonValue *value, Datum *result, DecodeError *error)
{
	Decimal decimal;

	if (!json_number_read(value, &decimal))
		return FAST_UNKNOWN;
	if (kind == FAST_FLOAT4)
		return convert_float4(value, &decimal, result);
	if (kind == FAST_FLOAT8)
		return convert_float8(value, &decimal, result);
	return convert_integer(kind, value, &decimal, result, error);
}

/*
 * smallint, integer and bigint, from digits alone.
 */
static FastResult
convert_integer(FastKind kind, const JsonValue *value, const Decimal *decimal, Datum *result,
				DecodeError *error)
{
	const char *type;
	uint64 limit;
	int64 number;

	if (!decimal->is_whole)
		return FAST_UNKNOWN;
	if (kind == FAST_INT2)
	{
		type = "smallint";
		limit = PG_INT16_MAX;
	}
	else if (kind == FAST_INT4)
	{
		type = "integer";
		limit = PG_INT32_MAX;
	}
	else
	{
		type = "bigint";
		limit = PG_INT64_MAX;
	}

	if (!decimal->fits || decimal->mantissa > limit + decimal->is_negative)
	{
		decode_fail(error, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
					"value \"%.*s\" is out of range for type %s",
					(int) Min(value->end - value->start, MAX_QUOTED_BYTES), value->start, type);
		return FAST_ERROR;
	}

	number = (int64) (decimal->is_negative ? -decimal->mantissa : decimal->mantissa);
	if (kind == FAST_INT2)
		*result = Int16GetDatum((int16) number);
	else if (kind == FAST_INT4)
		*result = Int32GetDatum((int32) number);
	else
		*result = Int64GetDatum(number);
	return FAST_DONE;
}

/*
 * double precision, correctly rounded.
 */
static FastResult
convert_float8(const JsonValue *value, const Decimal *decimal, Datum *result)
{
	char buffer[MAX_NUMBER_BYTES + 1];
	double number;

	if (decimal->fits && decimal->mantissa <= MAX_EXACT_DOUBLE &&
		abs(decimal->exponent) <= MAX_DOUBLE_POWER)
	{
		number = decimal->mantissa;
		if (decimal->exponent < 0)
			number /= power_of_ten[-decimal->exponent];
		else
			number *= power_of_ten[decimal->exponent];
		if (decimal->is_negative)
			number = -number;
	}
	else
	{
		if (!copy_number(value, buffer))
			return FAST_UNKNOWN;
		errno = 0;
		number = strtod(buffer, NULL);
		if (errno != 0 || number == 0.0 || isinf(number))
			return FAST_UNKNOWN;
	}
	*result = Float8GetDatum(number);
	return FAST_DONE;
}

/*
 * real, correctly rounded: from the decimal number, not from a double, which
 * would round twice.
 */
static FastResult
convert_float4(const JsonValue *value, const Decimal *decimal, Datum *result)
{
	char buffer[MAX_NUMBER_BYTES + 1];
	float number;

	if (decimal->fits && decimal->mantissa <= MAX_EXACT_FLOAT &&
		abs(decimal->exponent) <= MAX_FLOAT_POWER)
	{
		number = decimal->mantissa;
		if (decimal->exponent < 0)
			number /= float_power_of_ten[-decimal->exponent];
		else
			number *= float_power_of_ten[decimal->exponent];
		if (decimal->is_negative)
			number = -number;
	}
	else
	{
		if (!copy_number(value, buffer))
			return FAST_UNKNOWN;
		errno = 0;
		number = strtof(buffer, NULL);
		if (errno != 0 || number == 0.0f || isinf(number))
			return FAST_UNKNOWN;
	}
	*result = Float4GetDatum(number);
	return FAST_DONE;
}

/*
 * Read a number, or a string that is nothing but one.
 *
 * Returns false for anything else.  Leading zeros are no matter: the input
 * functions take them too.
 */
bool
json_number_read(const JsonValue *value, Decimal *decimal)
{
	const char *p = value->start;
	const char *start;
	int digits;

	if (value->kind != JSON_KIND_NUMBER && value->kind != JSON_KIND_STRING)
		return false;

	decimal->mantissa = 0;
	decimal->exponent = 0;
	decimal->is_whole = true;
	decimal->is_negative = (*p == '-');
	if (decimal->is_negative)
		p++;

	start = p;
	digits = read_digits(&p, decimal, 0);
	if (p == start)
		return false;
	if (*p == '.')
	{
		decimal->is_whole = false;
		start = ++p;
		digits = read_digits(&p, decimal, digits);
		if (p == start)
			return false;
		decimal->exponent = -(p - start);
	}
	decimal->fits = digits <= MAX_MANTISSA_DIGITS;
	if (*p == 'e' || *p == 'E')
	{
		bool is_negative = (p[1] == '-');
		int exponent = 0;

		decimal->is_whole = false;
		p++;
		if (*p == '-' || *p == '+')
			p++;
		start = p;
		for (; IS_DIGIT(*p); p++)
		{
			if (p - start < MAX_EXPONENT_DIGITS)
				exponent = exponent * 10 + (*p - '0');
			else
				decimal->fits = false;
		}
		if (p == start)
			return false;
		decimal->exponent += is_negative ? -exponent : exponent;
	}
	return p == value->end;
}

/*
 * Read digits into the mantissa, which has so many significant digits so far.
 *
 * Returns how many it has then; beyond MAX_MANTISSA_DIGITS it is worthless.
 */
static int
read_digits(const char **p, Decimal *decimal, int digits)
{
	const char *q = *p;
	uint64 mantissa = decimal->mantissa;

	for (; IS_DIGIT(*q); q++)
	{
		mantissa = mantissa * 10 + (*q - '0');
		if (digits > 0 || *q != '0')
			digits++;
	}
	decimal->mantissa = mantissa;
	*p = q;
	return digits;
}

/*
 * Copy a number with a zero byte at its end into a buffer of MAX_NUMBER_BYTES
 * + 1 bytes, if it fits.
 */
static bool
copy_number(const JsonValue *value, char *buffer)
{
	size_t bytes = value->end - value->start;

	if (bytes > MAX_NUMBER_BYTES)
		return false;
	memcpy(buffer, value->start, bytes);
	buffer[bytes] = '\0';
	return true;
}
