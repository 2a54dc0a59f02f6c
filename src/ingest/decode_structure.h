/*-------------------------------------------------------------------------
 *
 * decode_structure.h
 *	  Arrays and composites from JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DECODE_STRUCTURE_H
#define DETECT_DECODE_STRUCTURE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"

/* How values of one type are made. */
typedef struct DecodeStructure
{
	const char *name; /* of the column, for errors */
	FmgrInfo populate;
	TupleDesc record_descriptor;
	HeapTuple empty_record;
} DecodeStructure;

extern bool decode_takes_structure(Oid type);
extern void
decode_structure_init(DecodeStructure *structure, const char *name, Oid type, int32 typmod);
extern Datum decode_structure(DecodeStructure *structure, const char *json);

#endif /* DETECT_DECODE_STRUCTURE_H */
