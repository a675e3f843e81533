//! Any bytes as a workload trace: reading and summing up ends in an answer or an error, and holds no more than is
//! there.

use std::path::Path;

use esker::fs::SimFs;
use esker::trace::{TraceReader, TraceSummary};

const PATH: &str = "/app.trace";

pub(crate) fn check(input: &[u8]) -> bool {
    let fs = SimFs::new();
    fs.write_file(PATH, input).expect("the file is writable");
    let path = Path::new(PATH);
    let Ok(summary) = TraceSummary::read(&fs, path, None) else { return false };
    let _ = summary.to_string();
    let shares = [summary.put_share, summary.delete_share, summary.get_share, summary.scan_share];
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "shares: {shares:?}");
    let mut reader = TraceReader::open(&fs, path).expect("it was read a moment ago");
    let mut read_bytes = 32 + reader.torn_bytes();
    while let Some(block) = reader.next_block().expect("it was read a moment ago") {
        // A record takes at least 11 bytes: what is held is bounded by what is there.
        read_bytes += 12 + 11 * block.records.len() as u64;
    }
    assert!(read_bytes <= input.len() as u64, "records out of nowhere");
    for keyspace in TraceSummary::keyspaces(&fs, path).expect("it was read a moment ago") {
        let part = TraceSummary::read(&fs, path, Some(keyspace)).expect("it was read a moment ago");
        assert!(part.operations <= summary.operations, "a part is more than the whole");
    }
    true
}
