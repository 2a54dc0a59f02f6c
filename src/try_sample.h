/*-------------------------------------------------------------------------
 *
 * try_sample.h
 *	  The messages that detect.try_stream tries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_TRY_SAMPLE_H
#define DETECT_TRY_SAMPLE_H

#include "apply/batch.h"

/* in try_sample.c */
extern List *sample_read(const Stream *stream, int sample);
extern Batch *sample_decode(const Stream *stream, StagedReader *reader, List *messages);

#endif /* DETECT_TRY_SAMPLE_H */
