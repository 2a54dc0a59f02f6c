/*-------------------------------------------------------------------------
 *
 * stream_transaction.c
 *	  Transactions of a stream's workers: each under the stream's lock.
 *
 * The lock is taken shared, so that whatever changes the stream, which takes
 * it exclusively, waits for open batches and lets none begin.  Taking it
 * absorbs invalidations: a worker that then finds watch_stale set must look at
 * its definition before it does anything by it.  Each begins in a session in
 * which code of users, run before, has left nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "access/xlog_internal.h"
#include "storage/lmgr.h"
#include "utils/snapmgr.h"

/*
 * Begin a transaction of a worker, whose now() is this moment: nobody sends statements
 * that would tell PostgreSQL when the one at hand began.
 */
void
transaction_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/*
 * Have what was committed until now, by whomever, survive a power cut.
 */
void
transaction_flush_all(void)
{
	XLogRecPtr upto = GetXLogInsertRecPtr();

	int header_bytes = XLogSegmentOffset(upto, wal_segment_size) < XLOG_BLCKSZ ? SizeOfXLogLongPHD
																			   : SizeOfXLogShortPHD;

	/* where a page is to begin, that is behind its header, which is not there yet */
	if (upto % XLOG_BLCKSZ == header_bytes)
		upto -= header_bytes;
	XLogFlush(upto);
}

/*
 * Begin a transaction with an active snapshot under the stream's lock.  False
 * when the definition may have changed, and then no transaction is open.
 */
bool
stream_transaction_begin(const Stream *stream)
{
	session_undo();
	transaction_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	stream_lock(stream->id, AccessShareLock);
	/* ALTER TABLE of the staging table takes no stream's lock */
	LockRelationOid(stream->staging_table, AccessShareLock);
	if (!watch_stale)
		return true;
	PopActiveSnapshot();
	AbortCurrentTransaction();
	return false;
}

/*
 * Commit what stream_transaction_begin() began.
 */
void
stream_transaction_commit(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
}
