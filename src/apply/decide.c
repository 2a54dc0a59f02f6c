/*-------------------------------------------------------------------------
 *
 * decide.c
 *	  Each element of a piece of a batch gets its one outcome.
 *
 * Dedup comes before the query, in staged order; but only accepted identities
 * are known.  So an element whose identity an earlier one of the same piece
 * has taken is a duplicate only as long as that earlier one is not filtered or
 * rejected: when some are, the duplicates are looked at again, and those whose
 * identity has become free are tried in another round.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/table.h"
#include "apply/batch.h"
#include "apply/partition.h"
#include "fault_point.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

/* Events further ahead than this are a producer's mistake. */
#define FUTURE_LIMIT_HOURS 24

/* The elements of a piece by what is to be done with them. */
typedef struct Piece
{
	const Stream *stream;
	Dedup *dedup;
	EventTimes times;
	AttrNumber time_attnum;	 /* of the event time in the staging table, or 0 */
	PartitionRanges *ranges; /* looked up when they are asked for */
	Element **candidates;
	int ncandidates;
	Element **duplicates;
	int nduplicates;
} Piece;

/* What is known against an element, kept as long as the batch. */
static void
reject(Batch *batch, Element *element, int sqlstate, const char *reason)
{
	element->sqlstate = sqlstate;
	element->stage = "check";
	element->reason = MemoryContextStrdup(GetMemoryChunkContext(batch), reason);
	element->outcome = OUTCOME_DEAD_LETTER;
}

/*
 * Which event times are accepted now.
 */
EventTimes
event_times(const Stream *stream, TimestampTz now)
{
	EventTimes times = {.oldest = DT_NOBEGIN, .newest = now + FUTURE_LIMIT_HOURS * USECS_PER_HOUR};

	if (stream->retention)
		times.oldest = DatumGetTimestampTz(
			DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(now),
								IntervalPGetDatum(stream->retention)));
	return times;
}

/* Whether an element needs no partition: its event time is missing, expired or
 * too far ahead. */
static bool
is_out_of_range(const Element *element, const EventTimes *times)
{
	return element->sqlstate != 0 || TIMESTAMP_NOT_FINITE(element->event_time) ||
		   element->event_time < times->oldest || element->event_time > times->newest;
}

/*
 * The event times of a batch that partitions are made for; *ntimes is how many.
 */
TimestampTz *
batch_times_to_cover(const Stream *stream, const Batch *batch, int *ntimes)
{
	TimestampTz *times = palloc(Max(batch->count, 1) * sizeof(TimestampTz));
	EventTimes accepted = event_times(stream, batch->now);

	*ntimes = 0;
	for (int i = 0; i < batch->count; i++)
	{
		if (!is_out_of_range(&batch->elements[i], &accepted))
			times[(*ntimes)++] = batch->elements[i].event_time;
	}
	return times;
}

/* The identity of an element; false when a column of it is NULL. */
static bool
take_identity(Piece *piece, Batch *batch, Element *element)
{
	const AttrNumber *attnums;
	int count = dedup_columns(piece->dedup, &attnums);
	Datum values[INDEX_MAX_KEYS];

	for (int i = 0; i < count; i++)
	{
		if (element->nulls[attnums[i] - 1])
		{
			reject(batch, element, ERRCODE_NOT_NULL_VIOLATION,
				   psprintf("column \"%s\", which is part of the identity, is null",
							get_attname(piece->stream->staging_table, attnums[i], false)));
			return false;
		}
		values[i] = element->values[attnums[i] - 1];
	}
	element->has_identity = count > 0;
	if (count > 0)
		element->identity = dedup_identity(piece->dedup, values);
	return true;
}

/* The values of an element's identity columns. */
static void
identity_values(Dedup *dedup, const Element *element, Datum *values)
{
	const AttrNumber *attnums;
	int count = dedup_columns(dedup, &attnums);

	for (int i = 0; i < count; i++)
		values[i] = element->values[attnums[i] - 1];
}

/* Claim an element's identity; false when it is taken. */
static bool
claim_identity(Dedup *dedup, Element *element)
{
	Datum values[INDEX_MAX_KEYS];

	if (!element->has_identity)
		return true;
	identity_values(dedup, element, values);
	if (dedup_is_known(dedup, &element->identity, values))
		return false;
	dedup_remember(dedup, &element->identity, values);
	return true;
}

/*
 * Let go of the identity that an element has claimed and made no event of.
 */
void
element_release_identity(Dedup *dedup, const Element *element)
{
	Datum values[INDEX_MAX_KEYS];

	if (!element->has_identity)
		return;
	identity_values(dedup, element, values);
	dedup_forget(dedup, &element->identity, values);
}

