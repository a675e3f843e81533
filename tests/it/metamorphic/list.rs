//! The operations of the metamorphic test, their answers, and how lists of them are drawn.

use std::ops::Bound;

use esker::Durability;
use esker::fs::sim_fs::Persist;

use super::{LIST_LEN, SLOTS};
use crate::support::{Generator, Key, NAMES};

pub(super) type Range = (Bound<Key>, Bound<Key>);
pub(super) type Pair = (Key, Vec<u8>);

/// What a write does to a key.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Vec<u8>),
    /// With the milliseconds that it lives.
    PutFor(Vec<u8>, u64),
    Delete,
}

/// Where a read reads: now, or in the snapshot of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    Now,
    Snapshot(usize),
}

/// A move of a cursor.
#[derive(Clone, Debug)]
pub(super) enum Step {
    First,
    Last,
    Seek(Key),
    SeekForPrev(Key),
    /// From nowhere, as `First`.
    Next,
    /// From nowhere, as `Last`.
    Prev,
}

/// The end that an iterator takes from next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Front,
    Back,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(Durability, Vec<(usize, Key, Change)>),
    Get(At, usize, Key),
    MultiGet(At, usize, Vec<Key>),
    /// Everything in the range; the ends follow one another as listed, again and again.
    Scan(At, usize, Range, Vec<End>),
    Prefix(At, usize, Key, End),
    Walk(At, usize, Vec<Step>),
    OpenIter(usize, At, usize, Range),
    TakeFromIter(usize, Vec<End>),
    OpenCursor(usize, At, usize),
    MoveCursor(usize, Vec<Step>),
    Snapshot(usize),
    /// Reads everything in the snapshot and lets go of it.
    Release(usize),
    Flush,
    Sync,
    Compact(usize, Range),
    /// Drops the keyspace and makes it anew; snapshots are released before.
    Renew(usize),
    /// Held iterators and cursors are dropped before: which of their entries they judge by the old time is not
    /// promised.
    PassTime(u64),
    /// Snapshots are released before, and held iterators and cursors dropped: a closed database pins no files any more.
    Reopen,
    Kill,
    PowerCut(Persist),
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Done,
    /// The slot was empty.
    Nothing,
    Value(Option<Vec<u8>>),
    Values(Vec<Option<Vec<u8>>>),
    Pairs(Vec<Pair>),
    /// Of each move: where the cursor or iterator stood then.
    Steps(Vec<Option<Pair>>),
    Failed(String),
}

/// A list of operations, and what it says of expiry by default.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) ops: Vec<Op>,
    pub(super) default_ttl_s: u64,
}

/// Draws lists.
struct Draw {
    generator: Generator,
    default_ttl_s: u64,
}

