/*-------------------------------------------------------------------------
 *
 * locator.h
 *	  Locators: typed functions from a point to the key of a place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_LOCATOR_H
#define DETECT_LOCATOR_H

#include "detect.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "nodes/parsenodes.h"
#include "place/place.h"

/* Columns of the view detect_query.<locator>. */
#define LOCATOR_KEY			 "key"
#define LOCATOR_PLACE		 "place"
#define LOCATOR_KEY_COLUMN	 1
#define LOCATOR_PLACE_COLUMN 2

/* The triggers of a place table. */
#define PLACE_ROW_TRIGGER	   "_detect_place_changed"
#define PLACE_TRUNCATE_TRIGGER "_detect_places_truncated"

/* Which places a locator finds. */
typedef enum LocatorMode
{
	LOCATOR_CONTAINS, /* ST_Contains(place, point) */
	LOCATOR_COVERS,	  /* ST_Covers(place, point) */
	LOCATOR_WITHIN,	  /* the nearest that is ST_DWithin(place, point, within) */
	LOCATOR_MODES
} LocatorMode;

/* Why a process answers from PostGIS and not from memory. */
typedef enum Fallback
{
	FALLBACK_NONE,
	FALLBACK_MEMORY,	   /* places exceed the setting */
	FALLBACK_ROW_SECURITY, /* each user sees other places */
	FALLBACK_TRIGGER,	   /* nobody would tell us of changes */
	FALLBACK_CHILDREN,	   /* the place table has inheritance children */
	FALLBACK_FOREIGN	   /* or a foreign table among its partitions */
} Fallback;

/* What tells one statement from another. */
typedef struct StatementId
{
	Oid user;
	LocalTransactionId transaction;
	CommandId curcid;
	TransactionId xmin;
	TransactionId xmax;
	uint32 xcnt;
	int32 subxcnt;
	uint64 undone_changes; /* a snapshot does not tell of these */
} StatementId;

/* A locator as this process knows it; lives as long as the process. */
typedef struct Locator
{
	Oid view; /* detect_query.<name>: hash key */

	/* The definition, while is_loaded. */
	bool is_loaded;
	uint64 definition; /* which version of it */
	char name[NAMEDATALEN];
	Oid place_table;
	char relkind; /* of the place table */
	LocatorMode mode;
	double within;
	int32 srid;
	bool globe;		  /* geography, or distances on the globe in metres */
	int64 max_age_us; /* of what no trigger watches; -1: until refreshed */
	Oid geometry_type;
	Oid geography_type;
	Oid place_type; /* one of the two: of column place */
	Oid key_type;
	int16 key_length;
	bool key_by_value;

	/* What is known of changes: see changes.c. */
	bool is_stale;			 /* the places have changed */
	bool is_suspect;		 /* the place table may have become another one */
	uint64 structure;		 /* fingerprint of the place table: see place_table.c */
	Fallback table_fallback; /* found together with it */
	int nmembers;
	Oid *members; /* the place table and its partitions */

	Places *places;				/* shared among statements, or NULL */
	Places *transaction_places; /* of a transaction that keeps its snapshot */
	Places *statement_places;	/* of the statement that began last, for all its calls */
	StatementId statement;
	uint64 statement_changes;
	bool has_row_security; /* behind the view that is the place table */
	bool is_sparse;		   /* few rows of the place table are places */
	bool too_large;		   /* since the setting was this many kilobytes */
	int too_large_kilobytes;
	LocalTransactionId too_large_in; /* as this transaction sees them … */
	uint64 too_large_changes;		 /* … and has changed them */
	Fallback told;					 /* the last fallback that was told of */
	SPIPlanPtr plan;				 /* asks PostGIS */

	LocatorStats stats; /* but for what the places are now */
} Locator;

