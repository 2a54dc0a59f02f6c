# shellcheck shell=bash
#
# flink.sh: Flink SQL, as a contestant of peers.
#
# A gateway for SQL and the cluster of each job run within one process.  As with
# Kafka Connect, the topic is drained twice, the second drain is what counts, and no
# start of a job is in it: the table of locations is locked until both tasks that
# read the topic wait for the location of their first message.  What the consumers
# have fetched by then counts as if it had been in no time.
set -euo pipefail

FLINK_VERSION=1.20.3
FLINK_KAFKA_VERSION=3.4.0-1.20
FLINK_JDBC_VERSION=3.3.0-1.20
FLINK_HEAP=4g
FLINK_LIBS=${DETECT_FLINK_LIBS:-${XDG_CACHE_HOME:-$HOME/.cache}/detect/flink-$FLINK_VERSION}

# Fetches the jars unless they are there.
fetch_flink() {
    "$SOURCE/test/broker/fetch_jars" "$FLINK_LIBS" "org.apache.flink:flink-sql-gateway:$FLINK_VERSION" \
        "org.apache.flink:flink-table-planner-loader:$FLINK_VERSION" "org.apache.flink:flink-table-runtime:$FLINK_VERSION" \
        "org.apache.flink:flink-json:$FLINK_VERSION" "org.apache.flink:flink-connector-base:$FLINK_VERSION" \
        "org.apache.flink:flink-connector-kafka:$FLINK_KAFKA_VERSION" "org.apache.flink:flink-connector-jdbc-postgres:$FLINK_JDBC_VERSION" \
        "org.postgresql:postgresql:$POSTGRESQL_JDBC_VERSION" "org.apache.logging.log4j:log4j-slf4j-impl:$CONNECT_LOG4J_VERSION"
}

# Calls the gateway: method, path, and the body of the request.
call_flink() {
    curl -s --fail-with-body -X "$1" -H 'Content-Type: application/json' "$FLINK_URL/v1/$2" ${3:+-d "$3"}
}

# Ends the run with what the gateway has said.
flink_failed() {
    say "peers: Flink: $1"
    grep -E 'ERROR|Exception: ' "$WORK/flink/log" | tail -n 10 >&2
    exit 1
}

