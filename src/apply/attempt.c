/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  Finds the element that crashes the server, and has the stream pause there.
 *
 * The applier notes what it is about to apply (attempt_file.c), and that this
 * is over.  If the next applier finds a note that is still open, its server has
 * crashed in that piece: all elements of it are suspects, and each of them is
 * tried alone, and noted alone.  So the next crash accuses one element.  It is
 * tried again, since somebody may just have killed the process; after the second
 * crash it is not, and the stream pauses.
 *
 * After the crash the same elements come in other batches, mixed with others:
 * suspects are therefore a range in each partition, and last until something
 * beyond it comes.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/attempt_internal.h"
#include "apply/dead_letter.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

struct Attempt
{
	const Stream *stream;
	MemoryContext context;
	AttemptNote *note; /* as it is written, or will be */
	int allocated;	   /* ranges that it has room for */
};

/* ---------------------------------------------------------------------
 * Positions
 * ---------------------------------------------------------------------
 */

/* What is counted up where the element comes from. */
static int64
element_number(const Batch *batch, const Element *element)
{
	switch (batch->source)
	{
		case SOURCE_KAFKA:
			return element->offset;
		case SOURCE_SQL:
			return (int64) ItemPointerGetBlockNumber(&element->sql_row->t_self) << 16 |
				   ItemPointerGetOffsetNumber(&element->sql_row->t_self);
		case SOURCE_LETTERS:
			return DatumGetInt64(element->letter->values[LETTER_ID]);
	}
	return 0;
}

static AttemptPosition
element_position(const Batch *batch, const Element *element)
{
	AttemptPosition position = {.source = batch->source,
								.number = element_number(batch, element),
								.element = element->element};

	if (batch->source == SOURCE_KAFKA)
	{
		const char *topic = element->progress->topic;

		position.partition = element->progress->partition;
		position.topic = hash_bytes_extended((const unsigned char *) topic, strlen(topic), 0);
	}
	return position;
}

static bool
same_partition(const AttemptPosition *a, const AttemptPosition *b)
{
	return a->source == b->source && a->partition == b->partition && a->topic == b->topic;
}

static bool
is_accused(const Attempt *attempt, const AttemptPosition *position)
{
	return attempt->note->crashes > 0 &&
		   memcmp(&attempt->note->accused, position, sizeof(AttemptPosition)) == 0;
}

/* ---------------------------------------------------------------------
 * Ranges
 * ---------------------------------------------------------------------
 */

/* The range of a partition among those from first on, added if it is missing. */
static AttemptPosition *
find_range(Attempt *attempt, const AttemptPosition *position, int first)
{
	AttemptNote *note = attempt->note;

	for (int i = first; i < note->nranges; i++)
	{
		if (same_partition(&note->ranges[i], position))
			return &note->ranges[i];
	}
	if (note->nranges == attempt->allocated)
	{
		attempt->allocated *= 2;
		note = attempt->note = repalloc(note, offsetof(AttemptNote, ranges) +
												  attempt->allocated * sizeof(AttemptPosition));
	}
	note->ranges[note->nranges] = *position;
	return &note->ranges[note->nranges++];
}

/* Add the elements of a piece to the ranges after those of the suspects. */
static void
add_piece(Attempt *attempt, const Batch *batch, int from, int to)
{
	const Progress *progress = NULL;
	AttemptPosition *range = NULL;

	for (int i = from; i < to; i++)
	{
		const Element *element = &batch->elements[i];

		if (element->progress != progress)
		{
			AttemptPosition position = element_position(batch, element);

			range = find_range(attempt, &position, attempt->note->nsuspects);
			progress = element->progress;
		}
		range->number = Max(range->number, element_number(batch, element));
	}
}

/* Make suspects of the ranges of an attempt. */
static void
suspect_ranges(Attempt *attempt)
{
	int nsuspects = attempt->note->nsuspects;
	int nranges = attempt->note->nranges;

	attempt->note->nranges = nsuspects;
	for (int i = nsuspects; i < nranges; i++)
	{
		AttemptPosition found = attempt->note->ranges[i];
		AttemptPosition *suspects = find_range(attempt, &found, 0);

		suspects->number = Max(suspects->number, found.number);
	}
	attempt->note->nsuspects = attempt->note->nranges;
}

/* Suspect a range no more. */
static void
acquit(Attempt *attempt, int i)
{
	AttemptNote *note = attempt->note;

	note->ranges[i] = note->ranges[--note->nsuspects];
	note->nranges = note->nsuspects;
}

/* Whether an element is to be tried alone.  Elements of a partition come in
 * order: what lies beyond the suspects ends their range. */
static bool
is_suspect(Attempt *attempt, const AttemptPosition *position)
{
	AttemptNote *note = attempt->note;

	for (int i = 0; i < note->nsuspects; i++)
	{
		if (!same_partition(&note->ranges[i], position))
			continue;
		if (position->number <= note->ranges[i].number)
			return true;
		acquit(attempt, i);
		break;
	}
	return is_accused(attempt, position);
}

/* ---------------------------------------------------------------------
 * What is done about an element that has crashed the server twice
 * ---------------------------------------------------------------------
 */

