//! Options: plain data, validated in one place, settable by name.
//!
//! [`DbOptions`] hold for the whole database and for one opening of it. [`KeyspaceOptions`] belong to a keyspace and
//! are kept in the manifest, so that its tables are compacted the same way before anybody asks for it. Components
//! (file system, clock, strategies of the user's) are not options: they enter through
//! [`DbBuilder`](crate::DbBuilder).
//!
//! Every option can be set from text by [`DbOptions::set`] or [`KeyspaceOptions::set`]; `docs/options.md` lists
//! them all, and a test holds that list against this file.

mod compaction;
mod compaction_rate;

use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
pub use compaction::{Compaction, Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow};
pub use compaction_rate::CompactionRate;

/// How long a write may be at risk after the call returned. See `docs/guarantees.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Durable (`fdatasync`) before the call returns and before any reader sees it. Survives power loss.
    Sync,
    /// Handed to the operating system before the call returns. Survives the death of the process, not power loss.
    #[default]
    Buffered,
    /// As `Buffered`, and synced within `async_interval_ms`.
    Async,
    /// Not logged: lost with the process unless flushed before. For data that can be made again.
    Disabled,
}

/// What a write does when it would have to wait for flush or compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stall {
    /// Waits.
    #[default]
    Wait,
    /// Returns [`Busy`](crate::ErrorKind::Busy) at once; nothing is written.
    Fail,
}

/// How tables are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Through memory maps: the fastest; a device that fails after a page was read and evicted raises `SIGBUS`.
    #[default]
    Mmap,
    /// By `pread` into the block cache: a failing device is always an error value.
    Pread,
}

/// When the checksum of a data block is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// At the first touch after open, and again after each pass of the scrubber.
    #[default]
    Once,
    /// At every read.
    Always,
}

/// How WAL bytes reach the operating system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalMode {
    /// By a store into a shared map, where the file system allocates natively; else as `Write`.
    #[default]
    Map,
    /// By `pwrite`.
    Write,
}

/// What recovery does with damage in the write-ahead log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// Replays up to the first bad record and drops the rest, if no later record promises that it was synced;
    /// otherwise it is corruption.
    #[default]
    PointInTime,
    /// Any bad record is corruption, a torn last one too.
    Absolute,
    /// A torn last record of the last segment is dropped; anything else is corruption.
    TolerateTail,
    /// Replays every readable record and skips the rest. May lose and may reorder: for salvage only.
    Salvage,
}

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Stored as they are; read without a copy.
    #[default]
    None,
    /// Snappy: fast, about 1.5 to 3 times smaller.
    Snap,
    /// Zstandard level 1: slower, smaller.
    Zstd,
}

/// The kind of bloom filter that new tables get. Tables with filters of the other kind stay readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// All bits of a key in one cache line: the fastest to ask and to build.
    #[default]
    Blocked,
    /// Bits all over the filter: a fifth fewer false positives at equal size.
    Bloom,
}

/// How one write behaves. `WriteOptions::default()` takes the database's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// `None`: [`DbOptions::durability`].
    pub durability: Option<Durability>,
    /// What to do when the write would have to wait.
    pub stall: Stall,
}

impl WriteOptions {
    /// Durable before the call returns.
    pub const SYNC: WriteOptions =
        WriteOptions { durability: Some(Durability::Sync), stall: Stall::Wait };

    /// The default with another durability.
    pub fn with_durability(durability: Durability) -> Self {
        WriteOptions { durability: Some(durability), stall: Stall::Wait }
    }
}

