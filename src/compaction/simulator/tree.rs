//! A tree of table metadata that grows and is compacted, without a byte of data.
//!
//! [`MetaTree`] is an ordinary [`Version`] with, for each table, what it holds ([`content`]). Plans
//! are run as the engine runs them: shadowed versions go, tombstones go where nothing older lies
//! below, outputs end where the engine's would (`compaction/outputs`). Strategies see real
//! [`TreeView`]s. The simulator drives it through simulated time; the tests of strategies drive it
//! by hand.
//!
//! # Coarse runs
//! A petabyte is 16 million tables of 64 MiB, more than a strategy can look at ten thousand times a
//! second. So a run of more than [`RUN_TABLES_MAX`] tables is held in larger ones. Their bounds lie
//! on a grid of powers of two, the same for all levels, so that tables of neighbouring levels are
//! aligned: large tables that cut across each other would be merged with more than the real small
//! ones are. What is moved at once is larger than in reality; how much is moved in the long run is
//! not.
//!
//! [`content`]: crate::compaction::simulator::content

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::compaction::expired::{self, pick_expired};
use crate::compaction::planned::{PlannedInput, find_inputs};
use crate::compaction::simulator::content::{Classes, Segment, Share, entries, simplify, union};
use crate::compaction::simulator::cost::Costs;
use crate::compaction::simulator::cut::{Cutter, position};
use crate::compaction::{
    BusyOutput, CompactionAction, CompactionPlan, CompactionStrategy, TreeView,
};
use crate::error::Result;
use crate::key::{FileNumber, SequenceNumber};
use crate::options::KeyspaceOptions;
use crate::table::{Table, TableMeta};
use crate::version::{LEVEL_COUNT, RunId, Version};

/// A run of more tables is held in larger ones.
const RUN_TABLES_MAX: u64 = 192;

/// What the entries of a table have in common: sequence numbers, write times and expiry, least and
/// greatest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) sequences: (u64, u64),
    pub(crate) times_ms: (u64, u64),
    /// Both `u64::MAX`: never.
    pub(crate) expiry_ms: (u64, u64),
}

/// A plan that was run, or runs: what it makes, and what that costs.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    pub(crate) plan: CompactionPlan,
    pub(crate) outputs: Vec<Arc<Table>>,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    /// It stands for many smaller plans: it reads a part of a coarse run.
    pub(crate) is_coarse: bool,
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct MetaTree {
    pub(crate) options: KeyspaceOptions,
    pub(crate) costs: Costs,
    pub(crate) classes: Classes,
    pub(crate) version: Version,
    pub(crate) busy: HashSet<FileNumber>,
    pub(crate) busy_outputs: Vec<BusyOutput>,
    pub(crate) oldest_snapshot: SequenceNumber,
    pub(crate) now_ms: u64,
    pub(crate) sequence: u64,
    contents: HashMap<FileNumber, Arc<[Segment]>>,
    next_number: u64,
}

impl MetaTree {
    pub(crate) fn new(options: KeyspaceOptions, costs: Costs, classes: Classes) -> Self {
        MetaTree {
            options,
            costs,
            classes,
            version: Version::empty(),
            busy: HashSet::new(),
            busy_outputs: Vec::new(),
            oldest_snapshot: SequenceNumber::MAX,
            now_ms: 0,
            sequence: 0,
            contents: HashMap::new(),
            next_number: 1,
        }
    }

