/*-------------------------------------------------------------------------
 *
 * place_tree.c
 *	  A packed tree over the boxes of places.
 *
 * Built once: boxes are sorted into slabs along the first axis, each slab along
 * the next one (sort-tile-recursive), and sixteen neighbours make a node.  So a
 * node needs no pointers: those below box i of a level are boxes 16 i to 16 i
 * + 15 of the level below.  Boxes are floats rounded outwards; whoever walks
 * looks at the place itself.  What is added later gets a small tree of its own,
 * which every walk goes through too.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <math.h>

#include "miscadmin.h"

/* ---------------------------------------------------------------------
 * Boxes
 * ---------------------------------------------------------------------
 */

static inline float
round_down(double value)
{
	float result = (float) value;

	return result > value ? nextafterf(result, -INFINITY) : result;
}

static inline float
round_up(double value)
{
	float result = (float) value;

	return result < value ? nextafterf(result, INFINITY) : result;
}

/*
 * Set the bounds of a box on one axis.
 */
void
box_round(Box *box, int axis, double min, double max)
{
	box->min[axis] = round_down(min);
	box->max[axis] = round_up(max);
}

/*
 * Let a box contain another one.
 */
void
box_extend(Box *box, const Box *other)
{
	for (int axis = 0; axis < 3; axis++)
	{
		box->min[axis] = Min(box->min[axis], other->min[axis]);
		box->max[axis] = Max(box->max[axis], other->max[axis]);
	}
}

/* ---------------------------------------------------------------------
 * Building
 * ---------------------------------------------------------------------
 */

/* Compare tiles by the middle of their boxes on an axis. */
static int
compare_tiles(const void *left, const void *right, void *axis)
{
	int i = *(const int *) axis;
	const Box *a = &((const Tile *) left)->box;
	const Box *b = &((const Tile *) right)->box;
	double a_middle = (double) a->min[i] + a->max[i];
	double b_middle = (double) b->min[i] + b->max[i];

	return (a_middle > b_middle) - (a_middle < b_middle);
}

/* Sort tiles into slabs along an axis, and each slab along the next. */
static void
sort_tiles(Tile *tiles, int count, int axis, int axes)
{
	int nodes = (count + BOXES_PER_NODE - 1) / BOXES_PER_NODE;
	int slabs = (int) ceil(pow(nodes, 1.0 / (axes - axis)));
	int per_slab;

	CHECK_FOR_INTERRUPTS();
	qsort_arg(tiles, count, sizeof(Tile), compare_tiles, &axis);
	if (axis + 1 == axes || slabs < 2)
		return;
	per_slab = (nodes + slabs - 1) / slabs * BOXES_PER_NODE;
	for (int i = 0; i < count; i += per_slab)
		sort_tiles(tiles + i, Min(per_slab, count - i), axis + 1, axes);
}

/* Add the level above the last one of a tree. */
static void
add_level(const Places *places, Tree *tree)
{
	int level = tree->levels++;
	const Box *below = tree->level_boxes[level - 1];
	int below_count = tree->level_counts[level - 1];
	int count = (below_count + BOXES_PER_NODE - 1) / BOXES_PER_NODE;
	Box *boxes = MemoryContextAllocHuge(places->context, (Size) count * sizeof(Box));

	Assert(level < TREE_LEVELS);
	for (int i = 0; i < below_count; i++)
	{
		if (i % BOXES_PER_NODE == 0)
			boxes[i / BOXES_PER_NODE] = below[i];
		else
			box_extend(&boxes[i / BOXES_PER_NODE], &below[i]);
	}
	tree->level_boxes[level] = boxes;
	tree->level_counts[level] = count;
}

/*
 * Build a tree over the tiles of the places, which are put in order.
 */
void
tree_build(Places *places, Tree *tree)
{
	int count = places->ntiles;

	if (count == 0)
		return;
	sort_tiles(places->tiles, count, 0, places->globe ? 3 : 2);
	tree->level_boxes[0] = MemoryContextAllocHuge(places->context, (Size) count * sizeof(Box));
	tree->order = MemoryContextAllocHuge(places->context, (Size) count * sizeof(uint32));
	for (int i = 0; i < count; i++)
	{
		tree->level_boxes[0][i] = places->tiles[i].box;
		tree->order[i] = places->tiles[i].place;
	}
	tree->level_counts[0] = count;
	tree->levels = 1;
	while (tree->level_counts[tree->levels - 1] > 1)
		add_level(places, tree);
}

/*
 * Free what a tree points to; it is empty then.
 */
void
tree_free(Tree *tree)
{
	for (int level = 0; level < tree->levels; level++)
		pfree(tree->level_boxes[level]);
	if (tree->order)
		pfree(tree->order);
	memset(tree, 0, sizeof(Tree));
}

/*
 * Have no walk over a tree find places that are gone.
 */
void
tree_forget_gone(Places *places, Tree *tree)
{
	for (int i = 0; i < tree->level_counts[0]; i++)
	{
		if (places->places[tree->order[i]].shape != SHAPE_GONE)
			continue;
		for (int axis = 0; axis < 3; axis++)
		{
			tree->level_boxes[0][i].min[axis] = INFINITY;
			tree->level_boxes[0][i].max[axis] = -INFINITY;
		}
	}
}

