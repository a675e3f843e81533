//! A read-only mapping of a whole, finished file.
//!
//! # Safety of mapping
//! A mapped file is a finished table or WAL segment: written, synced, never changed in place again, and removed only
//! by unlink, which leaves the mapping good. What remains is damage from outside (someone truncates the file, the
//! device fails), which would raise `SIGBUS` on access. So every range is first read through [`Mapping::populate`]
//! (`MADV_POPULATE_READ`, Linux 5.14), which turns such damage into an error; after that a fault needs the page
//! to be evicted *and* the device to fail later. `ReadMode::Pread` avoids mappings altogether.

#![expect(unsafe_code, reason = "memory-mapping a file is unsafe by nature; see the module text")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::Access;

/// Decides whether populating a range of a simulated mapping fails.
pub(crate) type PopulateHook = Arc<dyn Fn(Range<usize>) -> io::Result<()> + Send + Sync>;

/// The bytes of a file, mapped or (in a simulation) held on the heap.
pub struct Mapping {
    bytes: Bytes,
    path: PathBuf,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Heap { bytes: Arc<[u8]>, populate: PopulateHook },
}

impl Mapping {
    /// Maps all of `file`, which must be finished and unchanging.
    pub(crate) fn of_file(file: &File, path: &Path, access: Access) -> Result<Self> {
        // SAFETY: the caller passes a file that nobody writes or truncates any more (module text); the map lives no
        // longer than this object, which owns it.
        let map = unsafe { memmap2::Mmap::map(file) }.map_err(|e| Error::io("map", path, e))?;
        let advice = match access {
            Access::Random => memmap2::Advice::Random,
            Access::Sequential => memmap2::Advice::Sequential,
        };
        // Advice is a hint; a kernel that refuses it still reads correctly.
        let _ = map.advise(advice);
        Ok(Mapping { bytes: Bytes::Mapped(map), path: path.to_path_buf() })
    }

    /// A mapping of bytes on the heap whose `populate` may be made to fail.
    pub(crate) fn simulated(bytes: Arc<[u8]>, path: &Path, populate: PopulateHook) -> Self {
        Mapping { bytes: Bytes::Heap { bytes, populate }, path: path.to_path_buf() }
    }

    /// Reads the pages of `range` into memory; a device error or a file cut short is an error here instead of
    /// `SIGBUS` at the access. The range is clamped to the mapping.
    pub fn populate(&self, range: Range<usize>) -> Result<()> {
        let range = range.start.min(self.len())..range.end.min(self.len());
        if range.is_empty() {
            return Ok(());
        }
        let result = match &self.bytes {
            Bytes::Mapped(map) => {
                match map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()) {
                    // Kernels before 5.14 do not know the advice; the access itself reads the page then.
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                    other => other,
                }
            }
            Bytes::Heap { populate, .. } => populate(range.clone()),
        };
        result.map_err(|e| {
            Error::io("read mapped pages", &self.path, e).at_offset(range.start as u64)
        })
    }

    /// Asks the operating system to read the pages of `range` soon.
    pub fn will_need(&self, range: Range<usize>) {
        let range = range.start.min(self.len())..range.end.min(self.len());
        if let (Bytes::Mapped(map), false) = (&self.bytes, range.is_empty()) {
            // A hint: failure costs only time.
            let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Heap { bytes, .. } => bytes,
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("path", &self.path).field("bytes", &self.len()).finish()
    }
}
