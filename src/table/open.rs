//! Opening a table: everything but the data blocks is read and verified.
//!
//! The length of the file, its header and its footer are compared with the manifest; filter, index
//! and properties are verified by their checksums, parsed, and compared with each other and with
//! the manifest. A table that opens can be damaged only in its data blocks.
//!
//! When tables are mapped, filter and index stay where they lie; else, and when every read is to be
//! verified, they are read to the heap, in one read.
//!
//! The manifest may describe a part of the table; the reader describes the file.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::block::BlockLayout;
use crate::block::bytes::BlockBytes;
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::filter::FilterLayout;
use crate::fs::{Access, FileSystem, Mapping, ReadFile};
use crate::key::FileNumber;
use crate::options::{ReadMode, Verify};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::table::TableMeta;
use crate::table::format::{FOOTER_LEN, Footer, HEADER_LEN, Properties, Region, check_header};
use crate::table::reader::{ReadContext, TableReader, locate, map_whole, private_bytes};

impl TableReader {
    /// Opens the table that the manifest describes as `meta`, and verifies everything in it but the
    /// data blocks.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        meta: &TableMeta,
        ctx: &ReadContext,
    ) -> Result<Self> {
        let path = FileKind::Table(meta.number).path(dir);
        let Some(file) = fs.open(&path)? else {
            return Err(Error::corruption(&path, 0, "table is missing"));
        };
        if file.bytes() != meta.file_bytes {
            let what =
                format!("table is {} bytes long instead of {}", file.bytes(), meta.file_bytes);
            return Err(Error::corruption(&path, file.bytes().min(meta.file_bytes), what));
        }
        if file.bytes() < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(Error::corruption(&path, 0, "table is too short to be one"));
        }
        let map = match ctx.read_mode {
            ReadMode::Mmap => Some(map_whole(&*file, Access::Random, &path)?),
            ReadMode::Pread => None,
        };
        // Filter and index are checked here and never again. What is read from a copy of one's own stays checked.
        let shared = map.as_ref().filter(|_| ctx.verify == Verify::Once);
        let source = OpenSource { file: &*file, map: shared };
        check_header(&source.read(0, HEADER_LEN as u64)?, meta.number, &path)?;
        let footer_at = file.bytes() - FOOTER_LEN as u64;
        let footer = Footer::decode(
            &source.read(footer_at, FOOTER_LEN as u64)?,
            meta.number,
            footer_at,
            &path,
        )?;
        let tail = source.read(footer.filter.offset, footer_at - footer.filter.offset)?;
        let region = |region: Region, name: &str| {
            verified_region(&tail, &footer, region, name, meta.number, &path)
        };
        let filter_bytes = region(footer.filter, "filter")?;
        let index_bytes = region(footer.index, "index")?;
        let properties_bytes = region(footer.properties, "properties")?;
        let filter = FilterLayout::parse(&filter_bytes)
            .map_err(|e| locate(e, &path, footer.filter.offset))?;
        let index =
            BlockLayout::parse(&index_bytes).map_err(|e| locate(e, &path, footer.index.offset))?;
        let properties =
            Properties::decode(&properties_bytes, meta.number, meta.file_bytes, meta.checksum)
                .map_err(|e| locate(e, &path, footer.properties.offset))?;
        let stamp = meta.stamp_on(&properties.meta);
        let whole = TableMeta {
            sequence_min: properties.meta.sequence_min.max(stamp),
            sequence_max: properties.meta.sequence_max.max(stamp),
            ..properties.meta
        };
        if !meta.is_part_of(&whole) || properties.block_count != index.count() as u64 {
            let what = "properties of the table disagree with the manifest or the index";
            return Err(Error::corruption(&path, footer.properties.offset, what));
        }
        let words = if map.is_some() { index.count().div_ceil(64) } else { 0 };
        Ok(TableReader {
            path,
            meta: whole,
            stamp,
            file,
            map,
            sequential_map: OnceLock::new(),
            index_bytes,
            index,
            filter_bytes,
            filter,
            footer,
            compression: properties.compression,
            verify: ctx.verify,
            cache: ctx.cache.clone(),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            is_recently_used: AtomicBool::new(true),
        })
    }
}

/// Where a table being opened is read from.
struct OpenSource<'a> {
    file: &'a dyn ReadFile,
    map: Option<&'a Arc<Mapping>>,
}

impl OpenSource<'_> {
    fn read(&self, offset: u64, len: u64) -> Result<BlockBytes> {
        if let Some(map) = self.map {
            let range = offset as usize..(offset + len) as usize;
            // Without the hint each page of a cold file would be a read of its own.
            map.will_need(range.clone());
            map.populate(range.clone())?;
            return Ok(BlockBytes::mapped(Arc::clone(map), range));
        }
        let mut bytes: Arc<[u8]> = Arc::default();
        self.file.read_at(&mut private_bytes(&mut bytes, len as usize)[..len as usize], offset)?;
        Ok(BlockBytes::heap(bytes, 0..len as usize))
    }
}

/// The bytes of a region in what was read from the filter to the footer.
fn verified_region(
    tail: &BlockBytes,
    footer: &Footer,
    region: Region,
    name: &str,
    number: FileNumber,
    path: &Path,
) -> Result<BlockBytes> {
    // The footer was found to describe parts that lie back to back, so the range is in the tail.
    let start = (region.offset - footer.filter.offset) as usize;
    let bytes = tail.slice(start..start + region.len as usize);
    if Region::of(number, region.offset, &bytes) != region {
        return Err(Error::corruption(path, region.offset, format!("{name} checksum mismatch")));
    }
    Ok(bytes)
}
