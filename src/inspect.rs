//! Looking into single files: what stands in a table, a log segment or a manifest, item by item.
//!
//! A file is decoded by itself, wherever it lies and whatever it is called: its number, which is under every
//! checksum, is taken from its header. Items come in the order of the file, each with its offset; damage is an error
//! after the items before it. Nothing is opened and nothing is changed, so this works on the files of a database that
//! is open or damaged, and on copies.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! # db.put("apple", "red")?;
//! # db.flush()?;
//! # db.close()?;
//! # let path = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path())
//! #     .find(|path| path.extension().is_some_and(|e| e == "table")).unwrap();
//! use esker::{fs::StdFs, inspect};
//!
//! let options = inspect::InspectOptions { entries: true };
//! inspect::table(&StdFs, &path, &options, &mut |item| {
//!     println!("{item}"); // 20 entry key=apple sequence=1 kind=put value=red
//!     Ok(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod manifest;
mod table;
mod wal;

pub use manifest::manifest;
pub use table::table;
pub use wal::wal;

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::expiry::split_expiring;
use crate::fs::FileSystem;
use crate::key::{Trailer, ValueKind, escape};

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectOptions {
    /// Every entry of a table, not only its blocks.
    pub entries: bool,
}

/// One thing in a file: a header, a record, an operation, a block, an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// Where it begins; of an operation or an entry, where its record or block does.
    pub offset: u64,
    /// What it is, in one word.
    pub what: &'static str,
    /// What it says, by name, in the order of the format.
    pub fields: Vec<(&'static str, Field)>,
}

/// What a field of an [`Item`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// A number.
    Number(u64),
    /// Text for people and programs.
    Text(String),
    /// Bytes of the user's: a key or a value.
    Bytes(Vec<u8>),
}

/// Takes items; an error of its own ends the inspection.
pub type Visit<'a> = dyn FnMut(Item) -> Result<()> + 'a;

impl Item {
    fn new(offset: u64, what: &'static str) -> Self {
        Item { offset, what, fields: Vec::new() }
    }

    fn number(mut self, name: &'static str, number: impl Into<u64>) -> Self {
        self.fields.push((name, Field::Number(number.into())));
        self
    }

    fn text(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.fields.push((name, Field::Text(text.into())));
        self
    }

    fn bytes(mut self, name: &'static str, bytes: &[u8]) -> Self {
        self.fields.push((name, Field::Bytes(bytes.to_vec())));
        self
    }

    /// The kind of an entry, and its value.
    fn value(self, kind_byte: u8, stored: &[u8]) -> Self {
        match ValueKind::from_byte(kind_byte) {
            Ok(ValueKind::Delete) => self.text("kind", "delete"),
            Ok(ValueKind::PutExpiring) => match split_expiring(stored) {
                Ok((at_ms, value)) => {
                    self.text("kind", "put").number("expires_at_ms", at_ms).bytes("value", value)
                }
                Err(_) => self.text("kind", "damaged").bytes("value", stored),
            },
            Ok(_) => self.text("kind", "put").bytes("value", stored),
            Err(_) => self.text("kind", format!("unknown {kind_byte}")).bytes("value", stored),
        }
    }

    fn entry(offset: u64, key: &[u8], trailer: Trailer, stored: &[u8]) -> Self {
        let item = Item::new(offset, "entry").bytes("key", key);
        item.number("sequence", trailer.sequence().0).value(trailer.kind_byte(), stored)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.offset, self.what)?;
        for (name, field) in &self.fields {
            match field {
                Field::Number(number) => write!(f, " {name}={number}")?,
                Field::Text(text) => write!(f, " {name}={text}")?,
                Field::Bytes(bytes) => write!(f, " {name}={}", escape(bytes))?,
            }
        }
        Ok(())
    }
}

fn read_file(fs: &dyn FileSystem, path: &Path) -> Result<Vec<u8>> {
    let file = fs.open(path)?.ok_or_else(|| {
        let missing = std::io::Error::from_raw_os_error(libc::ENOENT);
        Error::io("open", path, missing)
    })?;
    let mut bytes = Vec::new();
    let len =
        usize::try_from(file.bytes()).ok().filter(|len| bytes.try_reserve_exact(*len).is_ok());
    bytes.resize(len.ok_or_else(|| Error::corruption(path, 0, "the file is too long"))?, 0);
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The little-endian number at `at`, if the bytes reach so far.
fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
