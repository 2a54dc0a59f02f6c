/*-------------------------------------------------------------------------
 *
 * globe.c
 *	  Positions on the unit sphere, and what distances on the globe mean there.
 *
 * PostGIS keeps the boxes of geographies on the unit sphere, and orders by the
 * distance on a sphere, but decides ST_DWithin on the spheroid.  Bounds here are
 * wide enough for both.  Distances are those on its sphere, of points, lines and
 * rings as long as no edge goes far around the earth; PostGIS decides what is close.
 *
 * Whether a point lies in a polygon on the globe is left to PostGIS.  It counts how
 * often a line to some point outside crosses the rings, with tolerances where that
 * meets a vertex, so that its answer follows from all edges and from which point it
 * takes: nothing that could be had a second time, cheaper and equal.  But a point
 * beside the box of a polygon is in it for nobody; then the rings are all there is.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <math.h>

/* Of a half turn. */
#define DEGREES 180.0

/* Less than any radius of curvature of the earth, and less than the radius of
 * PostGIS's sphere by more than the flattening. */
#define SMALLEST_RADIUS_M 6330000.0

/* Of PostGIS's sphere for WGS 84: its axes, two to one. */
#define WGS84_SRID		4326
#define SPHERE_RADIUS_M ((2 * 6378137.0 + 6378137.0 * (1 - 1 / 298.257223563)) / 3)

/* An edge up to 120 degrees, by the square of its chord. */
#define LONGEST_CHORD2 3.0

/* What rounding may add to a chord: some times 2^-53, of positions and all that
 * is computed from them. */
#define CHORD_ROUNDING 1e-12

/*
 * Where on the unit sphere a longitude and a latitude in degrees lie.
 */
void
globe_position(double longitude, double latitude, double at[3])
{
	double lambda = M_PI * longitude / DEGREES;
	double phi = M_PI * latitude / DEGREES;

	at[0] = cos(phi) * cos(lambda);
	at[1] = cos(phi) * sin(lambda);
	at[2] = sin(phi);
}

/*
 * A chord of the unit sphere that is at least as long as a distance in metres.
 */
double
globe_chord(double distance_m)
{
	double angle = distance_m / SMALLEST_RADIUS_M;

	return CHORD_ROUNDING + (angle < M_PI ? 2 * sin(angle / 2) : 2);
}

/*
 * How far an arc of the unit sphere rises above its chord at most, from the square
 * of the chord; a little more for rounding.
 */
double
globe_rise(double square)
{
	return CHORD_ROUNDING + 1 - sqrt(Max(1 - square / 4, 0));
}

/* ---------------------------------------------------------------------
 * Arcs
 * ---------------------------------------------------------------------
 */

static inline void
subtract(const double a[3], const double b[3], double result[3])
{
	for (int axis = 0; axis < 3; axis++)
		result[axis] = a[axis] - b[axis];
}