    pub(crate) fn view(&self) -> TreeView<'_> {
        TreeView {
            version: &self.version,
            options: &self.options,
            busy: &self.busy,
            busy_outputs: &self.busy_outputs,
            oldest_snapshot: self.oldest_snapshot,
            now_ms: self.now_ms,
        }
    }

    /// What is to be done, checked: what has expired goes first, as in the engine.
    pub(crate) fn pick(&self, strategy: &dyn CompactionStrategy) -> Result<Option<CompactionPlan>> {
        let tree = self.view();
        let plan = pick_expired(&tree).or_else(|| strategy.pick(&tree));
        plan.map(|plan| tree.check_plan(&plan).map(|()| plan)).transpose()
    }

    /// When time alone will give something to do, if ever.
    pub(crate) fn due_at_ms(&self, strategy: &dyn CompactionStrategy) -> Option<u64> {
        let tree = self.view();
        let moments = [expired::due_at_ms(&tree), strategy.due_at_ms(&tree)];
        moments.into_iter().flatten().filter(|at_ms| *at_ms > self.now_ms).min()
    }

    /// Adds a run of `segments` to `level`, newer than all that is there, cut as a merge would.
    /// Returns its bytes.
    pub(crate) fn add_run(&mut self, level: usize, segments: Vec<Segment>, origin: Origin) -> u64 {
        let run = RunId(self.next_number);
        let tables = self.cut(segments, level, 0, origin, &[]);
        self.add_tables(level, run, tables)
    }

    /// Adds a flushed table, a run of its own. Returns its bytes.
    pub(crate) fn add_flush(&mut self, segments: Vec<Segment>, origin: Origin) -> u64 {
        let run = RunId(self.next_number);
        let table = self.table(segments, 0, origin);
        self.add_tables(0, run, table.into_iter().collect())
    }

    fn add_tables(&mut self, level: usize, run: RunId, tables: Vec<Arc<Table>>) -> u64 {
        let bytes = tables.iter().map(|table| table.meta().file_bytes).sum();
        let added: Vec<_> = tables.into_iter().map(|table| (level, run, table)).collect();
        self.version =
            self.version.apply(&[], &added).expect("new tables in a new run fit any tree");
        bytes
    }

    /// Marks what `plan` reads and writes as busy, and makes its outputs.
    pub(crate) fn start(&mut self, plan: CompactionPlan) -> Result<Merged> {
        let merged = self.merge(plan)?;
        self.busy.extend(merged.plan.inputs.iter().flat_map(|input| &input.tables));
        self.busy_outputs.push(self.output_range(&merged.plan)?);
        Ok(merged)
    }

    /// Puts the outputs of `merged` in the place of its inputs, and ends what
    /// [`MetaTree::start`] marked, if it did.
    pub(crate) fn finish(&mut self, merged: &Merged) -> Result<()> {
        let plan = &merged.plan;
        if let Ok(range) = self.output_range(plan)
            && let Some(at) = self.busy_outputs.iter().position(|output| *output == range)
        {
            self.busy_outputs.swap_remove(at);
        }
        let removed: Vec<FileNumber> =
            plan.inputs.iter().flat_map(|input| input.tables.iter().copied()).collect();
        let added: Vec<_> = merged
            .outputs
            .iter()
            .map(|table| (plan.output_level, plan.output_run, Arc::clone(table)))
            .collect();
        self.version = self.version.apply(&removed, &added)?;
        for number in &removed {
            self.busy.remove(number);
            if plan.action != CompactionAction::Move {
                self.contents.remove(number);
            }
        }
        Ok(())
    }

    fn output_range(&self, plan: &CompactionPlan) -> Result<BusyOutput> {
        let inputs = find_inputs(plan, &self.version)?;
        let tables = || inputs.iter().flat_map(PlannedInput::tables).map(|table| table.meta());
        Ok(BusyOutput {
            level: plan.output_level,
            run: plan.output_run,
            smallest: tables().map(|meta| meta.smallest.clone()).min().unwrap_or_default(),
            largest: tables().map(|meta| meta.largest.clone()).max().unwrap_or_default(),
        })
    }

    /// The outputs of `plan`, without a change of the tree.
    pub(crate) fn merge(&mut self, plan: CompactionPlan) -> Result<Merged> {
        let version = self.version.clone();
        let inputs = find_inputs(&plan, &version)?;
        let tables: Vec<&Arc<Table>> = inputs.iter().flat_map(PlannedInput::tables).collect();
        if plan.action != CompactionAction::Merge {
            let is_move = plan.action == CompactionAction::Move;
            let outputs = if is_move { tables.into_iter().cloned().collect() } else { Vec::new() };
            return Ok(Merged { plan, outputs, read_bytes: 0, written_bytes: 0, is_coarse: false });
        }
        let origin = common_origin(&tables, self.now_ms);
        let runs: Vec<Vec<Segment>> = inputs
            .iter()
            .map(|input| input.tables().iter().flat_map(|table| self.segments(table)).collect())
            .collect();
        let mut segments = union(&runs);
        if origin.sequences.1 <= self.oldest_snapshot.0 {
            drop_tombstones(&mut segments, &OlderTables::new(&version, &inputs));
        }
        let output_run =
            version.levels[plan.output_level].runs.iter().find(|run| run.id == plan.output_run);
        let below = match version.levels.get(plan.output_level + 1).map(|below| &*below.runs) {
            Some([run]) => &run.tables[..],
            _ => &[],
        };
        let joined_bytes = output_run.map_or(0, |run| run.bytes());
        let outputs = self.cut(segments, plan.output_level, joined_bytes, origin, below);
        let is_coarse = inputs.iter().any(|input| {
            input.tables().len() < input.run.tables.len()
                && input.tables()[0].meta().file_bytes / 4 > self.options.table_bytes
        });
        Ok(Merged {
            plan,
            read_bytes: tables.iter().map(|table| table.meta().file_bytes).sum(),
            written_bytes: outputs.iter().map(|table| table.meta().file_bytes).sum(),
            outputs,
            is_coarse,
        })
    }

    /// What a table holds now. Of one that only its metadata describes: its entries, evenly.
    fn segments(&self, table: &Table) -> Vec<Segment> {
        let meta = table.meta();
        let mut segments = match self.contents.get(&meta.number) {
            Some(content) => content.to_vec(),
            None => vec![self.even_segment(meta)],
        };
        let expired = expired_share(meta, self.now_ms);
        if expired > 0.0 {
            for segment in &mut segments {
                segment.expire(expired);
            }
        }
        segments
    }

    fn even_segment(&self, meta: &TableMeta) -> Segment {
        let (low, high) = (position(&meta.smallest), position(&meta.largest) + 1);
        let width = (high - low) as f64;
        let dead = meta.tombstone_count as f64 / width;
        let live = (meta.entry_count - meta.tombstone_count) as f64 / width;
        let shares = vec![Share { live, dead }; self.classes.len()];
        Segment { low, high, shares: shares.into() }
    }

    /// The expected number of keys that have a value.
    pub(crate) fn live_entries(&self) -> f64 {
        let runs: Vec<Vec<Segment>> = self
            .version
            .levels
            .iter()
            .flat_map(|level| &level.runs)
            .map(|run| run.tables.iter().flat_map(|table| self.segments(table)).collect())
            .collect();
        entries(&union(&runs), &self.classes).live
    }

    /// Cuts `segments` into tables of `level`, next to `joined_bytes` of the run that they join and
    /// over the tables `below`.
    fn cut(
        &mut self,
        segments: Vec<Segment>,
        level: usize,
        joined_bytes: u64,
        origin: Origin,
        below: &[Arc<Table>],
    ) -> Vec<Arc<Table>> {
        let weights: Vec<f64> =
            segments.iter().map(|segment| self.bytes_per_position(segment, level)).collect();
        let total: f64 =
            segments.iter().zip(&weights).map(|(segment, weight)| segment.width() * weight).sum();
        let coarse_bytes = joined_bytes.max(total as u64) / RUN_TABLES_MAX;
        let width = segments.iter().map(Segment::width).sum::<f64>();
        let cutter = if coarse_bytes >= 2 * self.options.table_bytes {
            let positions = (coarse_bytes as f64 / (total / width)).min((1u64 << 62) as f64);
            Cutter::coarse((positions as u64).max(1).next_power_of_two())
        } else {
            Cutter::fine(self.options.table_bytes, below)
        };
        let parts = cutter.cut(segments, &weights);
        parts.into_iter().filter_map(|part| self.table(part, level, origin)).collect()
    }

    fn bytes_per_position(&self, segment: &Segment, level: usize) -> f64 {
        let (density, cost) = (segment.density(&self.classes), self.costs.tables[level]);
        density.live * cost.put + density.dead * cost.delete
    }

    /// The table of `segments`; none if no entry is expected in it.
    fn table(
        &mut self,
        segments: Vec<Segment>,
        level: usize,
        origin: Origin,
    ) -> Option<Arc<Table>> {
        let segments = simplify(segments, &self.classes);
        let sum = entries(&segments, &self.classes);
        let (live, dead) = (sum.live.round() as u64, sum.dead.round() as u64);
        if live + dead == 0 {
            return None;
        }
        let cost = self.costs.tables[level];
        let number = FileNumber(self.next_number);
        self.next_number += 1;
        let key_bytes = self.costs.user.delete;
        let meta = TableMeta {
            number,
            file_bytes: (live as f64 * cost.put + dead as f64 * cost.delete).round() as u64,
            entry_count: live + dead,
            tombstone_count: dead,
            // It has no snapshots that would keep older versions.
            shadowed_count: 0,
            key_bytes: ((live + dead) as f64 * key_bytes) as u64,
            value_bytes: (live as f64 * (self.costs.user.put - key_bytes)) as u64,
            smallest: segments[0].low.to_be_bytes().into(),
            largest: (segments[segments.len() - 1].high - 1).to_be_bytes().into(),
            sequence_min: SequenceNumber(origin.sequences.0),
            sequence_max: SequenceNumber(origin.sequences.1),
            write_time_min_ms: origin.times_ms.0,
            write_time_max_ms: origin.times_ms.1,
            expiry_min_ms: origin.expiry_ms.0,
            expiry_max_ms: origin.expiry_ms.1,
            checksum: 0,
            hidden_entry_count: 0,
        };
        self.contents.insert(number, segments.into());
        Some(Arc::new(Table::new(meta)))
    }
}

