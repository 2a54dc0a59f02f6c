/*-------------------------------------------------------------------------
 *
 * kafka_property.c
 *	  The properties of a client: what a server's options may decide, and what
 *	  nothing may.
 *
 * Ours are set last, so that they hold even if the allow-list of options
 * (server_option.c) had a hole.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ingest/kafka_internal.h"
#include "port.h"

#define CLIENT_ID_PREFIX "detect-"

/* One property that detect decides.  The optional ones are not known to
 * every version of the library. */
typedef struct FixedProperty
{
	const char *name;
	const char *value;
	bool is_optional;
} FixedProperty;

/* What a server's options may override. */
static const FixedProperty default_properties[] = {
	{"fetch.error.backoff.ms", "100", false},
	{"fetch.max.bytes", "8388608", false},
	{"fetch.message.max.bytes", "524288", false},
	{"fetch.queue.backoff.ms", "10", true},
	{"fetch.wait.max.ms", CppAsString2(KAFKA_FETCH_WAIT_MS), false},
	{"queued.max.messages.kbytes", "8192", false},
	{"reconnect.backoff.max.ms", "3000", false},
};

/* What nothing may override: the promises of the pipeline rest on these. */
static const FixedProperty fixed_properties[] = {
	{"allow.auto.create.topics", "false", false},
	{"auto.offset.reset", "error", false},
	{"check.crcs", "true", false},
	{"enable.auto.commit", "false", false},
	{"enable.auto.offset.store", "false", false},
	{"enable.metrics.push", "false", true},
	/* an end of partition tells us to step over control records */
	{"enable.partition.eof", "true", false},
	{"isolation.level", "read_committed", false},
	{"log.queue", "true", false},
	{"socket.keepalive.enable", "true", false},
	{"topic.metadata.refresh.interval.ms", "30000", false},
};

/*
 * Set one property.  Its value may be a secret, and the library's complaint
 * may quote it.
 */
static void
set_property(KafkaClient *client, const char *name, const char *value, bool is_optional,
			 bool is_secret)
{
	char reason[512];
	rd_kafka_conf_res_t result;

	result = rd_kafka_conf_set(client->conf, name, value, reason, sizeof(reason));
	if (result == RD_KAFKA_CONF_OK || (result == RD_KAFKA_CONF_UNKNOWN && is_optional))
		return;

	ereport(
		ERROR,
		(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
		 errmsg("the Kafka library refuses its property \"%s\"", name),
		 is_secret ? 0 : errdetail_internal("%s", kafka_copy_text(CurrentMemoryContext, reason)),
		 errhint("Correct the option \"%s\" of the server or of its user mapping.", name)));
}

/*
 * The name that brokers see, short and of harmless characters.  The group
 * bears it too: nobody ever joins it, but lag monitors find our commits there.
 */
static void
set_client_name(KafkaClient *client, const char *client_name)
{
	char id[KAFKA_MAX_CLIENT_ID_BYTES + 1];

	snprintf(id, sizeof(id), CLIENT_ID_PREFIX "%s", client_name);
	for (char *c = id; *c != '\0'; c++)
	{
		if (IS_HIGHBIT_SET(*c) || (!isalnum((unsigned char) *c) && strchr("-_.", *c) == NULL))
			*c = '-';
	}
	client->group = MemoryContextStrdup(client->context, id);
	set_property(client, "client.id", id, false, false);
	set_property(client, "group.id", id, false, false);
}

/* Have brokers hold a fetch.  Who asks for so many bytes has not asked for more time. */
static void
set_fetch(KafkaClient *client, const KafkaFetch *fetch, const KafkaProperty *properties,
		  int nproperties)
{
	for (int i = 0; i < nproperties; i++)
	{
		if (strcmp(properties[i].name, "fetch.min.bytes") == 0)
			return;
	}
	set_property(client, "fetch.min.bytes", psprintf("%d", fetch->min_bytes), false, false);
	set_property(client, "fetch.wait.max.ms", psprintf("%d", fetch->wait_ms), false, false);
}

/*
 * Fill client->conf, and keep what we need to know of the properties.
 */
void
kafka_set_properties(KafkaClient *client, const KafkaProperty *properties, int nproperties,
					 const char *client_name, const KafkaFetch *fetch)
{
	const char *mechanism = NULL;
	bool has_mechanism = false;

	set_client_name(client, client_name);
	for (int i = 0; i < (int) lengthof(default_properties); i++)
		set_property(client, default_properties[i].name, default_properties[i].value,
					 default_properties[i].is_optional, false);
	if (fetch)
		set_fetch(client, fetch, properties, nproperties);

	for (int i = 0; i < nproperties; i++)
	{
		const KafkaProperty *property = &properties[i];

		/* Not GSSAPI, the library's default: that runs a shell command. */
		if (strcmp(property->name, "security.protocol") == 0 &&
			pg_strncasecmp(property->value, "sasl", 4) == 0)
			mechanism = "PLAIN";
		else if (strcmp(property->name, "sasl.mechanism") == 0)
			has_mechanism = true;

		set_property(client, property->name, property->value, false, property->is_secret);
		if (strcmp(property->name, "bootstrap.servers") == 0)
			client->brokers = MemoryContextStrdup(client->context, property->value);
		else if (strcmp(property->name, "sasl.username") == 0)
			client->username = MemoryContextStrdup(client->context, property->value);
		else if (strcmp(property->name, "sasl.password") == 0)
			client->password = MemoryContextStrdup(client->context, property->value);
	}

	if (mechanism != NULL && !has_mechanism)
		set_property(client, "sasl.mechanism", mechanism, false, false);
	for (int i = 0; i < (int) lengthof(fixed_properties); i++)
		set_property(client, fixed_properties[i].name, fixed_properties[i].value,
					 fixed_properties[i].is_optional, false);
}
