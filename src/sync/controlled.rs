//! The types of [`sync`](super) under a scheduler of the tests: `shuttle`, which tries schedules at random or by
//! priorities, or `loom`, which tries all of a small model and also what weak memory may show.
//!
//! Both have the interface of the standard library; here it gets the shape of `parking_lot`'s, without poison: a panic
//! in one thread fails the whole test anyway.
//!
//! # Timed waits
//! Neither scheduler has time. [`Condvar::wait_for`] lets others run and then returns, as if the time were over or
//! somebody had woken it: it never blocks, so it must stand in a loop that looks again. That is every answer that a
//! real timed wait can give. What it cannot find is a wake-up that is lost and made good by the time limit.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::Guard;

#[cfg(esker_loom)]
pub(crate) use loom::{hint::spin_loop, sync::atomic, thread, thread_local};
#[cfg(esker_shuttle)]
pub(crate) use shuttle::{hint::spin_loop, sync::atomic, thread, thread_local};

#[cfg(esker_loom)]
use loom::sync as base;
#[cfg(esker_shuttle)]
use shuttle::sync as base;

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub(crate) struct Mutex<T>(base::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only within a wait.
    held: Option<base::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(base::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard { mutex: self, held: Some(held) }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|held| MutexGuard { mutex: self, held: Some(held) })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect("held but within a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held but within a wait")
    }
}

impl<T> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").finish_non_exhaustive()
    }
}

/// As `parking_lot::RwLock`, as far as it is used. One reader at a time is a schedule too.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(Mutex<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        RwLock(Mutex::new(value))
    }

    pub(crate) fn read(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    pub(crate) fn write(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }
}

/// As `parking_lot::Condvar`.
#[derive(Default)]
pub(crate) struct Condvar(base::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(base::Condvar::new())
    }

    /// Waits until notified.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held but within a wait");
        guard.held = Some(self.0.wait(held).unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Lets others run; see the module text.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) -> TimedOut {
        guard.held = None;
        thread::yield_now();
        guard.held = guard.mutex.lock().held.take();
        TimedOut
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// As `arc_swap::ArcSwap`. It does without the scheduler; so that others may run before each operation, it looks at a
/// word that means nothing.
pub(crate) struct ArcSwap<T> {
    swapped: arc_swap::ArcSwap<T>,
    step: atomic::AtomicBool,
}

impl<T> ArcSwap<T> {
    pub(crate) fn from_pointee(value: T) -> Self {
        let step = atomic::AtomicBool::new(false);
        ArcSwap { swapped: arc_swap::ArcSwap::from_pointee(value), step }
    }

    pub(crate) fn load(&self) -> Guard<Arc<T>> {
        self.step();
        self.swapped.load()
    }

    pub(crate) fn load_full(&self) -> Arc<T> {
        self.step();
        self.swapped.load_full()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        self.step();
        self.swapped.store(value);
    }

    pub(crate) fn rcu<R: Into<Arc<T>>>(&self, change: impl FnMut(&Arc<T>) -> R) -> Arc<T> {
        self.step();
        self.swapped.rcu(change)
    }

    fn step(&self) {
        self.step.load(atomic::Ordering::SeqCst);
    }
}

/// A timed wait is over.
pub(crate) struct TimedOut;
