//! The order of levels: of two versions of a key, the newer one stands above.
//!
//! Metadata can show a breach only where two tables share a bound. Here all entries of a tree are walked in order,
//! newest version of a key first, and the place of each is compared with that of the one before.

use std::path::Path;
use std::sync::Arc;

use crate::check::read_context;
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{Access, FileSystem};
use crate::key::{Trailer, escape};
use crate::table_cache::TableCache;
use crate::table_cache::run_cursor::RunCursor;
use crate::version::Version;

/// Tables that may be open at once: a merge needs one for each run.
const OPEN_TABLES_MAX: usize = 256;

/// Checks the order of the whole tree. Its tables are known to be whole, each by itself.
pub(super) fn check_order(fs: &Arc<dyn FileSystem>, dir: &Path, version: &Version) -> Result<()> {
    let cache = Arc::new(TableCache::new(Arc::clone(fs), dir, read_context(), OPEN_TABLES_MAX));
    let runs = version.levels.iter().flat_map(|level| &level.runs);
    let cursors: Vec<RunCursor> = runs
        .map(|run| {
            let tables = 0..run.tables.len();
            RunCursor::new(Arc::clone(&cache), Arc::clone(run), tables, Access::Sequential)
        })
        .collect();
    if cursors.len() < 2 {
        // One run cannot be out of order with itself: its tables were checked, and are disjoint.
        return Ok(());
    }
    let mut cursor = MergingCursor::new(cursors);
    cursor.seek_to_first()?;
    let mut last: Option<(Vec<u8>, Trailer, usize)> = None;
    while cursor.valid() {
        let (key, trailer, place) = (cursor.key(), cursor.trailer(), cursor.current_index());
        match &mut last {
            Some((last_key, last_trailer, last_place)) if *last_key == key => {
                // Sources are in the order of the tree, newest run first.
                if place < *last_place || trailer == *last_trailer {
                    let number = cursor.current().table().meta().number;
                    let what = format!(
                        "the tree is out of order: an older version of key {} stands above a newer one, or the same \
                         version stands there twice",
                        escape(key)
                    );
                    return Err(Error::corruption(&FileKind::Table(number).path(dir), 0, what));
                }
                (*last_trailer, *last_place) = (trailer, place);
            }
            Some((last_key, last_trailer, last_place)) => {
                last_key.clear();
                last_key.extend_from_slice(key);
                (*last_trailer, *last_place) = (trailer, place);
            }
            None => last = Some((key.to_vec(), trailer, place)),
        }
        cursor.next()?;
    }
    Ok(())
}
