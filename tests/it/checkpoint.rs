//! Checkpoints: exactly one moment, whatever goes on meanwhile, and never anything else than that under their name.
//!
//! What a checkpoint must hold is read from the database itself: without threads nothing changes between the reading
//! and the call. With threads, every write says which writes were acked before it began; a state that holds the one
//! and not the other is no prefix of the commit order.
//!
//! Crashes and faults: the call is cut at each of its file operations. The database must be as it was; the directory
//! must be free for another try, and open, if at all, as what it was to become.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use esker::Durability::{Buffered, Disabled, Sync};
use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::fs::{FileSystem, StdFs};
use esker::{Db, DbOptions, ErrorKind, KeyspaceOptions, WriteBatch, WriteOptions};

use crate::support::{Contents, DIR, Generator, Op, Rng, Setup, World, difference, read_contents};
use crate::trust;

const COPY: &str = "/copies/one";

/// A database with tables, old ones among them, and with all kinds of writes in memory.
pub(crate) fn filled(fs: &SimFs, seed: u64, write_count: u64) -> World {
    let mut world = World::on_sim(&Setup::small(), fs);
    world.open().unwrap();
    let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Disabled]);
    let mut ops = vec![Op::Create(1), Op::Create(2)];
    ops.extend((0..write_count).map(|_| generator.op()).filter(|op| !matches!(op, Op::Drop(_))));
    for op in &ops {
        world.run(op).unwrap();
    }
    world
}

/// Opens a database that must be there.
pub(crate) fn open_existing(fs: &SimFs, dir: &str) -> esker::Result<Db> {
    let mut setup = Setup::small();
    setup.db.create_if_missing = false;
    setup.open(Arc::new(fs.clone()), Path::new(dir))
}

/// What is wrong with the database in `dir`, which should hold `expected`.
pub(crate) fn check_copy(fs: &SimFs, dir: &str, expected: &Contents) -> Result<(), String> {
    let db = open_existing(fs, dir).map_err(|error| format!("open {dir}: {error}"))?;
    check_holds(&db, expected)?;
    let report = db.verify().map_err(|error| format!("verify {dir}: {error}"))?;
    if !report.is_ok() {
        return Err(format!("verify {dir}: {:?}", report.problems));
    }
    db.close().map_err(|error| format!("close {dir}: {error}"))
}

fn check_holds(db: &Db, expected: &Contents) -> Result<(), String> {
    let found = read_contents(db).map_err(|error| format!("read: {error}"))?;
    if found == *expected { Ok(()) } else { Err(difference(expected, &found)) }
}

/// Whether nobody would take what is at `dir` for a database that was finished: there is nothing, or it says so.
pub(crate) fn is_unfinished(fs: &SimFs, dir: &str) -> Result<bool, String> {
    match open_existing(fs, dir) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.to_string().contains("INCOMPLETE") => Ok(true),
        Err(error) => Err(format!("opening {dir}: {error}")),
    }
}

/// The file system before each file operation of `run`, and after it.
pub(crate) fn cuts<T>(fs: &SimFs, run: impl FnOnce() -> T) -> Vec<(u64, SimFs)> {
    fs.count_reads(false);
    let cuts: Arc<Mutex<Vec<(u64, SimFs)>>> = Arc::default();
    let sink = Arc::clone(&cuts);
    fs.on_operation(move |fs, number| sink.lock().unwrap().push((number, fs.kill_clone())));
    let _ = run();
    fs.on_operation(|_, _| {});
    let mut cuts = std::mem::take(&mut *cuts.lock().unwrap());
    cuts.push((fs.op_count(), fs.kill_clone()));
    cuts
}

/// The states in which the power may leave a file system.
pub(crate) fn crash_states(number: u64, random_count: u64) -> Vec<Persist> {
    let mut list =
        vec![Persist::Nothing, Persist::Everything, Persist::NamesOnly, Persist::BytesOnly];
    list.extend((0..random_count).map(|index| Persist::Random {
        percent: [50, 20, 80][index as usize % 3],
        seed: trust::seed().wrapping_add(number * 1000 + index),
    }));
    list
}

/// The file operations of a call that are made to fail, counted from its first: some of them, or all.
pub(crate) fn fault_numbers() -> impl Iterator<Item = u64> {
    let step = trust::cases(3, 1, 1);
    (trust::seed() % step..).step_by(step as usize)
}

