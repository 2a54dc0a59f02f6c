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
 * floats rounded outwards; whoever walks looks at the place itself.  What is added
 * later gets a small tree of its own, which every walk goes through too.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <float.h>
#include <math.h>

#include "miscadmin.h"

/* What rounding may add to the square of a distance of floats: some times 2^-24. */
#define WALK_ROUNDING 1e-6

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

/* ---------------------------------------------------------------------
 * Walking
 * ---------------------------------------------------------------------
 */

/* Begin with one of the two trees: with the node that is above all. */
static void
walk_enter(Walk *walk, const Tree *tree)
{
	walk->tree = tree;
	walk->depth = 0;
	if (tree->levels > 0)
		walk->stack[walk->depth++] = (WalkBox){0, tree->levels, 0};
}

/*
 * Begin to walk over the places whose box is near a point, or contains it: those
 * of the first tree, then those of the later one.
 */
void
walk_begin(Walk *walk, const Places *places, const double at[3])
{
	walk->places = places;
	walk->axes = places->globe ? 3 : 2;
	for (int axis = 0; axis < walk->axes; axis++)
	{
		/* rounded without a branch, and finite, so that no difference is NaN */
		double rounding = fabs(at[axis]) * (FLT_EPSILON / 2) + FLT_MIN;

		walk->below[axis] = Max((float) (at[axis] - rounding), -FLT_MAX);
		walk->above[axis] = Min((float) (at[axis] + rounding), FLT_MAX);
	}
	walk_enter(walk, &places->tree);
}

/* The squares of the distances to the boxes of a node, 0 within them.  Written so
 * that the compiler takes several boxes at once: no branch, and no maximum of two
 * that may both be anything. */
static inline void
node_distances2(const TreeNode *node, const Walk *walk, float distances2[BOXES_PER_NODE])
{
	for (int i = 0; i < BOXES_PER_NODE; i++)
		distances2[i] = 0;
	for (int axis = 0; axis < walk->axes; axis++)
	{
		const float *min = node->axes[axis].min;
		const float *max = node->axes[axis].max;
		float below = walk->below[axis];
		float above = walk->above[axis];

		for (int i = 0; i < BOXES_PER_NODE; i++)
		{
			float before = min[i] - above;
			float behind = below - max[i];

			before = before > 0 ? before : 0;
			behind = behind > 0 ? behind : 0;
			distances2[i] += (before + behind) * (before + behind);
		}
	}
}

/* Push the boxes of a node that are within the bound, the nearest last. */
static void
push_boxes(Walk *walk, int level, int node, float bound2)
{
	int count = Min(walk->tree->level_counts[level] - node * BOXES_PER_NODE, BOXES_PER_NODE);
	float distances2[BOXES_PER_NODE];
	int base = walk->depth;

	node_distances2(&walk->tree->level_nodes[level][node], walk, distances2);
	for (int i = 0; i < count; i++)
	{
		int at = walk->depth;

		if (distances2[i] > bound2)
			continue;
		for (; at > base && walk->stack[at - 1].distance2 < distances2[i]; at--)
			walk->stack[at] = walk->stack[at - 1];
		walk->stack[at] = (WalkBox){distances2[i], level, node * BOXES_PER_NODE + i};
		walk->depth++;
	}
}

/* The next place of the tree in hand; NO_PLACE at its end. */
static int
next_in_tree(Walk *walk, float bound2)
{
	while (walk->depth > 0)
	{
		WalkBox box = walk->stack[--walk->depth];

		if (box.distance2 > bound2)
			continue;
		if (box.level > 0)
			push_boxes(walk, box.level - 1, box.index, bound2);
		else if (walk->places->places[walk->tree->order[box.index]].shape != SHAPE_GONE)
		{
			walk->box = box.index;
			return walk->tree->order[box.index];
		}
	}
	return NO_PLACE;
}

/*
 * The next place whose box is within a bound, which may shrink from call to call
 * and is 0 for boxes that contain the point, as an index into places; NO_PLACE
 * at the end of the walk.  Within a node the nearest comes first.
 */
int
walk_next(Walk *walk, double bound)
{
	/* finite, so that no walk comes to what is infinitely far */
	float bound2 = Min(bound * bound * (1 + WALK_ROUNDING), FLT_MAX);
	int place = next_in_tree(walk, bound2);

	if (place == NO_PLACE && walk->tree == &walk->places->tree)
	{
		walk_enter(walk, &walk->places->later);
		place = next_in_tree(walk, bound2);
	}
	return place;
}

/*
 * Whether the box of the place that a walk has come to contains a point as PostGIS
 * sees it before it looks at the place: the point's box of floats, rounded outwards
 * too, lies within.  A point a rounding error beside a place may be in it otherwise.
 */
bool
walk_box_contains(const Walk *walk, double x, double y)
{
	const TreeNode *node = &walk->tree->level_nodes[0][walk->box / BOXES_PER_NODE];
	int i = walk->box % BOXES_PER_NODE;

	return node->axes[0].min[i] <= round_down(x) && round_up(x) <= node->axes[0].max[i] &&
		   node->axes[1].min[i] <= round_down(y) && round_up(y) <= node->axes[1].max[i];
}
