//! Any bytes as a script of the command line's shell: every command is answered once, and the same whatever the tree.
//!
//! The script runs twice, on a database that keeps everything in memory and on one whose memtables, blocks and tables
//! are so small that a few puts make levels. All answers but metrics must be the same. Afterwards the database opens
//! and verifies.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use esker::clock::ManualClock;
use esker::fs::SimFs;
use esker::{Db, DbOptions, KeyspaceOptions, Leveled};

const DIR: &str = "/db";

pub(crate) fn check(input: &[u8]) -> bool {
    let roomy = KeyspaceOptions::default();
    let tiny = KeyspaceOptions {
        memtable_bytes: 4 << 10,
        block_bytes: 512,
        table_bytes: 4 << 10,
        ..KeyspaceOptions::default()
    }
    .compaction(Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 });
    let first = run(input, roomy);
    let second = run(input, tiny);
    assert_eq!(first.len(), second.len(), "the answers are not as many");
    for (one, other) in first.iter().zip(&second) {
        let are_metrics = one.starts_with('{') && other.starts_with('{');
        assert!(one == other || are_metrics, "{one:?} is not {other:?}");
    }
    !first.iter().any(|line| line.starts_with("err"))
}

/// The answers to a script, line by line.
fn run(input: &[u8], keyspace: KeyspaceOptions) -> Vec<String> {
    let fs = SimFs::new();
    let output = Output::default();
    let db = open(&fs, keyspace.clone());
    let ended = engine_cli::run_shell_script(db, &mut &*input, Box::new(output.clone()));
    ended.expect("memory does not fail, and every line has an answer");
    let db = open(&fs, keyspace);
    assert!(db.verify().expect("memory does not fail").is_ok(), "a script has damaged files");
    db.close().expect("memory does not fail");
    let bytes = std::mem::take(&mut *output.0.lock().expect("no writer panicked"));
    let text = String::from_utf8(bytes).expect("answers are text, whatever the values");
    assert!(text.is_empty() || text.ends_with('\n'), "an answer ends within its line");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &lines {
        let is_answer = ["ok", "-"].contains(&&**line)
            || ["= ", "end ", "err ", "{"].iter().any(|start| line.starts_with(start));
        assert!(is_answer, "no answer of the protocol: {line:?}");
    }
    lines
}

fn open(fs: &SimFs, keyspace: KeyspaceOptions) -> Db {
    let options = DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 128 << 10,
        cache_bytes: 1 << 16,
        ..DbOptions::default()
    };
    let clock = Arc::new(ManualClock::at_unix_ms(1_800_000_000_000));
    let builder = Db::builder().options(options).default_keyspace(keyspace).clock(clock);
    builder.file_system(Arc::new(fs.clone())).open(DIR).expect("open")
}

/// What a session wrote.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