/// The share of a table's values that have expired at `now_ms`: expiry times lie evenly between
/// their bounds.
fn expired_share(meta: &TableMeta, now_ms: u64) -> f64 {
    if meta.expiry_max_ms <= now_ms {
        return 1.0;
    }
    if meta.expiry_max_ms == u64::MAX || meta.expiry_min_ms >= now_ms {
        return 0.0;
    }
    (now_ms - meta.expiry_min_ms) as f64 / (meta.expiry_max_ms - meta.expiry_min_ms) as f64
}

/// What the outputs of a merge at `now_ms` have in common; what has expired is none of them.
fn common_origin(tables: &[&Arc<Table>], now_ms: u64) -> Origin {
    let least = |of: fn(&TableMeta) -> u64| tables.iter().map(|t| of(t.meta())).min().unwrap_or(0);
    let most = |of: fn(&TableMeta) -> u64| tables.iter().map(|t| of(t.meta())).max().unwrap_or(0);
    let expiry_max_ms = most(|meta| meta.expiry_max_ms);
    let expiry_min_ms = least(|meta| meta.expiry_min_ms).max(now_ms).min(expiry_max_ms);
    Origin {
        sequences: (least(|meta| meta.sequence_min.0), most(|meta| meta.sequence_max.0)),
        times_ms: (least(|meta| meta.write_time_min_ms), most(|meta| meta.write_time_max_ms)),
        expiry_ms: (expiry_min_ms, expiry_max_ms),
    }
}

