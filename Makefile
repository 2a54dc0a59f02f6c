# detect: real-time analytics for detections, inside PostgreSQL.
#
#   make demo          a whole running system for a minute, on a bare machine
#   make test          every kind of test; ends with 'N passed, N failed'
#   make               the extension;  make install  puts it into PostgreSQL
#   make ledger        seeds of messages and faults against an exact ledger
#   make fuzz          the JSON decoder under libFuzzer, RUNS=100000 payloads
#   make test-sanitize the tests on a PostgreSQL with assertions and sanitizers,
#                      which is built once;  make test-valgrind  some of them under valgrind
#   make test-guest    what a DBA does to a server and its databases, two of them busy;
#                      make test-guest-long  the same for longer
#   make installcheck  pg_regress alone (not as root)
#   make lint          style and house rules;  make format  lets clang-format mend
#   make bench         throughput;  make bench-soak  10,000/s for ten minutes;
#                      make bench-peers  others at the same work; see test/bench/README.md
#   make deps          the packages that all of this needs
#
# The targets demo, test, test-guest, ledger, lint and bench work before PostgreSQL is installed:
# they install the packages and then start make again, which by then finds
# pg_config.  FAULT_POINTS=1 builds the points where tests let a worker fail.

PG_MAJOR ?= 15

MODULE_big = detect
EXTENSION = detect
DATA = detect--1.0.sql
PGFILEDESC = "detect - real-time analytics for detections"

# Every C file by name, alphabetical within its stage; 'make lint' compares
# this list with the tree.
OBJS = \
	src/accept_gap.o \
	src/admin.o \
	src/catalog.o \
	src/citus.o \
	src/database_in_use.o \
	src/dead_letter_refill.o \
	src/dead_letter_verbs.o \
	src/detect.o \
	src/dropped.o \
	src/events_trigger.o \
	src/fault_point.o \
	src/heap_rows.o \
	src/history.o \
	src/index_key.o \
	src/name.o \
	src/pause.o \
	src/peek.o \
	src/relation_change.o \
	src/seek.o \
	src/settings.o \
	src/sql.o \
	src/stream.o \
	src/stream_alter.o \
	src/stream_arguments.o \
	src/stream_check.o \
	src/stream_columns.o \
	src/stream_create.o \
	src/stream_definition.o \
	src/stream_drop.o \
	src/stream_lock.o \
	src/stream_output.o \
	src/stream_query.o \
	src/stream_source.o \
	src/stream_table.o \
	src/stream_transaction.o \
	src/subtransaction.o \
	src/try_sample.o \
	src/try_stream.o \
	src/wait_for.o \
	src/ingest/connect.o \
	src/ingest/consumer.o \
	src/ingest/decode.o \
	src/ingest/decode_buffer.o \
	src/ingest/decode_input.o \
	src/ingest/decode_path.o \
	src/ingest/decode_sql.o \
	src/ingest/decode_structure.o \
	src/ingest/decode_unknown.o \
	src/ingest/decode_walk.o \
	src/ingest/freshness.o \
	src/ingest/gap.o \
	src/ingest/json_epoch.o \
	src/ingest/json_number.o \
	src/ingest/json_scan.o \
	src/ingest/json_time.o \
	src/ingest/json_value.o \
	src/ingest/kafka.o \
	src/ingest/kafka_error.o \
	src/ingest/kafka_header.o \
	src/ingest/kafka_limit.o \
	src/ingest/kafka_poll.o \
	src/ingest/kafka_property.o \
	src/ingest/kafka_read.o \
	src/ingest/kafka_request.o \
	src/ingest/launch.o \
	src/ingest/launcher.o \
	src/ingest/linger.o \
	src/ingest/malloc.o \
	src/ingest/open_transaction.o \
	src/ingest/patience.o \
	src/ingest/poll.o \
	src/ingest/position.o \
	src/ingest/probe.o \
	src/ingest/progress.o \
	src/ingest/reconcile.o \
	src/ingest/round.o \
	src/ingest/server_option.o \
	src/ingest/server_option_value.o \
	src/ingest/session.o \
	src/ingest/slot.o \
	src/ingest/stage.o \
	src/ingest/staging.o \
	src/ingest/staging_pages.o \
	src/ingest/stream_decoder.o \
	src/ingest/unknown_field.o \
	src/ingest/watch.o \
	src/ingest/worker.o \
	src/apply/applier.o \
	src/apply/attempt.o \
	src/apply/attempt_file.o \
	src/apply/chore.o \
	src/apply/chore_command.o \
	src/apply/constraint.o \
	src/apply/dead_letter.o \
	src/apply/dead_letter_row.o \
	src/apply/decide.o \
	src/apply/dedup.o \
	src/apply/edit.o \
	src/apply/edit_detached.o \
	src/apply/edit_times.o \
	src/apply/element.o \
	src/apply/events.o \
	src/apply/events_seen.o \
	src/apply/events_write.o \
	src/apply/failure.o \
	src/apply/identity.o \
	src/apply/identity_columns.o \
	src/apply/identity_index.o \
	src/apply/identity_set.o \
	src/apply/identity_values.o \
	src/apply/maintain.o \
	src/apply/pace.o \
	src/apply/partition.o \
	src/apply/partition_end.o \
	src/apply/partition_index.o \
	src/apply/partition_interval.o \
	src/apply/partition_make.o \
	src/apply/piece.o \
	src/apply/piece_failed.o \
	src/apply/plan.o \
	src/apply/query.o \
	src/apply/read_batch.o \
	src/apply/refused.o \
	src/apply/retry.o \
	src/apply/retry_settle.o \
	src/apply/segment.o \
	src/apply/segment_bound.o \
	src/apply/segment_follow.o \
	src/apply/segment_watch.o \
	src/apply/segment_probe.o \
	src/apply/segment_read.o \
	src/apply/staged_message.o \
	src/apply/staged_read.o \
	src/apply/staged_sql.o \
	src/apply/tend.o \
	src/apply/time_limit.o \
	src/apply/upkeep.o \
	src/place/build.o \
	src/place/change_commit.o \
	src/place/changes.o \
	src/place/globe.o \
	src/place/locate.o \
	src/place/locator.o \
	src/place/locator_arguments.o \
	src/place/locator_create.o \
	src/place/locator_definition.o \
	src/place/locator_stats.o \
	src/place/locator_text.o \
	src/place/lookup.o \
	src/place/lookup_query.o \
	src/place/nearest.o \
	src/place/place.o \
	src/place/place_expressions.o \
	src/place/place_grid.o \
	src/place/place_order.o \
	src/place/place_rows.o \
	src/place/place_table.o \
	src/place/place_tree.o \
	src/place/place_walk.o \
	src/place/places.o \
	src/place/serialized.o \
	src/place/wrapper.o \
	src/rollup/aggregate_state.o \
	src/rollup/alter.o \
	src/rollup/aside.o \
	src/rollup/blame.o \
	src/rollup/bucket.o \
	src/rollup/coarser.o \
	src/rollup/compact.o \
	src/rollup/definition.o \
	src/rollup/fill.o \
	src/rollup/fill_chunk.o \
	src/rollup/fill_worker.o \
	src/rollup/filled.o \
	src/rollup/gone.o \
	src/rollup/gone_follow.o \
	src/rollup/group_row.o \
	src/rollup/implied.o \
	src/rollup/join.o \
	src/rollup/merge.o \
	src/rollup/merge_plan.o \
	src/rollup/missed.o \
	src/rollup/numeric_state.o \
	src/rollup/partial.o \
	src/rollup/partial_query.o \
	src/rollup/partial_receiver.o \
	src/rollup/query_check.o \
	src/rollup/rebuild.o \
	src/rollup/relations.o \
	src/rollup/repair.o \
	src/rollup/repair_check.o \
	src/rollup/repair_queue.o \
	src/rollup/retention.o \
	src/rollup/rollup.o \
	src/rollup/shape.o \
	src/rollup/state.o \
	src/rollup/state_merge.o \
	src/rollup/swap.o \
	src/rollup/timed.o \
	src/rollup/verify.o \
	src/rollup/verify_sql.o \
	src/rollup/view.o \
	src/rollup/wait.o \
	src/monitor/log_limit.o \
	src/monitor/problem.o \
	src/monitor/server.o \
	src/monitor/stats.o \
	src/monitor/step.o

