//! Bloom filters over key hashes, probed where they are stored.
//!
//! # Stored form
//! One type byte, then: type 0: nothing, every key may be there. Type 1: the form of the crate
//! `bloomfilter`, which builds it: a header of 45 bytes (`version u8 = 1, len_bytes u64, k u32,
//! seed [u8; 32]`, little-endian) and `len_bytes` of bits. Type 2: `k u8, pad_len u8`, `pad_len`
//! zeros that bring what follows to a multiple of 64 in the file, and blocks of 64 bytes.
//!
//! # Blocked filters
//! All bits of a key lie in one block, which is one cache line: asking costs one cache miss instead
//! of about two for an absent key and seven for a present one. All bits are looked at without a
//! branch between them, so that the processor asks the next table while it waits for this one.
//! The price is a few more false positives at equal size (1.0 instead of 0.8 % at 10 bits), since
//! some blocks hold more keys than others. After Putze, Sanders and Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters" (2007); the default filter of `RocksDB` is of this kind.
//!
//! # Why not probe with the crate
//! It would own a copy of the bits, compute two keyed hashes in each filter, and divide twice per
//! bit. Here the pair of hashes is computed once per lookup ([`KeyProbe`]) and shared by all
//! tables, the bits are read where they lie (a mapped file), and the remainder comes from a
//! reciprocal. The answers are the crate's, bit for bit; a property test compares them.
//!
//! # Invariants
//! * The seed is fixed: a stored filter with another seed cannot share the pair and is refused as
//!   unsupported.
//! * The seed's halves differ. With equal halves both hashes would be one, and the false-positive
//!   rate quadruples.
//! * What is hashed is [`key_hash`](crate::key::key_hash) of a user key, not the key.

use std::cell::OnceCell;
use std::hash::{Hash, Hasher};
use std::ops::Range;

use bloomfilter::Bloom;
use bloomfilter::reexports::siphasher::sip::SipHasher13;

use crate::coding::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::options::FilterKind;

const TYPE_NONE: u8 = 0;
const TYPE_BLOOM: u8 = 1;
const TYPE_BLOCKED: u8 = 2;
/// A block of a blocked filter: a cache line.
const BLOCK_BYTES: usize = 64;
/// A key's bits in a block are 9-bit fields of one 64-bit number.
const BLOCKED_HASH_COUNT_MAX: u32 = 7;
const BLOOM_VERSION: u8 = 1;
/// More than the most bits a key can be given call for: `round((32 + 7) * ln 2)` hashes.
const HASH_COUNT_MAX: u32 = 32;
/// The modulus of the crate's double hashing: the largest prime below 2^64.
const PRIME: u64 = 0xffff_ffff_ffff_ffc5;
const SEED: [u8; 32] = *b"esker bloom, h1 esker bloom, h2 ";

/// A key's hash as the crate's item: hashed as one integer.
struct KeyHash(u64);

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

fn half(index: usize) -> [u8; 16] {
    std::array::from_fn(|byte| SEED[16 * index + byte])
}

/// The hashes of a table's keys, and then its filter.
#[derive(Debug)]
pub(crate) struct FilterBuilder {
    kind: FilterKind,
    bits_per_key: f32,
    hashes: Vec<u64>,
}

impl FilterBuilder {
    /// A builder that spends `bits_per_key`; 0 makes no filter.
    pub(crate) fn new(kind: FilterKind, bits_per_key: f32) -> Self {
        FilterBuilder { kind, bits_per_key, hashes: Vec::new() }
    }

    /// Adds a key by its hash. Versions of one key should be added once, since every call counts
    /// for the size.
    #[inline]
    pub(crate) fn add(&mut self, key_hash: u64) {
        if self.bits_per_key > 0.0 {
            self.hashes.push(key_hash);
        }
    }

    /// About how long the stored filter will be.
    #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
    pub(crate) fn estimated_bytes(&self) -> usize {
        1 + (self.hashes.len() as f64 * f64::from(self.bits_per_key) / 8.0) as usize
    }

