//! Trees are drawn with metadata alone, so most of these tests read and write nothing.

use std::collections::BTreeMap;

use esker::compaction::BusyOutput;
use esker::key::{FileNumber, SequenceNumber};
use esker::table::TableMeta;
use esker::{Compaction, Db, DbOptions, ErrorKind, KeyspaceOptions};

use super::*;

const STRATEGY: TwoLevel = TwoLevel { share_percent: 25, runs_max: 4 };

/// A table of `bytes` bytes with the keys of a range of letters.
fn table(number: u64, range: &str, bytes: u64) -> Arc<Table> {
    let (smallest, largest) = range.split_once("..").unwrap();
    Arc::new(Table::new(TableMeta {
        number: FileNumber(number),
        file_bytes: bytes,
        entry_count: bytes,
        smallest: smallest.as_bytes().into(),
        largest: largest.as_bytes().into(),
        sequence_min: SequenceNumber(number),
        sequence_max: SequenceNumber(number),
        ..TableMeta::default()
    }))
}

fn run(version: &Version, level: usize, id: u64, tables: Vec<Arc<Table>>) -> Version {
    let added: Vec<_> = tables.into_iter().map(|table| (level, RunId(id), table)).collect();
    version.apply(&[], &added).unwrap()
}

/// What the strategy sees of a tree in which nothing runs.
struct Stage {
    strategy: TwoLevel,
    version: Version,
    options: KeyspaceOptions,
    busy: HashSet<FileNumber>,
    busy_outputs: Vec<BusyOutput>,
}

impl Stage {
    fn new(version: Version) -> Self {
        let options = KeyspaceOptions::default();
        let (busy, busy_outputs) = (HashSet::new(), Vec::new());
        Stage { strategy: STRATEGY, version, options, busy, busy_outputs }
    }

    fn view(&self) -> TreeView<'_> {
        TreeView {
            version: &self.version,
            options: &self.options,
            busy: &self.busy,
            busy_outputs: &self.busy_outputs,
            oldest_snapshot: SequenceNumber::MAX,
            now_ms: 0,
        }
    }

    /// The plan, held against the rules that every plan must obey.
    fn pick(&self) -> Option<CompactionPlan> {
        let view = self.view();
        let plan = self.strategy.pick(&view)?;
        view.check_plan(&plan).unwrap();
        assert!(plan.action == CompactionAction::Move || self.strategy.debt_bytes(&view) > 0);
        Some(plan)
    }

    /// Does what `plan` says as if no entry were dropped. Returns the bytes written.
    fn run(&mut self, plan: &CompactionPlan) -> u64 {
        let numbers: Vec<_> =
            plan.inputs.iter().flat_map(|input| input.tables.iter().copied()).collect();
        let inputs: Vec<_> = numbers
            .iter()
            .map(|number| Arc::clone(self.version.find_table(*number).unwrap().2))
            .collect();
        let metas = || inputs.iter().map(|table| table.meta());
        let bytes = metas().map(|meta| meta.file_bytes).sum();
        let outputs = match plan.action {
            CompactionAction::Drop => Vec::new(),
            CompactionAction::Move => inputs.clone(),
            CompactionAction::Merge => vec![Arc::new(Table::new(TableMeta {
                // Numbers of merged tables need only be new.
                number: FileNumber(metas().map(|meta| meta.number.0).max().unwrap() + 100_000),
                file_bytes: bytes,
                smallest: metas().map(|meta| meta.smallest.clone()).min().unwrap(),
                largest: metas().map(|meta| meta.largest.clone()).max().unwrap(),
                sequence_min: metas().map(|meta| meta.sequence_min).min().unwrap(),
                sequence_max: metas().map(|meta| meta.sequence_max).max().unwrap(),
                ..TableMeta::default()
            }))],
        };
        let added: Vec<_> =
            outputs.into_iter().map(|table| (plan.output_level, plan.output_run, table)).collect();
        self.version = self.version.apply(&numbers, &added).unwrap();
        self.version.check_invariants().unwrap();
        if plan.action == CompactionAction::Merge { bytes } else { 0 }
    }

    /// What every plan must lower: the runs, and again those that are not in the last level.
    fn disorder(&self) -> usize {
        2 * self.version.run_count() - self.version.levels[MAIN].runs.len()
    }

    /// Runs plans until the strategy is silent.
    fn settle(&mut self) -> u64 {
        let mut written = 0;
        while let Some(plan) = self.pick() {
            let before = self.disorder();
            written += self.run(&plan);
            assert!(self.disorder() < before, "{plan:?} changed nothing");
        }
        assert_eq!(self.strategy.debt_bytes(&self.view()), 0, "silent, but in debt");
        written
    }
}