# Clean under -Wall -Wextra but for two things that PostgreSQL's own interfaces ask for:
# unused-parameter: PG_FUNCTION_ARGS, hooks and callbacks come with parameters we ignore
# sign-compare: lengthof() and Index are unsigned, and int loops are compared with them
PG_CPPFLAGS = -Isrc
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
SHLIB_LINK = -lrdkafka

# A sanitizer's code has the compiler warn of what is not there.
ifdef DETECT_CHECK
PG_CFLAGS += -Wno-error
endif

ifdef FAULT_POINTS
PG_CPPFLAGS += -DDETECT_FAULT_POINTS
endif

REGRESS = $(shell sed -n 's/^test: *//p' sql/schedule 2>/dev/null)
REGRESS_OPTS = --temp-instance=tmp_check --temp-config=test/detect.conf

EXTRA_CLEAN = tmp_check test/broker/generator test/broker/mock_broker test/disk/full_disk.so test/fuzz/decoder test/fuzz/corpus.tmp

# Debian's own path first: another pg_config may come earlier in PATH.
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/$(PG_MAJOR)/bin/pg_config) pg_config)
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))

ifneq ($(PGXS),)
# Bitcode would only let JIT inline our functions into SQL: not worth the time.
override with_llvm = no
include $(PGXS)
$(OBJS): $(wildcard src/*.h src/*/*.h)
else
all install installcheck:
	@echo "make: PostgreSQL's build files are missing; 'make deps' installs them" >&2
	@exit 1
clean:
	rm -f $(EXTRA_CLEAN)
endif

# Programs of the tests: plain C, nothing of PostgreSQL.
TEST_PROGRAMS = test/broker/generator test/broker/mock_broker
TEST_CFLAGS = -O2 -g -std=gnu11 -Wall -Wextra -Werror

