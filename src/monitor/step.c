/*-------------------------------------------------------------------------
 *
 * step.c
 *	  Where a worker's time goes, by step of the budget.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

/*
 * Milliseconds since then.
 */
double
elapsed_ms(instr_time since)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, since);
	return INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Add the time since then to a step of this worker, and begin to
 * measure the next one.
 */
void
step_time(Step step, instr_time *since)
{
	instr_time now;
	instr_time elapsed;

	INSTR_TIME_SET_CURRENT(now);
	elapsed = now;
	INSTR_TIME_SUBTRACT(elapsed, *since);
	if (my_entry)
		my_entry->step_us[step] += INSTR_TIME_GET_MICROSEC(elapsed);
	*since = now;
}
