/*-------------------------------------------------------------------------
 *
 * chore.h
 *	  What maintenance the partitions of an events table need.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_CHORE_H
#define DETECT_CHORE_H

#include "apply/identity.h"

typedef enum ChoreKind
{
	CHORE_RETIRE,		 /* detach and drop */
	CHORE_FINISH_DETACH, /* the same, interrupted */
	CHORE_DROP,			 /* the same, interrupted later */
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
extern bool chore_lacks_index(Oid partition, const IdentityColumns *columns);

#endif /* DETECT_CHORE_H */
