#!/usr/bin/env bash
# Plants the bugs of tests/seeded_bugs/, one at a time, in a copy of the tree, and demands that a test fails.
#
#   tests/seeded_bugs.sh [--check] [NAME...]
#
# Each NAME.patch says at its top what the bug is and which tests should find it. The copy stands under target/seeded/,
# so that no bug ever stands in the tree itself. --check only looks whether each patch still applies. Prints a line for
# each bug and ends with another code than 0 if one was not caught. With ESKER_TRUST_REPORT the figures are appended
# there as a line of JSON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

check_only=false
if [ "${1:-}" = --check ]; then
    check_only=true
    shift
fi
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in tests/seeded_bugs/*.patch; do
        names+=("$(basename "$patch" .patch)")
    done
fi

if $check_only; then
    for name in "${names[@]}"; do
        git apply --check "tests/seeded_bugs/$name.patch" || {
            echo "tests/seeded_bugs/$name.patch does not apply any more: make it anew" >&2
            exit 1
        }
    done
    echo "all ${#names[@]} seeded bugs apply"
    exit 0
fi

copy=$PWD/target/seeded/tree
patches=$PWD/tests/seeded_bugs
logs=$PWD/target/seeded/logs
mkdir -p "$copy" "$logs"
# The tree as it is, without what git ignores; files that did not change keep their times, so that little is rebuilt.
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -C "$copy" -xf -
export CARGO_TARGET_DIR=$PWD/target/seeded/target
export ESKER_TRUST=quick
report=${ESKER_TRUST_REPORT:-}
unset ESKER_TRUST_REPORT
cd "$copy"
# The copy has no repository of its own, and must not be taken for a part of this one.
rm -rf .git
git init --quiet .

# tests SELECTION: what "Caught by" names: `it FILTER...`, `lib FILTER...` or `schedules FILTER`, several separated by `;`.
tests() {
    local part
    local -a parts words
    IFS=';' read -ra parts <<<"$1"
    for part in "${parts[@]}"; do
        read -ra words <<<"$part"
        case ${words[0]} in
        it) timeout 600 cargo test --locked --quiet --test it -- "${words[@]:1}" || return 1 ;;
        lib) timeout 600 cargo test --locked --quiet --lib -- "${words[@]:1}" || return 1 ;;
        schedules) ESKER_TRUST=ci timeout 600 tests/schedules.sh "${words[1]}" || return 1 ;;
        *)
            echo "unknown tests: $part" >&2
            exit 2
            ;;
        esac
    done
}

caught=0
missed=()
for name in "${names[@]}"; do
    patch=$patches/$name.patch
    title=$(sed -n 's/^Bug: //p' "$patch")
    by=$(sed -n 's/^Caught by: //p' "$patch")
    git apply "$patch"
    log=$logs/$name.log
    outcome=missed
    if ! cargo test --locked --quiet --no-run --test it >"$log" 2>&1; then
        outcome="does not compile"
    elif ! tests "$by" >"$log" 2>&1; then
        outcome=caught
    fi
    git apply --reverse "$patch"
    failed=$(sed -n 's/^---- \(.*\) stdout ----$/\1/p' "$log" | sort -u | paste -sd ' ')
    if [ "$outcome" = caught ]; then
        caught=$((caught + 1))
        echo "caught: $name: $title: ${failed:-a run that did not end}"
    else
        missed+=("$name")
        echo "NOT CAUGHT ($outcome): $name: $title"
    fi
done
echo "$caught of ${#names[@]} seeded bugs caught"
if [ -n "$report" ]; then
    printf '{"suite":"seeded bugs","size":"all","seed":0,"cases":%d,"failures":%d}\n' \
        "${#names[@]}" "${#missed[@]}" >>"$report"
fi
[ ${#missed[@]} -eq 0 ]
