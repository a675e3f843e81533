//! What threads share and wait with: locks, condition variables, atomics, swapped pointers, parking.
//!
//! Every other file takes these from here and from nowhere else. In a normal build they *are* the types of
//! `parking_lot`, `arc_swap` and the standard library: this file only names them, and costs nothing. Built with
//! `--cfg esker_shuttle` or `--cfg esker_loom` they are those of a scheduler that decides at each of their operations
//! who runs next (`sync/controlled`), so that a test can try many schedules, and repeat the one that failed
//! (`docs/testing.md`, "Schedules"). Threads come from the spawner (`spawn`), time from the clock (`clock`).
//!
//! # Rules
//! * A lock that may be held while an operation of this file runs comes from this file too. So does a thread-local that
//!   is borrowed meanwhile: under the schedulers all threads of a test run on one thread of the operating system.
//! * Numbers that only count, and that nobody decides by, may be atomics of the standard library: fewer points at which
//!   the schedulers must choose. So may words whose layout matters (`memtable/filter`).
//! * `Arc`, `OnceLock`, `quick_cache` and the skiplist stay what they are: to the schedulers each of their operations
//!   is one step with what comes before it. A swap of a pointer is one step too.

#[cfg(any(esker_shuttle, esker_loom))]
mod controlled;

#[cfg(not(any(esker_shuttle, esker_loom)))]
pub(crate) use arc_swap::ArcSwap;
#[cfg(not(any(esker_shuttle, esker_loom)))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(any(esker_shuttle, esker_loom)))]
pub(crate) use std::{hint::spin_loop, thread_local};

#[cfg(any(esker_shuttle, esker_loom))]
pub(crate) use self::controlled::{
    ArcSwap, Condvar, Mutex, MutexGuard, RwLock, spin_loop, thread_local,
};

/// Words that threads share.
pub(crate) mod atomic {
    #[cfg(not(any(esker_shuttle, esker_loom)))]
    pub(crate) use std::sync::atomic::*;

    #[cfg(any(esker_shuttle, esker_loom))]
    pub(crate) use crate::sync::controlled::atomic::*;
}

/// Threads, from within.
pub(crate) mod thread {
    #[cfg(not(any(esker_shuttle, esker_loom)))]
    pub(crate) use std::thread::{Builder, JoinHandle, Thread, current, park, yield_now};

    #[cfg(all(test, any(esker_shuttle, esker_loom)))]
    pub(crate) use crate::sync::controlled::thread::spawn;
    #[cfg(any(esker_shuttle, esker_loom))]
    pub(crate) use crate::sync::controlled::thread::{
        Builder, JoinHandle, Thread, current, park, yield_now,
    };
}
