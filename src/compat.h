/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between PostgreSQL versions, and nothing else.
 *
 * No other file tests PG_VERSION_NUM (make lint sees to it).  Each entry takes
 * the form of the newest version, or a name of its own where the versions
 * differ by more than a spelling.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_COMPAT_H
#define DETECT_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "detect needs PostgreSQL 15 or newer"
#endif

/* ---- Values of variable length: a header of their own since 16 ---- */

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* ---- Functions that do not return: said before them since 18 ---- */

#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* ---- The index of a primary key: only one that is checked at once, as before 17 ---- */

#include "utils/relcache.h"
#if PG_VERSION_NUM >= 180000
#define compat_primary_key_index(rel) RelationGetPrimaryKeyIndex((rel), false)
#else
#define compat_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel)
#endif

/* ---- EvalPlanQualInit: takes the result relations since 16 ---- */

#if PG_VERSION_NUM >= 160000
#define compat_eval_plan_qual_init(epq, estate) \
	EvalPlanQualInit((epq), (estate), NULL, NIL, -1, NIL)
#else
#define compat_eval_plan_qual_init(epq, estate) EvalPlanQualInit((epq), (estate), NULL, NIL, -1)
#endif

/* ---- The major version: what serializes states ---- */

#define COMPAT_SERVER_MAJOR (PG_VERSION_NUM / 10000)

/* ---- Permissions of a range table entry: apart since 16 ---- */

#include "access/sysattr.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#define compat_select_column(query, rte, attnum)                                                   \
	do                                                                                             \
	{                                                                                              \
		RTEPermissionInfo *perminfo_ = getRTEPermissionInfo((query)->rteperminfos, (rte));         \
		perminfo_->selectedCols =                                                                  \
			bms_add_member(perminfo_->selectedCols, (attnum) -FirstLowInvalidHeapAttributeNumber); \
	} while (0)
#else
#define compat_select_column(query, rte, attnum) \
	((rte)->selectedCols =                       \
		 bms_add_member((rte)->selectedCols, (attnum) -FirstLowInvalidHeapAttributeNumber))
#endif

/* ---- Access control checks: one object_… function since 16 ---- */

#include "utils/acl.h"
#if PG_VERSION_NUM < 160000
#include "catalog/pg_class.h"
#define compat_owns_relation(relid, role)		   pg_class_ownercheck((relid), (role))
#define compat_server_aclcheck(oid, role)		   pg_foreign_server_aclcheck((oid), (role), ACL_USAGE)
#define compat_namespace_aclcheck(oid, role, mode) pg_namespace_aclcheck((oid), (role), (mode))
#define compat_database_aclcheck(oid, role, mode)  pg_database_aclcheck((oid), (role), (mode))
#else
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#define compat_owns_relation(relid, role) object_ownercheck(RelationRelationId, (relid), (role))
#define compat_server_aclcheck(oid, role) \
	object_aclcheck(ForeignServerRelationId, (oid), (role), ACL_USAGE)
#define compat_namespace_aclcheck(oid, role, mode) \
	object_aclcheck(NamespaceRelationId, (oid), (role), (mode))
#define compat_database_aclcheck(oid, role, mode) \
	object_aclcheck(DatabaseRelationId, (oid), (role), (mode))
#endif

/* ---- Wait events of extensions: named since 17 ---- */

#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define compat_wait_event(name) WaitEventExtensionNew(name)
#else
#include "utils/wait_event.h"
#define compat_wait_event(name) PG_WAIT_EXTENSION
#endif

/* ---- Generated columns: some are not stored since 18 ---- */

#if PG_VERSION_NUM >= 180000
#define compat_has_virtual_columns(constr) ((constr)->has_generated_virtual)
#define compat_is_virtual(generated)	   ((generated) == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define compat_has_virtual_columns(constr) false
#define compat_is_virtual(generated)	   false
#endif

/* ---- Row types: with a copy of what is asked for most since 18 ---- */

#include "access/tupdesc.h"
#if PG_VERSION_NUM >= 180000
#define compat_attribute_changed(desc, at) populate_compact_attribute((desc), (at))
#else
#define compat_attribute_changed(desc, at) ((void) 0)
#endif

/* ---- Columns: their storage can be said where they are named since 16 ---- */

#if PG_VERSION_NUM >= 160000
#define compat_has_storage_name(column) ((column)->storage_name != NULL)
#else
#define compat_has_storage_name(column) false
#endif

/* ---- Intervals: some are infinite since 17 ---- */

