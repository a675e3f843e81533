//! Salvage: what can still be read of a damaged table.
//!
//! A reader refuses a table whose footer, filter, index or properties are damaged, and stops at a damaged block.
//! Salvage believes each part by its own checksum: good blocks give their entries, whatever else is wrong.
//!
//! # How blocks are found
//! * The index holds: it says where each block lies, and its separators say which keys a bad block may have held.
//! * It does not: blocks lie back to back from the header on, and a block's checksum tells its length, because it holds
//!   for one length only. Behind damage every offset is tried. Keys between two good blocks are then what a bad one
//!   between them may have held.
//!
//! # Bounds
//! The file is read whole. Finding blocks takes time linear in the file's length as long as they follow each other.
//! All tries that find none take a fixed amount of work together ([`SEARCH_WORK_MAX`]), which is enough for 256 KiB of
//! damage between blocks of up to 16 KiB, or 64 KiB between blocks of 64 KiB. When it is used up, what lies behind is
//! lost.
//!
//! # Invariants
//! * Entries come in the strict order of a table, so that they can be written into one.
//! * Nothing is made up: each entry stood in a block whose checksum holds under this file's number and that offset.
//! * A read error of the operating system is an error, not damage. So is a newer format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;

use crate::block::BlockLayout;
use crate::block::bytes::BlockBytes;
use crate::block::cursor::BlockCursor;
use crate::checksum::{checksum, checksum_at, hasher_at};
use crate::compression::{decompress, method_from_byte, split_compressed};
use crate::content::to_memory;
use crate::error::{Error, ErrorKind, Result};
use crate::expiry::ExpiryRange;
use crate::file_name::FileKind;
use crate::fs::{FileSystem, ReadFile};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber, Trailer, compare_entries};
use crate::options::Compression;
use crate::table::TableMeta;
use crate::table::format::{
    BLOCK_TRAILER_LEN, BlockHandle, FOOTER_LEN, FORMAT_VERSION, Footer, HEADER_LEN, MAGIC,
    Properties,
};

/// How many bytes the tries look at that find no block.
const SEARCH_WORK_MAX: u64 = 16 << 30;
/// A block behind damage is looked for up to four times the length of the longest found, or of this if that is more.
const SEARCH_LEN_MIN: usize = 16 << 10;
/// What is read at once of a file that is only summed.
const PIECE_BYTES: u64 = 1 << 20;

/// Takes the entries of a table in order.
pub(crate) type Sink<'a> = dyn FnMut(&[u8], Trailer, &[u8]) -> Result<()> + 'a;

/// A range of keys, both ends included, of which entries are missing; `None`: no bound is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) to: Option<Vec<u8>>,
}

/// What was found of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Salvaged {
    /// Entries handed out.
    pub(crate) entry_count: u64,
    /// Where entries are missing, in key order.
    pub(crate) gaps: Vec<Gap>,
    /// What the table says of itself, if that is readable.
    pub(crate) properties: Option<Properties>,
}

/// What the table `number` in `dir` says of itself, where no manifest describes it: its properties, with the length and
/// the checksum of the file as they are. Only header, footer and properties are checked.
pub(crate) fn describe(
    fs: &dyn FileSystem,
    dir: &Path,
    number: FileNumber,
) -> Result<(TableMeta, Option<KeyspaceId>)> {
    let path = FileKind::Table(number).path(dir);
    let file = open(fs, &path)?;
    let too_short = || Error::corruption(&path, 0, "table is too short to be one");
    let footer_at = file.bytes().checked_sub(FOOTER_LEN as u64).ok_or_else(too_short)?;
    let mut bytes = vec![0; FOOTER_LEN];
    file.read_at(&mut bytes, footer_at)?;
    let footer = Footer::decode(&bytes, number, footer_at, &path)?;
    let at = footer.properties.offset;
    let wrong = |what: &str| Error::corruption(&path, at, what);
    bytes.resize(footer.properties.len as usize, 0);
    file.read_at(&mut bytes, at)?;
    if checksum_at(number.0, at, &[&bytes]) != footer.properties.crc {
        return Err(wrong("properties checksum mismatch"));
    }
    let file_bytes = file.bytes();
    let whole = checksum_of(&*file)?;
    let properties = Properties::decode(&bytes, number, file_bytes, whole)
        .map_err(|error| error.at(&path).at_offset(at))?;
    Ok((properties.meta, properties.keyspace))
}

fn checksum_of(file: &dyn ReadFile) -> Result<u32> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE_BYTES.min(file.bytes()) as usize];
    let mut at = 0;
    while at < file.bytes() {
        let len = (file.bytes() - at).min(PIECE_BYTES) as usize;
        file.read_at(&mut piece[..len], at)?;
        hasher.update(&piece[..len]);
        at += len as u64;
    }
    Ok(hasher.finalize())
}

