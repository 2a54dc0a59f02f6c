/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  From the bytes of a message to the typed columns of a stream.
 *
 * A batch is what lies between decoder_begin_batch() and decoder_end_batch(),
 * in one transaction with an active snapshot.  The input function of a type may
 * open a subtransaction that lasts until the end of the batch, so within it
 * the caller writes nothing and leaves the transaction as it is: decode first,
 * end the batch, then write.  After an ERROR within a batch the whole
 * transaction must go (AbortOutOfAnyTransaction() in a worker).
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DECODE_H
#define DETECT_DECODE_H

/* A column that is taken from the JSON payload. */
typedef struct DecodeColumn
{
	const char *name; /* of the column, for error texts */
	const char *path; /* "$.pos.lon", "$.a[0]", '$."odd name"' */
	Oid type;
	int32 typmod;
} DecodeColumn;

/*
 * Why a payload could not be decoded: a SQLSTATE that speaks of data, and a
 * text in CurrentMemoryContext.
 */
typedef struct DecodeError
{
	int sqlstate;
	char *reason;
} DecodeError;

typedef struct Decoder Decoder;

/* in decode.c */
extern void decode_check_path(const char *path);
extern Decoder *decoder_create(const DecodeColumn *columns, int ncolumns, MemoryContext context);
extern void decoder_begin_batch(Decoder *decoder);
extern bool decoder_decode(Decoder *decoder, const char *payload, size_t payload_bytes,
						   Datum *values, bool *nulls, DecodeError *error);
extern void decoder_end_batch(Decoder *decoder);

#endif /* DETECT_DECODE_H */
