/*-------------------------------------------------------------------------
 *
 * place_grid.c
 *	  A grid over a polygon: most of its cells lie inside or outside as a whole.
 *
 * A cell that no edge touches is on one side, which is found once; its points need
 * no edges.  That side must be what place_side would find for each of them, to the
 * last bit, so a cell is decided only if no edge comes nearer than a margin either.
 * That is enough: let an edge that is level with the point rise by dy and pass it
 * at a distance of d along the level.  What decides is the sign of
 *
 *	  side = dx * (y - from.y) - (x - from.x) * dy = +-d * dy
 *
 * and rounding adds to it at most some units of 2^-53 of |dx| * |y - from.y| +
 * |x - from.x| * |dy|, of which |y - from.y| is no more than |dy|, because the edge
 * is level with the point, and |dx| and |x - from.x| are no more than the width of
 * the polygon.  So a margin of a millionth of a cell keeps the sign by far, and that
 * of the cell in which a point is found.  What could underflow or overflow on the
 * way gets no grid.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <math.h>

/* With fewer vertices edges are looked at as fast. */
#define FEWEST_VERTICES 10

/* A grid has some cells for each vertex, as far as that goes. */
#define CELLS_PER_VERTEX 3
#define SMALLEST_SIZE	 8
#define LARGEST_SIZE	 64

/* How near an edge may come to a cell that is decided, in cells. */
#define MARGIN 1e-6

/* Products of what lies between them are numbers with all their digits. */
#define SHORTEST 1e-100
#define LONGEST	 1e100

/* A cell is two bits. */
#define CELL_BITS	   2
#define CELL_MASK	   3
#define CELLS_PER_BYTE 4

typedef enum Cell
{
	CELL_NEAR_EDGE, /* edges decide */
	CELL_OUTSIDE,
	CELL_INSIDE
} Cell;

/*
 * Find out where a point lies by the grid alone; false when edges decide.
 */
bool
grid_side(const Grid *grid, double x, double y, Side *side)
{
	double column = (x - grid->origin.x) * grid->cells_per_unit.x;
	double row = (y - grid->origin.y) * grid->cells_per_unit.y;
	int at;
	int cell;

	if (!(column >= 0 && column < grid->size && row >= 0 && row < grid->size))
		return false;
	at = (int) row * grid->size + (int) column;
	cell = grid->cells[at / CELLS_PER_BYTE] >> (at % CELLS_PER_BYTE * CELL_BITS) & CELL_MASK;
	*side = cell == CELL_INSIDE ? SIDE_INSIDE : SIDE_OUTSIDE;
	return cell != CELL_NEAR_EDGE;
}

/* ---------------------------------------------------------------------
 * Building
 * ---------------------------------------------------------------------
 */

/* A grid that is being built: a byte for each cell. */
typedef struct GridMaker
{
	const Place *place;
	Point2 origin;
	Point2 cells_per_unit;
	int size;
	bool is_near[LARGEST_SIZE][LARGEST_SIZE];
	uint8 cells[LARGEST_SIZE][LARGEST_SIZE];
} GridMaker;

/* The row or column of a position, which may lie a little beside the grid. */
static inline int
clamp(const GridMaker *maker, double position)
{
	return (int) Min(Max(position, 0), maker->size - 1);
}

/* Mark the cells of one row that an edge comes near.  Its ends are in cells, the
 * lower first. */
static void
mark_row(GridMaker *maker, int row, Point2 low, Point2 high)
{
	double rise = high.y - low.y;
	double begin = rise > 0 ? Max((row - MARGIN - low.y) / rise, 0) : 0;
	double end = rise > 0 ? Min((row + 1 + MARGIN - low.y) / rise, 1) : 1;
	double x1 = low.x + begin * (high.x - low.x);
	double x2 = low.x + end * (high.x - low.x);
	int last = clamp(maker, Max(x1, x2) + 2 * MARGIN);

	for (int column = clamp(maker, Min(x1, x2) - 2 * MARGIN); column <= last; column++)
		maker->is_near[row][column] = true;
}

