//! The background I/O rate limit: a token bucket that compactions pass between blocks.
//!
//! A compaction pays after the fact: it says how much it wrote since it last passed, and goes on once what was written
//! before that is paid for. The bucket pays at the rate of the option `compaction_rate`, and saves up at most a tenth
//! of a second's worth, so that a thread that wakes late loses nothing.
//!
//! # Priorities
//! * *Flush* never waits: writers wait for it. What it writes is a debt, which compactions pay one for one with what
//!   they write themselves, so that background work together keeps the rate, and a steady flow of flushes leaves
//!   compaction half of it. What was flushed more than a second's worth ago is forgiven.
//! * *Level 0* goes before the rest: while such a compaction waits, others yield, except that the longest-waiting kind
//!   gets one grant after nine that passed it over.
//!
//! # Auto
//! The rate follows the *urgency* (see `compaction/pressure.rs`): the floor where nothing is due, twice that at half of
//! [`AUTO_FULL`], and no limit from there on, well before writers are slowed. If the rate is below what the load needs,
//! debt grows until it is not: the rate settles where compaction just keeps up. While somebody waits for compactions to
//! end ([`RateLimiter::hurry`]), there is no limit either.
//!
//! Arithmetic is exact: the account is kept in byte-nanoseconds, bytes times 10^9 paid off by rate times nanoseconds.
//! Its lock is a leaf. Nobody spins: a waiter sleeps on a condition variable until its turn can have come, at most
//! [`WAIT_MAX`], so that it also sees a clock that is moved by hand. It knows nothing of trees and jobs.

use std::time::Duration;

use crate::clock::Clock;
use crate::db::counters::Counter;
use crate::error::Result;
use crate::options::CompactionRate;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The rate of `auto` where nothing is due, in bytes per second.
const AUTO_FLOOR: u64 = 16 << 20;
/// The urgency from which on `auto` does not limit. At 1 writers begin to be slowed.
const AUTO_FULL: f64 = 0.75;
/// Byte-nanoseconds of a byte.
const SCALE: i128 = 1_000_000_000;
/// The bucket saves up no more than this long.
const SAVED_NS_MAX: u64 = 100_000_000;
/// Flushes count against compaction no longer than this.
const FLUSH_DEBT_NS_MAX: u64 = 1_000_000_000;
/// Grants to level 0 after which the rest has one.
const PASSED_OVER_MAX: u64 = 9;
/// The longest sleep before a waiter looks at the clock again.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A compaction out of level 0, which reads and writers wait for most.
    Level0,
    /// Any other.
    Deep,
}

/// The limiter of a database.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    option: CompactionRate,
    bucket: Mutex<Bucket>,
    changed: Condvar,
    /// Bytes of compactions that passed while there was a limit.
    pub(crate) limited_bytes: Counter,
    /// Nanoseconds that compactions waited here.
    pub(crate) waited_ns: Counter,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Bytes per second; `None`: no limit.
    rate: Option<u64>,
    urgency: f64,
    /// Those who wait for compactions to end.
    hurried_count: usize,
    /// What was granted and is not paid yet; below zero: what was saved.
    owed: i128,
    flush_debt: i128,
    as_of_ns: u64,
    waiting: [usize; 2],
    /// Grants to level 0 while others waited, in a row.
    passed_over: u64,
    /// Changes whenever waiters should look again at what they wait for.
    wakes: u64,
}

impl RateLimiter {
    pub(crate) fn new(option: CompactionRate) -> Self {
        let limiter = RateLimiter { option, ..RateLimiter::default() };
        limiter.bucket.lock().rate = limiter.rate_at(0.0);
        limiter
    }

    fn rate_at(&self, urgency: f64) -> Option<u64> {
        match self.option {
            CompactionRate::Unlimited => None,
            CompactionRate::BytesPerSecond(bytes) => Some(bytes),
            CompactionRate::Auto if urgency >= AUTO_FULL => None,
            CompactionRate::Auto => Some((AUTO_FLOOR as f64 / (1.0 - urgency / AUTO_FULL)) as u64),
        }
    }

