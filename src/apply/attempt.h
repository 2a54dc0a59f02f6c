/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  What the applier was at when the server crashed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_ATTEMPT_H
#define DETECT_ATTEMPT_H

#include "apply/batch.h"

/* An element has crashed the server, more than once. */
#define ERRCODE_ELEMENT_CRASHES_SERVER MAKE_SQLSTATE('5', '8', 'D', 'C', '1')

typedef struct Attempt Attempt;

/* in apply/attempt.c */
extern Attempt *attempt_create(const Stream *stream, MemoryContext context);
extern int attempt_limit(Attempt *attempt, Batch *batch, int from, int to);
extern void attempt_begin(Attempt *attempt, const Batch *batch, int from, int to);
extern void attempt_end(Attempt *attempt, bool is_applied);
extern void attempt_batch_done(Attempt *attempt, const Batch *batch);

/* in apply/attempt_file.c: see there */
extern bool attempt_accuses(const Stream *stream);
extern void attempt_set_reject(const Stream *stream, bool reject);
extern void attempt_forget(int32 stream_id);

#endif /* DETECT_ATTEMPT_H */
