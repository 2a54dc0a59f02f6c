/*-------------------------------------------------------------------------
 *
 * stream_decoder.c
 *	  Decoders for the columns of a stream.
 *
 * A message gives the columns that have a path.  A dead letter of a row that
 * SQL staged is that row as JSON, and gives all columns, each as the member of
 * its name.  Each is decoded as what a consumer's table has it as, and converted
 * where the element is applied (element_convert).
 *
 *-------------------------------------------------------------------------
 */
#include "detect.h"

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
		columns[*nfields].type = column->staged_type;
		columns[*nfields].typmod = column->staged_typmod;
		columns[*nfields].epoch = decode_epoch_unit(column->type);
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

		columns[i].name = column->name;
		columns[i].path = stream_member_path("$", column->name);
		columns[i].type = column->staged_type;
		columns[i].typmod = column->staged_typmod;
		columns[i].epoch = decode_epoch_unit(column->type);
	}
	return decoder_create(columns, stream->ncolumns, NULL, context);
}
