# shellcheck shell=bash
#
# system.sh: what the benchmarks run on; sourced by the programs here.
#
# A PostgreSQL of its own with this extension, a real Apache Kafka of one node,
# and the town of examples/city_cameras: 10,000 locations, 1000 zones of 65
# points.  Everything lives in one directory of TMPDIR, which is removed at the
# end, also after Ctrl-C.
set -euo pipefail

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BENCH=$SOURCE/test/bench
PARTITIONS=4
WORK=
BINDIR=
BOOTSTRAP=

say() {
    printf '%s\n' "$*"
}

# Runs a command as the user that the server runs as.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        (cd "$WORK" && runuser -u postgres -- "$@" </dev/null)
    else
        "$@" </dev/null
    fi
}

# psql on the town's database, unaligned; its settings do not come from outside.
ask() {
    PGOPTIONS='-c client_min_messages=warning' "$BINDIR/psql" -X -q -A -t -P pager=off -v ON_ERROR_STOP=1 \
        -h "$WORK/socket" -U postgres -d city "$@"
}

# Produces camera events to the stream's topic in the background, as its options
# say; at its end the ledger is in $WORK/ledger.json.
start_generator() {
    "$SOURCE/test/broker/generator" --bootstrap "$BOOTSTRAP" --topic camera.detections --compression lz4 "$@" \
        >"$WORK/ledger.json" 2>"$WORK/generator.log" </dev/null &
    generator=$!
}

# Waits until a generator in the background has delivered everything.
await_generator() {
    wait "$1" || { cat "$WORK/generator.log" >&2; say "${0##*/}: a generator could not deliver everything"; exit 1; }
}

# Has a generator in the background come to its end.
end_generator() {
    kill -INT "$1" 2>/dev/null || true
    await_generator "$1"
}

# Produces messages to a topic, as the options say.
produce() {
    "$SOURCE/test/broker/generator" --bootstrap "$BOOTSTRAP" --topic "$1" --compression lz4 --partitions "$PARTITIONS" "${@:2}" \
        >/dev/null 2>"$WORK/generator.log" || { cat "$WORK/generator.log" >&2; exit 1; }
}

# Writes the messages that the same options give into the file rows/messages.
write_messages() {
    mkdir "$WORK/rows"
    "$SOURCE/test/broker/generator" --file "$WORK/rows/messages" --partitions "$PARTITIONS" "$@" >/dev/null
    if [ "$(id -u)" -eq 0 ]; then
        chown -R postgres "$WORK/rows"
    fi
}

# So many messages into the topic, and the same into the file: their times end about
# now, so that they fall into a partition that is still open.
produce_events() {
    local events=$1 event_rate=10000 start common
    start=$(date -u -d "-$((events / event_rate)) seconds" +%Y-%m-%dT%H:%M:%SZ)
    common=(--count "$events" --event-rate "$event_rate" --duplicates 0.01 --start "$start")
    produce camera.detections "${common[@]}"
    write_messages "${common[@]}"
}

# Waits for Ctrl-C when BENCH_KEEP says so.
keep_running() {
    if [ "${BENCH_KEEP:-0}" = 1 ]; then
        say "still running:  psql -h $WORK/socket -U postgres city   Kafka: $BOOTSTRAP   Ctrl-C ends it"
        tail -f /dev/null
    fi
}

# Ends what runs, and removes it.
tear_down() {
    local process
    for process in "${generator:-}" "${generators[@]:-}" "${peer:-}"; do
        [ -z "$process" ] || kill "$process" 2>/dev/null || true
    done
    "$SOURCE/test/broker/kafka" kill "$WORK/kafka" 2>/dev/null || true
    if [ -s "$WORK/data/postmaster.pid" ]; then
        as_server "$BINDIR/pg_ctl" -D "$WORK/data" -m immediate -w stop >/dev/null 2>&1 || true
    fi
    rm -rf "$WORK"
}

on_exit() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$WORK" ]; then
        if [ "$status" -ne 0 ] && [ "$status" -ne 130 ] && [ -s "$WORK/postmaster.log" ]; then
            echo "the server's last words:" >&2
            grep -E 'ERROR|FATAL|PANIC|WARNING|DETAIL|HINT' "$WORK/postmaster.log" | tail -n 20 >&2 || true
        fi
        tear_down
    fi
    exit "$status"
}

# Large enough for no checkpoint to fall into a measurement, and otherwise as
# installed: fsync, full_page_writes and autovacuum are on.  The argument is one
# more setting.
start_server() {
    mkdir -m 700 "$WORK/socket" "$WORK/data"
    if [ "$(id -u)" -eq 0 ]; then
        chown postgres "$WORK" "$WORK/socket" "$WORK/data"
    fi
    as_server "$BINDIR/initdb" -D "$WORK/data" -U postgres --auth=trust --encoding=UTF8 --no-locale --no-sync >"$WORK/initdb.log"
    cat >>"$WORK/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$WORK/socket'
shared_preload_libraries = 'detect'
shared_buffers = '1GB'
max_wal_size = '16GB'
checkpoint_timeout = '1h'
timezone = 'UTC'
$1
CONF
    as_server "$BINDIR/pg_ctl" -D "$WORK/data" -l "$WORK/postmaster.log" -w start >/dev/null
    "$BINDIR/createdb" -h "$WORK/socket" -U postgres city
}

# The town and an empty topic.  The stream and the rollups of the example go
# again: the benchmarks make their own.
make_town() {
    "$SOURCE/test/broker/kafka" create-topic "$WORK/kafka" camera.detections "$PARTITIONS" >/dev/null
    ask -o /dev/null -v bootstrap="$BOOTSTRAP" -v topic=camera.detections -f "$SOURCE/examples/city_cameras/schema.sql"
    ask -o /dev/null -f "$BENCH/town.sql"
}

# Everything, running; the argument is one more setting of PostgreSQL.
start_system() {
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/detect-bench.XXXXXX")
    chmod 755 "$WORK"
    BINDIR=$("$SOURCE/test/private_postgres" "$WORK/postgres")
    start_server "${1:-}"
    BOOTSTRAP=$(DETECT_KAFKA_PARENT=$$ "$SOURCE/test/broker/kafka" start "$WORK/kafka")
    make_town
}

# One line about the machine and one about the versions.
print_machine() {
    local libs
    libs=$("$SOURCE/test/broker/kafka" libs)
    say "$(date -u +%Y-%m-%d), $(nproc) cores ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1))," \
        "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), load $(cut -d ' ' -f 1 /proc/loadavg)"
    say "PostgreSQL $("$BINDIR/pg_config" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')," \
        "PostGIS $(ask -c "SELECT extversion FROM pg_extension WHERE extname = 'postgis'")," \
        "librdkafka $(dpkg-query -W -f '${Version}' librdkafka1 2>/dev/null || echo unknown)," \
        "Kafka $(basename "$(echo "$libs"/kafka_2*.jar)" .jar | sed 's/.*-//')," \
        "detect $(git -C "$SOURCE" describe --always --dirty 2>/dev/null || echo unknown)"
}
