/*-------------------------------------------------------------------------
 *
 * edit.h
 *	  What others do to the rows of an events table, queued for the applier.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_EDIT_H
#define DETECT_EDIT_H

#include "detect.h"

#include "access/genam.h"
#include "commands/trigger.h"
#include "utils/jsonb.h"

/* A row that was taken out of the table, or put in: an update is both.  With
 * neither, there were too many to queue: the relation is to be read again. */
typedef struct Edit
{
	Oid relation; /* the events table or a partition, as the statement named it */
	Jsonb *old_row;
	Jsonb *new_row;
	bool has_times; /* of rows that were not queued one by one */
	TimeRange times;
} Edit;

/* The event times of edits. */
typedef struct EditTimes
{
	const Stream *stream;
	MemoryContext context;
	Oid type;		   /* of the event time; InvalidOid: none that can be told */
	TimeRange *ranges; /* as they come, until edit_times_merge */
	int count;
	int max;
} EditTimes;

/* A pass over the edits of a stream, oldest first. */
typedef struct EditScan
{
	Relation queue;
	Relation index;
	SysScanDesc scan;
	Snapshot snapshot;
	HeapTuple tuple;
	Datum *values; /* of it: all that the table has */
	bool *nulls;
} EditScan;

/* In detect._edit: the relation has no stream, see edit_detached.c. */
#define NO_STREAM 0

/* in apply/edit.c */
extern void edit_queue(const TriggerData *trigdata);
extern void edit_queue_relation(int32 stream_id, Oid relation, const TimeRange *times);
extern bool edit_is_queued(int32 stream_id);
extern void edit_scan_begin(EditScan *scan, int32 stream_id, Snapshot snapshot);
extern bool edit_scan_next(EditScan *scan, Edit *edit, MemoryContext context);
extern void edit_scan_delete(EditScan *scan);
extern void edit_scan_end(EditScan *scan);
extern bool edit_row_has(Jsonb *row, const char *column);
extern char *edit_row_value(Jsonb *row, const char *column);

/* in apply/edit_detached.c */
extern void edit_note_detached(Oid relation);
extern List *edit_take_detached(Oid events_table);

/* in apply/edit_times.c */
extern EditTimes *edit_times_create(const Stream *stream);
extern void edit_times_add(EditTimes *times, const Edit *edit);
extern void edit_times_merge(EditTimes *times, int max);

#endif /* DETECT_EDIT_H */
