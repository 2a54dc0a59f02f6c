/*-------------------------------------------------------------------------
 *
 * staging_pages.c
 *	  Rows onto the pages of a staging table, and onto the same ones again.
 *
 * A worker of both duties has mostly applied all that it staged when it stages
 * more.  Then the next rows go to the front of the table, onto pages whose rows
 * are applied, so that a few pages which the processor's cache has serve for good:
 * each new one would be added to a file, find a buffer, and be thrown away later.
 * How PostgreSQL's own heap chooses pages knows neither that nor the order in which
 * they are read, so rows are put there by us.
 *
 * Where the rows end is known to this process alone, and is a matter of speed: each
 * row says which one it follows, and what lies behind the end is below applied
 * progress.  A process that does not know it appends, and reads to the table's end.
 *
 * A page is emptied under a cleanup lock, as VACUUM does, because somebody who looks
 * at the table may have rows of it in hand; a page that is not to be had is left
 * out.  There is no WAL: a crash empties the table.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/heaptoast.h"
#include "access/hio.h"
#include "access/htup_details.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "compat.h"
#include "ingest/staging.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static BlockNumber rows_end = InvalidBlockNumber; /* where the next rows go, if known */

/*
 * Have the next rows go to the front of the table.  The caller has applied all of
 * them, and is the process that stages them.
 */
void
staging_reuse(void)
{
	rows_end = 0;
}

/*
 * The block before which all rows stand that are not applied.
 */
BlockNumber
staging_end(void)
{
	return BlockNumberIsValid(rows_end) ? rows_end : MaxBlockNumber;
}

/* Take applied rows off a page that is locked for that.  What VACUUM has said of them in
 * the visibility map, whose page is pinned, is not true of others. */
static void
empty_page(Relation rel, Buffer buffer, Buffer map)
{
	Page page = BufferGetPage(buffer);

	if (PageIsAllVisible(page))
		visibilitymap_clear(rel, BufferGetBlockNumber(buffer), map, VISIBILITYMAP_VALID_BITS);
	PageInit(page, BufferGetPageSize(buffer), 0);
}

/* A page with applied rows, emptied and locked; InvalidBuffer when it cannot be had. */
static Buffer
reuse_page(Relation rel, BlockNumber block)
{
	Buffer buffer = ReadBuffer(rel, block);
	Buffer map = InvalidBuffer;
	bool is_ours = false;

	/* which may read it, and so comes before the lock */
	if (PageIsAllVisible(BufferGetPage(buffer)))
		visibilitymap_pin(rel, block, &map);
	if (ConditionalLockBufferForCleanup(buffer))
	{
		is_ours = !PageIsAllVisible(BufferGetPage(buffer)) || BufferIsValid(map);
		if (is_ours)
			empty_page(rel, buffer, map);
		else
			LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	}
	if (BufferIsValid(map))
		ReleaseBuffer(map);
	if (!is_ours)
		ReleaseBuffer(buffer);
	return is_ours ? buffer : InvalidBuffer;
}

/* The next page for rows, empty and locked. */
static Buffer
next_page(Relation rel, BlockNumber *next, BlockNumber nblocks)
{
	Buffer buffer = InvalidBuffer;

	while (!BufferIsValid(buffer) && *next < nblocks)
		buffer = reuse_page(rel, (*next)++);
	if (BufferIsValid(buffer))
		return buffer;
	buffer = compat_extend_relation(rel);
	PageInit(BufferGetPage(buffer), BufferGetPageSize(buffer), 0);
	*next = BufferGetBlockNumber(buffer) + 1;
	return buffer;
}

