/*-------------------------------------------------------------------------
 *
 * lookup_query.c
 *	  A look-up by PostGIS's own operators, where places are not in memory.
 *
 * This query says what a locator is; memory only answers faster.  It is planned
 * once a process and runs with the caller's rights under his snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "catalog/pg_type.h"
#include "utils/datum.h"

/* The text of the query: $1 is the point, $2 how many are wanted or NULL. */
static const char *
query_text(const Locator *locator)
{
	const char *schema = postgis_schema(locator);
	const char *view = locator_view_name(locator);

	if (locator->mode == LOCATOR_WITHIN)
		return psprintf("SELECT " LOCATOR_KEY ", " LOCATOR_PLACE " OPERATOR(%s.<->) $1 FROM %s "
						"WHERE %s.st_dwithin(" LOCATOR_PLACE ", $1, %.17g) "
						"ORDER BY " LOCATOR_PLACE " OPERATOR(%s.<->) $1, " LOCATOR_KEY " LIMIT $2",
						schema, view, schema, locator->within, schema);
	return psprintf("SELECT " LOCATOR_KEY ", NULL::pg_catalog.float8 FROM %s "
					"WHERE %s.%s(" LOCATOR_PLACE ", $1) LIMIT $2",
					view, schema, locator_predicate(locator));
}

static SPIPlanPtr
query_plan(Locator *locator)
{
	Oid types[2] = {locator->place_type, INT8OID};

	if (locator->plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(query_text(locator), 2, types);

		if (plan == NULL)
			elog(ERROR, "could not plan a look-up: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		locator->plan = plan;
	}
	return locator->plan;
}

/*
 * The places that have a point, or are near it, in order; limit 0 asks for all.
 * The result is their number.
 */
int
lookup_query(Lookup *lookup, LookupPoint *point, int limit, Nearest **nearest)
{
	Locator *locator = lookup->locator;
	MemoryContext caller_context = CurrentMemoryContext;
	Datum values[2] = {lookup_point_datum(lookup, point), Int64GetDatum(limit)};
	char nulls[2] = {' ', limit == 0 ? 'n' : ' '};
	int count = 0;

	locator->stats.from_query++;
	SPI_connect();
	if (SPI_execute_plan(query_plan(locator), values, nulls, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look up: %s", SPI_result_code_string(SPI_result));
	*nearest = MemoryContextAlloc(caller_context, (SPI_processed + 1) * sizeof(Nearest));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		bool has_no_key;
		bool has_no_distance;
		Datum key = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &has_no_key);
		Datum distance = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &has_no_distance);
		Nearest *next = &(*nearest)[count];
		MemoryContext spi_context;

		/* the view leaves these out, unless its owner has changed it */
		if (has_no_key)
			continue;
		spi_context = MemoryContextSwitchTo(caller_context);
		next->key = datumCopy(key, locator->key_by_value, locator->key_length);
		next->distance = has_no_distance ? 0 : DatumGetFloat8(distance);
		MemoryContextSwitchTo(spi_context);
		count++;
	}
	SPI_finish();
	return count;
}