/// Asserts that there are none, after leaving the figures.
#[track_caller]
pub(crate) fn conclude(what: &str, cases: u64, failures: &[String]) {
    trust::report(&format!("copies: {what}"), cases, failures.len() as u64, &[]);
    assert!(cases > 0, "{what}: nothing was tried");
    assert!(
        failures.is_empty(),
        "{what}, first seed {}: {} of {cases} cases are wrong; the first:\n{}",
        trust::seed(),
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
}

// ---- what it holds ----

#[test]
fn a_checkpoint_holds_the_moment_of_the_call_and_lives_its_own_life() {
    let (cases, mut failures) = (trust::cases(12, 200, 2000), Vec::new());
    for seed in trust::seed()..trust::seed() + cases {
        if let Err(what) = live_apart(seed) {
            failures.push(format!("seed {seed}: {what}"));
        }
    }
    conclude("checkpoints that live apart", cases, &failures);
}

fn live_apart(seed: u64) -> Result<(), String> {
    let fs = SimFs::new();
    let mut rng = Rng::new(seed);
    let mut world = filled(&fs, seed, 60 + rng.below(200));
    let mut generator = Generator::new(seed ^ 1, 3, &[Sync, Buffered, Disabled]);
    let mut copies: Vec<(String, Contents)> = Vec::new();
    for number in 0..3 {
        let dir = format!("/copies/{number}");
        let expected = read_contents(world.db()).unwrap();
        world.db().checkpoint(&dir).map_err(|error| format!("checkpoint: {error}"))?;
        copies.push((dir, expected));
        for _ in 0..rng.below(150) {
            world.run(&generator.op()).unwrap();
        }
    }
    // What the database does later, and then what the copies do, disturbs nobody. The power goes in between.
    for op in [Op::Compact(0), Op::Flush, Op::Reopen] {
        world.run(&op).unwrap();
    }
    let expected = read_contents(world.db()).unwrap();
    drop(world);
    let fs = fs.crash_clone(Persist::Nothing);
    for (dir, contents) in &copies {
        check_copy(&fs, dir, contents)?;
        let db = open_existing(&fs, dir).unwrap();
        db.put("only here", "x").unwrap();
        db.compact_range::<&[u8]>(..).unwrap();
        db.close().unwrap();
    }
    check_copy(&fs, DIR, &expected)?;
    for (dir, mut contents) in copies {
        contents.get_mut(&0).unwrap().insert(b"only here".to_vec(), b"x".to_vec());
        check_copy(&fs, &dir, &contents)?;
    }
    Ok(())
}

#[test]
fn tables_are_linked_and_copied_only_where_links_fail() {
    let fs = SimFs::new();
    let world = filled(&fs, 5, 300);
    let expected = read_contents(world.db()).unwrap();
    let tables: u64 = fs.list_dir(DIR).iter().filter(|name| name.contains(".table")).count() as u64;
    let linked = world.db().checkpoint("/copies/linked").unwrap();
    assert!(tables > 1 && linked.tables_linked == tables && linked.tables_copied == 0);
    assert!(linked.bytes_linked > 0 && linked.tables_written > 0);
    for errno in [18, 1, 31] {
        // EXDEV, EPERM, EMLINK.
        fs.fail_when("link .table", errno, Repeat::Forever);
        let dir = format!("/copies/copied{errno}");
        let copied = world.db().checkpoint(&dir).unwrap();
        fs.clear_faults();
        assert_eq!((copied.tables_copied, copied.bytes_copied), (tables, linked.bytes_linked));
        check_copy(&fs.crash_clone(Persist::Nothing), &dir, &expected).unwrap();
    }
    check_copy(&fs, "/copies/linked", &expected).unwrap();
}

#[test]
fn no_live_log_segment_is_shared() {
    let fs = SimFs::new();
    let world = filled(&fs, 6, 100);
    fs.trace_operations(true);
    world.db().checkpoint(COPY).unwrap();
    let operations = fs.operations();
    assert!(operations.iter().any(|line| line.contains(" link ") && line.contains(".table")));
    assert!(!operations.iter().any(|line| line.contains(".wal")), "{operations:?}");
    assert!(!fs.list_dir(COPY).iter().any(|name| name.contains(".wal")));
}

#[test]
fn obsolete_tables_go_once_the_checkpoint_is_done() {
    // The tables of the moment are pinned meanwhile; afterwards nothing keeps them.
    let fs = SimFs::new();
    let world = filled(&fs, 7, 200);
    world.db().checkpoint(COPY).unwrap();
    world.db().compact_range::<&[u8]>(..).unwrap();
    let metrics = world.db().metrics();
    assert_eq!(metrics.obsolete_table_bytes, 0);
    // And the copy is no part of what the database takes.
    let own = fs.list_dir(DIR);
    let files = own.iter().map(|name| fs.read_file(Path::new(DIR).join(name)).unwrap().len());
    assert_eq!(metrics.disk_bytes, files.sum::<usize>() as u64);
}

// ---- under load ----

/// What each writer has acked. Batch number `n` of writer `w` puts the counts that it saw before into both keyspaces.
type Acked = Vec<AtomicU64>;

fn counts(acked: &Acked) -> Vec<u64> {
    acked.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}

fn key(writer: usize, number: u64) -> String {
    format!("{writer}/{number:06}")
}

/// Writes until told to stop.
fn write_on(db: &Db, writer: usize, acked: &Acked, stop: &AtomicBool) {
    let other = db.open_keyspace("logs").unwrap().unwrap();
    let durabilities = [Buffered, Sync, Disabled, Buffered];
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let seen: Vec<String> = counts(acked).iter().map(u64::to_string).collect();
        let (key, value) = (key(writer, number), seen.join(" "));
        let mut batch = WriteBatch::new();
        batch.put(&key, &value).put_in(&other, &key, &value);
        let durability = durabilities[number as usize % durabilities.len()];
        db.write_with(
            batch,
            &WriteOptions { durability: Some(durability), ..WriteOptions::default() },
        )
        .unwrap();
        acked[writer].store(number, Ordering::SeqCst);
    }
}

