/*-------------------------------------------------------------------------
 *
 * partition_interval.c
 *	  Where partitions begin and end.
 *
 * Bounds are multiples of partition_interval in UTC, whatever the session's
 * time zone is: days, hours and minutes are counted from 2000-01-01, whole
 * weeks from a Monday, months and years by the calendar.
 *
 * The older the wider: a partition takes 100, 10,000, … intervals where that
 * many end at least as long ago as they are wide.  So times that are spread
 * over thousands of years lie in some hundred partitions, and what is younger
 * than 100 intervals never lies in a wide one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/date.h"
#include "utils/datetime.h"

#include "apply/partition.h"

#define USECS_PER_WEEK (7 * USECS_PER_DAY)

#define LONGEST_YEARS 1000
#define LONGEST_DAYS  (LONGEST_YEARS * 366)

/* From one width to the next. */
#define WIDER 100

/* Nothing wider can lie in the past: time begins in 4714 BC. */
#define WIDEST_US (10000 * 366 * USECS_PER_DAY)

/* Microseconds of an interval without months. */
int64
partition_interval_us(const Interval *interval)
{
	return interval->day * USECS_PER_DAY + interval->time;
}

/* Raises an error unless partitions can be aligned to the interval. */
void
partition_interval_check(const Interval *interval, Oid event_time_type)
{
	if (interval->month != 0 && (interval->day != 0 || interval->time != 0))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("partition_interval mixes months with days or hours"),
						errhint("Use whole months or years, or days, hours and minutes.")));
	if (interval->month > LONGEST_YEARS * MONTHS_PER_YEAR || interval->day > LONGEST_DAYS ||
		interval->time > LONGEST_DAYS * USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition_interval must be at most %d years", LONGEST_YEARS),
				 errhint("One partition for all times needs no interval: use a plain table.")));
	if (interval->month < 0 ||
		(interval->month == 0 && partition_interval_us(interval) < USECS_PER_SEC))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("partition_interval must be at least one second")));
	if (event_time_type == DATEOID && partition_interval_us(interval) % USECS_PER_DAY != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition_interval must be whole days, since the event time is a date"),
				 errhint("Use partition_interval => '1 day' or more.")));
}

/* Division that rounds down, also below zero. */
static int64
floor_divide(int64 dividend, int64 divisor)
{
	int64 quotient = dividend / divisor;

	return dividend % divisor < 0 ? quotient - 1 : quotient;
}

/* Midnight of the first day of a month, counted from January 2000; the
 * beginning of time for months before it. */
static TimestampTz
month_start(int64 month)
{
	int64 years = floor_divide(month, MONTHS_PER_YEAR);
	int day;

	if (2000 + years < JULIAN_MINYEAR)
		return MIN_TIMESTAMP;
	day = date2j(2000 + (int) years, (int) (month - years * MONTHS_PER_YEAR) + 1, 1);
	return (day - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
}

/* Finds the multiple of so many months that a time lies in. */
static void
months_around(int64 months, TimestampTz time, TimestampTz *from, TimestampTz *to)
{
	int year;
	int month;
	int day;
	int64 bucket;

	j2date((int) floor_divide(time, USECS_PER_DAY) + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	bucket = floor_divide((year - 2000) * MONTHS_PER_YEAR + month - 1, months);
	*from = month_start(bucket * months);
	*to = month_start((bucket + 1) * months);
}

/* Finds the multiple of so many intervals that a time lies in. */
static void
multiple_around(const Interval *interval, int64 intervals, TimestampTz time, TimestampTz *from,
				TimestampTz *to)
{
	int64 width = partition_interval_us(interval);
	int64 origin = width % USECS_PER_WEEK == 0 ? 2 * USECS_PER_DAY : 0;

	if (interval->month != 0)
	{
		months_around(interval->month * intervals, time, from, to);
		return;
	}
	*from = floor_divide(time - origin, width * intervals) * width * intervals + origin;
	*to = *from + width * intervals;
}

/*
 * Finds the partition to be made for a time, which is finite and no further
 * ahead than events may be: from, inclusive, to, exclusive.  Result is its
 * width in intervals: the older the wider.
 */
int64
partition_interval_around(const Interval *interval, TimestampTz time, TimestampTz now,
						  TimestampTz *from, TimestampTz *to)
{
	int64 longest_us = interval->month != 0 ? interval->month * 31 * USECS_PER_DAY
											: partition_interval_us(interval);
	int64 intervals = 1;

	multiple_around(interval, 1, time, from, to);
	while (intervals <= WIDEST_US / longest_us / WIDER)
	{
		TimestampTz wide_from;
		TimestampTz wide_to;

		multiple_around(interval, intervals * WIDER, time, &wide_from, &wide_to);
		if (wide_to > now || now - wide_to < wide_to - wide_from)
			break;
		*from = wide_from;
		*to = wide_to;
		intervals *= WIDER;
	}
	*from = Max(*from, MIN_TIMESTAMP);
	return intervals;
}

/* Fields of a time in UTC. */
void
partition_time_fields(TimestampTz time, struct pg_tm *fields, fsec_t *microseconds)
{
	if (timestamp2tm(time, NULL, fields, microseconds, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("event time out of range")));
}

/* A finite bound as it is written in SQL. */
char *
partition_bound_literal(TimestampTz time, Oid type)
{
	struct pg_tm fields;
	fsec_t microseconds;
	const char *era;
	int year;

	partition_time_fields(time, &fields, &microseconds);
	year = fields.tm_year > 0 ? fields.tm_year : 1 - fields.tm_year;
	era = fields.tm_year > 0 ? "" : " BC";
	if (type == DATEOID)
		return psprintf("'%04d-%02d-%02d%s'", year, fields.tm_mon, fields.tm_mday, era);
	return psprintf("'%04d-%02d-%02d %02d:%02d:%02d.%06d%s%s'", year, fields.tm_mon, fields.tm_mday,
					fields.tm_hour, fields.tm_min, fields.tm_sec, (int) microseconds,
					type == TIMESTAMPTZOID ? "+00" : "", era);
}
