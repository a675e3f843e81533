//! Backups: every one in a directory can be restored to exactly what it was made of, or an error says why not.
//!
//! Crashes, faults and damage are tried at every file operation and in every file. What must hold after each: earlier
//! backups restore as before, what was under way is there whole or not at all, another try works, and a restore never
//! yields a database that is not what was backed up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use esker::Durability::{Buffered, Disabled, Sync};
use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::{BackupDir, Db, Error, ErrorKind, WriteOptions};

use crate::checkpoint::{
    check_copy, conclude, crash_states, cuts, fault_numbers, filled, is_unfinished, open_existing,
};
use crate::support::{Contents, DIR, Generator, Op, Rng, Setup, World, read_contents};
use crate::trust;

const BACKUPS: &str = "/backups";
const RESTORED: &str = "/restored";

fn dir_on(fs: &SimFs) -> BackupDir {
    BackupDir::with_file_system(Arc::new(fs.clone()), BACKUPS)
}

/// The files of the backup directory whose names contain `part`.
fn names(fs: &SimFs, part: &str) -> Vec<String> {
    fs.list_dir(BACKUPS).into_iter().filter(|name| name.contains(part)).collect()
}

/// What each backup was made of.
type Made = BTreeMap<u64, Contents>;

fn back_up(world: &World, made: &mut Made) -> esker::backup::BackupReport {
    let expected = read_contents(world.db()).unwrap();
    let report = world.db().backup(BACKUPS).unwrap();
    assert!(made.insert(report.id, expected).is_none(), "a number is given twice");
    report
}

/// Restores every backup of a copy of `fs`, and looks at what comes out.
fn check_backups(fs: &SimFs, made: &Made) -> Result<(), String> {
    let fs = fs.kill_clone();
    let list = dir_on(&fs).list().map_err(|error| format!("list: {error}"))?;
    let ids: Vec<u64> = list.backups.iter().map(|backup| backup.id).collect();
    if !list.problems.is_empty() || !ids.iter().eq(made.keys()) {
        return Err(format!("listed {ids:?} and {:?}, not {:?}", list.problems, made.keys()));
    }
    let report = dir_on(&fs).verify().map_err(|error| format!("verify: {error}"))?;
    if !report.is_ok() {
        return Err(format!("verify: {:?}", report.problems));
    }
    for (id, contents) in made {
        let into = format!("{RESTORED}/{id}");
        dir_on(&fs).restore(Some(*id), &into).map_err(|error| format!("restore {id}: {error}"))?;
        // What a restore has returned survives the power.
        check_copy(&fs.crash_clone(Persist::Nothing), &into, contents)
            .map_err(|what| format!("backup {id}: {what}"))?;
    }
    Ok(())
}

/// A database with some backups, and writes since the last one.
fn backed_up(fs: &SimFs, seed: u64) -> (World, Made) {
    let mut world = filled(fs, seed, 60);
    let mut generator = Generator::new(seed + 1, 3, &[Sync]);
    let mut made = Made::new();
    for _ in 0..2 {
        back_up(&world, &mut made);
        for op in generator.writes(30) {
            world.run(&op).unwrap();
        }
    }
    world.db().sync().unwrap();
    (world, made)
}

// ---- what they hold, and what they share ----

#[test]
fn every_backup_restores_to_what_it_was_made_of() {
    let (cases, mut failures) = (trust::cases(8, 150, 1500), Vec::new());
    for seed in trust::seed()..trust::seed() + cases {
        if let Err(what) = make_and_remove(seed) {
            failures.push(format!("seed {seed}: {what}"));
        }
    }
    conclude("histories of backups", cases, &failures);
}

fn make_and_remove(seed: u64) -> Result<(), String> {
    let fs = SimFs::new();
    let mut rng = Rng::new(seed);
    let mut world = filled(&fs, seed, 60 + rng.below(120));
    let mut generator = Generator::new(seed ^ 7, 3, &[Sync, Buffered, Disabled]);
    let mut made = Made::new();
    for _ in 0..5 {
        back_up(&world, &mut made);
        if rng.percent(30) {
            let gone = rng.pick(&made.keys().copied().collect::<Vec<_>>());
            dir_on(&fs).remove(gone).map_err(|error| format!("remove {gone}: {error}"))?;
            if made.len() > 1 {
                made.remove(&gone);
            } else {
                made.clear();
            }
        }
        for _ in 0..rng.below(80) {
            world.run(&generator.op()).unwrap();
        }
    }
    check_backups(&fs.crash_clone(Persist::Nothing), &made)?;
    // Removed to the last, they leave nothing but the lock.
    for id in made.keys() {
        dir_on(&fs).remove(*id).map_err(|error| format!("remove {id}: {error}"))?;
    }
    let left = fs.list_dir(BACKUPS);
    if left == ["BACKUP.lock"] { Ok(()) } else { Err(format!("left over: {left:?}")) }
}

