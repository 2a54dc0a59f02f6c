/*-------------------------------------------------------------------------
 *
 * places.c
 *	  All places of a locator in memory, from the first to the last reference.
 *
 * A statement that has begun with places keeps a reference, so that it gets one
 * answer to the end even when the place table has changed meanwhile.  So they are
 * read-only, but for an update while the locator has the only reference: places
 * whose rows are gone are marked, new ones go into a second, small tree.  Once an
 * eighth of the places has come or gone that way they are worn, and are built
 * all again: so a look-up never takes much longer than at first.  During an update
 * their memory belongs to the caller's, so that an error leaves nothing behind.
 *
 * Rings are many and small: they are carved from chunks, whose size grows with
 * what is stored.  All lies in one memory context, so that its size is known
 * exactly and nothing can be left behind.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include "fmgr.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#define FIRST_CHUNK_BYTES (4 * 1024)
#define LAST_CHUNK_BYTES  (1024 * 1024)

/* Which share of the places may come or go before they are worn: 1 / this. */
#define WEAR 8

/*
 * Make places without any, in the current memory context.  The caller adds some,
 * then calls places_finish.
 */
Places *
places_create(bool globe)
{
	MemoryContext context =
		AllocSetContextCreate(CurrentMemoryContext, "detect places", ALLOCSET_SMALL_SIZES);
	Places *places = MemoryContextAllocZero(context, sizeof(Places));

	places->context = context;
	places->globe = globe;
	places->chunk_bytes = FIRST_CHUNK_BYTES;
	return places;
}

/*
 * Memory that lives as long as the places.
 */
void *
places_alloc(Places *places, Size bytes)
{
	void *result;

	bytes = MAXALIGN(bytes);
	places->used_bytes += bytes;
	if (bytes > places->chunk_bytes / 4)
		return MemoryContextAllocHuge(places->context, bytes);
	if (bytes > places->free_bytes)
	{
		places->free = MemoryContextAlloc(places->context, places->chunk_bytes);
		places->free_bytes = places->chunk_bytes;
		places->chunk_bytes = Min(places->chunk_bytes * 2, LAST_CHUNK_BYTES);
	}
	result = places->free;
	places->free += bytes;
	places->free_bytes -= bytes;
	return result;
}

/*
 * A copy of a value that lives as long as the places.
 */
Datum
places_copy(Places *places, Datum value, bool by_value, int length)
{
	Size bytes;
	void *copy;

	if (by_value)
		return value;
	if (length == -1) /* what a row keeps out of line goes with the row */
		value = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
	bytes = datumGetSize(value, by_value, length);
	copy = places_alloc(places, bytes);
	memcpy(copy, DatumGetPointer(value), bytes);
	return PointerGetDatum(copy);
}

/* An array that lives as long as the places, made larger. */
static void *
grow(Places *places, void *array, Size bytes)
{
	return array ? repalloc_huge(array, bytes) : MemoryContextAllocHuge(places->context, bytes);
}

/* Make room for one more place and its tile. */
static void
make_room(Places *places)
{
	if (places->count == places->capacity)
	{
		/* an update adds few */
		places->capacity =
			Max(16, places->capacity +
						(places->first_count > 0 ? places->capacity / WEAR : places->capacity));
		places->places = grow(places, places->places, (Size) places->capacity * sizeof(Place));
		if (places->norder > 0)
			places->order = grow(places, places->order,
								 (Size) places->capacity * places->norder * sizeof(NullableDatum));
	}
	if (places->ntiles == places->tile_capacity)
	{
		places->tile_capacity = Max(16, places->tile_capacity * 2);
		places->tiles = grow(places, places->tiles, (Size) places->tile_capacity * sizeof(Tile));
	}
}

/*
 * Add a place, whose key, rings and geometry live in the memory of the places.
 * The result is its index.  The caller sets what decides on its rank, if they
 * do not come in the order of preference.
 */
int
places_add(Places *places, const Place *place, const Box *box)
{
	int index = places->count;

	make_room(places);
	places->places[index] = *place;
	places->places[index].rank = index;
	places->tiles[places->ntiles++] = (Tile){*box, index};
	places->count++;
	return index;
}

/*
 * Mark a place whose row is gone.
 */
void
places_remove(Places *places, int index)
{
	Place *place = &places->places[index];

	Assert(place->shape != SHAPE_GONE);
	for (uint32 i = 0; i < place->nrings; i++)
		places->vertices -= globe_has(place) ? place->arcs[i].count : place->rings[i].count;
	place->shape = SHAPE_GONE;
	places->ngone++;
}

/*
 * Build the tree, and keep the places until the last reference is released.  The
 * caller has the first.
 */
void
places_finish(Places *places)
{
	tree_build(places, &places->tree);
	if (places->tiles)
		pfree(places->tiles);
	places->tiles = NULL;
	places->ntiles = 0;
	places->tile_capacity = 0;
	places->first_count = places->count;
	places->first_bytes = places->used_bytes;
	MemoryContextSetParent(places->context, TopMemoryContext);
	places->references = 1;
}

/*
 * Begin to add and remove places; the caller has the only reference.  Until the
 * update is finished they live no longer than the current memory context.
 */
void
places_begin_update(Places *places)
{
	Assert(places->references == 1);
	MemoryContextSetParent(places->context, CurrentMemoryContext);
}

/* Drop the tiles of places that are gone. */
static void
drop_tiles(Places *places)
{
	int kept = 0;

	for (int i = 0; i < places->ntiles; i++)
	{
		if (places->places[places->tiles[i].place].shape != SHAPE_GONE)
			places->tiles[kept++] = places->tiles[i];
	}
	places->ntiles = kept;
}

/*
 * Have look-ups find what was added, and nothing that was removed.
 */
void
places_finish_update(Places *places)
{
	drop_tiles(places);
	tree_free(&places->later);
	tree_build(places, &places->later);
	MemoryContextSetParent(places->context, TopMemoryContext);
}

/*
 * Whether so much has come and gone since places were built that they had better
 * be built again.
 */
bool
places_are_worn(const Places *places)
{
	int added = places->count - places->first_count;

	return added + places->ngone > places->first_count / WEAR ||
		   places->used_bytes > places->first_bytes + places->first_bytes / WEAR;
}

/*
 * The bytes that places take.
 */
Size
places_bytes(const Places *places)
{
	return MemoryContextMemAllocated(places->context, true);
}

void
places_retain(Places *places)
{
	places->references++;
}

/*
 * Give a reference back; the last one frees the places.
 */
void
places_release(Places *places)
{
	Assert(places->references > 0);
	if (--places->references == 0)
		MemoryContextDelete(places->context);
}
