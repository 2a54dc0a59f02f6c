/*-------------------------------------------------------------------------
 *
 * decode_structure.c
 *	  Arrays and composites from JSON.
 *
 * They are made by the server's own json_populate_record(), called with a record of
 * one column, so that what JSON they take is what json_to_record() takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest/decode_structure.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

/*
 * Whether values of a type are made of JSON arrays or objects: it is an array, a
 * composite, or a domain over one.
 */
bool
decode_takes_structure(Oid type)
{
	Oid base_type = getBaseType(type);

	return OidIsValid(get_element_type(base_type)) || get_typtype(base_type) == TYPTYPE_COMPOSITE;
}

/*
 * Look up the functions of such a type, in the current context, whose life is that of
 * the result.
 */
void
decode_structure_init(DecodeStructure *structure, const char *name, Oid type, int32 typmod)
{
	Datum no_value = (Datum) 0;
	bool is_null = true;
	List *arguments;

	structure->name = name;
	structure->record_descriptor = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(structure->record_descriptor, 1, name, type, typmod, 0);
	BlessTupleDesc(structure->record_descriptor);
	structure->empty_record = heap_form_tuple(structure->record_descriptor, &no_value, &is_null);

	/* The function asks for the types of its arguments. */
	fmgr_info(F_JSON_POPULATE_RECORD, &structure->populate);
	arguments = list_make2(makeNullConst(RECORDOID, -1, InvalidOid),
						   makeNullConst(JSONOID, -1, InvalidOid));
	fmgr_info_set_expr((Node *) makeFuncExpr(F_JSON_POPULATE_RECORD, RECORDOID, arguments,
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &structure->populate);
}

/*
 * Convert a JSON array or object, and whatever else a column of such a type gets, as
 * a record's member of the column's name.  An error when the type refuses it.
 */
Datum
decode_structure(DecodeStructure *structure, const char *json)
{
	StringInfoData object;
	text *argument;
	HeapTupleHeader header;
	HeapTupleData record;
	Datum value;
	bool is_null;

	initStringInfo(&object);
	appendStringInfoChar(&object, '{');
	escape_json(&object, structure->name);
	appendStringInfo(&object, ":%s}", json);

	argument = cstring_to_text_with_len(object.data, object.len);
	header = DatumGetHeapTupleHeader(FunctionCall2(&structure->populate,
												   PointerGetDatum(structure->empty_record->t_data),
												   PointerGetDatum(argument)));
	record.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&record.t_self);
	record.t_tableOid = InvalidOid;
	record.t_data = header;
	value = heap_getattr(&record, 1, structure->record_descriptor, &is_null);
	if (is_null)
		elog(ERROR, "no value for column \"%s\"", structure->name);

	/* Arrays and composites are of variable length, and packed in records. */
	return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
}
