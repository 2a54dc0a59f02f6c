/*-------------------------------------------------------------------------
 *
 * place.c
 *	  One place: whether it contains a point, and how far it is.
 *
 * Whether a point lies in a polygon is asked of PostGIS by others, so here the
 * answer must be PostGIS's to the last bit.  That is not what GEOS says: for
 * polygons and a point ST_Contains computes, in plain double arithmetic, on
 * which side of each edge the point lies, and counts how often the ring winds
 * around it.  We take the same sign of the same products and go through rings
 * and polygons in its order.  (Only edges shorter than 1e-12 are another matter:
 * PostGIS ignores them from the second point on that it looks for in one place.)
 *
 * What makes it fast are boxes around 8 consecutive edges, and around 16 such
 * boxes.  A box that the point is not level with cannot matter.  Nor can one
 * that lies wholly to the left of it: rounding is monotonic, so that the sign
 * of an edge there is never the one that counts.  Most points need not even these,
 * because no edge comes near their cell of a grid (place_grid.c).
 *
 * Other shapes are PostGIS's own business: their bytes are kept.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <float.h>
#include <math.h>

#define BOXES_PER_COVER 16

/* ---------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------
 */

static void
edge_box_add(EdgeBox *box, const Point2 *point)
{
	box->xmin = Min(box->xmin, point->x);
	box->ymin = Min(box->ymin, point->y);
	box->xmax = Max(box->xmax, point->x);
	box->ymax = Max(box->ymax, point->y);
}

/* Make the boxes around the edges of a ring, and the covers around boxes. */
static void
ring_make_boxes(Places *places, Ring *ring)
{
	uint32 edges = Max(ring->count, 2) - 1;
	uint32 nboxes = (edges + EDGES_PER_BOX - 1) / EDGES_PER_BOX;
	uint32 ncovers = (nboxes + BOXES_PER_COVER - 1) / BOXES_PER_COVER;
	EdgeBox *boxes = places_alloc(places, (nboxes + ncovers) * sizeof(EdgeBox));
	EdgeBox *covers = boxes + nboxes;

	for (uint32 i = 0; i < nboxes + ncovers; i++)
		boxes[i] = (EdgeBox){INFINITY, INFINITY, -INFINITY, -INFINITY};
	for (uint32 i = 0; i < nboxes; i++)
	{
		uint32 last = Min((i + 1) * EDGES_PER_BOX, ring->count - 1);
		EdgeBox *cover = &covers[i / BOXES_PER_COVER];

		for (uint32 point = i * EDGES_PER_BOX; point <= last; point++)
			edge_box_add(&boxes[i], &ring->points[point]);
		edge_box_add(cover, &(Point2){boxes[i].xmin, boxes[i].ymin});
		edge_box_add(cover, &(Point2){boxes[i].xmax, boxes[i].ymax});
	}
	ring->boxes = boxes;
	ring->covers = covers;
}

/* Rings while they are read. */
typedef struct RingReader
{
	Places *places;
	const Serialized *serialized;
	const char *at;
	Ring *rings;
	uint32 nrings;
	uint32 capacity;
	bool is_finite;
	EdgeBox extent;
} RingReader;

/* Read the points of one ring, line or point; nothing if it is empty. */
static void
read_ring(RingReader *reader, uint32 count, bool begins_polygon)
{
	Ring *ring;
	Point2 *points;

	if (count == 0)
		return;
	if ((Size) (reader->serialized->end - reader->at) / sizeof(Point2) < count)
		serialized_points(reader->serialized, &reader->at, count, NULL); /* raises the error */
	points = places_alloc(reader->places, count * sizeof(Point2));
	serialized_points(reader->serialized, &reader->at, count, points);
	for (uint32 i = 0; i < count; i++)
	{
		reader->is_finite &= isfinite(points[i].x) && isfinite(points[i].y);
		edge_box_add(&reader->extent, &points[i]);
	}
	if (reader->nrings == reader->capacity)
	{
		Size bytes = (Size) reader->capacity * sizeof(Ring);

		reader->capacity = Max(4, reader->capacity * 2);
		reader->rings = reader->rings ? repalloc_huge(reader->rings, bytes * 2)
									  : palloc(reader->capacity * sizeof(Ring));
	}
	ring = &reader->rings[reader->nrings++];
	ring->points = points;
	ring->count = count;
	ring->begins_polygon = begins_polygon;
	ring->boxes = ring->covers = NULL;
	reader->places->vertices += count;
}

