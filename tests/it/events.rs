//! Events: a listener hears what the engine does, in the promised order, and may read while it hears.
//!
//! Without background threads and on a simulated file system the sequence of events is exact, so it is written down.
//! The strategy is one of the user's: it merges level 0 into level 1 when the test says so, so that the test decides
//! when compaction happens and how far it is behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use esker::clock::ManualClock;
use esker::compaction::{
    CompactionAction, CompactionPlan, CompactionReason, CompactionStrategy, PlanInput, TreeView,
};
use esker::event::{BackgroundTask, StallCause};
use esker::fs::sim_fs::{Repeat, SimFs};
use esker::version::RunId;
use esker::{Compaction, Db, DbOptions, ErrorKind, Event, KeyspaceOptions};

const EIO: i32 = 5;

/// Merges level 0 into level 1 while it may, and makes a plan that breaks the rules when told to.
#[derive(Debug, Default)]
struct OnDemand {
    may_merge: AtomicBool,
    breaks_rules: AtomicBool,
}

impl CompactionStrategy for OnDemand {
    fn name(&self) -> &'static str {
        "on_demand"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let levels = &tree.version.levels;
        let may_merge = self.may_merge.load(Ordering::Relaxed) && tree.busy_outputs.is_empty();
        if !may_merge || levels[0].runs.is_empty() {
            return None;
        }
        let of_level = |level: usize| {
            levels[level].runs.iter().map(move |run| PlanInput {
                level,
                run: run.id,
                tables: run.tables.iter().map(|table| table.meta().number).collect(),
            })
        };
        let mut inputs: Vec<_> = of_level(0).chain(of_level(1)).collect();
        if self.breaks_rules.load(Ordering::Relaxed) {
            // The newest run goes below older ones.
            inputs.truncate(1);
        }
        Some(CompactionPlan {
            action: CompactionAction::Merge,
            reason: CompactionReason::RunCount,
            inputs,
            output_level: 1,
            output_run: RunId(0),
        })
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        tree.version.levels[0].bytes()
    }

    fn level0_runs_max(&self) -> Option<usize> {
        Some(4)
    }
}

/// A database that keeps what its listener heard.
struct Stage {
    fs: SimFs,
    strategy: Arc<OnDemand>,
    heard: Arc<Mutex<Vec<Event>>>,
    db: Db,
}

impl Stage {
    fn new() -> Self {
        Self::with(DbOptions { background_threads: 0, ..DbOptions::default() })
    }

    fn with(options: DbOptions) -> Self {
        let (fs, clock) = (SimFs::new(), Arc::new(ManualClock::at_unix_ms(1000)));
        let ticking = Arc::clone(&clock);
        // Every file operation takes a millisecond.
        fs.on_operation(move |_, _| ticking.advance(Duration::from_millis(1)));
        let (strategy, heard) = (Arc::new(OnDemand::default()), Arc::default());
        let db = builder(&fs, options, &strategy, &heard).clock(clock).open("/db").unwrap();
        Stage { fs, strategy, heard, db }
    }

    /// What was heard since the last call.
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }

    fn take_brief(&self) -> Vec<String> {
        self.take().iter().map(brief).collect()
    }

    fn put_and_flush(&self, key: &str) {
        self.db.put(key, "value").unwrap();
        self.db.flush().unwrap();
    }
}

fn builder(
    fs: &SimFs,
    options: DbOptions,
    strategy: &Arc<OnDemand>,
    heard: &Arc<Mutex<Vec<Event>>>,
) -> esker::DbBuilder {
    let heard = Arc::clone(heard);
    let keyspace = KeyspaceOptions {
        compaction: Compaction::Named("on_demand".to_owned()),
        memtable_bytes: 64 << 10,
        ..KeyspaceOptions::default()
    };
    Db::builder()
        .options(options)
        .file_system(Arc::new(fs.clone()))
        .strategy(Arc::clone(strategy) as Arc<dyn CompactionStrategy>)
        .default_keyspace(keyspace)
        .listener(Arc::new(move |event: &Event| heard.lock().unwrap().push(event.clone())))
}

