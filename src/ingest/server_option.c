/*-------------------------------------------------------------------------
 *
 * server_option.c
 *	  Options of CREATE SERVER and CREATE USER MAPPING for detect_kafka.
 *
 * The hard idea: librdkafka has properties that load plugins, run shell
 * commands, open files and switch off what our promises rest on, and whoever
 * may create a server chooses what the database server does with them.  So
 * options are an allow-list, one table below; what is not in it does not
 * reach the library.  A row's place matters as much as its name: options of a
 * server can be read by everybody, those of a user mapping cannot, so secrets
 * are accepted only there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "ingest/kafka.h"
#include "ingest/server_option.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#define MAX_HINT_DISTANCE 5 /* edits; a name further away helps nobody */

/* All options, sorted by name. */
static const KafkaOption kafka_options[] = {
	{"bootstrap_servers", "bootstrap.servers", ON_SERVER, OPTION_BROKERS, NULL, 1, 8192},
	{"broker_address_family", "broker.address.family", ON_SERVER, OPTION_CHOICE, "any,v4,v6", 0, 0},
	{"client_id", "client.id", ON_SERVER, OPTION_TEXT, NULL, 1, KAFKA_MAX_CLIENT_ID_BYTES},
	{"client_rack", "client.rack", ON_SERVER, OPTION_TEXT, NULL, 1, 255},
	{"fetch_max_bytes", "fetch.max.bytes", ON_SERVER, OPTION_NUMBER, NULL, 1000000, 2147483135},
	{"fetch_message_max_bytes", "fetch.message.max.bytes", ON_SERVER, OPTION_NUMBER, NULL, 1024,
	 100000000},
	{"fetch_min_bytes", "fetch.min.bytes", ON_SERVER, OPTION_NUMBER, NULL, 1, 1048576},
	{"fetch_wait_max_ms", "fetch.wait.max.ms", ON_SERVER, OPTION_NUMBER, NULL, 1, 2000},
	{"queued_max_messages_kbytes", "queued.max.messages.kbytes", ON_SERVER, OPTION_NUMBER, NULL,
	 1024, 1048576},
	{"sasl_mechanism", "sasl.mechanism", ON_SERVER, OPTION_CHOICE,
	 "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512", 0, 0},
	{"sasl_password", "sasl.password", ON_USER_MAPPING, OPTION_SECRET, NULL, 1, 65536},
	{"sasl_username", "sasl.username", ON_USER_MAPPING, OPTION_TEXT, NULL, 1, 1024},
	{"security_protocol", "security.protocol", ON_SERVER, OPTION_CHOICE,
	 "plaintext,ssl,sasl_plaintext,sasl_ssl", 0, 0},
	{"socket_timeout_ms", "socket.timeout.ms", ON_SERVER, OPTION_NUMBER, NULL, 1000, 300000},
	{"ssl_ca_location", "ssl.ca.location", ON_SERVER, OPTION_FILE, NULL, 1, 4096},
	{"ssl_ca_pem", "ssl.ca.pem", ON_SERVER, OPTION_TEXT, NULL, 1, 1048576},
	{"ssl_certificate_location", "ssl.certificate.location", ON_USER_MAPPING, OPTION_FILE, NULL, 1,
	 4096},
	{"ssl_certificate_pem", "ssl.certificate.pem", ON_USER_MAPPING, OPTION_TEXT, NULL, 1, 1048576},
	{"ssl_cipher_suites", "ssl.cipher.suites", ON_SERVER, OPTION_TEXT, NULL, 1, 4096},
	{"ssl_endpoint_identification_algorithm", "ssl.endpoint.identification.algorithm", ON_SERVER,
	 OPTION_CHOICE, "https,none", 0, 0},
	{"ssl_key_location", "ssl.key.location", ON_USER_MAPPING, OPTION_FILE, NULL, 1, 4096},
	{"ssl_key_password", "ssl.key.password", ON_USER_MAPPING, OPTION_SECRET, NULL, 1, 65536},
	{"ssl_key_pem", "ssl.key.pem", ON_USER_MAPPING, OPTION_SECRET, NULL, 1, 1048576},
};