    /// Appends the stored filter to `out`; it will stand at `file_offset`.
    pub(crate) fn finish(self, file_offset: u64, out: &mut Vec<u8>) {
        if self.hashes.is_empty() {
            out.push(TYPE_NONE);
            return;
        }
        match self.kind {
            FilterKind::Blocked => self.finish_blocked(file_offset, out),
            FilterKind::Bloom => self.finish_bloom(out),
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
    fn finish_blocked(self, file_offset: u64, out: &mut Vec<u8>) {
        let bits = self.hashes.len() as f64 * f64::from(self.bits_per_key);
        let block_count = ((bits / (8 * BLOCK_BYTES) as f64).ceil() as usize).max(1);
        // A little fewer than the k = bits * ln 2 of a plain filter: crowded blocks decide.
        let hash_count =
            ((self.bits_per_key * 0.6).round() as u32).clamp(1, BLOCKED_HASH_COUNT_MAX);
        let header_len = 3;
        let misplaced = (file_offset as usize + header_len) % BLOCK_BYTES;
        let pad_len = (BLOCK_BYTES - misplaced) % BLOCK_BYTES;
        out.extend_from_slice(&[TYPE_BLOCKED, hash_count as u8, pad_len as u8]);
        let start = out.len() + pad_len;
        out.resize(start + block_count * BLOCK_BYTES, 0);
        let blocks = &mut out[start..];
        for hash in self.hashes {
            let at = block_of(hash, block_count as u64) * BLOCK_BYTES;
            for bit in bits_of(hash).take(hash_count as usize) {
                blocks[at + bit / 8] |= 1 << (bit % 8);
            }
        }
    }

    #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
    fn finish_bloom(self, out: &mut Vec<u8>) {
        let bits = self.hashes.len() as f64 * f64::from(self.bits_per_key);
        // Rounded up to a byte only: the crate takes its number of hashes from the length.
        let bytes = ((bits / 8.0).ceil() as usize).max(1);
        let mut bloom = Bloom::<KeyHash>::new_with_seed(bytes, self.hashes.len(), &SEED)
            .expect("the crate fails only where it draws a random seed");
        for hash in self.hashes {
            bloom.set(&KeyHash(hash));
        }
        out.push(TYPE_BLOOM);
        out.extend_from_slice(bloom.as_slice());
    }
}

/// The block of a key: the upper half of its hash, scaled to the number of blocks.
#[inline]
fn block_of(key_hash: u64, block_count: u64) -> usize {
    // The product of 32 and at most 32 bits: a filter has fewer than 2^32 blocks.
    (((key_hash >> 32) * block_count) >> 32) as usize
}

/// The places of a key's bits in its block.
#[inline]
fn bits_of(key_hash: u64) -> impl Iterator<Item = usize> {
    // The block came from the upper half; the multiplication brings the lower half up.
    let mixed = key_hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (1..=BLOCKED_HASH_COUNT_MAX).map(move |index| (mixed >> (64 - 9 * index)) as usize & 511)
}

/// A key as filters see it. One for each lookup, shared by all filters that are asked.
#[derive(Debug)]
pub(crate) struct KeyProbe {
    key_hash: u64,
    /// Made when the first filter is asked: a lookup answered from memory never pays for it.
    pair: OnceCell<(u64, u64)>,
}

impl KeyProbe {
    /// The probe for the key with this [`key_hash`](crate::key::key_hash).
    #[inline]
    pub(crate) fn new(key_hash: u64) -> Self {
        KeyProbe { key_hash, pair: OnceCell::new() }
    }

    #[inline]
    fn pair(&self) -> (u64, u64) {
        *self.pair.get_or_init(|| (sip(0, self.key_hash), sip(1, self.key_hash)))
    }
}

fn sip(index: usize, key_hash: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&half(index));
    hasher.write_u64(key_hash);
    hasher.finish()
}

/// A parsed filter: where its bits lie in the stored bytes, and the numbers that probing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterLayout {
    /// Where the bits lie; empty when there is no filter.
    bits: Range<usize>,
    /// Blocks of a blocked filter; 0 for other types.
    block_count: u64,
    bit_count: u64,
    /// `(2^64 - 1) / bit_count`.
    reciprocal: u64,
    hash_count: u32,
}

impl FilterLayout {
    /// Checks the header of a stored filter.
    pub(crate) fn parse(stored: &[u8]) -> Result<Self> {
        let mut decoder = Decoder::new(stored);
        match decoder.u8() {
            Ok(TYPE_NONE) if decoder.is_empty() => Ok(FilterLayout {
                bits: 0..0,
                block_count: 0,
                bit_count: 0,
                reciprocal: 0,
                hash_count: 0,
            }),
            Ok(TYPE_BLOOM) => Self::parse_bloom(stored, decoder),
            Ok(TYPE_BLOCKED) => Self::parse_blocked(stored, decoder),
            Ok(TYPE_NONE) => Err(damaged("bytes after an empty filter")),
            Ok(other) => Err(unsupported(format!("unknown filter type {other}"))),
            Err(_) => Err(damaged("filter without a type")),
        }
    }

    fn parse_blocked(stored: &[u8], mut decoder: Decoder<'_>) -> Result<Self> {
        let truncated = |_| damaged("filter header is cut short");
        let hash_count = u32::from(decoder.u8().map_err(truncated)?);
        let pad_len = usize::from(decoder.u8().map_err(truncated)?);
        decoder.bytes(pad_len).map_err(truncated)?;
        let len = decoder.rest().len();
        let block_count = (len / BLOCK_BYTES) as u64;
        let is_sound = len > 0
            && len.is_multiple_of(BLOCK_BYTES)
            && u32::try_from(block_count).is_ok()
            && (1..=BLOCKED_HASH_COUNT_MAX).contains(&hash_count);
        if !is_sound {
            return Err(damaged("filter header disagrees with its length"));
        }
        Ok(FilterLayout {
            bits: stored.len() - len..stored.len(),
            block_count,
            bit_count: len as u64 * 8,
            reciprocal: 0,
            hash_count,
        })
    }

