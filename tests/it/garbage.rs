//! What a snapshot pinned leaves the disk once it is released, with every strategy that keeps data.
//!
//! Values are overwritten under a snapshot, so that flushes and merges must write both versions. Without another write,
//! compaction then takes the old ones away, and has nothing more to do.

use std::path::Path;

use esker::fs::sim_fs::SimFs;
use esker::{Compaction, Compression, Db, LazyLeveled, Leveled, SizeTiered, TimeWindow};

use crate::support::{DIR, Map, Rng, Setup};

fn strategies() -> [Compaction; 4] {
    [
        Leveled::default().into(),
        SizeTiered::default().into(),
        LazyLeveled::default().into(),
        TimeWindow::default().into(),
    ]
}

fn setup(compaction: Compaction) -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 256 << 10;
    setup.keyspace.table_bytes = 16 << 10;
    setup.keyspace.compression = vec![Compression::None];
    setup.keyspace.compaction = compaction;
    setup
}

/// The tables in the directory, and the bytes of all.
fn tables(fs: &SimFs) -> (Vec<String>, u64) {
    let names = fs.list_dir(DIR).into_iter().filter(|name| name.contains(".table"));
    let names: Vec<String> = names.collect();
    let len = |name: &String| fs.read_file(Path::new(DIR).join(name)).map_or(0, |b| b.len());
    let bytes = names.iter().map(len).sum::<usize>();
    (names, bytes as u64)
}

fn overwrite(db: &Db, rng: &mut Rng) -> Map {
    let mut map = Map::new();
    for key in 0..300 {
        let key = format!("key{key:06}").into_bytes();
        let value: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
        db.put(&key, &value).unwrap();
        map.insert(key, value);
    }
    map
}

fn check(items: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>, map: &Map) {
    let items: Map = items.map(Result::unwrap).map(|(key, value)| (key, value.to_vec())).collect();
    assert!(items == *map, "the contents are wrong");
}

/// Both versions of all keys are on disk; then the snapshot goes, and with it half of the bytes.
fn check_space(compaction: Compaction, merge: bool) {
    let fs = SimFs::new();
    let db = setup(compaction).open_sim(&fs).unwrap();
    let mut rng = Rng::new(11);
    let old = overwrite(&db, &mut rng);
    let snapshot = db.snapshot();
    let new = overwrite(&db, &mut rng);
    db.flush().unwrap();
    if merge {
        db.compact_range::<&[u8]>(..).unwrap();
    }
    db.wait_idle().unwrap();
    let (_, pinned_bytes) = tables(&fs);
    assert!(pinned_bytes > 2 * 300 * 200, "{pinned_bytes} bytes hold both versions");
    check(snapshot.iter(), &old);
    assert!(!db.metrics().compaction_pending);

    drop(snapshot);
    assert!(db.metrics().compaction_pending, "compaction is woken");
    db.wait_idle().unwrap();
    let (names, bytes) = tables(&fs);
    assert!(bytes < 300 * 200 * 5 / 4, "{bytes} bytes of {pinned_bytes} for one version");
    check(db.iter(), &new);
    assert!(db.verify().unwrap().is_ok());

    // Silent from now on: nothing is rewritten, and a snapshot that pins nothing wakes nobody.
    drop(db.snapshot());
    assert!(!db.metrics().compaction_pending);
    db.wait_idle().unwrap();
    assert_eq!(tables(&fs), (names, bytes));
}

#[test]
fn space_comes_back_when_the_snapshot_goes() {
    for compaction in strategies() {
        check_space(compaction, true);
    }
}

#[test]
fn space_comes_back_where_nothing_is_merged() {
    for compaction in strategies() {
        check_space(compaction, false);
    }
}

/// Snapshots taken and released in turn: there is always one, and each table is rewritten once at most for what an
/// older one pinned.
#[test]
fn snapshots_in_turn_make_no_endless_work() {
    for compaction in strategies() {
        let fs = SimFs::new();
        let db = setup(compaction).open_sim(&fs).unwrap();
        let mut rng = Rng::new(12);
        overwrite(&db, &mut rng);
        let mut snapshots = vec![db.snapshot()];
        let mut map = overwrite(&db, &mut rng);
        db.flush().unwrap();
        let mut take_turns = || {
            for _ in 0..20 {
                snapshots.push(db.snapshot());
                snapshots.remove(0);
                db.wait_idle().unwrap();
            }
            db.metrics().compactions
        };
        let merges = take_turns();
        assert!(merges > 0 && take_turns() == merges, "once is enough");
        map.extend(overwrite(&db, &mut rng));
        db.flush().unwrap();
        drop(snapshots);
        db.wait_idle().unwrap();
        check(db.iter(), &map);
        assert!(tables(&fs).1 < 2 * 300 * 200 * 5 / 4);
    }
}
