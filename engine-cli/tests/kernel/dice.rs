//! Random choices from a seed (splitmix64).

use std::time::Duration;

/// A stream of random choices.
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Dice { state: seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95) };
        dice.next();
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A time shorter than `micros_max`, more often a short one.
    pub fn delay(&mut self, micros_max: u64) -> Duration {
        let bound = 1 + self.below(micros_max);
        Duration::from_micros(self.below(bound))
    }
}
