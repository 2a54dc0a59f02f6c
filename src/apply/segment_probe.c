/*-------------------------------------------------------------------------
 *
 * segment_probe.c
 *	  Lookups in the unique indexes of segments, within one transaction.
 *
 * An index is opened at its first lookup and stays open until the transaction
 * ends, whatever subtransactions come and go meanwhile: what a lookup holds
 * belongs to the top transaction.  All lookups see the same snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "apply/segment.h"

struct SegmentProbes
{
	const IdentityColumns *columns;
	Snapshot snapshot; /* NULL: none is open */
	List *segments;	   /* with open probes */
};

/*
 * Prepares lookups by these columns; none is open.  Allocates in the context.
 */
SegmentProbes *
segment_probes_create(const IdentityColumns *columns, MemoryContext context)
{
	SegmentProbes *probes = MemoryContextAllocZero(context, sizeof(SegmentProbes));

	probes->columns = columns;
	return probes;
}

/*
 * Gives back what lookups hold, before the transaction asks for it.
 */
void
segment_probes_close(SegmentProbes *probes)
{
	ResourceOwner owner = CurrentResourceOwner;
	ListCell *cell;

	CurrentResourceOwner = TopTransactionResourceOwner;
	foreach(cell, probes->segments)
	{
		Segment *segment = lfirst(cell);

		index_probe_close(segment->probe);
		segment->probe = NULL;
	}
	if (probes->snapshot != NULL)
		UnregisterSnapshotFromOwner(probes->snapshot, TopTransactionResourceOwner);
	CurrentResourceOwner = owner;
	probes->segments = NIL;
	probes->snapshot = NULL;
}

/*
 * Forgets lookups whose transaction takes everything back by itself.
 */
void
segment_probes_abandon(SegmentProbes *probes)
{
	ListCell *cell;

	foreach(cell, probes->segments)
		((Segment *) lfirst(cell))->probe = NULL;
	probes->segments = NIL;
	probes->snapshot = NULL;
}

/* Opens a segment's index until the transaction ends. */
static void
open_probe(SegmentProbes *probes, Segment *segment)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	if (probes->snapshot == NULL)
		probes->snapshot =
			RegisterSnapshotOnOwner(GetLatestSnapshot(), TopTransactionResourceOwner);
	segment->probe =
		index_probe_open(segment->relation, segment->index, probes->columns, probes->snapshot);
	probes->segments = lappend(probes->segments, segment);
	MemoryContextSwitchTo(old);
}

/*
 * Tells whether a row with these values is in the index of its segment.
 */
bool
segment_probes_find(SegmentProbes *probes, Segment *segment, const Datum *values)
{
	ResourceOwner owner = CurrentResourceOwner;
	bool found;

	/* Scans stay open, whatever subtransaction the caller is in. */
	CurrentResourceOwner = TopTransactionResourceOwner;
	if (segment->probe == NULL)
		open_probe(probes, segment);
	found = index_probe_finds(segment->probe, values);
	CurrentResourceOwner = owner;
	return found;
}
