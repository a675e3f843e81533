//! Plans held against the tree that they were made for.
//!
//! Strategies can be the user's. A plan that breaks the rules could show old values, bring deleted
//! keys back or make tables overlap, so each is checked before it runs, whoever made it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, TreeView};
use crate::error::{Error, Result};
use crate::expiry::is_expired;
use crate::key::FileNumber;
use crate::table::Table;
use crate::version::{LEVEL_COUNT, Run, RunId, Version};

/// The tables of one input of a plan, found in the tree.
pub(crate) struct PlannedInput<'a> {
    pub(crate) level: usize,
    pub(crate) run: &'a Arc<Run>,
    pub(crate) tables: Range<usize>,
}

impl<'a> PlannedInput<'a> {
    /// The tables themselves, in key order.
    pub(crate) fn tables(&self) -> &'a [Arc<Table>] {
        &self.run.tables[self.tables.clone()]
    }

    fn age(&self) -> Age {
        (self.level, Reverse(self.run.id))
    }
}

/// Where a run stands: the greater, the older.
type Age = (usize, Reverse<RunId>);

/// Finds the inputs of a plan. They are there, not empty, and adjacent tables of their runs.
pub(crate) fn find_inputs<'a>(
    plan: &CompactionPlan,
    version: &'a Version,
) -> Result<Vec<PlannedInput<'a>>> {
    let mut inputs = Vec::with_capacity(plan.inputs.len());
    for input in &plan.inputs {
        let level = version.levels.get(input.level);
        let run = level.and_then(|level| level.runs.iter().find(|run| run.id == input.run));
        let Some(run) = run else {
            return Err(unfit(format!("there is no run {} in level {}", input.run.0, input.level)));
        };
        let number = |table: &Arc<Table>| table.meta().number;
        let first = input.tables.first();
        let start = run.tables.iter().position(|table| Some(&number(table)) == first);
        let end = start.map_or(0, |start| start + input.tables.len());
        let found = start.and_then(|start| run.tables.get(start..end));
        match (start, found) {
            (Some(start), Some(tables))
                if tables.iter().map(number).eq(input.tables.iter().copied()) =>
            {
                inputs.push(PlannedInput { level: input.level, run, tables: start..end });
            }
            _ => {
                let numbers = &input.tables;
                let what = format!("{numbers:?} are not adjacent tables of run {}", run.id.0);
                return Err(unfit(what));
            }
        }
    }
    if inputs.is_empty() {
        return Err(unfit("it has no inputs"));
    }
    Ok(inputs)
}

/// Checks what [`TreeView::check_plan`] promises.
pub(super) fn check_plan(tree: &TreeView<'_>, plan: &CompactionPlan) -> Result<()> {
    let inputs = find_inputs(plan, tree.version)?;
    let mut chosen = HashSet::new();
    for table in inputs.iter().flat_map(PlannedInput::tables) {
        let number = table.meta().number;
        if tree.is_busy(number) {
            return Err(unfit(format!("table {number} is being compacted")));
        }
        if !chosen.insert(number) {
            return Err(unfit(format!("table {number} is named twice")));
        }
    }
    if plan.action == CompactionAction::Drop {
        return match plan.reason {
            CompactionReason::Expired => check_expired(tree, &inputs, &chosen),
            // Data is dropped by design.
            _ => Ok(()),
        };
    }
    if !inputs.is_sorted_by(|newer, older| newer.age() < older.age()) {
        return Err(unfit("its inputs are not newest first"));
    }
    if plan.output_level >= LEVEL_COUNT {
        return Err(unfit(format!("there is no level {}", plan.output_level)));
    }
    check_ages(tree.version, plan, &inputs, &chosen)?;
    check_outputs(tree, plan, &inputs, &chosen)
}