static void
read_polygon(RingReader *reader)
{
	uint32 nrings = serialized_uint32(reader->serialized, &reader->at);
	const char *counts = reader->at;

	/* the counts of all rings, padded to eight bytes, then their points */
	for (uint32 i = 0; i < nrings + nrings % 2; i++)
		(void) serialized_uint32(reader->serialized, &reader->at);
	for (uint32 i = 0; i < nrings; i++)
		read_ring(reader, serialized_uint32(reader->serialized, &counts), i == 0);
}

/* Read one geometry that is no collection. */
static void
read_simple(RingReader *reader, bool is_polygon)
{
	(void) serialized_uint32(reader->serialized, &reader->at); /* its type */
	if (is_polygon)
		read_polygon(reader);
	else
		read_ring(reader, serialized_uint32(reader->serialized, &reader->at), false);
}

/* Read the rings of a geometry that is not SHAPE_OTHER. */
static void
read_rings(RingReader *reader, bool is_polygon)
{
	uint32 count;

	reader->at = reader->serialized->body;
	if (reader->serialized->type < SERIALIZED_MULTIPOINT)
	{
		read_simple(reader, is_polygon);
		return;
	}
	reader->at += sizeof(uint32);
	count = serialized_uint32(reader->serialized, &reader->at);
	for (uint32 i = 0; i < count; i++)
		read_simple(reader, is_polygon);
}

/*
 * Read a geometry of the plane into a place: its shape, its rings and its box.
 * False when it is empty, or no shape of ours: the caller then asks PostGIS.
 */
bool
place_read(Places *places, const Serialized *serialized, Place *place, Box *box)
{
	RingReader reader = {.places = places,
						 .serialized = serialized,
						 .is_finite = true,
						 .extent = {INFINITY, INFINITY, -INFINITY, -INFINITY}};
	bool is_polygon =
		serialized->type == SERIALIZED_POLYGON || serialized->type == SERIALIZED_MULTIPOLYGON;

	if (serialized->geodetic || serialized->type > SERIALIZED_MULTIPOLYGON)
		return false;
	read_rings(&reader, is_polygon);
	if (reader.nrings == 0 || !reader.is_finite)
		return false;
	/* the box of the only one that has no more is that of its place */
	for (uint32 i = 0; i < reader.nrings; i++)
	{
		if (reader.nrings > 1 || reader.rings[i].count > EDGES_PER_BOX + 1)
			ring_make_boxes(places, &reader.rings[i]);
	}
	place->shape = is_polygon ? SHAPE_POLYGON : SHAPE_LINE;
	place->nrings = reader.nrings;
	place->rings = places_alloc(places, reader.nrings * sizeof(Ring));
	memcpy((void *) place->rings, reader.rings, reader.nrings * sizeof(Ring));
	pfree(reader.rings);
	place->grid = is_polygon ? grid_build(places, place, &reader.extent) : NULL;
	box_round(box, 0, reader.extent.xmin, reader.extent.xmax);
	box_round(box, 1, reader.extent.ymin, reader.extent.ymax);
	box_round(box, 2, 0, 0);
	return true;
}

/* ---------------------------------------------------------------------
 * Whether it contains a point
 * ---------------------------------------------------------------------
 */

/* Can edges in the ith of some boxes matter to a point?  Where there are none they
 * can. */
static inline bool
box_matters(const EdgeBox *boxes, uint32 i, double x, double y)
{
	return boxes == NULL || (y >= boxes[i].ymin && y <= boxes[i].ymax && x <= boxes[i].xmax);
}

/*
 * Go along some edges: true when the point is on one of them, else each that
 * winds around it changes winding.
 */
static inline bool
wind(const Point2 *from, uint32 edges, double x, double y, int *winding)
{
	for (uint32 i = 0; i < edges; i++, from++)
	{
		const Point2 *to = from + 1;
		double dx;
		double dy;
		double side;

		if ((y < from->y && y < to->y) || (y > from->y && y > to->y))
			continue;
		dx = to->x - from->x;
		dy = to->y - from->y;
		side = dx * (y - from->y) - (x - from->x) * dy;
		if (side == 0 && x >= Min(from->x, to->x) && x <= Max(from->x, to->x))
			return true;
		if (from->y <= y && y < to->y && side > 0)
			(*winding)++;
		else if (to->y <= y && y < from->y && side < 0)
			(*winding)--;
	}
	return false;
}

