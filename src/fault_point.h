/*-------------------------------------------------------------------------
 *
 * fault_point.h
 *	  Points at which tests let a process of ours fail.
 *
 * FAULT_POINT("after_decode") does nothing, unless FAULT_POINTS=1 is given to
 * make; then detect.fault_point says what happens there: see fault_point.c.
 * FAULT_MUTANT("progress_first") is true where a test wants the code to be
 * wrong in that way, and FAULT_LIMIT(limit, small) is the small limit where a
 * test wants to reach it, as FAULT_STAGED is for what is staged.  Every name stands
 * in the tables of test/README.md.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FAULT_POINT_H
#define FAULT_POINT_H

#ifdef DETECT_FAULT_POINTS

extern void fault_points_define(void);
extern void fault_points_attach(void);
extern void fault_point_reached(const char *name, bool may_raise);
extern bool fault_mutant_is_on(const char *name);

#define FAULT_POINT(name)		   fault_point_reached(name, true)
#define FAULT_MUTANT(name)		   fault_mutant_is_on(name)
#define FAULT_LIMIT(limit, small)  (FAULT_MUTANT("small_limits") ? (small) : (limit))
#define FAULT_STAGED(limit, small) (FAULT_MUTANT("small_staging") ? (small) : (limit))

#else

#define fault_points_define()	   ((void) 0)
#define fault_points_attach()	   ((void) 0)
#define FAULT_POINT(name)		   ((void) 0)
#define FAULT_MUTANT(name)		   false
#define FAULT_LIMIT(limit, small)  (limit)
#define FAULT_STAGED(limit, small) (limit)

#endif

#endif /* FAULT_POINT_H */
