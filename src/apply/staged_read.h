/*-------------------------------------------------------------------------
 *
 * staged_read.h
 *	  What the files that make elements of staged rows share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_STAGED_READ_H
#define DETECT_STAGED_READ_H

#include "apply/batch.h"
#include "fmgr.h"
#include "ingest/decode_structure.h"

/* Where a column of the stream is found in a staged row. */
typedef struct StagedColumn
{
	int source;	  /* attnum - 1, or -1: nowhere */
	int16 length; /* of its type, as pg_type has it; 0: the value is no pointer */
} StagedColumn;

/* How a column that is staged as another type gets its own. */
typedef struct Conversion
{
	const StreamColumn *column;
	FmgrInfo input; /* from text */
	Oid input_parameter;
	char opening; /* of the JSON of an array or a composite; else 0 */
	DecodeStructure structure;
	MemoryContext structure_context;
	MemoryContext value_context;	/* while one is converted */
	LocalTransactionId prepared_in; /* the type may have been altered since then */
	bool checks_null;				/* a domain may refuse NULL */
	void *domain;					/* domain_check()'s own: from the type below */
	Datum value;					/* of the element that is converted */
} Conversion;

/* Where the reader stands in a writer's table. */
struct StagedReader
{
	const Stream *stream;
	int writer;
	ItemPointerData next;		 /* first row not read yet */
	BlockNumber blocks;			 /* of the table when it was looked at last; 0: it was not */
	Progress *recent;			 /* of the row before, NULL at first */
	ItemPointerData message_tid; /* first row of its message, invalid at first */
	int64 message_offset;
	AttrNumber event_time_attnum; /* in the stream's staging table, or 0 */
	Oid event_time_type;
	Conversion *event_time_conversion; /* NULL: it needs none */
	int nconversions;
	Conversion *conversions;
	StagedColumn *columns; /* by column */
	Datum *staged_values;  /* scratch for one row, of the batch's life */
	bool *staged_nulls;
};

/* in apply/element.c */
extern void conversion_prepare(Conversion *conversion, const StreamColumn *column);

/* in apply/staged_read.c */
extern bool batch_is_full(const Batch *batch);

#endif /* DETECT_STAGED_READ_H */
