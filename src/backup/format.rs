//! The files of a backup directory: their names, and the description of a backup, byte by byte.
//!
//! ```text
//! description := magic[8] version:u32 id:u64 created_ms:u64 sequence:u64
//!                table_count:u32 table* state_len:u32 state crc:u32
//! table       := number:u64 bytes:u64 hash[16]
//! ```
//! Integers are little-endian, the hash (XXH3, 128 bits, of the whole file) too. `state` is the edit that a manifest
//! of the database begins with. The checksum covers everything before it and is salted with the backup's number, so
//! that a description under the name of another is found. Magic and version keep their place in every future version.
//!
//! The names of tables are made of their numbers and hashes: no name is read from a description, so none leads out of
//! the directory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checksum::checksum_at;
use crate::coding::{Decoder, Truncated, put_u32, put_u64};
use crate::content::{Content, ContentHash};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::state::ManifestState;
use crate::version::edit::VersionEdit;

const MAGIC: &[u8; 8] = b"ESKERBAK";
const FORMAT_VERSION: u32 = 1;
const CRC_LEN: usize = 4;
const TABLE_LEN: usize = 32;
/// What an unfinished file's name ends with.
const TEMPORARY: &str = ".tmp";

/// The kind of a file in a backup directory, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BackupFile {
    /// Locked while somebody adds, removes or reads.
    Lock,
    /// The description of the backup with this number.
    Description(u64),
    /// A table, by its number in the database and its content.
    Table(FileNumber, ContentHash),
    /// Something unfinished, whatever it was to become.
    Unfinished,
}

impl BackupFile {
    /// The file's name; an unfinished one has no name of its own.
    pub(crate) fn file_name(self) -> String {
        match self {
            BackupFile::Lock => "BACKUP.lock".to_owned(),
            BackupFile::Description(id) => format!("BACKUP-{}", FileNumber(id)),
            BackupFile::Table(number, hash) => format!("{number}-{hash}.table"),
            BackupFile::Unfinished => TEMPORARY.to_owned(),
        }
    }

    /// The name under which the file is written.
    pub(crate) fn temporary_name(self) -> String {
        self.file_name() + TEMPORARY
    }

    /// The kind of the file called `name`; `None` for a foreign file.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if let Some(whole) = name.strip_suffix(TEMPORARY) {
            return BackupFile::parse(whole).map(|_| BackupFile::Unfinished);
        }
        // What was in memory is written as a table of the database first, and then renamed.
        if let Some(FileKind::Table(_)) = FileKind::parse(name) {
            return Some(BackupFile::Unfinished);
        }
        let kind = if name == "BACKUP.lock" {
            BackupFile::Lock
        } else if let Some(id) = name.strip_prefix("BACKUP-") {
            BackupFile::Description(id.parse().ok()?)
        } else {
            let (number, hash) = name.strip_suffix(".table")?.split_once('-')?;
            let hash = u128::from_str_radix(hash, 16).ok()?;
            BackupFile::Table(FileNumber(number.parse().ok()?), ContentHash(hash))
        };
        // Only the name that we would write is ours.
        (kind.file_name() == name).then_some(kind)
    }
}

/// What there is to know of a backup.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) id: u64,
    pub(crate) created_ms: u64,
    pub(crate) sequence: SequenceNumber,
    /// The files of its tables.
    pub(crate) tables: BTreeMap<FileNumber, Content>,
    /// What the manifest of the restored database begins with.
    pub(crate) state: ManifestState,
}

impl Description {
    pub(crate) fn encode(&self, path: &Path) -> Result<Vec<u8>> {
        let state = self.state.to_edit().encode();
        let (Ok(table_count), Ok(state_len)) =
            (u32::try_from(self.tables.len()), u32::try_from(state.len()))
        else {
            return Err(Error::invalid("a database of more tables than a description can name")
                .at(path)
                .advise("raise table_bytes and compact, so that there are fewer tables"));
        };
        let mut out = MAGIC.to_vec();
        put_u32(&mut out, FORMAT_VERSION);
        put_u64(&mut out, self.id);
        put_u64(&mut out, self.created_ms);
        put_u64(&mut out, self.sequence.0);
        put_u32(&mut out, table_count);
        for (number, content) in &self.tables {
            put_u64(&mut out, number.0);
            put_u64(&mut out, content.bytes);
            out.extend_from_slice(&content.hash.0.to_le_bytes());
        }
        put_u32(&mut out, state_len);
        out.extend_from_slice(&state);
        let crc = checksum_at(self.id, 0, &[&out]);
        put_u32(&mut out, crc);
        Ok(out)
    }

