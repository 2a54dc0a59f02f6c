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

/* A partition, or a plain events table as a whole. */
typedef struct Segment
{
	Oid relation;
	Oid filenode;			 /* another one after TRUNCATE */
	Oid index;				 /* InvalidOid: in memory */
	IdentitySet *identities; /* NULL: indexed, or not loaded yet */
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
} SegmentMap;

/* in apply/segment.c */
extern SegmentMap *segment_map_create(Oid table, const IdentityColumns *columns,
									  const IdentityHasher *hasher, MemoryContext context);
extern void segment_map_invalidate(SegmentMap *map, Oid relation);
extern void segment_map_refresh(SegmentMap *map);
extern Segment *segment_of(const SegmentMap *map, const Datum *values);

#endif /* DETECT_SEGMENT_H */
