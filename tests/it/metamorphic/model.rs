//! What every history is held against: a `BTreeMap` for each keyspace.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use super::list::{Answer, At, Change, End, List, Op, Pair, Range, Step};
use super::{SLOTS, START_MS};
use crate::support::{Key, NAMES};

/// Whether `BTreeMap` accepts the range.
fn is_in_order((low, high): &Range) -> bool {
    match (low, high) {
        (Bound::Excluded(low), Bound::Excluded(high)) => low < high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low <= high,
        _ => true,
    }
}

/// Values, and when they expire.
type Map = BTreeMap<Key, (Vec<u8>, u64)>;

/// What the engine must be like.
pub(super) struct Model {
    default_ttl_s: u64,
    now_ms: u64,
    maps: [Map; NAMES.len()],
    snapshots: [Option<[Map; NAMES.len()]>; SLOTS],
    iters: [Option<VecDeque<Pair>>; SLOTS],
    cursors: [Option<(Vec<Pair>, Option<usize>)>; SLOTS],
}

impl Model {
    fn new(default_ttl_s: u64) -> Self {
        Model {
            default_ttl_s,
            now_ms: START_MS,
            maps: Default::default(),
            snapshots: Default::default(),
            iters: Default::default(),
            cursors: Default::default(),
        }
    }

    pub(super) fn history(list: &List) -> Vec<Answer> {
        let mut model = Model::new(list.default_ttl_s);
        let mut answers: Vec<Answer> = list.ops.iter().map(|op| model.answer(op)).collect();
        answers.push(model.everything());
        answers
    }

    /// What is there, in order; `None` if the slot is empty.
    fn living(&self, at: At, keyspace: usize) -> Option<Vec<Pair>> {
        let map = match at {
            At::Now => &self.maps[keyspace],
            At::Snapshot(slot) => &self.snapshots[slot].as_ref()?[keyspace],
        };
        let living = map.iter().filter(|(_, (_, until_ms))| *until_ms > self.now_ms);
        Some(living.map(|(key, (value, _))| (key.clone(), value.clone())).collect())
    }

    fn within(&self, at: At, keyspace: usize, range: &Range) -> Option<VecDeque<Pair>> {
        let mut pairs = self.living(at, keyspace)?;
        let is_in_order = is_in_order(range);
        pairs.retain(|(key, _)| is_in_order && std::ops::RangeBounds::contains(range, key));
        Some(pairs.into())
    }

    fn write(&mut self, parts: &[(usize, Key, Change)]) {
        for (keyspace, key, change) in parts {
            let ttl_ms = match change {
                Change::Put(_) => 1000 * self.default_ttl_s,
                Change::PutFor(_, ttl_ms) => *ttl_ms,
                Change::Delete => 0,
            };
            let until_ms = if ttl_ms == 0 { u64::MAX } else { self.now_ms + ttl_ms };
            match change {
                Change::Put(value) | Change::PutFor(value, _) => {
                    self.maps[*keyspace].insert(key.clone(), (value.clone(), until_ms));
                }
                Change::Delete => drop(self.maps[*keyspace].remove(key)),
            }
        }
    }

    fn read(&self, op: &Op) -> Option<Answer> {
        Some(match op {
            Op::Get(at, keyspace, key) => {
                let pairs: Map2 = self.living(*at, *keyspace)?.into_iter().collect();
                Answer::Value(pairs.get(key).cloned())
            }
            Op::MultiGet(at, keyspace, keys) => {
                let pairs: Map2 = self.living(*at, *keyspace)?.into_iter().collect();
                Answer::Values(keys.iter().map(|key| pairs.get(key).cloned()).collect())
            }
            Op::Scan(at, keyspace, range, ends) => {
                let mut pairs = self.within(*at, *keyspace, range)?;
                let count = pairs.len() + 1;
                let ends: Vec<End> = ends.iter().copied().cycle().take(count).collect();
                Answer::Steps(take(&mut pairs, &ends))
            }
            Op::Prefix(at, keyspace, prefix, end) => {
                let mut pairs = self.living(*at, *keyspace)?;
                pairs.retain(|(key, _)| key.starts_with(prefix));
                if *end == End::Back {
                    pairs.reverse();
                }
                Answer::Pairs(pairs)
            }
            Op::Walk(at, keyspace, steps) => {
                Answer::Steps(walk(&self.living(*at, *keyspace)?, &mut None, steps))
            }
            _ => unreachable!("not a read"),
        })
    }

