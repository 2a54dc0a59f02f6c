/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  SQL in the name of the caller: commands, and errors in texts he gave.
 *
 * A verb is called within a statement of the caller, while the error is in a
 * text that the statement hands over: errors point into that text, which is
 * sent as the internal query, and the position in the statement is withdrawn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "sql.h"

/*
 * Run a command as the current user, with the rights and settings of now.
 */
void
sql_execute(const char *command)
{
	int result;

	SPI_connect();
	result = SPI_execute(command, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", command, SPI_result_code_string(result));
	SPI_finish();
}

/*
 * Error context callback of a parser; arg is an SqlText.
 */
void
sql_text_error(void *arg)
{
	const SqlText *sql = arg;
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position - sql->offset);
		internalerrquery(sql->text);
	}
	errcontext("%s", sql->what);
}