static Side
ring_side(const Ring *ring, double x, double y)
{
	uint32 edges = ring->count - 1;
	uint32 nboxes = (edges + EDGES_PER_BOX - 1) / EDGES_PER_BOX;
	int winding = 0;

	for (uint32 first = 0; first < nboxes; first += BOXES_PER_COVER)
	{
		uint32 end = Min(first + BOXES_PER_COVER, nboxes);

		if (!box_matters(ring->covers, first / BOXES_PER_COVER, x, y))
			continue;
		for (uint32 i = first; i < end; i++)
		{
			uint32 begin = i * EDGES_PER_BOX;

			if (box_matters(ring->boxes, i, x, y) &&
				wind(ring->points + begin, Min(EDGES_PER_BOX, edges - begin), x, y, &winding))
				return SIDE_BORDER;
		}
	}
	return winding == 0 ? SIDE_OUTSIDE : SIDE_INSIDE;
}

/*
 * Where a point lies to a place of SHAPE_POLYGON.
 */
Side
place_side(const Place *place, double x, double y)
{
	uint32 i = 0;
	Side decided;

	if (place->grid && grid_side(place->grid, x, y, &decided))
		return decided;
	while (i < place->nrings)
	{
		Side side = ring_side(&place->rings[i++], x, y);

		if (side == SIDE_BORDER)
			return side;
		for (; i < place->nrings && !place->rings[i].begins_polygon; i++)
		{
			Side hole;

			if (side != SIDE_INSIDE)
				continue;
			hole = ring_side(&place->rings[i], x, y);
			if (hole == SIDE_BORDER)
				return hole;
			if (hole == SIDE_INSIDE)
				side = SIDE_OUTSIDE;
		}
		if (side == SIDE_INSIDE)
			return side;
	}
	return SIDE_OUTSIDE;
}

/* ---------------------------------------------------------------------
 * How far it is
 * ---------------------------------------------------------------------
 */

static inline double
square(double value)
{
	return value * value;
}

/* Is the ith of some boxes nearer than that?  Where there are none it may be. */
static inline bool
box_is_nearer(const EdgeBox *boxes, uint32 i, double x, double y, double nearest2)
{
	const EdgeBox *box = boxes + i;

	return boxes == NULL || square(Max(Max(box->xmin - x, x - box->xmax), 0)) +
									square(Max(Max(box->ymin - y, y - box->ymax), 0)) <=
								nearest2;
}

static inline double
edge_distance2(const Point2 *from, const Point2 *to, double x, double y)
{
	double dx = to->x - from->x;
	double dy = to->y - from->y;
	double length2 = dx * dx + dy * dy;
	double along = length2 > 0 ? ((x - from->x) * dx + (y - from->y) * dy) / length2 : 0;

	along = Min(Max(along, 0), 1);
	return square(from->x + along * dx - x) + square(from->y + along * dy - y);
}

static double
ring_distance2(const Ring *ring, double x, double y, double nearest2)
{
	uint32 edges = ring->count - 1;
	uint32 nboxes = (edges + EDGES_PER_BOX - 1) / EDGES_PER_BOX;

	if (edges == 0)
		return Min(nearest2, square(ring->points->x - x) + square(ring->points->y - y));
	for (uint32 i = 0; i < nboxes; i++)
	{
		uint32 end = Min((i + 1) * EDGES_PER_BOX, edges);

		if (i % BOXES_PER_COVER == 0 &&
			!box_is_nearer(ring->covers, i / BOXES_PER_COVER, x, y, nearest2))
		{
			i += BOXES_PER_COVER - 1;
			continue;
		}
		if (!box_is_nearer(ring->boxes, i, x, y, nearest2))
			continue;
		for (uint32 edge = i * EDGES_PER_BOX; edge < end; edge++)
			nearest2 =
				Min(nearest2, edge_distance2(&ring->points[edge], &ring->points[edge + 1], x, y));
	}
	return nearest2;
}

/*
 * The distance on the plane to a place that is not SHAPE_OTHER, in its own units;
 * INFINITY when it is not within the limit.  It is as exact as doubles make it, but
 * may differ from PostGIS's in the last bits.
 */
double
place_distance(const Place *place, double x, double y, double limit)
{
	double limit2 = limit * limit + DBL_MIN; /* the least is within a limit of 0 */
	double nearest2 = limit2;

	if (place->shape == SHAPE_POLYGON && place_side(place, x, y) != SIDE_OUTSIDE)
		return 0;
	for (uint32 i = 0; i < place->nrings; i++)
		nearest2 = ring_distance2(&place->rings[i], x, y, nearest2);
	return nearest2 < limit2 ? sqrt(nearest2) : INFINITY;
}