/// Options of one opening of a database.
#[derive(Clone, Debug, PartialEq)]
pub struct DbOptions {
    /// Durability of writes that do not name one. Default `buffered`.
    pub durability: Durability,
    /// Threads for flush and compaction: 1 does both in one thread, N > 1 is one flush thread and N - 1 compaction
    /// threads. 0: no threads; the work is done inside the calls that need it, for tests and tiny programs, and
    /// `async` writes are synced before they return.
    /// Default 2, range 0..=64.
    pub background_threads: usize,
    /// Bytes of decompressed (and, with `pread`, of all) blocks kept in memory. Default 64 MiB, range 0..=1 TiB.
    pub cache_bytes: u64,
    /// Tables kept open at once. Default 4096, range 16..=1000000. Lower it where `ulimit -n` is low.
    pub open_tables_max: usize,
    /// Bytes of live WAL segments above which the keyspaces with the oldest data are flushed; bounds the time of
    /// recovery. Default 512 MiB, at least two segments.
    pub wal_bytes_max: u64,
    /// Length of a WAL segment. Default 64 MiB, range 64 KiB..=1 GiB.
    pub wal_segment_bytes: u64,
    /// How WAL bytes reach the operating system. Default `map`.
    pub wal_mode: WalMode,
    /// What to do with a damaged log at open. Default `point_in_time`.
    pub wal_recovery: RecoveryMode,
    /// The longest time an `async` write stays unsynced, in milliseconds. Default 200, range 1..=200.
    pub async_interval_ms: u64,
    /// How tables are read. Default `mmap`.
    pub read_mode: ReadMode,
    /// When block checksums are verified. Default `once`.
    pub verify: Verify,
    /// Seconds between passes of the scrubber, which re-reads every table and reports damage. 0: never (default).
    pub scrub_interval_s: u64,
    /// How fast background work may write. Default `none`: without limit. See [`CompactionRate`].
    pub compaction_rate: CompactionRate,
    /// Open for reading only: nothing on disk changes, and several readers may do so at once. Default false.
    pub read_only: bool,
    /// Create the database if the directory is missing or empty. Default true.
    pub create_if_missing: bool,
    /// The file that gets a trace of what is done ([`trace`](crate::trace)): hashes of keys, sizes and times, no keys
    /// and no values. An earlier trace there is replaced. Default none.
    pub record_workload: Option<PathBuf>,
}

impl Default for DbOptions {
    fn default() -> Self {
        DbOptions {
            durability: Durability::Buffered,
            background_threads: 2,
            cache_bytes: 64 << 20,
            open_tables_max: 4096,
            wal_bytes_max: 512 << 20,
            wal_segment_bytes: 64 << 20,
            wal_mode: WalMode::Map,
            wal_recovery: RecoveryMode::PointInTime,
            async_interval_ms: 200,
            read_mode: ReadMode::Mmap,
            verify: Verify::Once,
            scrub_interval_s: 0,
            compaction_rate: CompactionRate::Unlimited,
            read_only: false,
            create_if_missing: true,
            record_workload: None,
        }
    }
}

/// Options of a keyspace, kept in the manifest; opening the keyspace with others changes them from then on.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyspaceOptions {
    /// Bytes of the memtable at which it is flushed. Default 64 MiB, range 4 KiB..=4 GiB.
    pub memtable_bytes: u64,
    /// Memtables in memory at once, the active one included; writers wait when all are full. Default 2, range
    /// 2..=64.
    pub memtables_max: usize,
    /// Bytes of a data block before compression. Default 4096, range 512..=1 MiB. Larger blocks compress better;
    /// smaller ones cost less per cold read.
    pub block_bytes: usize,
    /// Bytes of a table at which compaction starts the next. Default 64 MiB, range 4 KiB..=4 GiB.
    pub table_bytes: u64,
    /// Compression by level; the last entry holds for all deeper levels. Default none.
    pub compression: Vec<Compression>,
    /// Bloom filter bits per key by level; the last entry holds for all deeper levels; 0: no filter. Default
    /// 10 on every level, range 0..=32.
    pub filter_bits: Vec<f32>,
    /// The kind of filter. Default `blocked`.
    pub filter: FilterKind,
    /// The compaction strategy. Default leveled.
    pub compaction: Compaction,
    /// Compaction debt in bytes at which writers begin to be slowed; at four times that they stop. Default 4 GiB,
    /// at least 1 MiB.
    pub debt_bytes_soft: u64,
    /// Seconds after which what a plain put wrote expires, counted from the put. 0: never (default). Entries written
    /// before a change keep the time they were given.
    pub default_ttl_s: u64,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        KeyspaceOptions {
            memtable_bytes: 64 << 20,
            memtables_max: 2,
            block_bytes: 4096,
            table_bytes: 64 << 20,
            compression: vec![Compression::None],
            filter_bits: vec![10.0],
            filter: FilterKind::Blocked,
            compaction: Compaction::default(),
            debt_bytes_soft: 4 << 30,
            default_ttl_s: 0,
        }
    }
}

