/*-------------------------------------------------------------------------
 *
 * locator_arguments.c
 *	  The arguments of detect.create_locator, checked one by one.
 *
 * What depends on the rows of the place table is asked as the caller, so that
 * whoever may not read them learns nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator_create.h"

#include <math.h>

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#define LON_LAT_SRID 4326

/* The typmod of a column of PostGIS holds its SRID, with a sign. */
#define TYPMOD_SRID(typmod) ((((typmod) &0x0FFFFF00) - ((typmod) &0x10000000)) >> 8)

/* The arguments of create_locator, by number. */
static const char *const argument_names[] = {"name",	 "place_table", "key",		"geometry",
											 "mode",	 "within",		"priority", "filter",
											 "all_name", "max_age"};

/*
 * The arguments of a call of create_locator as SQL: what the history keeps of it.
 */
char *
locator_arguments_given(FunctionCallInfo fcinfo)
{
	return arguments_given(fcinfo, argument_names, lengthof(argument_names));
}

/* The column that the primary key consists of, or NULL. */
static char *
primary_key(Oid table)
{
	Relation rel = relation_open(table, AccessShareLock);
	Oid index_oid =
		rel->rd_rel->relkind == RELKIND_VIEW ? InvalidOid : compat_primary_key_index(rel);
	char *column = NULL;

	if (OidIsValid(index_oid))
	{
		Relation index = index_open(index_oid, AccessShareLock);

		if (index->rd_index->indnkeyatts == 1)
			column = get_attname(table, index->rd_index->indkey.values[0], false);
		index_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	return column;
}

/* Which type of PostGIS a type is. */
typedef enum PlaceType
{
	NOT_A_PLACE,
	GEOMETRY,
	GEOGRAPHY
} PlaceType;

static PlaceType
place_type(Oid type)
{
	HeapTuple tuple;
	PlaceType result = NOT_A_PLACE;

	if (!is_postgis_type(type))
		return NOT_A_PLACE;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		return NOT_A_PLACE;
	if (strcmp(NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname), "geometry") == 0)
		result = GEOMETRY;
	if (strcmp(NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname), "geography") == 0)
		result = GEOGRAPHY;
	ReleaseSysCache(tuple);
	return result;
}

/* The only column of type geometry or geography, or NULL; count says how many
 * there are. */
static char *
only_geometry(Oid table, int *count)
{
	Relation rel = relation_open(table, AccessShareLock);
	TupleDesc tupdesc = RelationGetDescr(rel);
	char *column = NULL;

	*count = 0;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (attribute->attisdropped || place_type(attribute->atttypid) == NOT_A_PLACE)
			continue;
		column = pstrdup(NameStr(attribute->attname));
		(*count)++;
	}
	relation_close(rel, AccessShareLock);
	return *count == 1 ? column : NULL;
}

/* The number of a column that an argument names. */
static AttrNumber
find_column(Oid table, const char *argument, const char *name)
{
	AttrNumber attnum = get_attnum(table, name);
	const char *closest;

	if (attnum > 0)
		return attnum;
	closest = closest_attribute(table, name);
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("table \"%s\" has no column \"%s\"", get_rel_name(table), name),
					closest ? errhint("Perhaps you meant the column \"%s\".", closest)
							: errhint("Name a column of the table in %s.", argument)));
	return InvalidAttrNumber; /* keep compiler quiet */
}

/* Raise an error unless places can be read from a relation. */
static void
check_table(LocatorDefinition *definition)
{
	Oid table = definition->table;
	char *name = get_rel_name(table);

	if (name == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", table)));
	definition->relkind = get_rel_relkind(table);
	definition->table_name =
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), name);
	if (strchr("rpvmf", definition->relkind) == NULL)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is no table and no view", name)));
	if (citus_has_table(table))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("a locator cannot read table \"%s\", which belongs to Citus", name),
						errdetail("Its rows are in other tables, whose changes nobody tells."),
						errhint("Make a view that selects from it, name that, and set max_age.")));
	if (get_rel_persistence(table) == RELPERSISTENCE_TEMP)
		ereport(ERROR, (errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						errmsg("a locator cannot read temporary table \"%s\"", name),
						errhint("Other sessions, such as the worker of a stream, do not see it.")));
}

static void
check_key(LocatorDefinition *definition)
{
	if (definition->key == NULL)
		definition->key = primary_key(definition->table);
	if (definition->key == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("table \"%s\" has no primary key of one column",
							   get_rel_name(definition->table)),
						errhint("Say which column names a place: key => 'zone_id'.")));
	(void) find_column(definition->table, "key", definition->key);
}

