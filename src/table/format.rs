//! The parts of a table file that are not blocks: header, handles, properties, footer.
//!
//! The grammar of the whole file, byte by byte, stands in `docs/format/table.md`. In short:
//!
//! ```text
//! table   = header data_block+ filter index properties footer
//! header  = magic[8] version:u32 number:u64
//! block   = payload compression:u8 crc:u32          crc over payload and compression
//! footer  = region region region number:u64 crc:u32 version:u32 magic[8]
//! region  = offset:u64 len:u64 crc:u32              of filter, index, properties
//! ```
//! Every crc is salted with the table's number and the offset of what it covers
//! ([`checksum_at`]), so that whole bytes in the wrong place are found too.
//!
//! # Invariants
//! * The parts lie back to back; no byte of the file belongs to none.
//! * The last 12 bytes (version, magic) keep their place in every future version.

use std::path::Path;

use crate::checksum::checksum_at;
use crate::coding::{Decoder, Truncated, put_slice, put_u32, put_u64, put_varint};
use crate::compression::{method_byte, method_from_byte};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::options::Compression;
use crate::table::TableMeta;

pub(crate) const MAGIC: [u8; 8] = *b"eskertab";
/// The version that is written. Version 1, which is read too, does not name the keyspace.
pub(crate) const FORMAT_VERSION: u32 = 2;
pub(crate) const HEADER_LEN: usize = 20;
pub(crate) const FOOTER_LEN: usize = 84;
/// What follows the payload of a data block: compression and crc.
pub(crate) const BLOCK_TRAILER_LEN: usize = 5;
/// Where the footer's crc stands in it; what precedes it and what follows it is covered.
const FOOTER_CRC_AT: usize = 68;

/// Where a stored data block lies, its trailer included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockHandle {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl BlockHandle {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, self.len);
    }

    /// The handle in an index entry; it must lie within the data of a table that ends at
    /// `data_end`.
    #[inline]
    pub(crate) fn decode(bytes: &[u8], data_end: u64) -> Result<Self> {
        let mut decoder = Decoder::new(bytes);
        let (Ok(offset), Ok(len), true) = (decoder.varint(), decoder.varint(), decoder.is_empty())
        else {
            return Err(damaged("index entry is not a block handle"));
        };
        let end = offset.checked_add(len);
        if offset < HEADER_LEN as u64
            || len <= BLOCK_TRAILER_LEN as u64
            || end.is_none_or(|end| end > data_end)
        {
            return Err(damaged("index entry points outside the data blocks"));
        }
        Ok(BlockHandle { offset, len })
    }

    /// The offset after the block.
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }
}

#[cold]
fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corruption, what)
}

/// The bytes that a table begins with.
pub(crate) fn encode_header(number: FileNumber) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(&MAGIC);
    put_u32(&mut header, FORMAT_VERSION);
    put_u64(&mut header, number.0);
    header
}

/// Checks the bytes that a table begins with.
pub(crate) fn check_header(header: &[u8], number: FileNumber, path: &Path) -> Result<()> {
    let mut decoder = Decoder::new(header);
    let (Ok(magic), Ok(version), Ok(found)) =
        (decoder.bytes(MAGIC.len()), decoder.u32(), decoder.u64())
    else {
        return Err(Error::corruption(path, 0, "table is shorter than its header"));
    };
    check_version(magic, version, 0, path)?;
    if found != number.0 {
        return Err(Error::corruption(path, 12, format!("this is table {}", FileNumber(found))));
    }
    Ok(())
}

fn check_version(magic: &[u8], version: u32, offset: u64, path: &Path) -> Result<()> {
    if magic != MAGIC {
        return Err(Error::corruption(path, offset, "not a table: its magic number is missing"));
    }
    if version > FORMAT_VERSION {
        let what = format!(
            "table format {version} is newer than {FORMAT_VERSION}, the newest this esker reads"
        );
        return Err(Error::new(ErrorKind::Unsupported, what)
            .at(path)
            .advise("open the database with the esker version that wrote it, or a newer one"));
    }
    if version == 0 {
        return Err(Error::corruption(path, offset, format!("there is no table format {version}")));
    }
    Ok(())
}

/// A part of the file other than data blocks, with its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

impl Region {
    /// The bytes of the region in a `file`, if they are all there and those that were written.
    pub(crate) fn bytes_in(self, file: &[u8], number: FileNumber) -> Option<&[u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.len).ok()?)?;
        let bytes = file.get(start..end)?;
        (Region::of(number, self.offset, bytes) == self).then_some(bytes)
    }

    /// The region that `bytes` are at `offset`.
    pub(crate) fn of(number: FileNumber, offset: u64, bytes: &[u8]) -> Self {
        Region { offset, len: bytes.len() as u64, crc: checksum_at(number.0, offset, &[bytes]) }
    }

    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// The end of a table: where everything else is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) filter: Region,
    pub(crate) index: Region,
    pub(crate) properties: Region,
}