fn bad(name: &str, value: &str, want: &str) -> Error {
    Error::invalid(format!("option {name}={value} is not {want}"))
        .advise("see docs/options.md for the options and their ranges")
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| bad(name, value, "a number in range"))
}

/// Turns a list of `word => value` pairs into a parser, and back into text.
macro_rules! words {
    ($type:ty, $name:literal, $($word:literal => $value:path),+ $(,)?) => {
        impl $type {
            /// The value as the word that [`FromStr`] reads.
            pub fn as_str(self) -> &'static str {
                match self { $($value => $word),+ }
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(bad($name, text, concat!("one of", $(" ", $word),+))),
                }
            }
        }
    };
}

words!(Durability, "durability", "sync" => Durability::Sync, "buffered" => Durability::Buffered,
    "async" => Durability::Async, "disabled" => Durability::Disabled);
words!(ReadMode, "read_mode", "mmap" => ReadMode::Mmap, "pread" => ReadMode::Pread);
words!(Verify, "verify", "once" => Verify::Once, "always" => Verify::Always);
words!(WalMode, "wal_mode", "map" => WalMode::Map, "write" => WalMode::Write);
words!(RecoveryMode, "wal_recovery", "point_in_time" => RecoveryMode::PointInTime,
    "absolute" => RecoveryMode::Absolute, "tolerate_tail" => RecoveryMode::TolerateTail,
    "salvage" => RecoveryMode::Salvage);
words!(FilterKind, "filter", "blocked" => FilterKind::Blocked, "bloom" => FilterKind::Bloom);
words!(Compression, "compression", "none" => Compression::None, "snap" => Compression::Snap,
    "zstd" => Compression::Zstd);

impl DbOptions {
    /// The names that [`DbOptions::set`] knows.
    pub const NAMES: &'static [&'static str] = &[
        "durability",
        "background_threads",
        "cache_bytes",
        "open_tables_max",
        "wal_bytes_max",
        "wal_segment_bytes",
        "wal_mode",
        "wal_recovery",
        "async_interval_ms",
        "read_mode",
        "verify",
        "scrub_interval_s",
        "compaction_rate",
        "read_only",
        "create_if_missing",
        "record_workload",
    ];

    /// Sets the option called `name` from text. `Ok(false)` if there is no such option.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "durability" => self.durability = value.parse()?,
            "background_threads" => self.background_threads = number(name, value)?,
            "cache_bytes" => self.cache_bytes = number(name, value)?,
            "open_tables_max" => self.open_tables_max = number(name, value)?,
            "wal_bytes_max" => self.wal_bytes_max = number(name, value)?,
            "wal_segment_bytes" => self.wal_segment_bytes = number(name, value)?,
            "wal_mode" => self.wal_mode = value.parse()?,
            "wal_recovery" => self.wal_recovery = value.parse()?,
            "async_interval_ms" => self.async_interval_ms = number(name, value)?,
            "read_mode" => self.read_mode = value.parse()?,
            "verify" => self.verify = value.parse()?,
            "scrub_interval_s" => self.scrub_interval_s = number(name, value)?,
            "compaction_rate" => self.compaction_rate = value.parse()?,
            "read_only" => {
                self.read_only = value.parse().map_err(|_| bad(name, value, "true or false"))?;
            }
            "create_if_missing" => {
                self.create_if_missing =
                    value.parse().map_err(|_| bad(name, value, "true or false"))?;
            }
            "record_workload" => {
                self.record_workload = (!value.is_empty()).then(|| PathBuf::from(value));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses values out of range. An open does this, too.
    ///
    /// # Errors
    /// `InvalidArgument`, which names the option, its value and the range.
    pub fn validate(&self) -> Result<()> {
        check("background_threads", self.background_threads as u64, 0, 64)?;
        check("cache_bytes", self.cache_bytes, 0, 1 << 40)?;
        check("open_tables_max", self.open_tables_max as u64, 16, 1_000_000)?;
        check("wal_segment_bytes", self.wal_segment_bytes, 64 << 10, 1 << 30)?;
        check("wal_bytes_max", self.wal_bytes_max, 2 * self.wal_segment_bytes, u64::MAX)?;
        check("async_interval_ms", self.async_interval_ms, 1, 200)?;
        self.compaction_rate.validate()
    }
}

