/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The functions of an aggregate, called for states that are kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_STATE_H
#define DETECT_STATE_H

#include "postgres.h"

#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

/* What is known of an aggregate from one call to the next, in fn_extra. */
typedef struct AggregateCall
{
	Oid aggregate;
	AggState *agg_state; /* that the aggregate's functions are told of */
	bool serialized;	 /* the state is internal, kept as its serial function makes it */
	char *maker;		 /* of states of detect.aggregate_state; NULL: they are others */
	bool maker_is_whole; /* else it goes on as that of the first state */
	Oid state_type;		 /* of the stored state */
	int16 state_length;
	bool state_by_value;
	int16 result_length;
	bool result_by_value;
	bool has_final;
	bool final_writes; /* the final function may change the state */
	int nfinal_args;
	FmgrInfo serial;
	FmgrInfo deserial;
	FmgrInfo combine;
	FmgrInfo final;
} AggregateCall;

/* A state, stored or in memory. */
typedef struct StateValue
{
	Datum value;
	bool isnull;
} StateValue;

/* in rollup/state.c */
extern AggregateCall *state_prepare(FunctionCallInfo fcinfo, int aggregate_arg, int state_arg,
									Oid result_type, AggState *agg_state);
extern StateValue state_call(const AggregateCall *call, FmgrInfo *function, Oid collation,
							 int nargs, const StateValue *args);
extern StateValue state_load(AggregateCall *call, StateValue stored, bool writable, Oid collation);
extern StateValue state_save(AggregateCall *call, StateValue state, Oid collation);

/* in rollup/aggregate_state.c */
extern void
aggregate_state_prepare(AggregateCall *call, const Form_pg_proc aggregate, Oid result_type);
extern Datum aggregate_state_open(AggregateCall *call, Datum value);

/* in rollup/numeric_state.c */
extern void numeric_state_check(Oid deserial_function, Datum state);

#endif /* DETECT_STATE_H */
