//! Why tables are known by a hash: their CRC-32 does not tell them apart.

use super::*;
use crate::fs::SimFs;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber, Trailer, ValueKind};
use crate::options::{Compression, KeyspaceOptions};
use crate::table::TableMeta;
use crate::table::writer::{TableWriter, TableWriterOptions};

fn table_of(fs: &SimFs, dir: &Path, value: &[u8]) -> TableMeta {
    let options = KeyspaceOptions::default();
    let options = TableWriterOptions {
        number: FileNumber(1),
        keyspace: KeyspaceId(0),
        block_bytes: options.block_bytes,
        compression: Compression::None,
        filter: options.filter,
        filter_bits: 10.0,
    };
    fs.create_dir_all(dir).unwrap();
    let mut writer = TableWriter::create(fs, dir, options).unwrap();
    writer.set_write_times(1, 1);
    writer.add(b"key", Trailer::new(SequenceNumber(1), ValueKind::Put), value).unwrap();
    writer.finish().unwrap()
}

/// Each block ends with its own CRC-32, so the state of a CRC-32 that runs over it depends on its length only. Should
/// this ever fail, the manifest's checksum has become a better one.
#[test]
fn tables_of_different_values_have_one_crc_and_two_hashes() {
    let fs = SimFs::new();
    let metas = ["left ", "right"].map(|value| {
        table_of(&fs, Path::new("/db").join(value.trim()).as_path(), value.as_bytes())
    });
    assert_eq!(metas[0], metas[1]);
    let contents = ["/db/left/000001.table", "/db/right/000001.table"]
        .map(|path| read(&fs, Path::new(path)).unwrap());
    assert_eq!(contents[0].bytes, contents[1].bytes);
    assert_ne!(contents[0].hash, contents[1].hash);
}
