/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  What the files of a dynamic worker share: worker.c, which starts it and
 *	  follows its definition, and round.c, which works and fails.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_WORKER_H
#define DETECT_WORKER_H

#include "compat.h"
#include "detect.h"

/* The worker that this process is. */
typedef struct Worker
{
	WorkerOrder order;
	char stream_name[NAMEDATALEN];
	Stream *stream; /* as it was at the start; NULL before */
} Worker;

extern Worker me;

/* in ingest/worker.c */
extern void worker_follow_definition(void);
extern bool worker_definition_holds(void);

/* in ingest/malloc.c */
extern void malloc_keep(void);
extern void malloc_release(void);

/* in ingest/round.c */
extern void round_log_failure(const ErrorData *error);
pg_noreturn extern void round_loop(void);

#endif /* DETECT_WORKER_H */
