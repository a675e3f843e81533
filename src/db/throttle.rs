//! The write throttle: writers are slowed in proportion to how far compaction is behind.
//!
//! After each change of a tree its *pressure* is computed, a number from 0 to 1, and from that the delay that each byte
//! costs (`compaction/pressure`). At 0 writers are not slowed; at 1 they stop until compaction has moved something.
//!
//! Delays are handed out by a token bucket: each write reserves its time slot, and sleeps on a condition variable until
//! the slot comes or the pressure changes. Nobody spins. Pressure is read without a lock when there is none.

use std::time::Duration;

use crate::clock::Clock;
use crate::compaction::pressure::delay_ns_per_kib;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Stall;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// The delay that means: stop.
const STOP: u64 = u64::MAX;

/// The throttle of one keyspace.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    delay_ns_per_kib: AtomicU64,
    /// When the next write may start.
    free_at_ns: Mutex<u64>,
    changed: Condvar,
}

impl Throttle {
    /// Sets the pressure and wakes writers that wait under an older one.
    pub(crate) fn set_pressure(&self, pressure: f64) {
        let delay = delay_ns_per_kib(pressure).unwrap_or(STOP);
        if self.delay_ns_per_kib.swap(delay, Ordering::Relaxed) != delay {
            drop(self.free_at_ns.lock());
            self.changed.notify_all();
        }
    }

    /// Wakes every waiting writer, so that it looks at what stopped it.
    pub(crate) fn wake_all(&self) {
        drop(self.free_at_ns.lock());
        self.changed.notify_all();
    }

    /// Whether writers are slowed or stopped.
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        self.delay_ns_per_kib.load(Ordering::Relaxed) != 0
    }

    /// Whether writers are stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.delay_ns_per_kib.load(Ordering::Relaxed) == STOP
    }

    /// Lets a write of `bytes` pass, after the wait it owes. Returns how long it waited.
    /// `check` says whether waiting out a stop still makes sense; whoever changes its answer calls
    /// [`Throttle::wake_all`].
    #[inline]
    pub(crate) fn pass(
        &self,
        bytes: u64,
        stall: Stall,
        clock: &dyn Clock,
        check: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        if !self.is_pressed() {
            return Ok(0);
        }
        self.wait(bytes, stall, clock, check)
    }

    #[cold]
    fn wait(
        &self,
        bytes: u64,
        stall: Stall,
        clock: &dyn Clock,
        check: impl Fn() -> Result<()>,
    ) -> Result<u64> {
        if stall == Stall::Fail {
            return Err(busy("compaction is behind"));
        }
        let entered_ns = clock.monotonic_ns();
        let mut free_at_ns = self.free_at_ns.lock();
        loop {
            let delay = self.delay_ns_per_kib.load(Ordering::Relaxed);
            if delay != STOP {
                let now_ns = clock.monotonic_ns();
                let start_ns = (*free_at_ns).max(now_ns);
                *free_at_ns = start_ns.saturating_add((bytes.saturating_mul(delay)) >> 10);
                if start_ns > now_ns {
                    self.changed.wait_for(&mut free_at_ns, Duration::from_nanos(start_ns - now_ns));
                }
                return Ok(clock.monotonic_ns().saturating_sub(entered_ns));
            }
            check()?;
            self.changed.wait(&mut free_at_ns);
            // The stop is over: what was owed from before it is forgiven.
            *free_at_ns = 0;
        }
    }
}

/// The error of a write that may not wait.
pub(crate) fn busy(why: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("the write would have to wait: {why}"))
        .advise("retry later, write more slowly, or let the write wait (Stall::Wait)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn under_pressure_a_write_that_may_not_wait_is_refused() {
        let (throttle, clock) = (Throttle::default(), ManualClock::default());
        assert_eq!(throttle.pass(1000, Stall::Fail, &clock, || Ok(())).unwrap(), 0);
        throttle.set_pressure(0.5);
        let error = throttle.pass(1000, Stall::Fail, &clock, || Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        // The first slot is free at once; the second would come 15 us later.
        throttle.pass(1024, Stall::Wait, &clock, || Ok(())).unwrap();
        assert_eq!(*throttle.free_at_ns.lock(), 15_259);
    }

    #[test]
    fn a_stopped_writer_leaves_when_waiting_makes_no_sense() {
        let (throttle, clock) = (Throttle::default(), ManualClock::default());
        throttle.set_pressure(1.0);
        let error =
            throttle.pass(1, Stall::Wait, &clock, || Err(Error::invalid("closed"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