/* ---------------------------------------------------------------------
 * Walking
 * ---------------------------------------------------------------------
 */

static inline bool
box_contains(const Box *box, const BoxWalk *walk)
{
	return box->min[0] <= walk->above[0] && box->max[0] >= walk->below[0] &&
		   box->min[1] <= walk->above[1] && box->max[1] >= walk->below[1] &&
		   box->min[2] <= walk->above[2] && box->max[2] >= walk->below[2];
}

/* Begin with one of the two trees. */
static void
box_walk_enter(BoxWalk *walk, const Tree *tree)
{
	walk->tree = tree;
	walk->depth = 0;
	if (tree->levels > 0 && box_contains(tree->level_boxes[tree->levels - 1], walk))
	{
		walk->stack[0].level = tree->levels - 1;
		walk->stack[0].index = 0;
		walk->depth = 1;
	}
}

/*
 * Begin to walk over the places whose box contains a point, or is nearer than
 * the margin on each axis.
 */
void
box_walk_begin(BoxWalk *walk, const Places *places, const double at[3], double margin)
{
	walk->places = places;
	for (int axis = 0; axis < 3; axis++)
	{
		walk->below[axis] = round_down(at[axis] - margin);
		walk->above[axis] = round_up(at[axis] + margin);
	}
	box_walk_enter(walk, &places->tree);
}

/* The next place of the tree in hand; NO_PLACE at its end. */
static int
next_in_tree(BoxWalk *walk)
{
	const Tree *tree = walk->tree;

	while (walk->depth > 0)
	{
		int level = walk->stack[--walk->depth].level;
		int index = walk->stack[walk->depth].index;
		int first;
		int end;

		if (level == 0)
			return tree->order[index];
		first = index * BOXES_PER_NODE;
		end = Min(first + BOXES_PER_NODE, tree->level_counts[level - 1]);
		for (int i = first; i < end; i++)
		{
			if (!box_contains(&tree->level_boxes[level - 1][i], walk))
				continue;
			walk->stack[walk->depth].level = level - 1;
			walk->stack[walk->depth].index = i;
			walk->depth++;
		}
	}
	return NO_PLACE;
}

/*
 * The next place of a walk, as an index into places; NO_PLACE at its end.
 */
int
box_walk_next(BoxWalk *walk)
{
	int place = next_in_tree(walk);

	if (place == NO_PLACE && walk->tree == &walk->places->tree)
	{
		box_walk_enter(walk, &walk->places->later);
		place = next_in_tree(walk);
	}
	return place;
}

/* How far a box is, a little less than more. */
static inline double
box_distance(const Box *box, const double at[3])
{
	return sqrt(place_box_distance2(box, at));
}

/* Begin with one of the two trees. */
static void
near_walk_enter(NearWalk *walk, const Tree *tree)
{
	walk->tree = tree;
	walk->depth = 0;
	if (tree->levels > 0)
	{
		walk->stack[0].level = tree->levels - 1;
		walk->stack[0].index = 0;
		walk->stack[0].distance = box_distance(tree->level_boxes[tree->levels - 1], walk->at);
		walk->depth = 1;
	}
}

/*
 * Begin to walk over places, the nearest boxes first: of the first tree, then of
 * the later one.
 */
void
near_walk_begin(NearWalk *walk, const Places *places, const double at[3])
{
	walk->places = places;
	memcpy(walk->at, at, sizeof(walk->at));
	near_walk_enter(walk, &places->tree);
}

/* Push the children of a node that are within the bound, the nearest last. */
static void
push_children(NearWalk *walk, int level, int index, double bound)
{
	const Tree *tree = walk->tree;
	int first = index * BOXES_PER_NODE;
	int end = Min(first + BOXES_PER_NODE, tree->level_counts[level - 1]);
	int base = walk->depth;

	for (int i = first; i < end; i++)
	{
		double distance = box_distance(&tree->level_boxes[level - 1][i], walk->at);
		int at = walk->depth;

		if (distance > bound)
			continue;
		for (; at > base && walk->stack[at - 1].distance < distance; at--)
			walk->stack[at] = walk->stack[at - 1];
		walk->stack[at].level = level - 1;
		walk->stack[at].index = i;
		walk->stack[at].distance = distance;
		walk->depth++;
	}
}

/* The next place of the tree in hand; NO_PLACE at its end. */
static int
next_near_in_tree(NearWalk *walk, double bound)
{
	while (walk->depth > 0)
	{
		int level = walk->stack[--walk->depth].level;
		int index = walk->stack[walk->depth].index;

		if (walk->stack[walk->depth].distance > bound)
			continue;
		if (level == 0)
			return walk->tree->order[index];
		push_children(walk, level, index, bound);
	}
	return NO_PLACE;
}

/*
 * The next place whose box is within the bound, as an index into places;
 * NO_PLACE at the end of the walk.  Within a node the nearest comes first.
 */
int
near_walk_next(NearWalk *walk, double bound)
{
	int place = next_near_in_tree(walk, bound);

	if (place == NO_PLACE && walk->tree == &walk->places->tree)
	{
		near_walk_enter(walk, &walk->places->later);
		place = next_near_in_tree(walk, bound);
	}
	return place;
}
