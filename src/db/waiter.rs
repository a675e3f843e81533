//! Where a writer waits for its write.
//!
//! A thread waits for one write at a time, so it has one [`Waiter`], made once, and parks on it. What it is told is a
//! set of bits, so that a failure that comes while leadership is handed over loses neither. Nothing here takes a lock,
//! so a waiter may be told under any.

use std::cell::RefCell;
use std::sync::Arc;

use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::thread::{Thread, current, park};
use crate::sync::thread_local;

/// Nothing was told yet.
const WAITING: u8 = 0;
/// The write is done.
pub(crate) const DONE: u8 = 1;
/// Run the next sync.
pub(crate) const LEAD: u8 = 2;
/// The queue was poisoned.
pub(crate) const FAILED: u8 = 4;

/// Where one thread waits for its write.
#[derive(Debug)]
pub(crate) struct Waiter {
    thread: Thread,
    state: AtomicU8,
}

impl Waiter {
    /// Adds `state` to what the thread is told, and wakes it.
    pub(crate) fn tell(&self, state: u8) {
        self.state.fetch_or(state, Ordering::Release);
        self.thread.unpark();
    }

    /// Parks until told something, and takes it.
    pub(crate) fn wait(&self) -> u8 {
        loop {
            let state = self.state.swap(WAITING, Ordering::Acquire);
            if state != WAITING {
                return state;
            }
            park();
        }
    }
}

thread_local! {
    /// One waiter per thread is enough: a thread waits for one write at a time.
    static WAITER: RefCell<Arc<Waiter>> = RefCell::new(Arc::new(Waiter {
        thread: current(),
        state: AtomicU8::new(WAITING),
    }));
}

/// This thread's waiter, told nothing yet.
pub(crate) fn fresh_waiter() -> Arc<Waiter> {
    WAITER.with(|waiter| {
        let waiter = waiter.borrow();
        waiter.state.store(WAITING, Ordering::Relaxed);
        Arc::clone(&waiter)
    })
}

/// Tells all of `waiters` the same. Call without the commit lock: each wakes a thread.
pub(crate) fn tell_all(waiters: &[Arc<Waiter>], state: u8) {
    for waiter in waiters {
        waiter.tell(state);
    }
}
