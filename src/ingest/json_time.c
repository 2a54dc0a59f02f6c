/*-------------------------------------------------------------------------
 *
 * json_time.c
 *	  Dates and times in the forms of ISO 8601 that machines send.
 *
 *	  2026-11-22
 *	  2026-11-22T10:11:12[.123456][Z | +02 | +0200 | +02:00]
 *	  2026-11-22 10:11:12[.123456][Z | +02 | +0200 | +02:00]
 *
 * With the year first and in four digits no DateStyle changes their meaning.
 * Anything else, and anything at the edge (24:00, a second 60, February 30th,
 * zones beyond the day), is left to the input function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "pgtime.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "decode_internal.h"

#define IS_DIGIT(c) ((unsigned char) ((c) - '0') <= 9)

/* So many digits are exact as double: the input function divides them too. */
#define MAX_FRACTION_DIGITS 15
#define MAX_ZONE_HOUR		15

static bool read_date(const char **p, struct pg_tm *tm);
static bool read_time(const char **p, struct pg_tm *tm, int32 *microsecond);
static bool read_fraction(const char **p, int32 *microsecond);
static bool read_zone(const char **p, int *seconds_west);
static bool read_number(const char **p, int digits, int *number);

/*
 * Convert the text from p to end, which a byte follows that is no digit.
 */
FastResult
json_time_convert(FastKind kind, const char *p, const char *end, Datum *result)
{
	struct pg_tm tm = {0};
	int32 microsecond = 0;
	int seconds_west = 0;
	int64 day;
	int64 timestamp;
	bool has_zone;

	if (!read_date(&p, &tm))
		return FAST_UNKNOWN;
	day = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) - POSTGRES_EPOCH_JDATE;
	if (kind == FAST_DATE)
	{
		if (p != end)
			return FAST_UNKNOWN;
		*result = DateADTGetDatum((DateADT) day);
		return FAST_DONE;
	}

	if (!read_time(&p, &tm, &microsecond))
		return FAST_UNKNOWN;
	has_zone = (p != end);
	if (has_zone && (!read_zone(&p, &seconds_west) || p != end))
		return FAST_UNKNOWN;

	timestamp =
		day * USECS_PER_DAY + microsecond +
		((tm.tm_hour * MINS_PER_HOUR + tm.tm_min) * SECS_PER_MINUTE + tm.tm_sec) * USECS_PER_SEC;

	/* timestamp without time zone ignores the zone, as its input function */
	if (kind == FAST_TIMESTAMPTZ)
	{
		if (!has_zone)
			seconds_west = DetermineTimeZoneOffset(&tm, session_timezone);
		timestamp += seconds_west * USECS_PER_SEC;
	}
	*result = Int64GetDatum(timestamp);
	return FAST_DONE;
}

/*
 * Read year, month and day: a day that exists.
 */
static bool
read_date(const char **p, struct pg_tm *tm)
{
	if (!read_number(p, 4, &tm->tm_year) || *(*p)++ != '-' || !read_number(p, 2, &tm->tm_mon) ||
		*(*p)++ != '-' || !read_number(p, 2, &tm->tm_mday))
		return false;
	return tm->tm_year >= 1 && tm->tm_mon >= 1 && tm->tm_mon <= MONTHS_PER_YEAR &&
		   tm->tm_mday >= 1 && tm->tm_mday <= day_tab[isleap(tm->tm_year)][tm->tm_mon - 1];
}

/*
 * Read the separator and the time of day.
 */
static bool
read_time(const char **p, struct pg_tm *tm, int32 *microsecond)
{
	if ((**p != 'T' && **p != ' '))
		return false;
	(*p)++;
	if (!read_number(p, 2, &tm->tm_hour) || *(*p)++ != ':' || !read_number(p, 2, &tm->tm_min) ||
		*(*p)++ != ':' || !read_number(p, 2, &tm->tm_sec))
		return false;
	if (tm->tm_hour >= HOURS_PER_DAY || tm->tm_min >= MINS_PER_HOUR ||
		tm->tm_sec >= SECS_PER_MINUTE)
		return false;
	if (**p != '.')
		return true;
	(*p)++;
	return read_fraction(p, microsecond);
}

/*
 * Read the digits of a fraction of a second.
 */
static bool
read_fraction(const char **p, int32 *microsecond)
{
	int64 numerator = 0;
	double denominator = 1;
	int digits = 0;

	for (; IS_DIGIT(**p); (*p)++)
	{
		if (++digits > MAX_FRACTION_DIGITS)
			return false;
		numerator = numerator * 10 + (**p - '0');
		denominator *= 10;
	}
	if (digits == 0)
		return false;
	*microsecond = (int32) rint(numerator / denominator * USECS_PER_SEC);
	return *microsecond < USECS_PER_SEC;
}

/*
 * Read a zone.
 */
static bool
read_zone(const char **p, int *seconds_west)
{
	char sign = *(*p)++;
	int hour;
	int minute = 0;

	if (sign == 'Z')
	{
		*seconds_west = 0;
		return true;
	}
	if ((sign != '+' && sign != '-') || !read_number(p, 2, &hour))
		return false;
	if (**p == ':')
	{
		(*p)++;
		if (!read_number(p, 2, &minute))
			return false;
	}
	else if (IS_DIGIT(**p) && !read_number(p, 2, &minute))
		return false;
	if (hour > MAX_ZONE_HOUR || minute >= MINS_PER_HOUR)
		return false;
	*seconds_west = (hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE;
	if (sign == '+')
		*seconds_west = -*seconds_west;
	return true;
}

/*
 * Read a number of exactly so many digits.
 */
static bool
read_number(const char **p, int digits, int *number)
{
	int result = 0;

	for (int i = 0; i < digits; i++)
	{
		char c = (*p)[i];

		if (!IS_DIGIT(c))
			return false;
		result = result * 10 + (c - '0');
	}
	*p += digits;
	*number = result;
	return true;
}
