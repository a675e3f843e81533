//! Version edits: the changes of trees and counters that the manifest keeps.
//!
//! A [`VersionEdit`] is plain data. Whoever changes a tree fills one; the manifest stores it;
//! folding all edits of a manifest gives the state of the database. An edit is whole by itself: it
//! is applied in full or not at all.
//!
//! # Format
//! ```text
//! edit   := field*
//! field  := tag:u8 length:varint payload[length]
//! ```
//! | tag | field | payload |
//! |---|---|---|
//! | 1 | keyspace created | id:varint name:slice options |
//! | 2 | keyspace changed | id:varint options |
//! | 3 | keyspace dropped | id:varint |
//! | 4 | table added | keyspace:varint level:varint run:varint meta |
//! | 5 | table removed | keyspace:varint number:varint |
//! | 6 | flushed sequence | keyspace:varint sequence:varint |
//! | 7 | next file number | number:varint |
//! | 8 | next keyspace id | id:varint |
//! | 9 | last sequence | sequence:varint |
//! | 10 | first WAL segment | number:varint |
//! | 11 | WAL synced | segment:varint offset:varint |
//! | 12 | part of a table added | as 4, then hidden:varint |
//! | 128 | lifetime totals | see [`totals`](crate::version::totals) |
//!
//! `options` is `(name:slice value:slice)*`, a slice a varint length and that many bytes, and
//! `meta` is the fields of [`TableMeta`] in their order: numbers as varints, keys as slices, the
//! checksum as `u32`. Expiry times are stored plus one (modulo 2^64), so that *never* takes one
//! byte. A table of whose file only a part belongs to the tree has tag 12; `hidden`, which is not 0,
//! is the number of entries that do not.
//!
//! Tags 7 to 11 and 128 stand at most once. Payloads are read to their last byte. An unknown tag below 0x80
//! changes the meaning of the edit, so it is an
//! [`Unsupported`](crate::error::ErrorKind::Unsupported) error; one from 0x80 up may be skipped by
//! those who do not know it.
//!
//! # Not here
//! What an edit does to the state (`manifest::state`) and where its bytes stand (`manifest`).
//! Errors of the decoder name no file: the manifest adds path and offset.

#[cfg(test)]
pub(crate) mod tests;

use crate::coding::{Decoder, Truncated, put_slice, put_u32, put_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, KEY_LEN_MAX, KeyspaceId, SequenceNumber};
use crate::table::TableMeta;
use crate::version::totals::LifetimeTotals;
use crate::version::{LEVEL_COUNT, RunId};
use crate::wal::WalPosition;

/// The longest name of a keyspace, in bytes.
pub(crate) const KEYSPACE_NAME_LEN_MAX: usize = 255;

/// The first tag that a reader may skip if it does not know it.
const TAG_OPTIONAL: u8 = 0x80;

/// Options as the pairs that [`KeyspaceOptions::set`](crate::options::KeyspaceOptions::set) reads.
pub(crate) type OptionPairs = Vec<(String, String)>;

/// A keyspace that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceCreated {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) options: OptionPairs,
}

/// A table that joins a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableAdded {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) level: usize,
    pub(crate) run: RunId,
    pub(crate) meta: TableMeta,
}

/// A change of the state of the database.
///
/// Applied in the order of the fields: a table may move by being removed and added, and what
/// belongs to a dropped keyspace is gone with it. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VersionEdit {
    pub(crate) keyspaces_created: Vec<KeyspaceCreated>,
    /// All options of a keyspace, in place of the former ones.
    pub(crate) keyspaces_changed: Vec<(KeyspaceId, OptionPairs)>,
    pub(crate) tables_removed: Vec<(KeyspaceId, FileNumber)>,
    pub(crate) tables_added: Vec<TableAdded>,
    /// Up to here all writes to the keyspace are in its tables.
    pub(crate) flushed_sequences: Vec<(KeyspaceId, SequenceNumber)>,
    pub(crate) keyspaces_dropped: Vec<KeyspaceId>,
    // The counters below never go back. Whoever takes part of an edit from them does so, and
    // appends the edit, under one lock: else two edits could stand in the wrong order.
    /// No file has this number or a higher one.
    pub(crate) next_file_number: Option<FileNumber>,
    /// No keyspace ever had this id or a higher one.
    pub(crate) next_keyspace_id: Option<KeyspaceId>,
    /// The largest sequence number given to a write so far, or a larger one.
    pub(crate) last_sequence: Option<SequenceNumber>,
    /// Earlier segments of the log are not needed any more.
    pub(crate) wal_first_segment: Option<FileNumber>,
    /// A promise: the log was durable up to here.
    pub(crate) wal_synced: Option<WalPosition>,
    /// What was written since the edit before: added to the totals.
    pub(crate) lifetime_totals: Option<LifetimeTotals>,
}

