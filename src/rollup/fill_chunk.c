/*-------------------------------------------------------------------------
 *
 * fill_chunk.c
 *	  Where the events of a rollup that is being filled are cut into chunks.
 *
 * Partitions only say where to cut; a cut anywhere would be right.  How many
 * events a chunk has follows from how long the one before took, in the same
 * process: the applier, whose stream waits for each, reads small ones, the
 * worker that fills beside it large ones.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include <math.h>

#include "access/table.h"
#include "apply/dedup.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "optimizer/plancat.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* How many events a chunk takes is known from the one before; at first few are. */
#define FIRST_CHUNK_EVENTS 50000

/* A partition with more events is read in several chunks.  Each reads all of it:
 * an event that is not of the chunk costs about so much of one that is. */
#define CHUNKS_PER_PARTITION 16
#define COST_OF_OTHER_EVENT	 0.2

/* Partitions with fewer are read in one. */
#define SMALL_CHUNK_EVENTS	 100000
#define PARTITIONS_PER_CHUNK 64

/* So many events are filled in the time that a chunk may take. */
static double chunk_events = FIRST_CHUNK_EVENTS;
static bool is_measured = false;

/* A partition, as far as it tells where to cut. */
typedef struct Slice
{
	Oid partition;
	TimestampTz from;
	TimestampTz until;
} Slice;

/* Order slices, newest first. */
static int
compare_slices(const void *left, const void *right)
{
	TimestampTz a = ((const Slice *) left)->from;
	TimestampTz b = ((const Slice *) right)->from;

	return a < b ? 1 : (a > b ? -1 : 0);
}

/* The partitions that begin below a frontier, newest first; NULL: all. */
static Slice *
slices_below(const Stream *stream, const TimestampTz *frontier, int *count)
{
	/* Unlocked: there may be more partitions than one may lock at once. */
	List *partitions = find_inheritance_children(stream->events_table, NoLock);
	Slice *slices = palloc((list_length(partitions) + 1) * sizeof(Slice));
	ListCell *cell;

	*count = 0;
	foreach(cell, partitions)
	{
		Slice *slice = &slices[*count];

		slice->partition = lfirst_oid(cell);
		if (!partition_bounds(slice->partition, &slice->from, &slice->until))
			continue;
		if (TIMESTAMP_NOT_FINITE(slice->from) || TIMESTAMP_NOT_FINITE(slice->until))
			continue;
		if (frontier == NULL || slice->from < *frontier)
			(*count)++;
	}
	qsort(slices, *count, sizeof(Slice), compare_slices);
	return slices;
}

/* How many events a partition holds, about; 0 if it has just been dropped. */
static double
estimate_events(Oid partition)
{
	Relation rel = try_table_open(partition, AccessShareLock);
	BlockNumber pages;
	double events = 0;
	double visible;

	if (rel == NULL)
		return 0;
	if (RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
		estimate_rel_size(rel, NULL, &pages, &events, &visible);
	else
		events = SMALL_CHUNK_EVENTS;
	table_close(rel, AccessShareLock);
	return events;
}

/* How many events of a partition lie below the frontier, if they are spread evenly. */
static double
events_below(const Slice *slice, double events, TimestampTz until)
{
	return events * ((double) until - (double) slice->from) /
		   ((double) slice->until - (double) slice->from);
}

/* Where the next chunk of a partition begins: what lies below the frontier is
 * divided evenly, into chunks that are small enough. */
static TimestampTz
cut_partition(const Slice *slice, double events, const TimestampTz *frontier)
{
	TimestampTz until = frontier ? Min(*frontier, slice->until) : slice->until;
	double most = Max(chunk_events, events / CHUNKS_PER_PARTITION);
	double parts = ceil(events_below(slice, events, until) / most);

	if (parts <= 1)
		return slice->from;
	return until - Max((TimestampTz) ((until - slice->from) / parts), 1);
}

/*
 * Find where the chunk below a frontier begins, or the newest one where that is
 * NULL; false when it is the last one, which has no lower end.
 */
bool
fill_next_chunk(const Stream *stream, const TimestampTz *frontier, TimestampTz *from)
{
	int count;
	Slice *slices = slices_below(stream, frontier, &count);
	double all_events = 0;
	int i;

	for (i = 0; i < count && i < PARTITIONS_PER_CHUNK; i++)
	{
		double events = estimate_events(slices[i].partition);

		all_events += events;
		if (i > 0 && all_events > Min(SMALL_CHUNK_EVENTS, chunk_events))
			return true;
		*from = cut_partition(&slices[i], events, frontier);
		if (*from != slices[i].from)
			return true;
	}
	return i > 0;
}

/*
 * Find where the newest partition ends; false when there is none.
 */
bool
fill_newest_end(const Stream *stream, TimestampTz *end)
{
	int count;
	Slice *slices = slices_below(stream, NULL, &count);

	if (count > 0)
		*end = slices[0].until;
	return count > 0;
}

/*
 * How many events have times of a range, about; all where their table is not
 * partitioned by time.
 */
double
fill_estimate_events(const Stream *stream, TimestampTz from, TimestampTz until)
{
	double events = 0;
	Slice *slices;
	int count;

	if (!fill_has_chunks(stream))
		return estimate_events(stream->events_table);
	slices = slices_below(stream, &until, &count);
	for (int i = 0; i < count; i++)
	{
		if (slices[i].until > from)
			events += estimate_events(slices[i].partition);
	}
	return events;
}

/*
 * Whether the events of a stream are read in chunks of time, or in one step.
 */
bool
fill_has_chunks(const Stream *stream)
{
	Oid type;

	if (stream->event_time == NULL || !partition_is_by_event_time(stream))
		return false;
	type = get_atttype(stream->events_table, get_attnum(stream->events_table, stream->event_time));
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID;
}

/*
 * A chunk of so many events was filled since then: the next one has as many as fit
 * into target_ms, if they are like them.
 */
void
fill_measure_chunk(const Stream *stream, const PartialSource *chunk, int64 events, instr_time since,
				   double target_ms)
{
	double took_ms = elapsed_ms(since);
	double read = fill_estimate_events(stream, chunk->has_from ? chunk->from : DT_NOBEGIN,
									   chunk->has_until ? chunk->until : DT_NOEND);
	double cost = events + Max(read - events, 0) * COST_OF_OTHER_EVENT;

	/* few events say little about many, and how many were read is an estimate */
	if (events >= chunk_events / 4 || took_ms > target_ms)
	{
		chunk_events = Max(cost * target_ms / Max(took_ms, 1), 1);
		is_measured = true;
	}
}

/*
 * What was measured says nothing of what follows: another rollup.
 */
void
fill_forget_chunks(void)
{
	chunk_events = FIRST_CHUNK_EVENTS;
	is_measured = false;
}

/*
 * A chunk may have so many events, as long as nothing is known of them.
 */
void
fill_expect_chunk(double events)
{
	if (!is_measured)
		chunk_events = events;
}

/*
 * No chunk shall have more events than so many.
 */
void
fill_limit_chunk(double events)
{
	chunk_events = Max(Min(chunk_events, events), 1);
}
