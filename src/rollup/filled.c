/*-------------------------------------------------------------------------
 *
 * filled.c
 *	  detect._share_filled: how much of a rollup's events is in, about.
 *
 * A rollup is filled from the newest partition to the oldest, so what is in
 * are the partitions above its frontier, and a part of the one in which it
 * lies.  How many events they have is what ANALYZE has found last: counting
 * would take as long as filling, and no lock is asked for, because who looks
 * at a rollup must not wait for it.
 *
 *-------------------------------------------------------------------------
 */
#include "rollup/rollup.h"

#include "access/htup_details.h"
#include "apply/dedup.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(detect_share_filled);

/* How many events a partition has, as far as is known. */
static double
known_events(Oid partition)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
	double events;

	if (!HeapTupleIsValid(tuple))
		return 0;
	events = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	ReleaseSysCache(tuple);
	return Max(events, 0);
}

/* The share of a partition that lies at or after a time. */
static double
share_from(Oid partition, TimestampTz time)
{
	TimestampTz from;
	TimestampTz until;

	if (!partition_bounds(partition, &from, &until) || until <= time)
		return 0;
	if (from >= time)
		return 1;
	if (TIMESTAMP_NOT_FINITE(from) || TIMESTAMP_NOT_FINITE(until))
		return 0;
	return ((double) until - (double) time) / ((double) until - (double) from);
}

/*
 * SQL: detect._share_filled(events_table, filled_from): from 0 to 1; NULL when
 * it cannot be told.
 */
Datum
detect_share_filled(PG_FUNCTION_ARGS)
{
	Oid events_table = PG_GETARG_OID(0);
	TimestampTz filled_from = PG_GETARG_TIMESTAMPTZ(1);
	double all = 0;
	double filled = 0;
	ListCell *cell;

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(events_table)))
		PG_RETURN_NULL();
	foreach(cell, find_inheritance_children(events_table, NoLock))
	{
		double events = known_events(lfirst_oid(cell));

		all += events;
		filled += events * share_from(lfirst_oid(cell), filled_from);
	}
	if (all <= 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(Min(filled / all, 1));
}
