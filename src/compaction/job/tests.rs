//! Jobs against a model, on a simulated file system: whole trees are flushed and compacted with
//! random snapshots, and every snapshot must read the same before and after.

mod slices;
mod subcompaction;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::compaction::slice::ReadEntry;
use crate::compaction::{CompactionReason, CompactionStrategy, PlanInput, TreeView};
use crate::error::ErrorKind;
use crate::flush::{FlushContext, flush};
use crate::fs::SimFs;
use crate::fs::sim_fs::{Persist, Repeat};
use crate::key::{KeyspaceId, Trailer, ValueKind, key_hash};
use crate::memtable::MemTable;
use crate::options::{Compression, Leveled, ReadMode, Verify};
use crate::table::TableMeta;
use crate::table::reader::ReadContext;
use crate::version::RunId;

type Entry = (Vec<u8>, Trailer, Vec<u8>);

/// A tree on a simulated file system, without a database around it.
struct Tree {
    fs: SimFs,
    dir: PathBuf,
    cache: Arc<TableCache>,
    options: KeyspaceOptions,
    version: Version,
    next_number: Rc<Cell<u64>>,
}

impl Tree {
    fn new(options: KeyspaceOptions) -> Self {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new("/db")).unwrap();
        Tree::on(fs, options)
    }

    fn on(fs: SimFs, options: KeyspaceOptions) -> Self {
        let dir = PathBuf::from("/db");
        let ctx = ReadContext { read_mode: ReadMode::Pread, verify: Verify::Once, cache: None };
        let cache = Arc::new(TableCache::new(Arc::new(fs.clone()), &dir, ctx, 100));
        let version = Version::empty();
        Tree { fs, dir, cache, options, version, next_number: Rc::new(Cell::new(1)) }
    }

    fn new_number(&self) -> FileNumber {
        FileNumber(self.next_number.replace(self.next_number.get() + 1))
    }

    fn flush(&mut self, entries: &[Entry], snapshots: &[SequenceNumber]) {
        let memtable = MemTable::new(1 << 16, None);
        for (key, trailer, value) in entries {
            memtable.insert(key, *trailer, value, key_hash(key));
            memtable.note_write_time(trailer.sequence().0);
        }
        let number = self.new_number();
        let ctx = FlushContext {
            fs: &self.fs,
            dir: &self.dir,
            keyspace: KeyspaceId::default(),
            options: &self.options,
            snapshots,
            number,
            now_ms: 0,
        };
        let Some(meta) = flush(&[memtable], &ctx).unwrap() else { return };
        self.add(0, RunId(number.0), meta);
    }

    fn add(&mut self, level: usize, run: RunId, meta: TableMeta) {
        let table = Arc::new(Table::new(meta));
        self.version = self.version.apply(&[], &[(level, run, table)]).unwrap();
    }

    /// One table holding `entries` as they are.
    fn write(&mut self, level: usize, run: u64, entries: &[Entry]) {
        let number = self.new_number();
        let options = crate::table::writer::TableWriterOptions {
            keyspace: KeyspaceId::default(),
            number,
            block_bytes: 512,
            compression: Compression::None,
            filter: crate::options::FilterKind::Blocked,
            filter_bits: 10.0,
        };
        let mut writer =
            crate::table::writer::TableWriter::create(&self.fs, &self.dir, options).unwrap();
        for (key, trailer, value) in entries {
            writer.add(key, *trailer, value).unwrap();
        }
        writer.set_write_times(number.0 * 10, number.0 * 10 + 5);
        let meta = writer.finish().unwrap();
        self.add(level, RunId(run), meta);
    }

    fn run(&self, plan: &CompactionPlan, snapshots: &[SequenceNumber]) -> Result<JobOutput> {
        self.run_polled(plan, snapshots, &mut |_| Ok(()))
    }

    fn run_polled(
        &self,
        plan: &CompactionPlan,
        snapshots: &[SequenceNumber],
        poll: &mut dyn FnMut(JobProgress) -> Result<()>,
    ) -> Result<JobOutput> {
        run_job(
            plan,
            Arc::new(self.version.clone()),
            &mut JobContext {
                fs: &self.fs,
                dir: &self.dir,
                tables: &self.cache,
                keyspace: KeyspaceId::default(),
                options: &self.options,
                snapshots,
                now_ms: 0,
                filter: None,
                new_file_number: &|| self.new_number(),
                poll,
                slices: None,
            },
        )
    }

    fn install(&mut self, plan: &CompactionPlan, added: Vec<Arc<Table>>) {
        let removed: Vec<FileNumber> =
            plan.inputs.iter().flat_map(|input| input.tables.clone()).collect();
        let place = |table| (plan.output_level, plan.output_run, table);
        let added: Vec<_> = added.into_iter().map(place).collect();
        self.version = self.version.apply(&removed, &added).unwrap();
        self.version.check_invariants().unwrap();
    }

    /// Compacts until the strategy is silent, in slices; calls `check` after each.
    fn settle(
        &mut self,
        leveled: &Leveled,
        snapshots: &[SequenceNumber],
        slice_bytes: u64,
        check: &dyn Fn(&Tree),
    ) {
        loop {
            let plan = leveled.pick(&TreeView {
                version: &self.version,
                options: &self.options,
                busy: &std::collections::HashSet::new(),
                busy_outputs: &[],
                oldest_snapshot: snapshots[0],
                now_ms: 0,
            });
            let Some(plan) = plan else { return };
            if plan.action == CompactionAction::Move {
                let inputs = find_inputs(&plan, &self.version).unwrap();
                let moved = inputs.iter().flat_map(|input| input.tables().to_vec()).collect();
                self.install(&plan, moved);
                continue;
            }
            let mut after = |tree: &mut Tree| {
                check(tree);
                Ok(())
            };
            let output = self.run_sliced(&plan, snapshots, slice_bytes, &mut after).unwrap();
            let dropped = output.dropped_shadowed + output.dropped_tombstones;
            assert_eq!(output.entries_in, output.entries_out + dropped);
        }
    }

    fn cursor(&self) -> MergingCursor<RunCursor> {
        let runs = self.version.levels.iter().flat_map(|level| &level.runs);
        let cursor = |run: &Arc<Run>| {
            let tables = 0..run.tables.len();
            RunCursor::new(Arc::clone(&self.cache), Arc::clone(run), tables, Access::Random)
        };
        MergingCursor::new(runs.map(cursor).collect())
    }

    fn read(&self, key: &[u8], at: SequenceNumber) -> Option<Vec<u8>> {
        let mut cursor = self.cursor();
        cursor.seek(key, Trailer::visible_at(at)).unwrap();
        let found = cursor.valid() && cursor.key() == key && !cursor.trailer().is_tombstone();
        found.then(|| cursor.value().to_vec())
    }

    fn entries(&self) -> Vec<Entry> {
        let mut cursor = self.cursor();
        let mut entries = Vec::new();
        cursor.seek_to_first().unwrap();
        while cursor.valid() {
            entries.push((cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
            cursor.next().unwrap();
        }
        entries
    }

    fn entries_backward(&self) -> Vec<Entry> {
        let mut cursor = self.cursor();
        let mut entries = Vec::new();
        cursor.seek_to_last().unwrap();
        while cursor.valid() {
            entries.push((cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
            cursor.prev().unwrap();
        }
        entries
    }

    fn files(&self) -> Vec<String> {
        let mut files = self.fs.list_dir("/db");
        files.sort();
        files
    }
}

fn sequence(number: u64) -> SequenceNumber {
    SequenceNumber(number)
}

fn put(key: &str, number: u64, value: &str) -> Entry {
    let trailer = Trailer::new(sequence(number), ValueKind::Put);
    (key.as_bytes().to_vec(), trailer, value.as_bytes().to_vec())
}

fn delete(key: &str, number: u64) -> Entry {
    (key.as_bytes().to_vec(), Trailer::new(sequence(number), ValueKind::Delete), Vec::new())
}

fn small() -> KeyspaceOptions {
    KeyspaceOptions {
        table_bytes: 4096,
        memtable_bytes: 4096,
        block_bytes: 512,
        ..KeyspaceOptions::default()
    }
}

/// Merges everything in the tree into `level`.
fn merge_all(tree: &Tree, level: usize) -> CompactionPlan {
    let mut inputs = Vec::new();
    for (number, from) in tree.version.levels.iter().enumerate() {
        for run in &from.runs {
            let tables = run.tables.iter().map(|table| table.meta().number).collect();
            inputs.push(PlanInput { level: number, run: run.id, tables });
        }
    }
    let (action, reason) = (CompactionAction::Merge, CompactionReason::Manual);
    CompactionPlan { action, reason, inputs, output_level: level, output_run: RunId(0) }
}

fn input(level: usize, run: u64, tables: &[u64]) -> PlanInput {
    let tables = tables.iter().map(|number| FileNumber(*number)).collect();
    PlanInput { level, run: RunId(run), tables }
}

/// Keys `k0000..` with values of 100 bytes.
fn many(from: usize, to: usize, number: u64) -> Vec<Entry> {
    let value = "v".repeat(100);
    (from..to).map(|at| put(&format!("k{at:04}"), number, &value)).collect()
}

#[test]
fn a_merge_keeps_the_newest_and_inherits_write_times() {
    let mut tree = Tree::new(small());
    tree.write(6, 0, &[put("a", 1, "old"), put("b", 2, "b"), put("c", 3, "c")]);
    tree.write(0, 2, &[put("a", 4, "new"), delete("b", 5)]);
    let output = tree.run(&merge_all(&tree, 6), &[sequence(9)]).unwrap();
    assert_eq!((output.entries_in, output.entries_out), (5, 2));
    assert_eq!((output.dropped_shadowed, output.dropped_tombstones), (2, 1));
    let [meta] = &output.rest.added[..] else { panic!("one table") };
    assert_eq!((meta.write_time_min_ms, meta.write_time_max_ms), (10, 25));
    assert_eq!(meta.sequence_max, sequence(0), "all are at the bottom");
    assert_eq!(meta.file_bytes, output.bytes_written);
    let plan = merge_all(&tree, 6);
    tree.install(&plan, vec![Arc::new(Table::new(meta.clone()))]);
    assert_eq!(tree.read(b"a", sequence(9)), Some(b"new".to_vec()));
    assert_eq!(tree.read(b"b", sequence(9)), None);
}

#[test]
fn tombstones_stay_above_older_runs_and_deeper_levels() {
    let mut tree = Tree::new(small());
    tree.write(6, 0, &[put("b", 1, "bottom"), put("d", 1, "bottom")]);
    tree.write(0, 2, &[put("f", 2, "older run"), put("h", 2, "older run")]);
    let deletes = ["a", "b", "c", "f", "g", "h", "i"];
    tree.write(0, 3, &deletes.map(|key| delete(key, 3)));
    let within_level_0 = CompactionPlan {
        action: CompactionAction::Merge,
        reason: CompactionReason::IntraLevel0,
        inputs: vec![input(0, 3, &[3])],
        output_level: 0,
        output_run: RunId(3),
    };
    let output = tree.run(&within_level_0, &[sequence(9)]).unwrap();
    // Outside [b..d] and [f..h] nothing is hidden.
    assert_eq!((output.entries_out, output.dropped_tombstones), (5, 2));
    assert_eq!(
        (&*output.rest.added[0].smallest, &*output.rest.added[0].largest),
        (&b"b"[..], &b"h"[..])
    );
}

/// A plan of a user's strategy: it takes a part of the older run, and the outputs go into the newer one.
#[test]
fn tombstones_stay_above_what_stays_of_an_older_input_run() {
    let mut tree = Tree::new(small());
    tree.write(0, 2, &[put("b", 1, "stays"), put("d", 1, "stays")]);
    tree.write(0, 2, &[put("p", 2, "merged")]);
    tree.write(0, 3, &["a", "b", "c", "p"].map(|key| delete(key, 3)));
    let plan = CompactionPlan {
        action: CompactionAction::Merge,
        reason: CompactionReason::IntraLevel0,
        inputs: vec![input(0, 3, &[3]), input(0, 2, &[2])],
        output_level: 0,
        output_run: RunId(3),
    };
    let view = TreeView {
        version: &tree.version,
        options: &tree.options,
        busy: &std::collections::HashSet::new(),
        busy_outputs: &[],
        oldest_snapshot: sequence(9),
        now_ms: 0,
    };
    view.check_plan(&plan).unwrap();
    let output = tree.run(&plan, &[sequence(9)]).unwrap();
    assert_eq!(output.dropped_tombstones, 2, "a and p");
    let added = output.rest.added.into_iter().map(|meta| Arc::new(Table::new(meta))).collect();
    tree.install(&plan, added);
    assert_eq!(tree.read(b"b", sequence(9)), None);
}

#[test]
fn when_nothing_survives_there_is_no_output() {
    let mut tree = Tree::new(small());
    tree.write(6, 0, &[put("a", 1, "")]);
    tree.write(0, 2, &[delete("a", 2)]);
    let output = tree.run(&merge_all(&tree, 6), &[sequence(9)]).unwrap();
    assert_eq!(
        (output.rest.added, output.dropped_shadowed, output.dropped_tombstones),
        (vec![], 1, 1)
    );
}

#[test]
fn versions_of_a_key_are_never_parted() {
    let mut tree = Tree::new(small());
    let value = "v".repeat(100);
    let versions: Vec<Entry> = (1..=200).rev().map(|number| put("k", number, &value)).collect();
    tree.write(0, 1, &versions);
    tree.write(0, 2, &many(0, 100, 300));
    let snapshots: Vec<_> = (1..=300).map(sequence).collect();
    let output = tree.run(&merge_all(&tree, 6), &snapshots).unwrap();
    assert_eq!(output.entries_out, 300);
    assert!(output.rest.added.len() > 2);
    for pair in output.rest.added.windows(2) {
        assert!(pair[0].largest < pair[1].smallest);
    }
}

#[test]
fn outputs_end_where_tables_below_end() {
    let mut tree = Tree::new(small());
    // Below, tables end at every 25th key; an output of 4096 bytes holds about 33.
    for at in 0..8 {
        tree.write(6, 0, &many(at * 25, (at + 1) * 25, 1));
    }
    tree.write(0, 9, &many(0, 200, 2));
    let plan = CompactionPlan { inputs: vec![input(0, 9, &[9])], ..merge_all(&tree, 5) };
    let output = tree.run(&plan, &[sequence(9)]).unwrap();
    let ends: Vec<_> = output.rest.added.iter().map(|meta| meta.largest.clone()).collect();
    let below = tree.version.levels[6].runs[0].tables.iter();
    assert_eq!(ends, below.map(|table| table.meta().largest.clone()).collect::<Vec<_>>());
    // At the last level nothing is below, and only size counts.
    let output = tree.run(&merge_all(&tree, 6), &[sequence(9)]).unwrap();
    assert!(
        output.rest.added[0].file_bytes >= 4096 && output.rest.added[0].file_bytes < 4096 + 1024
    );
    assert!(output.rest.added.len() < 8);
}

#[test]
fn outputs_are_durable_when_the_job_returns() {
    let mut tree = Tree::new(small());
    tree.write(0, 1, &many(0, 200, 1));
    tree.fs.sync_dir(&tree.dir).unwrap();
    let plan = merge_all(&tree, 6);
    let output = tree.run(&plan, &[sequence(9)]).unwrap();
    let mut after = Tree::on(tree.fs.crash_clone(Persist::Nothing), small());
    for meta in output.rest.added {
        after.add(6, RunId(0), meta);
    }
    assert_eq!(after.entries().len(), 200);
}

#[test]
fn flushed_tables_are_durable() {
    let mut tree = Tree::new(small());
    tree.flush(&many(0, 200, 1), &[sequence(9)]);
    let mut after = Tree::on(tree.fs.crash_clone(Persist::Nothing), small());
    after.version = tree.version.clone();
    let meta = after.version.levels[0].runs[0].tables[0].meta().clone();
    after.version = Version::empty();
    after.add(0, RunId(1), meta);
    assert_eq!(after.entries(), tree.entries());
}

#[test]
fn a_job_that_fails_anywhere_leaves_nothing_behind() {
    let mut tree = Tree::new(small());
    tree.write(6, 0, &many(0, 100, 1));
    tree.write(0, 2, &many(50, 150, 2));
    let before = tree.files();
    let plan = merge_all(&tree, 6);
    tree.fs.fail_when("read 000001.table", libc::EIO, Repeat::Forever);
    assert_eq!(tree.run(&plan, &[sequence(9)]).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(tree.files(), before);
    tree.fs.clear_faults();
    // A single failed read is tried again in smaller pieces, so only the others are numbered.
    tree.fs.count_reads(false);
    // The first run opens the inputs, which then stay open.
    tree.run(&plan, &[sequence(9)]).unwrap();
    let start = tree.fs.op_count();
    tree.run(&plan, &[sequence(9)]).unwrap();
    let count = tree.fs.op_count() - start;
    assert!(count > 10, "{count} operations other than reads");
    for file in tree.files() {
        if !before.contains(&file) {
            tree.fs.remove_file(format!("/db/{file}")).unwrap();
        }
    }
    for at in 0..count {
        tree.fs.fail_at(tree.fs.op_count() + at, libc::EIO, Repeat::Once);
        let failed = tree.run(&plan, &[sequence(9)]);
        tree.fs.clear_faults();
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io, "operation {at}");
        assert_eq!(tree.files(), before, "operation {at}");
    }
    assert_eq!(tree.run(&plan, &[sequence(9)]).unwrap().entries_out, 150);
}

#[test]
fn a_job_can_be_ended_by_its_caller() {
    let mut tree = Tree::new(KeyspaceOptions { table_bytes: 64 << 10, ..small() });
    let value = "v".repeat(4000);
    let entries: Vec<Entry> = (0..1000).map(|at| put(&format!("k{at:04}"), 1, &value)).collect();
    tree.write(0, 1, &entries);
    let before = tree.files();
    let mut progress = Vec::new();
    let ended = tree.run_polled(&merge_all(&tree, 6), &[sequence(9)], &mut |now| {
        progress.push(now);
        if progress.len() == 3 { Err(Error::invalid("enough")) } else { Ok(()) }
    });
    assert_eq!(ended.unwrap_err().what(), "enough");
    assert_eq!(tree.files(), before);
    assert!(
        progress[2].read_bytes > 2 << 20 && progress[2].written_bytes > 1 << 20,
        "{progress:?}"
    );
}

#[test]
fn damaged_or_short_inputs_are_corruption() {
    let mut tree = Tree::new(small());
    tree.write(0, 1, &many(0, 100, 1));
    let before = tree.files();
    let plan = merge_all(&tree, 6);
    tree.fs.flip("/db/000001.table", 5000, 1).unwrap();
    let error = tree.run(&plan, &[sequence(9)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert_eq!(error.path(), Some(Path::new("/db/000001.table")));
    assert_eq!(tree.files(), before);
    tree.fs.flip("/db/000001.table", 5000, 1).unwrap();
    tree.run(&plan, &[sequence(9)]).unwrap();
    // The manifest and the table agree, but its cursor ends early.
    let meta = tree.version.levels[0].runs[0].tables[0].meta().clone();
    let long = TableMeta { entry_count: 101, ..meta };
    let mut progress = InputProgress::new([long].into_iter());
    let read = |key_number| ReadEntry { key_number, key_len: 1, value_len: 1, is_tombstone: false };
    (1..=100).for_each(|key| progress.note(0, read(key), &tree.dir).unwrap());
    let short = progress.end_slice(None, &mut Replacement::default(), &tree.dir).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Corruption);
    assert_eq!(short.path(), Some(Path::new("/db/000001.table")));
}

/// One step in the life of a tree.
#[derive(Clone, Debug)]
enum Step {
    /// Keys, and whether they are put.
    Flush(Vec<(u8, bool)>),
    Snapshot,
    Release(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flush = prop::collection::vec((0..200u8, prop::bool::weighted(0.7)), 1..60);
    let step = prop_oneof![
        5 => flush.prop_map(Step::Flush),
        2 => Just(Step::Snapshot),
        1 => (0..4usize).prop_map(Step::Release),
    ];
    prop::collection::vec(step, 1..40)
}

/// What every reader must see: each key's versions.
type Model = BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>;

fn check_reads(tree: &Tree, model: &Model, snapshots: &[SequenceNumber]) {
    for (key, versions) in model {
        for snapshot in snapshots {
            let expected =
                versions.range(..=snapshot.0).next_back().and_then(|(_, value)| value.clone());
            assert_eq!(tree.read(key, *snapshot), expected, "{key:?} at {snapshot}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_snapshot_reads_the_same_through_flushes_and_compactions(
        steps in steps(),
        l0_runs in 1..5usize,
        table_bytes in 200..2000u64,
        slice_bytes in prop_oneof![Just(u64::MAX), Just(0), 0..6000u64],
    ) {
        // So small that the tree grows several levels.
        let leveled = Leveled { l0_runs, base_bytes: 64 << 10, fanout: 3 };
        let options = KeyspaceOptions { table_bytes, memtable_bytes: 400, ..small() };
        live(steps, &leveled, options, slice_bytes);
    }
}

fn live(steps: Vec<Step>, leveled: &Leveled, options: KeyspaceOptions, slice_bytes: u64) {
    let mut tree = Tree::new(options);
    let mut model = Model::new();
    let mut held: Vec<SequenceNumber> = Vec::new();
    let mut visible = 0;
    for step in steps {
        match step {
            Step::Snapshot => held.push(sequence(visible)),
            Step::Release(at) if at < held.len() => {
                held.remove(at);
            }
            Step::Release(_) => {}
            Step::Flush(ops) => {
                let entries: Vec<Entry> = ops
                    .into_iter()
                    .map(|(key, is_put)| {
                        visible += 1;
                        write_one(&mut model, &format!("key{key:03}"), visible, is_put)
                    })
                    .collect();
                let snapshots: Vec<_> = held.iter().copied().chain([sequence(visible)]).collect();
                tree.flush(&entries, &snapshots);
                let check = |tree: &Tree| check_reads(tree, &model, &snapshots);
                tree.settle(leveled, &snapshots, slice_bytes, &check);
            }
        }
        let snapshots: Vec<_> = held.iter().copied().chain([sequence(visible)]).collect();
        check_reads(&tree, &model, &snapshots);
    }
    let mut backward = tree.entries_backward();
    backward.reverse();
    assert_eq!(tree.entries(), backward);
    // Once nobody holds a snapshot, a merge of everything leaves the live keys and nothing else.
    let plan = merge_all(&tree, 6);
    if !plan.inputs.is_empty() {
        let output = tree.run(&plan, &[sequence(visible)]).unwrap();
        let added = output.rest.added.into_iter().map(|meta| Arc::new(Table::new(meta)));
        tree.install(&plan, added.collect());
    }
    check_reads(&tree, &model, &[sequence(visible)]);
    let newest = model.values().filter_map(|versions| versions.values().next_back());
    assert_eq!(tree.entries().len(), newest.filter(|value| value.is_some()).count());
    assert!(tree.entries().iter().all(|entry| entry.1.sequence() == sequence(0)));
}

/// Notes a write in the model and gives its entry.
fn write_one(model: &mut Model, key: &str, number: u64, is_put: bool) -> Entry {
    let value = format!("{number}").repeat(50);
    let entry = if is_put { put(key, number, &value) } else { delete(key, number) };
    let stored = is_put.then(|| value.into_bytes());
    model.entry(key.as_bytes().to_vec()).or_default().insert(number, stored);
    entry
}