/// An event without sizes and durations.
fn brief(event: &Event) -> String {
    match event {
        Event::MemtableSealed(sealed) => format!("sealed {}", sealed.entry_count),
        Event::FlushBegin(begin) => format!("flush begin {}", begin.entry_count),
        Event::FlushEnd(end) => match (&end.error, end.table) {
            (Some(error), _) => format!("flush failed {:?}", error.kind()),
            (None, table) => format!("flush end {:?}", table.map(|number| number.0)),
        },
        Event::CompactionBegin(begin) => {
            let plan = &begin.plan;
            let tables: usize = plan.inputs.iter().map(|input| input.tables.len()).sum();
            format!("compaction {} begin {:?} {:?} {tables}", begin.job, plan.action, plan.reason)
        }
        Event::CompactionEnd(end) => match &end.error {
            Some(error) => format!("compaction {} failed {:?}", end.job, error.kind()),
            None => format!("compaction {} end -{}", end.job, end.totals.entries_dropped),
        },
        Event::TableCreated(table) => format!("created {} in {}", table.number.0, table.level),
        Event::TableRemoved(table) => format!("removed {} from {}", table.number.0, table.level),
        Event::StallBegin(stall) => format!("stall begin {:?} {}", stall.cause, stall.pressure),
        Event::StallEnd(stall) => format!("stall end {:?} {}", stall.cause, stall.pressure_max),
        Event::WalSegmentBegun(_) => "segment begun".to_owned(),
        Event::WalSegmentRemoved(_) => "segment removed".to_owned(),
        Event::BackgroundError(failed) => {
            format!("error {:?} {:?}", failed.task, failed.error.kind())
        }
        Event::CorruptionFound(error) => format!("corruption {:?}", error.kind()),
        Event::Poisoned(error) => format!("poisoned {:?}", error.kind()),
        other => panic!("an event without a test: {other:?}"),
    }
}

#[test]
fn a_scripted_life_has_exactly_these_events() {
    let stage = Stage::new();
    assert!(stage.take().is_empty(), "an open tells nothing");
    stage.put_and_flush("a");
    let flush = |table: u64| {
        let lines = ["sealed 1", "flush begin 1"].map(str::to_owned).to_vec();
        [lines, vec![format!("created {table} in 0"), format!("flush end Some({table})")]].concat()
    };
    let first = stage.take();
    assert_eq!(brief(&first[0]), "segment begun");
    let Some(Event::FlushEnd(end)) = first.last() else { panic!("{first:?}") };
    let table = end.table.unwrap().0;
    assert_eq!(first[1..].iter().map(brief).collect::<Vec<_>>(), flush(table));
    stage.put_and_flush("a");
    let next = table + 1;
    assert_eq!(stage.take_brief(), flush(next));
    stage.strategy.may_merge.store(true, Ordering::Relaxed);
    stage.db.wait_idle().unwrap();
    assert_eq!(
        stage.take_brief(),
        [
            "compaction 1 begin Merge RunCount 2",
            &format!("created {} in 1", next + 1),
            "compaction 1 end -1",
            &format!("removed {next} from 0"),
            &format!("removed {table} from 0"),
        ]
    );
    let heard = Arc::clone(&stage.heard);
    stage.db.put("in the log only", "v").unwrap();
    stage.db.close().unwrap();
    let at_close: Vec<_> = heard.lock().unwrap().iter().map(brief).collect();
    assert_eq!(at_close, [""; 0], "a short memtable stays in the log");
    assert_eq!(
        Arc::strong_count(&heard),
        2,
        "the listener was let go: the stage and this test remain"
    );
}

#[test]
fn sizes_and_durations_are_those_of_the_files_and_the_clock() {
    let stage = Stage::new();
    stage.put_and_flush("a");
    stage.put_and_flush("b");
    stage.strategy.may_merge.store(true, Ordering::Relaxed);
    stage.db.wait_idle().unwrap();
    let metrics = stage.db.metrics();
    let (mut flushed, mut created, mut removed) = (0, HashMap::new(), 0);
    for event in stage.take() {
        match event {
            Event::FlushEnd(end) => {
                assert!(end.duration >= Duration::from_millis(3), "create, write, sync");
                assert_eq!(&*end.keyspace, "default");
                flushed += end.bytes_written;
            }
            Event::TableCreated(table) => {
                created.insert(table.number, table.bytes);
            }
            Event::TableRemoved(table) => {
                assert_eq!(created[&table.number], table.bytes);
                removed += table.bytes;
            }
            Event::CompactionBegin(begin) => assert_eq!(begin.input_bytes, flushed),
            Event::CompactionEnd(end) => {
                assert!(end.duration >= Duration::from_millis(3));
                assert_eq!(end.totals.bytes_read, flushed);
                assert_eq!(end.totals.bytes_written, metrics.table_bytes);
            }
            _ => {}
        }
    }
    assert_eq!(flushed, removed);
    assert_eq!(created.values().sum::<u64>() - removed, metrics.table_bytes);
}

