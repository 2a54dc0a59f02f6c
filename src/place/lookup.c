/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  What a statement looks up with: its places, and PostGIS where it must be.
 *
 * The functions behind a locator may be called by anybody with anything, so they
 * trust nothing: the locator must be one, the type of key is the result type, and
 * the caller must be allowed to read what the locator reads.  That is checked
 * once a statement, which is told from the one before by its snapshot.
 *
 * All calls of a statement find the same places: the locator keeps those of the
 * statement that began last.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include <math.h>

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#define MAX_LONGITUDE 180.0
#define MAX_LATITUDE  90.0

/* The place, or x of x and y. */
#define POINT_ARGUMENT 2

/* ---------------------------------------------------------------------
 * A statement begins
 * ---------------------------------------------------------------------
 */

/* All look-ups that hold places. */
static dlist_head lookups = DLIST_STATIC_INIT(lookups);

/* Raise an error unless the caller may read what the locator reads. */
static void
check_select(const Locator *locator)
{
	Relation view = relation_open(locator->view, AccessShareLock);
	Query *query = get_view_query(view);

	if (pg_class_aclcheck(locator->view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, RelationGetRelationName(view));
	compat_check_permissions(query);
	relation_close(view, AccessShareLock);
}

/* Give back what a statement held, which is over, or whose memory goes. */
static void
end_lookup(void *arg)
{
	Lookup *lookup = arg;

	lookup->has_begun = false;
	if (lookup->places == NULL)
		return;
	places_release(lookup->places);
	lookup->places = NULL;
	dlist_delete(&lookup->node);
}

/* The statement that runs now. */
static StatementId
present_statement(void)
{
	Snapshot snapshot = GetActiveSnapshot();
	StatementId statement;

	memset(&statement, 0, sizeof(statement));
	statement.user = GetUserId();
	statement.transaction = compat_lxid();
	statement.curcid = snapshot->curcid;
	statement.xmin = snapshot->xmin;
	statement.xmax = snapshot->xmax;
	statement.xcnt = snapshot->xcnt;
	statement.subxcnt = snapshot->subxcnt;
	statement.undone_changes = changes_undone();
	return statement;
}

/* End those of other statements that have the same memory, as all expressions of PL/pgSQL
 * have until their transaction ends: what they hold would pile up. */
static void
end_others(const Lookup *lookup, const StatementId *statement)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &lookups)
	{
		Lookup *other = dlist_container(Lookup, node, iter.cur);

		if (other != lookup && other->context == lookup->context &&
			!locator_is_same_statement(&other->statement, statement))
			end_lookup(other);
	}
}

/* Raise an error unless the function was declared for this locator. */
static void
check_types(FunctionCallInfo fcinfo, const Locator *locator, bool has_xy)
{
	Oid key_type = get_fn_expr_argtype(fcinfo->flinfo, 1);
	Oid place_type = get_fn_expr_argtype(fcinfo->flinfo, POINT_ARGUMENT);
	bool gives_array = get_func_rettype(fcinfo->flinfo->fn_oid) == ANYARRAYOID;

	if ((gives_array ? get_element_type(key_type) : key_type) != locator->key_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the keys of locator \"%s\" are of type %s, not %s", locator->name,
						format_type_be(locator->key_type), format_type_be(key_type)),
				 errhint("The column may have changed: drop the locator and create it again.")));
	if (!has_xy && place_type != locator->geometry_type && place_type != locator->geography_type)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("a locator takes a geometry or a geography, not %s",
							   format_type_be(place_type))));
}

