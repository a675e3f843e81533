//! Merges installed in slices: after every slice each reader sees what it saw before, files go when
//! nobody needs them any more, and whatever ends a merge early leaves a good tree.

use super::*;
use crate::filter::KeyProbe;
use crate::table::reader::ReadStats;
use crate::version::edit::{TableAdded, VersionEdit};
use crate::version::lookup;

impl Tree {
    /// Puts a slice into the tree as the manifest and the database do. Files of tables that leave
    /// are removed when their last holder lets go.
    fn replace(&mut self, plan: &CompactionPlan, slice: Replacement) {
        let Replacement { mut removed, added, remaining } = slice;
        for number in &removed {
            let (fs, dir) = (self.fs.clone(), self.dir.clone());
            let (_, _, table) = self.version.find_table(*number).unwrap();
            table.set_obsolete(Arc::new(move |number| {
                let path = FileKind::Table(number).path(&dir);
                // A fault that a test has set is not for this.
                fs.remove(&path).or_else(|_| fs.remove(&path)).unwrap();
            }));
        }
        let place = |meta| (plan.output_level, plan.output_run, Arc::new(Table::new(meta)));
        let mut added: Vec<_> = added.into_iter().map(place).collect();
        for meta in remaining {
            removed.push(meta.number);
            let (level, run, whole) = self.version.find_table(meta.number).unwrap();
            let part = Arc::new(whole.part(meta));
            self.cache.take_over(whole, &part);
            added.push((level, run.id, part));
        }
        self.version = self.version.apply(&removed, &added).unwrap();
        self.version.check_invariants().unwrap();
    }

    /// Runs the plan and installs everything; calls `after` after each slice but the last.
    pub(super) fn run_sliced(
        &mut self,
        plan: &CompactionPlan,
        snapshots: &[SequenceNumber],
        slice_bytes: u64,
        after: &mut dyn FnMut(&mut Tree) -> Result<()>,
    ) -> Result<JobOutput> {
        let (fs, dir, options) = (self.fs.clone(), self.dir.clone(), self.options.clone());
        let (cache, numbers) = (Arc::clone(&self.cache), Rc::clone(&self.next_number));
        let version = Arc::new(self.version.clone());
        let mut install = |slice: Replacement| {
            self.replace(plan, slice);
            after(self)
        };
        let mut context = JobContext {
            fs: &fs,
            dir: &dir,
            tables: &cache,
            keyspace: KeyspaceId::default(),
            options: &options,
            snapshots,
            now_ms: 0,
            filter: None,
            new_file_number: &|| FileNumber(numbers.replace(numbers.get() + 1)),
            poll: &mut |_| Ok(()),
            slices: Some(Slices { bytes: slice_bytes, install: &mut install }),
        };
        let output = run_job(plan, version, &mut context)?;
        self.replace(plan, output.rest.clone());
        Ok(output)
    }

    fn get(&self, key: &[u8], at: SequenceNumber) -> Option<Vec<u8>> {
        let (probe, bound) = (KeyProbe::new(key_hash(key)), Trailer::visible_at(at));
        let mut stats = ReadStats::default();
        let found = lookup::get(&self.version, &self.cache, key, &probe, bound, &mut stats);
        let (trailer, value) = found.unwrap()?;
        (!trailer.is_tombstone()).then(|| value.to_vec())
    }

    /// The tree as an open after a crash finds it: metadata by way of the manifest's bytes.
    fn reopened(&self) -> Tree {
        let tables_added = self.version.tables().map(|(level, run, table)| TableAdded {
            keyspace: KeyspaceId(0),
            level,
            run: run.id,
            meta: table.meta().clone(),
        });
        let edit = VersionEdit { tables_added: tables_added.collect(), ..VersionEdit::default() };
        let read = VersionEdit::decode(&edit.encode()).unwrap();
        assert_eq!(read, edit);
        let mut tree = Tree::on(self.fs.crash_clone(Persist::Nothing), self.options.clone());
        for TableAdded { level, run, meta, .. } in read.tables_added {
            tree.add(level, run, meta);
        }
        tree
    }