#[test]
fn only_what_is_new_is_copied() {
    let fs = SimFs::new();
    let mut world = filled(&fs, 1, 200);
    let mut made = Made::new();
    let first = back_up(&world, &mut made);
    assert!(first.tables_copied > 3 && first.tables_shared == 0);
    let stored = names(&fs, ".table");
    let second = back_up(&world, &mut made);
    assert_eq!((second.tables_copied, second.bytes_copied), (0, 0));
    assert_eq!(
        (second.tables_shared, second.bytes_shared),
        (first.tables_copied, first.bytes_copied)
    );
    // By another process too, which has to read the tables to know them.
    world.run(&Op::Reopen).unwrap();
    let third = back_up(&world, &mut made);
    assert_eq!((third.tables_copied, third.tables_shared), (0, first.tables_copied));
    assert_eq!(names(&fs, ".table"), stored);
    let pause = world.db().pause_compactions();
    world.db().put("new", "x").unwrap();
    let fourth = back_up(&world, &mut made);
    assert_eq!(fourth.tables_copied + fourth.tables_shared, first.tables_copied + 1);
    assert_eq!(fourth.tables_copied, 1);
    let list = dir_on(&fs).list().unwrap();
    let stored = names(&fs, ".table").into_iter();
    let lengths = stored.map(|name| fs.read_file(Path::new(BACKUPS).join(name)).unwrap().len());
    assert_eq!(list.stored_bytes, lengths.sum::<usize>() as u64);
    assert_eq!(list.backups[3].table_bytes, fourth.bytes_copied + fourth.bytes_shared);
    let removed = dir_on(&fs).remove(4).unwrap();
    assert_eq!((removed.tables_removed, removed.bytes_removed), (1, fourth.bytes_copied));
    made.remove(&4);
    check_backups(&fs, &made).unwrap();
    drop(pause);
}

#[test]
fn databases_that_were_one_once_share_a_directory_without_mixing_their_tables() {
    let fs = SimFs::new();
    let mut world = World::on_sim(&Setup::small(), &fs);
    world.open().unwrap();
    world.db().put("common", "x").unwrap();
    world.db().flush().unwrap();
    world.db().checkpoint("/clone").unwrap();
    // An opening takes a file number; the clone is opened too.
    world.run(&Op::Reopen).unwrap();
    let clone = open_existing(&fs, "/clone").unwrap();
    // Same numbers, lengths, keys and sequence numbers; only the values differ.
    let mut made = Made::new();
    for (db, value) in [(world.db(), "left "), (&clone, "right")] {
        for number in db.metrics().sequence..40 {
            db.put(format!("{number:02}"), value).unwrap();
        }
        let report = db.backup(BACKUPS).unwrap();
        made.insert(report.id, read_contents(db).unwrap());
    }
    assert_ne!(made[&1], made[&2]);
    let tables = names(&fs, ".table");
    let numbers: BTreeSet<&str> = tables.iter().map(|name| &name[..6]).collect();
    assert!(numbers.len() < tables.len(), "no two tables have one number: {tables:?}");
    check_backups(&fs, &made).unwrap();
}

#[test]
fn a_backup_of_a_database_that_only_reads_has_what_was_in_its_log() {
    let fs = SimFs::new();
    let world = filled(&fs, 4, 60);
    world.db().put_with("in the log", "x", &WriteOptions::SYNC).unwrap();
    let expected = read_contents(world.db()).unwrap();
    world.db().flush().unwrap();
    drop(world);
    let mut setup = Setup::small();
    setup.db.read_only = true;
    let db = setup.open_sim(&fs).unwrap();
    let report = db.backup(BACKUPS).unwrap();
    check_backups(&fs, &Made::from([(report.id, expected)])).unwrap();
}

// ---- crashes ----

