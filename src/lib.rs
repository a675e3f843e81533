//! esker: an embeddable LSM-tree storage engine.

#![allow(dead_code, reason = "until the database is wired")]

// The order is the order of reading and the order of layers: a file uses only files above it.
pub mod error;
pub(crate) mod coding;
pub(crate) mod checksum;
pub mod options;
pub mod key;
pub(crate) mod file_name;
pub mod clock;
pub mod spawn;
pub mod fs;
pub(crate) mod cache;
pub(crate) mod batch;
pub(crate) mod cursor;
pub(crate) mod compression;
pub(crate) mod filter;
pub(crate) mod block;
pub(crate) mod wal;
pub(crate) mod memtable;
pub mod table;
pub(crate) mod value;
pub mod version;
pub(crate) mod manifest;
pub(crate) mod table_cache;
pub mod compaction;
pub(crate) mod flush;
pub(crate) mod db;

pub use error::{Error, ErrorKind, Result};