static bool
has_event_time(const Piece *piece, const Element *element)
{
	return piece->time_attnum != 0 && !element->nulls[piece->time_attnum - 1];
}

/* Whether some partition takes an element whose event time is null or
 * -infinity: none is ever made for it. */
static bool
has_partition(Piece *piece, const Element *element)
{
	if (element->event_time != DT_NOBEGIN || !partition_is_by_event_time(piece->stream))
		return true;
	if (piece->ranges == NULL)
	{
		Relation table = table_open(piece->stream->events_table, AccessShareLock);

		piece->ranges = partition_ranges(table);
		table_close(table, NoLock);
	}
	return OidIsValid(piece->ranges->default_partition) ||
		   (has_event_time(piece, element) && partition_range_of(piece->ranges, DT_NOBEGIN) >= 0);
}

/* Decide what can be decided without the query, and sort the rest. */
static void
sort_element(Piece *piece, Batch *batch, Element *element)
{
	if (element->is_gone || element->is_void)
		return;
	if (element->sqlstate != 0)
		element->outcome = OUTCOME_DEAD_LETTER;
	else if (!take_identity(piece, batch, element))
		/* rejected */;
	else if (!has_partition(piece, element))
		reject(batch, element, ERRCODE_DATETIME_FIELD_OVERFLOW,
			   "event time is null or -infinity, and no partition takes it");
	else if (has_event_time(piece, element) && element->event_time > piece->times.newest)
		reject(batch, element, ERRCODE_DATETIME_FIELD_OVERFLOW,
			   psprintf("event time %s is more than %d hours in the future",
						timestamptz_to_str(element->event_time), FUTURE_LIMIT_HOURS));
	else if (has_event_time(piece, element) && element->event_time < piece->times.oldest)
		element->outcome = OUTCOME_EXPIRED;
	else if (element->is_known || !claim_identity(piece->dedup, element))
	{
		element->outcome = OUTCOME_DUPLICATE;
		piece->duplicates[piece->nduplicates++] = element;
	}
	else
		piece->candidates[piece->ncandidates++] = element;
}

/* Free the identities of candidates that became no event; how many. */
static int
release_unaccepted(Piece *piece)
{
	int released = 0;

	for (int i = 0; i < piece->ncandidates; i++)
	{
		if (piece->candidates[i]->outcome == OUTCOME_ACCEPTED)
			continue;
		element_release_identity(piece->dedup, piece->candidates[i]);
		released++;
	}
	return released;
}

/* Duplicates whose identity has become free are the next candidates. */
static void
reconsider_duplicates(Piece *piece)
{
	int kept = 0;

	piece->ncandidates = 0;
	for (int i = 0; i < piece->nduplicates; i++)
	{
		Element *element = piece->duplicates[i];

		if (!element->is_known && claim_identity(piece->dedup, element))
			piece->candidates[piece->ncandidates++] = element;
		else
			piece->duplicates[kept++] = element;
	}
	piece->nduplicates = kept;
}

/*
 * Decide the elements from .. to - 1 of a batch, in the applier's transaction:
 * accepted ones are in the events table and in the rollups afterwards.
 */
void
decide_piece(const Stream *stream, StagedReader *reader, Dedup *dedup, Events *events, Batch *batch,
			 int from, int to)
{
	Piece piece = {.stream = stream,
				   .dedup = dedup,
				   .times = event_times(stream, batch->now),
				   .time_attnum = stream->event_time
									  ? get_attnum(stream->staging_table, stream->event_time)
									  : 0,
				   .candidates = palloc(Max(to - from, 1) * sizeof(Element *)),
				   .duplicates = palloc(Max(to - from, 1) * sizeof(Element *))};
	instr_time since;

	INSTR_TIME_SET_CURRENT(since);
	for (int i = from; i < to; i++)
	{
		Element *element = &batch->elements[i];

		if (element->sqlstate == 0 && !element->is_converted)
		{
			MemoryContext old_context = MemoryContextSwitchTo(GetMemoryChunkContext(batch));

			events_stage = "decode";
			element_convert(reader, element);
			events_stage = "apply";
			MemoryContextSwitchTo(old_context);
		}
		sort_element(&piece, batch, element);
	}
	step_time(STEP_DEDUP, &since);
	FAULT_POINT("after_dedup");
	while (piece.ncandidates > 0)
	{
		events_apply(events, batch, piece.candidates, piece.ncandidates, dedup);
		if (release_unaccepted(&piece) == 0)
			break;
		reconsider_duplicates(&piece);
		if (piece.ncandidates > 0)
			events_keep_order(events, piece.candidates[0]);
	}
}
