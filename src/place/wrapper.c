/*-------------------------------------------------------------------------
 *
 * wrapper.c
 *	  The typed functions of a locator.
 *
 * They are SQL with a parsed body, so that the planner replaces a call by that
 * of the C function behind it, and name the locator's view as a constant, from
 * which PostgreSQL knows that they depend on it: a dump carries them, and the
 * view can't be dropped from under them.  The caller makes and owns them.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "sql.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* What the name of the function that gives an array ends in. */
#define ARRAY_SUFFIX "_array"

/* What the text of the functions is made of. */
typedef struct Wrapper
{
	const char *view;	  /* a constant of type regclass */
	const char *key_type; /* of the keys */
	const char *arguments;
	const char *values; /* the same, handed on */
} Wrapper;

/* Make one function, with its comment. */
static void
create_function(const Wrapper *wrapper, const char *name, const char *more_arguments,
				const char *result, const char *body, const char *comment)
{
	const char *quoted = quote_identifier(name);

	sql_execute(psprintf("CREATE FUNCTION %s(%s%s) RETURNS %s "
						 "LANGUAGE sql STABLE PARALLEL RESTRICTED COST 10 %s",
						 quoted, wrapper->arguments, more_arguments, result, body));
	sql_execute(psprintf("COMMENT ON FUNCTION %s(%s%s) IS %s", quoted, wrapper->arguments,
						 more_arguments[0] ? ", k int" : "", quote_literal_cstr(comment)));
}

/* The function that gives one key. */
static void
create_first(const Wrapper *wrapper, const Locator *locator)
{
	create_function(wrapper, locator->name, "", wrapper->key_type,
					psprintf("RETURN detect._locate(%s, NULL::%s, %s)", wrapper->view,
							 wrapper->key_type, wrapper->values),
					locator->mode == LOCATOR_WITHIN ? "the nearest place, or NULL"
													: "the place that has the point, or NULL");
}

/* The functions that give all keys. */
static void
create_all(const Wrapper *wrapper, const char *all_name)
{
	const char *call = psprintf("detect._locate_all(%s, NULL::%s[], %s)", wrapper->view,
								wrapper->key_type, wrapper->values);

	create_function(wrapper, all_name, "", psprintf("SETOF %s", wrapper->key_type),
					psprintf("BEGIN ATOMIC SELECT pg_catalog.unnest(%s); END", call),
					"all places that have the point, the preferred first");
	create_function(wrapper, psprintf("%s" ARRAY_SUFFIX, all_name), "",
					psprintf("%s[]", wrapper->key_type), psprintf("RETURN %s", call),
					"all places that have the point, the preferred first");
}

/* The function that gives the nearest keys with their distances. */
static void
create_nearest(const Wrapper *wrapper, const char *all_name)
{
	create_function(
		wrapper, all_name, ", k int DEFAULT NULL",
		psprintf("TABLE (key %s, distance pg_catalog.float8)", wrapper->key_type),
		psprintf("BEGIN ATOMIC SELECT n.key, n.distance FROM detect._nearest(%s, NULL::%s, %s, "
				 "k) n; END",
				 wrapper->view, wrapper->key_type, wrapper->values),
		"the k nearest places, or all within the distance, the nearest first");
}

/*
 * Make the functions of a locator, in the caller's schema: one by name, for all
 * places by all_name.  geometry is the type of their argument.
 */
void
wrapper_create(const Locator *locator, const char *all_name, const char *geometry)
{
	Wrapper wrappers[2];

	wrappers[0].arguments = psprintf("place %s", geometry);
	wrappers[0].values = "place";
	wrappers[1].arguments = "x pg_catalog.float8, y pg_catalog.float8";
	wrappers[1].values = "x, y";
	for (int i = 0; i < lengthof(wrappers); i++)
	{
		wrappers[i].view =
			psprintf("%s::pg_catalog.regclass", quote_literal_cstr(locator_view_name(locator)));
		wrappers[i].key_type =
			format_type_extended(locator->key_type, -1, FORMAT_TYPE_FORCE_QUALIFY);
		create_first(&wrappers[i], locator);
		if (locator->mode == LOCATOR_WITHIN)
			create_nearest(&wrappers[i], all_name);
		else
			create_all(&wrappers[i], all_name);
	}
}

/* Whether a function has one of the names of a locator's. */
static bool
is_wrapper(Oid function, const char *name, const char *all_name)
{
	const char *function_name = get_func_name(function);

	return function_name &&
		   (strcmp(function_name, name) == 0 || strcmp(function_name, all_name) == 0 ||
			strcmp(function_name, psprintf("%s" ARRAY_SUFFIX, all_name)) == 0);
}

/*
 * The functions of a locator that are still called as they were made, as a list
 * of OIDs.
 */
List *
wrapper_find(Oid view, const char *name, const char *all_name)
{
	Relation depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	List *functions = NIL;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(view));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend dependency = (Form_pg_depend) GETSTRUCT(tuple);

		if (dependency->classid == ProcedureRelationId &&
			is_wrapper(dependency->objid, name, all_name))
			functions = list_append_unique_oid(functions, dependency->objid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return functions;
}
