//! The write throttle: writers are slowed in proportion to how far compaction is behind.
//!
//! After each change of a tree its *pressure* is computed, a number from 0 to 1: how far the compaction debt lies
//! between `debt_bytes_soft` and four times that, or how far the runs of level 0 lie between half the strategy's limit
//! and the limit. Below 0 writers are not slowed. From 0 up each byte costs a delay that grows as `p / (1 - p)`, so
//! that there is no cliff: at one half writers get 64 MiB/s, at three quarters 21 MiB/s, near 1 almost nothing. At 1
//! they stop until compaction has moved something.
//!
//! Delays are handed out by a token bucket: each write reserves its time slot, and sleeps on a condition variable until
//! the slot comes or the pressure changes. Nobody spins. Pressure is read without a lock when there is none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Stall;

/// Delay per KiB at a pressure of one half: 64 MiB/s.
const DELAY_NS_PER_KIB: f64 = 15_259.0;
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

/// What the pressure is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) debt_bytes: u64,
    pub(crate) debt_bytes_soft: u64,
    pub(crate) level0_runs: usize,
    /// The strategy's limit, if it has one.
    pub(crate) level0_runs_max: Option<usize>,
}

impl Load {
    /// How urgent compaction is: 0 where nothing is due, 1 where writers begin to be slowed, 2 where they stop. The
    /// debt counts against `debt_bytes_soft`, the runs of level 0 against half the strategy's limit.
    pub(crate) fn urgency(self) -> f64 {
        let debt = self.debt_bytes as f64 / self.debt_bytes_soft as f64;
        let runs =
            self.level0_runs_max.map_or(0.0, |max| 2.0 * self.level0_runs as f64 / max as f64);
        debt.max(runs).min(1.0) + self.pressure()
    }

    /// 0: no pressure; 1: stop.
    pub(crate) fn pressure(self) -> f64 {
        let debt = (self.debt_bytes as f64 - self.debt_bytes_soft as f64)
            / (3.0 * self.debt_bytes_soft as f64);
        let runs = self.level0_runs_max.map_or(0.0, |max| {
            let half = max as f64 / 2.0;
            (self.level0_runs as f64 - half) / half
        });
        debt.max(runs).clamp(0.0, 1.0)
    }
}

impl Throttle {
    /// Sets the pressure and wakes writers that wait under an older one.
    pub(crate) fn set_pressure(&self, pressure: f64) {
        let delay = if pressure >= 1.0 {
            STOP
        } else {
            (DELAY_NS_PER_KIB * pressure / (1.0 - pressure)) as u64
        };
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

    fn load(debt_bytes: u64, level0_runs: usize) -> Load {
        Load { debt_bytes, debt_bytes_soft: 100, level0_runs, level0_runs_max: Some(40) }
    }

    #[test]
    fn pressure_has_no_cliff() {
        assert_eq!(load(100, 20).pressure(), 0.0);
        assert_eq!(load(250, 0).pressure(), 0.5);
        assert_eq!(load(0, 30).pressure(), 0.5);
        assert_eq!(load(400, 0).pressure(), 1.0);
        assert_eq!(load(9999, 99).pressure(), 1.0);
    }

    #[test]
    fn urgency_goes_on_where_pressure_begins() {
        assert_eq!(load(0, 0).urgency(), 0.0);
        assert_eq!(load(50, 5).urgency(), 0.5);
        assert_eq!(load(50, 15).urgency(), 0.75);
        assert_eq!(load(100, 20).urgency(), 1.0);
        assert_eq!(load(250, 20).urgency(), 1.5);
        assert_eq!(load(9999, 99).urgency(), 2.0);
    }

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