    fn parse_bloom(stored: &[u8], mut decoder: Decoder<'_>) -> Result<Self> {
        let truncated = |_| damaged("filter header is cut short");
        let version = decoder.u8().map_err(truncated)?;
        if version != BLOOM_VERSION {
            return Err(unsupported(format!("unknown Bloom filter version {version}")));
        }
        let len_bytes = decoder.u64().map_err(truncated)?;
        let hash_count = decoder.u32().map_err(truncated)?;
        if decoder.bytes(SEED.len()).map_err(truncated)? != SEED {
            return Err(unsupported("unknown Bloom filter seed".to_owned()));
        }
        let len = decoder.rest().len();
        if len == 0 || len as u64 != len_bytes || hash_count == 0 || hash_count > HASH_COUNT_MAX {
            return Err(damaged("filter header disagrees with its length"));
        }
        let bit_count = len_bytes * 8;
        let reciprocal = u64::MAX / bit_count;
        Ok(FilterLayout {
            bits: stored.len() - len..stored.len(),
            block_count: 0,
            bit_count,
            reciprocal,
            hash_count,
        })
    }

    /// Whether there is a filter at all.
    pub(crate) fn is_present(&self) -> bool {
        self.bit_count != 0
    }

    /// Whether the key may be in the table. `stored` must be the bytes that were parsed.
    #[inline]
    pub(crate) fn may_contain(&self, stored: &[u8], probe: &KeyProbe) -> bool {
        if !self.is_present() {
            return true;
        }
        let bits = &stored[self.bits.clone()];
        if self.block_count > 0 {
            return self.block_may_contain(bits, probe.key_hash);
        }
        let (first, second) = probe.pair();
        if !self.is_set(bits, first) || (self.hash_count > 1 && !self.is_set(bits, second)) {
            return false;
        }
        let mut hash = first.wrapping_add(second);
        for _ in 2..self.hash_count {
            hash = hash.wrapping_add(second);
            let reduced = if hash >= PRIME { hash - PRIME } else { hash };
            if !self.is_set(bits, reduced) {
                return false;
            }
        }
        true
    }

    #[inline]
    fn block_may_contain(&self, blocks: &[u8], key_hash: u64) -> bool {
        let at = block_of(key_hash, self.block_count) * BLOCK_BYTES;
        let Some(block) = blocks[at..].first_chunk::<BLOCK_BYTES>() else { return true };
        let mut all = 1;
        for bit in bits_of(key_hash).take(self.hash_count as usize) {
            all &= block[bit / 8] >> (bit % 8);
        }
        all & 1 != 0
    }

    #[inline]
    fn is_set(&self, bits: &[u8], hash: u64) -> bool {
        let bit = self.remainder(hash);
        bits[(bit / 8) as usize] & (1 << (bit % 8)) != 0
    }

    /// `hash % bit_count`.
    ///
    /// With `m = bit_count` and `r = floor((2^64 - 1) / m) = (2^64 - 1 - e) / m` for some `0 <= e <
    /// m`: `hash * r / 2^64 = hash / m - hash * (1 + e) / (m * 2^64)`, and the subtracted term is
    /// below 1. So the quotient taken is the true one or one less, the difference lies in `0..2m`,
    /// and one subtraction mends it.
    #[inline]
    fn remainder(&self, hash: u64) -> u64 {
        let quotient = ((u128::from(hash) * u128::from(self.reciprocal)) >> 64) as u64;
        let difference = hash - quotient * self.bit_count;
        if difference >= self.bit_count { difference - self.bit_count } else { difference }
    }
}

#[cold]
fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corruption, what)
}

