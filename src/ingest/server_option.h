/*-------------------------------------------------------------------------
 *
 * server_option.h
 *	  Options of servers and user mappings, and what their values may be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_SERVER_OPTION_H
#define DETECT_SERVER_OPTION_H

/* Where an option may stand. */
typedef enum OptionPlace
{
	ON_SERVER = 1,
	ON_USER_MAPPING = 2
} OptionPlace;

typedef enum OptionKind
{
	OPTION_TEXT,	/* not empty, at most maximum bytes */
	OPTION_SECRET,	/* the same, never shown */
	OPTION_BROKERS, /* host:port, … */
	OPTION_CHOICE,	/* one of choices, in any case */
	OPTION_NUMBER,	/* from minimum to maximum */
	OPTION_FILE		/* a path that the database server opens */
} OptionKind;

typedef struct KafkaOption
{
	const char *name;
	const char *property; /* librdkafka's name */
	OptionPlace place;
	OptionKind kind;
	const char *choices; /* separated by commas */
	int minimum;
	int maximum;
} KafkaOption;

/* in server_option_value.c */
extern void server_option_check(const KafkaOption *option, const char *value);
extern char *server_option_choice(const KafkaOption *option, const char *value);

#endif /* DETECT_SERVER_OPTION_H */
