/*-------------------------------------------------------------------------
 *
 * index_key.h
 *	  The key by which C looks rows up in an index.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_INDEX_KEY_H
#define DETECT_INDEX_KEY_H

#include "access/skey.h"
#include "utils/relcache.h"

extern void index_key_init(ScanKey key, Relation index, int column);

#endif /* DETECT_INDEX_KEY_H */
