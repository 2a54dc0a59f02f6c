/*-------------------------------------------------------------------------
 *
 * places.c
 *	  All places of a locator in memory, from the first to the last reference.
 *
 * Places are read-only once they are finished.  A statement that has begun with
 * them keeps a reference, so that it gets one answer to the end even when the
 * place table has changed meanwhile.
 *
 * Rings are many and small: they are carved from chunks, whose size grows with
 * what is stored.  All lies in one memory context, so that its size is known
 * exactly and nothing can be left behind.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include "utils/memutils.h"

#define FIRST_CHUNK_BYTES (4 * 1024)
#define LAST_CHUNK_BYTES  (1024 * 1024)

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

/* An array that lives as long as the places, made larger. */
static void *
grow(Places *places, void *array, Size bytes)
{
	return array ? repalloc_huge(array, bytes) : MemoryContextAllocHuge(places->context, bytes);
}

/*
 * Add a place, whose key, rings and geometry live in the memory of the places.
 * They come in the order of preference.
 */
void
places_add(Places *places, const Place *place, const Box *box)
{
	if (places->count == places->capacity)
	{
		places->capacity = Max(16, places->capacity * 2);
		places->places = grow(places, places->places, (Size) places->capacity * sizeof(Place));
		places->level_boxes[0] =
			grow(places, places->level_boxes[0], (Size) places->capacity * sizeof(Box));
	}
	places->places[places->count] = *place;
	places->level_boxes[0][places->count] = *box;
	places->count++;
}

/*
 * Build the tree, and keep the places until the last reference is released.  The
 * caller has the first.
 */
void
places_finish(Places *places)
{
	tree_build(places);
	MemoryContextSetParent(places->context, TopMemoryContext);
	places->references = 1;
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