#include "utils/timestamp.h"
#if PG_VERSION_NUM >= 170000
#define compat_interval_is_finite(interval) (!INTERVAL_NOT_FINITE(interval))
#else
#define compat_interval_is_finite(interval) true
#endif

/* ---- Aggregates that depend on the order of rows: can be split since 16 ---- */

#include "utils/fmgroids.h"
#if PG_VERSION_NUM >= 160000
#define compat_depends_on_order(aggregate)                     \
	((aggregate)->aggcombinefn == F_ARRAY_AGG_COMBINE ||       \
	 (aggregate)->aggcombinefn == F_ARRAY_AGG_ARRAY_COMBINE || \
	 (aggregate)->aggcombinefn == F_STRING_AGG_COMBINE ||      \
	 (aggregate)->aggtransfn == F_ANY_VALUE_TRANSFN)
#else
#define compat_depends_on_order(aggregate) false
#endif

/* ---- CHECK constraints: some are not enforced since 18 ---- */

#if PG_VERSION_NUM >= 180000
#define compat_check_is_enforced(check) ((check)->ccenforced)
#else
#define compat_check_is_enforced(check) true
#endif

/* ---- Wait event sets: of a resource owner since 17; ours are freed by hand ---- */

#include "storage/latch.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 170000
#define compat_create_wait_event_set(nevents) CreateWaitEventSet(NULL, (nevents))
#else
#define compat_create_wait_event_set(nevents) CreateWaitEventSet(TopMemoryContext, (nevents))
#endif

/* ---- Workers of roles that may not log in: possible since 17 ---- */

#include "postmaster/bgworker.h"
#if PG_VERSION_NUM >= 170000
#define COMPAT_WORKER_CONNECT_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#define COMPAT_WORKER_NEEDS_LOGIN	false
#else
#define COMPAT_WORKER_CONNECT_FLAGS 0
#define COMPAT_WORKER_NEEDS_LOGIN	true
#endif

/* ---- Rollups: variables of joins and groups, permissions, the executor ---- */

#include "executor/executor.h"
#include "optimizer/optimizer.h"
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_proc.h"
#define compat_proc_aclcheck(oid, role, mode) \
	object_aclcheck(ProcedureRelationId, (oid), (role), (mode))
#define compat_flatten_join_vars(query, node) flatten_join_alias_vars(NULL, (query), (node))
#define compat_set_perminfos(query, pstate)	  ((query)->rteperminfos = (pstate)->p_rteperminfos)
#define compat_clear_permissions(rte)		  ((rte)->perminfoindex = 0)
#else
#define compat_proc_aclcheck(oid, role, mode) pg_proc_aclcheck((oid), (role), (mode))
#define compat_flatten_join_vars(query, node) flatten_join_alias_vars((query), (node))
#define compat_set_perminfos(query, pstate)	  ((void) (query), (void) (pstate))
#define compat_clear_permissions(rte) \
	((rte)->requiredPerms = 0, (rte)->checkAsUser = InvalidOid, (rte)->selectedCols = NULL)
#endif
/* ---- Locators: the number of a transaction, and whether its user may run a query ---- */

#include "storage/proc.h"
#if PG_VERSION_NUM >= 170000
#define compat_lxid() (MyProc->vxid.lxid)
#else
#define compat_lxid() (MyProc->lxid)
#endif

#if PG_VERSION_NUM >= 160000
#define compat_check_permissions(query) \
	((void) ExecCheckPermissions((query)->rtable, (query)->rteperminfos, true))
#else
#define compat_check_permissions(query) ((void) ExecCheckRTPerms((query)->rtable, true))
#endif

#if PG_VERSION_NUM >= 180000
#define compat_flatten_vars(query, node) \
	compat_flatten_join_vars(            \
		(query), (query)->hasGroupRTE ? flatten_group_exprs(NULL, (query), (node)) : (node))
#define compat_executor_run(query_desc) ExecutorRun((query_desc), ForwardScanDirection, 0)
#else
#define compat_flatten_vars(query, node) compat_flatten_join_vars((query), (node))
#define compat_executor_run(query_desc)	 ExecutorRun((query_desc), ForwardScanDirection, 0, true)
#endif

/* ---- Whether this transaction has made the file of a relation: another name since 16 ---- */

#include "utils/rel.h"
#if PG_VERSION_NUM >= 160000
#define compat_has_new_storage(rel)                      \
	((rel)->rd_createSubid != InvalidSubTransactionId || \
	 (rel)->rd_newRelfilelocatorSubid != InvalidSubTransactionId)