test-programs: $(TEST_PROGRAMS) test/disk/full_disk.so
$(TEST_PROGRAMS): %: %.c
	$(CC) $(TEST_CFLAGS) -o $@ $< -lrdkafka -lm
test/disk/full_disk.so: test/disk/full_disk.c
	$(CC) $(TEST_CFLAGS) -fPIC -shared -o $@ $< -ldl

# DETECT_TEST_KAFKA=1 also brings Java and Maven, for the real Kafka.
deps:
	@test/install_dependencies.sh $(if $(DETECT_TEST_KAFKA),--kafka)

# TESTS='regress test/t/002_restart.pl' runs only these; test/run builds a copy.
test: deps
	@test/run $(TESTS)

# Tests of how detect behaves among others: start, stop, drop, copy, dump, DDL.
GUEST_TESTS = sql/health.sql sql/drop.sql test/isolation/specs/drop_against_apply.spec test/isolation/specs/drop_against_open_batch.spec \
	$(addprefix test/t/,001_restart.pl 003_terminate.pl 004_drop_database.pl 005_drop_extension.pl 006_not_preloaded.pl 008_copy.pl \
	020_states.pl 034_health.pl 035_ddl_under_load.pl 036_operations.pl 037_our_database.pl 038_guest.pl 040_broken_streams.pl 041_update.pl \
	042_leave_database.pl 043_every_setting.pl 044_pg_upgrade.pl)

test-guest: deps
	@DETECT_BUSY=1 test/run $(GUEST_TESTS)

# A snapshot for ten minutes, a hundred databases dropped, an hour for what is logged.
test-guest-long: deps
	@DETECT_BUSY=1 DETECT_SNAPSHOT_S=600 DETECT_DROPS=100 DETECT_LOG_S=3600 TEST_TIMEOUT=7200 test/run \
		$(addprefix test/t/,037_our_database.pl 038_guest.pl 040_broken_streams.pl)

# SEEDS=1000 runs so many, SEED=17 that one again, both so many from that one on.
ledger: deps
	@LEDGER_SEEDS=$(SEEDS) LEDGER_SEED=$(SEED) test/run ledger

# The decoder and what it needs, without a server: see test/fuzz/decoder.c.  What
# is found is in test/fuzz/found: mend it, and keep the file.
RUNS ?= 100000
FUZZED = $(addprefix src/ingest/,decode.c decode_buffer.c decode_path.c decode_unknown.c \
	decode_walk.c json_epoch.c json_number.c json_scan.c json_time.c json_value.c)
FUZZ_FLAGS = -g -O2 -std=gnu11 -fno-omit-frame-pointer -fno-sanitize-recover=undefined \
	-fsanitize=fuzzer,address,undefined -Wno-unknown-attributes -Wno-ignored-attributes -Isrc -D_GNU_SOURCE

test/fuzz/decoder: test/fuzz/decoder.c $(FUZZED) $(wildcard src/ingest/*.h)
	$(FUZZ_CC) $(FUZZ_FLAGS) -I$(shell $(PG_CONFIG) --includedir-server) -o $@ $(filter %.c,$^) \
		$(addprefix $(shell $(PG_CONFIG) --pkglibdir)/,libpgcommon.a libpgport.a) -lm
FUZZ_CC ?= clang

fuzz:
	@test/install_dependencies.sh --fuzz
	@$(MAKE) -s --no-print-directory test/fuzz/decoder
	@mkdir -p test/fuzz/found test/fuzz/corpus.tmp
	$(if $(wildcard test/fuzz/found/*),test/fuzz/decoder $(wildcard test/fuzz/found/*))
	test/fuzz/decoder -runs=$(RUNS) -max_len=512 -dict=test/fuzz/json.dict -print_final_stats=1 \
		-artifact_prefix=test/fuzz/found/ test/fuzz/corpus.tmp test/fuzz/corpus

test-sanitize: deps
	@test/install_dependencies.sh --sanitize
	@PG_CONFIG=$$(test/checked_postgres sanitize) && export PG_CONFIG && DETECT_CHECK=sanitize test/run $(TESTS)

test-valgrind: deps
	@test/install_dependencies.sh --valgrind
	@PG_CONFIG=$$(test/checked_postgres valgrind) && export PG_CONFIG && DETECT_CHECK=valgrind test/run $(TESTS)

demo: deps
	@echo "building …"
	@$(MAKE) -s --no-print-directory all test-programs
	@test/demo

bench bench-soak:
	@test/install_dependencies.sh --kafka
	@$(MAKE) -s --no-print-directory all test-programs
	@test/bench/$(if $(filter bench,$@),run,soak)

bench-peers:
	@test/install_dependencies.sh --peers
	@$(MAKE) -s --no-print-directory all test-programs
	@test/bench/peers

lint: deps
	@test/lint

format: deps
	clang-format -i $(wildcard src/*.[ch] src/*/*.[ch] test/broker/*.[ch] test/disk/*.c test/fuzz/*.c)

.PHONY: deps test test-guest test-guest-long test-sanitize test-valgrind fuzz ledger demo bench bench-soak bench-peers lint format test-programs
