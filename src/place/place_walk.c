/*-------------------------------------------------------------------------
 *
 * place_walk.c
 *	  Walks over a tree: to the places whose box has a point, or is near it.
 *
 * Which boxes of a node have the point is one bit each, found for all sixteen at
 * once; so a walk to these remembers a word for each level and never sorts.  A walk
 * to the nearest keeps a stack of boxes with their distances, since its bound may
 * shrink while they wait.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <float.h>
#include <math.h>

#include "port/pg_bitutils.h"

/* What rounding may add to the square of a distance of floats: some times 2^-24. */
#define WALK_ROUNDING 1e-6

/* Round a point to floats, down and up: without a branch, and to finite ones, so
 * that no difference is NaN. */
static inline void
round_point(const double at[3], int axes, float below[3], float above[3])
{
	for (int axis = 0; axis < axes; axis++)
	{
		double rounding = fabs(at[axis]) * (FLT_EPSILON / 2) + FLT_MIN;

		below[axis] = Max((float) (at[axis] - rounding), -FLT_MAX);
		above[axis] = Min((float) (at[axis] + rounding), FLT_MAX);
	}
}

/* ---------------------------------------------------------------------
 * To the boxes that have the point
 * ---------------------------------------------------------------------
 */

/* Which boxes of a node have the point, a bit each.  Written so that the compiler
 * takes several at once. */
static inline uint32
node_boxes(const TreeNode *node, const PointWalk *walk)
{
	uint32 has[BOXES_PER_NODE];
	uint32 result = 0;

	for (int i = 0; i < BOXES_PER_NODE; i++)
		has[i] = (uint32) 1 << i;
	for (int axis = 0; axis < walk->axes; axis++)
	{
		const float *min = node->axes[axis].min;
		const float *max = node->axes[axis].max;
		float below = walk->below[axis];
		float above = walk->above[axis];

		for (int i = 0; i < BOXES_PER_NODE; i++)
			has[i] &= -(uint32) ((min[i] <= above) & (max[i] >= below));
	}
	for (int i = 0; i < BOXES_PER_NODE; i++)
		result |= has[i];
	return result;
}

/* Go down to a node. */
static inline void
enter_node(PointWalk *walk, int level, int node)
{
	walk->level = level;
	walk->nodes[level] = node;
	walk->boxes[level] = node_boxes(&walk->tree->level_nodes[level][node], walk);
}

/* Begin with one of the two trees: with the node that is above all. */
static inline void
enter_tree(PointWalk *walk, const Tree *tree)
{
	walk->tree = tree;
	if (tree->levels > 0)
		enter_node(walk, tree->levels - 1, 0);
	else
		walk->level = 0;
}

/*
 * Begin to walk over the places whose box has a point: those of the first tree,
 * then those of the later one.
 */
void
point_walk_begin(PointWalk *walk, const Places *places, const double at[3])
{
	walk->places = places;
	walk->axes = places->globe ? 3 : 2;
	round_point(at, walk->axes, walk->below, walk->above);
	enter_tree(walk, &places->tree);
}

/* The next place of the tree in hand; NO_PLACE at its end. */
static inline int
next_with_point(PointWalk *walk)
{
	const Tree *tree = walk->tree;

	while (walk->level < tree->levels)
	{
		uint32 *boxes = &walk->boxes[walk->level];
		int box;

		if (*boxes == 0)
		{
			walk->level++;
			continue;
		}
		box = walk->nodes[walk->level] * BOXES_PER_NODE + pg_rightmost_one_pos32(*boxes);
		*boxes &= *boxes - 1;
		if (walk->level > 0)
			enter_node(walk, walk->level - 1, box);
		else if (walk->places->places[tree->order[box]].shape != SHAPE_GONE)
		{
			walk->box = box;
			return tree->order[box];
		}
	}
	return NO_PLACE;
}

/*
 * The next place whose box has the point, as an index into places; NO_PLACE at the
 * end of the walk.
 */
int
point_walk_next(PointWalk *walk)
{
	int place = next_with_point(walk);

	if (place == NO_PLACE && walk->tree == &walk->places->tree)
	{
		enter_tree(walk, &walk->places->later);
		place = next_with_point(walk);
	}
	return place;
}

/*
 * Whether the box of the place that a walk has come to contains a point as PostGIS
 * sees it before it looks at the place: the point's box of floats, rounded outwards
 * too, lies within.  A point a rounding error beside a place may be in it otherwise.
 * Since the box is of floats itself, the point need not be rounded for that.
 */
bool
point_walk_box_contains(const PointWalk *walk, double x, double y)
{
	const TreeNode *node = &walk->tree->level_nodes[0][walk->box / BOXES_PER_NODE];
	int i = walk->box % BOXES_PER_NODE;

	return node->axes[0].min[i] <= x && x <= node->axes[0].max[i] && node->axes[1].min[i] <= y &&
		   y <= node->axes[1].max[i];
}

/* ---------------------------------------------------------------------
 * To those that are near
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
 * Begin to walk over the places whose box is near a point: those of the first tree,
 * then those of the later one.
 */
void
walk_begin(Walk *walk, const Places *places, const double at[3])
{
	walk->places = places;
	walk->axes = places->globe ? 3 : 2;
	round_point(at, walk->axes, walk->below, walk->above);
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
			walk->distance2 = box.distance2;
			return walk->tree->order[box.index];
		}
	}
	return NO_PLACE;
}

/*
 * The next place whose box is within a bound, which may shrink from call to call, as
 * an index into places; NO_PLACE at the end of the walk.  Within a node the nearest
 * comes first.  walk->distance2 is 0 if its box has the point, and greater if it has
 * not by more than rounding.
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