    /// The present limit, in bytes per second.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.bucket.lock().rate
    }

    /// Says how urgent compaction is; with `auto` the rate follows.
    pub(crate) fn set_urgency(&self, urgency: f64, clock: &dyn Clock) {
        if self.option == CompactionRate::Auto {
            let mut bucket = self.bucket.lock();
            bucket.urgency = urgency;
            self.adapt(bucket, clock);
        }
    }

    /// Somebody begins to wait for compactions to end: with `auto` there is no limit until the guard is dropped.
    pub(crate) fn hurry<'a>(&'a self, clock: &'a dyn Clock) -> Hurry<'a> {
        let mut bucket = self.bucket.lock();
        bucket.hurried_count += 1;
        self.adapt(bucket, clock);
        Hurry { limiter: self, clock }
    }

    fn adapt(&self, mut bucket: MutexGuard<'_, Bucket>, clock: &dyn Clock) {
        let hurried = bucket.hurried_count > 0 && self.option == CompactionRate::Auto;
        let rate = if hurried { None } else { self.rate_at(bucket.urgency) };
        if rate != bucket.rate {
            // What the old rate paid until now is paid.
            bucket.pay(clock.monotonic_ns());
            bucket.rate = rate;
            self.notify(bucket);
        }
    }

    fn notify(&self, mut bucket: MutexGuard<'_, Bucket>) {
        bucket.wakes += 1;
        let anybody = bucket.waiting != [0, 0];
        drop(bucket);
        if anybody {
            self.changed.notify_all();
        }
    }

    /// Lets those who wait look again at what may keep them from waiting on.
    pub(crate) fn wake_all(&self) {
        if self.option != CompactionRate::Unlimited {
            self.notify(self.bucket.lock());
        }
    }

    /// A flush is about to write about so much.
    pub(crate) fn charge_flush(&self, bytes: u64, clock: &dyn Clock) {
        if self.option != CompactionRate::Unlimited {
            let mut bucket = self.bucket.lock();
            bucket.pay(clock.monotonic_ns());
            let most = bucket.rate.map_or(0, |rate| scaled(rate, FLUSH_DEBT_NS_MAX));
            bucket.flush_debt = (bucket.flush_debt + i128::from(bytes) * SCALE).min(most);
        }
    }

    /// Lets a compaction that wrote `bytes` go on when it may. `between` runs before each wait, without a lock, and
    /// ends it by an error; whoever changes what it looks at calls [`RateLimiter::wake_all`].
    pub(crate) fn pass(
        &self,
        priority: Priority,
        bytes: u64,
        clock: &dyn Clock,
        between: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if self.option == CompactionRate::Unlimited || bytes == 0 {
            return Ok(());
        }
        let entered_ns = clock.monotonic_ns();
        let _waiting = Waiting::begin(self, priority);
        let mut wakes = None;
        loop {
            let mut bucket = self.bucket.lock();
            if bucket.rate.is_none() {
                return Ok(());
            }
            let Some(wait) = bucket.take(priority, bytes, clock.monotonic_ns()) else { break };
            // The first time round `between` has not looked yet, after a wake it must look again.
            if wakes == Some(bucket.wakes) {
                self.changed.wait_for(&mut bucket, wait.min(WAIT_MAX));
                wakes = None;
                continue;
            }
            wakes = Some(bucket.wakes);
            drop(bucket);
            between()?;
        }
        self.limited_bytes.add(bytes);
        self.waited_ns.add(clock.monotonic_ns().saturating_sub(entered_ns));
        Ok(())
    }
}

/// Somebody waits for compactions to end, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hurry<'a> {
    limiter: &'a RateLimiter,
    clock: &'a dyn Clock,
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        let mut bucket = self.limiter.bucket.lock();
        bucket.hurried_count -= 1;
        self.limiter.adapt(bucket, self.clock);
    }
}

/// A compaction that waits, until it is dropped.
struct Waiting<'a> {
    limiter: &'a RateLimiter,
    priority: Priority,
}

impl<'a> Waiting<'a> {
    fn begin(limiter: &'a RateLimiter, priority: Priority) -> Self {
        limiter.bucket.lock().waiting[priority as usize] += 1;
        Waiting { limiter, priority }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut bucket = self.limiter.bucket.lock();
        bucket.waiting[self.priority as usize] -= 1;
        self.limiter.notify(bucket);
    }
}

fn scaled(rate: u64, ns: u64) -> i128 {
    i128::from(rate) * i128::from(ns)
}

impl Bucket {
    /// Pays for the time until now: compactions, then flushes; the rest is saved, up to the limit.
    fn pay(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.as_of_ns);
        self.as_of_ns = self.as_of_ns.max(now_ns);
        let Some(rate) = self.rate else {
            (self.owed, self.flush_debt) = (0, 0);
            return;
        };
        let paid = scaled(rate, elapsed_ns);
        let to_flush = (paid - self.owed.max(0)).clamp(0, self.flush_debt);
        self.flush_debt -= to_flush;
        self.owed = (self.owed - (paid - to_flush)).max(-scaled(rate, SAVED_NS_MAX));
    }

    /// Grants `bytes`, or says how long to wait before asking again.
    fn take(&mut self, priority: Priority, bytes: u64, now_ns: u64) -> Option<Duration> {
        self.pay(now_ns);
        let rate = self.rate?;
        if self.turn() != priority {
            return Some(WAIT_MAX);
        }
        if self.owed > 0 {
            let wait_ns = (self.owed as u128).div_ceil(u128::from(rate));
            return Some(Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX)));
        }
        let bytes = i128::from(bytes) * SCALE;
        let for_flush = bytes.min(self.flush_debt);
        self.flush_debt -= for_flush;
        self.owed += bytes + for_flush;
        let passed_over = priority == Priority::Level0 && self.waits(Priority::Deep);
        self.passed_over = if passed_over { self.passed_over + 1 } else { 0 };
        None
    }

    fn waits(&self, priority: Priority) -> bool {
        self.waiting[priority as usize] > 0
    }

    fn turn(&self) -> Priority {
        let overdue = self.passed_over >= PASSED_OVER_MAX && self.waits(Priority::Deep);
        if self.waits(Priority::Level0) && !overdue { Priority::Level0 } else { Priority::Deep }
    }
}

#[cfg(test)]
mod tests;
