/*-------------------------------------------------------------------------
 *
 * segment_bound.c
 *	  How much memory identities take, and which segments must leave it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/pg_list.h"

#include "apply/segment.h"

/*
 * Number of identities held in memory.
 */
int64
segment_map_identities(const SegmentMap *map)
{
	int64 identities = 0;
	int i;

	for (i = 0; i < map->n; i++)
	{
		if (map->segments[i]->identities != NULL)
			identities += identity_set_count(map->segments[i]->identities);
	}
	return identities;
}

/*
 * Memory that they take.
 */
int64
segment_map_bytes(const SegmentMap *map)
{
	int64 bytes = 0;
	int i;

	for (i = 0; i < map->n; i++)
		bytes += segment_bytes(map->segments[i]);
	return bytes;
}

/* The largest segment in memory that is not listed yet, and of equal ones the
 * oldest; NULL if there is none. */
static Segment *
largest_unlisted(const SegmentMap *map)
{
	Segment *largest = NULL;
	int i;

	for (i = 0; i < map->n; i++)
	{
		Segment *segment = map->segments[i];

		if (segment->identities != NULL && !segment->listed &&
			(largest == NULL || segment_bytes(segment) > segment_bytes(largest)))
			largest = segment;
	}
	return largest;
}

/*
 * Lists the relations that must leave memory, for an index each, so that the
 * identities in it take no more than the bound.
 */
List *
segment_map_beyond_bound(const SegmentMap *map, int64 bound_bytes)
{
	List *relations = NIL;
	int64 bytes = segment_map_bytes(map);
	Segment *segment;
	int i;

	for (i = 0; i < map->n; i++)
		map->segments[i]->listed = false;
	while (bytes > bound_bytes && (segment = largest_unlisted(map)) != NULL)
	{
		segment->listed = true;
		bytes -= segment_bytes(segment);
		relations = lappend_oid(relations, segment->relation);
	}
	return relations;
}
