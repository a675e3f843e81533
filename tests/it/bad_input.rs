//! Bad input: wrong paths, wrong options, foreign and newer files, locked and unwritable directories.
//!
//! Each case is an error of the right kind that names the path and says what to do, and changes nothing on disk.

#![allow(clippy::disallowed_methods, reason = "what stands on disk is looked at behind the seam")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use esker::fs::{Repeat, SimFs};
use esker::{Compaction, Db, DbBuilder, DbOptions, Error, ErrorKind, KeyspaceOptions, WriteBatch};

/// Checks what every error owes the user: its kind, the path, and advice.
#[track_caller]
fn expect_error<T: std::fmt::Debug>(result: esker::Result<T>, kind: ErrorKind, path: &Path) {
    let error = result.expect_err("bad input was taken");
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.path(), Some(path), "{error}");
    owes_advice(&error);
}

#[track_caller]
fn owes_advice(error: &Error) {
    assert!(error.advice().is_some_and(|advice| !advice.is_empty()), "no advice: {error}");
    assert!(error.to_string().contains(error.advice().unwrap()), "{error}");
}

fn with(options: DbOptions) -> DbBuilder {
    Db::builder().options(options)
}

fn read_only() -> DbOptions {
    DbOptions { read_only: true, ..DbOptions::default() }
}

fn inline() -> DbOptions {
    DbOptions { background_threads: 0, ..DbOptions::default() }
}

/// Names and bytes of everything in a directory.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(&path).unwrap_or_default())).collect()
}

/// A closed database with tables and a log.
fn make(dir: &Path) {
    let db = Db::open(dir).unwrap();
    for index in 0..1000 {
        db.put(format!("key {index:04}"), format!("value {index}")).unwrap();
    }
    db.flush().unwrap();
    db.put("in the log", "yes").unwrap();
    db.close().unwrap();
}

fn make_simulated() -> SimFs {
    let fs = SimFs::new();
    let db = with(inline()).file_system(Arc::new(fs.clone())).open("/db").unwrap();
    for index in 0..1000 {
        db.put(format!("key {index:04}"), format!("value {index}")).unwrap();
    }
    db.flush().unwrap();
    db.put("in the log", "yes").unwrap();
    db.close().unwrap();
    fs
}

fn open_simulated(fs: &SimFs) -> esker::Result<Db> {
    with(inline()).file_system(Arc::new(fs.clone())).open("/db")
}

/// The one file of the simulated database whose name ends so.
fn file_of(fs: &SimFs, part: &str) -> PathBuf {
    let names = fs.list_dir("/db");
    let found: Vec<_> = names.iter().filter(|name| name.contains(part)).collect();
    assert_eq!(found.len(), 1, "{part} in {names:?}");
    Path::new("/db").join(found[0])
}

#[test]
fn a_missing_directory() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("no such directory");
    let keep = DbOptions { create_if_missing: false, ..DbOptions::default() };
    expect_error(with(keep.clone()).open(&dir), ErrorKind::NotFound, &dir);
    expect_error(with(read_only()).open(&dir), ErrorKind::NotFound, &dir);
    assert!(!dir.exists(), "a refused open made a directory");
    fs::create_dir(&dir).unwrap();
    expect_error(with(keep).open(&dir), ErrorKind::NotFound, &dir);
    expect_error(with(read_only()).open(&dir), ErrorKind::NotFound, &dir);
    assert!(contents(&dir).is_empty(), "a refused open made files");
}