/// The checkpoint in `dir` must be a prefix of the commit order with everything in `before`.
fn check_prefix(fs: Arc<dyn FileSystem>, dir: &Path, before: &[u64]) -> Result<(), String> {
    let options = DbOptions { create_if_missing: false, ..DbOptions::default() };
    let db = Db::builder().options(options).file_system(fs).open(dir);
    let db = db.map_err(|error| error.to_string())?;
    let read = |keyspace: &esker::Keyspace| -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        keyspace
            .iter()
            .map(|item| item.map(|(key, value)| (text(&key), text(&value))).unwrap())
            .collect()
    };
    let entries = read(db.default_keyspace());
    if read(&db.open_keyspace("logs").unwrap().unwrap()) != entries {
        return Err("half of a batch is there".to_owned());
    }
    let mut found = vec![0u64; before.len()];
    for key in entries.keys() {
        let (writer, number) = key.split_once('/').unwrap();
        let writer: usize = writer.parse().unwrap();
        found[writer] += 1;
        if number.parse::<u64>().unwrap() != found[writer] {
            return Err(format!("before {key} one is missing"));
        }
    }
    if found.iter().zip(before).any(|(found, before)| found < before) {
        return Err(format!("acked before: {before:?}, found: {found:?}"));
    }
    for (key, value) in &entries {
        let seen: Vec<u64> = value.split(' ').map(|count| count.parse().unwrap()).collect();
        if seen.iter().zip(&found).any(|(seen, found)| seen > found) {
            return Err(format!("{key} came after {seen:?}, but found is {found:?}"));
        }
    }
    let report = db.verify().map_err(|error| error.to_string())?;
    if report.is_ok() { Ok(()) } else { Err(format!("{:?}", report.problems)) }
}