static void
check_geometry(LocatorDefinition *definition)
{
	Oid type;
	int32 typmod;
	Oid collation;
	int count = 0;

	if (definition->geometry == NULL)
		definition->geometry = only_geometry(definition->table, &count);
	if (definition->geometry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 count == 0 ? errmsg("table \"%s\" has no column of type geometry or geography",
									 get_rel_name(definition->table))
							: errmsg("table \"%s\" has %d columns of type geometry or geography",
									 get_rel_name(definition->table), count),
				 count == 0 ? errhint("Add one, for example geometry(Polygon, 4326).")
							: errhint("Say which one: geometry => 'geom'.")));
	definition->geometry_attnum = find_column(definition->table, "geometry", definition->geometry);
	get_atttypetypmodcoll(definition->table, definition->geometry_attnum, &type, &typmod,
						  &collation);
	if (place_type(type) == NOT_A_PLACE)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("column \"%s\" of table \"%s\" is of type %s", definition->geometry,
							   get_rel_name(definition->table), format_type_be(type)),
						errhint("A locator needs a column of type geometry or geography.")));
	definition->geometry_type = type;
	definition->is_geography = place_type(type) == GEOGRAPHY;
	definition->srid = typmod >= 0 ? TYPMOD_SRID(typmod) : 0;
}

static void
check_mode(LocatorDefinition *definition, const char *mode)
{
	bool has_within = !isnan(definition->within);

	if (mode == NULL)
		mode = has_within ? "within" : "contains";
	definition->mode = locator_mode_from_name(mode);
	if (definition->mode == LOCATOR_MODES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unknown mode \"%s\" of a locator", mode),
						errhint("Modes are contains, covers, and within for the nearest place.")));
	if (has_within != (definition->mode == LOCATOR_WITHIN))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						has_within ? errmsg("mode \"%s\" takes no distance", mode)
								   : errmsg("mode \"within\" needs a distance"),
						errhint("For the nearest place within 50 units or metres: within => 50.")));
	if (has_within && !(definition->within > 0 && isfinite(definition->within)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("within must be a positive distance")));
	if (has_within && definition->priority)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the nearest place has no priority"),
						errhint("Of places at the same distance the lesser key comes first.")));
	if (definition->mode == LOCATOR_CONTAINS && definition->is_geography)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("PostGIS has no ST_Contains for geography"),
						errhint("Use mode => 'covers', or a column of type geometry.")));
}

/* ---------------------------------------------------------------------
 * What the rows say
 * ---------------------------------------------------------------------
 */

/* The first column of the first rows of a query run as the caller, as a list of
 * strings. */
static List *
ask(const char *sql)
{
	MemoryContext caller_context = CurrentMemoryContext;
	List *answers = NIL;

	SPI_connect();
	if (SPI_execute(sql, true, 3) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	MemoryContextSwitchTo(caller_context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char *value = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		answers = lappend(answers, value ? pstrdup(value) : NULL);
	}
	SPI_finish();
	return answers;
}

/* The rows that are places, to follow FROM. */
static char *
places_sql(const LocatorDefinition *definition)
{
	return psprintf("%s WHERE (%s\n) AND %s IS NOT NULL", definition->table_name,
					definition->filter ? definition->filter : "true",
					quote_identifier(definition->geometry));
}

/* Raise an error unless each place has a key of its own. */
static void
check_keys(const LocatorDefinition *definition)
{
	const char *key = quote_identifier(definition->key);
	List *nulls =
		ask(psprintf("SELECT 1 FROM %s AND %s IS NULL LIMIT 1", places_sql(definition), key));
	List *duplicates = ask(psprintf("SELECT %s FROM %s GROUP BY %s "
									"HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 LIMIT 1",
									key, places_sql(definition), key));

	if (nulls)
		ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
						errmsg("column \"%s\" of table \"%s\" has NULLs", definition->key,
							   get_rel_name(definition->table)),
						errhint("Name a key that each place has, or leave these places out: "
								"filter => '%s IS NOT NULL'.",
								key)));
	if (duplicates)
		ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
						errmsg("column \"%s\" of table \"%s\" has duplicates", definition->key,
							   get_rel_name(definition->table)),
						errdetail("Several places have the key %s.", (char *) linitial(duplicates)),
						errhint("Name a key that is unique, or join their shapes with ST_Union.")));
}

/*
 * Find the one SRID of all places, on which the query over them depends.
 */