PG_FUNCTION_INFO_V1(detect_kafka_validator);

/*
 * The row of an option, by our name or (by_property) by librdkafka's; NULL
 * if there is none.
 */
static const KafkaOption *
find_option(const char *name, bool by_property)
{
	for (int i = 0; i < (int) lengthof(kafka_options); i++)
	{
		const KafkaOption *option = &kafka_options[i];

		if (strcmp(by_property ? option->property : option->name, name) == 0)
			return option;
	}
	return NULL;
}

/*
 * The option of this place whose name is nearest to name, NULL if none is
 * near.
 */
static const KafkaOption *
find_nearest_option(const char *name, OptionPlace place)
{
	const KafkaOption *nearest = NULL;
	int nearest_distance = MAX_HINT_DISTANCE + 1;

	/* The distance function refuses longer ones. */
	if (strlen(name) > 63)
		return NULL;
	for (int i = 0; i < (int) lengthof(kafka_options); i++)
	{
		const KafkaOption *option = &kafka_options[i];
		int distance;

		if (option->place != place)
			continue;
		distance =
			varstr_levenshtein_less_equal(name, strlen(name), option->name, strlen(option->name), 1,
										  1, 1, nearest_distance - 1, true);
		if (distance < nearest_distance && distance <= (int) strlen(option->name) / 2)
		{
			nearest = option;
			nearest_distance = distance;
		}
	}
	return nearest;
}

/* What other foreign data wrappers, and Kafka's own clients, call these. */
static const struct
{
	const char *name;
	const char *option;
} usual_names[] = {
	{"address", "bootstrap_servers"}, {"broker", "bootstrap_servers"},
	{"brokers", "bootstrap_servers"}, {"host", "bootstrap_servers"},
	{"hosts", "bootstrap_servers"},	  {"password", "sasl_password"},
	{"port", "bootstrap_servers"},	  {"user", "sasl_username"},
};

/* The option that is usually called so elsewhere, or NULL. */
static const KafkaOption *
find_usual_option(const char *name)
{
	for (int i = 0; i < (int) lengthof(usual_names); i++)
	{
		if (strcmp(usual_names[i].name, name) == 0)
			return find_option(usual_names[i].option, false);
	}
	return NULL;
}

/*
 * Refuse an option that is not in the table, with the best hint there is.
 */
static void
refuse_unknown_option(const char *name, OptionPlace place)
{
	const KafkaOption *option = find_option(name, true);

	if (option == NULL && strcmp(name, "sasl.mechanisms") == 0)
		option = find_option("sasl_mechanism", false);
	if (option != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", name),
				 errhint("Option names are written with underscores: \"%s\".", option->name)));

	option = find_usual_option(name);
	if (option == NULL)
		option = find_nearest_option(name, place);
	ereport(
		ERROR,
		(errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", name),
		 option != NULL
			 ? errhint("Perhaps you meant the option \"%s\".", option->name)
			 : errdetail(
				   "detect passes only properties to the Kafka library that it knows to be safe.")));
}

/*
 * Refuse an option that stands in the wrong place.
 */
static void
refuse_misplaced_option(const KafkaOption *option)
{
	if (option->place == ON_USER_MAPPING)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
						errmsg("option \"%s\" belongs to a user mapping", option->name),
						errdetail("Options of a server can be read by every user."),
						errhint("Use CREATE USER MAPPING ... OPTIONS (%s '...').", option->name)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("option \"%s\" belongs to a server", option->name),
			 errhint("Use CREATE SERVER or ALTER SERVER ... OPTIONS (%s '...').", option->name)));
}

/*
 * Validator of the foreign-data wrapper: gets all options of one object, as
 * they will be, and the catalog that the object is in.  ERROR if anything is
 * wrong.
 */