static inline double
dot(const double a[3], const double b[3])
{
	return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static inline void
cross(const double a[3], const double b[3], double result[3])
{
	result[0] = a[1] * b[2] - a[2] * b[1];
	result[1] = a[2] * b[0] - a[0] * b[2];
	result[2] = a[0] * b[1] - a[1] * b[0];
}

static inline double
chord2(const double a[3], const double b[3])
{
	double difference[3];

	subtract(a, b, difference);
	return dot(difference, difference);
}

/* The box around some edges, and what they rise above their chords. */
static void
edges_box(const double (*from)[3], uint32 edges, Box *box)
{
	for (uint32 i = 0; i < Max(edges, 1); i++)
	{
		const double *to = from[edges == 0 ? 0 : i + 1];
		double rise = globe_rise(chord2(from[i], to));
		Box edge;

		for (int axis = 0; axis < 3; axis++)
			box_round(&edge, axis, Min(from[i][axis], to[axis]) - rise,
					  Max(from[i][axis], to[axis]) + rise);
		if (i == 0)
			*box = edge;
		else
			box_extend(box, &edge);
	}
}

/* Read one ring, line or point, and let the extent contain it; false when it is empty
 * or goes too far.  The box of one that is alone and has no more is that of its
 * place. */
static bool
read_arc(Places *places, const Serialized *serialized, const char **at, uint32 count, bool is_alone,
		 Arc *arc, Box *extent)
{
	uint32 edges = Max(count, 1) - 1;
	uint32 nboxes = Max((edges + EDGES_PER_BOX - 1) / EDGES_PER_BOX, 1);
	double(*positions)[3];
	Box *boxes = NULL;

	if (count == 0)
		return false;
	if ((Size) (serialized->end - *at) / sizeof(Point2) < count)
		serialized_points(serialized, at, count, NULL); /* raises the error */
	positions = places_alloc(places, count * sizeof(*positions));
	for (uint32 i = 0; i < count; i++)
	{
		Point2 point;

		serialized_points(serialized, at, 1, &point);
		globe_position(point.x, point.y, positions[i]);
		if (!isfinite(point.x) || !isfinite(point.y) ||
			(i > 0 && chord2(positions[i - 1], positions[i]) > LONGEST_CHORD2))
			return false;
	}
	if (!is_alone || nboxes > 1)
		boxes = places_alloc(places, nboxes * sizeof(Box));
	for (uint32 i = 0; i < nboxes; i++)
	{
		Box box;

		edges_box(&positions[i * EDGES_PER_BOX], Min(edges - i * EDGES_PER_BOX, EDGES_PER_BOX),
				  &box);
		box_extend(extent, &box);
		if (boxes)
			boxes[i] = box;
	}
	*arc = (Arc){(const double(*)[3]) positions, boxes, count};
	return true;
}

/* Arcs while they are read. */
typedef struct ArcReader
{
	Places *places;
	const Serialized *serialized;
	const char *at;
	Arc *arcs;
	uint32 narcs;
	uint32 capacity;
	Box extent;
} ArcReader;

/* Read one arc of so many positions. */
static bool
add_arc(ArcReader *reader, uint32 count, bool is_alone)
{
	if (reader->narcs == reader->capacity)
	{
		reader->capacity = Max(4, reader->capacity * 2);
		reader->arcs = reader->arcs
						   ? repalloc_huge(reader->arcs, (Size) reader->capacity * sizeof(Arc))
						   : palloc(reader->capacity * sizeof(Arc));
	}
	return read_arc(reader->places, reader->serialized, &reader->at, count, is_alone,
					&reader->arcs[reader->narcs++], &reader->extent);
}

/* Read the rings of a polygon: their counts, padded to eight bytes, then their
 * positions. */
static bool
add_rings(ArcReader *reader)
{
	uint32 nrings = serialized_uint32(reader->serialized, &reader->at);
	const char *counts = reader->at;

	for (uint32 i = 0; i < nrings + nrings % 2; i++)
		(void) serialized_uint32(reader->serialized, &reader->at);
	for (uint32 i = 0; i < nrings; i++)
	{
		if (!add_arc(reader, serialized_uint32(reader->serialized, &counts), false))
			return false;
	}
	return true;
}

/* Read one geometry that is no collection. */
static bool
add_simple(ArcReader *reader, bool is_area, bool is_alone)
{
	(void) serialized_uint32(reader->serialized, &reader->at); /* its type */
	return is_area ? add_rings(reader)
				   : add_arc(reader, serialized_uint32(reader->serialized, &reader->at), is_alone);
}

/* Read all arcs; false when one can't be. */
static bool
add_all(ArcReader *reader, bool is_area)
{
	uint32 count;

	reader->at = reader->serialized->body;
	if (reader->serialized->type < SERIALIZED_MULTIPOINT)
		return add_simple(reader, is_area, true);
	reader->at += sizeof(uint32);
	count = serialized_uint32(reader->serialized, &reader->at);
	for (uint32 i = 0; i < count; i++)
	{
		if (!add_simple(reader, is_area, count == 1))
			return false;
	}
	return true;
}

/*
 * Read a geometry on the globe into a place, and the box of its arcs, which for a
 * polygon is not all that it covers.  False when it is no shape of ours: the caller
 * then asks PostGIS.
 */
bool
globe_read(Places *places, const Serialized *serialized, Place *place, Box *box)
{
	ArcReader reader = {.places = places, .serialized = serialized, .extent = no_box};
	bool is_area =
		serialized->type == SERIALIZED_POLYGON || serialized->type == SERIALIZED_MULTIPOLYGON;

	if (!serialized->geodetic || serialized->srid != WGS84_SRID ||
		serialized->type > SERIALIZED_MULTIPOLYGON || (is_area && !serialized->has_box) ||
		!add_all(&reader, is_area) || reader.narcs == 0)
		return false;
	place->shape = is_area ? SHAPE_AREA : SHAPE_ARC;
	place->nrings = reader.narcs;
	place->arcs = places_alloc(places, reader.narcs * sizeof(Arc));
	memcpy((void *) place->arcs, reader.arcs, reader.narcs * sizeof(Arc));
	for (uint32 i = 0; i < reader.narcs; i++)
		places->vertices += reader.arcs[i].count;
	pfree(reader.arcs);
	*box = reader.extent;
	return true;
}

/*
 * Whether a place has arcs, and no rings.
 */
bool
globe_has(const Place *place)
{
	return place->shape == SHAPE_ARC || place->shape == SHAPE_AREA;
}

/* The square of the chord to the nearest point of an edge.  Differences come
 * first, because the positions of one town are nearly the same. */
static double
edge_chord2(const double from[3], const double to[3], const double at[3])
{
	double along[3];
	double from_at[3];
	double to_at[3];
	double normal[3];
	double after_from[3];
	double before_to[3];
	double normal2;
	double sine2;

	subtract(to, from, along);
	subtract(at, from, from_at);
	subtract(at, to, to_at);
	cross(from, along, normal);
	cross(from, from_at, after_from);
	cross(to_at, to, before_to);
	normal2 = dot(normal, normal);
	if (normal2 == 0 || dot(normal, after_from) < 0 || dot(normal, before_to) < 0)
		return Min(dot(from_at, from_at), dot(to_at, to_at));
	sine2 = Min(dot(normal, from_at) * dot(normal, from_at) / normal2, 1);
	return 2 * sine2 / (1 + sqrt(1 - sine2));
}

/* The square of the distance to a box, 0 within it. */
static inline double
box_distance2(const Box *box, const double at[3])
{
	double sum = 0;

	for (int axis = 0; axis < 3; axis++)
	{
		double outside = Max(Max(box->min[axis] - at[axis], at[axis] - box->max[axis]), 0);

		sum += outside * outside;
	}
	return sum;
}

static double
arc_chord2(const Arc *arc, const double at[3], double nearest2)
{
	uint32 edges = arc->count - 1;

	if (edges == 0)
		return Min(nearest2, chord2(arc->positions[0], at));
	for (uint32 i = 0; i < edges; i++)
	{
		if (i % EDGES_PER_BOX == 0 && arc->boxes &&
			box_distance2(&arc->boxes[i / EDGES_PER_BOX], at) > nearest2)
		{
			i += EDGES_PER_BOX - 1;
			continue;
		}
		nearest2 = Min(nearest2, edge_chord2(arc->positions[i], arc->positions[i + 1], at));
	}
	return nearest2;
}

/*
 * The distance on the sphere, in metres, from a position to the arcs of a place;
 * INFINITY when its chord is not within the limit.  PostGIS's may differ by what
 * nearest.c allows for.
 */
double
globe_distance(const Place *place, const double at[3], double limit)
{
	double limit2 = limit * limit;
	double nearest2 = limit2;

	for (uint32 i = 0; i < place->nrings; i++)
		nearest2 = arc_chord2(&place->arcs[i], at, nearest2);
	return nearest2 < limit2 ? SPHERE_RADIUS_M * 2 * asin(Min(sqrt(nearest2) / 2, 1)) : INFINITY;
}