fn open(fs: &dyn FileSystem, path: &Path) -> Result<Arc<dyn ReadFile>> {
    fs.open(path)?.ok_or_else(|| Error::corruption(path, 0, "table is missing"))
}

/// Hands every readable entry of the table `number` in `dir` to `sink`. `known` is what the manifest says of it, if
/// there is one: entries that it hides are left out.
pub(crate) fn salvage(
    fs: &dyn FileSystem,
    dir: &Path,
    number: FileNumber,
    known: Option<&TableMeta>,
    sink: &mut Sink<'_>,
) -> Result<Salvaged> {
    let path = FileKind::Table(number).path(dir);
    let file = open(fs, &path)?;
    let bytes = to_memory(&*file, file.bytes(), &path)?;
    refuse_newer(&bytes, &path)?;
    let anatomy = Anatomy::of(&bytes, number);
    let mut pass = Pass {
        bytes: &bytes,
        number,
        path,
        part_from: known.filter(|known| known.is_partial()).map(|known| &*known.smallest),
        stamp: known.map_or(SequenceNumber::ZERO, stamp_of),
        sink,
        block: BlockCursor::new(),
        last: None,
        seen_count: 0,
        salvaged: Salvaged::default(),
        work: SEARCH_WORK_MAX,
        longest: 0,
    };
    let own = anatomy.properties.as_ref().map(|properties| &properties.meta);
    let whole_count = known
        .map(|known| known.entry_count.saturating_add(known.hidden_entry_count))
        .or(own.map(|own| own.entry_count));
    let bounds = known.or(own).map(|meta| (meta.smallest.to_vec(), meta.largest.to_vec()));
    match &anatomy.index {
        Some(index) => pass.walk(index, bounds)?,
        None => pass.scan(anatomy.data_end, whole_count, bounds)?,
    }
    pass.salvaged.properties = anatomy.properties;
    Ok(pass.salvaged)
}

/// The one sequence number that all entries have by the manifest. The file may say it too, or 0: its properties, which
/// tell (see [`TableMeta::stamp_on`]), may be damaged, and to give an entry the number that it has changes nothing.
fn stamp_of(known: &TableMeta) -> SequenceNumber {
    if known.sequence_min == known.sequence_max { known.sequence_max } else { SequenceNumber::ZERO }
}

/// The lengths that a block can have that begins with `candidate`, at `offset` of table `number`: those for which a
/// checksum holds. All but certainly there is one at most.
pub(crate) fn block_lens(
    candidate: &[u8],
    number: FileNumber,
    offset: u64,
) -> impl Iterator<Item = usize> {
    let mut hasher = hasher_at(number.0, offset);
    let mut summed = 0;
    (BLOCK_TRAILER_LEN + 1..=candidate.len()).filter(move |len| {
        let covered = len - 4;
        // The last byte covered says how the block is compressed: few bytes can.
        if candidate[covered - 1] > 2 {
            return false;
        }
        hasher.update(&candidate[summed..covered]);
        summed = covered;
        let crc = candidate[covered..*len].first_chunk().map(|crc| u32::from_le_bytes(*crc));
        crc == Some(hasher.clone().finalize())
    })
}

/// A table whose both ends name a newer version is no damaged one: no single damage does that.
fn refuse_newer(bytes: &[u8], path: &Path) -> Result<()> {
    let version = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let front = version(MAGIC.len()).filter(|_| bytes.starts_with(&MAGIC));
    let back = bytes.len().checked_sub(12).and_then(version).filter(|_| bytes.ends_with(&MAGIC));
    match (front, back) {
        (Some(front), Some(back)) if front == back && front > FORMAT_VERSION => {
            let what = format!("table format {front} is newer than {FORMAT_VERSION}");
            Err(Error::new(ErrorKind::Unsupported, what)
                .at(path)
                .advise("repair the database with the esker version that wrote it, or a newer one"))
        }
        _ => Ok(()),
    }
}

/// The parts of a table that hold, each by its own checksum.
struct Anatomy {
    /// Where the data blocks end.
    data_end: Option<u64>,
    /// Separator and place of every block.
    index: Option<Vec<(Vec<u8>, BlockHandle)>>,
    properties: Option<Properties>,
}