    /// Everything a reader could notice: by get, cursor in both directions, seeks, and verify.
    fn check(&self, model: &Model, snapshots: &[SequenceNumber]) {
        check_reads(self, model, snapshots);
        for (key, versions) in model {
            for at in snapshots {
                let newest = versions.range(..=at.0).next_back();
                assert_eq!(self.get(key, *at), newest.and_then(|(_, value)| value.clone()));
            }
        }
        let entries = self.entries();
        let mut backward = self.entries_backward();
        backward.reverse();
        assert_eq!(entries, backward);
        let (mut cursor, mut reverse) = (self.cursor(), self.cursor());
        for key in model.keys() {
            let from = entries.partition_point(|entry| entry.0 < *key);
            cursor.seek(key, Trailer::NEWEST).unwrap();
            assert_eq!(current(&cursor).as_ref(), entries.get(from));
            reverse.seek_for_prev(key, Trailer::NEWEST).unwrap();
            assert_eq!(current(&reverse).as_ref(), from.checked_sub(1).map(|at| &entries[at]));
        }
        for (_, _, table) in self.version.tables() {
            self.cache.open(table).unwrap().verify_all(table.meta()).unwrap();
        }
    }

    /// The directory holds the tables of the tree and nothing else.
    fn check_no_waste(&self) {
        let tables = self.version.tables();
        let mut names: Vec<_> =
            tables.map(|(_, _, table)| FileKind::Table(table.meta().number).file_name()).collect();
        names.sort();
        assert_eq!(self.files(), names);
    }
}

fn current(cursor: &MergingCursor<RunCursor>) -> Option<Entry> {
    let entry = || (cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec());
    cursor.valid().then(entry)
}

/// A tree of flushed runs over each other, its model, and the last sequence number. Keys have many
/// versions, and some end in a tombstone.
fn stacked(options: KeyspaceOptions, runs: u64, keys: u64) -> (Tree, Model, u64) {
    let (mut tree, mut model, mut visible) = (Tree::new(options), Model::new(), 0);
    for run in 0..runs {
        let mut entries = Vec::new();
        for key in (0..keys).filter(|key| (key * 7 + run * 3) % 4 != 0) {
            visible += 1;
            let is_put = (key + run) % 5 != 0;
            entries.push(write_one(&mut model, &format!("key{key:03}"), visible, is_put));
        }
        tree.flush(&entries, &[sequence(visible)]);
    }
    (tree, model, visible)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reads_stay_right_after_every_slice(
        flushes in prop::collection::vec(
            prop::collection::vec((0..120u8, prop::bool::weighted(0.7)), 1..80), 1..6),
        held in prop::collection::vec(0..200u64, 0..3),
        table_bytes in 200..3000u64,
        slice_bytes in prop_oneof![Just(0), 0..6000u64],
        level in prop_oneof![Just(0usize), Just(6)],
    ) {
        let mut tree = Tree::new(KeyspaceOptions { table_bytes, ..small() });
        let (mut model, mut visible) = (Model::new(), 0);
        for ops in flushes {
            let mut entries = Vec::new();
            for (key, is_put) in ops {
                visible += 1;
                entries.push(write_one(&mut model, &format!("key{key:03}"), visible, is_put));
            }
            // Flushed as if every version were in use, so that the merge has some to drop.
            let all: Vec<_> = (0..=visible).map(sequence).collect();
            tree.flush(&entries, &all);
        }
        let mut snapshots: Vec<_> = held.into_iter().map(|at| sequence(at.min(visible))).collect();
        snapshots.push(sequence(visible));
        snapshots.sort_unstable();
        let newest = tree.version.levels[0].runs[0].id;
        let output_run = if level == 0 { newest } else { RunId(0) };
        let plan = CompactionPlan { output_run, ..merge_all(&tree, level) };
        let output = tree.run_sliced(&plan, &snapshots, slice_bytes, &mut |tree| {
            tree.check(&model, &snapshots);
            tree.reopened().check(&model, &snapshots);
            tree.check_no_waste();
            Ok(())
        });
        tree.check(&model, &snapshots);
        tree.check_no_waste();
        let output = output.unwrap();
        prop_assert_eq!(output.entries_in, output.entries_out + output.dropped_shadowed
            + output.dropped_tombstones);
        prop_assert!(tree.version.run_count() <= 1);
        prop_assert!(tree.version.tables().all(|(_, _, table)| !table.meta().is_partial()));
    }
}

