//! Names of the files in a database directory.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked while the database is open; always empty |
//! | `CURRENT` | names the live manifest |
//! | `INCOMPLETE` | the directory is being put together by a checkpoint or a restore, or was left so by a crash |
//! | `CURRENT.tmp` | the next `CURRENT`, before its rename |
//! | `MANIFEST-NNNNNN` | a log of version edits |
//! | `NNNNNN.table` | a table |
//! | `NNNNNN.wal` | a segment of the write-ahead log; its number is the segment id |
//!
//! Any other name is a foreign file and is left alone.

use std::path::{Path, PathBuf};

use crate::key::FileNumber;

/// The kind of a file of the database, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    Lock,
    Current,
    CurrentTemporary,
    Incomplete,
    Manifest(FileNumber),
    Table(FileNumber),
    WalSegment(FileNumber),
}

impl FileKind {
    /// The file's name in its directory.
    pub(crate) fn file_name(self) -> String {
        match self {
            FileKind::Lock => "LOCK".to_owned(),
            FileKind::Current => "CURRENT".to_owned(),
            FileKind::CurrentTemporary => "CURRENT.tmp".to_owned(),
            FileKind::Incomplete => "INCOMPLETE".to_owned(),
            FileKind::Manifest(number) => format!("MANIFEST-{number}"),
            FileKind::Table(number) => format!("{number}.table"),
            FileKind::WalSegment(number) => format!("{number}.wal"),
        }
    }

    /// The file's path in `dir`.
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(self.file_name())
    }

    /// The kind of the file called `name`; `None` for a foreign file.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let kind = match name {
            "LOCK" => FileKind::Lock,
            "CURRENT" => FileKind::Current,
            "CURRENT.tmp" => FileKind::CurrentTemporary,
            "INCOMPLETE" => FileKind::Incomplete,
            _ => {
                if let Some(number) = name.strip_prefix("MANIFEST-") {
                    FileKind::Manifest(parse_number(number)?)
                } else if let Some(number) = name.strip_suffix(".table") {
                    FileKind::Table(parse_number(number)?)
                } else if let Some(number) = name.strip_suffix(".wal") {
                    FileKind::WalSegment(parse_number(number)?)
                } else {
                    return None;
                }
            }
        };
        // Only the name that we would write is ours: `7.table` and `+00007.table` are foreign.
        (kind.file_name() == name).then_some(kind)
    }
}

fn parse_number(text: &str) -> Option<FileNumber> {
    text.parse().ok().map(FileNumber).filter(|number| *number <= FileNumber::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_foreign_names_are_left_alone() {
        for kind in [
            FileKind::Lock,
            FileKind::Current,
            FileKind::CurrentTemporary,
            FileKind::Incomplete,
            FileKind::Manifest(FileNumber(3)),
            FileKind::Table(FileNumber(12)),
            FileKind::WalSegment(FileNumber(1_234_567)),
        ] {
            assert_eq!(FileKind::parse(&kind.file_name()), Some(kind));
        }
        for foreign in [
            "",
            "7.table",
            "+00007.table",
            "000007.sst",
            ".DS_Store",
            "MANIFEST-",
            "LOCK ",
            "x.wal",
            "18446744073709551615.table",
            "18446744073709551615.wal",
            "MANIFEST-18446744073709551614",
        ] {
            assert_eq!(FileKind::parse(foreign), None, "{foreign}");
        }
    }
}
