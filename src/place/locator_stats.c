/*-------------------------------------------------------------------------
 *
 * locator_stats.c
 *	  What this process has of its locators in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "place/locator.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#define LOCATOR_COLUMNS 10

PG_FUNCTION_INFO_V1(detect_locators);

/* The row of one locator. */
static void
emit_locator(ReturnSetInfo *result, const Locator *locator)
{
	const Places *places =
		locator->transaction_places ? locator->transaction_places : locator->places;
	const char *reason = locator_fallback_text(locator->last_fallback);
	Datum values[LOCATOR_COLUMNS];
	bool nulls[LOCATOR_COLUMNS] = {0};
	int i = 0;

	values[i++] = CStringGetTextDatum(locator->name);
	values[i++] = Int64GetDatum(places ? places->count : 0);
	values[i++] = Int64GetDatum(places ? places->vertices : 0);
	values[i++] = Int64GetDatum(places ? (int64) places_bytes(places) : 0);
	values[i++] = Int64GetDatum(locator->builds);
	values[i++] = Float8GetDatum(locator->build_ms);
	nulls[i] = locator->built_at == 0;
	values[i++] = TimestampTzGetDatum(locator->built_at);
	values[i++] = Int64GetDatum(locator->from_memory);
	values[i++] = Int64GetDatum(locator->from_query);
	nulls[i] = reason == NULL;
	values[i++] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	Assert(i == LOCATOR_COLUMNS);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * detect._locators(): the locators that this process has used.
 */
Datum
detect_locators(PG_FUNCTION_ARGS)
{
	ListCell *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, locator_all())
	{
		const Locator *locator = lfirst(cell);

		if (locator->name[0] != '\0' && get_rel_name(locator->view) != NULL)
			emit_locator((ReturnSetInfo *) fcinfo->resultinfo, locator);
	}
	return (Datum) 0;
}