#[test]
fn input_space_is_freed_while_the_merge_goes_on() {
    let (mut tree, model, visible) = stacked(small(), 8, 300);
    let bytes = |tree: &Tree| {
        let lens = tree
            .files()
            .into_iter()
            .map(|name| tree.fs.read_file(format!("/db/{name}")).unwrap().len() as u64);
        lens.sum::<u64>()
    };
    let plan = merge_all(&tree, 6);
    let whole = tree.version.levels[0].runs.iter().map(|run| run.bytes()).max().unwrap();
    let before = bytes(&tree);
    let mut sizes = Vec::new();
    // Flushed runs are one table each, which is freed at its end: nothing goes before that.
    tree.run_sliced(&plan, &[sequence(visible)], 0, &mut |tree| {
        sizes.push(bytes(tree));
        Ok(())
    })
    .unwrap();
    assert!(sizes.len() > 4 && before > 8 * 4096, "{sizes:?} after {before}, runs of {whole}");
    assert_eq!(tree.version.run_count(), 1);

    // A run of many tables goes table by table.
    let newer: Vec<Entry> = model
        .keys()
        .enumerate()
        .map(|(at, key)| {
            let trailer = Trailer::new(sequence(visible + 1 + at as u64), ValueKind::Put);
            (key.clone(), trailer, vec![b'n'; 150])
        })
        .collect();
    tree.flush(&newer, &[sequence(visible + 1000)]);
    let flushed = tree.version.levels[0].runs[0].bytes();
    let before = bytes(&tree);
    let plan = merge_all(&tree, 6);
    let mut peak = before;
    tree.run_sliced(&plan, &[sequence(visible + 1000)], 0, &mut |tree| {
        peak = peak.max(bytes(tree));
        Ok(())
    })
    .unwrap();
    assert!(peak < before + flushed + 4 * 4096, "{peak} of {before}, flushed {flushed}");
    assert!(tree.version.bytes() > 6 * 4096);
}

#[test]
fn an_old_version_reads_on_and_frees_its_files_when_it_goes() {
    let (mut tree, model, visible) = stacked(small(), 3, 200);
    let old = Tree { version: tree.version.clone(), fs: tree.fs.clone(), ..Tree::new(small()) };
    let old = Tree { cache: Arc::clone(&tree.cache), ..old };
    let plan = merge_all(&tree, 6);
    let mut middle = Vec::new();
    tree.run_sliced(&plan, &[sequence(visible)], 0, &mut |tree| {
        middle.push(tree.version.clone());
        Ok(())
    })
    .unwrap();
    assert!(middle.len() > 3);
    old.check(&model, &[sequence(visible)]);
    let inputs = plan.inputs.iter().flat_map(|input| &input.tables);
    let names: Vec<_> = inputs.map(|number| FileKind::Table(*number).file_name()).collect();
    assert!(names.iter().all(|name| tree.files().contains(name)));
    // Parts and the whole hold the same file: it goes with the last of them, whichever that is.
    drop(old);
    assert!(names.iter().all(|name| tree.files().contains(name)));
    drop(middle);
    tree.check_no_waste();
    tree.check(&model, &[sequence(visible)]);
}

#[test]
fn flushes_between_slices_are_newer_than_everything() {
    let (mut tree, mut model, mut visible) = stacked(small(), 4, 200);
    let plan =
        CompactionPlan { output_run: tree.version.levels[0].runs[0].id, ..merge_all(&tree, 0) };
    let snapshots = [sequence(visible / 2), sequence(visible)];
    let mut flushes = 0;
    tree.run_sliced(&plan, &snapshots, 0, &mut |tree| {
        flushes += 1;
        let mut entries = Vec::new();
        for key in (0..200).filter(|key| key % 9 == flushes % 9) {
            visible += 1;
            entries.push(write_one(&mut model, &format!("key{key:03}"), visible, key % 2 == 0));
        }
        tree.flush(&entries, &[sequence(visible)]);
        tree.check(&model, &[snapshots[0], snapshots[1], sequence(visible)]);
        Ok(())
    })
    .unwrap();
    assert!(flushes > 3);
    tree.check(&model, &[snapshots[0], snapshots[1], sequence(visible)]);
    assert_eq!(tree.version.run_count(), 1 + flushes as usize);
}