    /// Reads the description of backup `id` that stands at `path`.
    pub(crate) fn decode(bytes: &[u8], id: u64, path: &Path) -> Result<Self> {
        let damaged = |what: String| {
            Error::corruption(path, 0, what).advise(
                "restore the file from a copy of the backup directory, or use another backup",
            )
        };
        let mut decoder = Decoder::new(bytes);
        if decoder.bytes(MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(damaged("not the description of a backup".to_owned()));
        }
        match decoder.u32() {
            Ok(FORMAT_VERSION) => {}
            Ok(version) if version > FORMAT_VERSION => {
                let what = format!("backup format {version}; this esker reads {FORMAT_VERSION}");
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .at(path)
                    .advise("use the esker version that made the backup, or a newer one"));
            }
            _ => return Err(damaged("there is no such backup format".to_owned())),
        }
        let Some((covered, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
            return Err(damaged("the description ends too early".to_owned()));
        };
        if checksum_at(id, 0, &[covered]).to_le_bytes() != *crc {
            return Err(damaged("the description's checksum does not match".to_owned()));
        }
        let fields = covered.get(MAGIC.len() + 4..).unwrap_or_default();
        let description = Self::decode_fields(fields)
            .unwrap_or_else(|Truncated| Err("it ends within a field".to_owned()))
            .map_err(|what| damaged(format!("the description makes no sense: {what}")))?;
        if description.id != id {
            return Err(damaged(format!("this describes backup {}", description.id)));
        }
        Ok(description)
    }

    /// Everything between the version and the checksum. The inner error says what is wrong with whole fields.
    fn decode_fields(fields: &[u8]) -> Result<Result<Self, String>, Truncated> {
        let mut decoder = Decoder::new(fields);
        let (id, created_ms) = (decoder.u64()?, decoder.u64()?);
        let sequence = SequenceNumber(decoder.u64()?);
        let table_count = decoder.u32()? as usize;
        let stored = decoder.bytes(table_count.checked_mul(TABLE_LEN).ok_or(Truncated)?)?;
        let mut tables = BTreeMap::new();
        let mut stored = Decoder::new(stored);
        while !stored.is_empty() {
            let (number, bytes) = (FileNumber(stored.u64()?), stored.u64()?);
            let (low, high) = (stored.u64()?, stored.u64()?);
            let hash = ContentHash(u128::from(high) << 64 | u128::from(low));
            if tables.insert(number, Content { bytes, hash }).is_some() {
                return Ok(Err(format!("table {number} is there twice")));
            }
        }
        let state_len = decoder.u32()? as usize;
        let edit = decoder.bytes(state_len)?;
        if !decoder.is_empty() {
            return Ok(Err("bytes are left over".to_owned()));
        }
        let state = match VersionEdit::decode(edit).and_then(|edit| state_of(&edit, &tables)) {
            Ok(state) => state,
            Err(error) => return Ok(Err(error.what().to_owned())),
        };
        Ok(Ok(Description { id, created_ms, sequence, tables, state }))
    }
}

/// The state that `edit` makes, if it names exactly the stored tables.
fn state_of(edit: &VersionEdit, stored: &BTreeMap<FileNumber, Content>) -> Result<ManifestState> {
    let misfit = |what: String| Error::new(ErrorKind::Corruption, what);
    let mut state = ManifestState::default();
    state.apply(edit)?;
    let mut named_count = 0;
    for keyspace in state.keyspaces.values() {
        keyspace.version.check_invariants().map_err(misfit)?;
        for (_, _, table) in keyspace.version.tables() {
            let meta = table.meta();
            named_count += 1;
            if stored.get(&meta.number).map(|content| content.bytes) != Some(meta.file_bytes) {
                return Err(misfit(format!("table {} is not stored as it is named", meta.number)));
            }
        }
    }
    if named_count != stored.len() {
        return Err(misfit("tables are stored that no tree names".to_owned()));
    }
    if state.next_file_number >= FileNumber::USED_UP {
        return Err(misfit("no file number is left".to_owned()));
    }
    if !state.keyspaces.contains_key(&KeyspaceId::default()) {
        return Err(misfit("the default keyspace is missing".to_owned()));
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
