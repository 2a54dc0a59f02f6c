/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  The duty of a consumer: Kafka to staging table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DETECT_CONSUMER_H
#define DETECT_CONSUMER_H

#include "detect.h"
#include "storage/latch.h"

typedef struct Consumer Consumer;

/* in ingest/consumer.c */
extern Consumer *consumer_create(const Stream *stream, int number, MemoryContext context);
extern bool consumer_is_connected(const Consumer *consumer);
extern WaitEventSet *consumer_wait_events(const Consumer *consumer);
extern bool consumer_run(Consumer *consumer, int wanted, int *rows_of_many);
extern void consumer_forget(Consumer *consumer);
extern void consumer_reload(Consumer *consumer);
extern int consumer_wait_ms(const Consumer *consumer);

#endif /* DETECT_CONSUMER_H */
