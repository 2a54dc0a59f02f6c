/* gone.c: placeholder until the ranges are known */
#include "rollup/rollup.h"

List *
gone_ranges(const Stream *stream)
{
	return NIL;
}
