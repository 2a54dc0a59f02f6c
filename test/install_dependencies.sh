#!/usr/bin/env bash
#
# install_dependencies.sh [--kafka | --peers | --fuzz | --sanitize | --valgrind]
#
# Installs the Debian packages that building, testing and the demo need, and
# nothing when all are there; unpacks the shapes of one test into test/shapes.
# --kafka adds Java and Maven, which only the tests against a real Apache Kafka
# need; --peers also what the benchmark of others needs; --fuzz adds libFuzzer;
# --sanitize what building PostgreSQL needs, --valgrind besides that valgrind.  Uses
# sudo when not root.
#
# No other cluster is touched: where PostgreSQL itself is missing, its package
# is told not to create and start the cluster that it creates by default.
set -euo pipefail

PG_MAJOR=${PG_MAJOR:-15}

PACKAGES=(
    gcc libc6-dev make                          # to build
    "postgresql-server-dev-$PG_MAJOR" librdkafka-dev
    "postgresql-$PG_MAJOR"                      # to run
    "postgresql-$PG_MAJOR-postgis-3" "postgresql-$PG_MAJOR-postgis-3-scripts"
    perl libipc-run-perl kcat jq                # to test
    "postgresql-$PG_MAJOR-hll" "postgresql-$PG_MAJOR-tdigest"
    "postgresql-$PG_MAJOR-pgtap" libtap-parser-sourcehandler-pgtap-perl
    clang-format shellcheck                     # to lint
)
KAFKA_PACKAGES=(openjdk-17-jre-headless maven)
PEERS_PACKAGES=(curl python3 python3-pip)
SANITIZE_PACKAGES=(bzip2 libicu-dev pkg-config)
FUZZ_PACKAGES=(clang libclang-rt-14-dev)

# Real borders for sql/locator_shapes.sql: one file of a package that would bring
# hundreds of megabytes of others along, so it is unpacked and not installed.
SHAPES_PACKAGE=python3-geopandas
SHAPES_FILE=./usr/lib/python3/dist-packages/geopandas/datasets/naturalearth_lowres/naturalearth_lowres.shp
SHAPES_DIR=$(cd "$(dirname "$0")" && pwd)/shapes

# What the cluster-creating script of Debian reads besides its main file.
NO_CLUSTER_DIR=/etc/postgresql-common/createcluster.d
NO_CLUSTER_FILE=$NO_CLUSTER_DIR/detect-no-main-cluster.conf

# Prints those of its arguments that are not installed, one a line.
missing_packages() {
    local package
    for package in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            echo "$package"
        fi
    done
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Ends the script where packages are missing and nobody may install them.
refuse_without_root() {
    if ! command -v apt-get >/dev/null; then
        echo "These packages of Debian 12 are missing, and there is no apt-get here to install them:" >&2
    elif [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        echo "These packages are missing; install them as root, then try again:" >&2
    else
        return 0
    fi
    echo "    apt-get install --no-install-recommends $*" >&2
    exit 1
}

# A fresh postgresql package would create and start a cluster named main.
forbid_main_cluster() {
    as_root mkdir -p "$NO_CLUSTER_DIR"
    echo "create_main_cluster = false" | as_root tee "$NO_CLUSTER_FILE" >/dev/null
    trap 'as_root rm -f "$NO_CLUSTER_FILE"' EXIT
}

# Installs its arguments.
install_packages() {
    echo "installing: $*"
    if [ ! -d "/etc/postgresql/$PG_MAJOR" ]; then
        forbid_main_cluster
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Unpacks the shapes into test/shapes; the test is skipped where that fails.
unpack_shapes() {
    local work target
    target=$SHAPES_DIR/$(basename "$SHAPES_FILE")
    if [ -s "$target" ] || ! command -v apt-get >/dev/null; then
        return
    fi
    work=$(mktemp -d)
    if (cd "$work" && apt-get download -qq "$SHAPES_PACKAGE" &&
        dpkg-deb --fsys-tarfile "$SHAPES_PACKAGE"_*.deb | tar -xO "$SHAPES_FILE" >shapes) >/dev/null 2>&1; then
        mkdir -p "$SHAPES_DIR"
        install -m 644 "$work/shapes" "$target"
    else
        echo "there are no shapes in $SHAPES_PACKAGE: sql/locator_shapes.sql is skipped"
    fi
    rm -rf "$work"
}

main() {
    local wanted=("${PACKAGES[@]}") missing
    case "${1:-}" in
        --kafka) wanted+=("${KAFKA_PACKAGES[@]}") ;;
        --peers) wanted+=("${KAFKA_PACKAGES[@]}" "${PEERS_PACKAGES[@]}") ;;
        --sanitize) wanted+=("${SANITIZE_PACKAGES[@]}") ;;
        --valgrind) wanted+=("${SANITIZE_PACKAGES[@]}" valgrind) ;;
        --fuzz) wanted+=("${FUZZ_PACKAGES[@]}") ;;
        '') ;;
        *) echo "usage: $0 [--kafka | --peers | --fuzz | --sanitize | --valgrind]" >&2; exit 2 ;;
    esac
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    if [ "${#missing[@]}" -gt 0 ]; then
        refuse_without_root "${missing[@]}"
        install_packages "${missing[@]}"
    fi
    unpack_shapes
}

main "$@"
