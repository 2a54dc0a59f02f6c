/*-------------------------------------------------------------------------
 *
 * locator_definition.c
 *	  A locator's definition, loaded from its view and its row of the catalog.
 *
 * The view detect_query.<name> gives key and place of each place, in the order
 * of preference; columns, filter and order are resolved in it, once and for all.
 * It works with the rights of whoever reads it.  Everything that can be read off
 * the view is; the row says how the view is used.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "common/hashfn.h"
#include "parser/parse_func.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Columns of detect._locator. */
enum
{
	COLUMN_NAME = 2,
	COLUMN_PLACE_TABLE = 3,
	COLUMN_MODE = 6,
	COLUMN_WITHIN = 7,
	COLUMN_SRID = 11,
	COLUMN_MAX_AGE = 12
};

const char *const locator_mode_names[LOCATOR_MODES] = {"contains", "covers", "within"};

static void
refuse_view(Oid view)
{
	const char *name = get_rel_name(view);

	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					name ? errmsg("\"%s\" is not the view of a locator", name)
						 : errmsg("relation with OID %u is not the view of a locator", view),
					errhint("Call the functions that detect.create_locator has made.")));
}

/*
 * A mode by its name; LOCATOR_MODES when there is no such mode.
 */
LocatorMode
locator_mode_from_name(const char *name)
{
	LocatorMode mode = 0;

	while (mode < LOCATOR_MODES && strcmp(locator_mode_names[mode], name) != 0)
		mode++;
	return mode;
}

/* Take what a row of detect._locator says. */
static void
read_row(Locator *locator, HeapTuple tuple, TupleDesc tupdesc)
{
	bool isnull;
	Datum value;

	locator->place_table =
		DatumGetObjectId(heap_getattr(tuple, COLUMN_PLACE_TABLE, tupdesc, &isnull));
	locator->mode = locator_mode_from_name(
		TextDatumGetCString(heap_getattr(tuple, COLUMN_MODE, tupdesc, &isnull)));
	value = heap_getattr(tuple, COLUMN_WITHIN, tupdesc, &isnull);
	locator->within = isnull ? 0 : DatumGetFloat8(value);
	locator->srid = DatumGetInt32(heap_getattr(tuple, COLUMN_SRID, tupdesc, &isnull));
	value = heap_getattr(tuple, COLUMN_MAX_AGE, tupdesc, &isnull);
	locator->max_age_us = -1;
	if (!isnull)
		locator->max_age_us = (int64) (DatumGetFloat8(DirectFunctionCall2(
										   interval_part, CStringGetTextDatum("epoch"), value)) *
									   USECS_PER_SEC);
}

/* Find the row of a locator; false when there is none. */
static bool
find_row(Locator *locator, const char *name)
{
	Relation rel = table_open(catalog_relation("_locator", false), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;
	bool found = false;

	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Datum value = heap_getattr(tuple, COLUMN_NAME, RelationGetDescr(rel), &isnull);

		found = strcmp(TextDatumGetCString(value), name) == 0;
		if (!found)
			continue;
		read_row(locator, tuple, RelationGetDescr(rel));
		locator->definition =
			hash_combine64(HeapTupleHeaderGetRawXmin(tuple->t_data),
						   ((uint64) ItemPointerGetBlockNumber(&tuple->t_self) << 16) |
							   ItemPointerGetOffsetNumber(&tuple->t_self));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* The schema of a type. */
static Oid
type_namespace(Oid type)
{
	HeapTuple tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid namespace;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	ReleaseSysCache(tuple);
	return namespace;
}

/*
 * Whether a type is one of PostGIS, whose bytes can be read: anybody can give another
 * one its name.
 */
bool
is_postgis_type(Oid type)
{
	Oid extension = getExtensionOfObject(TypeRelationId, type);

	return OidIsValid(extension) && extension == get_extension_oid("postgis", true);
}

/*
 * The name of the schema of a type of PostGIS, which is that of its functions.
 */
char *
type_schema(Oid type)
{
	return get_namespace_name(type_namespace(type));
}

static Oid
type_in(Oid namespace, const char *name)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name),
						   ObjectIdGetDatum(namespace));
}