void
locator_find_srid(LocatorDefinition *definition)
{
	const char *name = get_rel_name(definition->table);
	List *srids = ask(psprintf(
		"SELECT DISTINCT %s.st_srid(%s::%s) FROM %s ORDER BY 1",
		quote_identifier(definition->postgis), quote_identifier(definition->geometry),
		quote_qualified_identifier(definition->postgis, "geometry"), places_sql(definition)));
	if (list_length(srids) > 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("column \"%s\" of table \"%s\" has places in several systems",
							   definition->geometry, name),
						errdetail("SRIDs: %s, %s%s.", (char *) linitial(srids),
								  (char *) lsecond(srids), list_length(srids) > 2 ? ", …" : ""),
						errhint("Bring them into one with ST_Transform.")));
	if (definition->srid == 0 && definition->is_geography && srids == NIL)
		definition->srid = LON_LAT_SRID;
	if (srids)
		definition->srid = pg_strtoint32(linitial(srids));
	else if (definition->srid == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("table \"%s\" has no places yet, and column \"%s\" no SRID", name,
							   definition->geometry),
						errhint("Give the column one: ALTER TABLE … ALTER COLUMN … TYPE "
								"geometry(Geometry, 4326).")));
	definition->cast_to_globe = definition->mode == LOCATOR_WITHIN &&
								definition->srid == LON_LAT_SRID && !definition->is_geography;
}

/* Tell when PostGIS, where it must be asked, has no index to look into. */
static void
tell_of_missing_index(const LocatorDefinition *definition)
{
	Relation rel = relation_open(definition->table, AccessShareLock);
	bool has_index =
		definition->relkind == RELKIND_VIEW || definition->relkind == RELKIND_FOREIGN_TABLE;
	List *indexes = has_index ? NIL : RelationGetIndexList(rel);
	ListCell *cell;

	foreach(cell, indexes)
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);
		/* an expression has number 0: it may be the one */
		AttrNumber attnum = definition->cast_to_globe ? 0 : definition->geometry_attnum;

		has_index |=
			index->rd_rel->relam != BTREE_AM_OID && index->rd_index->indkey.values[0] == attnum;
		index_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	if (!has_index)
		ereport(
			NOTICE,
			(errmsg("table \"%s\" has no index that PostGIS could use where its places are not "
					"in memory",
					get_rel_name(definition->table)),
			 errhint(definition->cast_to_globe ? "CREATE INDEX ON %s USING gist ((%s::geography))"
											   : "CREATE INDEX ON %s USING gist (%s)",
					 definition->table_name, quote_identifier(definition->geometry))));
}

/* The name for all places: zones_of for zone_of. */
static char *
default_all_name(const char *name)
{
	size_t length = strlen(name);

	if (length > 3 && strcmp(name + length - 3, "_of") == 0)
		return psprintf("%.*ss_of", (int) length - 3, name);
	return psprintf("%s_all", name);
}

static void
check_names(LocatorDefinition *definition)
{
	definition_check_name("locator", definition->name);
	if (definition->all_name == NULL)
		definition->all_name = default_all_name(definition->name);
	if (strcmp(definition->all_name, definition->name) == 0 || definition->all_name[0] == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("\"%s\" cannot be the name of the function for all places",
							   definition->all_name)));
	/* another function is called like it with _array */
	if (strlen(definition->all_name) + strlen("_array") >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG),
						errmsg("name \"%s\" is too long", definition->all_name),
						errhint("Give a shorter one in all_name.")));
}

static void
check_max_age(const LocatorDefinition *definition)
{
	Interval zero = {0};

	if (definition->max_age == NULL)
		return;
	if (!compat_interval_is_finite(definition->max_age))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_age must not be infinite"), errhint("Leave it out instead.")));
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(definition->max_age),
										  IntervalPGetDatum(&zero))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_age must not be negative")));
}

/*
 * The arguments of create_locator, checked, with defaults filled in.
 */
LocatorDefinition *
locator_definition_from_call(FunctionCallInfo fcinfo)
{
	LocatorDefinition *definition = palloc0(sizeof(LocatorDefinition));

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("name and place_table of a locator must not be null")));
	definition->name = arg_text(fcinfo, 0);
	definition->table = PG_GETARG_OID(1);
	definition->key = arg_text(fcinfo, 2);
	definition->geometry = arg_text(fcinfo, 3);
	definition->within = PG_ARGISNULL(5) ? NAN : PG_GETARG_FLOAT8(5);
	definition->priority = arg_text(fcinfo, 6);
	definition->filter = arg_text(fcinfo, 7);
	definition->all_name = arg_text(fcinfo, 8);
	definition->max_age = PG_ARGISNULL(9) ? NULL : PG_GETARG_INTERVAL_P(9);

	check_names(definition);
	check_table(definition);
	check_key(definition);
	check_geometry(definition);
	check_mode(definition, arg_text(fcinfo, 4));
	check_max_age(definition);
	return definition;
}

/*
 * Check what the rows of the place table say; the query over them is known to be
 * one that a locator may have.
 */
void
locator_check_rows(LocatorDefinition *definition)
{
	check_keys(definition);
	tell_of_missing_index(definition);
}
