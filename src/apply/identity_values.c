/*-------------------------------------------------------------------------
 *
 * identity_values.c
 *	  Numbers for the identities of one batch, for types without canonical
 *	  bytes.
 *
 * Such identities are known from unique indexes, which don't hold the rows of
 * the open batch yet.  Within the batch they go by the number that their
 * values get when first seen, and equal values are found by the executor's
 * hash table of tuples, as GROUP BY finds them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "compat.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "apply/identity.h"

#define FIRST_CAPACITY 1024

struct IdentityValues
{
	TupleHashTable table;
	uint64 count;		  /* of different values */
	TupleTableSlot *slot; /* of the values in question */
	MemoryContext tuples;
	MemoryContext scratch;
};

/*
 * Prepares numbering in the context.  Types were found to have hash functions
 * by dedup_check_definition; the caller is in a transaction.
 */
IdentityValues *
identity_values_create(const IdentityColumns *columns, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	IdentityValues *values_seen = palloc0_object(IdentityValues);
	TupleDesc tupdesc = CreateTemplateTupleDesc(columns->n);
	AttrNumber *attnums = palloc_array(AttrNumber, columns->n);
	Oid *equalities = palloc_array(Oid, columns->n);
	Oid *functions;
	FmgrInfo *hashes;
	int i;

	for (i = 0; i < columns->n; i++)
	{
		attnums[i] = i + 1;
		TupleDescInitEntry(tupdesc, i + 1, columns->names[i], columns->types[i], -1, 0);
		TupleDescInitEntryCollation(tupdesc, i + 1, columns->collations[i]);
		equalities[i] = lookup_type_cache(columns->types[i], TYPECACHE_EQ_OPR)->eq_opr;
	}
	execTuplesHashPrepare(columns->n, equalities, &functions, &hashes);

	values_seen->tuples =
		AllocSetContextCreate(context, "detect identities of a batch", ALLOCSET_DEFAULT_SIZES);
	values_seen->scratch = AllocSetContextCreate(context, "detect identity", ALLOCSET_SMALL_SIZES);
	values_seen->slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsVirtual);
	values_seen->table = compat_build_tuple_hash_table(
		tupdesc, columns->n, attnums, functions, hashes, columns->collations, FIRST_CAPACITY,
		context, values_seen->tuples, values_seen->scratch);
	MemoryContextSwitchTo(old);
	return values_seen;
}

/* Gives the values a number from 1 on, equal values the same. */
uint64
identity_values_number(IdentityValues *values_seen, const Datum *values)
{
	TupleTableSlot *slot = values_seen->slot;
	int natts = slot->tts_tupleDescriptor->natts;
	TupleHashEntry entry;
	uint64 *number;
	bool is_new;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memset(slot->tts_isnull, false, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	entry = LookupTupleHashEntry(values_seen->table, slot, &is_new, NULL);
	ExecClearTuple(slot);
	MemoryContextReset(values_seen->scratch);

	number = compat_hash_entry_number(values_seen->table, entry);
	if (is_new)
		*number = ++values_seen->count;
	return *number;
}

/* Forgets all values; numbers begin at 1 again. */
void
identity_values_clear(IdentityValues *values_seen)
{
	values_seen->count = 0;
	ResetTupleHashTable(values_seen->table);
	MemoryContextReset(values_seen->tuples);
}
