//! Byte coding: fixed-width little-endian integers, varints and length-prefixed slices.
//!
//! Every format of esker is written through the `put_*` functions and read through [`Decoder`]. Decoders are
//! total: any input gives a value or [`Truncated`], never a panic, and nothing is allocated from a length read.
//! Callers turn [`Truncated`] into a corruption error that names their file and offset.

use byteorder::{ByteOrder, LittleEndian};

/// The longest encoding of a varint of 64 bits.
pub(crate) const VARINT64_LEN_MAX: usize = 10;

/// The input ended early, or a varint was longer than its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// Appends a 32-bit little-endian integer.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a 64-bit little-endian integer.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a varint: 7 bits a byte, low bits first, the high bit set on all bytes but the last.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a varint length and then the bytes.
pub(crate) fn put_slice(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The number of bytes [`put_varint`] writes for `value`.
pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Reads from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder over all of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes }
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    #[inline]
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        let (&first, rest) = self.rest.split_first().ok_or(Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// A 16-bit little-endian integer.
    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.bytes(2).map(LittleEndian::read_u16)
    }

    /// A 32-bit little-endian integer.
    pub(crate) fn u32(&mut self) -> Result<u32, Truncated> {
        self.bytes(4).map(LittleEndian::read_u32)
    }

    /// A 64-bit little-endian integer.
    pub(crate) fn u64(&mut self) -> Result<u64, Truncated> {
        self.bytes(8).map(LittleEndian::read_u64)
    }

    /// A varint of at most 64 bits.
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Truncated> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(VARINT64_LEN_MAX).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == VARINT64_LEN_MAX - 1 && bits > 1 {
                return Err(Truncated);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(Truncated)
    }

    /// A varint that must fit `u32`.
    pub(crate) fn varint32(&mut self) -> Result<u32, Truncated> {
        u32::try_from(self.varint()?).map_err(|_| Truncated)
    }

    /// A varint length and that many bytes.
    #[inline]
    pub(crate) fn slice(&mut self) -> Result<&'a [u8], Truncated> {
        let len = usize::try_from(self.varint()?).map_err(|_| Truncated)?;
        self.bytes(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varint_round_trips(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut decoder = Decoder::new(&out);
            prop_assert_eq!(decoder.varint(), Ok(value));
            prop_assert!(decoder.is_empty());
            for cut in 0..out.len() {
                prop_assert_eq!(Decoder::new(&out[..cut]).varint(), Err(Truncated));
            }
        }

        #[test]
        fn decoders_are_total(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(&bytes);
            while decoder.slice().is_ok() && !decoder.is_empty() {}
            let _ = decoder.u64();
        }
    }

    #[test]
    fn overlong_varint_is_refused() {
        assert_eq!(Decoder::new(&[0xff; 11]).varint(), Err(Truncated));
        assert_eq!(
            Decoder::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]).varint(),
            Err(Truncated)
        );
    }
}