#[test]
fn a_directory_that_holds_something_else() {
    let place = tempfile::tempdir().unwrap();
    for name in ["notes.txt", "7.table", "000007.sst", "MANIFEST"] {
        let dir = place.path().join(format!("with {name}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), "foreign").unwrap();
        let before = contents(&dir);
        expect_error(Db::open(&dir), ErrorKind::InvalidArgument, &dir);
        expect_error(with(read_only()).open(&dir), ErrorKind::NotFound, &dir);
        assert_eq!(contents(&dir), before);
    }
}

#[test]
fn foreign_files_in_a_database_are_left_alone() {
    let place = tempfile::tempdir().unwrap();
    make(place.path());
    let foreign = [".DS_Store", "7.table", "000007.sst", "MANIFEST-7", "table.tmp", "lost+found"];
    for name in foreign {
        fs::write(place.path().join(name), "foreign").unwrap();
    }
    let directory = place.path().join("999999.table");
    fs::create_dir(&directory).unwrap();
    for _ in 0..2 {
        let db = Db::open(place.path()).unwrap();
        assert!(db.contains_key("in the log").unwrap());
        db.compact_range::<&[u8]>(..).unwrap();
        assert!(db.verify().unwrap().is_ok());
        db.close().unwrap();
    }
    for name in foreign {
        assert_eq!(fs::read(place.path().join(name)).unwrap(), b"foreign", "{name}");
    }
    assert!(directory.is_dir());
}

#[test]
fn a_file_in_place_of_the_directory() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "a file").unwrap();
    expect_error(Db::open(&file), ErrorKind::InvalidArgument, &file);
    expect_error(with(read_only()).open(&file), ErrorKind::InvalidArgument, &file);
    let below = file.join("db");
    let error = Db::open(&below).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::InvalidArgument), "{error}");
    assert!(error.path().is_some_and(|path| path.starts_with(&file)), "{error}");
    owes_advice(&error);
    assert_eq!(fs::read(&file).unwrap(), b"a file");
}

fn patch(fs: &SimFs, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs.read_file(path).unwrap();
    change(&mut bytes);
    fs.write_file(path, &bytes).unwrap();
}

fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// The CRC-32 of `parts`, in front of them the salt of the formats: a number and an offset.
fn salted_crc(number: u64, offset: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn number_of(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[track_caller]
fn expect_newer(result: esker::Result<impl std::fmt::Debug>, path: &Path) {
    let error = result.expect_err("a file of a newer version was taken");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.path(), Some(path), "{error}");
    assert!(error.to_string().contains("version"), "{error}");
    assert!(error.what().contains('7'), "the version is not named: {error}");
    owes_advice(&error);
}

#[test]
fn files_of_a_newer_version() {
    let fs = make_simulated();
    // Manifest: the version follows the magic; the checksum ends the header.
    let newer = fs.kill_clone();
    let manifest = file_of(&newer, "MANIFEST");
    patch(&newer, &manifest, |bytes| {
        put_u32(bytes, 8, 7);
        let crc = crc32fast::hash(&bytes[..20]);
        put_u32(bytes, 20, crc);
    });
    let before = newer.list_dir("/db");
    expect_newer(open_simulated(&newer), &manifest);
    // Log: as in docs/format/wal.md.
    let newer = fs.kill_clone();
    let segment = file_of(&newer, ".wal");
    patch(&newer, &segment, |bytes| {
        put_u32(bytes, 8, 7);
        let crc = salted_crc(number_of(&segment), 0, &[&bytes[..60]]);
        put_u32(bytes, 60, crc);
    });
    expect_newer(open_simulated(&newer), &segment);
    assert_eq!(newer.list_dir("/db"), before, "a refused open changed the directory");
    // Table: the end of the footer keeps its place in every version. Found when the table is first read.
    let newer = fs.kill_clone();
    let table = file_of(&newer, ".table");
    patch(&newer, &table, |bytes| {
        let footer = bytes.len() - 84;
        put_u32(bytes, footer + 72, 7);
        let (number, offset) = (number_of(&table), footer as u64);
        let crc = salted_crc(number, offset, &[&bytes[footer..footer + 68], &bytes[footer + 72..]]);
        put_u32(bytes, footer + 68, crc);
    });
    let db = open_simulated(&newer).unwrap();
    expect_newer(db.get("key 0007"), &table);
    expect_newer(db.iter().next().unwrap(), &table);
    expect_newer(db.compact_range::<&[u8]>(..), &table);
    let problems = db.verify().unwrap().problems;
    assert!(problems.iter().any(|error| error.kind() == ErrorKind::Unsupported), "{problems:?}");
}

fn set(options: &mut DbOptions, name: &str, value: &str) -> esker::Result<()> {
    assert!(options.set(name, value)?, "{name} is no option");
    Ok(())
}

#[test]
fn database_options_out_of_range() {
    let place = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("background_threads", "65"),
        ("cache_bytes", "1099511627777"),
        ("open_tables_max", "15"),
        ("open_tables_max", "1000001"),
        ("wal_bytes_max", "100"),
        ("wal_segment_bytes", "65535"),
        ("wal_segment_bytes", "1073741825"),
        ("async_interval_ms", "0"),
        ("async_interval_ms", "201"),
        ("durability", "hopeful"),
        ("verify", "-1"),
        ("read_mode", "telepathy"),
        ("wal_mode", ""),
        ("wal_recovery", "pray"),
        ("read_only", "maybe"),
        ("scrub_interval_s", "1e3"),
        ("cache_bytes", "lots"),
    ] {
        let mut options = DbOptions::default();
        let result = set(&mut options, name, value)
            .and_then(|()| with(options).open(place.path().join("db")).map(drop));
        let error = result.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains(name), "{name}={value}: {error}");
        owes_advice(&error);
    }
    assert!(!place.path().join("db").exists(), "a refused open made a directory");
}