#[test]
fn a_stall_begins_once_and_ends_once_however_hard_it_gets() {
    let stage = Stage::new();
    for n in 0..4 {
        stage.put_and_flush(&n.to_string());
    }
    let is_stall = |line: &String| line.starts_with("stall");
    let heard: Vec<_> = stage.take_brief().into_iter().filter(is_stall).collect();
    assert_eq!(heard, ["stall begin Level0Runs 0.5"], "three runs of four");
    stage.strategy.may_merge.store(true, Ordering::Relaxed);
    stage.db.wait_idle().unwrap();
    let heard: Vec<_> = stage.take_brief().into_iter().filter(is_stall).collect();
    assert_eq!(heard, ["stall end Level0Runs 1"], "four runs stopped writers");
    // The cause is what presses harder.
    stage.strategy.may_merge.store(false, Ordering::Relaxed);
    let options = KeyspaceOptions {
        debt_bytes_soft: 1 << 20,
        memtable_bytes: 8 << 20,
        compaction: Compaction::Named("on_demand".to_owned()),
        ..KeyspaceOptions::default()
    };
    let logs = stage.db.keyspace("logs", options).unwrap();
    stage.take();
    logs.put("k", incompressible(2 << 20)).unwrap();
    stage.db.flush().unwrap();
    let begins: Vec<_> = stage
        .take()
        .into_iter()
        .filter_map(|event| match event {
            Event::StallBegin(stall) => Some((stall.keyspace, stall.cause)),
            _ => None,
        })
        .collect();
    assert_eq!(begins, [(Arc::from("logs"), StallCause::CompactionDebt)]);
}