#[test]
fn under_load_a_checkpoint_is_a_prefix_of_the_commit_order_with_all_that_was_acked() {
    const WRITERS: usize = 3;
    let place = tempfile::tempdir().unwrap();
    let mut setup = Setup::small();
    setup.db.background_threads = 2;
    setup.keyspace.memtable_bytes = 16 << 10;
    let db = setup.open(Arc::new(StdFs), &place.path().join("db")).unwrap();
    db.keyspace("logs", KeyspaceOptions { memtable_bytes: 6 << 10, ..setup.keyspace.clone() })
        .unwrap();
    let acked: Acked = (0..WRITERS).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let (cases, mut failures) = (trust::cases(15, 100, 500), Vec::new());
    let mut written = 0;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (db, acked, stop) = (&db, &acked, &stop);
            scope.spawn(move || write_on(db, writer, acked, stop));
        }
        for case in 0..cases {
            // Every few hundred writes, so that each finds flushes and compactions on their way.
            while counts(&acked).iter().sum::<u64>() < case * 40 {
                std::thread::yield_now();
            }
            let dir = place.path().join(format!("copy{case}"));
            let before = counts(&acked);
            let result = match db.checkpoint(&dir) {
                Ok(report) => {
                    written += report.tables_written;
                    check_prefix(Arc::new(StdFs), &dir, &before)
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(what) = result {
                failures.push(format!("case {case}: {what}"));
            }
            std::fs::remove_dir_all(&dir).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(written > 0, "no checkpoint met anything in memory");
    assert!(db.verify().unwrap().is_ok());
    conclude("checkpoints under load", cases, &failures);
}

// ---- crashes and faults ----

#[test]
fn a_crash_at_any_operation_leaves_the_source_as_it_was_and_the_target_free_or_complete() {
    let (mut cases, mut failures) = (0, Vec::new());
    for seed in trust::seed()..trust::seed() + trust::cases(2, 20, 100) {
        let fs = SimFs::new();
        let world = filled(&fs, seed, 40 + seed % 4 * 40);
        // So that a power cut takes nothing from the source, and what is found in it is known.
        world.db().flush().unwrap();
        world.db().put_with("in memory", "x", &WriteOptions::SYNC).unwrap();
        let expected = read_contents(world.db()).unwrap();
        let (mut unfinished, mut complete) = (0, 0);
        for (number, cut) in cuts(&fs, || world.db().checkpoint(COPY).unwrap()) {
            for persist in crash_states(number, 2) {
                cases += 1;
                match check_crash(&cut.crash_clone(persist), &expected) {
                    Ok(true) => unfinished += 1,
                    Ok(false) => complete += 1,
                    Err(what) => failures
                        .push(format!("seed {seed}, operation {number}, {persist:?}: {what}")),
                }
            }
        }
        assert!(unfinished > 20 && complete > 0, "{unfinished} unfinished, {complete} complete");
        let dead = fs.crash_clone(Persist::Nothing);
        check_copy(&dead, COPY, &expected).unwrap();
    }
    conclude("checkpoints cut by a crash", cases, &failures);
}

/// Whether the target is unfinished.
fn check_crash(fs: &SimFs, expected: &Contents) -> Result<bool, String> {
    let unfinished = is_unfinished(fs, COPY)?;
    check_copy(fs, DIR, expected)?;
    if unfinished {
        // An open that creates what is missing may find nothing there, but nothing that it takes for a database.
        if !fs.list_dir(COPY).iter().all(|name| name == "LOCK")
            && Setup::small().open(Arc::new(fs.clone()), Path::new(COPY)).is_ok()
        {
            return Err(format!("an unfinished copy was opened: {:?}", fs.list_dir(COPY)));
        }
        let db = open_existing(fs, DIR).unwrap();
        db.checkpoint(COPY).map_err(|error| format!("second try: {error}"))?;
    }
    check_copy(fs, COPY, expected)?;
    Ok(unfinished)
}

#[test]
fn a_fault_at_any_operation_is_an_error_that_leaves_no_trace() {
    let (mut cases, mut failures) = (0, Vec::new());
    for links in [true, false] {
        for (errno, repeat) in [(5, Repeat::Once), (28, Repeat::Once), (5, Repeat::Forever)] {
            for at in fault_numbers() {
                let fs = SimFs::new();
                let world = filled(&fs, 3, 100);
                if !links {
                    fs.fail_when("link .table", 18, Repeat::Forever);
                }
                let expected = read_contents(world.db()).unwrap();
                fs.fail_at(fs.op_count() + at, errno, repeat);
                let result = world.db().checkpoint(COPY);
                let is_over = fs.counters().failures == 0 || (!links && result.is_ok());
                fs.clear_faults();
                if is_over {
                    break;
                }
                cases += 1;
                let checked = match &result {
                    Ok(_) => check_copy(&fs, COPY, &expected),
                    Err(error) => check_failed(&fs, &world, error, repeat, &expected),
                };
                if let Err(what) = checked {
                    let fault = format!("links {links}, errno {errno}, {repeat:?}");
                    failures.push(format!("operation {at}, {fault}: {what}"));
                }
            }
        }
    }
    conclude("checkpoints hit by a fault", cases, &failures);
}

fn check_failed(
    fs: &SimFs,
    world: &World,
    error: &esker::Error,
    repeat: Repeat,
    expected: &Contents,
) -> Result<(), String> {
    if error.kind() != ErrorKind::Io || error.path().is_none() {
        return Err(format!("the error is {error:?}"));
    }
    // At most an empty lock file, if it failed before it knew that the directory is its own.
    if repeat == Repeat::Once && !fs.list_dir(COPY).iter().all(|name| name == "LOCK") {
        return Err(format!("{error} left {:?}", fs.list_dir(COPY)));
    }
    if !is_unfinished(fs, COPY)? {
        // Only the very last sync failed, and then everything: what is there is whole.
        if repeat == Repeat::Once {
            return Err(format!("{error}, and yet there is a database"));
        }
        return check_copy(fs, COPY, expected);
    }
    check_holds(world.db(), expected)?;
    world.db().put("goes", "on").map_err(|error| format!("the source: {error}"))?;
    world.db().delete("goes").unwrap();
    world.db().checkpoint(COPY).map_err(|error| format!("second try: {error}"))?;
    check_copy(fs, COPY, expected)
}

#[test]
fn on_a_full_disk_what_was_made_is_removed() {
    let fs = SimFs::new();
    let world = filled(&fs, 8, 150);
    let used: usize = fs
        .list_dir(DIR)
        .iter()
        .map(|name| fs.read_file(Path::new(DIR).join(name)).unwrap().len().next_multiple_of(4096))
        .sum();
    fs.set_capacity_bytes(Some(used as u64 + 8192));
    let error = world.db().checkpoint(COPY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("space"), "{error}");
    assert!(fs.list_dir(COPY).is_empty());
    world.db().put_with("small", "x", &WriteOptions::SYNC).unwrap();
    fs.set_capacity_bytes(None);
    let expected = read_contents(world.db()).unwrap();
    world.db().checkpoint(COPY).unwrap();
    check_copy(&fs, COPY, &expected).unwrap();
}

// ---- what is refused ----

#[test]
fn targets_that_are_not_free_are_refused_and_left_alone() {
    let fs = SimFs::new();
    let world = filled(&fs, 9, 60);
    let refused = |dir: &str, kind: ErrorKind| {
        let error = world.db().checkpoint(dir).unwrap_err();
        assert_eq!(error.kind(), kind, "{dir}: {error}");
        assert!(error.path().is_some(), "{error}");
    };
    for dir in [DIR, "/db/below", "/x/../db"] {
        refused(dir, ErrorKind::InvalidArgument);
    }
    assert!(!fs.list_dir(DIR).iter().any(|name| name == "below"));
    world.db().checkpoint(COPY).unwrap();
    refused(COPY, ErrorKind::InvalidArgument);
    fs.write_file("/notes/readme", b"mine").unwrap();
    refused("/notes", ErrorKind::InvalidArgument);
    refused("/notes/readme", ErrorKind::InvalidArgument);
    assert_eq!(fs.list_dir("/notes"), ["readme"]);
    let expected = read_contents(world.db()).unwrap();
    check_copy(&fs, COPY, &expected).unwrap();
}

#[test]
fn a_database_that_only_reads_can_be_checkpointed_and_is_not_changed() {
    let fs = SimFs::new();
    let mut world = filled(&fs, 10, 100);
    world.run(&Op::Sync).unwrap();
    drop(world);
    let mut setup = Setup::small();
    setup.db.read_only = true;
    let db = setup.open_sim(&fs).unwrap();
    let files = |fs: &SimFs| -> Vec<_> {
        let names = fs.list_dir(DIR).into_iter();
        names.map(|name| (fs.read_file(Path::new(DIR).join(&name)), name)).collect()
    };
    let before = files(&fs);
    let expected = read_contents(&db).unwrap();
    db.checkpoint(COPY).unwrap();
    assert!(files(&fs) == before);
    check_copy(&fs, COPY, &expected).unwrap();
}

#[test]
fn poisoned_and_closed_databases_make_none() {
    let fs = SimFs::new();
    let world = filled(&fs, 11, 60);
    fs.fail_when("sync_data .wal", 5, Repeat::Once);
    world.db().put_with("a", "b", &WriteOptions::SYNC).unwrap_err();
    let error = world.db().checkpoint(COPY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(fs.list_dir(COPY).is_empty());
    let db = world.db().clone();
    db.clone().close().unwrap_err();
    assert_eq!(db.checkpoint(COPY).unwrap_err().kind(), ErrorKind::Closed);
}