impl Anatomy {
    fn of(bytes: &[u8], number: FileNumber) -> Self {
        let Some(footer) = bytes.last_chunk::<FOOTER_LEN>().map(Footer::peek) else {
            return Anatomy { data_end: None, index: None, properties: None };
        };
        let (filter, index) = (footer.filter, footer.index);
        let index_bytes = index.bytes_in(bytes, number);
        let holds_filter = filter.bytes_in(bytes, number).is_some();
        let meets_index =
            index_bytes.is_some() && filter.offset.checked_add(filter.len) == Some(index.offset);
        let data_end = (holds_filter || meets_index).then_some(filter.offset);
        let limit = data_end.unwrap_or(index.offset);
        let file_bytes = bytes.len() as u64;
        let properties = footer.properties.bytes_in(bytes, number).and_then(|properties| {
            Properties::decode(properties, number, file_bytes, checksum(bytes)).ok()
        });
        let index = index_bytes.and_then(|bytes| read_index(bytes, limit));
        Anatomy { data_end, index, properties }
    }
}

fn read_index(bytes: &[u8], data_end: u64) -> Option<Vec<(Vec<u8>, BlockHandle)>> {
    let layout = BlockLayout::parse(bytes).ok()?;
    let block = layout.block(bytes);
    let mut entries = Vec::with_capacity(layout.count());
    let mut end = HEADER_LEN as u64;
    for ordinal in 0..layout.count() {
        let mut separator = Vec::new();
        block.key_into(ordinal, &mut separator).ok()?;
        let handle = BlockHandle::decode(block.value(ordinal).ok()?, data_end).ok()?;
        // Blocks lie back to back; an index that says otherwise is not to be followed.
        if handle.offset != end {
            return None;
        }
        end = handle.end();
        entries.push((separator, handle));
    }
    Some(entries)
}

type Bounds = Option<(Vec<u8>, Vec<u8>)>;

/// One pass over a damaged table.
struct Pass<'a, 's> {
    bytes: &'a [u8],
    number: FileNumber,
    path: PathBuf,
    /// Entries before this key belong to no tree.
    part_from: Option<&'a [u8]>,
    /// What the manifest gives all entries as sequence number; 0 if they have their own.
    stamp: SequenceNumber,
    sink: &'a mut Sink<'s>,
    block: BlockCursor,
    /// The last entry of the good blocks so far, stamped.
    last: Option<(Vec<u8>, Trailer)>,
    /// Entries of good blocks, hidden ones included.
    seen_count: u64,
    salvaged: Salvaged,
    /// What is left of [`SEARCH_WORK_MAX`].
    work: u64,
    /// The length of the longest block found.
    longest: usize,
}

impl Pass<'_, '_> {
    /// Reads the blocks that the index names.
    fn walk(&mut self, index: &[(Vec<u8>, BlockHandle)], bounds: Bounds) -> Result<()> {
        let (smallest, largest) = bounds.unzip();
        for (ordinal, (separator, handle)) in index.iter().enumerate() {
            let range = handle.offset as usize..handle.end() as usize;
            let stored = self.bytes.get(range).unwrap_or(&[]);
            if stored.len() as u64 == handle.len
                && self.has_good_crc(stored, handle.offset)
                && let Some(block) = self.unpack(stored)?
                && self.deliver(block)?
            {
                continue;
            }
            let before = ordinal.checked_sub(1).map(|before| index[before].0.clone());
            let from = before.or_else(|| smallest.clone());
            let is_last = ordinal + 1 == index.len();
            let to = largest.clone().filter(|_| is_last).unwrap_or_else(|| separator.clone());
            self.lose(from, Some(to));
        }
        Ok(())
    }

    /// Looks for the blocks.
    fn scan(&mut self, data_end: Option<u64>, whole: Option<u64>, bounds: Bounds) -> Result<()> {
        let end = data_end.map_or(self.bytes.len(), |end| end as usize).min(self.bytes.len());
        let (smallest, largest) = bounds.unzip();
        let mut at = HEADER_LEN;
        let mut is_behind_damage = false;
        let is_all = |seen: u64| whole.is_some_and(|whole| seen >= whole);
        while at < end && self.work > 0 && !is_all(self.seen_count) {
            let before = self.last.as_ref().map(|(key, _)| key.clone());
            let likely = self.longest.max(SEARCH_LEN_MIN).saturating_mul(4).min(end - at);
            let mut found = self.block_at(at, likely)?;
            // A long block behind a good one is found, behind damage it is not looked for.
            if found.is_none() && !is_behind_damage && likely < end - at {
                found = self.block_at(at, end - at)?;
            }
            let Some((len, block)) = found else {
                is_behind_damage = true;
                at += 1;
                continue;
            };
            let first = first_key(&block)?;
            if !self.deliver(block)? {
                self.charge(len);
                is_behind_damage = true;
                at += 1;
                continue;
            }
            if is_behind_damage {
                self.lose(before.or_else(|| smallest.clone()), Some(first));
            }
            is_behind_damage = false;
            self.longest = self.longest.max(len);
            at += len;
        }
        let is_complete = match whole {
            Some(whole) => self.seen_count >= whole,
            None => data_end.is_some() && at == end,
        };
        if !is_complete {
            let from = self.last.as_ref().map(|(key, _)| key.clone()).or(smallest);
            self.lose(from, largest);
        }
        Ok(())
    }

