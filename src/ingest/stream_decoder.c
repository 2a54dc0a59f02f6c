/*-------------------------------------------------------------------------
 *
 * stream_decoder.c
 *	  Decoders for the columns of a stream.
 *
 * A message gives the columns that have a path.  A dead letter of a row that
 * SQL staged is that row as JSON, and gives all columns, each as the member of
 * its name.  Columns that a consumer's table has as text are decoded as text,
 * and converted where the element is applied (element_convert).
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

#include "catalog/pg_type.h"
#include "ingest/stream_decoder.h"

/*
 * A decoder for messages; nfields is how many columns it fills, in their order.
 * Called in a transaction.
 */
Decoder *
stream_message_decoder(const Stream *stream, MemoryContext context, int *nfields)
{
	DecodeColumn *columns = palloc(Max(stream->ncolumns, 1) * sizeof(DecodeColumn));

	*nfields = 0;
	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];

		if (column->source != COLUMN_FIELD)
			continue;
		columns[*nfields].name = column->name;
		columns[*nfields].path = column->path;
		columns[*nfields].type = column->staged_as_text ? TEXTOID : column->type;
		columns[*nfields].typmod = column->staged_as_text ? -1 : column->typmod;
		(*nfields)++;
	}
	return decoder_create(columns, *nfields, stream->unnest, context);
}

/*
 * A decoder for rows that SQL staged, as their dead letters show them; it fills
 * all of the stream's columns.  Called in a transaction.
 */
Decoder *
stream_row_decoder(const Stream *stream, MemoryContext context)
{
	DecodeColumn *columns = palloc(Max(stream->ncolumns, 1) * sizeof(DecodeColumn));

	for (int i = 0; i < stream->ncolumns; i++)
	{
		const StreamColumn *column = &stream->columns[i];
		bool is_text = column->staged_as_text || column->source == COLUMN_KAFKA_HEADERS;

		columns[i].name = column->name;
		columns[i].path = stream_member_path("$", column->name);
		columns[i].type = is_text ? TEXTOID : column->type;
		columns[i].typmod = is_text ? -1 : column->typmod;
	}
	return decoder_create(columns, stream->ncolumns, NULL, context);
}
