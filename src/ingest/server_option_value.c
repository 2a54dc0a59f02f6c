/*-------------------------------------------------------------------------
 *
 * server_option_value.c
 *	  What the value of an option of a server or a user mapping may be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_authid.h"
#include "ingest/server_option.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#define MAX_PORT 65535

/*
 * Is this one broker: host, host:port, [address] or [address]:port?
 */
static bool
is_broker(const char *broker)
{
	const char *port;
	const char *host_end;

	if (broker[0] == '[')
	{
		host_end = strchr(broker, ']');
		if (host_end == NULL || host_end == broker + 1 ||
			strspn(broker + 1, "0123456789abcdefABCDEF:.%") != (size_t) (host_end - broker - 1))
			return false;
		host_end++;
	}
	else
	{
		host_end = broker + strcspn(broker, ":");
		if (host_end == broker)
			return false;
		for (const char *c = broker; c < host_end; c++)
		{
			if (IS_HIGHBIT_SET(*c) || (!isalnum((unsigned char) *c) && strchr("-_.", *c) == NULL))
				return false;
		}
	}
	if (*host_end == '\0')
		return true;
	port = host_end + 1;
	return *host_end == ':' && strlen(port) >= 1 && strlen(port) <= 5 &&
		   strspn(port, "0123456789") == strlen(port) && atoi(port) >= 1 && atoi(port) <= MAX_PORT;
}

/*
 * Check "host:port, host:port, …".
 */
static void
check_brokers(const KafkaOption *option, const char *value)
{
	char *rest = pstrdup(value);

	while (rest != NULL)
	{
		char *broker = rest;
		char *end;

		rest = strchr(broker, ',');
		if (rest != NULL)
			*rest++ = '\0';
		broker += strspn(broker, " ");
		end = broker + strlen(broker);
		while (end > broker && end[-1] == ' ')
			*--end = '\0';
		if (!is_broker(broker))
			ereport(
				ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid broker \"%s\" in option \"%s\"", broker, option->name),
				 errhint(
					 "Write host:port, and commas between brokers: 'kafka1:9092,kafka2:9092'.")));
	}
}

/*
 * The choice that value means, spelled as the library wants it; NULL if it
 * is none.
 */
char *
server_option_choice(const KafkaOption *option, const char *value)
{
	const char *choices = option->choices;
	size_t value_bytes = strlen(value);

	while (*choices != '\0')
	{
		size_t choice_bytes = strcspn(choices, ",");

		if (choice_bytes == value_bytes && pg_strncasecmp(choices, value, value_bytes) == 0)
			return pnstrdup(choices, choice_bytes);
		choices += choice_bytes;
		choices += (*choices == ',');
	}
	return NULL;
}

/*
 * Check that the current user may make the database server open files.
 */
static void
check_file_access(const KafkaOption *option)
{
	const char *by_value;

	if (has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;

	if (strcmp(option->name, "ssl_ca_location") == 0)
		by_value = "ssl_ca_pem";
	else if (strcmp(option->name, "ssl_certificate_location") == 0)
		by_value = "ssl_certificate_pem";
	else
		by_value = "ssl_key_pem";
	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		 errmsg("permission denied to set option \"%s\"", option->name),
		 errdetail(
			 "Only roles with the privileges of \"pg_read_server_files\" may name files of the database server."),
		 errhint("Give the contents instead of a path, in option \"%s\".", by_value)));
}

/*
 * Check the value of a numeric option.
 */
static void
check_number(const KafkaOption *option, const char *value)
{
	int number;

	if (!parse_int(value, &number, 0, NULL) || number < option->minimum || number > option->maximum)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
				 errhint("Give an integer from %d to %d.", option->minimum, option->maximum)));
}

/*
 * Check the value of an option: ERROR if it is none that it may have.
 */
void
server_option_check(const KafkaOption *option, const char *value)
{
	if (option->kind == OPTION_NUMBER)
	{
		check_number(option, value);
		return;
	}
	if (option->kind == OPTION_CHOICE)
	{
		if (server_option_choice(option, value) == NULL)
			ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
							errmsg("invalid value for option \"%s\": \"%s\"", option->name, value),
							errhint("Valid values are: %s.", option->choices)));
		return;
	}

	/* From here on the value may be a secret: it is not shown. */
	if ((int) strlen(value) < option->minimum || (int) strlen(value) > option->maximum)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						errmsg("invalid length of option \"%s\"", option->name),
						errhint("Give %d to %d bytes.", option->minimum, option->maximum)));
	if (option->kind == OPTION_BROKERS)
		check_brokers(option, value);
	else if (option->kind == OPTION_FILE)
		check_file_access(option);
}
