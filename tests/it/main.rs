//! The integration tests: one binary, so that the engine is linked once.
//!
//! Each module is one theme and says at its top what it proves and how. They use the public API and the simulated file
//! system only; what needs the inside of a module is tested beside that module. Everything is deterministic: seeds are
//! written down, nothing sleeps, nothing asserts on time.
//!
//! * [`api`]: each public operation does what its documentation says.
//! * [`backup`]: every backup restores to what it was made of, whatever failed, crashed or was damaged.
//! * [`bad_input`]: wrong paths, options and files, locks and permissions: each an error that says what to do.
//! * [`checkpoint`]: a checkpoint is exactly one moment, or no database at all.
//! * [`concurrency`]: writers, readers, background work, sync and close at once, under every schedule that comes.
//! * [`crash`]: a crash at every file operation leaves a prefix of the writes.
//! * [`damage`]: bits flipped, files cut, swapped, deleted: the right value or an error, and nothing laundered.
//! * [`events`]: a listener hears what happens, in the promised order, and may read meanwhile.
//! * [`expiry`]: entries that expire, by a clock that the test sets.
//! * [`garbage`]: what a snapshot pinned leaves the disk once it is released.
//! * [`faults`]: failing operations and full disks lose nothing that was acked.
//! * [`filter`]: compaction filters keep what snapshots see, and lose nothing when they panic.
//! * [`fsync`]: the crash tests fail if any one of the fsyncs is left out.
//! * [`ingest`]: bulk ingest is one write that is whole, durable and in its place.
//! * [`history`]: what threads see at once fits one order that respects real time.
//! * [`metamorphic`]: one list of operations has one history under all options, threads and crash points.
//! * [`metrics`]: every number is predicted by hand, and agrees with those of the operating system.
//! * [`model`]: random operations give what a `BTreeMap` gives, under every set of options.
//! * [`record`]: the workload trace says what was done, and recording never fails an operation.
//! * [`repair`]: what is damaged is repaired as far as it is readable, and what is lost is named.
//! * [`simulator`]: what the simulator predicts is what the engine writes.
//! * [`scheduling`]: compaction is paused, cancelled, limited in its rate, and watched.
//! * [`slices`]: merges installed in slices free space while they run, and may fail anywhere.
//! * [`support`]: what these share: small databases, random operations, the history of right states.
//! * [`trust`]: how many cases the suites of [docs/testing.md](../../docs/testing.md) make, and their figures.
//! * [`verify`]: verification at rest names the file of every damaged byte; inspection shows files and never panics.
//! * [`tidy`]: the rules of the source tree itself (layers, essays, sizes, documented options).

#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has failed")]
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests own real files, threads and time: they stand outside the seams"
)]
#![allow(
    clippy::suspicious_map,
    reason = "`count` drives iterators whose items are checked on the way"
)]
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod api;
mod backup;
mod bad_input;
mod checkpoint;
mod concurrency;
mod crash;
mod damage;
mod events;
mod expiry;
mod faults;
mod filter;
mod fsync;
mod garbage;
mod ingest;
mod history;
mod metamorphic;
mod metrics;
mod model;
mod record;
mod repair;
mod simulator;
mod scheduling;
mod slices;
mod support;
mod tidy;
mod trust;
mod verify;