fn numbers(plan: &CompactionPlan) -> Vec<u64> {
    plan.inputs.iter().flat_map(|input| &input.tables).map(|number| number.0).collect()
}

/// A main run of two tables, and runs in level 0 of these bytes, in the range of the second.
fn tree(level0: &[u64]) -> Stage {
    let main = vec![table(1, "a..f", 1000), table(2, "m..r", 1000)];
    let mut version = run(&Version::empty(), MAIN, 0, main);
    for (id, bytes) in (10..).zip(level0) {
        version = run(&version, 0, id, vec![table(id, "n..q", *bytes)]);
    }
    Stage::new(version)
}

#[test]
fn a_tree_in_shape_is_left_alone() {
    for stage in [Stage::new(Version::empty()), tree(&[]), tree(&[9999]), tree(&[60, 60, 60])] {
        assert_eq!(stage.pick(), None);
        assert_eq!(STRATEGY.debt_bytes(&stage.view()), 0);
    }
}

#[test]
fn level_0_is_merged_with_what_it_meets_when_it_has_its_share() {
    let plan = tree(&[125, 125]).pick().unwrap();
    assert_eq!((plan.action, plan.reason), (CompactionAction::Merge, CompactionReason::LevelBytes));
    assert_eq!(numbers(&plan), [11, 10, 2], "newest first; table 1 is out of the way");
    assert_eq!((plan.output_level, plan.output_run), (MAIN, RunId(0)));
}

#[test]
fn level_0_is_merged_when_it_has_too_many_runs() {
    let plan = tree(&[10, 10, 10, 10]).pick().unwrap();
    assert_eq!((plan.reason, plan.inputs.len()), (CompactionReason::Level0Runs, 5));
}

#[test]
fn runs_that_meet_nothing_are_moved_unless_they_hold_tombstones() {
    let mut stage = tree(&[]);
    for id in [10, 11] {
        stage.version = run(&stage.version, 0, id, vec![table(id, "s..t", 10)]);
    }
    let plan = stage.pick().unwrap();
    assert_eq!((plan.action, numbers(&plan)), (CompactionAction::Move, vec![10]));
    let mut meta = stage.version.find_table(FileNumber(10)).unwrap().2.meta().clone();
    meta.tombstone_count = 1;
    let with_tombstone = (0, RunId(10), Arc::new(Table::new(meta)));
    stage.version = stage.version.apply(&[FileNumber(10)], &[with_tombstone]).unwrap();
    let plan = stage.pick().unwrap();
    assert_eq!((plan.action, numbers(&plan)), (CompactionAction::Merge, vec![11, 10]));
}

#[test]
fn it_waits_for_what_runs() {
    let mut stage = tree(&[125, 125]);
    stage.busy.insert(FileNumber(2));
    assert_eq!(stage.pick(), None, "an input is being read");
    stage.busy.clear();
    let (smallest, largest) = (b"x"[..].into(), b"z"[..].into());
    stage.busy_outputs.push(BusyOutput { level: MAIN, run: RunId(1), smallest, largest });
    assert_eq!(stage.pick(), None, "the main run is being written");
    assert!(STRATEGY.debt_bytes(&stage.view()) > 0, "what runs is still owed");
}

#[test]
fn a_tree_of_any_other_strategy_becomes_two_levels() {
    let mut version = tree(&[50]).version;
    version = run(&version, 1, 5, vec![table(5, "a..c", 300), table(6, "d..z", 300)]);
    version = run(&version, 3, 4, vec![table(4, "b..y", 400)]);
    version = run(&version, 3, 3, vec![table(3, "a..z", 400)]);
    let mut stage = Stage::new(version);
    stage.settle();
    let counts: Vec<_> = stage.version.levels.iter().map(|level| level.runs.len()).collect();
    assert_eq!(counts, [1, 0, 0, 0, 0, 0, 1]);
    assert_eq!(stage.version.bytes(), 50 + 2000 + 600 + 800, "nothing was lost");
}

