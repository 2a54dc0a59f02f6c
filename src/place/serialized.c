/*-------------------------------------------------------------------------
 *
 * serialized.c
 *	  What PostGIS stores, read without PostGIS.
 *
 * The only file that knows the bytes of a geometry.  PostGIS can change them
 * only with a dump and restore: after the length come three bytes of SRID and
 * one of flags, eight more bytes of flags when a flag says so, a box of floats
 * when a flag says so, and then the body, in which types and counts are 4
 * bytes and coordinates are doubles.  Bytes that end too early raise an error.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include "compat.h"

#define FLAG_Z		  0x01
#define FLAG_M		  0x02
#define FLAG_BOX	  0x04
#define FLAG_GEODETIC 0x08
#define FLAG_EXTENDED 0x10 /* of version 2 */
#define FLAG_VERSION2 0x40

#define EXTENDED_FLAGS_BYTES 8

static void
refuse_bytes(void)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("a stored geometry ends too early")));
}

/* Copy bytes, and go on behind them. */
static inline void
take(const Serialized *serialized, const char **at, void *to, Size bytes)
{
	if (unlikely((Size) (serialized->end - *at) < bytes))
		refuse_bytes();
	memcpy(to, *at, bytes);
	*at += bytes;
}

/*
 * Take a count or a type out of a body.
 */
uint32
serialized_uint32(const Serialized *serialized, const char **at)
{
	uint32 value;

	take(serialized, at, &value, sizeof(value));
	return value;
}

/*
 * Take points out of a body; coordinates beyond x and y are left out.
 */
void
serialized_points(const Serialized *serialized, const char **at, uint32 count, Point2 *points)
{
	Size stride = serialized->dimensions * sizeof(double);

	if ((Size) (serialized->end - *at) / stride < count)
		refuse_bytes();
	for (uint32 i = 0; i < count; i++)
	{
		memcpy(&points[i], *at, sizeof(Point2));
		*at += stride;
	}
}

/*
 * Read the header of a geometry or geography that is not compressed and not out
 * of line.
 */
void
serialized_read(const void *bytes, Serialized *serialized)
{
	const char *at = VARDATA_ANY(bytes);
	uint8 head[4];
	uint32 srid;

	serialized->end = at + VARSIZE_ANY_EXHDR(bytes);
	take(serialized, &at, head, sizeof(head));
	/* 21 bits with a sign */
	srid = ((uint32) head[0] << 16) | ((uint32) head[1] << 8) | head[2];
	serialized->srid = (int32) (srid << 11) >> 11;
	serialized->dimensions = 2 + ((head[3] & FLAG_Z) != 0) + ((head[3] & FLAG_M) != 0);
	serialized->geodetic = (head[3] & FLAG_GEODETIC) != 0;
	serialized->has_box = (head[3] & FLAG_BOX) != 0;
	if ((head[3] & FLAG_VERSION2) && (head[3] & FLAG_EXTENDED))
	{
		char flags[EXTENDED_FLAGS_BYTES];

		take(serialized, &at, flags, sizeof(flags));
	}
	if (serialized->has_box)
		take(serialized, &at, serialized->box,
			 2 * sizeof(float) * (serialized->geodetic ? 3 : serialized->dimensions));
	serialized->body = at;
	take(serialized, &at, &serialized->type, sizeof(serialized->type));
}

/*
 * Read a point; false when it is empty.  The caller has looked at the type.
 */
bool
serialized_read_point(const Serialized *serialized, Point2 *point)
{
	const char *at = serialized->body + sizeof(uint32);
	uint32 count;

	take(serialized, &at, &count, sizeof(count));
	if (count == 0)
		return false;
	take(serialized, &at, point, sizeof(Point2));
	return true;
}
