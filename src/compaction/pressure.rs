//! Write pressure: how much writers are slowed for compaction's sake, as a formula.
//!
//! The pressure is a number from 0 to 1: how far the compaction debt lies between `debt_bytes_soft`
//! and four times that, or how far the runs of level 0 lie between half the strategy's limit and
//! the limit. At 0 writers are not slowed. From there up each byte costs a delay that grows as `p /
//! (1 - p)`, so that there is no cliff: at one half writers get 64 MiB/s, at three quarters 21
//! MiB/s, near 1 almost nothing. At 1 they stop until compaction has moved something.
//!
//! The throttle of a database enforces this; the simulator predicts it. Neither has a formula of
//! its own.

/// Delay per KiB at a pressure of one half: 64 MiB/s.
const DELAY_NS_PER_KIB: f64 = 15_259.0;

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
    /// The part of the pressure that comes from debt; below 0 if there is less than the soft limit.
    pub(crate) fn debt_pressure(self) -> f64 {
        let soft = self.debt_bytes_soft as f64;
        ((self.debt_bytes as f64 - soft) / (3.0 * soft)).min(1.0)
    }

    /// How urgent compaction is: 0 where nothing is due, 1 where writers begin to be slowed, 2 where
    /// they stop. The debt counts against `debt_bytes_soft`, the runs of level 0 against half the
    /// strategy's limit.
    pub(crate) fn urgency(self) -> f64 {
        let debt = self.debt_bytes as f64 / self.debt_bytes_soft as f64;
        let runs =
            self.level0_runs_max.map_or(0.0, |max| 2.0 * self.level0_runs as f64 / max as f64);
        debt.max(runs).min(1.0) + self.pressure()
    }

    /// 0: no pressure; 1: stop.
    pub(crate) fn pressure(self) -> f64 {
        let debt = self.debt_pressure();
        let runs = self.level0_runs_max.map_or(0.0, |max| {
            let half = max as f64 / 2.0;
            (self.level0_runs as f64 - half) / half
        });
        debt.max(runs).clamp(0.0, 1.0)
    }
}

/// What a KiB costs a writer, in nanoseconds, under `pressure`; `None`: it waits until that falls.
pub(crate) fn delay_ns_per_kib(pressure: f64) -> Option<u64> {
    (pressure < 1.0).then(|| (DELAY_NS_PER_KIB * pressure / (1.0 - pressure)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn delay_grows_with_pressure_until_it_is_a_stop() {
        assert_eq!(delay_ns_per_kib(0.0), Some(0));
        assert_eq!(delay_ns_per_kib(0.5), Some(15_259));
        assert_eq!(delay_ns_per_kib(0.75), Some(45_777));
        assert_eq!(delay_ns_per_kib(1.0), None);
    }
}
