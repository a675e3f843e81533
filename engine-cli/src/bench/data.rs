//! Keys, values and random numbers for the workloads, without allocation where time is measured.
//!
//! A key is a number as 16 decimal digits. An absent key is one whose last digit is replaced by a letter: it sorts
//! between the keys that are there, so that only filters and blocks, not key ranges, can tell. A value's second
//! half repeats its first, so that it compresses to about half.

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// A key under construction, reused for every operation.
#[derive(Clone, Copy, Debug)]
pub struct Key([u8; KEY_BYTES]);

const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number = 0;
    while number < 100 {
        pairs[number * 2] = b'0' + (number / 10) as u8;
        pairs[number * 2 + 1] = b'0' + (number % 10) as u8;
        number += 1;
    }
    pairs
};

impl Key {
    pub fn new() -> Self {
        Key([b'0'; KEY_BYTES])
    }

    /// The key of `number`.
    pub fn set(&mut self, mut number: u64) -> &[u8; KEY_BYTES] {
        for pair in self.0.rchunks_exact_mut(2) {
            let digits = (number % 100) as usize * 2;
            pair.copy_from_slice(&PAIRS[digits..digits + 2]);
            number /= 100;
        }
        &self.0
    }

    /// The key that was set last.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A key beside that of `number` that is never put.
    pub fn set_absent(&mut self, number: u64) -> &[u8; KEY_BYTES] {
        self.set(number);
        self.0[KEY_BYTES - 1] = b'x';
        &self.0
    }
}

/// Random numbers (splitmix64): fast, seedable, good enough to draw keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// In 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The zipfian distribution of YCSB (Gray et al., "Quickly generating billion-record synthetic databases").
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    items: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    /// Ranks below `items`; takes time in proportion to them.
    pub fn new(items: u64) -> Self {
        let zeta: f64 = (1..=items).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta_2 = 1.0 + 0.5_f64.powf(THETA);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta);
        Zipf { items, alpha: 1.0 / (1.0 - THETA), zeta, eta }
    }

    /// A rank: 0 is the most frequent.
    pub fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(self.items - 1);
        }
        let rank = self.items as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        #[expect(clippy::cast_sign_loss, reason = "eta is at most 1, so the base is in 0..=1")]
        let rank = rank as u64;
        rank.min(self.items - 1)
    }

    /// A key number: frequent ones are spread over the whole range.
    pub fn scrambled(&self, random: &mut Random) -> u64 {
        let rank = self.rank(random);
        ((u128::from(mix(rank.wrapping_add(1))) * u128::from(self.items)) >> 64) as u64
    }
}

/// Values of one length.
#[derive(Clone, Debug)]
pub struct Values {
    bytes: Vec<u8>,
    value_bytes: usize,
    vary: bool,
    offset: usize,
}

/// How many different values `vary` gives before they repeat.
const VARIANTS: usize = 4096;

impl Values {
    pub fn new(value_bytes: usize, vary: bool, random: &mut Random) -> Self {
        let count = if vary { VARIANTS.min((64 << 20) / value_bytes.max(1)).max(1) } else { 1 };
        let mut bytes = Vec::with_capacity(count * value_bytes);
        for _ in 0..count {
            let half = value_bytes.div_ceil(2);
            let start = bytes.len();
            bytes.extend((0..half).map(|_| random.next() as u8));
            bytes.extend_from_within(start..start + value_bytes - half);
        }
        Values { bytes, value_bytes, vary, offset: 0 }
    }

    /// The next value.
    pub fn next(&mut self) -> &[u8] {
        let start = self.offset;
        if self.vary {
            self.offset = (start + self.value_bytes) % self.bytes.len().max(1);
        }
        &self.bytes[start..start + self.value_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sixteen_digits() {
        let mut key = Key::new();
        assert_eq!(key.set(0), b"0000000000000000");
        assert_eq!(key.set(1_234_567), b"0000000001234567");
        assert_eq!(key.set(9_999_999_999_999_999), b"9999999999999999");
        let absent = *key.set_absent(70);
        assert!(absent > *key.set(70) && absent < *key.set(80));
    }

    #[test]
    fn zipfian_keys_are_skewed_spread_and_in_range() {
        let zipf = Zipf::new(1000);
        let mut random = Random::new(1);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.rank(&mut random) as usize] += 1;
        }
        // Rank 0 has a share of 1 / zeta(1000, 0.99), about 13%.
        assert!((11_000..16_000).contains(&counts[0]), "{}", counts[0]);
        assert!(counts[0] > counts[1] && counts[1] > counts[10] && counts[10] > counts[500]);
        let high = (0..1000).filter(|_| zipf.scrambled(&mut random) >= 500).count();
        assert!((200..800).contains(&high), "{high}");
        assert_eq!(Zipf::new(1).scrambled(&mut random), 0);
    }

    #[test]
    fn values_have_their_length_and_repeat_their_half() {
        for value_bytes in [0, 1, 7, 100] {
            let mut values = Values::new(value_bytes, false, &mut Random::new(3));
            let value = values.next().to_vec();
            assert_eq!(value.len(), value_bytes);
            assert_eq!(values.next(), value);
            let half = value_bytes.div_ceil(2);
            assert_eq!(value[half..], value[..value_bytes - half]);
        }
        let mut values = Values::new(100, true, &mut Random::new(3));
        let first = values.next().to_vec();
        assert_ne!(values.next(), first);
        assert!(Values::new(0, true, &mut Random::new(3)).next().is_empty());
    }
}
