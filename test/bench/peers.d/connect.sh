# shellcheck shell=bash
#
# connect.sh: Kafka Connect with the Debezium JDBC sink, as three contestants of
# peers: into a flat table, and with triggers that do the rest of the work, for
# each statement or for each row.
#
# The worker is a process of its own, whose code gets fast as it runs.  So it
# drains the topic twice, by two connectors one after another: the first drain is
# told beside the second, which is what counts.  So that no start of a connector is
# in that, its table is locked until both tasks run and one waits for it.  What has
# been fetched by then counts as if it had been in no time.  To wait for both would
# be to wait for ever: one that waits for a table does not share its partitions.
set -euo pipefail

CONNECT_VERSION=4.2.0
DEBEZIUM_VERSION=3.5.0.Final
POSTGRESQL_JDBC_VERSION=42.7.7
CONNECT_LOG4J_VERSION=2.24.3
CONNECT_HEAP=2g
CONNECT_LIBS=${DETECT_CONNECT_LIBS:-${XDG_CACHE_HOME:-$HOME/.cache}/detect/connect-$CONNECT_VERSION-$DEBEZIUM_VERSION}

# Fetches the jars unless they are there.
fetch_connect() {
    "$SOURCE/test/broker/fetch_jars" "$CONNECT_LIBS" "org.apache.kafka:connect-runtime:$CONNECT_VERSION" \
        "org.apache.kafka:connect-json:$CONNECT_VERSION" "io.debezium:debezium-connector-jdbc:$DEBEZIUM_VERSION" \
        "org.postgresql:postgresql:$POSTGRESQL_JDBC_VERSION" "org.apache.logging.log4j:log4j-slf4j-impl:$CONNECT_LOG4J_VERSION"
}

# Calls the worker: method, path, and the body of the request.
call_connect() {
    curl -s --fail-with-body -X "$1" -H 'Content-Type: application/json' "$CONNECT_URL/$2" ${3:+-d "$3"}
}

# Ends the run with what the worker has said.
connect_failed() {
    say "peers: Kafka Connect: $1"
    grep -E 'ERROR|WARN' "$WORK/connect.log" | tail -n 10 >&2
    exit 1
}

# Starts the worker, and waits until it can be called.
start_connect() {
    local port
    port=$(free_port)
    CONNECT_URL=http://127.0.0.1:$port
    cat >"$WORK/connect.properties" <<CONF
bootstrap.servers=$BOOTSTRAP
listeners=$CONNECT_URL
offset.storage.file.filename=$WORK/connect.offsets
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
plugin.discovery=only_scan
CONF
    setpriv --pdeathsig KILL java "-Xms$CONNECT_HEAP" "-Xmx$CONNECT_HEAP" -Dlog4j2.configurationFile="$WORK/kafka/log4j2.properties" \
        -cp "$CONNECT_LIBS/*" org.apache.kafka.connect.cli.ConnectStandalone "$WORK/connect.properties" \
        >"$WORK/connect.log" 2>&1 </dev/null &
    peer=$!
    until call_connect GET '' >/dev/null; do
        kill -0 "$peer" 2>/dev/null || connect_failed "the worker has ended"
        sleep 0.1
    done
}

# The schema of the messages, which they don't bring themselves.
connect_schema() {
    jq -cn '{type: "struct", optional: false, fields: [
        {field: "detection_oid", type: "int64", optional: false},
        {field: "video_camera_oid", type: "int32", optional: false},
        {field: "geographical_location_oid", type: "int32", optional: false},
        {field: "item_name", type: "string", optional: false},
        {field: "confidence", type: "float", optional: true},
        {field: "timestamp_detected", type: "string", optional: false, name: "io.debezium.time.ZonedTimestamp"},
        {field: "lon", type: "double", optional: true},
        {field: "lat", type: "double", optional: true}]}'
}

