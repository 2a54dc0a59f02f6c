/*-------------------------------------------------------------------------
 *
 * build.c
 *	  From a place table to places in memory.
 *
 * The rows of the table are read as they lie (place_rows.c), or the view of the
 * locator where that can't be: over another view, a foreign table, or where few
 * rows are places.  Both are done with the caller's rights, some rows at a time,
 * so that a table larger than the memory that is set costs no more than that.
 *
 *-------------------------------------------------------------------------
 */
#include "place/place_rows.h"

#include <math.h>

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#define ROWS_PER_FETCH 500

#define BYTES_PER_KILOBYTE 1024

/* How far a position on the globe may be beside the box that PostGIS stores. */
#define GLOBE_BOX_ROUNDING 1e-6

static void
refuse_srid(const Locator *locator, int32 srid)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("table \"%s\" has a place in SRID %d, locator \"%s\" is in %d",
						   get_rel_name(locator->place_table), srid, locator->name, locator->srid),
					errhint("Bring all places into one system with ST_Transform or ST_SetSRID.")));
}

/* The box of a point or a line of two points on the globe, which PostGIS stores
 * none for: of their positions, and of what an arc rises above its chord. */
static void
globe_box(const Serialized *serialized, Box *box)
{
	const char *at = serialized->body + sizeof(uint32);
	uint32 count = serialized_uint32(serialized, &at);
	Point2 points[2];
	double ends[2][3];
	double chord2 = 0;

	if (count == 0 || count > lengthof(points))
		return;
	serialized_points(serialized, &at, count, points);
	globe_position(points[0].x, points[0].y, ends[0]);
	globe_position(points[count - 1].x, points[count - 1].y, ends[1]);
	for (int axis = 0; axis < 3; axis++)
		chord2 += (ends[0][axis] - ends[1][axis]) * (ends[0][axis] - ends[1][axis]);
	for (int axis = 0; axis < 3; axis++)
	{
		double rise = globe_rise(chord2) + GLOBE_BOX_ROUNDING;

		box_round(box, axis, Min(ends[0][axis], ends[1][axis]) - rise,
				  Max(ends[0][axis], ends[1][axis]) + rise);
	}
}

/* The box of a place within which only PostGIS knows; one without is looked at
 * always. */
static void
read_box(const Serialized *serialized, bool globe, Box *box)
{
	int axes = globe ? 3 : 2;
	double rounding = globe ? GLOBE_BOX_ROUNDING : 0;

	for (int axis = 0; axis < 3; axis++)
		box_round(box, axis, -INFINITY, INFINITY);
	if (globe && !serialized->has_box && serialized->type <= SERIALIZED_LINE)
		globe_box(serialized, box);
	for (int axis = 0; serialized->has_box && axis < axes; axis++)
	{
		float min = serialized->box[2 * axis];
		float max = serialized->box[2 * axis + 1];

		if (isfinite(min) && isfinite(max))
			box_round(box, axis, min - rounding, max + rounding);
	}
}

/*
 * Add a place by its key and its shape, as the view of a locator gives them.  The
 * result is its index.
 */
int
places_add_row(const Locator *locator, Places *places, Datum key, Datum geometry)
{
	int index;
	void *bytes = PG_DETOAST_DATUM(geometry);
	Serialized serialized;
	Place place = {0};
	Box box;

	serialized_read(bytes, &serialized);
	if (serialized.srid != locator->srid)
		refuse_srid(locator, serialized.srid);
	if (!place_read(places, &serialized, &place, &box) &&
		(locator->mode != LOCATOR_WITHIN || !globe_read(places, &serialized, &place, &box)))
		place.shape = SHAPE_OTHER;
	if (place.shape == SHAPE_OTHER || place.shape == SHAPE_AREA)
		read_box(&serialized, places->globe, &box);
	/* a line contains points too, and which of two is nearer may be close */
	if (place.shape != SHAPE_POLYGON || locator->mode == LOCATOR_WITHIN)
		place.geometry = places_copy(places, PointerGetDatum(bytes), false, -1);
	place.key = places_copy(places, key, locator->key_by_value, locator->key_length);
	index = places_add(places, &place, &box);
	if (bytes != DatumGetPointer(geometry))
		pfree(bytes);
	return index;
}

