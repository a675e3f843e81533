//! Split merges give what the merge in one piece gives, whatever the order of the subcompactions,
//! and leave nothing behind when one of them fails.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::compaction::subcompaction::SplitMerge;

impl Tree {
    fn split(
        &self,
        plan: &CompactionPlan,
        snapshots: &[SequenceNumber],
        subcompactions_max: usize,
    ) -> SplitMerge {
        let terms = MergeTerms {
            keyspace: KeyspaceId::default(),
            options: Arc::new(self.options.clone()),
            snapshots: snapshots.to_vec(),
            now_ms: 0,
            filter: None,
        };
        let mut merge = SplitMerge::new(plan, &self.version, terms).unwrap();
        merge.split(&self.cache, subcompactions_max).unwrap();
        merge
    }

    /// Runs a subcompaction; `poll` is called when it looks whether it should go on.
    fn run_one(
        &self,
        merge: &SplitMerge,
        index: usize,
        poll: &mut dyn FnMut(JobProgress) -> Result<()>,
    ) {
        let mut context = JobContext {
            fs: &self.fs,
            dir: &self.dir,
            tables: &self.cache,
            keyspace: KeyspaceId::default(),
            options: &self.options,
            snapshots: &merge.terms().snapshots,
            now_ms: 0,
            filter: None,
            new_file_number: &|| self.new_number(),
            poll: &mut |progress| {
                merge.check()?;
                poll(progress)
            },
            slices: None,
        };
        merge.run(index, &mut context);
    }

    fn run_split(
        &self,
        plan: &CompactionPlan,
        snapshots: &[SequenceNumber],
        count_max: usize,
    ) -> Result<(usize, JobOutput)> {
        let merge = self.split(plan, snapshots, count_max);
        for index in (0..merge.count()).rev() {
            assert!(!merge.is_ended());
            self.run_one(&merge, index, &mut |_| Ok(()));
        }
        let output = merge.finish(&self.fs, &self.dir)?;
        Ok((merge.count(), output))
    }
}

/// What the tree holds once `output` is installed.
fn installed(tree: &Tree, plan: &CompactionPlan, output: &JobOutput) -> Vec<Entry> {
    let mut after = Tree { fs: tree.fs.clone(), ..Tree::new(tree.options.clone()) };
    after.cache = Arc::clone(&tree.cache);
    after.version = tree.version.clone();
    let removed: usize = plan.inputs.iter().map(|input| input.tables.len()).sum();
    assert_eq!(output.rest.removed.len(), removed);
    let added = output.rest.added.iter().map(|meta| Arc::new(Table::new(meta.clone())));
    after.install(plan, added.collect());
    after.entries()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn subcompactions_give_what_the_whole_gives(
        flushes in prop::collection::vec(
            prop::collection::vec((0..100u8, prop::bool::weighted(0.7)), 1..120), 1..5),
        held in prop::collection::vec(0..200u64, 0..3),
        count_max in 1..9usize,
    ) {
        let mut tree = Tree::new(KeyspaceOptions { table_bytes: 700, ..small() });
        let (mut model, mut visible) = (Model::new(), 0);
        for ops in flushes {
            let mut entries = Vec::new();
            for (key, is_put) in ops {
                visible += 1;
                entries.push(write_one(&mut model, &format!("key{key:03}"), visible, is_put));
            }
            let all: Vec<_> = (0..=visible).map(sequence).collect();
            tree.flush(&entries, &all);
        }
        let mut snapshots: Vec<_> = held.into_iter().map(|at| sequence(at.min(visible))).collect();
        snapshots.push(sequence(visible));
        snapshots.sort_unstable();
        let plan = merge_all(&tree, 6);
        let whole = tree.run(&plan, &snapshots).unwrap();
        let (_, split) = tree.run_split(&plan, &snapshots, count_max).unwrap();
        prop_assert_eq!(
            (split.entries_in, split.entries_out, split.dropped_shadowed),
            (whole.entries_in, whole.entries_out, whole.dropped_shadowed)
        );
        prop_assert_eq!(split.dropped_tombstones, whole.dropped_tombstones);
        prop_assert_eq!(split.bytes_read, whole.bytes_read);
        let expected = installed(&tree, &plan, &whole);
        prop_assert_eq!(installed(&tree, &plan, &split), expected);
    }
}

