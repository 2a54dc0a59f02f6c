/*-------------------------------------------------------------------------
 *
 * partition.h
 *	  The partitions of an events table as ranges of event time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_PARTITION_H
#define DETECT_PARTITION_H

#include "apply/dedup.h"

/* Of partitions that retention drops: DETACH and DROP are two transactions,
 * and this comment lets the second be made up for after a crash. */
#define PARTITION_RETIRED_COMMENT "detect: past the retention of its stream"

/* What the unique index of a partition is called, behind the name of the partition. */
#define PARTITION_INDEX_LABEL "identity"

/* From a time, inclusive, to a time, exclusive, in UTC; without a limit they
 * are DT_NOBEGIN and DT_NOEND. */
typedef struct PartitionRange
{
	TimestampTz from;
	TimestampTz to;
	Oid partition;	 /* InvalidOid: to be made */
	bool detaching;	 /* takes no rows any more */
	int64 intervals; /* its width, if to be made */
} PartitionRange;

typedef struct PartitionRanges
{
	int n;
	PartitionRange *ranges; /* in order of time */
	Oid default_partition;	/* InvalidOid: none */
} PartitionRanges;

/* in apply/partition.c */
extern bool partition_is_detaching(Oid partition);
extern PartitionRanges *partition_ranges(Relation table);
extern int partition_range_after(const PartitionRanges *ranges, TimestampTz time);
extern int partition_range_of(const PartitionRanges *ranges, TimestampTz time);
extern void partition_check_definition(const Stream *stream);
extern void partition_check_kind(Oid partition);
extern bool partition_may_have_rows(Oid partition);

/* in apply/partition_make.c */
extern int partition_lock_timeout_ms(void);

/* in apply/partition_interval.c */
extern void partition_interval_check(const Interval *interval, Oid event_time_type);
extern int64 partition_interval_us(const Interval *interval);
extern int64 partition_interval_around(const Interval *interval, TimestampTz time, TimestampTz now,
									   TimestampTz *from, TimestampTz *to);
extern void partition_time_fields(TimestampTz time, struct pg_tm *fields, fsec_t *microseconds);
extern char *partition_bound_literal(TimestampTz time, Oid type);
extern void partition_report_detaching(Oid partition);

#endif /* DETECT_PARTITION_H */
