/*-------------------------------------------------------------------------
 *
 * place_order.c
 *	  Ranks of places in the order of preference.
 *
 * Places keep the values that decide on their order, so that a place which comes
 * later finds its rank among them without any of their rows.  Ranks are numbers
 * without gaps: when places come, all are written again, which takes less time
 * than finding out which rows have changed.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place_rows.h"

/* Places that are being ordered. */
typedef struct Ordering
{
	const Places *places;
	SortSupport keys;
} Ordering;

static int
compare_places(const void *left, const void *right, void *arg)
{
	const Ordering *ordering = arg;
	int count = ordering->places->norder;
	const NullableDatum *a = &ordering->places->order[(Size) * (const uint32 *) left * count];
	const NullableDatum *b = &ordering->places->order[(Size) * (const uint32 *) right * count];

	for (int i = 0; i < count; i++)
	{
		int result = ApplySortComparator(a[i].value, a[i].isnull, b[i].value, b[i].isnull,
										 &ordering->keys[i]);

		if (result != 0)
			return result;
	}
	return 0;
}

/* How many of some ranked places come before another one. */
static int
count_before(const Ordering *ordering, const uint32 *ranked, int count, uint32 place)
{
	int low = 0;
	int high = count;

	while (low < high)
	{
		int middle = low + (high - low) / 2;

		if (compare_places(&ranked[middle], &place, (void *) ordering) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Append ranked places but for those that are gone. */
static void
append_ranked(Places *places, const uint32 *ranked, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (places->places[ranked[i]].shape != SHAPE_GONE)
			places->ranked[places->nranked++] = ranked[i];
	}
}

/* The places from one on, in order. */
static uint32 *
sort_added(const Ordering *ordering, int first, int count)
{
	uint32 *added = MemoryContextAllocHuge(CurrentMemoryContext, (count + 1) * sizeof(uint32));

	for (int i = 0; i < count; i++)
		added[i] = first + i;
	qsort_arg(added, count, sizeof(uint32), compare_places, (void *) ordering);
	return added;
}

/*
 * Give ranks to the places from one on, among those before it, which have theirs.
 * keys compare the values that decide.
 */
void
places_rank(Places *places, SortSupport keys, int first)
{
	Ordering ordering = {.places = places, .keys = keys};
	int nadded = places->count - first;
	uint32 *added = sort_added(&ordering, first, nadded);
	uint32 *before = places->ranked;
	int nbefore = places->nranked;
	int at = 0;

	if (nadded == 0)
		return;
	places->ranked =
		MemoryContextAllocHuge(places->context, (Size) (nbefore + nadded) * sizeof(uint32));
	places->nranked = 0;
	for (int i = 0; i < nadded; i++)
	{
		int step = count_before(&ordering, before + at, nbefore - at, added[i]);

		append_ranked(places, before + at, step);
		at += step;
		append_ranked(places, &added[i], 1);
	}
	if (before)
	{
		append_ranked(places, before + at, nbefore - at);
		pfree(before);
	}
	for (int i = 0; i < places->nranked; i++)
		places->places[places->ranked[i]].rank = i;
	pfree(added);
}