/* The row of an element whose columns take more room than there is on a page. */
static HeapTuple
refused_row(Relation rel, HeapTuple row, Size bytes)
{
	TupleDesc desc = RelationGetDescr(rel);
	Datum *values = palloc0(desc->natts * sizeof(Datum));
	bool *nulls = palloc0(desc->natts * sizeof(bool));
	bool *replaces = palloc0(desc->natts * sizeof(bool));

	values[STAGED_SQLSTATE - 1] = Int32GetDatum(ERRCODE_PROGRAM_LIMIT_EXCEEDED);
	values[STAGED_REASON - 1] = CStringGetTextDatum(
		psprintf("columns have %zu bytes together that cannot be stored apart, more than %zu",
				 bytes, MaxHeapTupleSize));
	replaces[STAGED_SQLSTATE - 1] = replaces[STAGED_REASON - 1] = true;
	for (int i = STAGED_FIXED_COLUMNS; i < desc->natts; i++)
		nulls[i] = replaces[i] = true;
	return heap_modify_tuple(row, desc, values, nulls, replaces);
}

/* Have large values of a row stored apart; the row is freed if another one is returned. */
static HeapTuple
fit_row(Relation rel, HeapTuple row)
{
	HeapTuple fitting = row;

	if (row->t_len > TOAST_TUPLE_THRESHOLD)
		fitting = heap_toast_insert_or_update(rel, row, NULL, 0);
	if (MAXALIGN(fitting->t_len) > MaxHeapTupleSize)
		fitting = heap_toast_insert_or_update(rel, refused_row(rel, row, fitting->t_len), NULL, 0);
	if (fitting != row)
		heap_freetuple(row);
	return fitting;
}

/* What a row must have before it is put on a page. */
static HeapTuple
prepare_row(Relation rel, HeapTuple row, TransactionId xid, CommandId cid)
{
	row = fit_row(rel, row);
	row->t_data->t_infomask &= ~HEAP_XACT_MASK;
	row->t_data->t_infomask2 &= ~HEAP2_XACT_MASK;
	row->t_data->t_infomask |= HEAP_XMAX_INVALID;
	HeapTupleHeaderSetXmin(row->t_data, xid);
	HeapTupleHeaderSetXmax(row->t_data, InvalidTransactionId);
	HeapTupleHeaderSetCmin(row->t_data, cid);
	row->t_tableOid = RelationGetRelid(rel);
	return row;
}

/* Put rows on a page until it is full; how many. */
static int
fill_page(Relation rel, Buffer buffer, HeapTuple *rows, int nrows)
{
	Page page = BufferGetPage(buffer);
	int put = 0;

	START_CRIT_SECTION();
	do
		RelationPutHeapTuple(rel, buffer, rows[put++], false);
	while (put < nrows && PageGetHeapFreeSpace(page) >= MAXALIGN(rows[put]->t_len));
	MarkBufferDirty(buffer);
	END_CRIT_SECTION();
	return put;
}

/* Raise an error when a staging table has an index: it would point to the rows that were
 * on a page before. */
static void
refuse_index(Relation rel)
{
	if (!rel->rd_rel->relhasindex || RelationGetIndexList(rel) == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("staging table \"%s.%s\" has an index",
					get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)),
			 errhint("Drop the index: rows are read in the order of the table.")));
}

/*
 * Put rows into a staging table, behind all that are not applied, in their order.  They
 * may be freed, and others stand for them afterwards.  The caller is in the transaction,
 * and no subtransaction, that stages them.
 */
void
staging_write(Relation rel, HeapTuple *rows, int nrows)
{
	TransactionId xid = GetCurrentTransactionId();
	CommandId cid = GetCurrentCommandId(true);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber next = Min(staging_end(), nblocks);
	int written = 0;

	refuse_index(rel);
	for (int i = 0; i < nrows; i++)
		rows[i] = prepare_row(rel, rows[i], xid, cid);
	while (written < nrows)
	{
		Buffer buffer = next_page(rel, &next, nblocks);

		written += fill_page(rel, buffer, rows + written, nrows - written);
		UnlockReleaseBuffer(buffer);
	}
	if (BlockNumberIsValid(rows_end))
		rows_end = next;
	pgstat_count_heap_insert(rel, nrows);
}