#[cold]
fn unsupported(what: String) -> Error {
    Error::new(ErrorKind::Unsupported, what)
        .advise("open the database with the esker version that wrote it, or a newer one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::key_hash;
    use proptest::prelude::*;

    fn build(bits_per_key: f32, hashes: impl IntoIterator<Item = u64>) -> Vec<u8> {
        build_kind(FilterKind::Bloom, 0, bits_per_key, hashes)
    }

    fn build_kind(
        kind: FilterKind,
        file_offset: u64,
        bits_per_key: f32,
        hashes: impl IntoIterator<Item = u64>,
    ) -> Vec<u8> {
        let mut builder = FilterBuilder::new(kind, bits_per_key);
        hashes.into_iter().for_each(|hash| builder.add(hash));
        let mut stored = Vec::new();
        builder.finish(file_offset, &mut stored);
        stored
    }

    fn hash_of(number: u64) -> u64 {
        key_hash(&number.to_be_bytes())
    }

    proptest! {
        #[test]
        fn answers_are_the_crates(
            bits_per_key in 1.0f32..32.0,
            hashes in proptest::collection::vec(any::<u64>(), 1..200),
            asked in proptest::collection::vec(any::<u64>(), 200),
        ) {
            let stored = build(bits_per_key, hashes.iter().copied());
            let layout = FilterLayout::parse(&stored).unwrap();
            let bloom = Bloom::<KeyHash>::from_slice(&stored[1..]).unwrap();
            for &hash in hashes.iter().chain(&asked) {
                let ours = layout.may_contain(&stored, &KeyProbe::new(hash));
                prop_assert_eq!(ours, bloom.check(&KeyHash(hash)));
            }
            for &hash in &hashes {
                prop_assert!(layout.may_contain(&stored, &KeyProbe::new(hash)));
            }
        }

        #[test]
        fn a_blocked_filter_holds_every_key_and_its_blocks_are_aligned(
            bits_per_key in 0.5f32..32.0,
            file_offset in 0u64..1 << 30,
            hashes in proptest::collection::vec(any::<u64>(), 1..300),
        ) {
            let stored =
                build_kind(FilterKind::Blocked, file_offset, bits_per_key, hashes.iter().copied());
            let layout = FilterLayout::parse(&stored).unwrap();
            prop_assert_eq!((file_offset as usize + layout.bits.start) % BLOCK_BYTES, 0);
            for &hash in &hashes {
                prop_assert!(layout.may_contain(&stored, &KeyProbe::new(hash)));
            }
        }

        #[test]
        fn remainder_is_exact(hash: u64, bytes in 1u64..1 << 40) {
            let bit_count = bytes * 8;
            let reciprocal = u64::MAX / bit_count;
            let layout = FilterLayout {
                bits: 0..0,
                block_count: 0,
                bit_count,
                reciprocal,
                hash_count: 1,
            };
            let multiple = hash / bit_count * bit_count;
            for hash in [hash, u64::MAX, PRIME, bit_count, bit_count - 1, multiple] {
                prop_assert_eq!(layout.remainder(hash), hash % bit_count);
            }
        }

        #[test]
        fn parsing_is_total(bytes: Vec<u8>, damage in 0usize..60, byte: u8) {
            let mut stored = build(10.0, [1, 2, 3]);
            let mut blocked = build_kind(FilterKind::Blocked, 7, 10.0, [1, 2, 3]);
            for stored in [&mut stored, &mut blocked] {
                if let Some(place) = stored.get_mut(damage) {
                    *place = byte;
                }
            }
            for stored in [&stored, &blocked, &bytes] {
                if let Ok(layout) = FilterLayout::parse(stored) {
                    layout.may_contain(stored, &KeyProbe::new(7));
                }
            }
        }
    }

    #[test]
    fn false_positives_at_ten_bits_are_about_a_hundredth() {
        for kind in [FilterKind::Bloom, FilterKind::Blocked] {
            let stored = build_kind(kind, 0, 10.0, (0..20_000).map(hash_of));
            let layout = FilterLayout::parse(&stored).unwrap();
            let positives = (1_000_000..1_100_000u64)
                .filter(|&number| layout.may_contain(&stored, &KeyProbe::new(hash_of(number))))
                .count();
            assert!((500..1300).contains(&positives), "{kind:?}: {positives} of 100000");
        }
    }

    #[test]
    fn no_bits_or_no_keys_make_no_filter() {
        for stored in [build(0.0, [1, 2]), build(10.0, [])] {
            assert_eq!(stored, [TYPE_NONE]);
            let layout = FilterLayout::parse(&stored).unwrap();
            assert!(!layout.is_present() && layout.may_contain(&stored, &KeyProbe::new(9)));
        }
    }

    #[test]
    fn foreign_types_versions_and_seeds_are_unsupported() {
        for place in [0, 1, 20] {
            let mut stored = build(10.0, [1, 2, 3]);
            stored[place] ^= 0x40;
            assert_eq!(FilterLayout::parse(&stored).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn stored_bytes_never_change() {
        let stored = build(10.0, (0..8).map(hash_of));
        assert_eq!(stored.len(), 1 + 45 + 10);
        assert_eq!(crate::checksum::checksum(&stored), 0x818c_8bd6);
        let stored = build_kind(FilterKind::Blocked, 4095, 10.0, (0..8).map(hash_of));
        assert_eq!(stored.len(), 3 + 62 + 64);
        assert_eq!(stored[..3], [TYPE_BLOCKED, 6, 62]);
        assert_eq!(crate::checksum::checksum(&stored), 0x464f_eccb);
    }
}