/// Everything in the tables has expired, and nothing older that stays would be uncovered.
fn check_expired(
    tree: &TreeView<'_>,
    inputs: &[PlannedInput<'_>],
    chosen: &HashSet<FileNumber>,
) -> Result<()> {
    for input in inputs {
        for meta in input.tables().iter().map(|table| table.meta()) {
            if !is_expired(meta.expiry_max_ms, tree.now_ms) {
                return Err(unfit(format!("not all of table {} has expired", meta.number)));
            }
            for (level, runs) in tree.version.levels.iter().enumerate() {
                let older = runs.runs.iter().filter(|run| (level, Reverse(run.id)) > input.age());
                let met = older.flat_map(|run| run.overlapping(&meta.smallest, &meta.largest));
                let mut met = met.map(|table| table.meta().number);
                if let Some(uncovered) = met.find(|number| !chosen.contains(number)) {
                    let what = format!("table {} would uncover table {uncovered}", meta.number);
                    return Err(unfit(what));
                }
            }
        }
    }
    Ok(())
}

/// No table that stays may lie, in age, between an input that it meets and the outputs.
fn check_ages(
    version: &Version,
    plan: &CompactionPlan,
    inputs: &[PlannedInput<'_>],
    chosen: &HashSet<FileNumber>,
) -> Result<()> {
    let output: Age = (plan.output_level, Reverse(plan.output_run));
    for (level, runs) in version.levels.iter().enumerate() {
        for run in &runs.runs {
            let age: Age = (level, Reverse(run.id));
            for input in inputs {
                let (newer, older) = (input.age().min(output), input.age().max(output));
                if age <= newer || age >= older {
                    continue;
                }
                for table in input.tables() {
                    let (smallest, largest) = (&table.meta().smallest, &table.meta().largest);
                    let met = run.overlapping(smallest, largest).iter();
                    let mut passed = met.filter(|met| !chosen.contains(&met.meta().number));
                    if let Some(passed) = passed.next() {
                        let (number, passed) = (table.meta().number, passed.meta().number);
                        return Err(unfit(format!("table {number} would pass table {passed}")));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The outputs must not meet what stays of their run, nor what another compaction writes into it.
fn check_outputs(
    tree: &TreeView<'_>,
    plan: &CompactionPlan,
    inputs: &[PlannedInput<'_>],
    chosen: &HashSet<FileNumber>,
) -> Result<()> {
    let level = plan.output_level;
    let run = tree.version.levels[level].runs.iter().find(|run| run.id == plan.output_run);
    let check = |low: &[u8], high: &[u8]| {
        let met = run.map_or(&[][..], |run| run.overlapping(low, high)).iter();
        if let Some(met) = met.map(|met| met.meta().number).find(|met| !chosen.contains(met)) {
            return Err(unfit(format!("its outputs would overlap table {met}")));
        }
        if tree.is_run_output_busy(level, plan.output_run, low, high) {
            return Err(unfit(format!("another compaction writes there into level {level}")));
        }
        Ok(())
    };
    let metas = || inputs.iter().flat_map(PlannedInput::tables).map(|table| table.meta());
    if plan.action == CompactionAction::Move {
        return metas().try_for_each(|meta| check(&meta.smallest, &meta.largest));
    }
    // One output may reach from the first key to the last.
    let low = metas().map(|meta| &meta.smallest).min();
    let high = metas().map(|meta| &meta.largest).max();
    low.zip(high).map_or(Ok(()), |(low, high)| check(low, high))
}

#[cold]
fn unfit(what: impl fmt::Display) -> Error {
    Error::invalid(format!("the compaction plan does not fit the tree: {what}"))
        .advise("mend the compaction strategy, or choose a built-in one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::{BusyOutput, PlanInput};
    use crate::key::SequenceNumber;
    use crate::options::KeyspaceOptions;
    use crate::version::text;

    const TREE: &str = "
        L0 run 9: 9[a..m]
        L0 run 8: 8[n..z]
        L0 run 7: 7[a..z]
        L5 run 0: 1[a..f] 2[g..m] 3[n..z]
        L6 run 0: 4[a..c] 5[e..h] 6[p..z]";

    fn input(level: usize, run: u64, tables: &[u64]) -> PlanInput {
        let tables = tables.iter().map(|number| FileNumber(*number)).collect();
        PlanInput { level, run: RunId(run), tables }
    }

    fn merge(inputs: Vec<PlanInput>, output_level: usize, output_run: u64) -> CompactionPlan {
        let (action, reason) = (CompactionAction::Merge, CompactionReason::Manual);
        CompactionPlan { action, reason, inputs, output_level, output_run: RunId(output_run) }
    }

    /// Checks the plan while table 2 is busy and something is written into `[i..j]` of level 6.
    fn check(plan: &CompactionPlan) -> String {
        let written = BusyOutput {
            level: 6,
            run: RunId(0),
            smallest: Box::from(*b"i"),
            largest: Box::from(*b"j"),
        };
        let tree = TreeView {
            version: &text::version(TREE),
            options: &KeyspaceOptions::default(),
            busy: &HashSet::from([FileNumber(2)]),
            busy_outputs: &[written],
            oldest_snapshot: SequenceNumber::MAX,
            now_ms: 0,
        };
        tree.check_plan(plan).map_or_else(|error| error.what().to_owned(), |()| "fits".to_owned())
    }

    #[track_caller]
    fn refused(plan: &CompactionPlan, why: &str) {
        assert!(check(plan).contains(why), "{}", check(plan));
    }

    #[test]
    fn plans_that_obey_the_rules_fit() {
        assert_eq!(check(&merge(vec![input(5, 0, &[1]), input(6, 0, &[4, 5])], 6, 0)), "fits");
        assert_eq!(check(&merge(vec![input(5, 0, &[3]), input(6, 0, &[6])], 6, 0)), "fits");
        assert_eq!(check(&merge(vec![input(0, 8, &[8]), input(0, 7, &[7])], 0, 8)), "fits");
        assert_eq!(check(&merge(vec![input(0, 9, &[9]), input(0, 8, &[8])], 0, 9)), "fits");
        let moved = CompactionPlan {
            action: CompactionAction::Move,
            ..merge(vec![input(0, 9, &[9])], 0, 8)
        };
        assert_eq!(check(&moved), "fits", "two runs that meet nothing become one");
    }

    #[test]
    fn plans_that_break_a_rule_are_refused() {
        refused(&merge(vec![], 6, 0), "no inputs");
        refused(&merge(vec![input(4, 0, &[1])], 6, 0), "no run 0 in level 4");
        refused(&merge(vec![input(99, 0, &[1])], 6, 0), "no run 0 in level 99");
        refused(&merge(vec![input(6, 0, &[4, 6])], 6, 0), "not adjacent");
        refused(&merge(vec![input(6, 0, &[6, 7])], 6, 0), "not adjacent");
        refused(&merge(vec![input(6, 0, &[])], 6, 0), "not adjacent");
        refused(&merge(vec![input(5, 0, &[1, 2])], 6, 0), "table 000002 is being compacted");
        refused(&merge(vec![input(6, 0, &[4]), input(6, 0, &[4])], 6, 0), "named twice");
        let backward = vec![input(6, 0, &[4, 5]), input(5, 0, &[1])];
        refused(&merge(backward, 6, 0), "not newest first");
        refused(&merge(vec![input(6, 0, &[4])], 7, 0), "no level 7");
    }

    #[test]
    fn nothing_is_passed() {
        let over_run_7 = merge(vec![input(0, 9, &[9])], 5, 0);
        refused(&over_run_7, "table 000009 would pass table 000007");
        let over_level_5 = merge(vec![input(0, 7, &[7]), input(6, 0, &[4, 5, 6])], 6, 0);
        refused(&over_level_5, "table 000007 would pass table 000001");
        let upwards = merge(vec![input(0, 7, &[7])], 0, 9);
        refused(&upwards, "table 000007 would pass table 000008");
    }

    #[test]
    fn what_is_dropped_as_expired_has_expired_and_uncovers_nothing() {
        const TREE: &str = "
            L0 run 9: 9[a..m]!5-1000 8[p..q]!5-1001
            L0 run 7: 7[c..d]!5-900
            L6 run 0: 1[d..f]";
        let drop = |inputs: Vec<PlanInput>, reason: CompactionReason| {
            let action = CompactionAction::Drop;
            let tree = TreeView {
                version: &text::version(TREE),
                options: &KeyspaceOptions::default(),
                busy: &HashSet::new(),
                busy_outputs: &[],
                oldest_snapshot: SequenceNumber::MAX,
                now_ms: 1000,
            };
            let plan = CompactionPlan { action, reason, ..merge(inputs, 0, 0) };
            tree.check_plan(&plan).map_err(|error| error.what().to_owned())
        };
        let expired = |inputs| drop(inputs, CompactionReason::Expired).unwrap_err();
        let uncovered = expired(vec![input(0, 9, &[9])]);
        assert!(uncovered.contains("table 000009 would uncover table 000007"), "{uncovered}");
        let below = expired(vec![input(0, 9, &[9]), input(0, 7, &[7])]);
        assert!(below.contains("table 000009 would uncover table 000001"), "{below}");
        let early = expired(vec![input(0, 9, &[8])]);
        assert!(early.contains("not all of table 000008 has expired"), "{early}");
        let never = expired(vec![input(6, 0, &[1])]);
        assert!(never.contains("not all of table 000001 has expired"), "{never}");
        assert_eq!(drop(vec![input(0, 9, &[9])], CompactionReason::Age), Ok(()), "fifo may");
    }

    #[test]
    fn outputs_overlap_nothing() {
        refused(&merge(vec![input(5, 0, &[1])], 6, 0), "overlap table 000004");
        let over_5 = vec![input(5, 0, &[1]), input(6, 0, &[4])];
        refused(&merge(over_5, 6, 0), "overlap table 000005");
        let written = merge(vec![input(6, 0, &[5, 6])], 6, 0);
        refused(&written, "another compaction writes there into level 6");
        let other_run = merge(vec![input(6, 0, &[5, 6])], 6, 1);
        assert_eq!(check(&other_run), "fits", "nobody writes into that run");
    }
}
