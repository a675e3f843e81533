//! **esker**: an embeddable LSM-tree storage engine.
//!
//! A database is a directory. It maps byte strings to byte strings, in byte order, in named keyspaces; batches over
//! keyspaces are atomic, snapshots see one moment, and every write is as durable as it asked to be.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use esker::{Db, WriteBatch, WriteOptions};
//!
//! let db = Db::open(dir.path())?;
//! db.put("apple", "red")?; // handed to the operating system: survives the death of the process
//! db.put_with("banana", "yellow", &WriteOptions::SYNC)?; // on the device: survives power loss
//!
//! let mut batch = WriteBatch::new();
//! batch.put("cherry", "dark red").delete("apple");
//! db.write(batch)?; // both or neither
//!
//! let before = db.snapshot();
//! db.delete("banana")?;
//! assert!(db.get("banana")?.is_none());
//! assert!(before.contains_key("banana")?);
//!
//! for item in db.prefix("ch") {
//!     let (key, value) = item?;
//!     assert_eq!((&*key, &*value), (&b"cherry"[..], &b"dark red"[..]));
//! }
//! println!("{}", db.metrics()); // what it cost: write, read and space amplification
//! db.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//! A write is appended to a log and inserted into a memtable. Full memtables are flushed to tables: immutable, sorted,
//! with a filter and an index. Tables form a tree of levels, which compaction keeps in shape in the background, by a
//! strategy that can be chosen, or written, by the user ([`compaction::CompactionStrategy`]). A manifest logs the
//! changes of the tree. A read asks the memtables and then the tables, newest first. `docs/architecture.md` follows
//! both paths through the files; the modules below stand in the order of reading, which is the order of layers: a file
//! uses only files above it, and a test holds them to it.
//!
//! # What is promised
//! See `docs/guarantees.md`: what each [`Durability`] survives, that a crash leaves a prefix of the writes, that a read
//! gives the right value or an error that says what is damaged, and what is *not* promised.
//!
//! # Errors
//! [`Error`] has a [kind](ErrorKind) that says what the caller can do, and names the file, the offset and the advice.
//! Damage on disk is an error, never a panic. A panic is a bug of esker.

pub mod error;
pub(crate) mod coding;
pub(crate) mod checksum;
pub(crate) mod sync;
pub mod options;
pub mod key;
pub(crate) mod expiry;
pub(crate) mod file_name;
pub mod clock;
pub mod spawn;
pub mod fs;
pub(crate) mod content;
pub(crate) mod cache;
pub(crate) mod batch;
pub(crate) mod cursor;
pub(crate) mod compression;
pub(crate) mod filter;
pub(crate) mod block;
pub(crate) mod wal;
pub(crate) mod memtable;
pub mod trace;
pub mod table;
pub(crate) mod value;
pub mod version;
pub(crate) mod manifest;
pub(crate) mod assembly;
pub(crate) mod table_cache;
pub mod compaction;
pub mod event;
pub(crate) mod flush;
pub mod backup;
pub(crate) mod check;
pub mod repair;
pub mod inspect;
pub(crate) mod db;
#[cfg(any(test, feature = "internals"))]
pub mod internals;

pub use backup::BackupDir;
pub use batch::WriteBatch;
pub use check::VerifyReport;
pub use db::Db;
pub use db::builder::DbBuilder;
pub use db::checkpoint::CheckpointReport;
pub use db::ingest::{Ingest, IngestReport};
pub use db::iter::{Cursor, Iter};
pub use db::keyspace::Keyspace;
pub use db::manual::{CompactOptions, CompactionProgress};
pub use db::metrics::space::SpaceMeasurement;
pub use db::metrics::{
    CompactionMetrics, KeyspaceMetrics, LevelMetrics, LifetimeMetrics, Metrics, StallMetrics,
};
pub use db::pause::CompactionPause;
pub use db::snapshot::Snapshot;
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventListener};
pub use options::{
    Compaction, CompactionRate, Compression, DbOptions, Durability, Fifo, FilterKind,
    KeyspaceOptions, LazyLeveled, Leveled, ReadMode, RecoveryMode, SizeTiered, Stall, TimeWindow,
    Verify, WalMode, WriteOptions,
};
pub use value::Value;
pub use version::totals::CompactionTotals;

#[cfg(all(test, esker_shuttle))]
mod schedules;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/operations.md")]
struct OperationsDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/writing-a-strategy.md")]
struct StrategyDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/simulator.md")]
struct SimulatorDoctests;
