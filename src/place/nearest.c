/*-------------------------------------------------------------------------
 *
 * nearest.c
 *	  The nearest places to a point.
 *
 * The answer is that of ORDER BY place <-> point, key with ST_DWithin.  On the
 * plane we compute distances ourselves, which may differ from PostGIS's in the
 * last bits: so whatever is that close to the best, or to the bound, is kept,
 * and PostGIS is asked for these distances alone.  On the globe too, but what is
 * close is more there: PostGIS decides by cosines whether the nearest point of a
 * great circle lies on an edge, and cosines can't tell apart what is nearer than
 * some 0.3 m to the end of a short edge.  And where the point is in the box of a
 * polygon, only PostGIS knows whether it is in the polygon (globe.c).
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include <math.h>

#include "funcapi.h"
#include "miscadmin.h"

/* Relative to coordinates and distance: far more than rounding makes. */
#define CLOSE 1e-11

/* How far beside the end of an edge PostGIS may see it on the globe, in metres,
 * and what else it may err by: 1e-12 radians count as nothing there. */
#define CLOSE_END_M 0.5
#define CLOSE_M		2e-5
#define CLOSE_SHARE 1e-9

/* Nearly around the globe distances are less exact. */
#define FAR_M		15000000.0
#define CLOSE_FAR_M 10.0

/* Where the spheroid that bounds and the sphere that orders differ by less. */
#define FLATTENING 0.01

#define NEAREST_COLUMNS 2

#define MANY_NEAREST 1000 /* are kept in no order while places are looked at */

PG_FUNCTION_INFO_V1(detect_nearest);
PG_FUNCTION_INFO_V1(detect_nearest_xy);

/* A place that may be among the nearest. */
typedef struct NearPlace
{
	const Place *place; /* its rank, by key, decides between equal distances */
	double distance;
	bool is_exact; /* distance is PostGIS's */
} NearPlace;

typedef struct NearSearch
{
	Lookup *lookup;
	LookupPoint *point;
	bool globe;
	double within;
	double at[3]; /* where the point lies in the tree */
	int k;
	double bound;	  /* beyond which distance nothing matters any more */
	double box_bound; /* the same for what the tree knows */
	int count;
	int capacity;
	NearPlace *found; /* by distance */
} NearSearch;

static int
compare_near(const void *left, const void *right)
{
	const NearPlace *a = left;
	const NearPlace *b = right;

	if (a->distance != b->distance)
		return a->distance < b->distance ? -1 : 1;
	return a->place->rank - b->place->rank;
}

/* How much PostGIS's distance may differ but for ends of edges. */
static double
margin(const NearSearch *search, double distance)
{
	if (!search->globe)
		return CLOSE * (fabs(search->point->x) + fabs(search->point->y) + distance);
	return CLOSE_M + CLOSE_SHARE * distance + (distance > FAR_M ? CLOSE_FAR_M : 0);
}

/* How much PostGIS's distance is at least, where ours is this one; like highest
 * it never falls as the distance grows. */
static double
lowest(const NearSearch *search, double distance)
{
	double low = distance;

	if (search->globe)
		low = sqrt(Max(distance * distance - CLOSE_END_M * CLOSE_END_M, 0));
	return low - margin(search, distance);
}

/* And how much it is at most. */
static double
highest(const NearSearch *search, double distance)
{
	double high = distance;

	if (search->globe)
		high = sqrt(distance * distance + CLOSE_END_M * CLOSE_END_M);
	return high + margin(search, distance);
}

/* Set the bounds by what was found. */
static void
set_bounds(NearSearch *search)
{
	double within = search->within;
	double bound = INFINITY;
	double reach;

	if (search->count >= search->k)
		bound = highest(search, search->found[search->k - 1].distance);
	search->bound = Min(bound, search->globe ? within * (1 + FLATTENING) : within);
	reach = Min(bound, within);
	reach += 2 * margin(search, reach);
	search->box_bound =
		search->globe ? globe_chord(sqrt(reach * reach + CLOSE_END_M * CLOSE_END_M)) : reach;
}

/* Let go of those that can't be among the nearest any more. */
static void
let_go(NearSearch *search)
{
	set_bounds(search);
	while (search->count > search->k &&
		   lowest(search, search->found[search->count - 1].distance) > search->bound)
		search->count--;
}

/* Keep a place for now. */
static void
keep(NearSearch *search, const NearPlace *place)
{
	int at;

	if (search->count == search->capacity)
	{
		search->capacity = Max(8, search->capacity * 2);
		search->found = search->found ? repalloc_huge(search->found,
													  (Size) search->capacity * sizeof(NearPlace))
									  : palloc(search->capacity * sizeof(NearPlace));
	}
	/* where so many are wanted, it is cheaper to sort them now and then */
	if (search->k > MANY_NEAREST)
	{
		search->found[search->count++] = *place;
		if (search->count < 2 * (int64) search->k)
			return;
		qsort(search->found, search->count, sizeof(NearPlace), compare_near);
		let_go(search);
		return;
	}
	for (at = search->count++; at > 0 && compare_near(place, &search->found[at - 1]) < 0; at--)
		search->found[at] = search->found[at - 1];
	search->found[at] = *place;
	if (search->count >= search->k)
		let_go(search);
}

