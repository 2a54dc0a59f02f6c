/*-------------------------------------------------------------------------
 *
 * index_key.c
 *	  The key by which C looks rows up in an index: a column equals a value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "index_key.h"

#include "access/nbtree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/*
 * Make the key for a column of a btree, counted from 0, of the index's own type;
 * the caller sets sk_argument.
 */
void
index_key_init(ScanKey key, Relation index, int column)
{
	Oid type = index->rd_opcintype[column];
	Oid equality =
		get_opfamily_member(index->rd_opfamily[column], type, type, BTEqualStrategyNumber);

	ScanKeyEntryInitialize(key, 0, column + 1, BTEqualStrategyNumber, type,
						   index->rd_indcollation[column], get_opcode(equality), (Datum) 0);
}
