/*-------------------------------------------------------------------------
 *
 * relation_change.c
 *	  Who in this process hears that a relation has changed.
 *
 * PostgreSQL has room for ten listeners in a process, its own among them, and
 * ends the process that asks for one more.  Other extensions want some as well,
 * so ours share one.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "utils/inval.h"

#define MAX_LISTENERS 8

static RelcacheCallbackFunction listeners[MAX_LISTENERS];
static int nlisteners = 0;

/* Relcache callback: InvalidOid means any relation. */
static void
relation_changed(Datum arg, Oid relation)
{
	for (int i = 0; i < nlisteners; i++)
		listeners[i](arg, relation);
}

/*
 * Have a function called from now on when a relation has changed; it can't be
 * taken back.  The caller asks once, and its function raises no errors.
 */
void
relation_change_listen(void (*listener)(Datum arg, Oid relation))
{
	Assert(nlisteners < MAX_LISTENERS);
	if (nlisteners == 0)
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	listeners[nlisteners++] = listener;
}