/// Takes the tombstones out of segments that lie over nothing older.
fn drop_tombstones(segments: &mut Vec<Segment>, older: &OlderTables<'_>) {
    for segment in segments.iter_mut() {
        if !older.meet(segment.low, segment.high) {
            for share in &mut segment.shares {
                share.dead = 0.0;
            }
        }
    }
    segments.retain(|segment| segment.shares.iter().any(|share| share.live + share.dead > 0.0));
}

/// The runs that are older than the newest input and not among the inputs.
struct OlderTables<'a> {
    runs: Vec<&'a [Arc<Table>]>,
}

impl<'a> OlderTables<'a> {
    fn new(version: &'a Version, inputs: &[PlannedInput<'a>]) -> Self {
        let mut runs: Vec<&[Arc<Table>]> = Vec::new();
        let mut is_older = false;
        for (level, of_level) in version.levels.iter().enumerate().take(LEVEL_COUNT) {
            for run in &of_level.runs {
                let is_input =
                    inputs.iter().any(|input| input.level == level && input.run.id == run.id);
                if is_input {
                    is_older = true;
                } else if is_older {
                    runs.push(&run.tables);
                }
            }
        }
        OlderTables { runs }
    }

    /// Whether a table's key range meets the positions from `low` to before `high`.
    fn meet(&self, low: u64, high: u64) -> bool {
        self.runs.iter().any(|tables| {
            let at = tables.partition_point(|table| position(&table.meta().largest) < low);
            tables.get(at).is_some_and(|table| position(&table.meta().smallest) < high)
        })
    }
}
