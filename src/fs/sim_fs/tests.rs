//! Each rule of the module text, one test; then random workloads against a model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::fs::Access;

const BLOCK: usize = BLOCK_BYTES;

fn with_db() -> SimFs {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/db")).unwrap();
    fs
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/db").join(name)
}

fn sync_db(fs: &SimFs) {
    fs.sync_dir(Path::new("/db")).unwrap();
}

/// A new file with these bytes; nothing of it is synced.
fn put(fs: &SimFs, name: &str, bytes: &[u8]) -> Box<dyn AppendFile> {
    let mut file = fs.create(&path(name)).unwrap();
    file.append(bytes).unwrap();
    file
}

/// A new file with these bytes, all durable.
fn put_synced(fs: &SimFs, name: &str, bytes: &[u8]) -> Box<dyn AppendFile> {
    let mut file = put(fs, name, bytes);
    file.sync_data().unwrap();
    sync_db(fs);
    file
}

fn after(fs: &SimFs, persist: Persist, name: &str) -> Option<Vec<u8>> {
    fs.crash_clone(persist).read_file(path(name))
}

fn files(fs: &SimFs) -> BTreeMap<String, Vec<u8>> {
    let names = fs.list_dir("/db").into_iter();
    names.map(|name| (name.clone(), fs.read_file(path(&name)).unwrap())).collect()
}

fn errno(error: &Error) -> Option<i32> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>()?.raw_os_error()
}

fn random_half(seed: u64) -> Persist {
    Persist::Random { percent: 50, seed }
}

// ---- what is durable ----

#[test]
fn sync_data_makes_bytes_durable_but_not_the_name() {
    let fs = with_db();
    let mut file = put(&fs, "a", b"one");
    file.sync_data().unwrap();
    file.append(b"two").unwrap();
    assert_eq!(after(&fs, Persist::Nothing, "a"), None);
    assert_eq!(after(&fs, Persist::BytesOnly, "a"), None);
    assert_eq!(after(&fs, Persist::NamesOnly, "a").unwrap(), b"one");
    assert_eq!(after(&fs, Persist::Everything, "a").unwrap(), b"onetwo");
}

#[test]
fn sync_dir_makes_names_durable_but_not_bytes() {
    let fs = with_db();
    let _file = put(&fs, "a", b"one");
    sync_db(&fs);
    assert_eq!(after(&fs, Persist::Nothing, "a").unwrap(), b"");
    assert_eq!(after(&fs, Persist::NamesOnly, "a").unwrap(), b"");
    assert_eq!(after(&fs, Persist::BytesOnly, "a").unwrap(), b"one");
}

#[test]
fn sync_dir_concerns_that_directory_only() {
    let fs = with_db();
    fs.create_dir_all(Path::new("/db/sub")).unwrap();
    put(&fs, "sub/a", b"").sync_data().unwrap();
    sync_db(&fs);
    assert_eq!(after(&fs, Persist::Nothing, "sub/a"), None);
    fs.sync_dir(Path::new("/db/./sub/../sub")).unwrap();
    assert_eq!(after(&fs, Persist::Nothing, "sub/a").unwrap(), b"");
}

#[test]
fn directories_are_durable_once_created() {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("x/y")).unwrap();
    let crashed = fs.crash_clone(Persist::Nothing);
    assert_eq!(crashed.list(Path::new("./x")).unwrap().unwrap().len(), 1);
    assert_eq!(crashed.list(Path::new("x/y")).unwrap().unwrap(), []);
    assert_eq!(crashed.list(Path::new("x/z")).unwrap(), None);
}

#[test]
fn rename_is_one_change_and_keeps_the_old_target_until_synced() {
    let fs = with_db();
    put_synced(&fs, "CURRENT", b"old");
    put(&fs, "CURRENT.tmp", b"new").sync_data().unwrap();
    fs.rename(&path("CURRENT.tmp"), &path("CURRENT")).unwrap();
    assert_eq!(fs.list_dir("/db"), ["CURRENT"]);
    assert_eq!(after(&fs, Persist::Nothing, "CURRENT").unwrap(), b"old");
    for seed in 0..200 {
        let crashed = fs.crash_clone(random_half(seed));
        let found = files(&crashed);
        let current = found["CURRENT"].as_slice();
        match found.get("CURRENT.tmp").map(Vec::as_slice) {
            // Neither change survived, or both did, or a lone rename was dropped: it had no source.
            None => assert!(current == b"old" || current == b"new"),
            Some(temporary) => assert_eq!((current, temporary), (&b"old"[..], &b"new"[..])),
        }
    }
    sync_db(&fs);
    assert_eq!(files(&fs.crash_clone(Persist::Nothing)), files(&fs));
    assert_eq!(after(&fs, Persist::Nothing, "CURRENT").unwrap(), b"new");
}

