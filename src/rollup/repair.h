/*-------------------------------------------------------------------------
 *
 * repair.h
 *	  Groups of a rollup that are to be computed again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_REPAIR_H
#define DETECT_REPAIR_H

#include "rollup/rollup.h"

/* A row of detect._repair. */
typedef struct Repair
{
	int64 id;
	int32 rollup_id;
	TimeRange times;
	bool asked;
	bool allow_loss;
	int attempts;
	int64 last_known_id; /* of all repairs of its rollup, when it was read */
} Repair;

/* in rollup/repair_queue.c */
extern bool repair_is_asked(int32 rollup_id, const TimeRange *range);
extern void repair_ask(int32 rollup_id, const TimeRange *range, bool allow_loss);
extern bool repair_next(const Stream *stream, Repair *repair);
extern TimestampTz repair_next_retry(const Stream *stream);
extern void repair_write_done(const Repair *repair, TimestampTz until);
extern void repair_write_covered(const Repair *repair, const TimeRange *computed);
extern void repair_write_refused(const Repair *repair, const TimeRange *times, const char *reason);
extern void repair_write_failed(const Rollup *rollup, const Repair *repair, const ErrorData *error);

/* in rollup/repair_check.c */
extern const char *repair_obstacle(const Rollup *rollup, const RollupShape *shape);
extern const char *repair_size_obstacle(const Rollup *rollup, TimestampTz from, TimestampTz until);
extern bool
repair_find_gone(const Stream *stream, TimestampTz from, TimestampTz until, TimeRange *gone);

#endif /* DETECT_REPAIR_H */