#else
#define compat_has_new_storage(rel)                      \
	((rel)->rd_createSubid != InvalidSubTransactionId || \
	 (rel)->rd_newRelfilenodeSubid != InvalidSubTransactionId)
#endif

/* ---- A page more, locked: under a lock of the caller's before 16 ---- */

#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#if PG_VERSION_NUM >= 160000
#define compat_extend_relation(rel) \
	ExtendBufferedRel(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_LOCK_FIRST)
#else
static inline Buffer
compat_extend_relation(Relation rel)
{
	Buffer buffer;

	LockRelationForExtension(rel, ExclusiveLock);
	buffer = ReadBufferExtended(rel, MAIN_FORKNUM, P_NEW, RBM_ZERO_AND_LOCK, NULL);
	UnlockRelationForExtension(rel, ExclusiveLock);
	return buffer;
}
#endif

/* ---- Index scans: can be instrumented since 18 ---- */

#include "access/genam.h"
#if PG_VERSION_NUM >= 180000
#define compat_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), NULL, (nkeys), 0)
#else
#define compat_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan((heap), (index), (snapshot), (nkeys), 0)
#endif

/* ---- Portals: run once since 18 ---- */

#include "tcop/pquery.h"
#if PG_VERSION_NUM >= 180000
#define compat_portal_run(portal) \
	PortalRun((portal), FETCH_ALL, true, None_Receiver, None_Receiver, NULL)
#else
#define compat_portal_run(portal) \
	PortalRun((portal), FETCH_ALL, true, true, None_Receiver, None_Receiver, NULL)
#endif

/* ---- Hash tables of tuples: what belongs to an entry lies before its tuple since 18 ---- */

#include "executor/executor.h"
#if PG_VERSION_NUM >= 180000
#define compat_build_tuple_hash_table(tupdesc, ncolumns, attnums, functions, hashes, collations, \
									  capacity, context, tuples, scratch)                        \
	BuildTupleHashTable(NULL, (tupdesc), &TTSOpsVirtual, (ncolumns), (attnums), (functions),     \
						(hashes), (collations), (capacity), sizeof(uint64), (context), (tuples), \
						(scratch), false)
#define compat_hash_entry_number(table, entry) \
	((uint64 *) TupleHashEntryGetAdditional((table), (entry)))
#else
/* the place of a pointer is all that an entry has to spare */
#define compat_build_tuple_hash_table(tupdesc, ncolumns, attnums, functions, hashes, collations, \
									  capacity, context, tuples, scratch)                        \
	BuildTupleHashTableExt(NULL, (tupdesc), (ncolumns), (attnums), (functions), (hashes),        \
						   (collations), (capacity), 0, (context), (tuples), (scratch), false)
#define compat_hash_entry_number(table, entry) ((uint64 *) &(entry)->additional)
#endif

/* ---- Writing rows: the range table, maps of partitions, indexes ---- */

#include "access/tupconvert.h"
#if PG_VERSION_NUM >= 180000
#define compat_init_range_table(estate, stmt) \
	ExecInitRangeTable((estate), (stmt)->rtable, (stmt)->permInfos, (stmt)->unprunableRelids)
#elif PG_VERSION_NUM >= 160000
#define compat_init_range_table(estate, stmt) \
	ExecInitRangeTable((estate), (stmt)->rtable, (stmt)->permInfos)
#else
#define compat_init_range_table(estate, stmt) ExecInitRangeTable((estate), (stmt)->rtable)
#endif

#if PG_VERSION_NUM >= 160000
#define compat_root_to_child_map(result, estate) ExecGetRootToChildMap((result), (estate))
#define compat_insert_index_tuples(result, slot, estate) \
	ExecInsertIndexTuples((result), (slot), (estate), false, false, NULL, NIL, false)
#else
#define compat_root_to_child_map(result, estate) ((result)->ri_RootToPartitionMap)
#define compat_insert_index_tuples(result, slot, estate) \
	ExecInsertIndexTuples((result), (slot), (estate), false, false, NULL, NIL)
#endif

/* ---- What the check hook of a setting keeps ---- */

#if PG_VERSION_NUM >= 160000
#define compat_guc_malloc(bytes) guc_malloc(LOG, (bytes))
#define compat_guc_free(kept)	 guc_free(kept)
#else
#define compat_guc_malloc(bytes) malloc(bytes)
#define compat_guc_free(kept)	 free(kept)
#endif

#endif /* DETECT_COMPAT_H */
