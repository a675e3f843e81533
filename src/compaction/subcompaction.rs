//! Subcompactions: a merge split into key ranges, which run at the same time.
//!
//! Level 0 is merged down all at once, since its runs lie over each other, and writers may wait for
//! it. So where threads are idle such a merge is split into subcompactions of about equal bytes.
//! The cuts are chosen among *anchors*: every so many blocks of each input a key of its index, with
//! the bytes before it. Each subcompaction is a merge like any other, over the keys from its start
//! up to its end, with outputs of its own; the outputs of all, in key order, are the outputs of the
//! whole. Nothing here knows threads: the caller runs them, in any order, in any thread.
//!
//! # Rules
//! * All versions of a user key are in one subcompaction: cuts are user keys.
//! * The snapshots are those of the whole merge.
//! * It is installed at once, after the last one. (Merges so long that their space matters are
//!   sliced instead, see [`slice`](crate::compaction::slice).)
//! * When one fails, the others end at their next look, and the outputs of all are removed.
//! * A table is read by every subcompaction that it meets, so entries are counted over all.
//!
//! # Locks
//! `results` is a leaf: nothing is locked under it, and no I/O is done.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::compaction::CompactionPlan;
use crate::compaction::job::{
    JobContext, JobOutput, JobProgress, KeyRange, Merge, MergeInputs, MergeTerms,
};
use crate::compaction::slice::Replacement;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::sync::Mutex;
use crate::table_cache::TableCache;
use crate::version::{Run, Version};

/// Keys of each table that may become a cut.
const ANCHORS_PER_TABLE: usize = 128;

/// A merge in subcompactions.
pub(crate) struct SplitMerge {
    inputs: MergeInputs,
    terms: MergeTerms,
    /// The keys at which one ends and the next begins, ascending.
    cuts: Vec<Vec<u8>>,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    /// Of the subcompactions that have ended well.
    outputs: Vec<Option<JobOutput>>,
    /// How far each is.
    progress: Vec<JobProgress>,
    ended_count: usize,
    /// The first error of any.
    failure: Option<Error>,
}

impl SplitMerge {
    /// The merge of `plan`, which was made for `version`, in one piece.
    pub(crate) fn new(plan: &CompactionPlan, version: &Version, terms: MergeTerms) -> Result<Self> {
        let inputs = MergeInputs::new(plan, version)?;
        let progress = vec![JobProgress::default()];
        let results = Results { outputs: vec![None], progress, ..Results::default() };
        let results = Mutex::new(results);
        Ok(SplitMerge { inputs, terms, cuts: Vec::new(), results })
    }

    /// Splits it into at most `count_max` subcompactions.
    pub(crate) fn split(&mut self, tables: &TableCache, count_max: usize) -> Result<()> {
        self.cuts = cuts(anchors(&self.inputs.runs, tables)?, count_max);
        let count = self.count();
        let results = self.results.get_mut();
        results.outputs = vec![None; count];
        results.progress = vec![JobProgress::default(); count];
        Ok(())
    }

    /// What holds for every subcompaction.
    pub(crate) fn terms(&self) -> &MergeTerms {
        &self.terms
    }

    /// The number of subcompactions.
    pub(crate) fn count(&self) -> usize {
        self.cuts.len() + 1
    }

    /// Notes how far one is.
    pub(crate) fn note_progress(&self, index: usize, progress: JobProgress) {
        self.results.lock().progress[index] = progress;
    }

    /// How far the whole merge is.
    pub(crate) fn progress(&self) -> JobProgress {
        let results = self.results.lock();
        let sum = |of: fn(&JobProgress) -> u64| results.progress.iter().map(of).sum();
        JobProgress {
            read_bytes: sum(|one| one.read_bytes),
            written_bytes: sum(|one| one.written_bytes),
            table_count: sum(|one| one.table_count),
        }
    }

