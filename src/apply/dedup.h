/*-------------------------------------------------------------------------
 *
 * dedup.h
 *	  Which identities have been accepted already.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_DEDUP_H
#define DETECT_DEDUP_H

#include "apply/edit.h"
#include "detect.h"

/* 96 bits over the canonical bytes of (key, event time), or of the key alone
 * where the events table is not partitioned by the event time.  For types
 * without canonical bytes it is a number that holds for the open batch only,
 * so always hand the values along. */
typedef struct Identity
{
	uint32 words[3];
} Identity;

static inline bool
identity_equals(const Identity *left, const Identity *right)
{
	return left->words[0] == right->words[0] && left->words[1] == right->words[1] &&
		   left->words[2] == right->words[2];
}

typedef struct Dedup Dedup;

/* in apply/dedup.c */
extern Dedup *dedup_create(const Stream *stream, MemoryContext context);
extern int dedup_columns(const Dedup *dedup, const AttrNumber **staging_attnums);
extern bool dedup_begin_batch(Dedup *dedup, bool look_for_edits);
extern void dedup_follow(Dedup *dedup, EditTimes *times);
extern bool dedup_repeats_ended(Dedup *dedup);
extern void dedup_watch(Dedup *dedup);
extern Identity dedup_identity(const Dedup *dedup, const Datum *values);
extern bool dedup_is_known(Dedup *dedup, const Identity *identity, const Datum *values);
extern void dedup_remember(Dedup *dedup, const Identity *identity, const Datum *values);
extern void dedup_forget(Dedup *dedup, const Identity *identity, const Datum *values);
extern void dedup_end_lookups(Dedup *dedup);
extern void dedup_commit_batch(Dedup *dedup);
extern void dedup_abort_batch(Dedup *dedup);
extern bool dedup_owns_constraint(const Dedup *dedup, const char *schema, const char *table,
								  const char *constraint);
extern int64 dedup_identities(const Dedup *dedup);
extern int64 dedup_bytes(const Dedup *dedup);
extern List *dedup_beyond_bound(const Dedup *dedup, int64 bound_bytes);

/* in apply/identity_columns.c */
extern void dedup_check_definition(const Stream *stream);

/* in apply/partition.c */
extern bool partition_is_by_event_time(const Stream *stream);
extern bool partition_bounds(Oid partition, TimestampTz *from, TimestampTz *to);
extern TimestampTz partition_time(Oid type, Datum value);

/* in apply/partition_make.c */
extern int
partition_ensure(const Stream *stream, const TimestampTz *times, int ntimes, bool indexed);
extern void partition_check_rights(Oid events_table, Oid owner);

/* in apply/chore.c */
extern bool maintain_is_due(const Stream *stream, const List *wanted);
extern bool maintain_wants(const List *wanted);
extern void maintain_wants_no_more(const List *were_wanted, const List *wanted);
extern void maintain_retry(void);

/* in apply/maintain.c: duty of a short-lived worker */
extern void maintain_run(const Stream *stream);

#endif /* DETECT_DEDUP_H */
