/*-------------------------------------------------------------------------
 *
 * malloc.c
 *	  The memory of batches stays with the process while there are batches.
 *
 * Each batch takes tens of megabytes and gives them back.  The GNU C library
 * passes what is freed at the end of its heap on to the kernel at once, which
 * hands it out again page by page, zeroed: that was up to a tenth of a worker's
 * CPU.  So it is told to keep what one batch needs, and gives it up when nothing
 * comes for a while.
 * Other C libraries have ways of their own and are left alone, and so is one that
 * the server's environment has told what to do.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "ingest/worker.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

/* Larger pieces are mapped one by one.  The blocks of a memory context are smaller;
 * an array of identities, which grows little by little, would leave holes in the heap
 * wherever it has been. */
#define MAPPED_BYTES (9 * 1024 * 1024)
#define KEPT_BYTES	 (128 * 1024 * 1024)

/*
 * From now on keep the memory of a batch for the next one.
 */
void
malloc_keep(void)
{
#ifdef __GLIBC__
	if (getenv("MALLOC_TRIM_THRESHOLD_") || getenv("MALLOC_MMAP_THRESHOLD_") ||
		getenv("GLIBC_TUNABLES"))
		return;
	(void) mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
#endif
}

/*
 * Give up what is kept.
 */
void
malloc_release(void)
{
#ifdef __GLIBC__
	(void) malloc_trim(0);
#endif
}
