/*-------------------------------------------------------------------------
 *
 * identity.h
 *	  How identities are made, held in memory and looked up in an index.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_IDENTITY_H
#define DETECT_IDENTITY_H

#include "apply/dedup.h"

/* The columns whose values are an event's identity. */
typedef struct IdentityColumns
{
	int n;
	char **names;
	AttrNumber *staging_attnums; /* in detect_staging.<stream> */
	Oid *types;					 /* in the events table, as declared */
	Oid *collations;			 /* in the events table */
	int event_time;				 /* position; -1: not partitioned by it */
	bool event_time_added;		 /* the event time is not in the key */
	bool canonical;				 /* all types have canonical bytes */
} IdentityColumns;

typedef struct IdentityHasher IdentityHasher;
typedef struct IdentitySet IdentitySet;
typedef struct IdentityValues IdentityValues;
typedef struct IndexProbe IndexProbe;

/* All zeros: no identity. */
static inline bool
identity_is_empty(const Identity *identity)
{
	return (identity->words[0] | identity->words[1] | identity->words[2]) == 0;
}

/* in apply/identity.c */
extern IdentityHasher *identity_hasher_create(int ncolumns, const Oid *types, const Oid *collations,
											  MemoryContext context);
extern bool identity_type_is_canonical(Oid type, Oid collation);
extern Identity identity_hash(const IdentityHasher *hasher, const Datum *values);

/* in apply/identity_set.c */
extern IdentitySet *identity_set_create(MemoryContext context);
extern void identity_set_destroy(IdentitySet *set);
extern void identity_set_prefetch(const IdentitySet *set, const Identity *identity);
extern void identity_set_expect(IdentitySet *set, int64 count);
extern bool identity_set_has(const IdentitySet *set, const Identity *identity);
extern bool identity_set_add(IdentitySet *set, const Identity *identity);
extern bool identity_set_remove(IdentitySet *set, const Identity *identity);
extern void identity_set_clear(IdentitySet *set);
extern int64 identity_set_count(const IdentitySet *set);
extern int64 identity_set_bytes(const IdentitySet *set);

/* in apply/identity_values.c */
extern IdentityValues *
identity_values_create(const IdentityColumns *columns, MemoryContext context);
extern uint64 identity_values_number(IdentityValues *values_seen, const Datum *values);
extern void identity_values_clear(IdentityValues *values_seen);

/* in apply/identity_columns.c */
extern IdentityColumns *identity_columns(const Stream *stream);
extern void identity_columns_verify(const IdentityColumns *columns, Relation table);
extern char *identity_columns_list(const IdentityColumns *columns);

/* in apply/identity_index.c */
extern Oid identity_index_find(Relation table, const IdentityColumns *columns, bool *soon);
extern bool identity_index_is_ours(Relation table, Oid index, const IdentityColumns *columns);
extern IndexProbe *
index_probe_open(Oid table, Oid index, const IdentityColumns *columns, Snapshot snapshot);
extern bool index_probe_finds(IndexProbe *probe, const Datum *values);
extern void index_probe_close(IndexProbe *probe);

#endif /* DETECT_IDENTITY_H */
