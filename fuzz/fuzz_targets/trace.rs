//! Any bytes as a workload trace: reading and summing up ends in an answer or an error.
//!
//! The input is the file. A random one never gets past the checksums, so seed the corpus with a real trace.

#![no_main]

use std::path::Path;

use esker::fs::SimFs;
use esker::trace::{TraceReader, TraceSummary};
use libfuzzer_sys::fuzz_target;

const PATH: &str = "/app.trace";

fuzz_target!(|data: &[u8]| {
    let fs = SimFs::new();
    fs.write_file(PATH, data).expect("the file is writable");
    let path = Path::new(PATH);
    let Ok(summary) = TraceSummary::read(&fs, path, None) else { return };
    let _ = summary.to_string();
    let mut reader = TraceReader::open(&fs, path).expect("it was read a moment ago");
    let mut read_bytes = 32 + reader.torn_bytes();
    while let Some(block) = reader.next_block().expect("it was read a moment ago") {
        // A record takes at least 11 bytes: what is held is bounded by what is there.
        read_bytes += 12 + 11 * block.records.len() as u64;
    }
    assert!(read_bytes <= data.len() as u64, "records out of nowhere");
});
