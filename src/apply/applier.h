/*-------------------------------------------------------------------------
 *
 * applier.h
 *	  The duty of an applier: staging table to events, rollups, dead letters
 *	  and applied progress, in one commit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_APPLIER_H
#define DETECT_APPLIER_H

#include "detect.h"
#include "apply/dedup.h"

typedef struct Applier Applier;

/* What an error asks for: see the table of errors in README.md. */
typedef enum FailureKind
{
	FAILURE_DATA,		   /* one element becomes a dead letter */
	FAILURE_ENVIRONMENT,   /* the same batch again, later */
	FAILURE_CONFIGURATION, /* the stream pauses and says why */
	FAILURE_UNKNOWN		   /* data if it fails for one element alone */
} FailureKind;

/* in apply/applier.c */
extern Applier *applier_create(const Stream *stream, MemoryContext context);
extern bool applier_run(Applier *applier);
extern int applier_wants(const Applier *applier);
extern void applier_reload(Applier *applier);
extern void applier_forget(Applier *applier);
extern int applier_wait_ms(const Applier *applier);

/* in apply/failure.c */
extern FailureKind failure_kind(const ErrorData *error);
extern bool failure_shows_rows(const ErrorData *error);
extern const char *failure_message_for_log(const ErrorData *error);
extern bool failure_is_refused_value(const ErrorData *error);
extern bool failure_is_duplicate(Dedup *dedup, const ErrorData *error);
extern void failure_check_definition(const Stream *stream, const ErrorData *error);

/* in apply/time_limit.c */
extern void time_limit_begin(void);
extern void time_limit_end(void);
extern bool time_limit_was_hit(const ErrorData *error);
extern void time_limit_explain(ErrorData *error);

#endif /* DETECT_APPLIER_H */