/* The statement begins to look up. */
static void
begin(Lookup *lookup, FunctionCallInfo fcinfo, Oid view, bool has_xy, const StatementId *statement)
{
	bool is_changing = change_commit_is_under_way(view);
	Locator *locator;

	end_lookup(lookup);
	AcceptInvalidationMessages();
	end_others(lookup, statement);
	locator = locator_get(view);
	locator->is_stale |= is_changing;
	check_types(fcinfo, locator, has_xy);
	check_select(locator);
	lookup->places = locator_places(locator, statement);
	if (lookup->places)
	{
		places_retain(lookup->places);
		dlist_push_tail(&lookups, &lookup->node);
	}
	if (lookup->locator != locator)
	{
		/* places of another locator may be of another type */
		lookup->predicate.fn_oid = InvalidOid;
		lookup->distance.fn_oid = InvalidOid;
		lookup->dwithin.fn_oid = InvalidOid;
		lookup->cast.fn_oid = InvalidOid;
	}
	lookup->locator = locator;
	lookup->argument_type =
		has_xy ? InvalidOid : get_fn_expr_argtype(fcinfo->flinfo, POINT_ARGUMENT);
	lookup->statement = *statement;
	lookup->has_begun = true;
}

/*
 * What the statement that calls looks up with.  The first argument of the
 * function is the locator's view, the second of its keys' type or an array of
 * it; has_xy tells that x and y are given instead of a place.
 */
Lookup *
lookup_begin(FunctionCallInfo fcinfo, bool has_xy)
{
	Lookup *lookup = fcinfo->flinfo->fn_extra;
	Oid view = PG_GETARG_OID(0);
	StatementId statement;

	if (lookup == NULL)
	{
		lookup = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Lookup));
		lookup->context = fcinfo->flinfo->fn_mcxt;
		lookup->on_end.func = end_lookup;
		lookup->on_end.arg = lookup;
		MemoryContextRegisterResetCallback(lookup->context, &lookup->on_end);
		fcinfo->flinfo->fn_extra = lookup;
	}
	statement = present_statement();
	if (!lookup->has_begun || lookup->locator->view != view ||
		!locator_is_same_statement(&lookup->statement, &statement))
		begin(lookup, fcinfo, view, has_xy, &statement);
	return lookup;
}

/* ---------------------------------------------------------------------
 * The point
 * ---------------------------------------------------------------------
 */

/* Whether a point can be anywhere. */
static bool
is_somewhere(const Lookup *lookup, double x, double y)
{
	if (!isfinite(x) || !isfinite(y))
		return false;
	return !lookup->locator->globe || (fabs(x) <= MAX_LONGITUDE && fabs(y) <= MAX_LATITUDE);
}

/* Take a point that is given by its coordinates; false when it is nowhere. */
static bool
take_xy(const Lookup *lookup, double x, double y, LookupPoint *point)
{
	point->x = x;
	point->y = y;
	point->is_point = true;
	point->datum = (Datum) 0;
	return is_somewhere(lookup, x, y);
}

/*
 * Take a point that is given as a place; false when it is nowhere.  Raises an
 * error when it is in another system than the places.
 */
static bool
take_place(const Lookup *lookup, Datum argument, LookupPoint *point)
{
	const Locator *locator = lookup->locator;
	void *bytes = PG_DETOAST_DATUM_PACKED(argument);
	Serialized serialized;
	Point2 at;

	serialized_read(bytes, &serialized);
	if (serialized.srid != locator->srid)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the point is in SRID %d, locator \"%s\" in %d", serialized.srid,
							   locator->name, locator->srid),
						serialized.srid > 0 && locator->srid > 0
							? errhint("Transform it: ST_Transform(…, %d).", locator->srid)
							: errhint("If it is in SRID %d indeed, say so: ST_SetSRID(…, %d).",
									  locator->srid, locator->srid)));
	point->is_point = serialized.type == SERIALIZED_POINT;
	point->datum = (Datum) 0;
	point->type = lookup->argument_type;
	if (!point->is_point || point->type == locator->place_type)
		point->datum = PointerGetDatum(bytes);
	if (!point->is_point)
		return true;
	if (!serialized_read_point(&serialized, &at))
		return false;
	point->x = at.x;
	point->y = at.y;
	return is_somewhere(lookup, at.x, at.y);
}

