//! The commit queue: groups, their leaders, the order in which writes become visible, and failure.

use std::sync::Arc;

use esker::fs::{Persist, Repeat, SimFs};
use esker::{Db, Durability, ErrorKind, Snapshot, WriteBatch};

use super::explore::{below, explore};
use super::support::{check_left, go, join, open, pick, reopen, value, version, version_of, with};

const WRITERS: u64 = 3;
const EIO: i32 = 5;

fn key(writer: u64) -> String {
    format!("writer {writer}")
}

/// Writes version `version` of `writer`, and as the last writer's.
fn write(db: &Db, writer: u64, version: u64, durability: Durability) -> esker::Result<()> {
    let mut batch = WriteBatch::new();
    batch.put(key(writer), value(version, 24)).put("last", value(writer << 32 | version, 8));
    db.write_with(batch, &with(durability))
}

/// What a snapshot shows: the version of each writer, and who wrote last.
fn seen(snapshot: &Snapshot) -> ([u64; WRITERS as usize], u64) {
    let read = |key: String| version_of(snapshot.get(key).unwrap().as_deref());
    (std::array::from_fn(|writer| read(key(writer as u64))), read("last".to_owned()))
}

/// Every moment that a reader sees is a prefix of the commit order: the batch that wrote last is whole, and what was
/// read once is read again.
fn check_moments(db: &Db, count: usize) -> Vec<(Snapshot, ([u64; WRITERS as usize], u64))> {
    let mut moments = Vec::new();
    let mut before = [0; WRITERS as usize];
    for _ in 0..count {
        let snapshot = db.snapshot();
        let (versions, last) = seen(&snapshot);
        assert!(versions.iter().zip(before).all(|(now, before)| *now >= before), "went back");
        if last > 0 {
            let (writer, version) = ((last >> 32) as usize, last & u64::from(u32::MAX));
            assert_eq!(versions[writer], version, "the last batch is not whole, or not the last");
        }
        before = versions;
        moments.push((snapshot, (versions, last)));
    }
    moments
}

#[test]
fn every_writer_wakes_and_readers_see_prefixes() {
    explore("commit", (60, 2400, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open(&fs, 0);
        let write_some = |writer: u64, db: Db| {
            move || {
                for round in 1..=2 + below(2) {
                    let durability = pick(&[
                        Durability::Sync,
                        Durability::Sync,
                        Durability::Buffered,
                        Durability::Disabled,
                    ]);
                    write(&db, writer, round, durability).unwrap();
                    assert_eq!(version(&db, key(writer)), round, "a writer does not see its write");
                    if below(4) == 0 {
                        db.sync().unwrap();
                    }
                }
            }
        };
        let writers = (0..WRITERS).map(|writer| go(write_some(writer, db.clone()))).collect();
        let moments = check_moments(&db, 3);
        join::<()>(writers);
        for (snapshot, was) in &moments {
            assert_eq!(seen(snapshot), *was, "a write appeared below a snapshot");
        }
        drop(moments);
        db.close().unwrap();
        check_left(&fs);
    });
}

#[test]
fn what_readers_see_of_synced_writes_survives_the_power_cut() {
    explore("commit_sync", (40, 1600, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open(&fs, 0);
        let write_some = |writer: u64, db: Db| {
            move || {
                for round in 1..=2 {
                    write(&db, writer, round, Durability::Sync).unwrap();
                }
            }
        };
        let writers = (0..WRITERS).map(|writer| go(write_some(writer, db.clone()))).collect();
        let (versions, _) = seen(&db.snapshot());
        let cut = fs.crash_clone(Persist::Nothing);
        join::<()>(writers);
        db.close().unwrap();
        let after = reopen(cut);
        let (recovered, _) = seen(&after.snapshot());
        for (writer, (seen, kept)) in versions.into_iter().zip(recovered).enumerate() {
            assert!(kept >= seen, "writer {writer}: {seen} was seen, {kept} is durable");
        }
    });
}

#[test]
fn a_failing_sync_poisons_everybody_who_waits() {
    explore("commit_poison", (40, 1600, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open(&fs, 0);
        write(&db, 0, 1, Durability::Sync).unwrap();
        let write_some = |writer: u64, db: Db| {
            move || {
                let mut acknowledged = u64::from(writer == 0);
                for round in 2..=4 {
                    let durability =
                        pick(&[Durability::Sync, Durability::Sync, Durability::Buffered]);
                    match write(&db, writer, round, durability) {
                        Ok(()) => acknowledged = round,
                        Err(error) => {
                            let kind = error.kind();
                            assert!(
                                matches!(kind, ErrorKind::Io | ErrorKind::Poisoned),
                                "{kind:?}: {error}"
                            );
                            break;
                        }
                    }
                }
                acknowledged
            }
        };
        fs.fail_at(fs.op_count() + 1 + below(12), EIO, pick(&[Repeat::Once, Repeat::Forever]));
        let writers = (0..WRITERS).map(|writer| go(write_some(writer, db.clone()))).collect();
        let syncer = go({
            let db = db.clone();
            move || drop(db.sync())
        });
        let acknowledged = join(writers);
        syncer.join().unwrap();
        for (writer, version_acknowledged) in acknowledged.into_iter().enumerate() {
            let shown = version(&db, key(writer as u64));
            assert_eq!(shown, version_acknowledged, "writer {writer}: a failed write is shown");
        }
        fs.clear_faults();
        drop(db);
    });
}
