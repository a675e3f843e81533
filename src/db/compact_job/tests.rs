//! What is chosen, and when: hand-driven, without background threads.

use std::io;

use super::*;
use crate::compaction::{CompactionReason, CompactionStrategy};
use crate::db::{Db, flush_job};
use crate::fs::SimFs;
use crate::key::SequenceNumber;
use crate::options::{Compression, DbOptions, Leveled, SizeTiered};
use crate::spawn::{Spawn, StdSpawn};
use crate::sync::thread::JoinHandle;
use crate::version::text;

/// Threads that end at once: the test does their work.
#[derive(Debug)]
struct Nobody;

impl Spawn for Nobody {
    fn spawn(&self, name: &str, _body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        StdSpawn.spawn(name, Box::new(|| ()))
    }
}

fn small() -> KeyspaceOptions {
    let leveled = Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 };
    KeyspaceOptions::default().compaction(leveled)
}

/// A database of three threads that do nothing.
fn open() -> Db {
    let options = DbOptions { background_threads: 3, ..DbOptions::default() };
    let builder = Db::builder().options(options).default_keyspace(small());
    builder.file_system(Arc::new(SimFs::new())).spawner(Arc::new(Nobody)).open("/db").unwrap()
}

/// Flushes `count` runs into level 0 of the keyspace.
fn stack(db: &Db, name: &str, count: usize) {
    let keyspace = db.keyspace(name, small()).unwrap();
    let inner = &keyspace.handle.inner;
    for _ in 0..count {
        for key in ["a", "m", "z"] {
            keyspace.put(key, "value").unwrap();
        }
        let next = inner.commit().lock().next_sequence;
        keyspace.core.rotate(SequenceNumber(next.0 - 1), 0);
        flush_job::run(inner, &keyspace.core).unwrap();
    }
}

/// The keyspace of the next choice.
fn choose(db: &Db) -> Option<String> {
    let inner = &db.default_keyspace().handle.inner;
    pick(inner, &mut inner.work.lock()).map(|job| job.core.name.to_string())
}

/// Runs the next choice to its end.
fn run_next(db: &Db) -> Option<String> {
    let inner = &db.default_keyspace().handle.inner;
    let mut job = pick(inner, &mut inner.work.lock())?;
    run(inner, &mut job, &mut |_| Ok(())).unwrap();
    inner.work.lock().release(&job.reservation);
    Some(job.core.name.to_string())
}

#[test]
fn the_most_urgent_keyspace_goes_first_and_the_others_at_the_same_time() {
    let db = open();
    for (name, runs) in [("some", 3), ("none", 1), ("most", 9), ("more", 6)] {
        stack(&db, name, runs);
    }
    let mut order: Vec<String> = Vec::new();
    // Nothing is released: all that is chosen runs at once. A keyspace may be chosen twice.
    while let Some(name) = choose(&db) {
        if !order.contains(&name) {
            order.push(name);
        }
    }
    assert_eq!(order, ["most", "more", "some"]);
}

#[test]
fn a_keyspace_that_is_always_busy_starves_nobody() {
    let db = open();
    stack(&db, "patient", 8);
    let mut order = String::new();
    for _ in 0..4 {
        // However much is done for it, there is always more.
        stack(&db, "busy", 10);
        order += &run_next(&db).unwrap()[..1];
    }
    assert_eq!(order, "bbbp");
}

