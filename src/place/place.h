/*-------------------------------------------------------------------------
 *
 * place.h
 *	  The places of a locator in memory: shapes, and a tree over their boxes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_PLACE_H
#define DETECT_PLACE_H

#include "postgres.h"

#include "access/transam.h"
#include "storage/itemptr.h"
#include "storage/lock.h"
#include "utils/palloc.h"

/* ---------------------------------------------------------------------
 * in serialized.c: what PostGIS stores, read without PostGIS
 * ---------------------------------------------------------------------
 */

/* Types of geometries as PostGIS numbers them. */
#define SERIALIZED_POINT		1
#define SERIALIZED_LINE			2
#define SERIALIZED_POLYGON		3
#define SERIALIZED_MULTIPOINT	4
#define SERIALIZED_MULTILINE	5
#define SERIALIZED_MULTIPOLYGON 6

/* A serialized geometry or geography; body points into its bytes. */
typedef struct Serialized
{
	int32 srid;
	uint32 type;
	int dimensions; /* 2 to 4 */
	bool geodetic;
	bool has_box;
	float box[8]; /* as PostGIS orders it: minimum and maximum of each axis */
	const char *body;
	const char *end;
} Serialized;

/* A point of the plane, or a longitude and a latitude. */
typedef struct Point2
{
	double x;
	double y;
} Point2;

extern void serialized_read(const void *bytes, Serialized *serialized);
extern bool serialized_read_point(const Serialized *serialized, Point2 *point);
extern uint32 serialized_uint32(const Serialized *serialized, const char **at);
extern void
serialized_points(const Serialized *serialized, const char **at, uint32 count, Point2 *points);

/* ---------------------------------------------------------------------
 * in place.c: one place
 * ---------------------------------------------------------------------
 */

#define EDGES_PER_BOX 8

/* A rectangle around some consecutive edges of a ring. */
typedef struct EdgeBox
{
	double xmin;
	double ymin;
	double xmax;
	double ymax;
} EdgeBox;

/* A ring of a polygon, a line, or a point. */
typedef struct Ring
{
	const Point2 *points;
	const EdgeBox *boxes;  /* of EDGES_PER_BOX edges each, or NULL */
	const EdgeBox *covers; /* of BOXES_PER_COVER boxes each, or NULL */
	uint32 count;		   /* of points */
	bool begins_polygon;   /* else it is a hole in the polygon before it */
} Ring;

/* A box of the tree: rounded outwards.  On the plane the third axis is empty; on
 * the globe the axes are those of the unit sphere. */
typedef struct Box
{
	float min[3];
	float max[3];
} Box;

/* A ring, a line or a point on the globe, as positions on the unit sphere. */
typedef struct Arc
{
	const double (*positions)[3];
	const Box *boxes; /* of EDGES_PER_BOX edges each, or NULL */
	uint32 count;	  /* of positions */
} Arc;

/* Cells over a polygon, most of which no edge comes near: see place_grid.c. */
typedef struct Grid
{
	Point2 origin;
	Point2 cells_per_unit;
	int size; /* in cells, of either axis */
	uint8 cells[FLEXIBLE_ARRAY_MEMBER];
} Grid;

typedef enum Shape
{
	SHAPE_POLYGON, /* polygons: rings */
	SHAPE_LINE,	   /* lines and points: rings that bound nothing */
	SHAPE_ARC,	   /* the same on the globe: arcs */
	SHAPE_AREA,	   /* polygons on the globe: arcs that bound something */
	SHAPE_OTHER,   /* PostGIS alone knows */
	SHAPE_GONE	   /* its row was deleted or changed */
} Shape;

typedef struct Place
{
	Datum key;
	union
	{
		const Ring *rings;
		const Arc *arcs;
	};
	const Grid *grid; /* of a polygon with many edges, else NULL */
	uint32 nrings;	  /* or arcs */
	Shape shape;
	Datum geometry; /* 0 unless PostGIS must be asked */
	int rank;		/* the least is preferred */
} Place;

/* Where a point lies. */
typedef enum Side
{
	SIDE_OUTSIDE = -1,
	SIDE_BORDER = 0,
	SIDE_INSIDE = 1
} Side;

typedef struct Places Places;

extern bool place_read(Places *places, const Serialized *serialized, Place *place, Box *box);
extern Side place_side(const Place *place, double x, double y);
extern double place_distance(const Place *place, double x, double y, double limit);

/* ---------------------------------------------------------------------
 * in place_grid.c: where most points of a polygon are decided
 * ---------------------------------------------------------------------
 */
extern Grid *grid_build(Places *places, const Place *place, const EdgeBox *extent);
extern bool grid_side(const Grid *grid, double x, double y, Side *side);

/* ---------------------------------------------------------------------
 * in globe.c: distances on the globe
 * ---------------------------------------------------------------------
 */
extern void globe_position(double longitude, double latitude, double at[3]);
extern double globe_chord(double distance_m);
extern double globe_rise(double square);
extern bool globe_read(Places *places, const Serialized *serialized, Place *place, Box *box);
extern bool globe_has(const Place *place);
extern double globe_distance(const Place *place, const double at[3], double limit);

/* ---------------------------------------------------------------------
 * in places.c: all places of a locator
 * ---------------------------------------------------------------------
 */
