/*-------------------------------------------------------------------------
 *
 * segment.h
 *	  The parts of an events table, each with its identities in memory or
 *	  behind a unique index.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_SEGMENT_H
#define DETECT_SEGMENT_H

#include "apply/identity.h"
#include "apply/partition.h"
#include "utils/hsearch.h"

/* A partition, or a plain events table as a whole. */
typedef struct Segment
{
	Oid relation;
	Oid filenode;			 /* another one after TRUNCATE */
	Oid index;				 /* InvalidOid: in memory */
	IdentitySet *identities; /* NULL: indexed, or not read yet */
	HTAB *repeats;			 /* rows beyond the first of theirs, or NULL */
	bool must_read;			 /* before the next batch */
	bool read_now;			 /* in the open transaction */
	bool edited_now;		 /* in the open transaction */
	bool watched;			 /* edits of its rows are queued */
	IndexProbe *probe;		 /* open in this transaction, else NULL */
	uint32 changes;			 /* counted by the relcache callback */
	uint32 examined;		 /* value of changes when last examined */
	bool listed;			 /* scratch of listing the segments anew */
} Segment;

typedef struct SegmentMap
{
	MemoryContext context; /* of all below */
	const IdentityColumns *columns;
	const IdentityHasher *hasher; /* NULL: types without canonical bytes */
	Oid table;
	PartitionRanges *ranges; /* NULL: a plain table */
	int n;
	Segment **segments; /* of each range, then of the default partition */
	uint32 changes;		/* as in Segment, of the events table */
	uint32 examined;
	bool repeats_ended; /* the last repeat of some segment has gone */
	uint32 watched;		/* value of changes when partitions were last watched */
	uint32 watched_now; /* the same, once the open transaction commits */
	bool leaves_unwatched;
} SegmentMap;

/* Lookups in the indexes of segments, open until the transaction ends. */
typedef struct SegmentProbes SegmentProbes;

/* in apply/segment.c */
extern SegmentMap *segment_map_create(Oid table, const IdentityColumns *columns,
									  const IdentityHasher *hasher, MemoryContext context);
extern void segment_map_invalidate(SegmentMap *map, Oid relation);
extern bool segment_map_refresh(SegmentMap *map);
extern Segment *segment_find(const SegmentMap *map, const Datum *values);
extern Segment *segment_of(const SegmentMap *map, const Datum *values);

/* in apply/segment_read.c */
extern void segment_read(const SegmentMap *map, Segment *segment, Snapshot snapshot);
extern void segment_add_row(const SegmentMap *map, Segment *segment, const Identity *identity);
extern void segment_remove_row(SegmentMap *map, Segment *segment, const Identity *identity);
extern void segment_forget(Segment *segment);
extern int64 segment_bytes(const Segment *segment);

/* in apply/segment_follow.c */
extern void segment_map_follow(SegmentMap *map, int32 stream_id, EditTimes *times);
extern void segment_map_followed(SegmentMap *map);
extern void segment_map_not_followed(SegmentMap *map);

/* in apply/segment_watch.c */
extern bool segment_watch(Oid relation);
extern void segment_map_watch_partitions(SegmentMap *map, EditTimes *times);
extern void segment_map_watch(SegmentMap *map);

/* in apply/segment_probe.c */
extern SegmentProbes *segment_probes_create(const IdentityColumns *columns, MemoryContext context);
extern bool segment_probes_find(SegmentProbes *probes, Segment *segment, const Datum *values);
extern void segment_probes_close(SegmentProbes *probes);
extern void segment_probes_abandon(SegmentProbes *probes);

/* in apply/segment_bound.c */
extern int64 segment_map_identities(const SegmentMap *map);
extern int64 segment_map_bytes(const SegmentMap *map);
extern List *segment_map_beyond_bound(const SegmentMap *map, int64 bound_bytes);

#endif /* DETECT_SEGMENT_H */
