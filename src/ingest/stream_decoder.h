/*-------------------------------------------------------------------------
 *
 * stream_decoder.h
 *	  Decoders for the columns of a stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_STREAM_DECODER_H
#define DETECT_STREAM_DECODER_H

#include "detect.h"
#include "ingest/decode.h"

/* in ingest/stream_decoder.c */
extern Decoder *stream_message_decoder(const Stream *stream, MemoryContext context, int *nfields);
extern Decoder *stream_row_decoder(const Stream *stream, MemoryContext context);

#endif /* DETECT_STREAM_DECODER_H */