#[test]
fn a_crash_in_a_backup_leaves_the_earlier_ones_and_a_retry_works() {
    let (mut cases, mut failures) = (0, Vec::new());
    for seed in trust::seed()..trust::seed() + trust::cases(1, 12, 60) {
        let fs = SimFs::new();
        let (world, made) = backed_up(&fs, seed);
        let mut with_new = made.clone();
        let cuts = cuts(&fs, || back_up(&world, &mut with_new));
        let (mut before, mut after) = (0, 0);
        let last = cuts.len();
        for (index, (number, cut)) in cuts.into_iter().enumerate() {
            // At the end names of tables and of the description are pending together: any mixture may survive.
            for persist in crash_states(number, if index + 8 > last { 40 } else { 1 }) {
                cases += 1;
                let state = cut.crash_clone(persist);
                let checked = check_cut_backup(&state, &made, &with_new);
                match checked {
                    Ok(true) => after += 1,
                    Ok(false) => before += 1,
                    Err(what) => failures
                        .push(format!("seed {seed}, operation {number}, {persist:?}: {what}")),
                }
            }
        }
        assert!(
            before > 20 && after > 0,
            "{before} states without the new backup, {after} with it"
        );
        check_backups(&fs.crash_clone(Persist::Nothing), &with_new).unwrap();
    }
    conclude("backups cut by a crash", cases, &failures);
}

/// Whether the new backup is there.
fn check_cut_backup(fs: &SimFs, made: &Made, with_new: &Made) -> Result<bool, String> {
    let is_there =
        dir_on(fs).list().map_err(|error| format!("list: {error}"))?.backups.len() > made.len();
    check_backups(fs, if is_there { with_new } else { made })?;
    let db = open_existing(fs, DIR).map_err(|error| format!("the source: {error}"))?;
    let contents = read_contents(&db).unwrap();
    let report = db.backup(BACKUPS).map_err(|error| format!("second try: {error}"))?;
    let mut now = if is_there { with_new.clone() } else { made.clone() };
    now.insert(report.id, contents);
    check_backups(fs, &now)?;
    let waste: Vec<_> =
        fs.list_dir(BACKUPS).into_iter().filter(|name| name.contains(".tmp")).collect();
    if waste.is_empty() { Ok(is_there) } else { Err(format!("waste: {waste:?}")) }
}

#[test]
fn a_crash_in_the_very_first_backup_leaves_a_directory_that_takes_another() {
    let fs = SimFs::new();
    let world = filled(&fs, 2, 60);
    world.db().flush().unwrap();
    let expected = read_contents(world.db()).unwrap();
    let (mut cases, mut failures) = (0, Vec::new());
    for (number, cut) in cuts(&fs, || world.db().backup(BACKUPS).unwrap()) {
        for persist in crash_states(number, 3) {
            cases += 1;
            let state = cut.crash_clone(persist);
            let db = open_existing(&state, DIR).unwrap();
            let retried = db.backup(BACKUPS).map_err(|error| error.to_string());
            let checked = retried.and_then(|report| {
                let earlier = (1..report.id).map(|id| (id, expected.clone()));
                check_backups(&state, &earlier.chain([(report.id, expected.clone())]).collect())
            });
            if let Err(what) = checked {
                failures.push(format!("operation {number}, {persist:?}: {what}"));
            }
        }
    }
    conclude("first backups cut by a crash", cases, &failures);
}

#[test]
fn a_crash_in_a_removal_leaves_the_others_and_a_retry_works() {
    let fs = SimFs::new();
    let (world, mut made) = backed_up(&fs, 3);
    back_up(&world, &mut made);
    let mut rest = made.clone();
    rest.remove(&2);
    let (mut cases, mut failures) = (0, Vec::new());
    for (number, cut) in cuts(&fs, || dir_on(&fs).remove(2).unwrap()) {
        for persist in crash_states(number, 60) {
            cases += 1;
            let state = cut.crash_clone(persist);
            let is_there = dir_on(&state).list().unwrap().backups.len() == made.len();
            let checked = check_backups(&state, if is_there { &made } else { &rest });
            let checked = checked.and_then(|()| {
                let again = dir_on(&state).remove(2);
                if again.is_ok() != is_there {
                    return Err(format!("second try: {again:?}"));
                }
                // And what the crash left of its tables goes with the next change.
                dir_on(&state).remove(3).map_err(|error| error.to_string())?;
                let mut rest = rest.clone();
                rest.remove(&3);
                check_backups(&state, &rest)?;
                dir_on(&state).remove(1).map_err(|error| error.to_string())?;
                let left = state.list_dir(BACKUPS);
                if left == ["BACKUP.lock"] { Ok(()) } else { Err(format!("left: {left:?}")) }
            });
            if let Err(what) = checked {
                failures.push(format!("operation {number}, {persist:?}: {what}"));
            }
        }
    }
    conclude("removals cut by a crash", cases, &failures);
}

