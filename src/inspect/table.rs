//! A table: header, blocks, filter, index, properties, footer.

use std::path::Path;
use std::sync::Arc;

use crate::block::BlockLayout;
use crate::block::bytes::BlockBytes;
use crate::block::cursor::BlockCursor;
use crate::checksum::{checksum, checksum_at};
use crate::compression::{decompress, method_from_byte, split_compressed};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::FileSystem;
use crate::inspect::manifest::show_meta;
use crate::inspect::{InspectOptions, Item, Visit, number_at, read_file};
use crate::key::FileNumber;
use crate::options::Compression;
use crate::table::format::{
    BLOCK_TRAILER_LEN, BlockHandle, FOOTER_LEN, Footer, HEADER_LEN, Properties, Region,
    check_header,
};
use crate::table::salvage::block_lens;

/// Where a table's header says its number.
const NUMBER_AT: usize = 12;

/// Shows the table at `path`, every block of it, and with `options` every entry. A damaged part is shown as such, and
/// is the error in the end; what stands behind it is shown all the same. Without a good index, blocks are followed
/// from the first one up to the first that is damaged.
///
/// # Errors
/// `Corruption`, after everything that can be shown; `Unsupported` for a newer format; `Io`.
pub fn table(
    fs: &dyn FileSystem,
    path: &Path,
    options: &InspectOptions,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let bytes = read_file(fs, path)?;
    let number = FileNumber(number_at(&bytes, NUMBER_AT).unwrap_or(0));
    let too_short = || Error::corruption(path, 0, "table is too short to be one");
    let header = bytes.get(..HEADER_LEN).ok_or_else(too_short)?;
    check_header(header, number, path)?;
    let header = Item::new(0, "header").number("number", number.0);
    visit(header.number("file_bytes", bytes.len() as u64))?;
    let footer_at = bytes.len().checked_sub(FOOTER_LEN).ok_or_else(too_short)?;
    let (footer, mut damage) =
        match Footer::decode(&bytes[footer_at..], number, footer_at as u64, path) {
            Ok(footer) => (footer, None),
            Err(error) if error.kind() != ErrorKind::Corruption => return Err(error),
            Err(error) => (bytes.last_chunk().map(Footer::peek).unwrap_or_default(), Some(error)),
        };
    let is_footer_good = damage.is_none();
    let look = Look { bytes: &bytes, number, path, data_end: footer.filter.offset };
    let shown = match look.region(footer.index, "index") {
        Ok(index) if footer.index.len > 0 => look.blocks(index, options, visit)?,
        _ => look.walk(is_footer_good, options, visit)?,
    };
    damage = damage.or(shown);
    for (region, name) in
        [(footer.filter, "filter"), (footer.index, "index"), (footer.properties, "properties")]
    {
        let found = look.region(region, name);
        if !is_footer_good && (found.is_err() || region.len == 0) {
            // Nothing says where it is.
            continue;
        }
        let verdict = if found.is_ok() { "good" } else { "bad" };
        let mut item = Item::new(region.offset, name).number("bytes", region.len);
        item = item.text("checksum", verdict);
        match found {
            Ok(found) => visit(look.describe(item, name, found)?)?,
            Err(error) => {
                visit(item)?;
                damage = damage.or(Some(error));
            }
        }
    }
    let verdict = if is_footer_good { "good" } else { "bad" };
    let item = Item::new(footer_at as u64, "footer").number("number", number.0);
    visit(item.text("checksum", verdict))?;
    damage.map_or(Ok(()), Err)
}

/// A table being looked at.
struct Look<'a> {
    bytes: &'a [u8],
    number: FileNumber,
    path: &'a Path,
    data_end: u64,
}