/// Tags of fields. The discriminants are on disk.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    KeyspaceCreated = 1,
    KeyspaceChanged = 2,
    KeyspaceDropped = 3,
    TableAdded = 4,
    TableRemoved = 5,
    FlushedSequence = 6,
    NextFileNumber = 7,
    NextKeyspaceId = 8,
    LastSequence = 9,
    WalFirstSegment = 10,
    WalSynced = 11,
    PartAdded = 12,
    LifetimeTotals = TAG_OPTIONAL,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Tag::KeyspaceCreated,
            2 => Tag::KeyspaceChanged,
            3 => Tag::KeyspaceDropped,
            4 => Tag::TableAdded,
            5 => Tag::TableRemoved,
            6 => Tag::FlushedSequence,
            7 => Tag::NextFileNumber,
            8 => Tag::NextKeyspaceId,
            9 => Tag::LastSequence,
            10 => Tag::WalFirstSegment,
            11 => Tag::WalSynced,
            12 => Tag::PartAdded,
            TAG_OPTIONAL => Tag::LifetimeTotals,
            _ => return None,
        })
    }
}

/// Refuses a name that a keyspace cannot have: it is 1 to 255 bytes without control characters.
pub(crate) fn check_keyspace_name(name: &str) -> Result<()> {
    let what = if name.is_empty() {
        "a keyspace name is not empty".to_owned()
    } else if name.len() > KEYSPACE_NAME_LEN_MAX {
        format!("a keyspace name of {} bytes is too long", name.len())
    } else if name.contains(char::is_control) {
        format!("keyspace name {name:?} has a control character")
    } else {
        return Ok(());
    };
    Err(Error::invalid(what).advise("use 1 to 255 bytes of UTF-8 without control characters"))
}

impl VersionEdit {
    /// The bytes of the edit.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = FieldWriter::default();
        for created in &self.keyspaces_created {
            out.field(Tag::KeyspaceCreated, |out| {
                put_varint(out, created.id.0.into());
                put_slice(out, created.name.as_bytes());
                put_options(out, &created.options);
            });
        }
        for (id, options) in &self.keyspaces_changed {
            out.field(Tag::KeyspaceChanged, |out| {
                put_varint(out, id.0.into());
                put_options(out, options);
            });
        }
        for (keyspace, number) in &self.tables_removed {
            out.numbers(Tag::TableRemoved, &[keyspace.0.into(), number.0]);
        }
        for added in &self.tables_added {
            let tag = if added.meta.is_partial() { Tag::PartAdded } else { Tag::TableAdded };
            out.field(tag, |out| {
                put_varint(out, added.keyspace.0.into());
                put_varint(out, added.level as u64);
                put_varint(out, added.run.0);
                put_meta(out, &added.meta);
                if added.meta.is_partial() {
                    put_varint(out, added.meta.hidden_entry_count);
                }
            });
        }
        for (keyspace, sequence) in &self.flushed_sequences {
            out.numbers(Tag::FlushedSequence, &[keyspace.0.into(), sequence.0]);
        }
        for id in &self.keyspaces_dropped {
            out.numbers(Tag::KeyspaceDropped, &[id.0.into()]);
        }
        if let Some(number) = self.next_file_number {
            out.numbers(Tag::NextFileNumber, &[number.0]);
        }
        if let Some(id) = self.next_keyspace_id {
            out.numbers(Tag::NextKeyspaceId, &[id.0.into()]);
        }
        if let Some(sequence) = self.last_sequence {
            out.numbers(Tag::LastSequence, &[sequence.0]);
        }
        if let Some(number) = self.wal_first_segment {
            out.numbers(Tag::WalFirstSegment, &[number.0]);
        }
        if let Some(position) = self.wal_synced {
            out.numbers(Tag::WalSynced, &[position.segment.0, position.offset]);
        }
        if let Some(totals) = &self.lifetime_totals {
            out.field(Tag::LifetimeTotals, |out| totals.encode(out));
        }
        out.bytes
    }

    /// The edit that `bytes` are, all of them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<VersionEdit> {
        let mut edit = VersionEdit::default();
        let mut decoder = Decoder::new(bytes);
        while !decoder.is_empty() {
            let (tag, payload) = field(&mut decoder)
                .map_err(|Truncated| corrupt("a field of the edit ends early".to_owned()))?;
            match Tag::from_byte(tag) {
                Some(tag) => {
                    edit.read_field(tag, payload).map_err(|bad| bad.of_field(tag as u8))?;
                }
                None if tag >= TAG_OPTIONAL => {}
                None => {
                    let what = format!("the edit has a field of unknown kind {tag}");
                    return Err(Error::new(ErrorKind::Unsupported, what).advise(
                        "open the database with the esker version that wrote it, or a newer one",
                    ));
                }
            }
        }
        Ok(edit)
    }

    fn read_field(&mut self, tag: Tag, payload: &[u8]) -> Result<(), Bad> {
        let mut from = Decoder::new(payload);
        match tag {
            Tag::KeyspaceCreated => self.keyspaces_created.push(read_created(&mut from)?),
            Tag::KeyspaceChanged => {
                self.keyspaces_changed.push((read_id(&mut from)?, read_options(&mut from)?));
            }
            Tag::KeyspaceDropped => self.keyspaces_dropped.push(read_id(&mut from)?),
            Tag::TableAdded => self.tables_added.push(read_added(&mut from)?),
            Tag::PartAdded => self.tables_added.push(read_part_added(&mut from)?),
            Tag::TableRemoved => {
                self.tables_removed.push((read_id(&mut from)?, read_number(&mut from)?));
            }
            Tag::FlushedSequence => {
                self.flushed_sequences.push((read_id(&mut from)?, read_sequence(&mut from)?));
            }
            Tag::NextFileNumber => set(&mut self.next_file_number, read_number(&mut from)?)?,
            Tag::NextKeyspaceId => set(&mut self.next_keyspace_id, read_id(&mut from)?)?,
            Tag::LastSequence => set(&mut self.last_sequence, read_sequence(&mut from)?)?,
            Tag::WalFirstSegment => set(&mut self.wal_first_segment, read_number(&mut from)?)?,
            Tag::WalSynced => {
                let segment = read_number(&mut from)?;
                set(&mut self.wal_synced, WalPosition { segment, offset: from.varint()? })?;
            }
            Tag::LifetimeTotals => {
                let totals = LifetimeTotals::decode(&mut from)?;
                set(&mut self.lifetime_totals, totals.ok_or(Bad("is no sum of totals"))?)?;
            }
        }
        if from.is_empty() { Ok(()) } else { Err(Bad("has bytes after its end")) }
    }
}