# The definition of a connector, as it should be fastest: one INSERT from arrays for
# a batch, batches of 10,000, a task for each core.  An upsert needs the duplicates
# of a batch folded.  With row triggers the batches are those of its defaults, which
# is what most will have, and there is one task: of two one ended with the first
# deadlock, which the sink does not try again.  The settings of its sessions are those of measure.sql.
connect_definition() {
    local name=$1 contestant=$2 mode settings='-c%20jit=off%20-c%20work_mem=64MB%20-c%20synchronous_commit=off'
    mode='{"insert.mode": "upsert", "primary.key.mode": "record_value", "primary.key.fields": "detection_oid", "use.reduction.buffer": "true"}'
    [ "$contestant" = connect ] || mode='{"insert.mode": "insert", "primary.key.mode": "none"}'
    [ "$contestant" != connect_rows ] || mode=$(jq -c '. + {"dialect.postgres.unnest.insert.enabled": "false",
        "batch.size": "500", "consumer.override.max.poll.records": "500", "tasks.max": "1"}' <<<"$mode")
    jq -n --arg name "$name" --argjson mode "$mode" --arg schema "$(connect_schema)" --arg password "$PASSWORD" \
        --arg url "jdbc:postgresql://127.0.0.1:$PGPORT/city?options=$settings" '
        {name: $name, config: ({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": "2",
            "topics": "camera.detections",
            "connection.url": $url,
            "connection.username": "city_ops",
            "connection.password": $password,
            "collection.name.format": "city.flat",
            "schema.evolution": "none",
            "dialect.postgres.unnest.insert.enabled": "true",
            "batch.size": "10000",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "true",
            "value.converter.schema.content": $schema,
            "consumer.override.auto.offset.reset": "earliest",
            "consumer.override.max.poll.records": "10000",
            "consumer.override.max.partition.fetch.bytes": "4194304"} + $mode)}'
}

# Whether the tasks of a connector run, two but for row triggers; ends the run when
# one has failed.
is_running() {
    local status tasks=2
    [[ $1 != connect_rows* ]] || tasks=1
    status=$(call_connect GET "connectors/$1/status" || true)
    if jq -e '[.connector, .tasks[]?] | any(.state == "FAILED")' <<<"$status" >/dev/null; then
        connect_failed "$(jq -r '[.connector, .tasks[]] | map(.trace // empty) | .[0]' <<<"$status" | grep '^Caused by')"
    fi
    jq -e --argjson tasks "$tasks" '[.tasks[]?] | length == $tasks and all(.state == "RUNNING")' <<<"$status" >/dev/null
}

# Waits until the tasks of a connector run and a query gives "t".
await_connector() {
    local name=$1 query=$2
    until is_running "$name" && [ "$(ask -c "$query")" = t ]; do
        sleep 0.2
    done
}

# Drains the topic by a new connector into new tables, and leaves the measurement
# open.
drain_connect() {
    local name=$1 contestant=$2 table=$3 session
    ask -o /dev/null -v contestant="$contestant" -f "$BENCH/peers.d/connect.sql"
    exec {session}> >(ask)
    echo "BEGIN; LOCK TABLE city.flat;" >&"$session"
    call_connect POST connectors "$(connect_definition "$name" "$contestant")" >>"$WORK/connect.log" || connect_failed "no connector"
    await_connector "$name" "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'city.flat'::regclass AND NOT granted"
    ask -o /dev/null -c "SELECT bench.open_peer($(cat "$WORK/kafka/pid"), $peer)"
    echo "COMMIT;" >&"$session"
    exec {session}>&-
    await_connector "$name" "SELECT bench.has_events('$table')"
}

# One measurement.
measure_connect() {
    local run=$1 contestant=$2 begin=$EPOCHREALTIME table=city.flat check="bench.check_flat('city.flat')" last_commit
    start_connect
    if [ "$contestant" != connect ]; then
        table=city.detection
        check="bench.check_events(true), bench.check_rollups(true, 'bench.items', 'bench.town')"
    fi
    last_commit="(SELECT max(pg_xact_commit_timestamp(xmin)) FROM $table)"
    keep_figure "$run" "$contestant" start-up "$EPOCHREALTIME - $begin"
    drain_connect "$contestant-first$run" "$contestant" "$table"
    keep_figure "$run" "$contestant" 'first drain' "(SELECT extract(epoch FROM $last_commit - at) * 1e6 FROM bench.opened) / (SELECT count(*) FROM bench.message)"
    call_connect DELETE "connectors/$contestant-first$run" >>"$WORK/connect.log"
    drain_connect "$contestant-second$run" "$contestant" "$table"
    ask -o /dev/null --single-transaction -c "SELECT bench.close_peer($run, '$contestant', $last_commit)" -c "SELECT $check"
    end_peer
}