impl<'a> Look<'a> {
    fn region(&self, region: Region, name: &str) -> Result<&'a [u8]> {
        region.bytes_in(self.bytes, self.number).ok_or_else(|| {
            Error::corruption(self.path, region.offset, format!("{name} checksum mismatch"))
        })
    }

    fn located(&self, error: Error, offset: u64) -> Error {
        match error.kind() {
            ErrorKind::Corruption => Error::corruption(self.path, offset, error.what()),
            _ => error.at(self.path).at_offset(offset),
        }
    }

    /// Adds what a good region says.
    fn describe(&self, item: Item, name: &str, bytes: &[u8]) -> Result<Item> {
        let offset = item.offset;
        Ok(match name {
            "filter" => item.text(
                "type",
                match bytes.first() {
                    Some(0) => "none",
                    Some(1) => "bloom",
                    Some(2) => "blocked",
                    _ => "unknown",
                },
            ),
            "index" => {
                let index = BlockLayout::parse(bytes).map_err(|e| self.located(e, offset))?;
                item.number("blocks", index.count() as u64)
            }
            _ => {
                let file_bytes = self.bytes.len() as u64;
                let own = Properties::decode(bytes, self.number, file_bytes, checksum(self.bytes));
                let own = own.map_err(|e| self.located(e, offset))?;
                let item = item.number("blocks", own.block_count);
                let item = item.text("compression", own.compression.as_str());
                let item = match own.keyspace {
                    Some(id) => item.number("keyspace", id.0),
                    None => item.text("keyspace", "unknown"),
                };
                show_meta(item, &own.meta)
            }
        })
    }

    /// Shows the blocks that the index names; returns the first damage.
    fn blocks(
        &self,
        index: &[u8],
        options: &InspectOptions,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Error>> {
        let layout = match BlockLayout::parse(index) {
            Ok(layout) => layout,
            Err(error) => return Ok(Some(self.located(error, self.data_end))),
        };
        let mut damage = None;
        for ordinal in 0..layout.count() {
            let value = layout.block(index).value(ordinal);
            let handle = value.and_then(|value| BlockHandle::decode(value, self.data_end));
            let shown = match handle {
                Ok(handle) => self.block(ordinal, handle, options, visit)?,
                Err(error) => Some(self.located(error, self.data_end)),
            };
            damage = damage.or(shown);
        }
        Ok(damage)
    }

    /// Shows the blocks from the first one on, without an index. A block's checksum holds for one length only, which
    /// so is found; behind damage nothing tells where the next one begins.
    fn walk(
        &self,
        is_end_known: bool,
        options: &InspectOptions,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Error>> {
        let end = if is_end_known { self.data_end as usize } else { self.bytes.len() };
        let mut at = HEADER_LEN;
        for ordinal in 0.. {
            let candidate = self.bytes.get(at..end).unwrap_or_default();
            let Some(len) = block_lens(candidate, self.number, at as u64).next() else { break };
            let handle = BlockHandle { offset: at as u64, len: len as u64 };
            if let Some(error) = self.block(ordinal, handle, options, visit)? {
                return Ok(Some(error));
            }
            at += len;
        }
        let what =
            "no data block begins here, and without a good index nothing tells where others do";
        Ok((at < end).then(|| Error::corruption(self.path, at as u64, what)))
    }

    /// Shows a block; returns what is wrong with it.
    fn block(
        &self,
        ordinal: usize,
        handle: BlockHandle,
        options: &InspectOptions,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Error>> {
        let offset = handle.offset;
        let item = Item::new(offset, "block").number("ordinal", ordinal as u64);
        let item = item.number("bytes", handle.len);
        let stored = &self.bytes[offset as usize..handle.end() as usize];
        let mut cursor = BlockCursor::new();
        let opened = self.unpack(stored, offset).and_then(|(compression, block)| {
            cursor.set_block(block)?;
            cursor.seek_to_last()?;
            let last = cursor.key().to_vec();
            cursor.seek_to_first()?;
            Ok((compression, last))
        });
        let (compression, last) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                visit(item.text("checksum", "bad"))?;
                return Ok(Some(self.located(error, offset)));
            }
        };
        visit(
            item.text("checksum", "good")
                .text("compression", compression.as_str())
                .number("entries", cursor.count() as u64)
                .bytes("first", cursor.key())
                .bytes("last", &last),
        )?;
        while options.entries && cursor.valid() {
            visit(Item::entry(offset, cursor.key(), cursor.trailer(), cursor.value()))?;
            if let Err(error) = cursor.next() {
                return Ok(Some(self.located(error, offset)));
            }
        }
        Ok(None)
    }

    fn unpack(&self, stored: &[u8], offset: u64) -> Result<(Compression, BlockBytes)> {
        let wrong = |what: &str| Error::corruption(self.path, offset, what);
        let Some((covered, crc)) = stored.split_last_chunk::<4>() else {
            return Err(wrong("block is too short"));
        };
        if checksum_at(self.number.0, offset, &[covered]) != u32::from_le_bytes(*crc) {
            return Err(wrong("block checksum mismatch"));
        }
        let payload = &stored[..stored.len() - BLOCK_TRAILER_LEN];
        let compression = method_from_byte(stored[payload.len()])?;
        let block: Arc<[u8]> = match compression {
            Compression::None => payload.into(),
            compression => {
                let (len, body) = split_compressed(compression, payload)?;
                let mut out = vec![0; len];
                decompress(compression, body, &mut out)?;
                out.into()
            }
        };
        let len = block.len();
        Ok((compression, BlockBytes::heap(block, 0..len)))
    }
}
