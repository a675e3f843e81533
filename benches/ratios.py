#!/usr/bin/env python3
"""Prints a table of medians and ratios from a file of benches/side_by_side.sh.

    benches/ratios.py FILE.jsonl
"""
import json
import statistics
import sys

rows, head = {}, {}
for line in open(sys.argv[1]):
    record = json.loads(line)
    if "engine" not in record:
        head = record
        continue
    key = (record["wl"], record["threads"])
    rows.setdefault(key, {}).setdefault(record["engine"], []).append(record)


def median(records, field):
    values = [record[field] for record in records if field in record]
    return statistics.median(values) if values else float("nan")


print(f"commit {head.get('commit')}, {head.get('machine')}, {head.get('ops')} operations, medians of {head.get('rounds')} rounds")
print()
print("| workload | threads | esker kops | RocksDB kops | fjall kops | esker / better peer | p99 us (esker, RocksDB, fjall) | written MB | space MB | RSS MB |")
print("|---|---|---|---|---|---|---|---|---|---|")
for (workload, threads), engines in rows.items():
    order = [engine for engine in ("esker", "rocksdb", "fjall") if engine in engines]
    kops = {engine: median(engines[engine], "kops") for engine in order}
    best = max(value for engine, value in kops.items() if engine != "esker")
    cells = lambda field: ", ".join(f"{median(engines[engine], field):g}" for engine in order)
    print(
        f"| {workload} | {threads} | " + " | ".join(f"{kops[engine]:.1f}" for engine in order)
        + f" | **{kops['esker'] / best:.2f}** | {cells('p99us')} | {cells('wMBclose')} | {cells('spaceMB')} | {cells('rssMB')} |"
    )
