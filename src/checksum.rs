//! Checksums: CRC-32 (IEEE, by `crc32fast`) over several slices, salted with the place where the bytes belong.
//!
//! The salt is the file number and the offset. Bytes that are whole but stand in the wrong place (a swapped file,
//! a stale record in a recycled log segment, a misdirected write) fail the check like damaged ones.

use crc32fast::Hasher;

/// CRC-32 of `parts` in order, salted with a file number and an offset in that file.
#[inline]
pub(crate) fn checksum_at(file: u64, offset: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = hasher_at(file, offset);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

/// A CRC-32 under way that has taken only the salt: for bytes whose end is being looked for.
#[inline]
pub(crate) fn hasher_at(file: u64, offset: u64) -> Hasher {
    let mut salt = [0u8; 16];
    salt[..8].copy_from_slice(&file.to_le_bytes());
    salt[8..].copy_from_slice(&offset.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&salt);
    hasher
}

/// CRC-32 of `bytes`, unsalted.
#[inline]
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_part_of_the_checksum() {
        let base = checksum_at(7, 4096, &[b"block"]);
        assert_eq!(base, checksum_at(7, 4096, &[b"bl", b"ock"]));
        assert_ne!(base, checksum_at(8, 4096, &[b"block"]));
        assert_ne!(base, checksum_at(7, 0, &[b"block"]));
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }
}