fn incompressible(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_failed_flush_is_heard_and_full_memtables_stall() {
    let stage = Stage::new();
    stage.db.put("first", "value").unwrap();
    stage.take();
    stage.fs.fail_when("create .table", EIO, Repeat::Forever);
    // Each write but the last rotates, or finds no room.
    let refused = (0..100).find_map(|_| stage.db.put("k", vec![0; 64 << 10]).err()).unwrap();
    assert_eq!(refused.kind(), ErrorKind::Io);
    let heard = stage.take_brief();
    let failed = ["flush begin 2", "flush failed Io", "error Flush Io"];
    let stalled =
        ["stall begin Memtables 1", failed[0], failed[1], failed[2], "stall end Memtables 1"];
    assert_eq!(heard[heard.len() - 5..], stalled, "{heard:?}");
    stage.fs.clear_faults();
    stage.db.put("k", "v").unwrap();
    let heard = stage.take_brief();
    assert_eq!(heard[..2], ["stall begin Memtables 1", "flush begin 2"]);
    assert_eq!(heard.iter().filter(|line| *line == "stall end Memtables 1").count(), 1);
}

#[test]
fn a_failed_compaction_and_a_refused_plan_are_heard() {
    let stage = Stage::new();
    stage.put_and_flush("a");
    stage.put_and_flush("a");
    stage.take();
    stage.fs.fail_when("create .table", EIO, Repeat::Once);
    stage.strategy.may_merge.store(true, Ordering::Relaxed);
    assert_eq!(stage.db.wait_idle().unwrap_err().kind(), ErrorKind::Io);
    let begin = "compaction 1 begin Merge RunCount 2";
    assert_eq!(stage.take_brief(), [begin, "compaction 1 failed Io", "error Compaction Io"]);
    stage.strategy.breaks_rules.store(true, Ordering::Relaxed);
    let error = stage.db.wait_idle().unwrap_err();
    let heard = stage.take();
    let [Event::BackgroundError(told)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((told.task, told.error.what()), (BackgroundTask::Planning, error.what()));
    stage.strategy.breaks_rules.store(false, Ordering::Relaxed);
    stage.db.wait_idle().unwrap();
    assert_eq!(stage.take_brief().len(), 5);
}

#[test]
fn poison_is_heard_once_wherever_it_came_from() {
    for words in ["write .wal", "sync_data .wal", "write MANIFEST"] {
        let stage = Stage::new();
        stage.db.put("a", "v").unwrap();
        stage.take();
        stage.fs.fail_when(words, EIO, Repeat::Once);
        let put = || stage.db.put_with("b", "v", &esker::WriteOptions::SYNC);
        let first = if words.contains("MANIFEST") { stage.db.flush() } else { put() };
        first.unwrap_err();
        put().unwrap_err();
        stage.db.flush().unwrap_err();
        let heard = stage.take_brief();
        let count = heard.iter().filter(|line| *line == "poisoned Io").count();
        assert_eq!(count, 1, "{words}: {heard:?}");
    }
}

#[test]
fn damage_that_verify_finds_is_heard() {
    let stage = Stage::new();
    stage.put_and_flush("a");
    let table = stage.fs.list_dir("/db").into_iter().find(|name| name.contains(".table")).unwrap();
    stage.take();
    assert!(stage.db.verify().unwrap().is_ok());
    assert_eq!(stage.take_brief(), [""; 0]);
    stage.fs.flip(format!("/db/{table}"), 10, 1).unwrap();
    let report = stage.db.verify().unwrap();
    let heard = stage.take();
    let [Event::CorruptionFound(error)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(error.path(), report.problems[0].path());
    assert!(error.path().unwrap().ends_with(&table));
}

#[test]
fn a_dropped_keyspace_is_heard_as_its_tables_go() {
    let stage = Stage::new();
    let logs = stage.db.keyspace("logs", KeyspaceOptions::default()).unwrap();
    logs.put("k", "v").unwrap();
    stage.db.flush().unwrap();
    stage.take();
    drop(logs);
    stage.db.drop_keyspace("logs").unwrap();
    let heard = stage.take();
    let [Event::TableRemoved(table)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((&*table.keyspace, table.level), ("logs", 0));
}

/// If an event were told under a lock of the engine's, this would hang: the listener reads by every way there is.
fn read_in_listener(background_threads: usize) {
    let (fs, strategy, heard) = (SimFs::new(), Arc::new(OnDemand::default()), Arc::default());
    strategy.may_merge.store(true, Ordering::Relaxed);
    let place: Arc<OnceLock<Db>> = Arc::default();
    let (inside, read_count) = (Arc::clone(&place), Arc::new(Mutex::new(0)));
    let counter = Arc::clone(&read_count);
    // Short segments: a verify reads the log.
    let options =
        DbOptions { background_threads, wal_segment_bytes: 1 << 20, ..DbOptions::default() };
    let listener = move |_: &Event| {
        let Some(db) = inside.get() else { return };
        // At close the database refuses, and that is an answer too.
        let _ = db.get("k");
        let _ = db.snapshot().get("k");
        let _ = db.iter().count();
        let _ = db.metrics();
        let _ = db.list_keyspaces();
        let mut count = counter.lock().unwrap();
        if *count % 10 == 0 {
            let _ = db.verify();
        }
        *count += 1;
    };
    let db =
        builder(&fs, options, &strategy, &heard).listener(Arc::new(listener)).open("/db").unwrap();
    place.set(db.clone()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let db = &db;
            scope.spawn(move || {
                for n in 0..30u32 {
                    db.put((n * 3 + thread).to_be_bytes(), vec![thread as u8; 8 << 10]).unwrap();
                }
            });
        }
    });
    db.flush().unwrap();
    db.wait_idle().unwrap();
    db.close().unwrap();
    let heard = heard.lock().unwrap();
    assert_eq!(*read_count.lock().unwrap(), heard.len());
    check_order(&heard);
}

/// What the order of events promises, whatever the schedule.
fn check_order(heard: &[Event]) {
    let (mut jobs, mut flushing, mut tables, mut stalls) =
        (HashMap::new(), 0, HashMap::new(), HashMap::new());
    let mut ended_flushes = 0;
    for event in heard {
        match event {
            Event::FlushBegin(_) => flushing += 1,
            Event::FlushEnd(end) => {
                flushing -= 1;
                ended_flushes += 1;
                assert!(end.table.is_none_or(|table| tables.contains_key(&table)), "{end:?}");
            }
            Event::CompactionBegin(begin) => {
                assert!(jobs.insert(begin.job, true).is_none(), "job {} began twice", begin.job);
            }
            Event::CompactionEnd(end) => assert_eq!(jobs.insert(end.job, false), Some(true)),
            Event::TableCreated(table) => {
                assert!(tables.insert(table.number, true).is_none(), "{table:?}");
            }
            Event::TableRemoved(table) => {
                assert_eq!(tables.insert(table.number, false), Some(true), "{table:?}");
            }
            Event::StallBegin(stall) => {
                assert!(
                    !stalls.insert(stall.cause == StallCause::Memtables, true).unwrap_or(false)
                );
            }
            Event::StallEnd(stall) => {
                assert_eq!(stalls.insert(stall.cause == StallCause::Memtables, false), Some(true));
            }
            _ => {}
        }
        assert!((0..=1).contains(&flushing), "one flush at a time");
    }
    assert!(ended_flushes >= 5 && jobs.values().all(|running| !running) && flushing == 0);
}

#[test]
fn a_listener_may_read_in_the_thread_that_writes() {
    read_in_listener(0);
}

#[test]
fn a_listener_may_read_in_a_background_thread() {
    read_in_listener(1);
    read_in_listener(3);
}

#[test]
fn a_listener_that_panics_harms_no_write() {
    let (fs, strategy, heard) = (SimFs::new(), Arc::new(OnDemand::default()), Arc::default());
    for background_threads in [0, 2] {
        let options = DbOptions { background_threads, ..DbOptions::default() };
        let db = builder(&fs, options, &strategy, &heard)
            .listener(Arc::new(|_: &Event| panic!("a listener's bug, on purpose")))
            .open("/db")
            .unwrap();
        db.put("k", "v").unwrap();
        db.flush().unwrap();
        assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"v"[..]));
        db.close().unwrap();
    }
    let ended =
        heard.lock().unwrap().iter().filter(|event| matches!(event, Event::FlushEnd(_))).count();
    assert_eq!(ended, 2, "the other listener heard everything");
}
