# shellcheck shell=bash
#
# clickhouse.sh: ClickHouse's Kafka engine, as a contestant of peers.
#
# The engine runs within a Python process, from a package; later versions of that
# package refuse Kafka tables.  Nothing is written to PostgreSQL: what is in
# ClickHouse at the end is copied there to be compared.
set -euo pipefail

CHDB_VERSION=4.0.2
CHDB_LIBS=${DETECT_CHDB_LIBS:-${XDG_CACHE_HOME:-$HOME/.cache}/detect/chdb-$CHDB_VERSION}

# Fetches the package unless it is there; complete or not at all.
fetch_clickhouse() {
    local partial
    if [ -d "$CHDB_LIBS" ]; then
        return
    fi
    mkdir -p "$(dirname "$CHDB_LIBS")"
    partial=$(mktemp -d "$CHDB_LIBS.XXXXXX")
    if ! python3 -m pip install -q --target "$partial/libs" "chdb==$CHDB_VERSION" >"$partial/log" 2>&1; then
        cat "$partial/log" >&2
        rm -rf "$partial"
        say "peers: could not fetch chdb $CHDB_VERSION"
        exit 1
    fi
    mv -T "$partial/libs" "$CHDB_LIBS" 2>/dev/null || [ -d "$CHDB_LIBS" ]    # another may have been faster
    rm -rf "$partial"
}

# One measurement, by a process of which clickhouse.py says when it answers.
measure_clickhouse() {
    local run=$1 dir=$WORK/clickhouse begin=$EPOCHREALTIME events orders answers answer
    rm -rf "$dir"
    mkdir "$dir"
    mkfifo "$dir/orders" "$dir/answers"
    ask -c "COPY (SELECT geographical_location_oid, geographical_location FROM city.location) TO STDOUT" >"$dir/location"
    ask -c "COPY (SELECT zone_id, ST_AsText(geom, 17) FROM city.zones) TO STDOUT" >"$dir/zones"
    events=$(ask -c "SELECT count(*) FROM bench.expected")
    PYTHONPATH=$CHDB_LIBS setpriv --pdeathsig KILL python3 "$BENCH/peers.d/clickhouse.py" \
        "$BOOTSTRAP" camera.detections "run$run" "$events" "$dir" <"$dir/orders" >"$dir/answers" 2>"$WORK/clickhouse.log" &
    peer=$!
    exec {orders}>"$dir/orders" {answers}<"$dir/answers"
    read -r answer <&"$answers" || clickhouse_failed
    keep_figure "$run" clickhouse start-up "$EPOCHREALTIME - $begin"
    ask -o /dev/null -c "SELECT bench.open_peer($(cat "$WORK/kafka/pid"), $peer)"
    echo >&"$orders"
    read -r answer <&"$answers" || clickhouse_failed
    ask -o /dev/null -c "SELECT bench.close_peer($run, 'clickhouse', to_timestamp($answer))"
    echo >&"$orders"
    wait "$peer" || clickhouse_failed
    peer=
    exec {orders}>&- {answers}<&-
    ask -o /dev/null -v run="$run" -v dir="$dir" -f "$BENCH/peers.d/clickhouse.sql"
}

# Ends the run with what the process has said.
clickhouse_failed() {
    say "peers: clickhouse.py has failed"
    tail -n 30 "$WORK/clickhouse.log" >&2
    exit 1
}