/* Whether a place on the globe is within the locator's distance. */
static bool
is_within(NearSearch *search, const NearPlace *near)
{
	double within = search->within;

	if (lowest(search, near->distance) > within * (1 + FLATTENING))
		return false;
	return highest(search, near->distance) < within * (1 - FLATTENING) ||
		   lookup_dwithin(search->lookup, near->place, search->point);
}

/* Look at one place; is_in_box tells that the point may be in it. */
static void
consider(NearSearch *search, int index, bool is_in_box)
{
	Lookup *lookup = search->lookup;
	const Place *place = &lookup->places->places[index];
	LookupPoint *point = search->point;
	NearPlace near = {.place = place};

	near.is_exact = place->shape == SHAPE_OTHER || (place->shape == SHAPE_AREA && is_in_box);
	if (near.is_exact)
		near.distance = lookup_distance(lookup, place, point);
	else if (search->globe)
		near.distance = globe_distance(place, search->at, search->box_bound);
	else
		near.distance = place_distance(place, point->x, point->y, search->box_bound);
	if (!isinf(near.distance) && lowest(search, near.distance) <= search->bound &&
		(!search->globe || is_within(search, &near)))
		keep(search, &near);
}

/* Have PostGIS decide what is too close to be sure of. */
static void
decide(NearSearch *search)
{
	int kept = 0;

	for (int i = 0; i < search->count; i++)
	{
		NearPlace near = search->found[i];
		const Place *place = near.place;

		if (!search->globe && highest(search, near.distance) >= search->within &&
			!lookup_dwithin(search->lookup, place, search->point))
			continue;
		if (!near.is_exact)
			near.distance = lookup_distance(search->lookup, place, search->point);
		search->found[kept++] = near;
	}
	search->count = kept;
	qsort(search->found, kept, sizeof(NearPlace), compare_near);
}

/*
 * The k nearest places within the locator's distance, the nearest first.  The
 * result is their number; distances are PostGIS's if they are wanted.
 */
int
nearest_find(Lookup *lookup, LookupPoint *point, int k, bool with_distance, Nearest **nearest)
{
	NearSearch search = {.lookup = lookup,
						 .point = point,
						 .globe = lookup->locator->globe,
						 .within = lookup->locator->within,
						 .at = {point->x, point->y, 0},
						 .k = k};
	Walk walk;
	int index;

	lookup->locator->stats.from_memory++;
	if (search.globe)
		globe_position(point->x, point->y, search.at);
	set_bounds(&search);
	walk_begin(&walk, lookup->places, search.at);
	while ((index = walk_next(&walk, search.box_bound)) != NO_PLACE)
	{
		CHECK_FOR_INTERRUPTS();
		consider(&search, index, walk.distance2 == 0);
	}
	/* one alone and well within the distance is right as it is */
	if (with_distance || search.count > 1 ||
		(search.count == 1 && !search.globe &&
		 highest(&search, search.found[0].distance) >= search.within))
		decide(&search);
	search.count = Min(search.count, k); /* ties were kept */
	*nearest = palloc((search.count + 1) * sizeof(Nearest));
	for (int i = 0; i < search.count; i++)
	{
		(*nearest)[i].key = search.found[i].place->key;
		(*nearest)[i].distance = search.found[i].distance;
	}
	return search.count;
}

/* ---------------------------------------------------------------------
 * SQL
 * ---------------------------------------------------------------------
 */

/* Raise an error unless the locator has a distance. */
static void
check_mode(const Locator *locator)
{
	if (locator->mode != LOCATOR_WITHIN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("locator \"%s\" has no distance", locator->name),
						errhint("Create it with within => … to find the nearest places.")));
}

/* Give the nearest places as rows; k is the last argument. */
static Datum
return_nearest(FunctionCallInfo fcinfo, bool has_xy)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int k = PG_ARGISNULL(PG_NARGS() - 1) ? INT_MAX : PG_GETARG_INT32(PG_NARGS() - 1);
	Lookup *lookup;
	LookupPoint point;
	Nearest *nearest;
	int count;

	InitMaterializedSRF(fcinfo, 0);
	if (k < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("k must not be negative"),
						errhint("Leave it out to get all places within the distance.")));
	if (PG_ARGISNULL(0) || k == 0)
		return (Datum) 0;
	lookup = lookup_begin(fcinfo, has_xy);
	check_mode(lookup->locator);
	if (!lookup_point(lookup, fcinfo, &point))
		return (Datum) 0;
	if (lookup->places == NULL || !point.is_point)
		count = lookup_query(lookup, &point, k == INT_MAX ? 0 : k, &nearest);
	else
		count = nearest_find(lookup, &point, k, true, &nearest);
	for (int i = 0; i < count; i++)
	{
		Datum values[NEAREST_COLUMNS] = {nearest[i].key, Float8GetDatum(nearest[i].distance)};
		bool nulls[NEAREST_COLUMNS] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * detect._nearest(locator, key, place, k): the k nearest places and their
 * distances.
 */
Datum
detect_nearest(PG_FUNCTION_ARGS)
{
	return return_nearest(fcinfo, false);
}

/*
 * detect._nearest(locator, key, x, y, k): the same for coordinates.
 */
Datum
detect_nearest_xy(PG_FUNCTION_ARGS)
{
	return return_nearest(fcinfo, true);
}