#[test]
fn a_crash_in_a_restore_leaves_no_database_or_the_right_one_and_a_retry_works() {
    let (mut cases, mut failures) = (0, Vec::new());
    for seed in trust::seed()..trust::seed() + trust::cases(1, 12, 60) {
        let fs = SimFs::new();
        let (_world, made) = backed_up(&fs, seed);
        for (number, cut) in cuts(&fs, || dir_on(&fs).restore(Some(1), RESTORED).unwrap()) {
            for persist in crash_states(number, 3) {
                cases += 1;
                let state = cut.crash_clone(persist);
                let checked = is_unfinished(&state, RESTORED).and_then(|unfinished| {
                    if unfinished {
                        let again = dir_on(&state).restore(Some(1), RESTORED);
                        again.map_err(|error| format!("second try: {error}"))?;
                    }
                    check_copy(&state, RESTORED, &made[&1])
                });
                if let Err(what) = checked {
                    failures.push(format!("seed {seed}, operation {number}, {persist:?}: {what}"));
                }
            }
        }
    }
    conclude("restores cut by a crash", cases, &failures);
}

// ---- faults ----

/// Lets each operation of `call` fail in turn, and has `check` look at what it left.
fn fault_everywhere(
    what: &str,
    call: impl Fn(&World, &SimFs) -> Result<(), Error>,
    check: impl Fn(&World, &SimFs, &Made, bool) -> Result<(), String>,
) {
    let (mut cases, mut failures) = (0, Vec::new());
    for (errno, repeat) in [(5, Repeat::Once), (28, Repeat::Once), (28, Repeat::Forever)] {
        for at in fault_numbers() {
            let fs = SimFs::new();
            let (world, made) = backed_up(&fs, 5);
            world.db().flush().unwrap();
            fs.fail_at(fs.op_count() + at, errno, repeat);
            let result = call(&world, &fs);
            let was_hit = fs.counters().failures > 0;
            fs.clear_faults();
            if !was_hit {
                break;
            }
            cases += 1;
            let checked = match &result {
                Err(error) if error.path().is_none() || error.kind() != ErrorKind::Io => {
                    Err(format!("the error is {error:?}"))
                }
                _ => check(&world, &fs, &made, result.is_ok()),
            };
            if let Err(what) = checked {
                failures.push(format!("operation {at}, errno {errno}, {repeat:?}: {what}"));
            }
        }
    }
    conclude(what, cases, &failures);
}

#[test]
fn a_fault_in_a_backup_leaves_the_earlier_ones_and_a_retry_works() {
    fault_everywhere(
        "backups hit by a fault",
        |world, _| world.db().backup(BACKUPS).map(drop),
        |world, fs, made, is_ok| {
            let mut made = made.clone();
            let contents = read_contents(world.db()).unwrap();
            // If only the very last sync failed, and then everything, the backup is there, and whole.
            let is_there = dir_on(fs).list().unwrap().backups.len() > made.len();
            if is_ok && !is_there {
                return Err("no error, and no backup".to_owned());
            }
            if is_there {
                made.insert(3, contents.clone());
            }
            check_backups(fs, &made)?;
            let again = world.db().backup(BACKUPS).map_err(|error| error.to_string())?;
            made.insert(again.id, contents);
            check_backups(fs, &made)
        },
    );
}

#[test]
fn a_fault_in_a_removal_leaves_the_others() {
    fault_everywhere(
        "removals hit by a fault",
        |_, fs| dir_on(fs).remove(1).map(drop),
        |_, fs, made, _| {
            let mut rest = made.clone();
            if dir_on(fs).list().unwrap().backups.len() < made.len() {
                rest.remove(&1);
            }
            check_backups(fs, &rest)
        },
    );
}

#[test]
fn a_fault_in_a_restore_leaves_nothing_that_opens() {
    fault_everywhere(
        "restores hit by a fault",
        |_, fs| dir_on(fs).restore(None, RESTORED).map(drop),
        |_, fs, made, is_ok| {
            // If only the very last sync failed, and then everything, what is there is whole.
            if !is_ok && is_unfinished(fs, RESTORED)? {
                dir_on(fs).restore(None, RESTORED).map_err(|error| error.to_string())?;
            }
            check_copy(fs, RESTORED, &made[&2])
        },
    );
}