impl List {
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut generator = Generator::new(seed ^ 0x6d65_7461, NAMES.len() as u64, &[]);
        generator.keys = generator.rng.pick(&[12, 40, 80, 200]);
        let default_ttl_s = generator.rng.pick(&[0, 0, 0, 30]);
        let mut draw = Draw { generator, default_ttl_s };
        let ops = (0..LIST_LEN).map(|_| draw.op()).collect();
        List { ops, default_ttl_s: draw.default_ttl_s }
    }
}

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.generator.rng.below(bound)
    }

    fn key(&mut self) -> Key {
        self.generator.key()
    }

    fn keyspace(&mut self) -> usize {
        // Most happens in the first, so that its tree has a shape.
        self.below(6).saturating_sub(3) as usize
    }

    fn slot(&mut self) -> usize {
        self.below(SLOTS as u64) as usize
    }

    fn at(&mut self) -> At {
        if self.below(3) == 0 { At::Snapshot(self.slot()) } else { At::Now }
    }

    fn range(&mut self) -> Range {
        let low = self.bound();
        (low, self.bound())
    }

    fn bound(&mut self) -> Bound<Key> {
        match self.below(4) {
            0 => Bound::Unbounded,
            1 => Bound::Excluded(self.key()),
            _ => Bound::Included(self.key()),
        }
    }

    fn ends(&mut self) -> Vec<End> {
        match self.below(4) {
            0 => vec![End::Front],
            1 => vec![End::Back],
            _ => {
                let count = 2 + self.below(9);
                let ends = [End::Front, End::Back];
                (0..count).map(|_| self.generator.rng.pick(&ends)).collect()
            }
        }
    }

    /// A walk that goes on in one direction for a while, then turns round or jumps.
    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..2 + self.below(4) {
            match self.below(6) {
                0 => steps.push(Step::First),
                1 => steps.push(Step::Last),
                2 | 3 => steps.push(Step::Seek(self.key())),
                4 => steps.push(Step::SeekForPrev(self.key())),
                _ => {}
            }
            for _ in 0..=self.below(2) {
                let step = if self.below(2) == 0 { Step::Next } else { Step::Prev };
                let count = 1 + self.below(6) as usize;
                steps.extend(std::iter::repeat_n(step, count));
            }
        }
        steps
    }

    fn change(&mut self) -> Change {
        match self.below(10) {
            0..2 => Change::Delete,
            2 => Change::PutFor(self.generator.value(), 1 + self.below(60_000)),
            _ => Change::Put(self.generator.value()),
        }
    }

    fn write(&mut self) -> Op {
        let count = if self.below(4) == 0 { 2 + self.below(8) } else { 1 };
        let parts = (0..count).map(|_| (self.keyspace(), self.key(), self.change())).collect();
        let durabilities = [
            Durability::Buffered,
            Durability::Buffered,
            Durability::Buffered,
            Durability::Sync,
            Durability::Async,
            Durability::Disabled,
        ];
        Op::Write(self.generator.rng.pick(&durabilities), parts)
    }

    fn op(&mut self) -> Op {
        match self.below(200) {
            0..10 => Op::Get(self.at(), self.keyspace(), self.key()),
            10..16 => {
                let count = 1 + self.below(8);
                let keys = (0..count).map(|_| self.key()).collect();
                Op::MultiGet(self.at(), self.keyspace(), keys)
            }
            16..26 => Op::Scan(self.at(), self.keyspace(), self.range(), self.ends()),
            26..30 => {
                let key = self.key();
                let bytes = self.below(key.len() as u64 + 1) as usize;
                let end = self.generator.rng.pick(&[End::Front, End::Back]);
                Op::Prefix(self.at(), self.keyspace(), key[..bytes].to_vec(), end)
            }
            30..36 => Op::Walk(self.at(), self.keyspace(), self.steps()),
            36..40 => Op::OpenIter(self.slot(), self.at(), self.keyspace(), self.range()),
            40..50 => Op::TakeFromIter(self.slot(), self.ends()),
            50..54 => Op::OpenCursor(self.slot(), self.at(), self.keyspace()),
            54..64 => Op::MoveCursor(self.slot(), self.steps()),
            64..70 => Op::Snapshot(self.slot()),
            70..72 => Op::Release(self.slot()),
            72..75 => Op::Flush,
            75..77 => Op::Sync,
            77..80 => self.compact(),
            80 => Op::Renew(self.keyspace()),
            81..83 => Op::PassTime(1 + self.below(40_000)),
            83 => Op::Reopen,
            84 => Op::Kill,
            85 => {
                let seed = self.generator.rng.next();
                let random = Persist::Random { percent: 50, seed };
                Op::PowerCut(self.generator.rng.pick(&[Persist::Nothing, random]))
            }
            _ => self.write(),
        }
    }

    fn compact(&mut self) -> Op {
        let at = self.keyspace();
        let (a, b) = (self.key(), self.key());
        let part = (Bound::Included(a.clone().min(b.clone())), Bound::Included(a.max(b)));
        let all = (Bound::Unbounded, Bound::Unbounded);
        Op::Compact(at, self.generator.rng.pick(&[all, part]))
    }
}