    /// The block that begins at `at`, if there is one of at most `len_max` bytes: a block's checksum holds for one
    /// length only.
    fn block_at(&mut self, at: usize, len_max: usize) -> Result<Option<(usize, BlockBytes)>> {
        let bytes = self.bytes;
        let Some(candidate) = bytes.get(at..at + len_max) else { return Ok(None) };
        for len in block_lens(candidate, self.number, at as u64) {
            if let Some(block) = self.unpack(&candidate[..len])? {
                return Ok(Some((len, block)));
            }
        }
        self.charge(len_max);
        Ok(None)
    }

    fn charge(&mut self, bytes: usize) {
        self.work = self.work.saturating_sub(bytes as u64);
    }

    fn has_good_crc(&self, stored: &[u8], offset: u64) -> bool {
        stored.split_last_chunk::<4>().is_some_and(|(covered, crc)| {
            checksum_at(self.number.0, offset, &[covered]) == u32::from_le_bytes(*crc)
        })
    }

    /// The block in stored bytes whose checksum holds; `None` if they are no block all the same.
    fn unpack(&self, stored: &[u8]) -> Result<Option<BlockBytes>> {
        let Some(payload_len) = stored.len().checked_sub(BLOCK_TRAILER_LEN) else {
            return Ok(None);
        };
        let payload = &stored[..payload_len];
        let block: Arc<[u8]> = match method_from_byte(stored[payload_len]) {
            Err(error) => return Err(error.at(&self.path)),
            Ok(Compression::None) => payload.into(),
            Ok(compression) => {
                let Ok((len, body)) = split_compressed(compression, payload) else {
                    return Ok(None);
                };
                let mut out = vec![0; len];
                if decompress(compression, body, &mut out).is_err() {
                    return Ok(None);
                }
                out.into()
            }
        };
        let is_block = BlockLayout::parse(&block).is_ok();
        let len = block.len();
        Ok(is_block.then(|| BlockBytes::heap(block, 0..len)))
    }

    /// Hands out the entries of a block, all or none: none if they are not in order, or not readable.
    fn deliver(&mut self, block: BlockBytes) -> Result<bool> {
        if !self.is_sound(&block)? {
            return Ok(false);
        }
        self.block.set_block(block)?;
        self.block.seek_to_first()?;
        while self.block.valid() {
            let (key, trailer) = (self.block.key(), self.block.trailer().stamped(self.stamp));
            self.seen_count += 1;
            if self.part_from.is_none_or(|from| from <= key) {
                (self.sink)(key, trailer, self.block.value())?;
                self.salvaged.entry_count += 1;
            }
            let (last_key, last_trailer) = self.last.get_or_insert_with(|| (Vec::new(), trailer));
            last_key.clear();
            last_key.extend_from_slice(key);
            *last_trailer = trailer;
            self.block.next()?;
        }
        self.block.clear();
        Ok(true)
    }

    fn is_sound(&self, block: &BlockBytes) -> Result<bool> {
        let mut cursor = BlockCursor::new();
        let mut expiry = ExpiryRange::default();
        let mut last = self.last.clone();
        if cursor.set_block(block.clone()).and_then(|()| cursor.seek_to_first()).is_err() {
            return Ok(false);
        }
        while cursor.valid() {
            // Stamped: a stamp that is not the entries' own could make versions of a key alike.
            let (key, trailer) = (cursor.key(), cursor.trailer().stamped(self.stamp));
            // A kind that is unknown under a good checksum was written by a newer esker.
            trailer.kind().map_err(|error| error.at(&self.path))?;
            let is_after = last.as_ref().is_none_or(|(last_key, last_trailer)| {
                compare_entries((last_key, *last_trailer), (key, trailer)).is_lt()
            });
            if !is_after || expiry.add(trailer, cursor.value()).is_err() {
                return Ok(false);
            }
            last = Some((key.to_vec(), trailer));
            if cursor.next().is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes a gap; one that touches the gap before makes it longer.
    fn lose(&mut self, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        if let (Some(part_from), Some(to)) = (self.part_from, &to)
            && **to < *part_from
        {
            return;
        }
        let from = match (from, self.part_from) {
            (Some(from), Some(part_from)) if *from < *part_from => Some(part_from.to_vec()),
            (from, _) => from,
        };
        if let Some(before) = self.salvaged.gaps.last_mut()
            && before.to.is_some()
            && before.to == from
        {
            before.to = to;
            return;
        }
        self.salvaged.gaps.push(Gap { from, to });
    }
}

fn first_key(block: &BlockBytes) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    BlockLayout::parse(block)?.block(block).key_into(0, &mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
