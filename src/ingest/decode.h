/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  From the bytes of a message to the typed columns of a stream.
 *
 * A message is begun, then its elements are taken one after another.  Without
 * unnest it is one element; with it, each item of an array is one.
 *
 * A batch is what lies between decoder_begin_batch() and decoder_end_batch(),
 * in one transaction with an active snapshot.  The input function of a type may
 * open a subtransaction that lasts until the end of the batch, so within it
 * the caller writes nothing and leaves the transaction as it is: decode first,
 * end the batch, then write.  A message may have more elements than a batch has
 * room for: the next batch goes on with them.  After an ERROR within a batch the
 * whole transaction must go (AbortOutOfAnyTransaction() in a worker), and the
 * message with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DECODE_H
#define DETECT_DECODE_H

/* The length of a jsonb string has 28 bits. */
#define MAX_PAYLOAD_BYTES 0x0fffffff

/* What a number in a time's column counts since 1970. */
typedef enum EpochUnit
{
	EPOCH_NONE, /* numbers are no times */
	EPOCH_S,
	EPOCH_MS,
	EPOCH_US,
	EPOCH_NS
} EpochUnit;

/* A column that is taken from the JSON payload. */
typedef struct DecodeColumn
{
	const char *name; /* of the column, for error texts */
	const char *path; /* "$.pos.lon", "$.a[0]", '$."odd name"', "@.x" with unnest */
	Oid type;
	int32 typmod;
	EpochUnit epoch;
} DecodeColumn;

/*
 * Why a message or an element could not be decoded: a SQLSTATE that speaks of
 * data, and a text in CurrentMemoryContext.
 */
typedef struct DecodeError
{
	int sqlstate;
	char *reason;
} DecodeError;

/*
 * A member of messages, or of unnested items, that no column takes.  Names
 * longer than this are cut off, and names beyond the first hundred of either
 * are counted together, as "(others)".
 */
typedef struct UnknownField
{
	bool of_item; /* otherwise of the message */
	char name[NAMEDATALEN];
	uint64 count; /* items or messages that had it */
} UnknownField;

typedef struct Decoder Decoder;

/* in decode.c */
extern Decoder *decoder_create(const DecodeColumn *columns, int ncolumns, const char *unnest_path,
							   MemoryContext context);
extern void decoder_begin_batch(Decoder *decoder);
extern bool decoder_begin_message(Decoder *decoder, const char *payload, size_t payload_bytes,
								  DecodeError *error);
extern int decoder_element_count(const Decoder *decoder);
extern bool decoder_next_element(Decoder *decoder, Datum *values, bool *nulls, DecodeError *error);
extern void decoder_end_batch(Decoder *decoder);
extern UnknownField *decoder_unknown_fields(const Decoder *decoder, int *nfields);
extern void decoder_reset_unknown_fields(Decoder *decoder);

/* in decode_input.c */
extern EpochUnit decode_epoch_unit(Oid type);

/* in decode_path.c */
extern void decode_check_path(const char *path, bool has_unnest);

#endif /* DETECT_DECODE_H */
