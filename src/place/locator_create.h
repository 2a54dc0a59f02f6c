/*-------------------------------------------------------------------------
 *
 * locator_create.h
 *	  What the files that make locators share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_LOCATOR_CREATE_H
#define DETECT_LOCATOR_CREATE_H

#include "place/locator.h"

#include "datatype/timestamp.h"

/* A definition as its user writes it, with defaults filled in. */
typedef struct LocatorDefinition
{
	char *name;
	Oid table;
	char relkind;
	char *table_name; /* with its schema, quoted */
	char *key;
	char *geometry;
	AttrNumber geometry_attnum;
	Oid geometry_type;
	bool is_geography;
	bool cast_to_globe; /* longitude and latitude, but distances in metres */
	char *postgis;		/* schema of PostGIS */
	LocatorMode mode;
	double within;	/* NaN if there is none */
	char *priority; /* NULL: smallest area first */
	char *filter;	/* NULL: all rows */
	char *all_name;
	int32 srid;
	Interval *max_age; /* NULL: until refreshed */
} LocatorDefinition;

/* in locator_arguments.c */
extern LocatorDefinition *locator_definition_from_call(FunctionCallInfo fcinfo);
extern char *locator_arguments_given(FunctionCallInfo fcinfo);
extern void locator_find_srid(LocatorDefinition *definition);
extern void locator_check_rows(LocatorDefinition *definition);

/* in locator_create.c */
extern bool locator_forget(const char *name, const char *detail);

extern void locator_check_owner(Oid view, const char *name);

/* in locator_text.c */
extern char *locator_text(const char *name);

#endif /* DETECT_LOCATOR_CREATE_H */
