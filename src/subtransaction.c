/*-------------------------------------------------------------------------
 *
 * subtransaction.c
 *	  A step that may fail, and leaves nothing behind when it does.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "access/xact.h"
#include "utils/resowner.h"

/*
 * Take a step in a subtransaction.  The result is NULL, or the error that the
 * step failed with and that left nothing behind, in the current context.
 * Without keep, a step that succeeds leaves nothing behind either.  The step
 * runs in the current context, and the caller goes on in it.
 */
ErrorData *
subtransaction_try(void (*step)(void *arg), void *arg, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(arg);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