#[test]
fn keyspace_options_out_of_range_and_unknown_strategies() {
    let place = tempfile::tempdir().unwrap();
    let db = Db::open(place.path().join("good")).unwrap();
    let refuse = |name: &str, options: KeyspaceOptions| {
        let at_open = Db::builder().default_keyspace(options.clone());
        let opened = at_open.open(place.path().join("bad")).map(drop);
        let made = db.keyspace("bad", options).map(drop);
        for error in [opened.expect_err(name), made.expect_err(name)] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().contains(name), "{name}: {error}");
            owes_advice(&error);
        }
    };
    for (name, value) in [
        ("memtable_bytes", "4095"),
        ("memtable_bytes", "4294967297"),
        ("memtables_max", "1"),
        ("memtables_max", "65"),
        ("block_bytes", "511"),
        ("block_bytes", "1048577"),
        ("table_bytes", "4095"),
        ("table_bytes", "4294967297"),
        ("filter_bits", "10,33"),
        ("filter_bits", "NaN"),
        ("l0_runs", "0"),
        ("l0_runs", "65"),
        ("base_bytes", "65535"),
        ("fanout", "1"),
        ("fanout", "101"),
        ("debt_bytes_soft", "1048575"),
    ] {
        let mut options = KeyspaceOptions::default();
        assert!(options.set(name, value).unwrap(), "{name} is no option");
        refuse(name, options);
    }
    refuse("levels in compression", KeyspaceOptions { compression: vec![], ..Default::default() });
    let strategy = Compaction::Named("wishful".to_owned());
    refuse("wishful", KeyspaceOptions::default().compaction(strategy));
    assert!(!place.path().join("bad").exists(), "a refused open made a directory");
    for name in ["", "a\nb", &"x".repeat(256)] {
        let error = db.keyspace(name, KeyspaceOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(db.list_keyspaces(), ["default"]);
}

#[test]
fn keys_and_values_that_are_too_long() {
    let place = tempfile::tempdir().unwrap();
    let db = Db::open(place.path()).unwrap();
    db.put(vec![b'k'; 65_535], "the longest").unwrap();
    let before = db.metrics();
    let long = vec![b'k'; 65_536];
    let mut batch = WriteBatch::new();
    batch.put("good", "1").put(&long, "2").delete("k");
    for error in [
        db.put(&long, "v").unwrap_err(),
        db.delete(&long).unwrap_err(),
        db.write(batch).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("65536") && error.to_string().contains("65535"));
        owes_advice(&error);
    }
    // Zero pages that nobody touches.
    let error = db.put("k", vec![0; 1 << 32]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    owes_advice(&error);
    let after = db.metrics();
    assert_eq!((before.wal_bytes, before.sequence), (after.wal_bytes, after.sequence));
    // Reading what cannot be there is no error.
    assert!(db.get(&long).unwrap().is_none() && db.get("good").unwrap().is_none());
    assert_eq!(db.range(long..).count(), 0);
    assert_eq!(db.iter().count(), 1);
}

#[test]
fn a_second_opener_in_this_process() {
    let place = tempfile::tempdir().unwrap();
    make(place.path());
    let lock = place.path().join("LOCK");
    let writer = Db::open(place.path()).unwrap();
    expect_error(Db::open(place.path()), ErrorKind::Locked, &lock);
    expect_error(with(read_only()).open(place.path()), ErrorKind::Locked, &lock);
    writer.put("still", "works").unwrap();
    drop(writer);
    let readers = [(); 2].map(|()| with(read_only()).open(place.path()).unwrap());
    expect_error(Db::open(place.path()), ErrorKind::Locked, &lock);
    for reader in readers {
        assert_eq!(reader.get("still").unwrap().as_deref(), Some(&b"works"[..]));
    }
    Db::open(place.path()).unwrap();
}

const CHILD_DIR: &str = "ESKER_TEST_CHILD_DIR";

/// Not a test by itself: the other process of the test below, which holds the database until it is killed.
#[test]
fn child_that_holds_a_database() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let db = Db::open(dir).unwrap();
    db.put("from", "the child").unwrap();
    let mut out = std::io::stdout();
    out.write_all(b"\nholding\n").unwrap();
    out.flush().unwrap();
    let mut never = String::new();
    std::io::stdin().read_line(&mut never).unwrap();
    std::process::exit(3);
}