fn wide() -> (Tree, CompactionPlan) {
    let mut tree = Tree::new(small());
    for number in 1..=4 {
        tree.write(0, number, &many(0, 300, number));
    }
    let plan = merge_all(&tree, 6);
    (tree, plan)
}

#[test]
fn cuts_come_from_within_tables() {
    let (tree, plan) = wide();
    let (count, output) = tree.run_split(&plan, &[sequence(9)], 4).unwrap();
    assert_eq!((count, output.entries_in, output.entries_out), (4, 1200, 300));
    let tables = &output.rest.added;
    assert!(tables.len() >= 8 && tables.windows(2).all(|pair| pair[0].largest < pair[1].smallest));
    let starts: Vec<_> =
        tables.iter().map(|meta| String::from_utf8_lossy(&meta.smallest)).collect();
    // A quarter of 300 keys each, as near as a block of 4 entries is.
    for cut in [75, 150, 225u32] {
        let near = |start: &str| start[1..].parse::<u32>().unwrap().abs_diff(cut) < 8;
        assert!(starts.iter().any(|start| near(start)), "{cut}: {starts:?}");
    }
}

#[test]
fn a_subcompaction_that_fails_ends_all_and_leaves_nothing() {
    let (tree, plan) = wide();
    tree.fs.count_reads(false);
    tree.run_split(&plan, &[sequence(9)], 3).unwrap();
    for file in tree.files() {
        if file.as_str() > "000004.table" {
            tree.fs.remove_file(format!("/db/{file}")).unwrap();
        }
    }
    let before = tree.files();
    let start = tree.fs.op_count();
    let (_, output) = tree.run_split(&plan, &[sequence(9)], 3).unwrap();
    let count = tree.fs.op_count() - start;
    for meta in output.rest.added {
        tree.fs.remove_file(format!("/db/{}", FileKind::Table(meta.number).file_name())).unwrap();
    }
    assert!(count > 20, "{count} operations");
    for at in 0..count {
        tree.fs.fail_at(tree.fs.op_count() + at, libc::EIO, Repeat::Once);
        let error = tree.run_split(&plan, &[sequence(9)], 3).map(drop).unwrap_err();
        tree.fs.clear_faults();
        assert_eq!(error.kind(), ErrorKind::Io, "operation {at}");
        assert_eq!(tree.files(), before, "operation {at}");
    }

    let merge = tree.split(&plan, &[sequence(9)], 3);
    tree.run_one(&merge, 0, &mut |_| Ok(()));
    tree.run_one(&merge, 1, &mut |_| Err(Error::invalid("enough")));
    let mut was_asked = false;
    tree.run_one(&merge, 2, &mut |_| {
        was_asked = true;
        Ok(())
    });
    assert!(!was_asked, "it ended before it began");
    assert_eq!(merge.finish(&tree.fs, &tree.dir).unwrap_err().what(), "enough");
    assert_eq!(tree.files(), before);
}

#[test]
fn subcompactions_run_at_the_same_time() {
    let (tree, plan) = wide();
    let whole = tree.run(&plan, &[sequence(9)]).unwrap();
    let merge = tree.split(&plan, &[sequence(9)], 4);
    let numbers = AtomicU64::new(1000);
    let (fs, dir, cache, options) = (&tree.fs, &tree.dir, &tree.cache, &tree.options);
    std::thread::scope(|scope| {
        for index in 0..merge.count() {
            let (merge, numbers) = (&merge, &numbers);
            scope.spawn(move || {
                let mut context = JobContext {
                    fs,
                    dir,
                    tables: cache,
                    keyspace: KeyspaceId::default(),
                    options,
                    snapshots: &merge.terms().snapshots,
                    now_ms: 0,
                    filter: None,
                    new_file_number: &|| FileNumber(numbers.fetch_add(1, Ordering::Relaxed)),
                    poll: &mut |_| merge.check(),
                    slices: None,
                };
                merge.run(index, &mut context);
            });
        }
    });
    let output = merge.finish(&tree.fs, &tree.dir).unwrap();
    assert_eq!(installed(&tree, &plan, &output), installed(&tree, &plan, &whole));
}
