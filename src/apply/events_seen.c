/*-------------------------------------------------------------------------
 *
 * events_seen.c
 *	  Which rows the events table has accepted, where its triggers have a say.
 *
 * A BEFORE trigger of the user may drop a row, which is then filtered, or change
 * it.  What is left is led back to its element by its identity, so that is the one
 * thing that no trigger may change.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/events_internal.h"
#include "commands/trigger.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Leads an accepted row back to its element. */
typedef struct IdentityEntry
{
	Identity identity;
	Element *element;
} IdentityEntry;

/* The elements that the query gave a row for, by their identity. */
static HTAB *
index_by_identity(Events *events)
{
	HASHCTL control = {.keysize = sizeof(Identity),
					   .entrysize = sizeof(IdentityEntry),
					   .hcxt = CurrentMemoryContext};
	HTAB *index = hash_create("detect elements by identity", events->nrows, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (int i = 0; i < events->ncandidates; i++)
	{
		Element *element = events->candidates[i];
		IdentityEntry *entry;

		if (!element->has_row || element->sqlstate != 0)
			continue;
		entry = hash_search(index, &element->identity, HASH_ENTER, NULL);
		entry->element = element;
	}
	return index;
}

/*
 * Note which elements the events table accepted, where a BEFORE trigger may drop
 * rows or change them.
 */
void
events_mark_seen(Events *events, TriggerData *trigdata)
{
	Relation rel = trigdata->tg_relation;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
	HTAB *index = index_by_identity(events);
	const AttrNumber *staging_attnums;
	int nidentity = dedup_columns(events->dedup, &staging_attnums);
	AttrNumber attnums[INDEX_MAX_KEYS];

	for (int i = 0; i < nidentity; i++)
		attnums[i] = get_attnum(RelationGetRelid(rel), get_attname(events->stream->staging_table,
																   staging_attnums[i], false));
	tuplestore_rescan(trigdata->tg_newtable);
	while (nidentity > 0 && tuplestore_gettupleslot(trigdata->tg_newtable, true, false, slot))
	{
		Datum values[INDEX_MAX_KEYS];
		Identity identity;
		IdentityEntry *entry = NULL;
		bool has_identity = true;

		for (int i = 0; i < nidentity; i++)
		{
			bool isnull;

			values[i] = slot_getattr(slot, attnums[i], &isnull);
			has_identity &= !isnull;
		}
		if (has_identity)
		{
			identity = dedup_identity(events->dedup, values);
			entry = hash_search(index, &identity, HASH_FIND, NULL);
		}
		if (entry == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("a trigger of table \"%s\" changes the key or the event time of events",
							RelationGetRelationName(rel)),
					 errhint("Let triggers hand key and event time on unchanged.")));
		entry->element->was_seen = true;
	}
	tuplestore_rescan(trigdata->tg_newtable);
	hash_destroy(index);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * What the trigger saw are fewer rows than were inserted: a BEFORE trigger has
 * dropped some, and their identities tell which.
 */
void
events_settle_dropped(Events *events, Element **candidates, int ncandidates)
{
	int64 dropped = events->nrows - events->naccepted;

	for (int i = ncandidates - 1; i >= 0 && dropped > 0; i--)
	{
		Element *element = candidates[i];

		if (element->outcome != OUTCOME_ACCEPTED || element->was_seen)
			continue;
		element->outcome = OUTCOME_FILTERED;
		dropped--;
	}
}
