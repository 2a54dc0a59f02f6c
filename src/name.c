/*-------------------------------------------------------------------------
 *
 * name.c
 *	  Names of streams, rollups and locators, one name space in a database, and
 *	  lists of names.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"

/*
 * Raise an error unless a new definition may have this name.  kind is the noun
 * for the error: "stream", "rollup", "locator".  The name also becomes that of tables and
 * views in our schemas, from which the rules follow.
 */
void
definition_check_name(const char *kind, const char *name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	bool taken;

	if (name[0] == '\0' || name[0] == '_' || strncmp(name, "pg_", 3) == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("\"%s\" cannot be the name of a %s", name, kind),
						errhint("Names must not be empty nor begin with \"_\" or \"pg_\".")));
	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("the name of a %s can have at most %d bytes", kind, NAMEDATALEN - 1)));
	if (strcmp(name, DETECT_BATCH) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME), errmsg("the name \"%s\" is reserved", name)));

	SPI_connect();
	taken = catalog_execute("SELECT FROM detect._stream WHERE name = $1 "
							"UNION ALL SELECT FROM detect._rollup WHERE name = $1 "
							"UNION ALL SELECT FROM detect._locator WHERE name = $1",
							1, types, values, NULL) > 0;
	SPI_finish();
	if (taken)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("a stream, rollup or locator named \"%s\" already exists", name),
				 errhint("Names of streams, rollups and locators are unique in the database.")));
}

/*
 * A List of strings as a text[].
 */
Datum
names_to_array(const List *names)
{
	Datum *elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	ListCell *cell;
	int count = 0;

	foreach(cell, names)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * A text[] without NULLs as a List of palloc'd strings.
 */
List *
names_from_array(Datum array)
{
	Datum *elements;
	int count;
	List *names = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL,
					  &count);
	for (int i = 0; i < count; i++)
		names = lappend(names, TextDatumGetCString(elements[i]));
	return names;
}

/*
 * The index of a name in a List of strings, -1 if it is not there.
 */
int
names_position(const List *names, const char *name)
{
	ListCell *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return foreach_current_index(cell);
	}
	return -1;
}
