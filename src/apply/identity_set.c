/*-------------------------------------------------------------------------
 *
 * identity_set.c
 *	  A set of identities in memory: 16 bytes each, at most 70 % full.
 *
 * Open addressing with linear probing in one array, whose length is a power
 * of two.  Removal shifts what follows back instead of leaving tombstones, so
 * that the set is the same as if the identity had never been in it.  An
 * identity is random already: its low bits are its place, and doubling
 * the array moves each to the same place or to that place in the new half,
 * which makes growth a sequential pass.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>

#include "utils/memutils.h"

#include "apply/identity.h"

#define FIRST_CAPACITY	 64
#define MAX_FULL_PERCENT 70
#define HUGE_PAGE_BYTES	 (2 * 1024 * 1024)

struct IdentitySet
{
	MemoryContext context;
	Identity *places; /* all zeros: empty */
	uint64 mask;	  /* number of places less one */
	int64 count;
};

static inline bool
is_empty(const Identity *place)
{
	return place->low == 0 && place->high == 0;
}

static inline bool
is_same(const Identity *left, const Identity *right)
{
	return left->low == right->low && left->high == right->high;
}

/* Allocates empty places.  Lookups go all over them, and in pages of 4 kB most
 * would also miss the processor's table of pages: large arrays ask for huge
 * ones. */
static Identity *
allocate_places(MemoryContext context, uint64 nplaces)
{
	Size bytes = nplaces * sizeof(Identity);
	Identity *places = MemoryContextAllocHuge(context, bytes);

#ifdef MADV_HUGEPAGE
	if (bytes >= 2 * HUGE_PAGE_BYTES)
	{
		char *from = (char *) TYPEALIGN(HUGE_PAGE_BYTES, places);
		char *to = (char *) TYPEALIGN_DOWN(HUGE_PAGE_BYTES, (char *) places + bytes);

		(void) madvise(from, to - from, MADV_HUGEPAGE);
	}
#endif
	memset(places, 0, bytes);
	return places;
}

/* Makes an empty set in the context. */
IdentitySet *
identity_set_create(MemoryContext context)
{
	IdentitySet *set = MemoryContextAllocZero(context, sizeof(IdentitySet));

	set->context = context;
	set->mask = FIRST_CAPACITY - 1;
	set->places = allocate_places(context, FIRST_CAPACITY);
	return set;
}

/* Frees a set. */
void
identity_set_destroy(IdentitySet *set)
{
	pfree(set->places);
	pfree(set);
}

/* Finds the place where an identity is, or else belongs. */
static inline Identity *
find_place(const IdentitySet *set, const Identity *identity)
{
	uint64 at = identity->low & set->mask;

	Assert(!is_empty(identity));
	while (!is_empty(&set->places[at]) && !is_same(&set->places[at], identity))
		at = (at + 1) & set->mask;
	return &set->places[at];
}

/* Lets the processor fetch an identity's place while it does other things. */
void
identity_set_prefetch(const IdentitySet *set, const Identity *identity)
{
	__builtin_prefetch(&set->places[identity->low & set->mask]);
}

/* Tells whether the identity is in the set. */
bool
identity_set_has(const IdentitySet *set, const Identity *identity)
{
	return !is_empty(find_place(set, identity));
}

/* Doubles the number of places.  The set is as it was if memory runs out. */
static void
grow(IdentitySet *set)
{
	Identity *old = set->places;
	uint64 nold = set->mask + 1;
	uint64 i;

	set->places = allocate_places(set->context, nold * 2);
	set->mask = nold * 2 - 1;
	for (i = 0; i < nold; i++)
	{
		if (!is_empty(&old[i]))
			*find_place(set, &old[i]) = old[i];
	}
	pfree(old);
}

/* Adds an identity; result is false if it was there. */
bool
identity_set_add(IdentitySet *set, const Identity *identity)
{
	Identity *place = find_place(set, identity);

	if (!is_empty(place))
		return false;

	if ((uint64) (set->count + 1) * 100 > (set->mask + 1) * MAX_FULL_PERCENT)
	{
		grow(set);
		place = find_place(set, identity);
	}
	*place = *identity;
	set->count++;
	return true;
}

/* Removes an identity; result is false if it was not there. */
bool
identity_set_remove(IdentitySet *set, const Identity *identity)
{
	Identity *place = find_place(set, identity);
	uint64 hole = place - set->places;
	uint64 at = hole;

	if (is_empty(place))
		return false;

	for (;;)
	{
		uint64 home;

		at = (at + 1) & set->mask;
		if (is_empty(&set->places[at]))
			break;

		/* What lies behind its home by the distance to the hole or more is
		 * found from the hole too; what lies nearer would be lost there. */
		home = set->places[at].low & set->mask;
		if (((at - home) & set->mask) >= ((at - hole) & set->mask))
		{
			set->places[hole] = set->places[at];
			hole = at;
		}
	}
	memset(&set->places[hole], 0, sizeof(Identity));
	set->count--;
	return true;
}

/* Removes everything and keeps the memory. */
void
identity_set_clear(IdentitySet *set)
{
	if (set->count > 0)
		memset(set->places, 0, (set->mask + 1) * sizeof(Identity));
	set->count = 0;
}

/* Number of identities in the set. */
int64
identity_set_count(const IdentitySet *set)
{
	return set->count;
}

/* Memory that the set takes. */
int64
identity_set_bytes(const IdentitySet *set)
{
	return sizeof(IdentitySet) + (set->mask + 1) * sizeof(Identity);
}
