//! Every grant and every wait predicted by hand, with a clock that moves only when told to.

use super::*;
use crate::clock::ManualClock;
use crate::error::{Error, ErrorKind};

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;

/// A bucket that pays 10 MiB per second: one MiB takes 100 ms.
fn bucket() -> Bucket {
    Bucket { rate: Some(10 * MIB), ..Bucket::default() }
}

/// Asks as one that waits, as `RateLimiter::pass` does; the milliseconds to wait, or none if granted.
fn ask(bucket: &mut Bucket, priority: Priority, mib: u64, at_ms: u64) -> Option<u128> {
    bucket.waiting[priority as usize] += 1;
    let wait = bucket.take(priority, mib * MIB, at_ms * MS);
    bucket.waiting[priority as usize] -= 1;
    wait.map(|wait| wait.as_millis())
}

#[test]
fn a_grant_is_paid_before_the_next() {
    let mut bucket = bucket();
    assert_eq!(ask(&mut bucket, Priority::Deep, 3, 0), None, "nothing is owed yet");
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 0), Some(300));
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 200), Some(100));
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 300), None);
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 300), Some(100));
}

#[test]
fn no_more_is_saved_than_a_tenth_of_a_second_pays() {
    let mut bucket = bucket();
    assert_eq!(ask(&mut bucket, Priority::Deep, 2, 60_000), None);
    assert_eq!(ask(&mut bucket, Priority::Deep, 2, 60_000), Some(100), "one of two was saved");
}

#[test]
fn a_clock_that_stands_or_goes_back_pays_nothing() {
    let mut bucket = bucket();
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 500), None);
    let owed = bucket.owed;
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 400), None, "saved while nobody came");
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 400), Some(100));
    assert!(bucket.owed > owed && bucket.as_of_ns == 500 * MS);
}

#[test]
fn flush_takes_half_and_no_more() {
    let clock = ManualClock::default();
    let limiter = RateLimiter::new(CompactionRate::BytesPerSecond(10 * MIB));
    limiter.charge_flush(2 * MIB, &clock);
    let mut bucket = limiter.bucket.lock();
    // Two MiB of compaction cost four as long as the flush is paid for.
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 0), None);
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 0), Some(200));
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 200), None);
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 200), Some(200));
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 400), None);
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, 400), Some(100), "paid");
    drop(bucket);
    // Idle time pays a flush too; a hundred MiB count as ten.
    limiter.charge_flush(100 * MIB, &clock);
    let mut bucket = limiter.bucket.lock();
    assert_eq!(bucket.flush_debt, i128::from(10 * MIB) * SCALE);
    bucket.pay(1_500 * MS);
    assert_eq!((bucket.owed, bucket.flush_debt), (0, 0), "100 ms for the MiB, a second for flush");
    bucket.pay(9_000 * MS);
    assert_eq!(bucket.owed, -i128::from(MIB) * SCALE, "the rest is saved, as far as may be");
}

#[test]
fn level_0_goes_first_nine_times_of_ten() {
    let mut bucket = bucket();
    // A deep compaction waits all the time.
    bucket.waiting[Priority::Deep as usize] = 1;
    let mut order = String::new();
    let mut at_ms = 0;
    for _ in 0..24 {
        if ask(&mut bucket, Priority::Level0, 1, at_ms).is_none() {
            order.push('0');
        } else {
            assert_eq!(ask(&mut bucket, Priority::Deep, 1, at_ms), None);
            order.push('d');
        }
        at_ms += 100;
    }
    assert_eq!(order, "000000000d000000000d0000");
    // And while level 0 waits, the rest does not get what is free.
    bucket.waiting[Priority::Level0 as usize] = 1;
    assert_eq!(ask(&mut bucket, Priority::Deep, 1, at_ms), Some(WAIT_MAX.as_millis()));
    assert_eq!(ask(&mut bucket, Priority::Level0, 1, at_ms), None);
}

#[test]
fn auto_follows_the_urgency() {
    let clock = ManualClock::default();
    let limiter = RateLimiter::new(CompactionRate::Auto);
    assert_eq!(limiter.rate(), Some(AUTO_FLOOR));
    let at = |urgency: f64| {
        limiter.set_urgency(urgency, &clock);
        limiter.rate()
    };
    assert_eq!(at(0.375), Some(2 * AUTO_FLOOR));
    assert_eq!(at(0.5625), Some(4 * AUTO_FLOOR));
    assert_eq!(at(0.75), None);
    assert_eq!(at(2.0), None);
    assert_eq!(at(0.0), Some(AUTO_FLOOR));
    let hurry = limiter.hurry(&clock);
    let twice = limiter.hurry(&clock);
    assert_eq!(limiter.rate(), None, "somebody waits");
    drop(hurry);
    assert_eq!(at(0.375), None, "somebody still waits");
    drop(twice);
    assert_eq!(limiter.rate(), Some(2 * AUTO_FLOOR));
}

#[test]
fn a_fixed_rate_is_fixed() {
    let clock = ManualClock::default();
    let limiter = RateLimiter::new(CompactionRate::BytesPerSecond(MIB));
    limiter.set_urgency(2.0, &clock);
    let hurry = limiter.hurry(&clock);
    assert_eq!(limiter.rate(), Some(MIB));
    drop(hurry);
    assert_eq!(RateLimiter::new(CompactionRate::Unlimited).rate(), None);
}

#[test]
fn what_an_old_rate_left_is_paid_at_the_new_one() {
    let clock = ManualClock::default();
    let limiter = RateLimiter::new(CompactionRate::Auto);
    let pass = |mib: u64| {
        limiter.pass(Priority::Deep, mib * MIB, &clock, &mut || Err(Error::invalid("must wait")))
    };
    pass(32).unwrap();
    assert!(pass(1).is_err(), "two seconds are owed");
    clock.advance(Duration::from_millis(500));
    limiter.set_urgency(0.375, &clock);
    assert_eq!(limiter.bucket.lock().owed, i128::from(24 * MIB) * SCALE);
    clock.advance(Duration::from_millis(749));
    assert!(pass(1).is_err());
    clock.advance(Duration::from_millis(1));
    pass(1).unwrap();
    assert_eq!(limiter.limited_bytes.get(), 33 * MIB);
    assert_eq!(limiter.waited_ns.get(), 0, "a refusal is no wait");
    // Without a limit nothing is counted and nobody waits.
    limiter.set_urgency(1.0, &clock);
    pass(1000).unwrap();
    assert_eq!(limiter.limited_bytes.get(), 33 * MIB);
}

#[test]
fn a_waiter_looks_before_it_sleeps_and_leaves_when_it_is_told_to() {
    let clock = ManualClock::default();
    let limiter = RateLimiter::new(CompactionRate::BytesPerSecond(MIB));
    limiter.pass(Priority::Level0, MIB, &clock, &mut || panic!("it need not wait")).unwrap();
    let cancelled = || Error::new(ErrorKind::Cancelled, "stop");
    let result = limiter.pass(Priority::Level0, 1, &clock, &mut || Err(cancelled()));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(limiter.bucket.lock().waiting, [0, 0], "it left");
    // Time that passes while it looks lets it go on, and is counted as its wait.
    let mut look = || {
        clock.advance(Duration::from_secs(1));
        Ok(())
    };
    limiter.pass(Priority::Level0, 1, &clock, &mut look).unwrap();
    assert_eq!(limiter.waited_ns.get(), 1_000_000_000);
}
