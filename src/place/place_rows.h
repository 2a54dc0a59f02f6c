/*-------------------------------------------------------------------------
 *
 * place_rows.h
 *	  What the files share that make places of the rows of a place table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_PLACE_ROWS_H
#define DETECT_PLACE_ROWS_H

#include "place/locator.h"
#include "utils/sortsupport.h"

/* in build.c */
extern int places_add_row(const Locator *locator, Places *places, Datum key, Datum geometry);

/* in place_order.c */
extern void places_rank(Places *places, SortSupport keys, int first);

/* in place_rows.c */
extern bool places_read_rows(Locator *locator, Snapshot snapshot, Size limit, Places **places);
extern bool places_update_rows(Locator *locator, Snapshot snapshot, Size limit, Places *places);

/* ---------------------------------------------------------------------
 * in place_expressions.c: the view of a locator, evaluated row by row
 * ---------------------------------------------------------------------
 */

/* Something that decides on the order of preference. */
typedef struct OrderExpression
{
	ExprState *state; /* NULL: the key */
	int16 length;
	bool by_value;
} OrderExpression;

typedef struct PlaceExpressions
{
	EState *estate;
	ExprState *condition; /* whether a row is a place */
	ExprState *key;
	ExprState *place;
	int norder;
	OrderExpression *order;
	SortSupport sort; /* for each of these */
} PlaceExpressions;

extern PlaceExpressions *place_expressions_begin(const Locator *locator);
extern void place_expressions_end(PlaceExpressions *expressions);

#endif /* DETECT_PLACE_ROWS_H */
