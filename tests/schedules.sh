#!/usr/bin/env bash
# Runs the engine's threads under a scheduler that searches for the schedules that break it.
#
#   tests/schedules.sh [TEST]
#
# ESKER_TRUST=quick|ci|full chooses how many schedules, ESKER_TRUST_SEED where they begin. A failure says which file its
# schedule was written to; ESKER_SCHEDULE=FILE tests/schedules.sh TEST runs that one again. With MODELS=1 it runs the
# models of the memtable under loom too, which also tries what weak memory may show. What is tried: docs/testing.md,
# "Schedules". Everything is built into target/schedules, since the engine is another one here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR=$PWD/target/schedules

# Whole databases, and the parts that only unit tests can reach.
export RUSTFLAGS="--cfg esker_shuttle"
cargo test --locked --quiet --profile trust --test schedules -- "$@"
if [ $# -eq 0 ]; then
    cargo test --locked --quiet --profile trust --lib -- schedules:: under_any_schedule
fi
if [ "${MODELS:-0}" = 1 ]; then
    # Another engine again; and other flags in one directory would build everything anew each time.
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/models RUSTFLAGS="--cfg esker_loom" \
        cargo test --locked --quiet --profile trust --lib -- schedules::models
fi
