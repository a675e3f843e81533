//! Reading a manifest back: from `CURRENT` to the state.
//!
//! # The torn tail
//! Records are appended one at a time, and each is synced before anything acts on it or the next is
//! appended; so a crash can only tear the last one. A bad record with nothing valid behind it is
//! taken for that and dropped. A bad record with a valid one behind it was durable once: that is
//! damage, and an error.
//!
//! A last record that was durable, acted upon and damaged later looks like a torn one, and dropping
//! it takes the database back by one edit. That does not go unnoticed where it matters: what acts
//! on an edit removes or recycles files that the state before it still names (input tables, log
//! segments), and recovery finds them missing before it removes anything itself. Where nothing was
//! removed yet, the state before the edit is as good as the one after. A clean close writes the length
//! of the manifest to `CURRENT`, and so puts all of it beyond doubt: then there is no torn tail, and
//! any other length is damage.
//!
//! The snapshot at the start was durable before `CURRENT` named the manifest, so it is never torn.
//!
//! # Bounds
//! Of the file are read its good records, and a limited number of bytes from the first bad one on: a
//! tail longer than that is damage, and a long hole behind a short log takes no memory. The search for a
//! valid record behind a bad one tries every offset, but cuts the bytes into fields before it checksums
//! them, which nearly nothing but an edit survives; the work is limited, and bytes on which it runs
//! out are damage rather than a tail.

use std::path::Path;

use crc32fast::Hasher;

use crate::checksum::{checksum, checksum_at};
use crate::coding::Decoder;
use crate::content::to_memory;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, ReadFile};
use crate::key::FileNumber;
use crate::manifest::state::{ManifestState, Replay};
use crate::manifest::{
    FORMAT_VERSION, HEADER_LEN, MAGIC, RECORD_HEADER_LEN, SEALED, encode_current,
};
use crate::version::edit::{VersionEdit, is_cut_into_fields};

/// `CURRENT` is far shorter; a longer file is not read.
const CURRENT_BYTES_MAX: u64 = 256;

/// How many fields and bytes the search behind a bad record looks at: a fraction of a second.
const SCAN_WORK_MAX: usize = 64 << 20;

/// The longest torn tail: all that the search can look at.
const TAIL_BYTES_MAX: u64 = SCAN_WORK_MAX as u64;
/// What is summed at once to see whether a record is good, before it is read to memory.
const PIECE_BYTES: u64 = 1 << 20;

/// What a manifest told.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The state after the last whole edit.
    pub(crate) state: ManifestState,
    /// The manifest that told it. Nothing may be appended to it: its tail may be torn.
    pub(crate) manifest_number: FileNumber,
    /// Bytes of a torn last record; 0 after a clean close.
    pub(crate) torn_tail_bytes: u64,
    /// Whether that record is there to its last byte, by its own length, and only its checksum is wrong.
    pub(crate) torn_is_whole: bool,
}