#define BOXES_PER_NODE 16
#define TREE_LEVELS	   10

/* A box and its place. */
typedef struct Tile
{
	Box box;
	uint32 place;
} Tile;

/* Some boxes that are neighbours; those that are missing are empty. */
typedef struct TreeNode
{
	struct
	{
		float min[BOXES_PER_NODE];
		float max[BOXES_PER_NODE];
	} axes[3];
} TreeNode;

/* A packed tree: level 0 has a box for each place, each level above one for each
 * node of the level below; the last level has one node. */
typedef struct Tree
{
	int levels;					   /* 0: no places */
	int level_counts[TREE_LEVELS]; /* of boxes */
	TreeNode *level_nodes[TREE_LEVELS];
	uint32 *order; /* of level 0: which place */
} Tree;

/* A version of a row of the place table: see place_rows.c. */
typedef struct RowVersion
{
	ItemPointerData tid;
	uint16 member; /* of Places.members */
	TransactionId xmin;
	int32 place; /* NO_PLACE: the row is none */
} RowVersion;

#define NO_PLACE (-1)

/* The place table, or one of its partitions, as its rows were read. */
typedef struct RowMember
{
	Oid relid;
	Oid relfilenode;
} RowMember;

struct Places
{
	MemoryContext context; /* holds this struct and all it points to */
	int references;		   /* of statements, and of the locator */

	/* Which snapshots it answers for. */
	TransactionId horizon;		/* nothing at or above it was seen */
	LocalTransactionId only_in; /* this transaction alone, if valid */
	uint64 own_changes;			/* of that transaction, when built */
	Oid only_for;				/* this user alone, if valid */
	TimestampTz built_at;

	int count; /* of those that are gone too */
	int ngone; /* of these */
	int capacity;
	Place *places;
	int64 vertices;

	bool globe; /* boxes have three axes */
	Tree tree;	/* of the places that were there first */
	Tree later; /* of those that were added since */
	int ntiles; /* of later, or while the first tree is to be built */
	int tile_capacity;
	Tile *tiles;

	/* From which rows the places were made, in their physical order; NULL when
	 * they can only be made all again. */
	uint64 definition;
	FullTransactionId read_at;
	int nmembers;
	RowMember *members;
	int nversions;
	RowVersion *versions;

	/* The order of preference, of places that were read from rows. */
	int norder;			  /* values of each place that decide on it */
	NullableDatum *order; /* of all places, norder each */
	int nranked;
	uint32 *ranked; /* the preferred first */

	/* What was there before the first update. */
	int first_count;
	Size first_bytes;

	/* Where the next small thing goes, and what all of them take. */
	Size used_bytes;
	char *free;
	Size free_bytes;
	Size chunk_bytes;
};

extern Places *places_create(bool globe);
extern void *places_alloc(Places *places, Size bytes);
extern Datum places_copy(Places *places, Datum value, bool by_value, int length);
extern int places_add(Places *places, const Place *place, const Box *box);
extern void places_remove(Places *places, int index);
extern void places_finish(Places *places);
extern void places_begin_update(Places *places);
extern void places_finish_update(Places *places);
extern bool places_are_worn(const Places *places);
extern Size places_bytes(const Places *places);
extern void places_retain(Places *places);
extern void places_release(Places *places);

/* ---------------------------------------------------------------------
 * in place_tree.c: the tree over their boxes
 * ---------------------------------------------------------------------
 */
extern void tree_build(Places *places, Tree *tree);
extern void tree_free(Tree *tree);
extern const Box no_box;
extern void box_extend(Box *box, const Box *other);
extern void box_round(Box *box, int axis, double min, double max);

/* ---------------------------------------------------------------------
 * in place_walk.c: walks over that tree
 * ---------------------------------------------------------------------
 */

/* A walk over places whose box has a point. */
typedef struct PointWalk
{
	const Places *places;
	const Tree *tree;
	int axes;
	float below[3]; /* the point, rounded down */
	float above[3]; /* and up */
	int box;		/* of the place that was found last, on level 0 */
	int level;		/* of the node in hand */
	int nodes[TREE_LEVELS];
	uint32 boxes[TREE_LEVELS]; /* of these: a bit for each that is still to be looked into */
} PointWalk;

extern void point_walk_begin(PointWalk *walk, const Places *places, const double at[3]);
extern int point_walk_next(PointWalk *walk);
extern bool point_walk_box_contains(const PointWalk *walk, double x, double y);

/* A box that a walk has still to look into. */
typedef struct WalkBox
{
	float distance2;
	int level; /* 0: its place is wanted, else the node below it */
	int index;
} WalkBox;

/* A walk over places, the nearest boxes first, within a bound that may shrink. */
typedef struct Walk
{
	const Places *places;
	const Tree *tree;
	int axes;
	float below[3];	 /* the point, rounded down */
	float above[3];	 /* and up */
	float distance2; /* to the box of the place that was found last */
	int depth;
	WalkBox stack[TREE_LEVELS * BOXES_PER_NODE];
} Walk;

extern void walk_begin(Walk *walk, const Places *places, const double at[3]);
extern int walk_next(Walk *walk, double bound);

#endif /* DETECT_PLACE_H */
