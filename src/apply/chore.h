/*-------------------------------------------------------------------------
 *
 * chore.h
 *	  What maintenance the partitions of an events table need, and how it is
 *	  done.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_CHORE_H
#define DETECT_CHORE_H

#include "apply/identity.h"

/* In detect._problem: what keeps the unique index of a partition from being built. */
#define PROBLEM_INDEX "unique index"

typedef enum ChoreKind
{
	CHORE_RETIRE,		 /* detach and drop */
	CHORE_FINISH_DETACH, /* the same, interrupted */
	CHORE_DROP,			 /* the same, interrupted later */
	CHORE_UNMARK,		 /* it was marked, and is to be kept now */
	CHORE_INDEX,
	CHORE_VACUUM /* of a state table, whose end is empty */
} ChoreKind;

typedef struct Chore
{
	ChoreKind kind;
	Oid partition; /* or state table */
} Chore;

/* in apply/chore.c */
extern List *chore_list(const Stream *stream, const List *wanted);
extern bool chore_is_marked(Oid relation);
extern bool chore_lacks_index(Oid partition, const IdentityColumns *columns);

/* in apply/chore_command.c */
extern void chores_begin(void);
extern void chores_end(const Stream *stream);
extern void chore_begin_reading(void);
extern void chore_end_reading(void);
extern ErrorData *chore_run_command(const char *sql, int lock_timeout_ms);
extern ErrorData *chore_run_command_if(bool (*holds)(Oid relation), Oid relation, const char *sql,
									   int lock_timeout_ms);
extern const char *chore_remedy(const char *partition, const ErrorData *error);
extern bool chore_gave_way(const ErrorData *error);
extern void chore_failed(const char *chore, const char *partition, const ErrorData *error);
extern char *chore_relation_name(Oid relation);
extern char *chore_read_relation_name(Oid relation);

/* in apply/partition_index.c */
extern void partition_build_index(const Stream *stream, Oid partition, const char *name);

/* in apply/partition_end.c */
extern void partition_drop(Oid partition, const char *name);
extern void partition_unmark(const char *name);
extern bool
partition_retire(const Stream *stream, Oid partition, const char *name, bool is_pending);

#endif /* DETECT_CHORE_H */