/* What one statement looks up with: fn_extra of the SQL function. */
typedef struct Lookup
{
	dlist_node node; /* among all that hold places */
	Locator *locator;
	Oid argument_type; /* of the place, InvalidOid for x and y */
	bool has_begun;
	StatementId statement;
	MemoryContextCallback on_end;

	Places *places; /* NULL: ask PostGIS */

	/* Functions of PostGIS, looked up when first needed. */
	FmgrInfo make_point; /* (x, y, srid) */
	FmgrInfo cast;		 /* (the other type of the two) */
	FmgrInfo predicate;	 /* (place, point) */
	FmgrInfo distance;	 /* (place, point) */
	FmgrInfo dwithin;	 /* (place, point, within) */
	MemoryContext context;
} Lookup;

/* A point to look up. */
typedef struct LookupPoint
{
	double x;
	double y;
	bool is_point; /* else only PostGIS knows what it is */
	Datum datum;   /* as PostGIS has it; 0 until it is needed */
	Oid type;	   /* of datum: geometry or geography */
} LookupPoint;

/* in locator.c */
extern Locator *locator_get(Oid view);
extern Places *locator_places(Locator *locator, const StatementId *statement);
extern bool locator_is_same_statement(const StatementId *left, const StatementId *right);
extern void locator_set_stale(Oid view);
extern Snapshot locator_newest_snapshot(void);
extern int locator_memory_kilobytes(void);
extern Size locator_bytes(void);
extern const char *locator_fallback_text(Fallback fallback);
extern List *locator_all(void);
extern void locator_forget_dropped(void);
extern void locator_end_transaction_places(Locator *locator);

/* in locator_definition.c */
extern void locator_load(Locator *locator);
extern const char *const locator_mode_names[LOCATOR_MODES];
extern LocatorMode locator_mode_from_name(const char *name);
extern List *locator_views_of_table(Oid relid);
extern bool is_postgis_type(Oid type);
extern char *type_schema(Oid type);
extern Oid postgis_function(const Locator *locator, const char *name, int nargs, const Oid *types);
extern const char *postgis_schema(const Locator *locator);
extern const char *locator_predicate(const Locator *locator);
extern char *locator_view_name(const Locator *locator);
extern Query *locator_view_query(const Locator *locator);

/* in locator_stats.c */
extern void locator_publish_stats(void);

/* in build.c */
extern Places *places_build(Locator *locator, Snapshot snapshot);
extern bool places_update(Locator *locator, Places *places, Snapshot snapshot);

/* in changes.c */
extern void changes_watch(void);
extern void changes_look(Locator *locator);
extern uint64 changes_own(void);
extern uint64 changes_undone(void);
extern void changes_lock_table(Oid place_table);
extern void changes_make_triggers(Oid place_table);
extern void changes_drop_triggers(Oid place_table);

/* in change_commit.c */
extern void change_commit_watch(void);
extern void change_commit_note(Oid view);
extern void change_commit_begin(void);
extern void change_commit_forget(void);
extern bool change_commit_is_under_way(Oid view);
extern bool change_commit_is_always_announced(void);

/* in place_table.c */
extern void place_table_look(Locator *locator);

/* in lookup.c */
extern Lookup *lookup_begin(FunctionCallInfo fcinfo, bool has_xy);
extern bool lookup_point(const Lookup *lookup, FunctionCallInfo fcinfo, LookupPoint *point);
extern Datum lookup_point_datum(Lookup *lookup, LookupPoint *point);
extern bool lookup_predicate(Lookup *lookup, const Place *place, LookupPoint *point);
extern double lookup_distance(Lookup *lookup, const Place *place, LookupPoint *point);
extern bool lookup_dwithin(Lookup *lookup, const Place *place, LookupPoint *point);

/* in nearest.c */
typedef struct Nearest
{
	Datum key;
	double distance;
} Nearest;

extern int
nearest_find(Lookup *lookup, LookupPoint *point, int k, bool with_distance, Nearest **nearest);

/* in lookup_query.c */
extern int lookup_query(Lookup *lookup, LookupPoint *point, int limit, Nearest **nearest);

/* in wrapper.c */
extern void wrapper_create(const Locator *locator, const char *all_name, const char *geometry);
extern List *wrapper_find(Oid view, const char *name, const char *all_name);

#endif /* DETECT_LOCATOR_H */