/// Whether `bytes` can be cut into fields, as those of an edit can; and how many were seen. Looks
/// at no payload, so it tells quickly that some bytes are no edit.
pub(crate) fn is_cut_into_fields(bytes: &[u8]) -> (bool, usize) {
    let mut decoder = Decoder::new(bytes);
    let mut field_count = 0;
    while !decoder.is_empty() {
        field_count += 1;
        match field(&mut decoder) {
            Ok((tag, _)) if Tag::from_byte(tag).is_some() || tag >= TAG_OPTIONAL => {}
            _ => return (false, field_count),
        }
    }
    (true, field_count)
}

fn field<'a>(decoder: &mut Decoder<'a>) -> Result<(u8, &'a [u8]), Truncated> {
    Ok((decoder.u8()?, decoder.slice()?))
}

/// Writes fields; the scratch buffer holds a payload until its length is known.
#[derive(Default)]
struct FieldWriter {
    bytes: Vec<u8>,
    payload: Vec<u8>,
}

impl FieldWriter {
    fn field(&mut self, tag: Tag, write: impl FnOnce(&mut Vec<u8>)) {
        self.payload.clear();
        write(&mut self.payload);
        self.bytes.push(tag as u8);
        put_slice(&mut self.bytes, &self.payload);
    }

    fn numbers(&mut self, tag: Tag, numbers: &[u64]) {
        self.field(tag, |out| numbers.iter().for_each(|number| put_varint(out, *number)));
    }
}

fn put_options(out: &mut Vec<u8>, options: &OptionPairs) {
    for (name, value) in options {
        put_slice(out, name.as_bytes());
        put_slice(out, value.as_bytes());
    }
}

fn put_meta(out: &mut Vec<u8>, meta: &TableMeta) {
    put_varint(out, meta.number.0);
    put_varint(out, meta.file_bytes);
    put_varint(out, meta.entry_count);
    put_varint(out, meta.tombstone_count);
    put_varint(out, meta.shadowed_count);
    put_varint(out, meta.key_bytes);
    put_varint(out, meta.value_bytes);
    put_slice(out, &meta.smallest);
    put_slice(out, &meta.largest);
    put_varint(out, meta.sequence_min.0);
    put_varint(out, meta.sequence_max.0);
    put_varint(out, meta.write_time_min_ms);
    put_varint(out, meta.write_time_max_ms);
    put_varint(out, meta.expiry_min_ms.wrapping_add(1));
    put_varint(out, meta.expiry_max_ms.wrapping_add(1));
    put_u32(out, meta.checksum);
}