/*
 * Take the point from the arguments after the key: a place, or x and y as the
 * look-up has begun.  False when there is none, or it is nowhere.
 */
bool
lookup_point(const Lookup *lookup, FunctionCallInfo fcinfo, LookupPoint *point)
{
	if (PG_ARGISNULL(POINT_ARGUMENT))
		return false;
	if (OidIsValid(lookup->argument_type))
		return take_place(lookup, PG_GETARG_DATUM(POINT_ARGUMENT), point);
	return !PG_ARGISNULL(POINT_ARGUMENT + 1) &&
		   take_xy(lookup, PG_GETARG_FLOAT8(POINT_ARGUMENT), PG_GETARG_FLOAT8(POINT_ARGUMENT + 1),
				   point);
}

/* ---------------------------------------------------------------------
 * What only PostGIS knows
 * ---------------------------------------------------------------------
 */

/* Look a function of PostGIS up, once a statement. */
static void
prepare(Lookup *lookup, FmgrInfo *function, const char *name, int nargs, const Oid *types)
{
	if (!OidIsValid(function->fn_oid))
		fmgr_info_cxt(postgis_function(lookup->locator, name, nargs, types), function,
					  lookup->context);
}

/* The same of a function on two places. */
static void
prepare_on_places(Lookup *lookup, FmgrInfo *function, const char *name, int nargs)
{
	Oid type = lookup->locator->place_type;
	Oid types[4] = {type, type, FLOAT8OID, BOOLOID};

	prepare(lookup, function, name, nargs, types);
}

/*
 * The point as PostGIS takes it: of the type of the places.
 */
Datum
lookup_point_datum(Lookup *lookup, LookupPoint *point)
{
	const Locator *locator = lookup->locator;
	Oid types[3] = {FLOAT8OID, FLOAT8OID, INT4OID};

	if (point->datum == (Datum) 0)
	{
		prepare(lookup, &lookup->make_point, "st_point", 3, types);
		point->datum = FunctionCall3(&lookup->make_point, Float8GetDatum(point->x),
									 Float8GetDatum(point->y), Int32GetDatum(locator->srid));
		point->type = locator->geometry_type;
	}
	if (point->type != locator->place_type)
	{
		prepare(lookup, &lookup->cast, locator->globe ? "geography" : "geometry", 1, &point->type);
		point->datum = FunctionCall1(&lookup->cast, point->datum);
		point->type = locator->place_type;
	}
	return point->datum;
}

/*
 * Whether PostGIS finds the point in a place.
 */
bool
lookup_predicate(Lookup *lookup, const Place *place, LookupPoint *point)
{
	prepare_on_places(lookup, &lookup->predicate, locator_predicate(lookup->locator), 2);
	return DatumGetBool(
		FunctionCall2(&lookup->predicate, place->geometry, lookup_point_datum(lookup, point)));
}

/*
 * The distance by which PostGIS orders places.
 */
double
lookup_distance(Lookup *lookup, const Place *place, LookupPoint *point)
{
	prepare_on_places(lookup, &lookup->distance,
					  lookup->locator->globe ? "geography_distance_knn" : "st_distance", 2);
	return DatumGetFloat8(
		FunctionCall2(&lookup->distance, place->geometry, lookup_point_datum(lookup, point)));
}

/*
 * Whether PostGIS has a place within the locator's distance.
 */
bool
lookup_dwithin(Lookup *lookup, const Place *place, LookupPoint *point)
{
	const Locator *locator = lookup->locator;
	Datum datum = lookup_point_datum(lookup, point);

	prepare_on_places(lookup, &lookup->dwithin, "st_dwithin", locator->globe ? 4 : 3);
	if (locator->globe)
		return DatumGetBool(FunctionCall4(&lookup->dwithin, place->geometry, datum,
										  Float8GetDatum(locator->within), BoolGetDatum(true)));
	return DatumGetBool(
		FunctionCall3(&lookup->dwithin, place->geometry, datum, Float8GetDatum(locator->within)));
}