Datum
detect_kafka_validator(PG_FUNCTION_ARGS)
{
	List *definitions = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog_id = PG_GETARG_OID(1);
	OptionPlace place;
	bool is_given[lengthof(kafka_options)] = {false};
	ListCell *cell;

	if (catalog_id == ForeignServerRelationId)
		place = ON_SERVER;
	else if (catalog_id == UserMappingRelationId)
		place = ON_USER_MAPPING;
	else
	{
		if (definitions != NIL)
			ereport(
				ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", ((DefElem *) linitial(definitions))->defname),
				 errhint(
					 "Only servers and user mappings of this foreign-data wrapper have options.")));
		PG_RETURN_VOID();
	}

	foreach(cell, definitions)
	{
		DefElem *definition = lfirst_node(DefElem, cell);
		const KafkaOption *option = find_option(definition->defname, false);

		if (option == NULL)
			refuse_unknown_option(definition->defname, place);
		if (option->place != place)
			refuse_misplaced_option(option);
		if (is_given[option - kafka_options])
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
							errmsg("option \"%s\" is given twice", option->name)));
		is_given[option - kafka_options] = true;
		server_option_check(option, defGetString(definition));
	}

	if (place == ON_SERVER && !is_given[find_option("bootstrap_servers", false) - kafka_options])
		ereport(ERROR, (errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
						errmsg("option \"bootstrap_servers\" is missing"),
						errhint("Use CREATE SERVER ... OPTIONS (bootstrap_servers 'host:port').")));
	PG_RETURN_VOID();
}

/*
 * Append the properties that options mean to list.  What the table does not
 * know is refused here too: the catalogs can be written by other means than
 * the validator's.
 */
static List *
append_properties(List *list, List *definitions, OptionPlace place)
{
	ListCell *cell;

	foreach(cell, definitions)
	{
		DefElem *definition = lfirst_node(DefElem, cell);
		const KafkaOption *option = find_option(definition->defname, false);
		KafkaProperty *property;

		if (option == NULL)
			refuse_unknown_option(definition->defname, place);
		if (option->place != place)
			refuse_misplaced_option(option);

		property = palloc(sizeof(KafkaProperty));
		property->name = option->property;
		property->value = defGetString(definition);
		if (option->kind == OPTION_CHOICE)
			property->value = server_option_choice(option, property->value);
		property->is_secret = (option->kind == OPTION_SECRET);
		list = lappend(list, property);
	}
	return list;
}

/*
 * The options of the user's own mapping to a server, else of the one for
 * PUBLIC, else none.  Not GetUserMapping(): a server without credentials
 * needs no mapping.
 */
static List *
user_mapping_options(Oid server_id, Oid user_id)
{
	List *options = NIL;
	HeapTuple tuple;
	Datum value;
	bool is_null;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(user_id),
							ObjectIdGetDatum(server_id));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server_id));
	if (!HeapTupleIsValid(tuple))
		return NIL;

	value = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &is_null);
	if (!is_null)
		options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return options;
}

/*
 * The properties of a connection that user_id makes to a server: a list of
 * KafkaProperty in the current memory context.  ERROR if the server is not
 * one of detect_kafka or the user has no USAGE on it.
 */
List *
kafka_connection_properties(Oid server_id, Oid user_id)
{
	ForeignServer *server = GetForeignServer(server_id);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	AclResult permission;
	List *properties;

	if (strcmp(wrapper->fdwname, "detect_kafka") != 0)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("server \"%s\" is not a Kafka cluster", server->servername),
						errhint("Create it with FOREIGN DATA WRAPPER detect_kafka.")));

	permission = compat_server_aclcheck(server_id, user_id);
	if (permission != ACLCHECK_OK)
		aclcheck_error(permission, OBJECT_FOREIGN_SERVER, server->servername);

	properties = append_properties(NIL, server->options, ON_SERVER);
	return append_properties(properties, user_mapping_options(server_id, user_id), ON_USER_MAPPING);
}