// ---- damage ----

#[test]
fn damage_of_any_file_is_found_and_never_restored() {
    let original = SimFs::new();
    let (world, made) = backed_up(&original, 6);
    drop(world);
    let mut rng = Rng::new(trust::seed());
    let (mut cases, mut failures, mut refused) = (0, Vec::new(), 0);
    for name in original.list_dir(BACKUPS).iter().filter(|name| *name != "BACKUP.lock") {
        let path = Path::new(BACKUPS).join(name);
        let bytes = original.read_file(&path).unwrap().len() as u64;
        let flips = trust::cases(24, 400, 4000).min(bytes);
        let mut changes: Vec<Change> =
            (0..flips).map(|_| Change::Flip(rng.below(bytes), 1 << rng.below(8))).collect();
        changes.extend([Change::Cut(0), Change::Cut(bytes / 2), Change::Cut(bytes - 1)]);
        changes.extend([Change::Cut(bytes + 1), Change::Remove, Change::Swap]);
        for change in changes {
            cases += 1;
            let fs = original.kill_clone();
            change.apply(&fs, &path);
            match check_damaged(&fs, &made) {
                Ok(count) => refused += count,
                Err(what) => failures.push(format!("{name}, {change:?}: {what}")),
            }
        }
    }
    assert!(refused >= cases, "only {refused} of {cases} changes kept a restore from working");
    conclude("backups damaged", cases, &failures);
}

#[derive(Debug)]
enum Change {
    Flip(u64, u8),
    Cut(u64),
    Remove,
    /// The bytes of another file of the same kind.
    Swap,
}

impl Change {
    fn apply(&self, fs: &SimFs, path: &Path) {
        match self {
            Change::Flip(offset, mask) => fs.flip(path, *offset, *mask).unwrap(),
            Change::Cut(bytes) => fs.truncate_file(path, *bytes).unwrap(),
            Change::Remove => fs.remove_file(path).unwrap(),
            Change::Swap => {
                let name = path.file_name().unwrap().to_str().unwrap();
                let kind = if name.contains(".table") { ".table" } else { "BACKUP-" };
                let other = names(fs, kind).into_iter().find(|other| other != name).unwrap();
                fs.write_file(path, &fs.read_file(Path::new(BACKUPS).join(other)).unwrap())
                    .unwrap();
            }
        }
    }
}

/// How many backups can no longer be restored.
fn check_damaged(fs: &SimFs, made: &Made) -> Result<u64, String> {
    let report = dir_on(fs).verify().map_err(|error| format!("verify: {error}"))?;
    let list = dir_on(fs).list().map_err(|error| format!("list: {error}"))?;
    // A description that is gone is a backup that is gone; everything else must be noticed.
    let is_gone = list.backups.len() + list.problems.len() < made.len();
    if report.is_ok() && !is_gone {
        return Err("verify found nothing".to_owned());
    }
    let mut refused = 0;
    for (id, contents) in made {
        let into = format!("{RESTORED}/{id}");
        match dir_on(fs).restore(Some(*id), &into) {
            Ok(_) => check_copy(fs, &into, contents)?,
            Err(error) => {
                refused += 1;
                let is_told =
                    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported)
                        || (is_gone && error.kind() == ErrorKind::InvalidArgument);
                if !is_told || error.path().is_none() {
                    return Err(format!("restore {id}: {error:?}"));
                }
                if !fs.list_dir(&into).is_empty() {
                    return Err(format!("restore {id} left {:?}", fs.list_dir(&into)));
                }
            }
        }
    }
    if refused == 0 { Err("every restore worked".to_owned()) } else { Ok(refused) }
}

