//! A list of files as bytes: what the targets take that need more than one file.
//!
//! ```text
//! list := file*
//! file := kind:u8 number:u32 len:u32 content[len]      -- little-endian
//! ```
//! A length that is too long takes what is left, and less than a head of a file ends the list, so that any bytes are a
//! list.

/// The bytes of a file before its content.
const HEAD_LEN: usize = 9;

/// A file of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) kind: u8,
    pub(crate) number: u32,
    pub(crate) content: Vec<u8>,
}

/// The files that `list` lists.
pub(crate) fn read(mut list: &[u8]) -> Vec<File> {
    let mut files = Vec::new();
    while let Some((head, rest)) = list.split_at_checked(HEAD_LEN) {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| head[at + index]));
        let (content, rest) = rest.split_at((word(5) as usize).min(rest.len()));
        files.push(File { kind: head[0], number: word(1), content: content.to_vec() });
        list = rest;
    }
    files
}

/// The list of `files`, appended to `out`.
pub(crate) fn write(files: &[File], out: &mut Vec<u8>) {
    for File { kind, number, content } in files {
        out.push(*kind);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&(content.len() as u32).to_le_bytes());
        out.extend_from_slice(content);
    }
}