    /// Runs a subcompaction, each once. How it went shows in [`SplitMerge::finish`]. The context's
    /// `poll` calls [`SplitMerge::check`].
    pub(crate) fn run<'a>(&'a self, index: usize, ctx: &mut JobContext<'a>) {
        let start = index.checked_sub(1).map(|before| self.cuts[before].as_slice());
        let range = KeyRange { start, end: self.cuts.get(index).map(Vec::as_slice) };
        let result = Merge::new(&self.inputs, Some(range), ctx).run_to_end();
        let mut results = self.results.lock();
        results.ended_count += 1;
        match result {
            Ok(output) => results.outputs[index] = Some(output),
            Err(error) => {
                results.failure.get_or_insert(error);
            }
        }
    }

    /// The error of another one, which ends all.
    pub(crate) fn check(&self) -> Result<()> {
        self.results.lock().failure.clone().map_or(Ok(()), Err)
    }

    /// Whether all have ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.results.lock().ended_count == self.count()
    }

    /// What the whole merge made. All have ended.
    pub(crate) fn finish(&self, fs: &dyn FileSystem, dir: &Path) -> Result<JobOutput> {
        assert!(self.is_ended(), "outputs are complete only then");
        let results = std::mem::take(&mut *self.results.lock());
        let mut whole = JobOutput { bytes_read: self.inputs.file_bytes, ..JobOutput::default() };
        for one in results.outputs.into_iter().flatten() {
            whole.entries_in += one.entries_in;
            whole.entries_out += one.entries_out;
            whole.bytes_written += one.bytes_written;
            whole.dropped_shadowed += one.dropped_shadowed;
            whole.dropped_tombstones += one.dropped_tombstones;
            whole.dropped_expired += one.dropped_expired;
            whole.dropped_filtered += one.dropped_filtered;
            whole.filtered += one.filtered;
            whole.rest.added.extend(one.rest.added);
        }
        let checked = results.failure.map_or_else(|| self.check_count(whole.entries_in, dir), Err);
        if let Err(error) = checked {
            for meta in whole.rest.added {
                // The error that led here is the one worth telling; what stays is an orphan.
                let _ = fs.remove(&FileKind::Table(meta.number).path(dir));
            }
            return Err(error);
        }
        let inputs = self.inputs.runs.iter().flat_map(|run| &run.tables);
        let removed = inputs.map(|table| table.meta().number).collect();
        whole.rest = Replacement { removed, ..whole.rest };
        Ok(whole)
    }

    fn check_count(&self, read: u64, dir: &Path) -> Result<()> {
        let expected = self.inputs.entry_count;
        if read == expected {
            return Ok(());
        }
        let tables = self.inputs.runs.iter().flat_map(|run| &run.tables);
        let numbers: Vec<String> = tables.map(|table| table.meta().number.to_string()).collect();
        let what = format!(
            "read {read} entries of the {expected} that tables {} have by the manifest",
            numbers.join(", ")
        );
        Err(Error::new(ErrorKind::Corruption, what)
            .at(dir)
            .advise("verify the tables, and restore the damaged one from a copy"))
    }
}

impl fmt::Debug for SplitMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitMerge").field("cuts", &self.cuts).finish_non_exhaustive()
    }
}

/// A key, and the bytes of one table from the anchor before it.
type Anchor = (Vec<u8>, u64);

/// The anchors of all tables. Opens them, which the merge would do anyway.
fn anchors(runs: &[Arc<Run>], tables: &TableCache) -> Result<Vec<Anchor>> {
    let mut anchors = Vec::new();
    for table in runs.iter().flat_map(|run| &run.tables) {
        let of_table = tables.open(table)?.anchors(ANCHORS_PER_TABLE)?;
        // What is hidden is not read.
        anchors.extend(of_table.into_iter().filter(|(key, _)| **key >= *table.meta().smallest));
    }
    Ok(anchors)
}

/// At most `count_max - 1` of the keys, which cut all bytes into about equal ranges.
fn cuts(mut anchors: Vec<Anchor>, count_max: usize) -> Vec<Vec<u8>> {
    anchors.sort_unstable();
    let total: u64 = anchors.iter().map(|(_, bytes)| bytes).sum();
    let mut cuts: Vec<Vec<u8>> = Vec::new();
    let mut sum = 0;
    for (key, bytes) in anchors {
        sum += bytes;
        let is_due =
            u128::from(sum) * count_max as u128 >= u128::from(total) * (cuts.len() as u128 + 1);
        // Nothing is left behind the last anchor.
        if is_due && cuts.len() + 1 < count_max && sum < total && cuts.last() != Some(&key) {
            cuts.push(key);
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(anchors: &[(&str, u64)], count_max: usize) -> String {
        let anchors = anchors.iter().map(|(key, bytes)| (key.as_bytes().to_vec(), *bytes));
        let cuts = cuts(anchors.collect(), count_max).into_iter();
        cuts.map(|key| String::from_utf8(key).unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ranges_have_about_equal_bytes() {
        let even = [("a", 10), ("c", 10), ("e", 10), ("b", 10), ("d", 10), ("f", 10)];
        assert_eq!(cut(&even, 1), "");
        assert_eq!(cut(&even, 2), "c");
        assert_eq!(cut(&even, 3), "b d");
        assert_eq!(cut(&even, 100), "a b c d e");
        assert_eq!(cut(&[("a", 90), ("b", 5), ("c", 5)], 2), "a", "the first is too large");
        assert_eq!(cut(&[("a", 5), ("b", 5), ("c", 90)], 2), "", "the last is");
        assert_eq!(cut(&[("a", 10), ("a", 10), ("a", 10), ("b", 10)], 4), "a", "no cut twice");
        assert_eq!(cut(&[], 4), "");
    }
}