#[test]
fn a_second_opener_in_another_process_and_the_death_of_the_first() {
    let place = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bad_input::child_that_holds_a_database", "--nocapture"])
            .env(CHILD_DIR, place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "holding"), "the child failed");
        let lock = place.path().join("LOCK");
        expect_error(Db::open(place.path()), ErrorKind::Locked, &lock);
        expect_error(with(read_only()).open(place.path()), ErrorKind::Locked, &lock);
        child.kill().unwrap();
        child.wait().unwrap();
        let db = Db::open(place.path()).unwrap();
        assert_eq!(db.get("from").unwrap().as_deref(), Some(&b"the child"[..]));
        db.delete("from").unwrap();
    }
}

#[test]
fn a_read_only_open_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    make(place.path());
    // What a crash leaves is not tidied up either.
    fs::write(place.path().join("CURRENT.tmp"), "half").unwrap();
    fs::write(place.path().join("000999.table"), "orphan").unwrap();
    let before = contents(place.path());
    let mut permissions = fs::metadata(place.path()).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(place.path(), permissions.clone()).unwrap();
    let db = with(read_only()).open(place.path()).unwrap();
    assert_eq!(db.iter().inspect(|item| assert!(item.is_ok())).count(), 1001);
    assert_eq!(db.iter().rev().inspect(|item| assert!(item.is_ok())).count(), 1001);
    assert!(db.contains_key("in the log").unwrap());
    assert!(db.verify().unwrap().is_ok());
    let snapshot = db.snapshot();
    assert!(snapshot.contains_key("key 0500").unwrap());
    drop(db.metrics());
    for error in [
        db.put("k", "v").unwrap_err(),
        db.delete("k").unwrap_err(),
        db.flush().unwrap_err(),
        db.sync().unwrap_err(),
        db.compact_range::<&[u8]>(..).unwrap_err(),
        db.wait_idle().unwrap_err(),
        db.keyspace("new", KeyspaceOptions::default()).unwrap_err(),
        db.drop_keyspace("old").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        owes_advice(&error);
    }
    drop(snapshot);
    db.close().unwrap();
    assert_eq!(contents(place.path()), before);
    #[expect(clippy::permissions_set_readonly_false, reason = "so that it can be removed")]
    permissions.set_readonly(false);
    fs::set_permissions(place.path(), permissions).unwrap();
}

#[test]
fn a_read_only_open_asks_for_no_change() {
    let simulated = make_simulated().kill_clone();
    simulated.trace_operations(true);
    let options = DbOptions { read_only: true, ..inline() };
    let db = with(options).file_system(Arc::new(simulated.clone())).open("/db").unwrap();
    assert_eq!(db.iter().inspect(|item| assert!(item.is_ok())).count(), 1001);
    assert!(db.put("k", "v").is_err());
    db.close().unwrap();
    let reads = ["list", "open", "read", "map", "populate", "lock"];
    for line in simulated.operations() {
        let verb = line.split(' ').nth(1).unwrap();
        assert!(reads.contains(&verb), "an operation that changes something: {line}");
    }
    let counters = simulated.counters();
    assert_eq!((counters.bytes_written, counters.syncs, counters.dir_syncs), (0, 0, 0));
}

