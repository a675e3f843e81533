#!/usr/bin/env bash
# Runs the fuzz targets, two at a time, and leaves their figures.
#
#   fuzz/run.sh [SECONDS [TARGET...]]
#
# Each target gets SECONDS of processor time, however long that takes: 600 if ESKER_TRUST=full, else 30. Without names it
# runs all targets. Prints a line of JSON for each, and appends it to the file that ESKER_TRUST_REPORT names. Ends with
# another code than 0 if a target crashed, hung or ate memory; the input then lies in fuzz/artifacts/TARGET/.
#
# What a run learns it keeps in fuzz/corpus/TARGET/, where the next one begins. ESKER_TRUST_SEED=N moves all choices.
# ESKER_FUZZ_TIMEOUT_S (default 10) is how long one input may take, by the wall: more is needed on a crowded machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

size=${ESKER_TRUST:-quick}
seconds=30
if [ "$size" = full ]; then
    seconds=600
fi
if [ $# -gt 0 ]; then
    seconds=$1
    shift
fi
targets=(batch block filter wal manifest table db_directory shell operations trace)
if [ $# -gt 0 ]; then
    targets=("$@")
fi
seed=${ESKER_TRUST_SEED:-0}

report() {
    echo "$1"
    if [ -n "${ESKER_TRUST_REPORT:-}" ]; then
        echo "$1" >>"$ESKER_TRUST_REPORT"
    fi
}

if ! command -v cargo-fuzz >/dev/null; then
    echo "cargo-fuzz is not installed: install it with \`cargo install cargo-fuzz\`" >&2
    for target in "${targets[@]}"; do
        report "{\"suite\":\"fuzz: $target\",\"size\":\"$size\",\"seed\":$seed,\"cases\":0,\"failures\":0,\"skipped\":1}"
    done
    exit 0
fi

# The sanitizers are behind a flag of nightly compilers; a stable one takes it if it is told to.
if cargo +nightly --version >/dev/null 2>&1; then
    cargo +nightly fuzz build
else
    RUSTC_BOOTSTRAP=1 cargo fuzz build
fi
host=$(rustc -vV | sed -n 's/^host: //p')
binaries=$PWD/target/$host/release

# fuzz TARGET: slices of a run until it has had its time, since a slice is measured by the wall.
fuzz() {
    local target=$1 used=0 cases=0 coverage=0 failures=0 slice=0 log left crossed options
    mkdir -p "corpus/$target" "artifacts/$target"
    log=$(mktemp)
    options=(-rss_limit_mb=1024 -timeout="${ESKER_FUZZ_TIMEOUT_S:-10}" -print_final_stats=1
        -artifact_prefix="artifacts/$target/" -verbosity=1 -max_len="$(max_len "$target")")
    if [ -f "$target.dict" ]; then
        options+=(-dict="$target.dict")
    fi
    while [ "$used" -lt "$seconds" ] && [ "$failures" -eq 0 ]; do
        left=$((seconds - used))
        slice=$((slice + 1))
        # A seed of 0 means the time to libFuzzer.
        if ! { time "$binaries/$target" "corpus/$target" "seeds/$target" "${options[@]}" \
            -seed=$((seed * 1000 + slice)) -max_total_time=$((left < 5 ? 5 : left)) >"$log" 2>&1; } 2>"$log.time"; then
            failures=1
            tail -40 "$log" >&2
        fi
        crossed=$(awk '{ printf "%d", $1 + $2 + 1 }' "$log.time")
        used=$((used + crossed))
        cases=$((cases + $(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1 || true) + 0))
        coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    done
    rm -f -- "$log" "$log.time"
    report "{\"suite\":\"fuzz: $target\",\"size\":\"$size\",\"seed\":$seed,\"cases\":$cases,\"failures\":$failures,\"cpu_seconds\":$used,\"coverage\":${coverage:-0},\"corpus\":$(find "corpus/$target" -type f | wc -l)}"
    return "$failures"
}

# As in targets/src/lib.rs.
max_len() {
    case $1 in
    wal | manifest) echo 8192 ;;
    table | trace) echo 16384 ;;
    db_directory) echo 32768 ;;
    operations) echo 1024 ;;
    *) echo 4096 ;;
    esac
}

TIMEFORMAT='%U %S'
failed=0
for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n || failed=1
    done
    fuzz "$target" &
done
for job in $(jobs -p); do
    wait "$job" || failed=1
done
exit "$failed"
