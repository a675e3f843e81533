#!/usr/bin/env bash
# Runs the library's unit tests and the integration tests under AddressSanitizer: every read and write of memory is
# checked, and what was freed is not given out again for a while. Finds uses after free and out of bounds in the
# `unsafe` code (docs/unsafe.md) and leaks.
#
#   tests/asan.sh [FILTER...]
#
# The sanitizer is not stable in rustc, so RUSTC_BOOTSTRAP opens it. Rust code is instrumented, the standard library and
# the C code of zstd are not, but their allocations are watched. Everything is built into target/asan. It takes about
# five times as long as `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=$PWD/target/asan
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address"
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1}
# The processes of the damage suite may otherwise map less than the sanitizer needs for itself.
export ESKER_ADDRESS_SPACE_UNLIMITED=1
# With --target, build scripts and macros are built without the sanitizer.
cargo test --locked --target "$host" --lib --test it -- "$@"