/// The write amplification of 2000 equal flushes over all keys.
fn write_amplification(strategy: TwoLevel) -> f64 {
    let (mut stage, mut written) = (Stage::new(Version::empty()), 0);
    stage.strategy = strategy;
    for id in 1..=2000 {
        stage.version = run(&stage.version, 0, id, vec![table(id, "a..z", 100)]);
        written += 100 + stage.settle();
        assert!(stage.version.run_count() <= strategy.runs_max + 1);
    }
    written as f64 / 200_000.0
}

#[test]
fn the_write_amplification_is_what_the_module_text_says() {
    let by_share = write_amplification(TwoLevel { share_percent: 25, runs_max: 1000 });
    assert!((5.0..=6.0).contains(&by_share), "{by_share}");
    // Every 4 flushes the whole main run is written: 500 merges of 400, 800, 1200... bytes, and the flushes.
    let by_runs = write_amplification(TwoLevel { share_percent: 1000, runs_max: 4 });
    let predicted = 400.0 * (500.0 * 501.0 / 2.0) / 200_000.0 + 1.0;
    assert!((by_runs / predicted - 1.0).abs() < 0.01, "{by_runs}, predicted {predicted}");
}

fn keyspace() -> KeyspaceOptions {
    KeyspaceOptions {
        compaction: Compaction::Named("two_level".to_owned()),
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        ..KeyspaceOptions::default()
    }
}

fn open(dir: &tempfile::TempDir) -> Db {
    Db::builder()
        .options(DbOptions { background_threads: 0, ..DbOptions::default() })
        .strategy(Arc::new(STRATEGY))
        .default_keyspace(keyspace())
        .open(dir.path())
        .unwrap()
}

#[test]
fn the_engine_keeps_everything_and_the_shape() {
    let dir = tempfile::tempdir().unwrap();
    let (db, mut model) = (open(&dir), BTreeMap::new());
    for n in 0..20_000u32 {
        let key = (n.wrapping_mul(0x9e37_79b9) >> 20).to_be_bytes();
        if n % 7 == 0 {
            db.delete(key).unwrap();
            model.remove(&key);
        } else {
            db.put(key, [n as u8; 40]).unwrap();
            model.insert(key, [n as u8; 40]);
        }
    }
    db.flush().unwrap();
    db.wait_idle().unwrap();
    let metrics = db.metrics();
    let runs: Vec<_> = metrics.keyspaces[0].levels.iter().map(|level| level.runs).collect();
    assert!(runs[0] <= 4 && runs[1..MAIN].iter().all(|count| *count == 0) && runs[MAIN] == 1);
    assert!(metrics.compactions > 0 && metrics.first_background_error.is_none());
    let found: BTreeMap<_, _> =
        db.iter().map(|item| item.unwrap()).map(|(k, v)| (k, v.to_vec())).collect();
    assert!(
        found.iter().map(|(k, v)| (&k[..], &v[..])).eq(model.iter().map(|(k, v)| (&k[..], &v[..])))
    );
    assert!(db.verify().unwrap().is_ok());
}

#[test]
fn without_the_strategy_the_data_is_there_and_nothing_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir);
    db.put("k", "v").unwrap();
    db.close().unwrap();
    let db = Db::open(dir.path()).unwrap();
    assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert!(!db.metrics().keyspaces[0].compacts);
    for n in 0..10u8 {
        db.put([n], "v").unwrap();
        db.flush().unwrap();
    }
    db.wait_idle().unwrap();
    assert_eq!(db.metrics().keyspaces[0].levels[0].runs, 10);
    let error = db.keyspace("other", keyspace()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    db.close().unwrap();
    // Registered again, it goes on where it was.
    let db = open(&dir);
    db.wait_idle().unwrap();
    assert!(db.metrics().keyspaces[0].levels[0].runs < 4);
}
