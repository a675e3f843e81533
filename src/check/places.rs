//! The damaged places of a table, each by its own checksum.
//!
//! A reader stops at the first thing that is wrong with a table. Whoever must decide between a copy and a repair wants
//! to know how much is: so once a table is known to be damaged, header, footer, filter, index, properties and every
//! data block that the index names are looked at independently. What cannot be found (the blocks of a table whose index
//! is damaged, the parts of one whose footer is) cannot be named; an index or a part that holds under its own checksum
//! is believed, whatever else is wrong.
//!
//! Nothing but one block or part is in memory at a time, and no length is believed that the file does not have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block::BlockLayout;
use crate::checksum::checksum_at;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, ReadFile};
use crate::key::FileNumber;
use crate::table::format::{BlockHandle, FOOTER_LEN, Footer, HEADER_LEN, Region, check_header};

/// Places of one file that are named, each as one problem; of the others only the number is.
pub(super) const PLACES_MAX: usize = 100;

/// What is wrong with the table `number`, in the order of the file. `first` is what was found already, and is among it.
/// `file_bytes` is how long the file should be, if that is known.
pub(super) fn damaged_places(
    fs: &dyn FileSystem,
    dir: &Path,
    number: FileNumber,
    file_bytes: Option<u64>,
    first: Error,
) -> Result<Vec<Error>> {
    let path = FileKind::Table(number).path(dir);
    let Some(file) = fs.open(&path)? else { return Ok(vec![first]) };
    if file_bytes.is_some_and(|bytes| bytes != file.bytes()) {
        // The footer is not where the file ends.
        return Ok(vec![first]);
    }
    let mut look = Look { file, number, path, places: Vec::new() };
    look.table()?;
    let is_known = |place: &Error| place.offset() == first.offset() && place.what() == first.what();
    if !look.places.iter().any(is_known) {
        look.places.push(first);
    }
    look.places.sort_by_key(Error::offset);
    let more = look.places.len().saturating_sub(PLACES_MAX);
    if let (1.., Some(next)) = (more, look.places.get(PLACES_MAX)) {
        let what = format!("and {more} more damaged places of this file, from here on");
        let rest = Error::corruption(&look.path, next.offset().unwrap_or(0), what);
        look.places.truncate(PLACES_MAX);
        look.places.push(rest);
    }
    Ok(look.places)
}

struct Look {
    file: Arc<dyn ReadFile>,
    number: FileNumber,
    path: PathBuf,
    places: Vec<Error>,
}

impl Look {
    fn table(&mut self) -> Result<()> {
        if let Some(header) = self.read(0, HEADER_LEN as u64)? {
            let checked = check_header(&header, self.number, &self.path);
            self.note(checked)?;
        }
        let Some(footer_at) = self.file.bytes().checked_sub(FOOTER_LEN as u64) else {
            return Ok(());
        };
        let Some(footer_bytes) = self.read(footer_at, FOOTER_LEN as u64)? else { return Ok(()) };
        let decoded = Footer::decode(&footer_bytes, self.number, footer_at, &self.path);
        let is_footer_good = decoded.is_ok();
        self.note(decoded.map(drop))?;
        let Some(footer) = footer_bytes.first_chunk().map(Footer::peek) else { return Ok(()) };
        let mut index = None;
        for (region, name) in
            [(footer.filter, "filter"), (footer.index, "index"), (footer.properties, "properties")]
        {
            match self.region(region)? {
                Some(bytes) if name == "index" => index = Some(bytes),
                None if is_footer_good => {
                    self.wrong(region.offset, format!("{name} checksum mismatch"));
                }
                // Good; or nothing says where it is.
                Some(_) | None => {}
            }
        }
        let meets_index = footer.filter.offset.checked_add(footer.filter.len);
        let data_end = if meets_index == Some(footer.index.offset) {
            footer.filter.offset
        } else {
            footer.index.offset
        };
        match index {
            Some(index) => self.blocks(&index, data_end),
            None => Ok(()),
        }
    }

    /// Looks at every block that the index names.
    fn blocks(&mut self, index: &[u8], data_end: u64) -> Result<()> {
        let Ok(layout) = BlockLayout::parse(index) else { return Ok(()) };
        let mut end = 0;
        for ordinal in 0..layout.count() {
            let value = layout.block(index).value(ordinal);
            let Ok(handle) = value.and_then(|value| BlockHandle::decode(value, data_end)) else {
                continue;
            };
            if handle.offset < end {
                // Blocks do not overlap, and none is read twice.
                continue;
            }
            end = handle.end();
            let stored = self.read(handle.offset, handle.len)?;
            let is_good = stored.is_some_and(|stored| {
                stored.split_last_chunk::<4>().is_some_and(|(covered, crc)| {
                    checksum_at(self.number.0, handle.offset, &[covered])
                        == u32::from_le_bytes(*crc)
                })
            });
            if !is_good {
                self.wrong(handle.offset, "block checksum mismatch");
            }
        }
        Ok(())
    }

    /// The bytes of a region whose checksum holds.
    fn region(&self, region: Region) -> Result<Option<Vec<u8>>> {
        let bytes = self.read(region.offset, region.len)?;
        Ok(bytes.filter(|bytes| Region::of(self.number, region.offset, bytes) == region))
    }

    /// `None` if the file does not reach so far.
    fn read(&self, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
        let is_there = offset.checked_add(len).is_some_and(|end| end <= self.file.bytes());
        let Some(len) = usize::try_from(len).ok().filter(|_| is_there) else { return Ok(None) };
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(len).is_err() {
            return Ok(None);
        }
        bytes.resize(len, 0);
        self.file.read_at(&mut bytes, offset)?;
        Ok(Some(bytes))
    }

    fn wrong(&mut self, offset: u64, what: impl Into<String>) {
        self.places.push(Error::corruption(&self.path, offset, what));
    }

    /// Damage is a place; a version that is unknown is what was found already, if it is anything.
    fn note(&mut self, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error) if error.kind() == ErrorKind::Corruption => self.places.push(error),
            Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        Ok(())
    }
}