/// The state that the manifest of the database in `dir` tells; `None` if there is no `CURRENT`, and
/// so no database yet. Changes nothing.
pub(crate) fn recover(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Recovered>> {
    let Some(current) = read_current(fs, dir)? else { return Ok(None) };
    match recover_manifest(fs, dir, current)? {
        None => Err(missing_manifest(dir, current.number)),
        found => Ok(found),
    }
}

/// What `CURRENT` in `dir` says; `None` if there is no `CURRENT`.
pub(crate) fn read_current(fs: &dyn FileSystem, dir: &Path) -> Result<Option<Current>> {
    let path = FileKind::Current.path(dir);
    let Some(file) = fs.open(&path)? else { return Ok(None) };
    if file.bytes() > CURRENT_BYTES_MAX {
        return Err(Error::corruption(&path, 0, format!("a file of {} bytes", file.bytes())));
    }
    let bytes = to_memory(&*file, file.bytes(), &path)?;
    let current = decode_current(&bytes).ok_or_else(|| {
        Error::corruption(&path, 0, "CURRENT does not name a manifest").advise(
            "restore CURRENT from a copy, or repair the database; it holds the name of the MANIFEST \
             file with the highest number, and the checksum of what stands before it",
        )
    })?;
    Ok(Some(current))
}

/// The manifest that `current` names, read as far as an open would; `None` if there is no such file.
pub(crate) fn recover_manifest(
    fs: &dyn FileSystem,
    dir: &Path,
    Current { number, sealed_bytes }: Current,
) -> Result<Option<Recovered>> {
    let path = FileKind::Manifest(number).path(dir);
    let Some(file) = fs.open(&path)? else { return Ok(None) };
    if let Some(sealed_bytes) = sealed_bytes.filter(|sealed_bytes| *sealed_bytes != file.bytes()) {
        let what = format!(
            "the manifest is {} bytes long, but was closed with {sealed_bytes}",
            file.bytes()
        );
        return Err(Error::corruption(&path, file.bytes().min(sealed_bytes), what));
    }
    let bytes = read_log(&*file, number, &path)?;
    let mut recovered = fold(&bytes, number, &path)?;
    if sealed_bytes.is_some() && recovered.torn_tail_bytes > 0 {
        let offset = file.bytes() - recovered.torn_tail_bytes;
        let what = "the last record of a closed manifest is damaged";
        return Err(Error::corruption(&path, offset, what));
    }
    let next = FileNumber(number.0.saturating_add(1));
    recovered.state.next_file_number = recovered.state.next_file_number.max(next);
    Ok(Some(recovered))
}

/// The error for a manifest that is named and not there.
pub(crate) fn missing_manifest(dir: &Path, number: FileNumber) -> Error {
    let what = "the manifest that CURRENT names is missing";
    Error::corruption(&FileKind::Manifest(number).path(dir), 0, what)
        .advise("restore the whole database directory from a copy of one moment, or repair it")
}

/// The bytes of a manifest as far as they matter: its good records, and the tail behind them.
fn read_log(file: &dyn ReadFile, number: FileNumber, path: &Path) -> Result<Vec<u8>> {
    let mut end = HEADER_LEN as u64;
    while let Some(next) = good_record_end(file, number, end)? {
        end = next;
    }
    if file.bytes().saturating_sub(end) > TAIL_BYTES_MAX {
        let header = to_memory(file, file.bytes().min(HEADER_LEN as u64), path)?;
        check_header(&header, number, path)?;
        let what = "a damaged record that is not the end of a log";
        return Err(Error::corruption(path, end, what));
    }
    to_memory(file, file.bytes(), path)
}

/// Where the record at `offset` ends, if it is a good one.
fn good_record_end(file: &dyn ReadFile, number: FileNumber, offset: u64) -> Result<Option<u64>> {
    let mut at = offset.saturating_add(RECORD_HEADER_LEN as u64);
    if at > file.bytes() {
        return Ok(None);
    }
    let mut head = [0; RECORD_HEADER_LEN];
    file.read_at(&mut head, offset)?;
    let (len, crc) = head.split_at(4);
    let mut fields = Decoder::new(len);
    let end = fields.u32().ok().filter(|len| *len > 0).map(|len| at + u64::from(len));
    let Some(end) = end.filter(|end| *end <= file.bytes()) else { return Ok(None) };
    let mut hasher = Hasher::new();
    for part in [&number.0.to_le_bytes()[..], &offset.to_le_bytes(), len] {
        hasher.update(part);
    }
    let mut piece = vec![0; PIECE_BYTES.min(end - at) as usize];
    while at < end {
        let piece = &mut piece[..PIECE_BYTES.min(end - at) as usize];
        file.read_at(piece, at)?;
        hasher.update(piece);
        at += piece.len() as u64;
    }
    Ok((hasher.finalize().to_le_bytes() == crc).then_some(end))
}

/// What `CURRENT` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) number: FileNumber,
    /// The length of the manifest, if the database was closed.
    pub(crate) sealed_bytes: Option<u64>,
}

/// What the `CURRENT` file with these bytes says.
pub(super) fn decode_current(bytes: &[u8]) -> Option<Current> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let FileKind::Manifest(number) = FileKind::parse(lines.next()?)? else { return None };
    let sealed_bytes =
        lines.next()?.strip_prefix(SEALED).and_then(|sealed_bytes| sealed_bytes.parse().ok());
    // Also what the checksum cannot tell, a number written in another way, is refused.
    (bytes == encode_current(number, sealed_bytes)).then_some(Current { number, sealed_bytes })
}

/// The state that the manifest with these bytes tells.
pub(crate) fn fold(bytes: &[u8], number: FileNumber, path: &Path) -> Result<Recovered> {
    check_header(bytes, number, path)?;
    let mut replay = Replay::default();
    let mut offset = HEADER_LEN;
    while let Some(payload) = record_at(bytes, number, offset) {
        let edit = VersionEdit::decode(payload);
        edit.and_then(|edit| replay.apply(edit)).map_err(|error| locate(error, path, offset))?;
        offset += RECORD_HEADER_LEN + payload.len();
    }
    let torn_tail_bytes = bytes.len() - offset;
    if offset == HEADER_LEN {
        return Err(Error::corruption(
            path,
            offset as u64,
            "the manifest's first record is damaged",
        ));
    }
    if torn_tail_bytes > 0 {
        let what = match record_behind(bytes, number, offset) {
            Search::Nothing => None,
            Search::Found(next) => Some(format!("a damaged record, with a good one at {next}")),
            Search::GaveUp => Some("a damaged record that is not the end of a log".to_owned()),
        };
        if let Some(what) = what {
            return Err(Error::corruption(path, offset as u64, what));
        }
    }
    let state = replay.finish().map_err(|error| locate(error, path, offset))?;
    let torn_is_whole = split_record(bytes, offset)
        .is_some_and(|(_, payload, _)| RECORD_HEADER_LEN + payload.len() == torn_tail_bytes);
    let torn_tail_bytes = torn_tail_bytes as u64;
    Ok(Recovered { state, manifest_number: number, torn_tail_bytes, torn_is_whole })
}

