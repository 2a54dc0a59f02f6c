/*-------------------------------------------------------------------------
 *
 * identity_set.c
 *	  A set of identities in memory: 12 bytes each, 86 to 92 % full when large.
 *
 * Open addressing with linear probing in one array, in which identities stand in
 * order (Amble and Knuth, Ordered hash tables, 1974): the home of one is where its
 * first word lies in the range of all, so homes have the order of identities.  A look-up
 * that meets a greater one is over, which keeps it short in an array that is nearly full,
 * and the array may have any length: it grows by a sixteenth, in place and in one
 * sequential pass.  Some places behind the last home take what is
 * pushed out.  Removal shifts what follows back instead of leaving tombstones, so that
 * the set is the same as if the identity had never been in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/mman.h>

#include "utils/memutils.h"

#include "apply/identity.h"

#define FIRST_HOMES		 64
#define MAX_FULL_PERCENT 92
#define HUGE_PAGE_BYTES	 (2 * 1024 * 1024)

/* Arrays with so many homes grow by a sixteenth, others are doubled. */
#define LARGE_HOMES (1024 * 1024)

/* Places behind the last home.  The array grows when one more would be needed. */
#define MAX_SPARE 1024

struct IdentitySet
{
	Identity *places; /* all zeros: empty */
	uint64 nhomes;
	uint64 nplaces; /* with the spare ones */
	int64 count;
};

/* The first two words, which decide the order but for one pair in 2^64. */
static inline uint64
beginning(const Identity *identity)
{
	return (uint64) identity->words[0] << 32 | identity->words[1];
}

static inline bool
is_before(const Identity *left, const Identity *right)
{
	return beginning(left) < beginning(right) ||
		   (beginning(left) == beginning(right) && left->words[2] < right->words[2]);
}

static inline uint64
home_of(const IdentitySet *set, const Identity *identity)
{
	return identity->words[0] * set->nhomes >> 32;
}

static uint64
places_for(uint64 nhomes)
{
	return nhomes + Min(nhomes, MAX_SPARE);
}

/* Lookups go all over the places, and in pages of 4 kB most would also miss the
 * processor's table of pages: large arrays ask for huge ones. */
static void
ask_for_huge_pages(Identity *places, Size bytes)
{
#ifdef MADV_HUGEPAGE
	if (bytes >= 2 * HUGE_PAGE_BYTES)
	{
		char *from = (char *) TYPEALIGN(HUGE_PAGE_BYTES, places);
		char *to = (char *) TYPEALIGN_DOWN(HUGE_PAGE_BYTES, (char *) places + bytes);

		(void) madvise(from, to - from, MADV_HUGEPAGE);
	}
#endif
}

/* Makes an empty set in the context. */
IdentitySet *
identity_set_create(MemoryContext context)
{
	IdentitySet *set = MemoryContextAllocZero(context, sizeof(IdentitySet));

	set->nhomes = FIRST_HOMES;
	set->nplaces = places_for(FIRST_HOMES);
	set->places = MemoryContextAllocZero(context, set->nplaces * sizeof(Identity));
	return set;
}

/* Frees a set. */
void
identity_set_destroy(IdentitySet *set)
{
	pfree(set->places);
	pfree(set);
}

/* Finds the place where an identity is, or else belongs: that is empty, has a greater
 * one, or lies behind the last. */
static inline uint64
find_place(const IdentitySet *set, const Identity *identity)
{
	uint64 at = home_of(set, identity);

	Assert(!identity_is_empty(identity));
	while (at < set->nplaces && !identity_is_empty(&set->places[at]) &&
		   is_before(&set->places[at], identity))
		at++;
	return at;
}

static inline bool
is_at(const IdentitySet *set, uint64 at, const Identity *identity)
{
	return at < set->nplaces && identity_equals(&set->places[at], identity);
}

/* Lets the processor fetch an identity's place while it does other things. */
void
identity_set_prefetch(const IdentitySet *set, const Identity *identity)
{
	__builtin_prefetch(&set->places[home_of(set, identity)]);
}

/* Tells whether the identity is in the set. */
bool
identity_set_has(const IdentitySet *set, const Identity *identity)
{
	return is_at(set, find_place(set, identity), identity);
}

/* Has the array have more homes.  The set is as it was if memory runs out. */
static void
grow(IdentitySet *set, uint64 nhomes)
{
	uint64 nold = set->nplaces;
	uint64 nplaces = places_for(nhomes);
	uint64 nnew = nplaces - nold;
	uint64 free = 0;

	set->places = repalloc_huge(set->places, nplaces * sizeof(Identity));
	ask_for_huge_pages(set->places, nplaces * sizeof(Identity));
	set->nhomes = nhomes;
	set->nplaces = nplaces;
	/* All move to the end, and from there to their places: no home moves by more than
	 * the number of new ones, so none is written over that is still to be moved. */
	memmove(&set->places[nnew], set->places, nold * sizeof(Identity));
	memset(set->places, 0, nnew * sizeof(Identity));
	for (uint64 from = nnew; from < nplaces; from++)
	{
		Identity identity = set->places[from];
		uint64 to;

		if (identity_is_empty(&identity))
			continue;
		to = Max(free, home_of(set, &identity));
		memset(&set->places[from], 0, sizeof(Identity));
		set->places[to] = identity;
		free = to + 1;
	}
}

/* Finds the first empty place from one on; nplaces: there is none. */
static uint64
find_empty(const IdentitySet *set, uint64 at)
{
	while (at < set->nplaces && !identity_is_empty(&set->places[at]))
		at++;
	return at;
}

/* Makes room for so many identities at once, which costs less than growing. */
void
identity_set_expect(IdentitySet *set, int64 count)
{
	uint64 nhomes = count * 100 / MAX_FULL_PERCENT + 1;

	if (nhomes > set->nhomes)
		grow(set, nhomes);
}

/* Adds an identity; result is false if it was there. */
bool
identity_set_add(IdentitySet *set, const Identity *identity)
{
	uint64 at = find_place(set, identity);
	uint64 end;

	if (is_at(set, at, identity))
		return false;
	end = find_empty(set, at);
	while (end == set->nplaces || (uint64) (set->count + 1) * 100 > set->nhomes * MAX_FULL_PERCENT)
	{
		grow(set, set->nhomes + (set->nhomes < LARGE_HOMES ? set->nhomes : set->nhomes / 16));
		at = find_place(set, identity);
		end = find_empty(set, at);
	}
	memmove(&set->places[at + 1], &set->places[at], (end - at) * sizeof(Identity));
	set->places[at] = *identity;
	set->count++;
	return true;
}

/* Removes an identity; result is false if it was not there. */
bool
identity_set_remove(IdentitySet *set, const Identity *identity)
{
	uint64 at = find_place(set, identity);
	uint64 end = at + 1;

	if (!is_at(set, at, identity))
		return false;
	/* those that are not at home move by one */
	while (end < set->nplaces && !identity_is_empty(&set->places[end]) &&
		   home_of(set, &set->places[end]) < end)
		end++;
	memmove(&set->places[at], &set->places[at + 1], (end - at - 1) * sizeof(Identity));
	memset(&set->places[end - 1], 0, sizeof(Identity));
	set->count--;
	return true;
}

/* Removes everything and keeps the memory. */
void
identity_set_clear(IdentitySet *set)
{
	if (set->count > 0)
		memset(set->places, 0, set->nplaces * sizeof(Identity));
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
	return sizeof(IdentitySet) + set->nplaces * sizeof(Identity);
}
