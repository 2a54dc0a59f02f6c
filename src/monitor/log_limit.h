/*-------------------------------------------------------------------------
 *
 * log_limit.h
 *	  How often a stream's workers write to the server's log what repeats.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_LOG_LIMIT_H
#define DETECT_LOG_LIMIT_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Of so many causes at a time something is written. */
#define LOGGED_CAUSES 3

/* Causes that are no SQLSTATE, and told from those by their sign. */
typedef enum LogCause
{
	LOG_KAFKA_CLIENT = -1,
	LOG_PARTITION_AHEAD = -2,
	LOG_CHORE = -3,
	LOG_EXPIRY = -4,
	LOG_ROLLUP = -1000 /* less the rollup's number: of that one */
} LogCause;

/* When something was written of a cause. */
typedef struct LoggedCause
{
	int cause;		/* a SQLSTATE or a LogCause */
	TimestampTz at; /* 0: never */
} LoggedCause;

/* Of one stream; in its slot. */
typedef struct LogLimit
{
	LoggedCause causes[LOGGED_CAUSES];
	int left_out; /* messages, since the last one */
} LogLimit;

extern bool log_is_due(int cause, int *left_out);
extern int log_left_out(int left_out);

#endif /* DETECT_LOG_LIMIT_H */
