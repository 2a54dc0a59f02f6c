/*-------------------------------------------------------------------------
 *
 * gone.h
 *	  What the files share that know which event times have lost events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_GONE_H
#define DETECT_GONE_H

#include "rollup/rollup.h"

/* A partition that is there, or was. */
typedef struct KnownPartition
{
	Oid relation;
	bool is_default; /* its range is without limits then */
	TimeRange range;
} KnownPartition;

/* in rollup/gone.c */
extern List *gone_merge_ranges(List *ranges);
extern List *gone_attached_partitions(Oid events_table);
extern List *gone_partitions_without(const List *partitions, const List *others);
extern List *gone_lost_ranges(const Stream *stream, const List *recorded, const List *vanished);
extern List *gone_ranges_of_rows(MemoryContext context);
extern List *gone_read_partitions(Oid events_table);

#endif /* DETECT_GONE_H */