#[test]
fn an_operating_system_that_refuses() {
    for (operation, errno, advice) in [
        ("list", libc::EACCES, "permissions"),
        ("lock LOCK", libc::EACCES, "permissions"),
        ("lock LOCK", libc::EROFS, "read-only"),
        ("open CURRENT", libc::EACCES, "permissions"),
        ("open MANIFEST", libc::EIO, "device"),
        ("read MANIFEST", libc::EIO, "device"),
        ("open .wal", libc::EMFILE, "open files"),
        ("create MANIFEST", libc::EROFS, "read-only"),
        ("write MANIFEST", libc::ENOSPC, "space"),
        ("sync_data MANIFEST", libc::EIO, "device"),
        ("rename CURRENT.tmp", libc::EPERM, "permissions"),
        ("sync_dir", libc::EIO, "device"),
    ] {
        let fs = make_simulated();
        fs.fail_when(operation, errno, Repeat::Forever);
        let error = open_simulated(&fs).expect_err(operation);
        assert_eq!(error.kind(), ErrorKind::Io, "{operation}: {error}");
        assert!(error.path().is_some_and(|path| path.starts_with("/db")), "{error}");
        owes_advice(&error);
        assert!(error.advice().unwrap().contains(advice), "{operation}: {error}");
        // Nothing was lost, and nothing stays locked.
        fs.clear_faults();
        let db = open_simulated(&fs).unwrap();
        assert_eq!(db.iter().inspect(|item| assert!(item.is_ok())).count(), 1001);
        db.close().unwrap();
    }
}

#[test]
fn permission_denied() {
    let place = tempfile::tempdir().unwrap();
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let mut permissions = fs::metadata(&closed).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&closed, permissions).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        // This is root, whom permissions do not stop; the simulated case above stands in.
        return;
    }
    let error = Db::open(closed.join("db")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.path().is_some_and(|path| path.starts_with(&closed)), "{error}");
    owes_advice(&error);
}

#[test]
fn files_that_are_missing_or_cut() {
    let whole = make_simulated();
    let (table, segment) = (file_of(&whole, ".table"), file_of(&whole, ".wal"));
    let (manifest, current) = (file_of(&whole, "MANIFEST"), PathBuf::from("/db/CURRENT"));
    for (file, named) in
        [(&table, &table), (&segment, &segment), (&manifest, &manifest), (&current, &current)]
    {
        let fs = whole.kill_clone();
        fs.remove_file(file).unwrap();
        let before = fs.list_dir("/db");
        for _ in 0..2 {
            expect_error(open_simulated(&fs), ErrorKind::Corruption, named);
        }
        assert_eq!(fs.list_dir("/db"), before, "a refused open changed the directory");
        let bytes = whole.read_file(file).unwrap().len() as u64;
        for length in [0, bytes / 2, bytes - 1] {
            let fs = whole.kill_clone();
            fs.truncate_file(file, length).unwrap();
            expect_error(open_simulated(&fs), ErrorKind::Corruption, named);
        }
    }
}

#[test]
fn a_current_that_is_none() {
    let whole = make_simulated();
    let current = Path::new("/db/CURRENT");
    let good = whole.read_file(current).unwrap();
    let mut longer = good.clone();
    longer.push(b'\n');
    let garbage: [&[u8]; 8] = [
        b"",
        b"\n",
        b"MANIFEST-000001\n",
        b"MANIFEST-000001\n00000000\n",
        b"../../etc/passwd\n00000000\n",
        &[0xFF; 25],
        &[b'x'; 5000],
        &longer,
    ];
    for bytes in garbage {
        let fs = whole.kill_clone();
        fs.write_file(current, bytes).unwrap();
        expect_error(open_simulated(&fs), ErrorKind::Corruption, current);
        fs.write_file(current, &good).unwrap();
        assert_eq!(open_simulated(&fs).unwrap().iter().count(), 1001, "a refused open did harm");
    }
}