    fn answer(&mut self, op: &Op) -> Answer {
        match op {
            Op::Write(_, parts) => self.write(parts),
            Op::OpenIter(slot, at, keyspace, range) => {
                self.iters[*slot] = self.within(*at, *keyspace, range);
            }
            Op::OpenCursor(slot, at, keyspace) => {
                self.cursors[*slot] = self.living(*at, *keyspace).map(|pairs| (pairs, None));
            }
            Op::TakeFromIter(slot, ends) => {
                let Some(pairs) = &mut self.iters[*slot] else { return Answer::Nothing };
                return Answer::Steps(take(pairs, ends));
            }
            Op::MoveCursor(slot, steps) => {
                let Some((pairs, stands)) = &mut self.cursors[*slot] else {
                    return Answer::Nothing;
                };
                return Answer::Steps(walk(pairs, stands, steps));
            }
            Op::Snapshot(slot) => self.snapshots[*slot] = Some(self.maps.clone()),
            Op::Release(slot) => return self.release(*slot..*slot + 1),
            Op::Renew(keyspace) => {
                let answer = self.release(0..SLOTS);
                self.maps[*keyspace].clear();
                return answer;
            }
            Op::PassTime(ms) => {
                (self.iters, self.cursors) = Default::default();
                self.now_ms += ms;
            }
            Op::Reopen => {
                (self.iters, self.cursors) = Default::default();
                return self.release(0..SLOTS);
            }
            Op::Flush | Op::Sync | Op::Compact(..) | Op::Kill | Op::PowerCut(_) => {}
            read => return self.read(read).unwrap_or(Answer::Nothing),
        }
        Answer::Done
    }

    fn release(&mut self, slots: std::ops::Range<usize>) -> Answer {
        let mut all = Vec::new();
        for slot in slots {
            for keyspace in 0..NAMES.len() {
                all.extend(self.living(At::Snapshot(slot), keyspace).unwrap_or_default());
            }
            self.snapshots[slot] = None;
        }
        Answer::Pairs(all)
    }

    fn everything(&mut self) -> Answer {
        let Answer::Pairs(mut all) = self.release(0..SLOTS) else { unreachable!() };
        for _ in 0..2 {
            for keyspace in 0..NAMES.len() {
                all.extend(self.living(At::Now, keyspace).unwrap_or_default());
            }
        }
        Answer::Pairs(all)
    }
}

type Map2 = BTreeMap<Key, Vec<u8>>;

fn take(pairs: &mut VecDeque<Pair>, ends: &[End]) -> Vec<Option<Pair>> {
    let one = |end: &End| match end {
        End::Front => pairs.pop_front(),
        End::Back => pairs.pop_back(),
    };
    ends.iter().map(one).collect()
}

fn walk(pairs: &[Pair], stands: &mut Option<usize>, steps: &[Step]) -> Vec<Option<Pair>> {
    let mut seen = Vec::new();
    for step in steps {
        let at = match (step, *stands) {
            (Step::First, _) | (Step::Next, None) => 0,
            (Step::Last, _) | (Step::Prev, None) => pairs.len().wrapping_sub(1),
            (Step::Seek(key), _) => pairs.partition_point(|pair| pair.0 < *key),
            (Step::SeekForPrev(key), _) => {
                pairs.partition_point(|pair| pair.0 <= *key).wrapping_sub(1)
            }
            (Step::Next, Some(at)) => at + 1,
            (Step::Prev, Some(at)) => at.wrapping_sub(1),
        };
        *stands = (at < pairs.len()).then_some(at);
        seen.push(stands.map(|at| pairs[at].clone()));
    }
    seen
}
