/*-------------------------------------------------------------------------
 *
 * dedup.c
 *	  Which identities have been accepted already.
 *
 * The answer is exact, and comes from memory or from a unique index, segment
 * by segment (segment.c).  What the open batch remembers goes into the
 * memory of its segment at once; for segments behind an index, which does
 * not hold the batch's rows yet, into a set of the batch.
 *
 * Memory follows transactions: it notes what the batch added and takes that
 * back when its transaction aborts.  A callback does so, since an error
 * between commit and bookkeeping must not part memory from the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "fault_point.h"
#include "nodes/pg_list.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "apply/edit.h"
#include "apply/segment.h"

/* What the open batch added to the memory of a segment. */
typedef struct BatchEntry
{
	Segment *segment;
	Identity identity;
} BatchEntry;

struct Dedup
{
	Dedup *next; /* in all_dedups */
	int32 stream_id;
	IdentityColumns *columns;
	IdentityHasher *hasher;		 /* NULL: types without canonical bytes */
	IdentityValues *values_seen; /* by the open batch; NULL if hashed */
	SegmentMap *map;
	uint32 seen_commits;   /* of SQL, when no edits were queued … */
	TimestampTz edits_due; /* … to be looked for again */

	/* Of the open batch. */
	BatchEntry *entries; /* in segments in memory */
	int64 nentries;
	int64 max_entries;
	IdentitySet *batch; /* in segments behind an index */
	SegmentProbes *probes;
};

#define FIRST_ENTRIES 1024

/* How often to look for edits that nobody has told of. */
#define EDITS_LOOK_MS 5000

/* 2^64 divided by the golden ratio. */
#define FIBONACCI UINT64CONST(0x9E3779B97F4A7C15)

/* Callbacks can't be taken back, but a Dedup goes with its context. */
static Dedup *all_dedups = NULL;
static bool callbacks_registered = false;

/* Notes which relations changed. */
static void
relation_changed(Datum arg, Oid relation)
{
	Dedup *dedup;

	for (dedup = all_dedups; dedup != NULL; dedup = dedup->next)
		segment_map_invalidate(dedup->map, relation);
}

/* Lets memory follow the end of the transaction. */
static void
transaction_ended(XactEvent event, void *arg)
{
	Dedup *dedup;

	for (dedup = all_dedups; dedup != NULL; dedup = dedup->next)
	{
		switch (event)
		{
			case XACT_EVENT_PRE_COMMIT:
			case XACT_EVENT_PRE_PREPARE:
				segment_probes_close(dedup->probes);
				break;
			case XACT_EVENT_COMMIT:
				dedup_commit_batch(dedup);
				segment_map_followed(dedup->map);
				break;
			case XACT_EVENT_ABORT:
				segment_probes_abandon(dedup->probes);
				dedup_abort_batch(dedup);
				segment_map_not_followed(dedup->map);
				break;
			default:
				break;
		}
	}
}

/* Takes a Dedup off the list when its context goes. */
static void
dedup_deleted(void *arg)
{
	Dedup **link;

	for (link = &all_dedups; *link != NULL; link = &(*link)->next)
	{
		if (*link == arg)
		{
			*link = ((Dedup *) arg)->next;
			return;
		}
	}
}

/* Puts a Dedup on the list of those that the callbacks serve. */
static void
list_dedup(Dedup *dedup, MemoryContext context)
{
	MemoryContextCallback *callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));

	if (!callbacks_registered)
	{
		relation_change_listen(relation_changed);
		RegisterXactCallback(transaction_ended, NULL);
		callbacks_registered = true;
	}
	callback->func = dedup_deleted;
	callback->arg = dedup;
	MemoryContextRegisterResetCallback(context, callback);
	dedup->next = all_dedups;
	all_dedups = dedup;
}

/*
 * Prepares dedup for a stream.  Allocates in the context and goes with it,
 * which must not be while a batch is open; identities are read by the first
 * dedup_begin_batch.  The caller is in a transaction.
 */