#[test]
fn a_merge_that_fails_anywhere_keeps_its_slices() {
    let (mut clean, model, visible) = stacked(small(), 4, 200);
    clean.fs.count_reads(false);
    let snapshots = [sequence(visible)];
    let plan = merge_all(&clean, 6);
    // The inputs are opened now, and stay open.
    clean.check(&model, &snapshots);
    let start = clean.fs.op_count();
    let output = clean.run_sliced(&plan, &snapshots, 0, &mut |_| Ok(())).unwrap();
    let count = clean.fs.op_count() - start;
    assert!(output.slice_count > 2 && count > 30, "{count} operations");
    let mut failed = 0;
    for at in 0..count {
        let (mut tree, ..) = stacked(small(), 4, 200);
        tree.fs.count_reads(false);
        tree.check(&model, &snapshots);
        tree.fs.fail_at(tree.fs.op_count() + at, libc::EIO, Repeat::Once);
        let mut slices = 0;
        let result = tree.run_sliced(&plan, &snapshots, 0, &mut |_| {
            slices += 1;
            Ok(())
        });
        tree.fs.clear_faults();
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Io, "operation {at}");
            failed += 1;
        }
        tree.check(&model, &snapshots);
        tree.check_no_waste();
        // Whoever picks next goes on from there.
        let plan = merge_all(&tree, 6);
        tree.run_sliced(&plan, &snapshots, 0, &mut |_| Ok(())).unwrap();
        tree.check(&model, &snapshots);
        assert_eq!(tree.version.run_count(), 1, "operation {at}, after {slices} slices");
    }
    assert!(failed > count / 2, "only {failed} of {count} failed");
}

#[test]
fn outputs_given_to_a_caller_that_fails_are_not_removed() {
    let (mut tree, model, visible) = stacked(small(), 4, 200);
    let plan = merge_all(&tree, 6);
    let mut slices = 0;
    let result = tree.run_sliced(&plan, &[sequence(visible)], 0, &mut |_| {
        slices += 1;
        if slices == 3 { Err(Error::invalid("poisoned")) } else { Ok(()) }
    });
    assert_eq!(result.unwrap_err().what(), "poisoned");
    assert_eq!(tree.version.levels[6].runs[0].tables.len(), 3);
    tree.check(&model, &[sequence(visible)]);
    tree.check_no_waste();
}

#[test]
fn a_part_that_is_not_in_the_file_is_found() {
    let (mut tree, _, visible) = stacked(small(), 2, 200);
    let plan = merge_all(&tree, 6);
    let _ = tree.run_sliced(&plan, &[sequence(visible)], 0, &mut |_| Err(Error::invalid("stop")));
    let (_, _, part) =
        tree.version.tables().find(|(_, _, table)| table.meta().is_partial()).unwrap();
    let right = part.meta().clone();
    let reader = Arc::clone(tree.cache.open(part).unwrap().reader());
    reader.verify_all(&right).unwrap();
    let wrong = [
        TableMeta { tombstone_count: right.tombstone_count + 1, ..right.clone() },
        TableMeta { shadowed_count: right.shadowed_count + 1, ..right.clone() },
        TableMeta { value_bytes: right.value_bytes - 1, ..right.clone() },
        TableMeta {
            entry_count: right.entry_count - 1,
            hidden_entry_count: right.hidden_entry_count + 1,
            ..right.clone()
        },
        TableMeta { smallest: [&*right.smallest, b"a"].concat().into(), ..right.clone() },
    ];
    for meta in wrong {
        let error = reader.verify_all(&meta).unwrap_err();
        assert!(error.to_string().contains("the part of the table"), "{error}");
    }
    // What shows without reading the entries shows when the table is opened.
    let wrong = [
        TableMeta { hidden_entry_count: right.hidden_entry_count + 1, ..right.clone() },
        TableMeta { largest: Box::from(*b"zzz"), ..right.clone() },
        TableMeta { smallest: Box::default(), ..right.clone() },
        TableMeta { hidden_entry_count: 0, ..right.clone() },
        TableMeta { hidden_entry_count: u64::MAX, ..right },
    ];
    for meta in wrong {
        let table = Arc::new(Table::new(meta));
        let error = tree.cache.open(&table).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
    }
}