#[test]
fn removal_is_undone_by_a_crash_until_the_directory_is_synced() {
    let fs = with_db();
    put_synced(&fs, "a", b"bytes");
    fs.remove(&path("a")).unwrap();
    assert!(fs.open(&path("a")).unwrap().is_none());
    assert_eq!(after(&fs, Persist::Nothing, "a").unwrap(), b"bytes");
    sync_db(&fs);
    assert_eq!(after(&fs, Persist::Nothing, "a"), None);
    assert_eq!(fs.remove(&path("a")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn create_truncates_in_place_and_old_bytes_come_back_until_synced() {
    let fs = with_db();
    put_synced(&fs, "a", &[1; 2 * BLOCK]);
    let mut file = put(&fs, "a", b"new");
    assert_eq!(fs.read_file(path("a")).unwrap(), b"new");
    assert_eq!(after(&fs, Persist::Nothing, "a").unwrap(), [1; 2 * BLOCK]);
    assert_eq!(after(&fs, Persist::Everything, "a").unwrap(), b"new");
    file.sync_data().unwrap();
    assert_eq!(after(&fs, Persist::Nothing, "a").unwrap(), b"new");
    // The bytes cut off are gone for good: growing again shows zeros.
    file.append(&[0; BLOCK]).unwrap();
    file.sync_data().unwrap();
    let grown = after(&fs, Persist::Nothing, "a").unwrap();
    assert_eq!((grown.len(), &grown[..3]), (BLOCK + 3, &b"new"[..]));
    assert!(grown[3..].iter().all(|&byte| byte == 0));
}

#[test]
fn create_log_is_durable_zeros_under_a_volatile_name() {
    let fs = with_db();
    // Over an old file too: what a crash leaves is the new one's zeros, not the old one's bytes.
    put(&fs, "000001.wal", &[7; 3 * BLOCK]).sync_data().unwrap();
    let log = fs.create_log(&path("000001.wal"), 2 * BLOCK as u64, true).unwrap();
    assert_eq!(after(&fs, Persist::Nothing, "000001.wal"), None);
    sync_db(&fs);
    log.write_at(10, b"record").unwrap();
    assert_eq!(after(&fs, Persist::Nothing, "000001.wal").unwrap(), [0; 2 * BLOCK]);
    log.sync_data().unwrap();
    assert_eq!(&after(&fs, Persist::Nothing, "000001.wal").unwrap()[10..16], b"record");
}

#[test]
fn recycled_log_keeps_old_bytes_and_may_come_back_under_its_old_name() {
    let fs = with_db();
    let old = fs.create_log(&path("000001.wal"), BLOCK as u64, false).unwrap();
    old.write_at(0, b"oldold").unwrap();
    old.sync_data().unwrap();
    sync_db(&fs);
    let log =
        fs.recycle_log(&path("000001.wal"), &path("000002.wal"), BLOCK as u64, false).unwrap();
    log.write_at(0, b"new").unwrap();
    log.sync_data().unwrap();
    assert_eq!(&fs.read_file(path("000002.wal")).unwrap()[..6], b"newold");
    let crashed = fs.crash_clone(Persist::Nothing);
    assert_eq!(crashed.list_dir("/db"), ["000001.wal"]);
    assert_eq!(&crashed.read_file(path("000001.wal")).unwrap()[..6], b"newold");
    let error = fs.recycle_log(&path("000002.wal"), &path("000003.wal"), 1, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn removed_files_live_while_open_or_mapped() {
    let fs = with_db();
    let mut writer = put(&fs, "a", b"bytes");
    let reader = fs.open(&path("a")).unwrap().unwrap();
    let map = reader.map(Access::Random).unwrap();
    fs.remove(&path("a")).unwrap();
    sync_db(&fs);
    put(&fs, "a", b"other");
    writer.append(b"!").unwrap();
    let mut buf = [0; 6];
    reader.read_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"bytes!");
    assert_eq!((reader.bytes(), &map[..]), (5, &b"bytes"[..]));
    drop((writer, reader));
    map.populate(0..5).unwrap();
    assert_eq!(fs.read_file(path("a")).unwrap(), b"other");
}

// ---- chance ----

#[test]
fn random_crashes_keep_or_lose_whole_blocks_and_sometimes_tear_one() {
    let fs = with_db();
    let log = fs.create_log(&path("000001.wal"), 8 * BLOCK as u64, true).unwrap();
    sync_db(&fs);
    log.write_at(0, &vec![1; 8 * BLOCK]).unwrap();
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..50 {
        let bytes = after(&fs, random_half(seed), "000001.wal").unwrap();
        assert_eq!(bytes.len(), 8 * BLOCK);
        for block in bytes.chunks(BLOCK) {
            match block.windows(2).filter(|pair| pair[0] != pair[1]).count() {
                0 if block[0] == 0 => lost += 1,
                0 => kept += 1,
                // One cut, not noise.
                cuts => {
                    assert_eq!(cuts, 1);
                    torn += 1;
                }
            }
        }
    }
    assert!(kept > 100 && lost > 100 && torn > 10, "{kept} {lost} {torn}");
}

#[test]
fn random_crashes_never_touch_synced_bytes() {
    let fs = with_db();
    let log = fs.create_log(&path("000001.wal"), 2 * BLOCK as u64, true).unwrap();
    sync_db(&fs);
    log.write_at(0, &[1; 1000]).unwrap();
    log.sync_data().unwrap();
    log.write_at(1000, &[2; BLOCK]).unwrap();
    for seed in 0..200 {
        let bytes = after(&fs, random_half(seed), "000001.wal").unwrap();
        assert_eq!(bytes[..1000], [1; 1000]);
        assert!(bytes[1000..1000 + BLOCK].iter().all(|&byte| byte == 0 || byte == 2));
        assert!(bytes[1000 + BLOCK..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn random_crashes_keep_or_lose_growth_and_show_zeros_for_lost_blocks() {
    let fs = with_db();
    let mut file = put_synced(&fs, "a", &[1; 100]);
    file.append(&[2; 2 * BLOCK]).unwrap();
    let mut lengths = BTreeMap::new();
    for seed in 0..200 {
        let bytes = after(&fs, random_half(seed), "a").unwrap();
        assert_eq!(bytes[..100], [1; 100]);
        assert!(bytes[100..].iter().all(|&byte| byte == 0 || byte == 2));
        *lengths.entry(bytes.len()).or_insert(0) += 1;
    }
    assert!(lengths[&100] > 20 && lengths[&(100 + 2 * BLOCK)] > 20 && lengths.len() > 10);
}

#[test]
fn a_seed_gives_one_result_and_extremes_equal_the_plain_models() {
    let fs = with_db();
    put_synced(&fs, "a", &[1; 3 * BLOCK]);
    let _a = put(&fs, "a", &vec![2; 5 * BLOCK]);
    let _b = put(&fs, "b", &vec![3; 5 * BLOCK]);
    fs.rename(&path("b"), &path("c")).unwrap();
    let mut distinct = Vec::new();
    for seed in 0..20 {
        let crashed = files(&fs.crash_clone(random_half(seed)));
        assert_eq!(crashed, files(&fs.crash_clone(random_half(seed))));
        let none = Persist::Random { percent: 0, seed };
        assert_eq!(files(&fs.crash_clone(none)), files(&fs.crash_clone(Persist::Nothing)));
        let all = Persist::Random { percent: 100, seed };
        assert_eq!(files(&fs.crash_clone(all)), files(&fs));
        distinct.push(crashed);
    }
    distinct.sort();
    distinct.dedup();
    assert!(distinct.len() > 10);
}

#[test]
fn names_survive_mostly_as_a_prefix_and_sometimes_as_a_subset() {
    let fs = with_db();
    for name in ["1", "2", "3", "4"] {
        put(&fs, name, b"");
    }
    let (mut prefixes, mut subsets) = (0, 0);
    for seed in 0..400 {
        let names = fs.crash_clone(random_half(seed)).list_dir("/db");
        let is_prefix = ["1", "2", "3", "4"].iter().zip(&names).all(|(a, b)| a == b);
        *(if is_prefix { &mut prefixes } else { &mut subsets }) += 1;
    }
    assert!(prefixes > 250 && subsets > 20, "{prefixes} {subsets}");
}

#[test]
fn no_crash_leaves_one_file_under_two_names() {
    let fs = with_db();
    put_synced(&fs, "1", b"x");
    fs.rename(&path("1"), &path("2")).unwrap();
    fs.rename(&path("2"), &path("3")).unwrap();
    let mut seen = Vec::new();
    for seed in 0..200 {
        let names = fs.crash_clone(random_half(seed)).list_dir("/db");
        assert_eq!(names.len(), 1, "{names:?}");
        seen.extend(names);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["1", "2", "3"]);
}

#[test]
fn blocks_cut_off_again_leave_nothing_in_a_crash() {
    let fs = with_db();
    put_synced(&fs, "a", &[1; 2 * BLOCK]);
    put(&fs, "a", &[2; 2 * BLOCK]);
    put(&fs, "a", b"3");
    let mut uncut = 0;
    for seed in 0..50 {
        let bytes = after(&fs, random_half(seed), "a").unwrap();
        uncut += usize::from(bytes.len() == 2 * BLOCK);
        assert!(bytes.iter().skip(BLOCK).all(|&byte| byte == 1));
    }
    assert!(uncut > 10);
}

// ---- clones ----

// ---- the order of changes, and torn writes ----

#[test]
fn a_prefix_keeps_the_first_changes_across_files_and_names() {
    let fs = with_db();
    let mut synced = put_synced(&fs, "a", b"1");
    let mut other = put(&fs, "b", b"2");
    synced.append(b"3").unwrap();
    other.append(b"4").unwrap();
    fs.rename(&path("b"), &path("c")).unwrap();
    fs.remove(&path("a")).unwrap();
    // The name b, its byte, a byte of a, another of b, the rename, the removal.
    assert_eq!(fs.unsynced_count(), 6);
    let expected: [&[(&str, &str)]; 8] = [
        &[("a", "1")],
        &[("a", "1"), ("b", "")],
        &[("a", "1"), ("b", "2")],
        &[("a", "13"), ("b", "2")],
        &[("a", "13"), ("b", "24")],
        &[("a", "13"), ("c", "24")],
        &[("c", "24")],
        &[("c", "24")],
    ];
    for (kept, expected) in (0..).zip(expected) {
        let found = files(&fs.crash_clone(Persist::Prefix { kept }));
        let expected =
            expected.iter().map(|(name, bytes)| (name.to_string(), bytes.as_bytes().to_vec()));
        assert_eq!(found, expected.collect(), "{kept}");
    }
    // What a sync covers leaves the order, and what came before it in another file stays in it.
    other.sync_data().unwrap();
    assert_eq!(fs.unsynced_count(), 4);
    let found = files(&fs.crash_clone(Persist::Prefix { kept: 1 }));
    assert_eq!(
        found,
        [("a", "1"), ("b", "24")].map(|(name, bytes)| (name.into(), bytes.into())).into()
    );
}

#[test]
fn a_prefix_has_truncations_in_their_place() {
    let fs = with_db();
    put_synced(&fs, "a", b"old bytes");
    put(&fs, "a", b"new");
    let kept = |kept| after(&fs, Persist::Prefix { kept }, "a").unwrap();
    assert_eq!(fs.unsynced_count(), 2);
    assert_eq!((kept(0), kept(1), kept(2)), (b"old bytes".into(), b"".into(), b"new".into()));
}

#[test]
fn a_torn_write_ends_in_old_bytes_or_in_zeros() {
    let fs = with_db();
    let log = fs.create_log(&path("000001.wal"), 8, true).unwrap();
    log.write_at(0, b"oldold").unwrap();
    log.sync_data().unwrap();
    let mut table = put(&fs, "a", b"first");
    table.append(b"last").unwrap();
    log.write_at(0, b"1").unwrap();
    log.write_at(1, b"2345").unwrap();
    let torn = |kept_bytes, rest| {
        let crashed = fs.crash_clone(Persist::Torn { kept_bytes, rest });
        ["000001.wal", "a"].map(|name| crashed.read_file(path(name)).unwrap())
    };
    assert_eq!(torn(3, TornRest::Old), [b"1234ld\0\0".to_vec(), b"firstlas".to_vec()]);
    assert_eq!(torn(1, TornRest::Zeros), [b"12dold\0\0".to_vec(), b"firstl\0\0\0".to_vec()]);
    assert_eq!(torn(4, TornRest::Old), torn(0, TornRest::Old));
    log.sync_data().unwrap();
    assert_eq!(torn(3, TornRest::Zeros)[0], b"12345d\0\0");
}

#[test]
fn lengths_without_bytes_are_zeros() {
    let fs = with_db();
    put_synced(&fs, "a", b"old").append(b"new").unwrap();
    put(&fs, "b", b"all");
    let crashed = fs.crash_clone(Persist::NamesAndLengths);
    assert_eq!(
        files(&crashed),
        [("a".into(), b"old\0\0\0".into()), ("b".into(), b"\0\0\0".into())].into()
    );
}

#[test]
fn one_change_of_a_name_can_be_missing_before_later_ones() {
    let fs = with_db();
    put_synced(&fs, "old", b"1");
    sync_db(&fs);
    put(&fs, "new", b"2");
    put(&fs, "tmp", b"3");
    fs.rename(&path("tmp"), &path("old")).unwrap();
    let left = |index| {
        let names: Vec<_> =
            files(&fs.crash_clone(Persist::AllNamesButOne { index })).into_iter().collect();
        names
            .into_iter()
            .map(|(name, bytes)| format!("{name}={}", bytes[0] as char))
            .collect::<Vec<_>>()
    };
    assert_eq!(left(0), ["old=3"]);
    assert_eq!(left(1), ["new=2", "old=1"]);
    assert_eq!(left(2), ["new=2", "old=1", "tmp=3"]);
    assert_eq!(left(3), left(0));
}

#[test]
fn a_prefix_does_not_hold_what_a_failed_sync_lost() {
    let fs = with_db();
    let mut file = put_synced(&fs, "a", b"1");
    file.append(b"2").unwrap();
    fs.fail_when("sync_data", libc::EIO, Repeat::Once);
    file.sync_data().unwrap_err();
    assert_eq!(after(&fs, Persist::Prefix { kept: 1 }, "a").unwrap(), b"12");
    file.sync_data().unwrap();
    assert_eq!(fs.unsynced_count(), 0);
    assert_eq!(after(&fs, Persist::Prefix { kept: 9 }, "a").unwrap(), b"1\0");
}

#[test]
fn equal_contents_have_equal_hashes_and_others_do_not() {
    let make = |second: &[u8]| {
        let fs = with_db();
        put_synced(&fs, "a", &[0; 2 * BLOCK]).append(second).unwrap();
        fs
    };
    let (one, same, other) = (make(b"x"), make(b"x"), make(b"y"));
    assert_eq!(one.content_hash(), same.content_hash());
    assert_ne!(one.content_hash(), other.content_hash());
    // Seen alike, but not as durable.
    assert_ne!(one.content_hash(), one.crash_clone(Persist::Everything).content_hash());
    // A block of zeros that was never written is one that was.
    let sparse = with_db();
    sparse.create_log(&path("a"), 2 * BLOCK as u64, true).unwrap();
    sync_db(&sparse);
    let nothing = one.crash_clone(Persist::Nothing);
    assert_eq!(nothing.content_hash(), sparse.content_hash());
    nothing.rename(&path("a"), &path("b")).unwrap();
    sync_db(&nothing);
    assert_ne!(nothing.content_hash(), sparse.content_hash());
}

#[test]
fn clones_are_independent_in_both_directions() {
    let fs = with_db();
    let mut file = put_synced(&fs, "a", b"base");
    let crashed = fs.crash_clone(Persist::Nothing);
    let killed = fs.kill_clone();
    file.append(b" original").unwrap();
    put(&crashed, "a", b"crashed");
    killed.remove(&path("a")).unwrap();
    sync_db(&killed);
    assert_eq!(fs.read_file(path("a")).unwrap(), b"base original");
    assert_eq!(crashed.read_file(path("a")).unwrap(), b"crashed");
    assert_eq!(killed.read_file(path("a")), None);
    assert_eq!(after(&fs, Persist::Nothing, "a").unwrap(), b"base");
}

#[test]
fn plain_clones_are_the_same_file_system() {
    let fs = with_db();
    put(&fs.clone(), "a", b"x");
    assert_eq!(fs.list_dir("/db"), ["a"]);
}

#[test]
fn after_a_crash_everything_left_is_durable_and_after_a_kill_it_is_not() {
    let fs = with_db();
    put(&fs, "a", b"volatile");
    let crashed = fs.crash_clone(Persist::Everything);
    assert_eq!(after(&crashed, Persist::Nothing, "a").unwrap(), b"volatile");
    let killed = fs.kill_clone();
    assert_eq!(killed.read_file(path("a")).unwrap(), b"volatile");
    assert_eq!(after(&killed, Persist::Nothing, "a"), None);
    assert_eq!(after(&killed, Persist::NamesOnly, "a").unwrap(), b"");
}

#[test]
fn clones_count_from_zero_keep_settings_and_forget_faults() {
    let fs = with_db();
    fs.ignore_syncs(SyncKind::Dir);
    fs.set_capacity_bytes(Some(BLOCK as u64));
    fs.count_reads(false);
    fs.halt_at(0);
    for clone in [fs.crash_clone(Persist::Nothing), fs.kill_clone()] {
        assert_eq!(clone.counters(), SimCounters::default());
        clone.list(Path::new("/db")).unwrap();
        assert_eq!(clone.op_count(), 0);
        put(&clone, "a", &[0; BLOCK]).append(b"x").unwrap_err();
        sync_db(&clone);
        assert_eq!(after(&clone, Persist::Nothing, "a"), None);
    }
}

// ---- faults ----

#[test]
fn halt_stops_this_operation_and_all_later_ones_without_effect() {
    let fs = with_db();
    let reader = {
        put_synced(&fs, "a", b"a");
        fs.open(&path("a")).unwrap().unwrap()
    };
    let map = reader.map(Access::Sequential).unwrap();
    let log = fs.create_log(&path("000001.wal"), BLOCK as u64, true).unwrap();
    fs.count_reads(false);
    fs.halt_at(fs.op_count() + 1);
    log.write_at(0, b"1").unwrap();
    map.populate(0..1).unwrap();
    assert!(!fs.is_halted());
    assert_eq!(errno(&log.write_at(1, b"2").unwrap_err()), Some(libc::EIO));
    assert!(fs.is_halted());
    log.sync_data().unwrap_err();
    map.populate(0..1).unwrap_err();
    reader.read_at(&mut [0], 0).unwrap_err();
    fs.remove(&path("a")).unwrap_err();
    fs.create_log(&path("000002.wal"), 10, false).unwrap_err();
    assert_eq!(fs.list_dir("/db"), ["000001.wal", "a"]);
    assert_eq!(fs.read_file(path("000001.wal")).unwrap()[..2], *b"1\0");
    assert_eq!(after(&fs, Persist::Nothing, "000001.wal"), None);
    fs.clear_faults();
    log.sync_data().unwrap();
}

#[test]
fn power_can_go_inside_create_log_and_recycle_log() {
    let create = |cut| {
        let fs = with_db();
        fs.halt_at(fs.op_count() + cut);
        fs.create_log(&path("000001.wal"), BLOCK as u64, true).unwrap_err();
        (
            after(&fs, Persist::NamesOnly, "000001.wal"),
            after(&fs, Persist::Everything, "000001.wal"),
        )
    };
    assert_eq!(create(0), (None, None));
    assert_eq!(create(1), (Some(vec![]), Some(vec![])));
    assert_eq!(create(2), (Some(vec![]), Some(vec![0; BLOCK])));
    let fs = with_db();
    drop(fs.create_log(&path("000001.wal"), BLOCK as u64, true).unwrap());
    fs.halt_at(fs.op_count() + 1);
    fs.recycle_log(&path("000001.wal"), &path("000002.wal"), BLOCK as u64, true).unwrap_err();
    assert_eq!(fs.list_dir("/db"), ["000002.wal"]);
}

#[test]
fn faults_strike_once_or_forever_and_name_operation_and_path() {
    let fs = with_db();
    let mut file = put(&fs, "a", b"");
    let next = fs.op_count();
    fs.fail_at(next + 1, libc::EIO, Repeat::Once);
    fs.fail_at(next + 3, libc::ENOSPC, Repeat::Forever);
    file.append(b"1").unwrap();
    let error = file.append(b"2").unwrap_err();
    assert_eq!((errno(&error), error.path()), (Some(libc::EIO), Some(path("a").as_path())));
    assert!(error.what().starts_with("cannot write"), "{error}");
    file.append(b"3").unwrap();
    for _ in 0..3 {
        assert_eq!(errno(&file.append(b"4").unwrap_err()), Some(libc::ENOSPC));
    }
    assert_eq!(fs.read_file(path("a")).unwrap(), b"13");
    assert_eq!(fs.counters().failures, 4);
    fs.clear_faults();
    file.append(b"5").unwrap();
}

#[test]
fn every_kind_of_operation_can_fail() {
    let fs = with_db();
    let (a, b, dir) = (path("a"), path("b"), path("sub"));
    let mut file = put_synced(&fs, "a", b"a");
    let log = fs.create_log(&path("000001.wal"), 10, true).unwrap();
    let reader = fs.open(&a).unwrap().unwrap();
    let map = reader.map(Access::Random).unwrap();
    let before = (fs.op_count(), fs.list_dir("/db"));
    fs.fail_at(before.0, libc::EACCES, Repeat::Forever);
    let errors = [
        fs.create_dir_all(&dir).unwrap_err(),
        fs.list(&dir).unwrap_err(),
        fs.create(&b).unwrap_err(),
        fs.open(&a).unwrap_err(),
        fs.create_log(&b, 10, true).unwrap_err(),
        fs.recycle_log(&a, &b, 1, true).unwrap_err(),
        fs.rename(&a, &b).unwrap_err(),
        fs.remove(&a).unwrap_err(),
        fs.sync_dir(&dir).unwrap_err(),
        fs.lock(&b, LockKind::Exclusive).unwrap_err(),
        fs.lock(&a, LockKind::Shared).unwrap_err(),
        file.append(b"x").unwrap_err(),
        file.start_writeback().unwrap_err(),
        file.sync_data().unwrap_err(),
        log.write_at(0, b"x").unwrap_err(),
        log.sync_data().unwrap_err(),
        reader.read_at(&mut [0], 0).unwrap_err(),
        reader.map(Access::Random).unwrap_err(),
        map.populate(0..1).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| errno(error) == Some(libc::EACCES)), "{errors:?}");
    assert_eq!((fs.op_count(), fs.list_dir("/db")), (before.0 + errors.len() as u64, before.1));
}

#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_writes_nothing_of_it() {
    let fs = with_db();
    let log = fs.create_log(&path("000001.wal"), 2 * BLOCK as u64, true).unwrap();
    sync_db(&fs);
    log.write_at(0, b"first").unwrap();
    fs.fail_when("sync_data .wal", libc::EIO, Repeat::Once);
    log.sync_data().unwrap_err();
    log.write_at(BLOCK as u64, b"second").unwrap();
    log.sync_data().unwrap();
    let durable = |at: usize| after(&fs, Persist::Nothing, "000001.wal").unwrap()[at];
    assert_eq!((durable(0), durable(BLOCK)), (0, b's'));
    assert_eq!(&fs.read_file(path("000001.wal")).unwrap()[..5], b"first");
    log.write_at(5, b"!").unwrap();
    log.sync_data().unwrap();
    assert_eq!(durable(0), b'f');
}

#[test]
fn faults_by_words_strike_only_the_operations_named() {
    let fs = with_db();
    fs.fail_when("create MANIFEST", libc::EMFILE, Repeat::Once);
    put(&fs, "000001.table", b"");
    assert_eq!(errno(&fs.create(&path("MANIFEST-000002")).unwrap_err()), Some(libc::EMFILE));
    put(&fs, "MANIFEST-000002", b"");
}

#[test]
fn a_full_disk_takes_what_fits_and_refuses_the_rest() {
    let fs = with_db();
    fs.set_capacity_bytes(Some(3 * BLOCK as u64));
    let mut file = put(&fs, "a", &[1; BLOCK + 10]);
    let error = file.append(&[2; 2 * BLOCK]).unwrap_err();
    assert_eq!(errno(&error), Some(libc::ENOSPC));
    assert!(error.to_string().contains("free some space"), "{error}");
    let held = fs.read_file(path("a")).unwrap();
    assert_eq!((held.len(), held[BLOCK + 10], held[3 * BLOCK - 1]), (3 * BLOCK, 2, 2));
    // Nothing is left for a log, and no half of it stays. Overwriting needs no space.
    assert_eq!(errno(&fs.create_log(&path("b"), 1, true).unwrap_err()), Some(libc::ENOSPC));
    assert_eq!(fs.list_dir("/db"), ["a"]);
    put(&fs, "a", &[3; 3 * BLOCK]);
    // A removed file holds its space while it is open.
    fs.remove(&path("a")).unwrap();
    fs.create_log(&path("b"), 1, true).unwrap_err();
    drop(file);
    fs.create_log(&path("b"), 3 * BLOCK as u64, true).unwrap();
    // A rename frees the space of what it replaces.
    fs.create(&path("c")).unwrap();
    fs.rename(&path("c"), &path("b")).unwrap();
    put(&fs, "a", &[4; 3 * BLOCK]);
    fs.set_capacity_bytes(None);
    put(&fs, "c", &vec![4; 9 * BLOCK]);
}

#[test]
fn a_lying_device_ignores_syncs_of_the_chosen_kind_only() {
    for (kind, name) in [
        (SyncKind::Wal, "000001.wal"),
        (SyncKind::Table, "000002.table"),
        (SyncKind::Manifest, "MANIFEST-000003"),
        (SyncKind::Current, "CURRENT"),
        (SyncKind::Current, "CURRENT.tmp"),
    ] {
        let fs = with_db();
        fs.ignore_syncs(kind);
        put_synced(&fs, name, b"x");
        put_synced(&fs, "other", b"x");
        assert_eq!(after(&fs, Persist::Nothing, name).unwrap(), b"", "{name}");
        assert_eq!(after(&fs, Persist::Nothing, "other").unwrap(), b"x");
        assert_eq!((fs.counters().syncs, fs.counters().dir_syncs), (2, 2));
    }
    let fs = with_db();
    fs.ignore_syncs(SyncKind::Dir);
    put_synced(&fs, "000001.wal", b"x");
    assert_eq!(after(&fs, Persist::Nothing, "000001.wal"), None);
    assert_eq!(after(&fs, Persist::NamesOnly, "000001.wal").unwrap(), b"x");
}

// ---- counting and watching ----

#[test]
fn the_trace_names_number_operation_file_and_failure() {
    let fs = with_db();
    fs.trace_operations(true);
    let log = fs.create_log(&path("000001.wal"), BLOCK as u64, true).unwrap();
    fs.count_reads(false);
    fs.open(&path("000001.wal")).unwrap();
    fs.fail_when("sync_data", libc::EIO, Repeat::Once);
    log.write_at(96, &[0; 120]).unwrap();
    log.sync_data().unwrap_err();
    fs.rename(&path("000001.wal"), &path("000002.wal")).unwrap();
    sync_db(&fs);
    let expected = [
        "1 create 000001.wal",
        "2 allocate 000001.wal 0+4096",
        "3 sync_data 000001.wal",
        "- open 000001.wal",
        "4 write 000001.wal 96+120",
        "5 sync_data 000001.wal failed: errno 5",
        "6 rename 000001.wal -> 000002.wal",
        "7 sync_dir db",
    ];
    assert_eq!(fs.operations(), expected);
    fs.trace_operations(false);
    assert!(fs.operations().is_empty());
}

#[test]
fn counters_count_what_took_effect() {
    let fs = with_db();
    let mut file = put_synced(&fs, "a", b"12345");
    fs.fail_when("write", libc::EIO, Repeat::Once);
    file.append(b"678").unwrap_err();
    fs.open(&path("a")).unwrap().unwrap().read_at(&mut [0; 4], 1).unwrap();
    let expected = SimCounters {
        operations: 8,
        failures: 1,
        syncs: 1,
        dir_syncs: 1,
        bytes_written: 5,
        bytes_read: 4,
    };
    assert_eq!(fs.counters(), expected);
}

#[test]
fn the_observer_sees_the_state_before_each_operation() {
    let fs = with_db();
    let first = fs.op_count();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    fs.on_operation(move |fs, number| {
        let durable = fs.crash_clone(Persist::Nothing).list_dir("/db").len();
        sink.lock().push((number, fs.list_dir("/db").len(), durable));
    });
    put_synced(&fs, "a", b"x");
    fs.remove(&path("a")).unwrap();
    let expected = [(0, 0, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 1, 1)];
    assert_eq!(*seen.lock(), expected.map(|(at, names, durable)| (first + at, names, durable)));
}

#[test]
fn replacing_an_observer_that_owns_a_file_does_not_deadlock() {
    let fs = with_db();
    put(&fs, "a", b"x");
    let (file, calls) = (fs.open(&path("a")).unwrap(), Arc::new(AtomicUsize::new(0)));
    fs.on_operation(move |_, _| drop(file.clone()));
    let counted = calls.clone();
    fs.on_operation(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    fs.remove(&path("a")).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

// ---- links ----

#[test]
fn a_link_is_one_file_under_two_names_and_its_name_is_pending() {
    let fs = with_db();
    fs.create_dir_all(Path::new("/other")).unwrap();
    let mut file = put_synced(&fs, "a", b"one");
    let (from, to) = (path("a"), Path::new("/other/b"));
    assert!(fs.hard_link(&from, to).unwrap());
    let name_after = |persist| fs.crash_clone(persist).list_dir("/other");
    assert!(name_after(Persist::Nothing).is_empty() && name_after(Persist::BytesOnly).is_empty());
    assert_eq!(name_after(Persist::NamesOnly), ["b"]);
    // The directory of the old name has nothing to do with it.
    sync_db(&fs);
    assert!(name_after(Persist::Nothing).is_empty());
    fs.sync_dir(Path::new("/other")).unwrap();
    // One file: bytes appended and synced through one name are there under both.
    file.append(b"two").unwrap();
    assert_eq!(fs.read_file(to).unwrap(), b"onetwo");
    assert_eq!(fs.crash_clone(Persist::Nothing).read_file(to).unwrap(), b"one");
    fs.sync_file(to, 0..6).unwrap();
    let crashed = fs.crash_clone(Persist::Nothing);
    assert_eq!(crashed.read_file(to).unwrap(), b"onetwo");
    assert_eq!(crashed.read_file(&from).unwrap(), b"onetwo");
    crashed.write_file(&from, b"damage").unwrap();
    assert_eq!(crashed.read_file(to).unwrap(), b"damage");
}

#[test]
fn a_linked_file_lives_until_its_last_name_goes() {
    let fs = with_db();
    fs.create_dir_all(Path::new("/other")).unwrap();
    put_synced(&fs, "a", &[7; BLOCK]);
    let to = Path::new("/other/b");
    fs.hard_link(&path("a"), to).unwrap();
    fs.sync_dir(Path::new("/other")).unwrap();
    // Two names take the space of one file.
    fs.set_capacity_bytes(Some(2 * BLOCK as u64));
    drop(put(&fs, "c", &[1; BLOCK]));
    fs.remove(&path("c")).unwrap();
    fs.remove(&path("a")).unwrap();
    sync_db(&fs);
    for clone in [fs.kill_clone(), fs.crash_clone(Persist::Nothing)] {
        assert_eq!(clone.read_file(to).unwrap(), [7; BLOCK]);
        let mut file = clone.create(&path("d")).unwrap();
        assert_eq!(errno(&file.append(&[1; 2 * BLOCK]).unwrap_err()), Some(libc::ENOSPC));
        clone.remove(to).unwrap();
        assert!(file.append(&[1; BLOCK]).is_ok());
    }
    // The removal of the older name may be lost in a crash, without harm to the newer.
    fs.hard_link(to, &path("e")).unwrap();
    sync_db(&fs);
    fs.remove(to).unwrap();
    let crashed = fs.crash_clone(Persist::Nothing);
    assert_eq!(crashed.read_file(path("e")), crashed.read_file(to));
    crashed.remove_file(path("e")).unwrap();
    assert_eq!(crashed.crash_clone(Persist::Nothing).list_dir("/other"), ["b"]);
}

#[test]
fn links_fail_as_on_the_operating_system() {
    let fs = with_db();
    put_synced(&fs, "a", b"a");
    put_synced(&fs, "b", b"b");
    let exists = fs.hard_link(&path("a"), &path("b")).unwrap_err();
    assert_eq!((errno(&exists), exists.path()), (Some(libc::EEXIST), Some(&*path("b"))));
    assert_eq!(errno(&fs.hard_link(&path("z"), &path("c")).unwrap_err()), Some(libc::ENOENT));
    let nowhere = Path::new("/none/c");
    assert_eq!(errno(&fs.hard_link(&path("a"), nowhere).unwrap_err()), Some(libc::ENOENT));
    // What any two files there would meet is no error but an answer.
    for errno in [libc::EXDEV, libc::EPERM, libc::EMLINK] {
        fs.fail_when("link a -> c", errno, Repeat::Once);
        assert!(!fs.hard_link(&path("a"), &path("c")).unwrap());
    }
    assert!(fs.read_file(path("c")).is_none());
    // A rename between two names of one file does nothing.
    fs.hard_link(&path("a"), &path("c")).unwrap();
    fs.rename(&path("a"), &path("c")).unwrap();
    assert_eq!(fs.list_dir("/db"), ["a", "b", "c"]);
    for name in ["a", "c"] {
        fs.remove(&path(name)).unwrap();
    }
}

// ---- locks and odd paths ----

#[test]
fn locks_exclude_as_flock_does_and_die_with_the_process() {
    let fs = with_db();
    let lock = path("LOCK");
    assert!(fs.lock(&lock, LockKind::Shared).unwrap().is_none());
    let held = fs.lock(&lock, LockKind::Exclusive).unwrap().unwrap();
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        assert_eq!(fs.lock(&lock, kind).unwrap_err().kind(), ErrorKind::Locked);
    }
    for clone in [fs.crash_clone(Persist::NamesOnly), fs.kill_clone()] {
        assert!(clone.lock(&lock, LockKind::Exclusive).unwrap().is_some());
    }
    drop(held);
    let first = fs.lock(&lock, LockKind::Shared).unwrap().unwrap();
    let second = fs.lock(&lock, LockKind::Shared).unwrap().unwrap();
    drop(first);
    assert_eq!(fs.lock(&lock, LockKind::Exclusive).unwrap_err().kind(), ErrorKind::Locked);
    drop(second);
    fs.lock(&lock, LockKind::Exclusive).unwrap().unwrap();
}

#[test]
fn odd_paths_fail_as_on_the_operating_system() {
    let fs = with_db();
    put(&fs, "a", b"x");
    let (file, below) = (path("a"), path("a/b"));
    assert_eq!(errno(&fs.create(Path::new("/none/a")).unwrap_err()), Some(libc::ENOENT));
    assert_eq!(errno(&fs.create(&below).unwrap_err()), Some(libc::ENOTDIR));
    assert_eq!(errno(&fs.create(Path::new("/db")).unwrap_err()), Some(libc::EISDIR));
    assert_eq!(errno(&fs.rename(&path("z"), &file).unwrap_err()), Some(libc::ENOENT));
    assert_eq!(errno(&fs.sync_dir(Path::new("/none")).unwrap_err()), Some(libc::ENOENT));
    assert_eq!(fs.create_dir_all(&below).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(fs.list(&file).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(fs.open(Path::new("/db")).unwrap_err().kind(), ErrorKind::Corruption);
    assert!(fs.open(Path::new("/none/a")).unwrap().is_none());
    let reader = fs.open(&file).unwrap().unwrap();
    assert!(reader.read_at(&mut [0; 2], 0).is_err());
    assert!(reader.read_at(&mut [0; 2], u64::MAX).is_err());
}

#[test]
fn damage_by_a_test_is_durable_and_no_operation() {
    let fs = with_db();
    let before = fs.op_count();
    fs.write_file("/db/new/a", b"abc").unwrap();
    fs.flip("/db/new/a", 1, 0xff).unwrap();
    fs.truncate_file("/db/new/a", 2).unwrap();
    assert_eq!(fs.op_count(), before);
    assert_eq!(after(&fs, Persist::Nothing, "new/a").unwrap(), [b'a', !b'b']);
    assert_eq!(fs.flip("/db/new/a", 2, 1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    // No crash brings a removed file back, under whatever name.
    put(&fs, "new/tmp", b"x").sync_data().unwrap();
    fs.sync_dir(&path("new")).unwrap();
    fs.rename(&path("new/tmp"), &path("new/a")).unwrap();
    fs.remove_file("/db/new/a").unwrap();
    put(&fs, "new/volatile", b"x");
    fs.remove_file("/db/new/volatile").unwrap();
    for seed in 0..20 {
        assert!(fs.crash_clone(random_half(seed)).list_dir("/db/new").is_empty());
    }
    assert!(fs.remove_file("/db/new/a").is_err());
    assert!(fs.truncate_file("/db/new/a", 0).is_err());
}

// ---- random workloads ----

#[derive(Clone, Debug)]
enum Step {
    Create(u8, Vec<u8>),
    Append(u8, Vec<u8>),
    CreateLog(u8, u16),
    Recycle(u8, u8, u16, Vec<u8>),
    Rename(u8, u8),
    Remove(u8),
    Sync(u8),
    SyncDir,
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 0..3 * BLOCK).prop_map(|(byte, bytes)| [byte, 0, 1].repeat(bytes / 3 + 1))
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..5_u8;
    prop_oneof![
        (name(), chunk()).prop_map(|(name, bytes)| Step::Create(name, bytes)),
        (name(), chunk()).prop_map(|(name, bytes)| Step::Append(name, bytes)),
        (name(), any::<u16>()).prop_map(|(name, bytes)| Step::CreateLog(name, bytes)),
        (name(), name(), any::<u16>(), chunk())
            .prop_map(|(from, to, at, bytes)| Step::Recycle(from, to, at, bytes)),
        (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        name().prop_map(Step::Remove),
        name().prop_map(Step::Sync),
        Just(Step::SyncDir),
    ]
}

/// Runs the steps on the simulation and, in parallel, on a map from names to bytes. Every name has
/// an open file, so that all of them can be synced.
#[derive(Default)]
struct Workload {
    model: BTreeMap<String, Vec<u8>>,
    appenders: BTreeMap<String, Box<dyn AppendFile>>,
    logs: BTreeMap<String, Box<dyn LogFile>>,
}

impl Workload {
    fn close(&mut self, name: &str) {
        self.appenders.remove(name);
        self.logs.remove(name);
    }

    fn sync(&mut self, name: &str) {
        if let Some(file) = self.appenders.get_mut(name) {
            file.sync_data().unwrap();
        }
        if let Some(file) = self.logs.get_mut(name) {
            file.sync_data().unwrap();
        }
    }

    /// Moves name, bytes and open file. False if there is nothing to move.
    fn move_name(&mut self, from: &str, to: &str) -> bool {
        let Some(bytes) = self.model.remove(from) else { return false };
        self.model.insert(to.to_owned(), bytes);
        self.appenders.remove(to);
        self.logs.remove(to);
        self.appenders.remove(from).map(|file| self.appenders.insert(to.to_owned(), file));
        self.logs.remove(from).map(|file| self.logs.insert(to.to_owned(), file));
        true
    }

    fn run(&mut self, fs: &SimFs, step: &Step) {
        let name = |number: &u8| format!("f{number}");
        match step {
            Step::Create(to, bytes) => {
                self.close(&name(to));
                self.appenders.insert(name(to), put(fs, &name(to), bytes));
                self.model.insert(name(to), bytes.clone());
            }
            Step::Append(to, bytes) => {
                if let Some(file) = self.appenders.get_mut(&name(to)) {
                    file.append(bytes).unwrap();
                    self.model.get_mut(&name(to)).unwrap().extend(bytes);
                }
            }
            Step::CreateLog(to, bytes) => {
                self.close(&name(to));
                let log = fs.create_log(&path(&name(to)), u64::from(*bytes), true).unwrap();
                self.logs.insert(name(to), log);
                self.model.insert(name(to), vec![0; usize::from(*bytes)]);
            }
            Step::Recycle(from, to, at, bytes) => {
                let (from, to) = (name(from), name(to));
                if self.move_name(&from, &to) {
                    self.close(&to);
                    let old = self.model.get_mut(&to).unwrap();
                    let log = fs.recycle_log(&path(&from), &path(&to), old.len() as u64, false);
                    let log = log.unwrap();
                    let at = usize::from(*at) % (old.len() + 1);
                    let bytes = &bytes[..bytes.len().min(old.len() - at)];
                    log.write_at(at as u64, bytes).unwrap();
                    old[at..at + bytes.len()].copy_from_slice(bytes);
                    self.logs.insert(to, log);
                }
            }
            Step::Rename(from, to) => {
                let (from, to) = (name(from), name(to));
                let renamed = fs.rename(&path(&from), &path(&to));
                if from == to {
                    assert_eq!(renamed.is_ok(), self.model.contains_key(&to));
                } else {
                    assert_eq!(renamed.is_ok(), self.move_name(&from, &to));
                }
            }
            Step::Remove(at) => {
                let removed = fs.remove(&path(&name(at)));
                assert_eq!(removed.is_ok(), self.model.remove(&name(at)).is_some());
                self.close(&name(at));
            }
            Step::Sync(at) => self.sync(&name(at)),
            Step::SyncDir => sync_db(fs),
        }
    }
}

fn every_persist(seed: u64) -> impl Iterator<Item = Persist> {
    let plain =
        [Persist::Nothing, Persist::Everything, Persist::NamesOnly, Persist::BytesOnly].into_iter();
    let torn = [TornRest::Old, TornRest::Zeros];
    plain
        .chain([Persist::NamesAndLengths])
        .chain([0, 10, 50, 90, 100].map(|percent| Persist::Random { percent, seed }))
        .chain([0, 1, seed % 20, u64::MAX].map(|kept| Persist::Prefix { kept }))
        .chain([0, seed].map(|index| Persist::AllNamesButOne { index }))
        .chain(torn.map(|rest| Persist::Torn { kept_bytes: seed, rest }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn when_everything_is_synced_every_crash_leaves_the_same(
        steps in prop::collection::vec(step(), 1..30), seed: u64,
    ) {
        let fs = with_db();
        let mut workload = Workload::default();
        for step in &steps {
            workload.run(&fs, step);
            prop_assert_eq!(&files(&fs), &workload.model);
        }
        for name in workload.model.keys().cloned().collect::<Vec<_>>() {
            workload.sync(&name);
        }
        sync_db(&fs);
        for persist in every_persist(seed) {
            prop_assert_eq!(&files(&fs.crash_clone(persist)), &workload.model, "{:?}", persist);
        }
        prop_assert_eq!(&files(&fs.kill_clone()), &workload.model);
    }

    #[test]
    fn random_crashes_invent_neither_names_nor_bytes(
        before in prop::collection::vec(step(), 1..15),
        later in prop::collection::vec(step(), 1..15),
        seed: u64,
        percent in 0..=100_u8,
    ) {
        let fs = with_db();
        let mut workload = Workload::default();
        for step in before.iter().chain(&later) {
            workload.run(&fs, step);
        }
        let crashed = fs.crash_clone(Persist::Random { percent, seed });
        // Written bytes are 0, 1 or the byte of a chunk; nothing else may turn up.
        let mut written = vec![0, 1];
        for step in before.iter().chain(&later) {
            if let Step::Create(_, b) | Step::Append(_, b) | Step::Recycle(_, _, _, b) = step {
                written.push(b[0]);
            }
        }
        for (name, bytes) in files(&crashed) {
            prop_assert!(name.len() == 2 && name.starts_with('f'), "{}", name);
            prop_assert!(bytes.iter().all(|byte| written.contains(byte)), "{}", name);
        }
        // In order, all changes are everything, and none is nothing.
        let all = fs.unsynced_count();
        for (kept, plain) in [(0, Persist::Nothing), (all, Persist::Everything)] {
            let first = files(&fs.crash_clone(Persist::Prefix { kept }));
            prop_assert_eq!(first, files(&fs.crash_clone(plain)));
        }
        // And what a crash leaves, no second crash changes.
        for persist in every_persist(seed) {
            prop_assert_eq!(files(&crashed.crash_clone(persist)), files(&crashed));
        }
    }
}
