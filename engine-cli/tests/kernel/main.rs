//! The engine against the real kernel, where the simulator of `tests/it` cannot lie to it.
//!
//! Every test drives the built program through the pipe protocol of its `shell`, does something bad to the process or
//! to the file system under it, opens the database again and compares all of it with what was promised.
//!
//! * [`kill`]: `kill -9` at random moments, over and over on one database.
//! * [`syscalls`]: `kill -9` at each system call in turn, recovery included.
//! * [`power`]: the power cut of a real ext4, after which only what was synced is there.
//! * [`full`]: small file systems and file size limits, filled until nothing goes any more.
//! * [`faults`]: each system call fails once, or from then on.
//! * [`lock`]: a second opener, and the lock of a killed process.
//!
//! What they share: [`dice`] (random choices from a seed), [`place`] (directories, kept if the test fails), [`pool`]
//! (all cores), [`shell`] (the program on a pipe), [`workload`] (commands and what they promise), [`reopen`] (what is
//! there afterwards), [`outcome`] (what must be there when commands failed), [`strace`] (which calls a run makes),
//! [`mounts`] (file systems that go away with the process).
//!
//! What a machine does not allow (no root, no loop devices, no strace) is skipped, and says so. The moments of kills
//! and cuts are by nature not the same in two runs; everything else follows from the seed.

#![expect(clippy::disallowed_methods, reason = "tests make files, threads and delays themselves")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod dice;
mod faults;
mod full;
mod kill;
mod lock;
mod mounts;
mod outcome;
mod place;
mod pool;
mod power;
mod reopen;
mod shell;
mod strace;
mod syscalls;
#[path = "../../../tests/it/trust.rs"]
mod trust;
mod workload;
