/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  Saved plans over ephemeral relations.
 *
 * A plan freezes the number of rows that it was made for, so it is made anew
 * when a batch is ten times larger or smaller.
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "apply/events_internal.h"

/*
 * Make an ephemeral relation known to the SPI level that is open; the result is
 * an environment that knows it too.
 */
QueryEnvironment *
plan_register_relation(const char *name, Oid relid, TupleDesc desc, Tuplestorestate *rows,
					   double nrows)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	QueryEnvironment *environment = create_queryEnv();
	int result;

	enr->md.name = pstrdup(name);
	enr->md.reliddesc = relid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = nrows;
	enr->reldata = rows;
	result = SPI_register_relation(enr);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register relation \"%s\": %s", name, SPI_result_code_string(result));
	register_ENR(environment, enr);
	return environment;
}

/*
 * A plan for so many rows: the kept one if it was made for about as many.
 */
SPIPlanPtr
plan_for_rows(SizedPlan *sized, const char *sql, double nrows)
{
	SPIPlanPtr plan;

	if (sized->plan && nrows < sized->rows * 10 && nrows * 10 > sized->rows)
		return sized->plan;
	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (sized->plan)
		SPI_freeplan(sized->plan);
	SPI_keepplan(plan);
	sized->plan = plan;
	sized->rows = nrows;
	return plan;
}
