/*-------------------------------------------------------------------------
 *
 * citus.c
 *	  Whether a table is Citus's: its rows are then in other tables.
 *
 * Such a table looks like any other, and is empty: planned statements are sent
 * to where the rows are.  Its heap, its indexes and its triggers, which is where
 * we look, know nothing of them, or what they held before Citus took it over.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_namespace.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Citus's list of its tables, whose first column is the table. */
#define CITUS_TABLES "pg_dist_partition"

/*
 * Whether Citus has distributed a table, copied it to all nodes, or taken it into
 * its metadata.  The caller is in a transaction.
 */
bool
citus_has_table(Oid relation)
{
	Oid list = get_relname_relid(CITUS_TABLES, PG_CATALOG_NAMESPACE);
	ScanKeyData key;
	Relation rel;
	SysScanDesc scan;
	bool found;

	if (!OidIsValid(list))
		return false;
	rel = table_open(list, AccessShareLock);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Find a table of Citus in a query, as deep as it may be. */
static bool
find_table(Node *node, void *table)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		const RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_RELATION || !citus_has_table(rte->relid))
			return false;
		*(Oid *) table = rte->relid;
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_table, table, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_table, table);
}

/*
 * A table of Citus that a query names, InvalidOid if there is none: Citus plans
 * such a query as a whole, and does not know the rows of a batch.
 */
Oid
citus_table_in_query(Node *query)
{
	Oid table = InvalidOid;

	(void) find_table(query, &table);
	return table;
}