impl KeyspaceOptions {
    /// The names that [`KeyspaceOptions::set`] knows.
    pub const NAMES: &'static [&'static str] = &[
        "memtable_bytes",
        "memtables_max",
        "block_bytes",
        "table_bytes",
        "compression",
        "filter_bits",
        "filter",
        "compaction",
        "l0_runs",
        "base_bytes",
        "fanout",
        "merge_width",
        "size_slack_percent",
        "runs_max",
        "space_percent_max",
        "runs_per_level",
        "last_level_fanout",
        "total_bytes_max",
        "age_max_s",
        "merge_runs",
        "window_s",
        "debt_bytes_soft",
        "default_ttl_s",
    ];

    /// These options with another compaction strategy.
    #[must_use]
    pub fn compaction(mut self, compaction: impl Into<Compaction>) -> Self {
        self.compaction = compaction.into();
        self
    }

    /// Sets the option called `name` from text. `Ok(false)` if there is no such option. Lists by level are
    /// comma-separated.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match name {
            "memtable_bytes" => self.memtable_bytes = number(name, value)?,
            "memtables_max" => self.memtables_max = number(name, value)?,
            "block_bytes" => self.block_bytes = number(name, value)?,
            "table_bytes" => self.table_bytes = number(name, value)?,
            "compression" => {
                self.compression = value.split(',').map(str::parse).collect::<Result<_>>()?;
            }
            "filter_bits" => {
                self.filter_bits =
                    value.split(',').map(|bits| number(name, bits)).collect::<Result<_>>()?;
            }
            "filter" => self.filter = value.parse()?,
            "compaction" => self.compaction = Compaction::from_name(value),
            "debt_bytes_soft" => self.debt_bytes_soft = number(name, value)?,
            "default_ttl_s" => self.default_ttl_s = number(name, value)?,
            _ => return self.compaction.set(name, value),
        }
        Ok(true)
    }

    /// All options as pairs that [`KeyspaceOptions::set`] reads back in this order; the manifest keeps these.
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let list = |words: Vec<String>| words.join(",");
        let mut pairs = vec![
            ("memtable_bytes", self.memtable_bytes.to_string()),
            ("memtables_max", self.memtables_max.to_string()),
            ("block_bytes", self.block_bytes.to_string()),
            ("table_bytes", self.table_bytes.to_string()),
            ("compression", list(self.compression.iter().map(|c| c.as_str().to_owned()).collect())),
            ("filter_bits", list(self.filter_bits.iter().map(f32::to_string).collect())),
            ("filter", self.filter.as_str().to_owned()),
            ("compaction", self.compaction.name().to_owned()),
        ];
        pairs.extend(self.compaction.to_pairs());
        pairs.push(("debt_bytes_soft", self.debt_bytes_soft.to_string()));
        pairs.push(("default_ttl_s", self.default_ttl_s.to_string()));
        pairs
    }

    /// Refuses values out of range. Whoever creates a keyspace or changes its options does this, too.
    ///
    /// # Errors
    /// `InvalidArgument`, which names the option, its value and the range.
    pub fn validate(&self) -> Result<()> {
        check("memtable_bytes", self.memtable_bytes, 4 << 10, 4 << 30)?;
        check("memtables_max", self.memtables_max as u64, 2, 64)?;
        check("block_bytes", self.block_bytes as u64, 512, 1 << 20)?;
        check("table_bytes", self.table_bytes, 4 << 10, 4 << 30)?;
        check("debt_bytes_soft", self.debt_bytes_soft, 1 << 20, u64::MAX)?;
        check("levels in compression", self.compression.len() as u64, 1, 16)?;
        check("levels in filter_bits", self.filter_bits.len() as u64, 1, 16)?;
        if let Some(bits) = self.filter_bits.iter().find(|bits| !(0.0..=32.0).contains(*bits)) {
            return Err(bad("filter_bits", &bits.to_string(), "in 0..=32"));
        }
        self.compaction.validate()
    }

    /// `default_ttl_s` in milliseconds.
    pub(crate) fn default_ttl_ms(&self) -> u64 {
        self.default_ttl_s.saturating_mul(1000)
    }

    /// The compression of tables in `level`.
    pub(crate) fn compression_at(&self, level: usize) -> Compression {
        by_level(&self.compression, level).unwrap_or_default()
    }

    /// The filter bits per key of tables in `level`.
    pub(crate) fn filter_bits_at(&self, level: usize) -> f32 {
        by_level(&self.filter_bits, level).unwrap_or(0.0)
    }
}

