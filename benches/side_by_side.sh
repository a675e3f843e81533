#!/usr/bin/env bash
# Runs the same workloads on esker and its peers in turn, one process each, and appends one JSON line a run to a file.
#
#   benches/side_by_side.sh PEERBENCH DIR OUT [ROUNDS]
#
# PEERBENCH is the peers' harness (one binary with the flags of `engine-cli bench`), DIR an empty directory on the disk
# to measure, OUT the file of JSON lines. The machine must be idle. Compare only lines of one file: ratios mean
# something, absolute numbers do not. The first line says what was run, where and at which commit.
set -euo pipefail
peerbench=$1 dir=$2 out=$3 rounds=${4:-3}
ops=${OPS:-5000000}
cd "$(dirname "$0")/.."
cargo build --release --locked -p engine-cli
cli=$PWD/target/release/engine-cli
mkdir -p "$dir"

# Fresh pages of a virtual machine are slow at their first touch: touch them before anybody is measured.
python3 -c 'x = bytearray(8 << 30); x[::4096] = b"\1" * len(x[::4096])'

python3 - "$ops" "$rounds" >>"$out" <<'PY'
import json, os, subprocess, sys
run = lambda *c: subprocess.run(c, capture_output=True, text=True).stdout.strip()
cpu = [l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")]
mem = int(open("/proc/meminfo").readline().split()[1]) >> 20
print(json.dumps({"commit": run("git", "rev-parse", "--short", "HEAD"), "dirty": bool(run("git", "status", "--porcelain", "src", "engine-cli")),
    "machine": f"{len(cpu)} x {cpu[0]}, {mem} GiB, Linux {os.uname().release}", "ops": int(sys.argv[1]), "rounds": int(sys.argv[2]),
    "command": "benches/side_by_side.sh"}))
PY

# engine workload flags...
run() {
  local engine=$1 workload=$2
  shift 2
  sync
  if [ "$engine" = esker ]; then
    "$cli" --db "$dir/$engine" bench "$workload" "$@"
  else
    "$peerbench" "$engine" "$workload" --dir "$dir/$engine" "$@"
  fi | tail -n 1 >>"$out"
}

engines="esker rocksdb fjall"
for round in $(seq "$rounds"); do
  for spec in \
    "fillseq --n $ops --fresh 1" \
    "fillrandom --n $ops --fresh 1 --settle 1" \
    "overwrite --n $ops --keys $ops --settle 1" \
    "readrandom --n 1000000 --keys $ops" \
    "readmissing --n 1000000 --keys $ops" \
    "seekscan --n 100000 --keys $ops" \
    "scanall --n 1 --keys $ops" \
    "mixed --n 2000000 --keys $ops" \
    "fillsync --n 5000 --fresh 1" \
    "fillsync --n 40000 --threads 8 --fresh 1" \
    "fillsync --n 120000 --threads 64 --fresh 1"; do
    for engine in $engines; do
      # shellcheck disable=SC2086
      run "$engine" $spec
      echo "round $round: $engine ${spec%% *} done" >&2
    done
  done
done
rm -rf "$dir"/esker "$dir"/rocksdb "$dir"/fjall