/* How to name an element to a human. */
static char *
element_name(const Stream *stream, const Batch *batch, const Element *element)
{
	if (batch->source == SOURCE_SQL)
		return psprintf("row (%u,%u) of \"" DETECT_STAGING_SCHEMA ".%s\"",
						ItemPointerGetBlockNumber(&element->sql_row->t_self),
						ItemPointerGetOffsetNumber(&element->sql_row->t_self), stream->name);
	if (batch->source == SOURCE_LETTERS)
		return psprintf("dead letter %lld", (long long) element_number(batch, element));
	return psprintf("element %d of the message at offset %lld of topic \"%s\", partition %d,",
					element->element, (long long) element->offset, element->progress->topic,
					element->progress->partition);
}

/* Raise the error that pauses the stream. */
static void
refuse(const Stream *stream, const Batch *batch, const Element *element)
{
	const char *name = quote_literal_cstr(stream->name);

	ereport(ERROR,
			(errcode(ERRCODE_ELEMENT_CRASHES_SERVER),
			 errmsg("%s has crashed the server", element_name(stream, batch, element)),
			 errhint("Call detect.resume(%s, reject => true) to keep it as a dead letter, or "
					 "mend the cause and call detect.resume(%s).",
					 name, name)));
}

/* Have the element become a dead letter without being tried. */
static void
reject(Element *element)
{
	element->sqlstate = ERRCODE_ELEMENT_CRASHES_SERVER;
	element->stage = "apply";
	element->reason = "the server has crashed when it was applied";
}

/* ---------------------------------------------------------------------
 * For the applier
 * ---------------------------------------------------------------------
 */

/* Draw the conclusion from what the last applier has noted. */
static void
conclude(Attempt *attempt)
{
	AttemptNote *note = attempt->note;

	if (note->state != ATTEMPT_OPEN)
	{
		/* the stream was paused and goes on: one more try, unless it is refused */
		if (note->crashes >= CRASHES_TO_PAUSE && !note->rejects)
			note->crashes = CRASHES_TO_PAUSE - 1;
		note->nranges = note->nsuspects;
		return;
	}
	ereport(LOG, (errmsg("the server crashed while stream \"%s\" was being applied; its elements "
						 "are now tried one by one",
						 attempt->stream->name)));
	if (!note->is_single)
	{
		suspect_ranges(attempt);
		return;
	}
	if (!is_accused(attempt, &note->single))
		note->crashes = 0;
	note->accused = note->single;
	note->crashes++;
}

/*
 * What the applier of a stream keeps of its attempts, with what is known of
 * those of its predecessor.  It lives in context.
 */
Attempt *
attempt_create(const Stream *stream, MemoryContext context)
{
	Attempt *attempt = MemoryContextAllocZero(context, sizeof(Attempt));
	AttemptNote *found = attempt_file_read(stream);

	attempt->stream = stream;
	attempt->context = context;
	attempt->allocated = found ? Max(found->nranges, 16) : 16;
	attempt->note = MemoryContextAllocZero(
		context, offsetof(AttemptNote, ranges) + attempt->allocated * sizeof(AttemptPosition));
	attempt->note->staging_table = stream->staging_table;
	if (found)
	{
		memcpy(attempt->note, found,
			   offsetof(AttemptNote, ranges) + found->nranges * sizeof(AttemptPosition));
		conclude(attempt);
		pfree(found);
	}
	attempt_file_open(stream);
	attempt_file_write(attempt->note, ATTEMPT_OVER);
	return attempt;
}

/*
 * How far a piece may go that begins with element from, at most to: a suspect
 * is alone.  Raises an error where the stream must pause.
 */
int
attempt_limit(Attempt *attempt, Batch *batch, int from, int to)
{
	for (int i = from; i < to; i++)
	{
		AttemptPosition position;

		if (attempt->note->nsuspects == 0 && attempt->note->crashes == 0)
			return to;
		position = element_position(batch, &batch->elements[i]);
		if (!is_suspect(attempt, &position))
			continue;
		if (i > from)
			return i;
		if (is_accused(attempt, &position) && attempt->note->crashes >= CRASHES_TO_PAUSE)
		{
			if (!attempt->note->rejects)
				refuse(attempt->stream, batch, &batch->elements[i]);
			reject(&batch->elements[i]);
		}
		return from + 1;
	}
	return to;
}

/*
 * Note that a piece is about to be applied.
 */
void
attempt_begin(Attempt *attempt, const Batch *batch, int from, int to)
{
	AttemptNote *note = attempt->note;
	AttemptPosition first = element_position(batch, &batch->elements[from]);

	note->is_single = is_suspect(attempt, &first);
	note->nranges = note->nsuspects;
	if (note->is_single)
		note->single = first;
	else
		add_piece(attempt, batch, from, to);
	attempt_file_write(attempt->note, ATTEMPT_OPEN);
}

/*
 * Note that it is over, and whether it is applied.
 */
void
attempt_end(Attempt *attempt, bool is_applied)
{
	AttemptNote *note = attempt->note;

	attempt_file_set_state(ATTEMPT_OVER);
	if (is_applied && note->is_single && is_accused(attempt, &note->single))
	{
		note->crashes = 0;
		note->rejects = false;
		attempt_file_write(note, ATTEMPT_OVER);
	}
}

/*
 * A whole batch is applied.  What SQL stages later, and letters that are retried
 * later, may have lower numbers than the suspects, and are none.
 */
void
attempt_batch_done(Attempt *attempt, const Batch *batch)
{
	if (batch->source == SOURCE_KAFKA || batch->is_cut)
		return;
	for (int i = attempt->note->nsuspects - 1; i >= 0; i--)
	{
		if (attempt->note->ranges[i].source == batch->source)
			acquit(attempt, i);
	}
}