/// Adds the place to an error that knows none.
fn locate(error: Error, path: &Path, offset: usize) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::corruption(path, offset as u64, error.what()),
        _ => error.at(path).at_offset(offset as u64),
    }
}

pub(crate) fn check_header(bytes: &[u8], number: FileNumber, path: &Path) -> Result<()> {
    let bad = |what: String| Err(Error::corruption(path, 0, what));
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return bad("the manifest ends within its header".to_owned());
    };
    let (fields, crc) = header.split_at(HEADER_LEN - 4);
    let (magic, numbers) = fields.split_at(MAGIC.len());
    if magic != MAGIC {
        return bad("not a manifest".to_owned());
    }
    if crc != checksum(fields).to_le_bytes() {
        return bad("the manifest's header is damaged".to_owned());
    }
    let mut decoder = Decoder::new(numbers);
    let (Ok(version), Ok(header_number)) = (decoder.u32(), decoder.u64()) else {
        return bad("the manifest ends within its header".to_owned());
    };
    if version > FORMAT_VERSION {
        let what = format!("manifest format version {version}; this esker reads {FORMAT_VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, what)
            .at(path)
            .advise("open the database with the esker version that wrote it, or a newer one"));
    }
    if version == 0 {
        return bad("manifest format version 0".to_owned());
    }
    if header_number != number.0 {
        return bad(format!("by its header this is manifest {}", FileNumber(header_number)));
    }
    Ok(())
}

/// The payload of the record at `offset`, if a whole and good one stands there.
fn record_at(bytes: &[u8], number: FileNumber, offset: usize) -> Option<&[u8]> {
    let (head, payload, crc) = split_record(bytes, offset)?;
    let is_good = checksum_at(number.0, offset as u64, &[head, payload]) == crc;
    is_good.then_some(payload)
}

/// The length field, the payload and the checksum of the record at `offset`, if it would fit.
fn split_record(bytes: &[u8], offset: usize) -> Option<(&[u8], &[u8], u32)> {
    let record = bytes.get(offset..)?;
    let mut decoder = Decoder::new(record);
    let len = decoder.u32().ok()?;
    let crc = decoder.u32().ok()?;
    // No edit is empty; and zeros, which is what a torn tail often is, are no record.
    let payload = decoder.bytes(usize::try_from(len).ok().filter(|len| *len > 0)?).ok()?;
    Some((&record[..4], payload, crc))
}

/// Hands every edit of the manifest with these bytes to `visit`, with the offset and the length of its record, up to
/// the first record that is not whole, which is an error. The header was checked.
pub(crate) fn edits(
    bytes: &[u8],
    number: FileNumber,
    path: &Path,
    visit: &mut dyn FnMut(u64, u64, VersionEdit) -> Result<()>,
) -> Result<()> {
    let mut offset = HEADER_LEN;
    while let Some(payload) = record_at(bytes, number, offset) {
        let edit = VersionEdit::decode(payload).map_err(|error| locate(error, path, offset))?;
        let len = RECORD_HEADER_LEN + payload.len();
        visit(offset as u64, len as u64, edit)?;
        offset += len;
    }
    if offset == bytes.len() {
        return Ok(());
    }
    Err(Error::corruption(path, offset as u64, "a record is damaged, or was not finished"))
}

/// Every edit in the bytes of manifest `number` whose checksum holds, with its offset, whatever stands between them.
/// After damage the edits of a manifest make no state any more; but each says what it says.
pub(crate) fn salvage_edits(bytes: &[u8], number: FileNumber) -> Vec<(u64, VersionEdit)> {
    let mut edits = Vec::new();
    let mut offset = HEADER_LEN;
    while offset < bytes.len() {
        let payload = record_at(bytes, number, offset);
        if let Some(payload) = payload
            && let Ok(edit) = VersionEdit::decode(payload)
        {
            edits.push((offset as u64, edit));
            offset += RECORD_HEADER_LEN + payload.len();
            continue;
        }
        match record_behind(bytes, number, offset) {
            Search::Found(next) => offset = next,
            Search::Nothing | Search::GaveUp => break,
        }
    }
    edits
}

enum Search {
    Nothing,
    Found(usize),
    GaveUp,
}

/// Looks for a good record behind the bad one at `bad_offset`.
fn record_behind(bytes: &[u8], number: FileNumber, bad_offset: usize) -> Search {
    let mut work = 0;
    for offset in bad_offset + 1..bytes.len() {
        let Some((_, payload, _)) = split_record(bytes, offset) else { continue };
        let (is_cut, field_count) = is_cut_into_fields(payload);
        work += field_count;
        if is_cut {
            work += payload.len();
            if record_at(bytes, number, offset).is_some() {
                return Search::Found(offset);
            }
        }
        if work > SCAN_WORK_MAX {
            return Search::GaveUp;
        }
    }
    Search::Nothing
}
