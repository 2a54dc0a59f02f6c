/*-------------------------------------------------------------------------
 *
 * partition_interval.c
 *	  Where partitions begin and end.
 *
 * Bounds are multiples of partition_interval in UTC, whatever the session's
 * time zone is: days, hours and minutes are counted from 2000-01-01, whole
 * weeks from a Monday, months and years by the calendar.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/date.h"
#include "utils/datetime.h"

#include "apply/partition.h"

#define USECS_PER_WEEK (7 * USECS_PER_DAY)

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

/* Midnight of the first day of a month, counted from January 2000. */
static TimestampTz
month_start(int64 month)
{
	int64 years = floor_divide(month, 12);
	int day = date2j(2000 + (int) years, (int) (month - years * 12) + 1, 1);
	TimestampTz start;

	if (pg_mul_s64_overflow(day - POSTGRES_EPOCH_JDATE, USECS_PER_DAY, &start))
		return DT_NOEND;
	return start;
}

/* Finds the multiple of the interval that a finite time lies in. */
void
partition_interval_around(const Interval *interval, TimestampTz time, TimestampTz *from,
						  TimestampTz *to)
{
	int64 width = partition_interval_us(interval);
	int64 origin = width % USECS_PER_WEEK == 0 ? 2 * USECS_PER_DAY : 0;

	if (interval->month != 0)
	{
		int year;
		int month;
		int day;
		int64 bucket;

		j2date((int) floor_divide(time, USECS_PER_DAY) + POSTGRES_EPOCH_JDATE, &year, &month, &day);
		bucket = floor_divide((year - 2000) * 12 + month - 1, interval->month);
		*from = month_start(bucket * interval->month);
		*to = month_start((bucket + 1) * interval->month);
		return;
	}
	*from = floor_divide(time - origin, width) * width + origin;
	if (pg_add_s64_overflow(*from, width, to))
		*to = DT_NOEND;
}

/* Fields of a time in UTC. */
void
partition_time_fields(TimestampTz time, struct pg_tm *fields, fsec_t *microseconds)
{
	if (timestamp2tm(time, NULL, fields, microseconds, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE), errmsg("event time out of range")));
}

/* A bound as it is written in SQL. */
char *
partition_bound_literal(TimestampTz time, Oid type)
{
	struct pg_tm fields;
	fsec_t microseconds;
	const char *era;
	int year;

	if (!IS_VALID_TIMESTAMP(time))
		return time < 0 ? "MINVALUE" : "MAXVALUE";

	partition_time_fields(time, &fields, &microseconds);
	year = fields.tm_year > 0 ? fields.tm_year : 1 - fields.tm_year;
	era = fields.tm_year > 0 ? "" : " BC";
	if (type == DATEOID)
		return psprintf("'%04d-%02d-%02d%s'", year, fields.tm_mon, fields.tm_mday, era);
	return psprintf("'%04d-%02d-%02d %02d:%02d:%02d.%06d%s%s'", year, fields.tm_mon, fields.tm_mday,
					fields.tm_hour, fields.tm_min, fields.tm_sec, (int) microseconds,
					type == TIMESTAMPTZOID ? "+00" : "", era);
}
