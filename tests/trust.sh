#!/usr/bin/env bash
# The trust suite: crash states, kernel checks, I/O errors, damage, models, schedules, fuzz, seeded bugs.
#
#   tests/trust.sh [ci|full] [SUITE...]
#
# runs the named suites, or all but the long `fuzz` and `seeded-bugs` at size ci (a few minutes) and all at size full (some hours).
# Writes one line of JSON for each figure to target/trust/SIZE.jsonl, anew, and prints them as a table. Any failure ends it
# with another code than 0. ESKER_TRUST_SEED=N moves all random choices. What the suites do: docs/testing.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

size=ci
if [ $# -gt 0 ] && { [ "$1" = ci ] || [ "$1" = full ]; }; then
    size=$1
    shift
fi
suites=(crash faults damage model copies repair kernel schedules smoke)
if [ "$size" = full ]; then
    suites+=(fuzz seeded-bugs)
fi
if [ $# -gt 0 ]; then
    suites=("$@")
fi

mkdir -p target/trust
report=$PWD/target/trust/$size.jsonl
lines=$(mktemp)
trap 'rm -f -- "$lines"' EXIT
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
export ESKER_TRUST=$size
export ESKER_TRUST_REPORT=$lines

# it FILTER...: tests of the integration binary.
it() {
    cargo test --locked --quiet --profile trust --test it -- "$@"
}

run() {
    case $1 in
    crash) it crash:: slices:: ;;
    faults) it faults:: fsync:: ;;
    damage) it damage:: ;;
    model) it model:: metamorphic:: history:: ingest:: ;;
    copies) it checkpoint:: backup:: ;;
    repair) it repair:: verify:: ;;
    kernel) cargo test --locked --quiet --profile trust -p engine-cli --test kernel -- --nocapture ;;
    schedules) tests/schedules.sh ;;
    smoke) cargo test --locked --quiet --profile trust -p esker-fuzz-targets ;;
    fuzz) fuzz/run.sh ;;
    seeded-bugs) tests/seeded_bugs.sh ;;
    *)
        echo "no suite $1: say one of crash faults damage model copies repair kernel schedules smoke fuzz seeded-bugs" >&2
        exit 2
        ;;
    esac
}

# field NAME: the value of a field in each line of the report.
field() {
    sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p" "$report"
}

# The report as rows of the table in docs/testing.md.
table() {
    echo "| suite | cases | failures | seed | suite, s | commit |"
    echo "|---|---|---|---|---|---|"
    paste -d '|' <(field suite) <(field cases) <(field failures) <(field seed) <(field suite_seconds) \
        <(field commit) | sed 's/|/ | /g; s/^/| /; s/$/ |/'
}

: >"$report"
for suite in "${suites[@]}"; do
    echo "== $suite, size $size, seed ${ESKER_TRUST_SEED:-0}"
    : >"$lines"
    start=$SECONDS
    code=0
    run "$suite" || code=$?
    seconds=$((SECONDS - start))
    # Every line says on which commit and how long the whole suite took.
    sed "s/}\$/,\"suite_seconds\":$seconds,\"commit\":\"$commit\"}/" "$lines" | tee -a "$report"
    if [ "$code" -ne 0 ]; then
        echo "== $suite FAILED (exit $code, $seconds s)" >&2
        exit "$code"
    fi
    echo "== $suite: ok, $seconds s"
done
table
