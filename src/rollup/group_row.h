/*-------------------------------------------------------------------------
 *
 * group_row.h
 *	  Where the rows of groups are that were merged last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_GROUP_ROW_H
#define DETECT_GROUP_ROW_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "storage/block.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

typedef struct GroupRows GroupRows;

/* in rollup/group_row.c */
extern GroupRows *group_rows_create(TupleDesc tupdesc, int nkeys);
extern void group_rows_expect(GroupRows *groups, int64 ngroups);
extern uint32 group_rows_hash(const GroupRows *groups, const TupleTableSlot *slot);
extern bool group_rows_fetch(GroupRows *groups, uint32 hash, Relation table, BlockNumber nblocks,
							 Snapshot snapshot, TupleTableSlot *slot);
extern void group_rows_note(GroupRows *groups, uint32 hash, const ItemPointerData *tid);

#endif /* DETECT_GROUP_ROW_H */
