/*-------------------------------------------------------------------------
 *
 * heap_rows.h
 *	  Many rows into a table at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_HEAP_ROWS_H
#define DETECT_HEAP_ROWS_H

#include "nodes/execnodes.h"
#include "utils/tuplestore.h"

extern bool heap_rows_are_plain(const ResultRelInfo *result);
extern bool heap_rows_can_write(const ResultRelInfo *result);
extern void heap_rows_write(ResultRelInfo *result, EState *estate, HeapTuple *tuples, int ntuples,
							ItemPointerData *tids, Tuplestorestate *copies);

#endif /* DETECT_HEAP_ROWS_H */
