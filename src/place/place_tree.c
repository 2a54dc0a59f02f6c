/*-------------------------------------------------------------------------
 *
 * place_tree.c
 *	  A packed tree over the boxes of places.
 *
 * Built once: boxes are sorted into slabs along the first axis, each slab along
 * the next one (sort-tile-recursive), and sixteen neighbours make a node.  So a
 * node needs no pointers: what is below box i of a level is node i of the level
 * below.  Within a node all minima of an axis lie side by side, and all maxima, so
 * that sixteen boxes are compared with a point in a few instructions.  Boxes are
 * floats rounded outwards; whoever walks (place_walk.c) looks at the place itself.
 * What is added later gets a small tree of its own, which every walk goes through
 * too.
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

/* What nothing is in. */
const Box no_box = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};

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

/* Set one box of a level. */
static inline void
node_set_box(TreeNode *nodes, int index, const Box *box)
{
	TreeNode *node = &nodes[index / BOXES_PER_NODE];

	for (int axis = 0; axis < 3; axis++)
	{
		node->axes[axis].min[index % BOXES_PER_NODE] = box->min[axis];
		node->axes[axis].max[index % BOXES_PER_NODE] = box->max[axis];
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

/* Make the nodes of the next level of a tree, with room for so many boxes. */
static TreeNode *
make_level(const Places *places, Tree *tree, int count)
{
	int nodes = (count + BOXES_PER_NODE - 1) / BOXES_PER_NODE;
	int level = tree->levels++;

	Assert(level < TREE_LEVELS);
	tree->level_counts[level] = count;
	tree->level_nodes[level] =
		MemoryContextAllocHuge(places->context, (Size) nodes * sizeof(TreeNode));
	for (int i = 0; i < nodes * BOXES_PER_NODE; i++)
		node_set_box(tree->level_nodes[level], i, &no_box);
	return tree->level_nodes[level];
}

/* Add the level above the last one of a tree. */
static void
add_level(const Places *places, Tree *tree)
{
	int below_count = tree->level_counts[tree->levels - 1];
	const TreeNode *below = tree->level_nodes[tree->levels - 1];
	int count = (below_count + BOXES_PER_NODE - 1) / BOXES_PER_NODE;
	TreeNode *nodes = make_level(places, tree, count);

	for (int i = 0; i < count; i++)
	{
		Box box = no_box;

		for (int j = 0; j < BOXES_PER_NODE; j++)
		{
			for (int axis = 0; axis < 3; axis++)
			{
				box.min[axis] = Min(box.min[axis], below[i].axes[axis].min[j]);
				box.max[axis] = Max(box.max[axis], below[i].axes[axis].max[j]);
			}
		}
		node_set_box(nodes, i, &box);
	}
}

/*
 * Build a tree over the tiles of the places, which are put in order.
 */
void
tree_build(Places *places, Tree *tree)
{
	int count = places->ntiles;
	TreeNode *nodes;

	if (count == 0)
		return;
	sort_tiles(places->tiles, count, 0, places->globe ? 3 : 2);
	tree->order = MemoryContextAllocHuge(places->context, (Size) count * sizeof(uint32));
	nodes = make_level(places, tree, count);
	for (int i = 0; i < count; i++)
	{
		node_set_box(nodes, i, &places->tiles[i].box);
		tree->order[i] = places->tiles[i].place;
	}
	while (tree->level_counts[tree->levels - 1] > BOXES_PER_NODE)
		add_level(places, tree);
}

/*
 * Free what a tree points to; it is empty then.
 */
void
tree_free(Tree *tree)
{
	for (int level = 0; level < tree->levels; level++)
		pfree(tree->level_nodes[level]);
	if (tree->order)
		pfree(tree->order);
	memset(tree, 0, sizeof(Tree));
}