impl Footer {
    /// The footer's bytes; it stands at the end of the properties.
    pub(crate) fn encode(&self, number: FileNumber) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        for region in [self.filter, self.index, self.properties] {
            put_u64(&mut out, region.offset);
            put_u64(&mut out, region.len);
            put_u32(&mut out, region.crc);
        }
        put_u64(&mut out, number.0);
        let mut end = Vec::new();
        put_u32(&mut end, FORMAT_VERSION);
        end.extend_from_slice(&MAGIC);
        let crc = checksum_at(number.0, self.properties.end(), &[&out, &end]);
        put_u32(&mut out, crc);
        out.extend_from_slice(&end);
        out
    }

    /// The regions that these bytes name, if they are the footer of any table, good or bad: for
    /// whoever checks each region by itself.
    pub(crate) fn peek(bytes: &[u8; FOOTER_LEN]) -> Self {
        let mut decoder = Decoder::new(bytes);
        let mut region = || -> Result<Region, Truncated> {
            Ok(Region { offset: decoder.u64()?, len: decoder.u64()?, crc: decoder.u32()? })
        };
        let mut next = || region().unwrap_or_default();
        Footer { filter: next(), index: next(), properties: next() }
    }

    /// Reads the footer that stands at `offset`, and checks that the regions lie back to back up to
    /// it.
    pub(crate) fn decode(
        bytes: &[u8],
        number: FileNumber,
        offset: u64,
        path: &Path,
    ) -> Result<Self> {
        let corrupt = |what: &str| Error::corruption(path, offset, what);
        let truncated = |Truncated| corrupt("table is shorter than its footer");
        let mut end = Decoder::new(bytes.get(FOOTER_CRC_AT..).unwrap_or_default());
        let stored_crc = end.u32().map_err(truncated)?;
        let covered_end = end.rest();
        let version = end.u32().map_err(truncated)?;
        check_version(end.rest(), version, offset, path)?;
        if checksum_at(number.0, offset, &[&bytes[..FOOTER_CRC_AT], covered_end]) != stored_crc {
            return Err(corrupt("footer checksum mismatch"));
        }
        let mut decoder = Decoder::new(bytes);
        let mut region = || -> Result<Region, Truncated> {
            Ok(Region { offset: decoder.u64()?, len: decoder.u64()?, crc: decoder.u32()? })
        };
        let footer = Footer {
            filter: region().map_err(truncated)?,
            index: region().map_err(truncated)?,
            properties: region().map_err(truncated)?,
        };
        let mut at = footer.filter.offset;
        for (region, start) in [
            (footer.filter, footer.filter.offset),
            (footer.index, footer.filter.offset.saturating_add(footer.filter.len)),
            (footer.properties, footer.index.offset.saturating_add(footer.index.len)),
        ] {
            if region.offset != start || region.offset != at || region.len > offset - at.min(offset)
            {
                return Err(corrupt("footer describes parts that do not lie back to back"));
            }
            at += region.len;
        }
        if at != offset || footer.filter.offset < HEADER_LEN as u64 {
            return Err(corrupt("footer describes parts that do not lie back to back"));
        }
        Ok(footer)
    }
}

/// What a table says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// All of it but the length and checksum of the file, which it cannot know.
    pub(crate) meta: TableMeta,
    pub(crate) block_count: u64,
    /// The compression asked for; blocks that it did not help are stored as they are.
    pub(crate) compression: Compression,
    /// Whose entries they are; `None` in tables written before this was noted.
    pub(crate) keyspace: Option<KeyspaceId>,
}

impl Properties {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let meta = &self.meta;
        for number in [
            meta.entry_count,
            meta.tombstone_count,
            meta.shadowed_count,
            meta.key_bytes,
            meta.value_bytes,
            self.block_count,
            meta.sequence_min.0,
            meta.sequence_max.0,
            meta.write_time_min_ms,
            meta.write_time_max_ms,
            meta.expiry_min_ms,
            meta.expiry_max_ms,
        ] {
            put_varint(out, number);
        }
        out.push(method_byte(self.compression));
        put_slice(out, &meta.smallest);
        put_slice(out, &meta.largest);
        if let Some(keyspace) = self.keyspace {
            put_varint(out, keyspace.0.into());
        }
    }

    /// Reads properties; the length and checksum of the file come from the caller.
    pub(crate) fn decode(
        bytes: &[u8],
        number: FileNumber,
        file_bytes: u64,
        checksum: u32,
    ) -> Result<Self> {
        let truncated = |Truncated| damaged("properties are cut short");
        let mut decoder = Decoder::new(bytes);
        let mut numbers = [0u64; 12];
        for number in &mut numbers {
            *number = decoder.varint().map_err(truncated)?;
        }
        let compression = method_from_byte(decoder.u8().map_err(truncated)?)?;
        let smallest = decoder.slice().map_err(truncated)?;
        let largest = decoder.slice().map_err(truncated)?;
        let keyspace = if decoder.is_empty() {
            None
        } else {
            Some(KeyspaceId(decoder.varint32().map_err(truncated)?))
        };
        if !decoder.is_empty() {
            return Err(damaged("bytes after the properties"));
        }
        let [entry_count, tombstone_count, shadowed_count, key_bytes, value_bytes, rest @ ..] =
            numbers;
        let [
            block_count,
            sequence_min,
            sequence_max,
            write_time_min_ms,
            write_time_max_ms,
            expiry_min_ms,
            expiry_max_ms,
        ] = rest;
        let meta = TableMeta {
            number,
            file_bytes,
            entry_count,
            tombstone_count,
            shadowed_count,
            key_bytes,
            value_bytes,
            smallest: smallest.into(),
            largest: largest.into(),
            sequence_min: SequenceNumber(sequence_min),
            sequence_max: SequenceNumber(sequence_max),
            write_time_min_ms,
            write_time_max_ms,
            expiry_min_ms,
            expiry_max_ms,
            checksum,
            // A file knows nothing of the trees that it is in.
            hidden_entry_count: 0,
        };
        Ok(Properties { meta, block_count, compression, keyspace })
    }
}
