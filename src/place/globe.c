/*-------------------------------------------------------------------------
 *
 * globe.c
 *	  Positions on the unit sphere, and what distances on the globe mean there.
 *
 * PostGIS keeps the boxes of geographies on the unit sphere, and orders by the
 * distance on a sphere, but decides ST_DWithin on the spheroid.  Here are only
 * bounds, wide enough for both; PostGIS decides.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place.h"

#include <math.h>

/* Of a half turn. */
#define DEGREES 180.0

/* Less than any radius of curvature of the earth, and less than the radius of
 * PostGIS's sphere by more than the flattening. */
#define SMALLEST_RADIUS_M 6330000.0

/* What rounding may add to a chord. */
#define CHORD_ROUNDING 1e-6

/*
 * Where on the unit sphere a longitude and a latitude in degrees lie.
 */
void
globe_position(double longitude, double latitude, double at[3])
{
	double lambda = M_PI * longitude / DEGREES;
	double phi = M_PI * latitude / DEGREES;

	at[0] = cos(phi) * cos(lambda);
	at[1] = cos(phi) * sin(lambda);
	at[2] = sin(phi);
}

/*
 * A chord of the unit sphere that is at least as long as a distance in metres.
 */
double
globe_chord(double distance_m)
{
	double angle = distance_m / SMALLEST_RADIUS_M;

	return CHORD_ROUNDING + (angle < M_PI ? 2 * sin(angle / 2) : 2);
}

/*
 * How far an arc of the unit sphere rises above its chord at most, from the square
 * of the chord; a little more for rounding.
 */
double
globe_rise(double chord2)
{
	return CHORD_ROUNDING + 1 - sqrt(Max(1 - chord2 / 4, 0));
}
