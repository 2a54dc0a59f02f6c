/*-------------------------------------------------------------------------
 *
 * locate.c
 *	  From a point to the key of a place: what the typed functions call.
 *
 * A look-up walks over the places whose box has the point and asks each whether
 * it has it.  Each place has a rank in the order of preference, so that the one
 * of the least rank is the answer, and none behind it needs to be asked.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(detect_locate);
PG_FUNCTION_INFO_V1(detect_locate_xy);
PG_FUNCTION_INFO_V1(detect_locate_all);
PG_FUNCTION_INFO_V1(detect_locate_all_xy);

/* ---------------------------------------------------------------------
 * Contains, covers
 * ---------------------------------------------------------------------
 */

/* Whether the place that a walk has come to has the point. */
static inline bool
has_point(Lookup *lookup, const PointWalk *walk, const Place *place, LookupPoint *point)
{
	if (place->shape != SHAPE_POLYGON)
		return lookup_predicate(lookup, place, point);
	return place_side(place, point->x, point->y) >=
			   (lookup->locator->mode == LOCATOR_CONTAINS ? SIDE_INSIDE : SIDE_BORDER) &&
		   point_walk_box_contains(walk, point->x, point->y);
}

/* Begin to walk over the places that may have the point. */
static inline void
begin_walk(PointWalk *walk, const Places *places, const LookupPoint *point)
{
	double at[3] = {point->x, point->y, 0};

	if (places->globe)
		globe_position(point->x, point->y, at);
	point_walk_begin(walk, places, at);
}

/* The preferred place that has the point; NULL if there is none. */
static const Place *
find_first(Lookup *lookup, LookupPoint *point)
{
	PointWalk walk;
	const Place *first = NULL;
	int i;

	lookup->locator->stats.from_memory++;
	begin_walk(&walk, lookup->places, point);
	while ((i = point_walk_next(&walk)) != NO_PLACE)
	{
		const Place *place = &lookup->places->places[i];

		if ((first == NULL || place->rank < first->rank) && has_point(lookup, &walk, place, point))
			first = place;
	}
	return first;
}

static int
compare_rank(const void *left, const void *right)
{
	return (*(const Place *const *) left)->rank - (*(const Place *const *) right)->rank;
}

/* The keys of all places that have the point, the preferred first. */
static int
find_all(Lookup *lookup, LookupPoint *point, Datum **keys)
{
	PointWalk walk;
	int capacity = 8;
	int count = 0;
	const Place **found = palloc(capacity * sizeof(Place *));
	int i;

	lookup->locator->stats.from_memory++;
	begin_walk(&walk, lookup->places, point);
	while ((i = point_walk_next(&walk)) != NO_PLACE)
	{
		const Place *place = &lookup->places->places[i];

		if (!has_point(lookup, &walk, place, point))
			continue;
		if (count == capacity)
			found = repalloc(found, (capacity *= 2) * sizeof(Place *));
		found[count++] = place;
	}
	qsort(found, count, sizeof(Place *), compare_rank);
	*keys = palloc((count + 1) * sizeof(Datum));
	for (i = 0; i < count; i++)
		(*keys)[i] = found[i]->key;
	return count;
}

/* ---------------------------------------------------------------------
 * SQL
 * ---------------------------------------------------------------------
 */

/* The key of the place that a point belongs to. */
static Datum
locate(FunctionCallInfo fcinfo, bool has_xy)
{
	Lookup *lookup;
	const Locator *locator;
	LookupPoint point;
	Nearest *nearest;
	Datum key;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	lookup = lookup_begin(fcinfo, has_xy);
	locator = lookup->locator;
	if (!lookup_point(lookup, fcinfo, &point))
		PG_RETURN_NULL();
	if (lookup->places == NULL || !point.is_point)
	{
		if (lookup_query(lookup, &point, 1, &nearest) == 0)
			PG_RETURN_NULL();
		return nearest[0].key;
	}
	if (locator->mode == LOCATOR_WITHIN)
	{
		if (nearest_find(lookup, &point, 1, false, &nearest) == 0)
			PG_RETURN_NULL();
		key = nearest[0].key;
	}
	else
	{
		const Place *first = find_first(lookup, &point);

		if (first == NULL)
			PG_RETURN_NULL();
		key = first->key;
	}
	return datumCopy(key, locator->key_by_value, locator->key_length);
}

/*
 * detect._locate(locator, key, place): the key of the place, or NULL.
 */
Datum
detect_locate(PG_FUNCTION_ARGS)
{
	return locate(fcinfo, false);
}

/*
 * detect._locate(locator, key, x, y): the same for coordinates.
 */
Datum
detect_locate_xy(PG_FUNCTION_ARGS)
{
	return locate(fcinfo, true);
}

/* The keys of all places that have a point, as an array. */
static Datum
locate_all(FunctionCallInfo fcinfo, bool has_xy)
{
	Lookup *lookup;
	const Locator *locator;
	LookupPoint point;
	Nearest *nearest;
	Datum *keys;
	int count;
	char align;
	int16 length;
	bool by_value;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	lookup = lookup_begin(fcinfo, has_xy);
	locator = lookup->locator;
	if (!lookup_point(lookup, fcinfo, &point))
		return PointerGetDatum(construct_empty_array(locator->key_type));
	if (lookup->places != NULL && point.is_point && locator->mode != LOCATOR_WITHIN)
		count = find_all(lookup, &point, &keys);
	else
	{
		count = lookup->places == NULL || !point.is_point
					? lookup_query(lookup, &point, 0, &nearest)
					: nearest_find(lookup, &point, INT_MAX, false, &nearest);
		keys = palloc((count + 1) * sizeof(Datum));
		for (int i = 0; i < count; i++)
			keys[i] = nearest[i].key;
	}
	get_typlenbyvalalign(locator->key_type, &length, &by_value, &align);
	return PointerGetDatum(
		construct_array(keys, count, locator->key_type, length, by_value, align));
}

/*
 * detect._locate_all(locator, keys, place): the keys of all places that have
 * it, the preferred first; an empty array if none has.
 */
Datum
detect_locate_all(PG_FUNCTION_ARGS)
{
	return locate_all(fcinfo, false);
}

/*
 * detect._locate_all(locator, keys, x, y): the same for coordinates.
 */
Datum
detect_locate_all_xy(PG_FUNCTION_ARGS)
{
	return locate_all(fcinfo, true);
}