/* Add the rows that were fetched. */
static void
add_rows(const Locator *locator, Places *places)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc tupdesc = SPI_tuptable->tupdesc;
		bool has_no_key;
		bool has_no_place;
		Datum key = SPI_getbinval(tuple, tupdesc, 1, &has_no_key);
		Datum place = SPI_getbinval(tuple, tupdesc, 2, &has_no_place);

		CHECK_FOR_INTERRUPTS();
		/* the view leaves these out, unless its owner has changed it */
		if (!has_no_key && !has_no_place)
			(void) places_add_row(locator, places, key, place);
	}
}

/* What reads all places, the preferred first. */
static const char *
build_query(const Locator *locator)
{
	return psprintf("SELECT " LOCATOR_KEY ", " LOCATOR_PLACE " FROM %s "
					"WHERE NOT %s.st_isempty(" LOCATOR_PLACE "::%s)%s",
					locator_view_name(locator), postgis_schema(locator),
					format_type_extended(locator->geometry_type, -1, FORMAT_TYPE_FORCE_QUALIFY),
					locator->mode == LOCATOR_WITHIN ? " ORDER BY " LOCATOR_KEY : "");
}

static bool
has_policy(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
		return ((RangeTblEntry *) node)->securityQuals != NIL;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, has_policy, context, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, has_policy, context);
}

/* Whether policies decide which rows a plan gives: to whom, and with which settings. */
static bool
has_row_security(SPIPlanPtr plan)
{
	ListCell *cell;

	foreach(cell, SPI_plan_get_plan_sources(plan))
	{
		const CachedPlanSource *source = lfirst(cell);
		ListCell *query;

		foreach(query, source->query_list)
		{
			if (source->dependsOnRLS && has_policy(lfirst(query), NULL))
				return true;
		}
	}
	return false;
}

/* Read all places through the view; false when they take more bytes than the
 * limit, or row security is behind it. */
static bool
read_view(Locator *locator, Places *places, Size limit)
{
	SPIPlanPtr plan = SPI_prepare_cursor(build_query(locator), 0, NULL, CURSOR_OPT_NO_SCROLL);
	Portal portal;
	bool fits;

	if (plan == NULL)
		elog(ERROR, "could not prepare the query of locator \"%s\"", locator->name);
	locator->has_row_security = has_row_security(plan);
	if (locator->has_row_security)
		return false;
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	do
	{
		SPI_cursor_fetch(portal, true, ROWS_PER_FETCH);
		add_rows(locator, places);
		SPI_freetuptable(SPI_tuptable);
		fits = places_bytes(places) <= limit;
	} while (SPI_processed > 0 && fits);
	SPI_cursor_close(portal);
	return fits;
}

/* How many bytes are left for the places of a locator, which has none now. */
static Size
bytes_left(void)
{
	Size limit = (Size) locator_memory_kilobytes() * BYTES_PER_KILOBYTE;
	Size others = locator_bytes();

	return others < limit ? limit - others : 0;
}

/*
 * Read all places of a locator under a snapshot.  The result has one reference,
 * the caller's; it is NULL when the places would take more memory than is set.
 */
Places *
places_build(Locator *locator, Snapshot snapshot)
{
	Size limit = bytes_left();
	Places *places;
	bool fits;

	PushActiveSnapshot(snapshot);
	SPI_connect();
	fits = places_read_rows(locator, snapshot, limit, &places);
	if (places == NULL)
	{
		places = places_create(locator->globe);
		places->horizon = snapshot->xmax;
		fits = read_view(locator, places, limit);
	}
	if (fits)
	{
		locator->stats.places_built += places->count;
		places_finish(places);
	}
	SPI_finish(); /* frees the places that did not fit */
	PopActiveSnapshot();
	return fits ? places : NULL;
}

/*
 * Bring the places of a locator, which has given them to the caller, up to a
 * snapshot: only rows that have changed are read.  False when they had better be
 * built again; they are freed then.
 */
bool
places_update(Locator *locator, Places *places, Snapshot snapshot)
{
	int before = places->count;
	bool is_done;

	PushActiveSnapshot(snapshot);
	SPI_connect(); /* whose memory has the places until they are right */
	places_begin_update(places);
	is_done = places_update_rows(locator, snapshot, bytes_left(), places);
	if (is_done)
	{
		locator->stats.places_built += places->count - before;
		places_finish_update(places);
	}
	SPI_finish();
	PopActiveSnapshot();
	return is_done;
}
