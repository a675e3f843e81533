//! What the demo's database must hold, kept cheaply: 16 bytes a path, whatever its length.
//!
//! Paths and values are remembered by 64-bit hashes, so a wrong answer is found with a chance of missing it of one
//! in 2^64. Counts by first directory below the root answer for scans by prefix, and some paths are kept whole to
//! be read.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;

use super::with_separator;

const SAMPLE_MAX: usize = 20_000;

/// The expected content.
pub struct Ledger {
    root: Vec<u8>,
    values: HashMap<u64, u64>,
    directories: BTreeMap<Vec<u8>, u64>,
    sample: Vec<Vec<u8>>,
}

/// How many entries there are, and a sum over them that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub entries: u64,
    sum: u64,
}

impl Digest {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.add_hashes(hash(key), hash(value));
    }

    fn add_hashes(&mut self, key: u64, value: u64) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(key.wrapping_mul(31) ^ value);
    }
}

impl Ledger {
    /// Nothing below `root` yet.
    pub fn new(root: &Path) -> Self {
        Ledger {
            root: with_separator(root),
            values: HashMap::new(),
            directories: BTreeMap::new(),
            sample: Vec::new(),
        }
    }

    /// The key holds the value from now on.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let key_hash = hash(key);
        if self.values.insert(key_hash, hash(value)).is_some() {
            return;
        }
        if let Some(directory) = self.directory(key) {
            *self.directories.entry(directory).or_default() += 1;
        }
        if key_hash % 8 == 5 && self.sample.len() < SAMPLE_MAX || key_hash % 160 == 7 {
            self.sample.push(key.to_vec());
        }
    }

    /// The key is absent from now on.
    pub fn delete(&mut self, key: &[u8]) {
        self.values.remove(&hash(key));
        if let Some(count) = self.directory(key).and_then(|dir| self.directories.get_mut(&dir)) {
            *count -= 1;
        }
    }

    /// Entries that must be there.
    pub fn len(&self) -> u64 {
        self.values.len() as u64
    }

    /// The hash of the key's value; none if the key must be absent.
    pub fn value_hash(&self, key: &[u8]) -> Option<u64> {
        self.values.get(&hash(key)).copied()
    }

    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        for (key, value) in &self.values {
            digest.add_hashes(*key, *value);
        }
        digest
    }

    /// Keys to read back, some of which may be deleted by then.
    pub fn sample(&self) -> &[Vec<u8>] {
        &self.sample
    }

    /// The directories below the root with the most entries: their prefix and how many.
    pub fn largest_directories(&self, count: usize) -> Vec<(Vec<u8>, u64)> {
        let mut directories =
            self.directories.iter().map(|(dir, count)| (dir.clone(), *count)).collect::<Vec<_>>();
        directories.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        directories.truncate(count);
        directories
    }

    /// The prefix of the first directory below the root that holds `key`.
    fn directory(&self, key: &[u8]) -> Option<Vec<u8>> {
        let below = key.strip_prefix(self.root.as_slice())?;
        let end = below.iter().position(|byte| *byte == b'/')?;
        Some(key[..=self.root.len() + end].to_vec())
    }
}

/// A hash that is the same in every run.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_follows_puts_and_deletes() {
        let mut ledger = Ledger::new(Path::new("/r"));
        for key in ["/r", "/r/a", "/r/a/1", "/r/a/2", "/r/b/1"] {
            ledger.put(key.as_bytes(), b"v");
        }
        let before = ledger.digest();
        ledger.put(b"/r/a/1", b"w");
        ledger.delete(b"/r/b/1");
        assert_eq!(ledger.len(), 4);
        assert_eq!(ledger.value_hash(b"/r/a/1"), Some(hash(b"w")));
        assert_eq!(ledger.value_hash(b"/r/b/1"), None);
        assert_eq!(ledger.largest_directories(1), [(b"/r/a/".to_vec(), 2)]);
        assert_ne!(ledger.digest(), before);
    }

    #[test]
    fn a_digest_does_not_depend_on_order() {
        let (mut one, mut two) = (Digest::default(), Digest::default());
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        two.add(b"b", b"2");
        two.add(b"a", b"1");
        assert_eq!(one, two);
        two.add(b"c", b"3");
        assert_ne!(one, two);
    }
}