/// What is wrong with a field.
struct Bad(&'static str);

impl Bad {
    fn of_field(self, tag: u8) -> Error {
        corrupt(format!("a field of kind {tag} in the edit {}", self.0))
    }
}

impl From<Truncated> for Bad {
    fn from(_: Truncated) -> Self {
        Bad("ends early")
    }
}

fn corrupt(what: String) -> Error {
    Error::new(ErrorKind::Corruption, what)
}

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), Bad> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Bad("stands there twice")),
    }
}

fn read_id(from: &mut Decoder<'_>) -> Result<KeyspaceId, Bad> {
    Ok(KeyspaceId(from.varint32()?))
}

fn read_number(from: &mut Decoder<'_>) -> Result<FileNumber, Bad> {
    let number = FileNumber(from.varint()?);
    if number > FileNumber::MAX { Err(Bad("has too large a file number")) } else { Ok(number) }
}

fn read_sequence(from: &mut Decoder<'_>) -> Result<SequenceNumber, Bad> {
    let sequence = SequenceNumber(from.varint()?);
    if sequence > SequenceNumber::MAX {
        return Err(Bad("has too large a sequence number"));
    }
    Ok(sequence)
}

fn read_text(from: &mut Decoder<'_>) -> Result<String, Bad> {
    let text = std::str::from_utf8(from.slice()?).map_err(|_| Bad("has text that is not UTF-8"))?;
    Ok(text.to_owned())
}

fn read_options(from: &mut Decoder<'_>) -> Result<OptionPairs, Bad> {
    let mut options = OptionPairs::new();
    while !from.is_empty() {
        let (name, value) = (read_text(from)?, read_text(from)?);
        if name.is_empty() {
            return Err(Bad("has an option without a name"));
        }
        options.push((name, value));
    }
    Ok(options)
}

fn read_created(from: &mut Decoder<'_>) -> Result<KeyspaceCreated, Bad> {
    let (id, name) = (read_id(from)?, read_text(from)?);
    check_keyspace_name(&name).map_err(|_| Bad("has a name that no keyspace can have"))?;
    Ok(KeyspaceCreated { id, name, options: read_options(from)? })
}

fn read_key(from: &mut Decoder<'_>) -> Result<Box<[u8]>, Bad> {
    let key = from.slice()?;
    if key.len() > KEY_LEN_MAX { Err(Bad("has too long a key")) } else { Ok(key.into()) }
}

/// A count or a number of bytes of one table, below what sums over many tables would overflow with.
fn read_size(from: &mut Decoder<'_>) -> Result<u64, Bad> {
    let size = from.varint()?;
    if size < 1 << 48 { Ok(size) } else { Err(Bad("has a size that no table has")) }
}

fn read_added(from: &mut Decoder<'_>) -> Result<TableAdded, Bad> {
    let keyspace = read_id(from)?;
    let level = from.varint32()? as usize;
    if level >= LEVEL_COUNT {
        return Err(Bad("has a level that is too deep"));
    }
    let run = RunId(from.varint()?);
    let meta = TableMeta {
        number: read_number(from)?,
        file_bytes: read_size(from)?,
        entry_count: read_size(from)?,
        tombstone_count: read_size(from)?,
        shadowed_count: read_size(from)?,
        key_bytes: read_size(from)?,
        value_bytes: read_size(from)?,
        smallest: read_key(from)?,
        largest: read_key(from)?,
        sequence_min: read_sequence(from)?,
        sequence_max: read_sequence(from)?,
        write_time_min_ms: from.varint()?,
        write_time_max_ms: from.varint()?,
        expiry_min_ms: from.varint()?.wrapping_sub(1),
        expiry_max_ms: from.varint()?.wrapping_sub(1),
        checksum: from.u32()?,
        hidden_entry_count: 0,
    };
    Ok(TableAdded { keyspace, level, run, meta })
}

fn read_part_added(from: &mut Decoder<'_>) -> Result<TableAdded, Bad> {
    let mut added = read_added(from)?;
    added.meta.hidden_entry_count = read_size(from)?;
    if added.meta.is_partial() { Ok(added) } else { Err(Bad("hides nothing of its table")) }
}