/*
 * Load the definition of a locator whose view is known.
 */
void
locator_load(Locator *locator)
{
	char *name = get_rel_name(locator->view);
	Oid schema = get_namespace_oid(DETECT_QUERY_SCHEMA, false);
	Oid namespace;

	if (name == NULL || get_rel_namespace(locator->view) != schema || !find_row(locator, name))
		refuse_view(locator->view);
	strlcpy(locator->name, name, NAMEDATALEN);
	locator->relkind = get_rel_relkind(locator->place_table);
	/* read by their numbers here and by their names there: nobody shall have swapped them */
	locator->key_type = getBaseType(get_atttype(locator->view, LOCATOR_KEY_COLUMN));
	locator->place_type = get_atttype(locator->view, LOCATOR_PLACE_COLUMN);
	if (get_attnum(locator->view, LOCATOR_KEY) != LOCATOR_KEY_COLUMN ||
		get_attnum(locator->view, LOCATOR_PLACE) != LOCATOR_PLACE_COLUMN ||
		!is_postgis_type(locator->place_type))
		refuse_view(locator->view);
	get_typlenbyval(locator->key_type, &locator->key_length, &locator->key_by_value);
	namespace = type_namespace(locator->place_type);
	locator->geometry_type = type_in(namespace, "geometry");
	locator->geography_type = type_in(namespace, "geography");
	locator->globe = locator->place_type == locator->geography_type;
	locator->has_row_security = false;
	locator->is_loaded = true;
	locator->is_suspect = true;
}

/*
 * The views of the locators that depend on a table, a partition of another one
 * perhaps, as a list of OIDs.
 */
List *
locator_views_of_table(Oid relid)
{
	Oid schema = get_namespace_oid(DETECT_QUERY_SCHEMA, true);
	Oid catalog = catalog_relation("_locator", true);
	List *tables = list_make1_oid(relid);
	List *views = NIL;
	Relation rel;
	SysScanDesc scan;
	HeapTuple tuple;

	if (!OidIsValid(catalog))
		return NIL;
	if (get_rel_relispartition(relid))
		tables = list_concat(tables, get_partition_ancestors(relid));
	rel = table_open(catalog, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		TupleDesc tupdesc = RelationGetDescr(rel);
		bool isnull;
		Datum table = heap_getattr(tuple, COLUMN_PLACE_TABLE, tupdesc, &isnull);
		Datum name = heap_getattr(tuple, COLUMN_NAME, tupdesc, &isnull);
		Oid view;

		if (!list_member_oid(tables, DatumGetObjectId(table)))
			continue;
		view = get_relname_relid(TextDatumGetCString(name), schema);
		if (OidIsValid(view))
			views = lappend_oid(views, view);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return views;
}

/*
 * A function of PostGIS by its name and the types of its arguments.
 */
Oid
postgis_function(const Locator *locator, const char *name, int nargs, const Oid *types)
{
	List *qualified =
		list_make2(makeString(type_schema(locator->place_type)), makeString(pstrdup(name)));

	return LookupFuncName(qualified, nargs, types, false);
}

/*
 * Which function of PostGIS says that a place has a point.
 */
const char *
locator_predicate(const Locator *locator)
{
	return locator->mode == LOCATOR_CONTAINS ? "st_contains" : "st_covers";
}

/*
 * The name of PostGIS's schema, quoted.
 */
const char *
postgis_schema(const Locator *locator)
{
	return quote_identifier(type_schema(locator->place_type));
}

/*
 * The name of a locator's view, quoted.
 */
char *
locator_view_name(const Locator *locator)
{
	return quote_qualified_identifier(DETECT_QUERY_SCHEMA, locator->name);
}

/*
 * A copy of the query of a locator's view.
 */
Query *
locator_view_query(const Locator *locator)
{
	Relation view = relation_open(locator->view, AccessShareLock);
	Query *query = copyObject(get_view_query(view));

	relation_close(view, AccessShareLock);
	return query;
}