/// While a merge of everything goes on, no plan may name what its slices have put into the tree.
#[test]
fn outputs_of_slices_are_busy_until_the_merge_ends() {
    let tiered = SizeTiered { merge_width: 4, ..SizeTiered::default() };
    let options = KeyspaceOptions {
        table_bytes: 4 << 10,
        compression: vec![Compression::None],
        ..KeyspaceOptions::default().compaction(tiered)
    };
    // One thread: the merge is not split.
    let builder =
        Db::builder().options(DbOptions { background_threads: 1, ..DbOptions::default() });
    let builder = builder.file_system(Arc::new(SimFs::new())).spawner(Arc::new(Nobody));
    let db = builder.default_keyspace(options).open("/db").unwrap();
    let keyspace = db.default_keyspace();
    let (inner, core) = (&keyspace.handle.inner, &keyspace.core);
    for run in 0..4 {
        for key in 0..100 {
            keyspace.put(format!("{key:03}/{run}"), [0; 100]).unwrap();
        }
        let next = inner.commit().lock().next_sequence;
        core.rotate(SequenceNumber(next.0 - 1), 0);
        flush_job::run(inner, core).unwrap();
    }
    let mut job = pick(inner, &mut inner.work.lock()).unwrap();
    let plan = Arc::clone(&job.plan);
    let is_input = |number| plan.inputs.iter().any(|input| input.tables.contains(&number));
    let mut installed_count = 0;
    let mut poll = |_: JobProgress| {
        let version = Arc::clone(&core.view.load().version);
        let state = inner.work.lock();
        for (_, _, table) in version.tables() {
            let number = table.meta().number;
            assert!(state.busy[&core.id].tables.contains(&number), "table {number} is idle");
            installed_count += u64::from(!is_input(number));
        }
        Ok(())
    };
    run(inner, &mut job, &mut poll).unwrap();
    assert!(installed_count > 4, "{installed_count} tables of slices");
    inner.work.lock().release(&job.reservation);
    assert!(inner.work.lock().busy[&core.id].tables.is_empty(), "all of it is released");
}

#[test]
fn nothing_is_chosen_while_compaction_is_paused() {
    let db = open();
    stack(&db, "a", 4);
    let (outer, inner) = (db.pause_compactions(), db.pause_compactions());
    assert_eq!(choose(&db), None);
    drop(outer);
    assert_eq!(choose(&db), None, "the other guard lives");
    drop(inner);
    assert_eq!(choose(&db).as_deref(), Some("a"));
}

#[test]
fn a_compaction_is_cancelled_by_what_comes_after_its_choice() {
    let db = open();
    let inner = &db.default_keyspace().handle.inner;
    db.cancel_compactions();
    let gate = |cancel_count| {
        let mut gate = Gate::new(inner, cancel_count, None);
        gate.pass(JobProgress::default(), &mut || Ok(())).map_err(|error| error.kind())
    };
    assert_eq!(gate(inner.work.cancel_count()), Ok(()));
    let chosen = inner.work.cancel_count();
    db.cancel_compactions();
    assert_eq!(gate(chosen), Err(crate::error::ErrorKind::Cancelled));
}

#[test]
fn levels_and_ranges_of_one_tree_are_compacted_at_once() {
    let version = text::version(
        "
        L0 run 14: 14[a..b]
        L0 run 13: 13[a..b]
        L0 run 12: 12[a..b]
        L0 run 11: 11[a..b]
        L4 run 0: 41[a..b]:300
        L5 run 0: 51[d..f]:1000 52[g..i]:1000 53[p..r]:1000 54[s..u]:1000
        L6 run 0: 61[a..c]:4000 62[d..f]:1000 63[g..i]:4000 64[p..r]:1000 65[s..u]:4000",
    );
    let options =
        KeyspaceOptions { memtable_bytes: 100, table_bytes: 100, ..KeyspaceOptions::default() };
    let leveled = Leveled { l0_runs: 4, base_bytes: 400, fanout: 10 };
    let mut state = WorkState::default();
    let mut steps = Vec::new();
    loop {
        let busy = state.busy.entry(crate::key::KeyspaceId::default()).or_default();
        let tree = TreeView {
            version: &version,
            options: &options,
            busy: &busy.tables,
            busy_outputs: &busy.outputs,
            oldest_snapshot: SequenceNumber::MAX,
            now_ms: 0,
        };
        let Some(plan) = leveled.pick(&tree) else { break };
        tree.check_plan(&plan).unwrap();
        steps.push((plan.inputs[0].level, plan.output_level, plan.reason));
        state.reserve(crate::key::KeyspaceId::default(), &plan, &version);
    }
    let (level0, level5) = (CompactionReason::Level0Runs, CompactionReason::LevelBytes);
    assert_eq!(steps, [(5, 6, level5), (0, 4, level0), (5, 6, level5)], "all three at once");
}