/* Mark the cells that an edge comes near; false when it is too flat for a grid. */
static bool
mark_edge(GridMaker *maker, const Point2 *from, const Point2 *to)
{
	Point2 low = {(from->x - maker->origin.x) * maker->cells_per_unit.x,
				  (from->y - maker->origin.y) * maker->cells_per_unit.y};
	Point2 high = {(to->x - maker->origin.x) * maker->cells_per_unit.x,
				   (to->y - maker->origin.y) * maker->cells_per_unit.y};
	int last;

	if (from->y != to->y && fabs(from->y - to->y) < SHORTEST)
		return false;
	if (low.y > high.y)
	{
		Point2 other = low;

		low = high;
		high = other;
	}
	last = clamp(maker, high.y + MARGIN);
	for (int row = clamp(maker, low.y - MARGIN); row <= last; row++)
		mark_row(maker, row, low, high);
	return true;
}

static bool
mark_edges(GridMaker *maker)
{
	for (uint32 i = 0; i < maker->place->nrings; i++)
	{
		const Ring *ring = &maker->place->rings[i];

		for (uint32 edge = 0; edge + 1 < ring->count; edge++)
		{
			if (!mark_edge(maker, &ring->points[edge], &ring->points[edge + 1]))
				return false;
		}
	}
	return true;
}

/* Decide a cell that no edge comes near: as a neighbour, or by its middle. */
static Cell
decide(const GridMaker *maker, int row, int column)
{
	Side side;

	if (column > 0 && !maker->is_near[row][column - 1])
		return maker->cells[row][column - 1];
	if (row > 0 && !maker->is_near[row - 1][column])
		return maker->cells[row - 1][column];
	side = place_side(maker->place, maker->origin.x + (column + 0.5) / maker->cells_per_unit.x,
					  maker->origin.y + (row + 0.5) / maker->cells_per_unit.y);
	return side == SIDE_INSIDE ? CELL_INSIDE : CELL_OUTSIDE;
}

static void
decide_cells(GridMaker *maker)
{
	for (int row = 0; row < maker->size; row++)
	{
		for (int column = 0; column < maker->size; column++)
			maker->cells[row][column] =
				maker->is_near[row][column] ? CELL_NEAR_EDGE : decide(maker, row, column);
	}
}

/* The grid as it is kept. */
static Grid *
pack(Places *places, const GridMaker *maker)
{
	int bytes = maker->size * maker->size / CELLS_PER_BYTE;
	Grid *grid = places_alloc(places, offsetof(Grid, cells) + bytes);

	grid->origin = maker->origin;
	grid->cells_per_unit = maker->cells_per_unit;
	grid->size = maker->size;
	memset(grid->cells, 0, bytes);
	for (int i = 0; i < maker->size * maker->size; i++)
		grid->cells[i / CELLS_PER_BYTE] |= maker->cells[i / maker->size][i % maker->size]
										   << (i % CELLS_PER_BYTE * CELL_BITS);
	return grid;
}

/* So many cells that each vertex has some. */
static int
grid_size(const Place *place)
{
	uint64 vertices = 0;
	int size = SMALLEST_SIZE;

	for (uint32 i = 0; i < place->nrings; i++)
		vertices += place->rings[i].count;
	if (vertices < FEWEST_VERTICES)
		return 0;
	while (size < LARGEST_SIZE && (uint64) size * size < vertices * CELLS_PER_VERTEX)
		size *= 2;
	return size;
}

/* Whether a length or a coordinate is one that rounding has no surprise for. */
static bool
is_ordinary(double length)
{
	return length > SHORTEST && length < LONGEST;
}

/*
 * Make the grid of a place of SHAPE_POLYGON that has none yet, over its extent.  NULL
 * when it is not worth while, or can't be exact.
 */
Grid *
grid_build(Places *places, const Place *place, const EdgeBox *extent)
{
	double width = extent->xmax - extent->xmin;
	double height = extent->ymax - extent->ymin;
	GridMaker maker;

	maker.place = place;
	maker.size = grid_size(place);
	if (maker.size == 0 || !is_ordinary(width) || !is_ordinary(height))
		return NULL;
	maker.origin = (Point2){extent->xmin, extent->ymin};
	maker.cells_per_unit = (Point2){maker.size / width, maker.size / height};
	memset(maker.is_near, false, sizeof(maker.is_near));
	if (!mark_edges(&maker))
		return NULL;
	decide_cells(&maker);
	return pack(places, &maker);
}