# Prints the configuration: one process, all of it on loopback, a task for each
# core, and what should be fastest: rows are not copied between operators and are
# taken in bundles, state is on the heap.
flink_configuration() {
    cat <<CONF
execution.target: local
parallelism.default: 2
pipeline.object-reuse: true
state.backend.type: hashmap
execution.checkpointing.interval: 5 s
execution.checkpointing.dir: file://$WORK/flink/checkpoints
io.tmp.dirs: $WORK/flink
jobmanager.bind-host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.host: 127.0.0.1
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
sql-gateway.endpoint.rest.address: 127.0.0.1
sql-gateway.endpoint.rest.bind-address: 127.0.0.1
sql-gateway.endpoint.rest.port: ${FLINK_URL##*:}
table.local-time-zone: UTC
table.dml-sync: true
table.exec.mini-batch.enabled: true
table.exec.mini-batch.allow-latency: 1 s
table.exec.mini-batch.size: 50000
CONF
}

# Starts the gateway, opens a session, and has it run all statements but the last,
# which is the job, and left in flink_job.
start_flink() {
    local statements statement settings='-c%20jit=off%20-c%20work_mem=64MB%20-c%20synchronous_commit=off'
    local url="jdbc:postgresql://127.0.0.1:$PGPORT/city?options=$settings&reWriteBatchedInserts=true&stringtype=unspecified"
    FLINK_URL=http://127.0.0.1:$(free_port)
    rm -rf "$WORK/flink"
    mkdir -p "$WORK/flink/checkpoints"
    flink_configuration >"$WORK/flink/config.yaml"
    FLINK_CONF_DIR=$WORK/flink setpriv --pdeathsig KILL java "-Xms$FLINK_HEAP" "-Xmx$FLINK_HEAP" -XX:+UseParallelGC -Duser.timezone=UTC \
        -Djava.io.tmpdir="$WORK/flink" -Dlog4j2.configurationFile="$WORK/kafka/log4j2.properties" \
        --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.util=ALL-UNNAMED \
        -cp "$FLINK_LIBS/*" org.apache.flink.table.gateway.SqlGateway >"$WORK/flink/log" 2>&1 </dev/null &
    peer=$!
    until call_flink GET info >/dev/null; do
        kill -0 "$peer" 2>/dev/null || flink_failed "the gateway has ended"
        sleep 0.1
    done
    flink_session=$(call_flink POST sessions '{}' | jq -r .sessionHandle)
    statements=$(<"$BENCH/peers.d/flink.sql")
    statements=${statements//'{bootstrap}'/$BOOTSTRAP}
    statements=${statements//'{password}'/$PASSWORD}
    statements=${statements//'{url}'/"$url"}
    while IFS= read -r -d '' statement; do
        if [[ $statement == EXECUTE* ]]; then
            flink_job=$statement
        else
            begin_statement "$statement"
            await_statement
        fi
    done < <(sed '/^--/d' <<<"$statements" | perl -00 -ne 'chomp; print "$_\0"')
}

# Has the gateway begin a statement.
begin_statement() {
    flink_operation=$(call_flink POST "sessions/$flink_session/statements" "$(jq -n --arg statement "$1" '{$statement}')" |
        jq -r .operationHandle) || flink_failed "no statement"
}

# Whether the statement has ended; ends the run when it has failed.
has_ended() {
    local status
    status=$(call_flink GET "sessions/$flink_session/operations/$flink_operation/status" | jq -r .status)
    [[ $status =~ ^(PENDING|INITIALIZED|RUNNING|FINISHED)$ ]] || flink_failed "a statement is $status"
    [ "$status" = FINISHED ]
}

# Waits until the statement has ended.
await_statement() {
    until has_ended; do
        sleep 0.1
    done
}

# Begins the job, which drains the topic into new tables, up to where it waits.
begin_drain() {
    ask -o /dev/null -c "SELECT bench.make_plain(min(timestamp_detected), max(timestamp_detected)) FROM bench.expected" \
        -c "GRANT SELECT, INSERT, UPDATE ON bench.items_per_minute, bench.town_per_minute TO city_ops" -c CHECKPOINT
    exec {flink_lock}> >(ask)
    echo "BEGIN; LOCK TABLE city.location;" >&"$flink_lock"
    begin_statement "$flink_job"
    until [ "$(ask -c "SELECT count(*) = 2 FROM pg_locks WHERE relation = 'city.location'::regclass AND NOT granted")" = t ]; do
        ! has_ended || flink_failed "the job has read no location"
        sleep 0.2
    done
}

# Opens the measurement, and waits until the job has drained the topic.
end_drain() {
    ask -o /dev/null -c "SELECT bench.open_peer($(cat "$WORK/kafka/pid"), $peer)"
    echo "COMMIT;" >&"$flink_lock"
    exec {flink_lock}>&-
    await_statement
}

# One measurement.
measure_flink() {
    local run=$1 begin=$EPOCHREALTIME last_commit
    last_commit="(SELECT max(pg_xact_commit_timestamp(xmin)) FROM (SELECT xmin FROM city.detection
        UNION ALL SELECT xmin FROM bench.items_per_minute UNION ALL SELECT xmin FROM bench.town_per_minute) t)"
    start_flink
    begin_drain
    keep_figure "$run" flink start-up "$EPOCHREALTIME - $begin"
    end_drain
    keep_figure "$run" flink 'first drain' "(SELECT extract(epoch FROM $last_commit - at) * 1e6 FROM bench.opened) / (SELECT count(*) FROM bench.message)"
    begin_drain
    end_drain
    ask -o /dev/null --single-transaction -c "SELECT bench.close_peer($run, 'flink', $last_commit)" \
        -c "SELECT bench.check_events(false), bench.check_rollups(false, 'bench.items', 'bench.town')"
    end_peer
}
