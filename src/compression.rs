//! Compression of blocks: Snappy and Zstandard level 1, with contexts kept per thread.
//!
//! # Stored form
//! `varint uncompressed_len, compressed bytes`. Which method it is stands outside, as one byte (see
//! [`method_byte`]). A block that would not become at least an eighth smaller is stored as it is:
//! decompressing it would cost more than the bytes saved.
//!
//! # Bounds
//! A decoder allocates the uncompressed length before it decodes. That length is therefore refused
//! when the method could not have reached it from the bytes at hand: Snappy makes at most 64 bytes
//! out of 2, Zstandard at most a block of 128 KiB out of 4. That is still much, and a failed allocation
//! ends the process: so a long one is refused if there is no memory for it.
//!
//! This file knows nothing of blocks, files or checksums.

use std::cell::RefCell;

use crate::coding::{Decoder, put_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Compression;

/// Zstandard's level: higher ones cost a third more time for no better ratio on blocks of a few
/// KiB.
const ZSTD_LEVEL: i32 = 1;
const SNAP_EXPANSION_MAX: usize = 32;
const ZSTD_EXPANSION_MAX: usize = (128 << 10) / 4;
/// Longer blocks are of a single value, and rare.
const LONG_BYTES: usize = 64 << 20;

/// Making a Zstandard context costs more than compressing a block, so each thread keeps its own.
#[derive(Default)]
struct Contexts {
    snap_encoder: Option<snap::raw::Encoder>,
    zstd_compressor: Option<zstd::bulk::Compressor<'static>>,
    zstd_decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// The byte that stands for `compression` in files.
pub(crate) fn method_byte(compression: Compression) -> u8 {
    match compression {
        Compression::None => 0,
        Compression::Snap => 1,
        Compression::Zstd => 2,
    }
}

/// The compression that `byte` stands for.
#[inline]
pub(crate) fn method_from_byte(byte: u8) -> Result<Compression> {
    match byte {
        0 => Ok(Compression::None),
        1 => Ok(Compression::Snap),
        2 => Ok(Compression::Zstd),
        _ => Err(unknown_method(byte)),
    }
}

#[cold]
fn unknown_method(byte: u8) -> Error {
    Error::new(ErrorKind::Unsupported, format!("unknown compression {byte}"))
        .advise("open the database with the esker version that wrote it, or a newer one")
}

/// Appends `payload` compressed to `out`. `false` if that would not save an eighth; then `out` is
/// as before.
pub(crate) fn compress(compression: Compression, payload: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let stored_len_max = payload.len() - payload.len() / 8;
    if compression == Compression::None || stored_len_max == payload.len() {
        return false;
    }
    put_varint(out, payload.len() as u64);
    let body = out.len();
    let written = CONTEXTS.with_borrow_mut(|contexts| match compression {
        Compression::None => None,
        Compression::Snap => contexts.snap(payload, out),
        Compression::Zstd => contexts.zstd(payload, out, stored_len_max),
    });
    match written {
        Some(len) if body + len - start <= stored_len_max => {
            out.truncate(body + len);
            true
        }
        // A method that cannot compress the bytes (too long, no memory for its context) is no
        // reason to fail.
        _ => {
            out.truncate(start);
            false
        }
    }
}

impl Contexts {
    fn snap(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let body = out.len();
        let len_max = snap::raw::max_compress_len(payload.len());
        if len_max == 0 {
            return None;
        }
        out.resize(body + len_max, 0);
        let encoder = self.snap_encoder.get_or_insert_with(snap::raw::Encoder::new);
        encoder.compress(payload, &mut out[body..]).ok()
    }

    fn zstd(&mut self, payload: &[u8], out: &mut Vec<u8>, len_max: usize) -> Option<usize> {
        let body = out.len();
        if self.zstd_compressor.is_none() {
            self.zstd_compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        // A destination of the largest useful length makes the method give up early on what it
        // cannot compress.
        out.resize(body + len_max, 0);
        self.zstd_compressor.as_mut()?.compress_to_buffer(payload, &mut out[body..]).ok()
    }
}

/// Splits stored bytes into the uncompressed length, checked against what the method can reach, and
/// the body for [`decompress`].
pub(crate) fn split_compressed(compression: Compression, stored: &[u8]) -> Result<(usize, &[u8])> {
    let mut decoder = Decoder::new(stored);
    let declared = decoder.varint().map_err(|_| damaged("compressed block without a length"))?;
    let body = decoder.rest();
    let expansion_max = match compression {
        Compression::None => 1,
        Compression::Snap => SNAP_EXPANSION_MAX,
        Compression::Zstd => ZSTD_EXPANSION_MAX,
    };
    match usize::try_from(declared) {
        Ok(len) if len <= body.len().saturating_mul(expansion_max) => {
            if len > LONG_BYTES && Vec::<u8>::new().try_reserve_exact(len).is_err() {
                return Err(damaged(
                    "no memory for a compressed block of the length that it claims",
                ));
            }
            Ok((len, body))
        }
        _ => Err(damaged("compressed block claims an impossible length")),
    }
}

/// Fills `out`, whose length is the uncompressed length, from a body given by [`split_compressed`].
pub(crate) fn decompress(compression: Compression, body: &[u8], out: &mut [u8]) -> Result<()> {
    let len = match compression {
        Compression::None => return Err(damaged("not a compressed block")),
        Compression::Snap => snap::raw::Decoder::new().decompress(body, out).ok(),
        Compression::Zstd => CONTEXTS.with_borrow_mut(|contexts| {
            if contexts.zstd_decompressor.is_none() {
                let made = zstd::bulk::Decompressor::new().map_err(|e| {
                    Error::new(ErrorKind::Io, "cannot make a decompression context").caused_by(e)
                })?;
                contexts.zstd_decompressor = Some(made);
            }
            Ok(contexts
                .zstd_decompressor
                .as_mut()
                .and_then(|zstd| zstd.decompress_to_buffer(body, out).ok()))
        })?,
    };
    if len == Some(out.len()) {
        return Ok(());
    }
    Err(damaged("compressed block cannot be decompressed"))
}

#[cold]
fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corruption, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(compression: Compression, payload: &[u8]) -> Option<usize> {
        let mut out = b"before".to_vec();
        if !compress(compression, payload, &mut out) {
            assert_eq!(out, b"before");
            return None;
        }
        let stored = &out[6..];
        assert!(stored.len() <= payload.len() - payload.len() / 8);
        let (len, body) = split_compressed(compression, stored).unwrap();
        let mut read = vec![0; len];
        decompress(compression, body, &mut read).unwrap();
        assert_eq!(read, payload);
        Some(stored.len())
    }

    #[test]
    fn compressible_bytes_shrink_and_others_are_left_alone() {
        let text = b"the quick brown fox jumps over the lazy dog; ".repeat(90);
        let noise: Vec<u8> =
            (0..4096u64).map(|i| crate::key::key_hash(&i.to_le_bytes()) as u8).collect();
        for compression in [Compression::Snap, Compression::Zstd] {
            assert!(round_trip(compression, &text).unwrap() < text.len() / 4);
            assert_eq!(round_trip(compression, &noise), None);
            assert_eq!(round_trip(compression, b""), None);
            assert_eq!(method_from_byte(method_byte(compression)).unwrap(), compression);
        }
        assert_eq!(round_trip(Compression::None, &text), None);
        assert_eq!(method_from_byte(3).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn extreme_ratios_stay_within_the_bound() {
        for compression in [Compression::Snap, Compression::Zstd] {
            assert!(round_trip(compression, &vec![0; 4 << 20]).is_some());
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_allocation() {
        let mut stored = Vec::new();
        put_varint(&mut stored, u64::MAX);
        stored.extend_from_slice(&[0; 32]);
        for compression in [Compression::Snap, Compression::Zstd] {
            assert_eq!(
                split_compressed(compression, &stored).unwrap_err().kind(),
                ErrorKind::Corruption
            );
        }
    }

    /// What the first esker stored must stay readable, whatever later versions of the libraries
    /// write.
    #[test]
    fn old_bytes_stay_readable() {
        let payload = b"sediment ".repeat(8);
        let snap: &[u8] = b"\x48\x48\x20sediment \xfa\x09\x00";
        let zstd: &[u8] =
            b"\x48\x28\xb5\x2f\xfd\x20\x48\x7d\x00\x00\x48sediment \x01\x00\xa4\x54\x8e";
        for (compression, stored) in [(Compression::Snap, snap), (Compression::Zstd, zstd)] {
            let (len, body) = split_compressed(compression, stored).unwrap();
            let mut read = vec![0; len];
            decompress(compression, body, &mut read).unwrap();
            assert_eq!(read, payload);
        }
    }

    proptest! {
        #[test]
        fn round_trips(words in proptest::collection::vec(0u8..4, 0..2000)) {
            round_trip(Compression::Snap, &words);
            round_trip(Compression::Zstd, &words);
        }

        #[test]
        fn decoding_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for compression in [Compression::Snap, Compression::Zstd] {
                if let Ok((len, body)) = split_compressed(compression, &bytes) {
                    let _ = decompress(compression, body, &mut vec![0; len]);
                }
            }
        }
    }
}
