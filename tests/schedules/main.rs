//! Schedules: the engine's threads under a scheduler that decides at each lock, atomic, wait and file operation who
//! runs next, and that can run a schedule again.
//!
//! The engine is built with `--cfg esker_shuttle`, which makes `src/sync.rs` the types of `shuttle`: see
//! `tests/schedules.sh` and "Schedules" in `docs/testing.md`. Half of the schedules are random, half are PCT: a few
//! changes of priority at random points, which finds what needs few but exact switches. Nobody sleeps, and time is a
//! counter. A lost wake-up is a deadlock that shuttle reports; a file that was removed while somebody needed it is an
//! error of the simulated file system; a number that readers see too early contradicts what they saw before, or is
//! missing after the power cut that follows.
//!
//! What no module here can find: orders of memory weaker than sequential (for those `loom` runs the models of the
//! memtable, in `src/memtable/tests/`), and races within the skiplist and the block cache, each of whose operations is
//! one step here.

#![cfg(esker_shuttle)]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../it/trust.rs"]
mod trust;

mod background;
mod commit;
mod explore;
mod ingest;
mod stalls;
mod support;
mod trees;
mod views;