#[test]
fn no_table_is_removed_while_a_description_cannot_be_read() {
    let fs = SimFs::new();
    let (world, mut made) = backed_up(&fs, 7);
    let description = Path::new(BACKUPS).join("BACKUP-000001");
    let whole = fs.read_file(&description).unwrap();
    fs.flip(&description, 40, 1).unwrap();
    let tables = names(&fs, ".table");
    assert_eq!(dir_on(&fs).remove(2).unwrap(), esker::backup::RemoveReport::default());
    assert_eq!(names(&fs, ".table"), tables);
    made.remove(&2);
    // Backups go on, and removing the damaged one frees everything again.
    let report = back_up(&world, &mut made);
    assert_eq!(dir_on(&fs).list().unwrap().problems.len(), 1);
    fs.write_file(&description, &whole).unwrap();
    check_backups(&fs, &made).unwrap();
    fs.flip(&description, 40, 1).unwrap();
    dir_on(&fs).remove(1).unwrap();
    made.remove(&1);
    check_backups(&fs, &made).unwrap();
    dir_on(&fs).remove(report.id).unwrap();
    assert_eq!(fs.list_dir(BACKUPS), ["BACKUP.lock"]);
}

/// Somebody moved the description away and left a link, as annexes do.
#[test]
fn a_description_that_is_no_file_keeps_its_tables() {
    let dir = tempfile::tempdir().unwrap();
    let (db_dir, backups) = (dir.path().join("db"), dir.path().join("backups"));
    let db = Db::open(&db_dir).unwrap();
    db.put("a", "1").unwrap();
    let first = db.backup(&backups).unwrap().id;
    let description = backups.join("BACKUP-000001");
    let moved = dir.path().join("moved");
    std::fs::rename(&description, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &description).unwrap();
    db.compact_range::<&str>(..).unwrap();
    db.put("a", "2").unwrap();
    let second = db.backup(&backups).unwrap().id;
    assert_ne!(first, second);
    let backup_dir = BackupDir::new(&backups);
    let problems = backup_dir.list().unwrap().problems;
    assert!(problems.len() == 1 && problems[0].path() == Some(&*description), "{problems:?}");
    backup_dir.remove(second).unwrap();
    std::fs::rename(&moved, &description).unwrap();
    let restored = dir.path().join("restored");
    backup_dir.restore(Some(first), &restored).unwrap();
    assert_eq!(Db::open(&restored).unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_damaged_table_of_the_database_does_not_get_into_a_backup() {
    let fs = SimFs::new();
    let world = filled(&fs, 8, 120);
    world.db().flush().unwrap();
    let table = fs.list_dir(DIR).into_iter().find(|name| name.contains(".table")).unwrap();
    fs.flip(Path::new(DIR).join(&table), 100, 4).unwrap();
    // The database opened its tables before; their maps are copies here.
    drop(world);
    let db = open_existing(&fs, DIR).unwrap();
    let error = db.backup(BACKUPS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains(&table), "{error}");
    assert!(dir_on(&fs).list().unwrap().backups.is_empty());
}

// ---- what is refused ----

#[test]
fn wrong_directories_and_numbers_are_errors_that_say_so() {
    let fs = SimFs::new();
    let (world, made) = backed_up(&fs, 9);
    let backup = |db: &Db, dir: &str| db.backup(dir).unwrap_err().kind();
    fs.write_file("/notes/readme", b"mine").unwrap();
    world.db().checkpoint("/other").unwrap();
    for dir in [DIR, "/db/backups", "/notes", "/other"] {
        assert_eq!(backup(world.db(), dir), ErrorKind::InvalidArgument, "{dir}");
    }
    let at = |dir: &str| BackupDir::with_file_system(Arc::new(fs.clone()), dir);
    assert_eq!(at("/none").list().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(at("/none").restore(None, RESTORED).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(at("/other").list().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(at("/other").remove(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let dir = dir_on(&fs);
    assert_eq!(dir.remove(9).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(dir.restore(Some(9), RESTORED).unwrap_err().kind(), ErrorKind::InvalidArgument);
    for into in [DIR, "/notes", "/other", BACKUPS] {
        let error = dir.restore(None, into).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Locked), "{error}");
    }
    assert!(fs.list_dir("/none").is_empty() && fs.list_dir(RESTORED).is_empty());
    let last = Path::new(BACKUPS).join("BACKUP-18446744073709551615");
    fs.write_file(&last, b"planted").unwrap();
    assert_eq!(backup(world.db(), BACKUPS), ErrorKind::InvalidArgument);
    assert_eq!(fs.read_file(&last).unwrap(), b"planted");
    fs.remove_file(&last).unwrap();
    // A backup directory is no database, even for an open that would create one.
    let opened = Setup::small().open(Arc::new(fs.clone()), Path::new(BACKUPS));
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::InvalidArgument);
    check_backups(&fs, &made).unwrap();
}