Dedup *
dedup_create(const Stream *stream, MemoryContext context)
{
	MemoryContext own = AllocSetContextCreate(context, "detect dedup", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(own);
	Dedup *dedup = palloc0_object(Dedup);

	dedup->stream_id = stream->id;
	dedup->columns = identity_columns(stream);
	if (dedup->columns->canonical)
		dedup->hasher = identity_hasher_create(dedup->columns->n, dedup->columns->types,
											   dedup->columns->collations, own);
	else
		dedup->values_seen = identity_values_create(dedup->columns, own);
	dedup->batch = identity_set_create(own);
	dedup->max_entries = FIRST_ENTRIES;
	dedup->entries = palloc_array(BatchEntry, FIRST_ENTRIES);
	dedup->map = segment_map_create(stream->events_table, dedup->columns, dedup->hasher, own);
	dedup->probes = segment_probes_create(dedup->columns, own);

	list_dedup(dedup, own);
	MemoryContextSwitchTo(old);
	return dedup;
}

/*
 * Tells which columns of the staging table make the identity, in the order
 * of the values that the other functions take.  Result is their number: 0 for
 * a stream with an empty key, all of whose elements are events.
 */
int
dedup_columns(const Dedup *dedup, const AttrNumber **staging_attnums)
{
	*staging_attnums = dedup->columns->staging_attnums;
	return dedup->columns->n;
}

/* Whether others have queued edits.  Who has done so wakes the stream once that can be
 * seen, but for who commits a prepared transaction: so there is mostly nothing to look
 * at. */
static bool
is_edited(Dedup *dedup)
{
	TimestampTz now = GetCurrentTimestamp();
	uint32 commits = my_slot ? my_slot->sql_commits : 0;

	if (my_slot && max_prepared_xacts == 0 && commits == dedup->seen_commits &&
		!time_is_over(dedup->edits_due, now, EDITS_LOOK_MS))
		return false;
	if (edit_is_queued(dedup->stream_id))
		return true;
	dedup->seen_commits = commits;
	dedup->edits_due = TimestampTzPlusMilliseconds(now, EDITS_LOOK_MS);
	return false;
}

/*
 * Begins a batch: notices partitions and indexes that came or went, and, if
 * asked to, what others did to rows.  Result is false if memory must follow
 * first: then this transaction is for dedup_follow, and another one for the
 * batch.  The caller has made the partitions that the batch needs.
 */
bool
dedup_begin_batch(Dedup *dedup, bool look_for_edits)
{
	dedup_abort_batch(dedup);
	segment_probes_close(dedup->probes);
	if (dedup->values_seen != NULL)
		identity_values_clear(dedup->values_seen);
	if (dedup->columns->n > 0 && !segment_map_refresh(dedup->map))
		return false;
	if (dedup->map->watched != dedup->map->changes)
		return false;
	return !look_for_edits || !is_edited(dedup);
}

/*
 * Brings memory up to date with what is committed; the first time it reads the
 * whole table, unless that has an index.  Follows dedup_begin_batch, in the
 * same transaction.
 */
void
dedup_follow(Dedup *dedup, EditTimes *times)
{
	segment_map_follow(dedup->map, dedup->stream_id, times);
}

/*
 * Tells, once, whether a partition that no unique index could be built on may
 * have become fit for it.
 */
bool
dedup_repeats_ended(Dedup *dedup)
{
	bool ended = dedup->map->repeats_ended;

	dedup->map->repeats_ended = false;
	return ended;
}

/*
 * Looks again at partitions whose edits are not queued.  The caller is in a
 * transaction.
 */
void
dedup_watch(Dedup *dedup)
{
	segment_map_watch(dedup->map);
}

/* Makes the identity of these values, none of them NULL.  A batch is open. */
Identity
dedup_identity(const Dedup *dedup, const Datum *values)
{
	uint64 number;

	if (dedup->hasher != NULL)
		return identity_hash(dedup->hasher, values);
	/* spread over all of its range, as hashes are: Fibonacci hashing (Knuth) */
	number = identity_values_number(dedup->values_seen, values) * FIBONACCI;
	return (Identity){.words = {number >> 32, number, 0}};
}

/*
 * Tells whether an event with this identity is accepted already, in the open
 * batch or before.  Identity is that of the values.
 */
bool
dedup_is_known(Dedup *dedup, const Identity *identity, const Datum *values)
{
	Segment *segment = segment_of(dedup->map, values);

	if (segment->identities != NULL)
		return identity_set_has(segment->identities, identity);
	return identity_set_has(dedup->batch, identity) ||
		   segment_probes_find(dedup->probes, segment, values);
}

/* Notes what an abort of the batch takes back. */
static void
note_entry(Dedup *dedup, Segment *segment, const Identity *identity)
{
	if (dedup->nentries == dedup->max_entries)
	{
		dedup->entries = repalloc_huge(dedup->entries, 2 * dedup->max_entries * sizeof(BatchEntry));
		dedup->max_entries *= 2;
	}
	dedup->entries[dedup->nentries].segment = segment;
	dedup->entries[dedup->nentries].identity = *identity;
	dedup->nentries++;
}

/*
 * Remembers an identity that was not known, until the batch ends or
 * dedup_forget.
 */
void
dedup_remember(Dedup *dedup, const Identity *identity, const Datum *values)
{
	Segment *segment = segment_of(dedup->map, values);

	if (segment->identities == NULL)
	{
		identity_set_add(dedup->batch, identity);
		return;
	}
	note_entry(dedup, segment, identity);
	identity_set_add(segment->identities, identity);
}

/*
 * Takes back what dedup_remember did for an element of the open batch that
 * did not become an event: the next of its identity is tried.
 */
void
dedup_forget(Dedup *dedup, const Identity *identity, const Datum *values)
{
	Segment *segment = segment_of(dedup->map, values);

	identity_set_remove(segment->identities != NULL ? segment->identities : dedup->batch, identity);
}

/*
 * Gives back what lookups hold, for a caller whose transaction goes on.
 */
void
dedup_end_lookups(Dedup *dedup)
{
	segment_probes_close(dedup->probes);
}

/*
 * Keeps what the batch remembered.  The end of its transaction has done so
 * already: calling this after the commit does no harm.
 */
void
dedup_commit_batch(Dedup *dedup)
{
	dedup->nentries = 0;
	identity_set_clear(dedup->batch);
}

/*
 * Takes back what the batch remembered.  The abort of its transaction has
 * done so already: calling this after it does no harm.
 */
void
dedup_abort_batch(Dedup *dedup)
{
	int64 i;

	for (i = 0; i < dedup->nentries && !FAULT_MUTANT("identities_stay"); i++)
		identity_set_remove(dedup->entries[i].segment->identities, &dedup->entries[i].identity);
	dedup->nentries = 0;
	identity_set_clear(dedup->batch);
}

/*
 * Tells whether a unique violation of this constraint, as the error names it,
 * means that the identity is there already.  The caller is in a transaction.
 */
bool
dedup_owns_constraint(const Dedup *dedup, const char *schema, const char *table,
					  const char *constraint)
{
	Oid namespace;
	Oid relation;
	Oid index;
	bool is_segment = false;
	bool owns = false;
	int i;

	if (schema == NULL || table == NULL || constraint == NULL)
		return false;
	namespace = get_namespace_oid(schema, true);
	relation = get_relname_relid(table, namespace);
	index = get_relname_relid(constraint, namespace);
	for (i = 0; i < dedup->map->n; i++)
		is_segment |= relation == dedup->map->segments[i]->relation;

	if (is_segment && OidIsValid(relation) && OidIsValid(index))
	{
		Relation segment = table_open(relation, AccessShareLock);

		owns = identity_index_is_ours(segment, index, dedup->columns);
		table_close(segment, AccessShareLock);
	}
	return owns;
}

/* Number of identities held in memory. */
int64
dedup_identities(const Dedup *dedup)
{
	return segment_map_identities(dedup->map);
}

/* Memory that the identities take. */
int64
dedup_bytes(const Dedup *dedup)
{
	return dedup->max_entries * sizeof(BatchEntry) + identity_set_bytes(dedup->batch) +
		   segment_map_bytes(dedup->map);
}

/*
 * Lists the relations that must leave memory, for an index each, so that the
 * identities in it take no more than the bound.
 */
List *
dedup_beyond_bound(const Dedup *dedup, int64 bound_bytes)
{
	return segment_map_beyond_bound(dedup->map, bound_bytes);
}