fn by_level<T: Copy>(list: &[T], level: usize) -> Option<T> {
    list.get(level).or(list.last()).copied()
}

fn check(name: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(bad(name, &value.to_string(), &format!("in {min}..={max}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn defaults_are_valid_and_round_trip_through_text() {
        DbOptions::default().validate().unwrap();
        let mut options = KeyspaceOptions::default();
        options.validate().unwrap();
        options.compression = vec![Compression::None, Compression::Zstd];
        options.filter_bits = vec![14.0, 9.5];
        options.filter = FilterKind::Bloom;
        options.default_ttl_s = 7;
        let mut read = KeyspaceOptions::default();
        for (name, value) in options.to_pairs() {
            assert!(KeyspaceOptions::NAMES.contains(&name));
            assert!(read.set(name, &value).unwrap(), "{name}");
        }
        assert_eq!(read, options);
    }

    #[test]
    fn every_database_option_is_settable_and_unknown_ones_are_not() {
        let samples = [
            "sync",
            "1",
            "1",
            "99",
            "999999999999",
            "65536",
            "write",
            "absolute",
            "5",
            "pread",
            "always",
            "9",
            "auto",
        ];
        let mut options = DbOptions::default();
        for (name, sample) in
            DbOptions::NAMES.iter().zip(samples.iter().chain(&["true", "false", "a.trace"]))
        {
            assert!(options.set(name, sample).unwrap(), "{name}");
        }
        assert!(options.read_only && !options.create_if_missing);
        assert_eq!(options.record_workload.take(), Some(PathBuf::from("a.trace")));
        assert!(options.set("record_workload", "").unwrap());
        assert_eq!(options.record_workload, None, "no file: nothing is recorded");
        assert!(!options.set("nonsense", "1").unwrap());
        assert_eq!(options.set("verify", "often").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn out_of_range_is_refused_by_name() {
        let options = KeyspaceOptions { block_bytes: 3, ..KeyspaceOptions::default() };
        let text = options.validate().unwrap_err().to_string();
        assert!(text.contains("block_bytes=3") && text.contains("512..=1048576"), "{text}");
    }

    #[test]
    fn lists_by_level_repeat_their_last_entry() {
        let options =
            KeyspaceOptions { filter_bits: vec![14.0, 8.0], ..KeyspaceOptions::default() };
        assert_eq!([0, 1, 5].map(|level| options.filter_bits_at(level)), [14.0, 8.0, 8.0]);
    }
}
