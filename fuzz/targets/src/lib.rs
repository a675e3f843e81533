//! The fuzz targets of esker, as functions of bytes.
//!
//! A target takes any input, holds something that it makes of it against a second opinion, and panics if they differ.
//! It knows nothing of who drives it: libFuzzer (`fuzz/fuzz_targets`), or the bounded test of this crate
//! (`tests/smoke.rs`), which `cargo test --workspace` runs. Everything happens in memory, in one thread and by a clock
//! that stands still, so that an input gives one result.
//!
//! Random changes of a file never get past its checksums. [`mutation`] takes an input apart ([`layout`]), changes a
//! part, and puts it together again with lengths, places and checksums that fit; sometimes it leaves them wrong.
//! `seeds` is where the inputs come from that a search begins with: files that the engine itself wrote.

mod db_directory;
mod files;
pub mod layout;
pub mod mutation;
mod operations;
pub mod seeds;
mod shell;
mod trace;

use esker::FilterKind;
use esker::internals::decoding;

use files::File;
use layout::Format;

/// Something that must hold of every input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its directory of seeds.
    pub name: &'static str,
    /// How its inputs are taken apart.
    pub format: Format,
    /// No input need be longer.
    pub input_bytes_max: usize,
    /// Tries an input; panics if something is wrong. Whether the input was whole, whatever that is for the target.
    pub run: fn(&[u8]) -> bool,
}

/// All targets.
pub const TARGETS: [Target; 10] = [
    target("batch", Format::Blind, 4 << 10, decoding::batch::check),
    target("block", Format::Blind, 4 << 10, decoding::block::check),
    target("filter", Format::Blind, 4 << 10, filter),
    target("wal", Format::Segments, 8 << 10, wal),
    target("manifest", Format::Manifest, 8 << 10, decoding::manifest::check),
    target("table", Format::Table, 16 << 10, decoding::table::check),
    target("db_directory", Format::Directory, 32 << 10, db_directory::check),
    target("shell", Format::Lines, 4 << 10, shell::check),
    target("operations", Format::Blind, 1 << 10, operations::check),
    target("trace", Format::Trace, 16 << 10, trace::check),
];

const fn target(
    name: &'static str,
    format: Format,
    input_bytes_max: usize,
    run: fn(&[u8]) -> bool,
) -> Target {
    Target { name, format, input_bytes_max, run }
}

/// The target called `name`.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// An even first byte: the rest is a stored filter. An odd one: a kind, bits per key in eighths, a file offset of two
/// bytes, and keys of four bytes each.
fn filter(input: &[u8]) -> bool {
    let Some((selector, rest)) = input.split_first() else { return false };
    if selector % 2 == 0 {
        return decoding::filter::check(rest);
    }
    let Some((&[kind, eighths, low, high], keys)) = rest.split_first_chunk() else { return false };
    let kind = if kind % 2 == 0 { FilterKind::Blocked } else { FilterKind::Bloom };
    let keys: Vec<&[u8]> = keys.chunks(4).collect();
    let offset = u64::from(u16::from_le_bytes([low, high]));
    decoding::filter::check_built(kind, f32::from(eighths) / 8.0, offset, &keys);
    true
}

/// The segment that the log begins with, the position that was synced (a segment, and an offset of two bytes), and a
/// list of files, of which each is a segment, whatever its kind.
fn wal(input: &[u8]) -> bool {
    let Some((&[first, segment, low, high], list)) = input.split_first_chunk() else {
        return false;
    };
    let files = files::read(list);
    let segments: Vec<(u64, &[u8])> =
        files.iter().map(|File { number, content, .. }| (u64::from(*number), &**content)).collect();
    let offset = u64::from(u16::from_le_bytes([low, high]));
    decoding::wal::check(&segments, u64::from(first), (u64::from(segment), offset))
}
