//! Which crash states are made of a recording, and how they are gone through.
//!
//! At each cut the power goes under several models of what survives, and the process dies. Of some states the recovery
//! is recorded in its turn, and cut at each of its operations; of some of those again. A state that was seen before is
//! left out: two are the same if all names and bytes are, seen and durable, and no more writes must be there. So the
//! numbers count distinct states.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use esker::fs::sim_fs::{Persist, SimFs, TornRest};

use crate::crash::check::Judge;
use crate::crash::recording::{Cut, Recording};
use crate::support::{Contents, Rng, difference};

/// How much is made of each cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Models of what survives; at every cut the first, and by turns the others.
    pub(crate) models: usize,
    /// Of how many states in a thousand the recovery is cut.
    pub(crate) nested_permille: u64,
    /// Of how many of those the recovery is cut, in a thousand, and of how many of these.
    pub(crate) deeper_permille: u64,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Hashes of the states.
    pub(crate) distinct: HashSet<u64>,
    pub(crate) cuts: u64,
    pub(crate) kills: u64,
    /// States within a recovery.
    pub(crate) nested: u64,
    /// States within the recovery from those, and deeper.
    pub(crate) deeper: u64,
    pub(crate) repeated: u64,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.distinct.extend(other.distinct);
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.nested += other.nested;
        self.deeper += other.deeper;
        self.repeated += other.repeated;
        self.failures.extend(other.failures);
    }
}

/// How a state came about: the power went, or the process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Power(Persist),
    Process,
}

/// Where a state comes from.
#[derive(Clone, Copy)]
struct Trail<'a> {
    /// The state whose recovery was cut.
    parent: Option<&'a Trail<'a>>,
    operation: u64,
    death: Death,
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parent {
            Some(parent) => {
                write!(f, "{parent}, then at operation {} of recovery", self.operation)?;
            }
            None => write!(f, "at operation {}", self.operation)?,
        }
        match self.death {
            Death::Power(persist) => write!(f, " with {persist:?}"),
            Death::Process => f.write_str(" killed"),
        }
    }
}

/// Several models of what a power cut leaves of `fs`, the most telling first.
pub(crate) fn persists(fs: &SimFs, seed: u64) -> Vec<Persist> {
    let mut rng = Rng::new(seed);
    let unsynced = fs.unsynced_count();
    let torn = |rng: &mut Rng, rest| Persist::Torn { kept_bytes: rng.next() >> 1, rest };
    let random = |rng: &mut Rng, percent| Persist::Random { percent, seed: rng.next() };
    let prefix = |rng: &mut Rng| Persist::Prefix { kept: rng.below(unsynced.max(1)) };
    vec![
        Persist::Nothing,
        Persist::Everything,
        Persist::NamesOnly,
        torn(&mut rng, TornRest::Old),
        random(&mut rng, 50),
        Persist::Prefix { kept: unsynced.saturating_sub(1) },
        torn(&mut rng, TornRest::Zeros),
        Persist::BytesOnly,
        random(&mut rng, 90),
        prefix(&mut rng),
        Persist::NamesAndLengths,
        Persist::AllNamesButOne { index: 0 },
        random(&mut rng, 10),
        prefix(&mut rng),
        random(&mut rng, 70),
        Persist::AllNamesButOne { index: rng.next() >> 1 },
        torn(&mut rng, TornRest::Old),
        random(&mut rng, 30),
        prefix(&mut rng),
        torn(&mut rng, TornRest::Zeros),
    ]
}

/// The first of `list`, and `count - 1` of the others, chosen by turns.
fn by_turns(list: &[Persist], count: usize, turn: u64) -> impl Iterator<Item = Persist> {
    let (first, others) = list.split_first().expect("there are models");
    let (count, len) = ((count - 1).min(others.len()), others.len());
    let start = turn as usize * count % len;
    let chosen = (0..count).map(move |index| others[(start + index) % len]);
    std::iter::once(*first).chain(chosen)
}

/// Goes through the states of one recording.
pub(crate) struct Explorer<'a> {
    recording: &'a Recording,
    effort: Effort,
    seed: u64,
    seen: HashSet<u64>,
    pub(crate) tally: Tally,
}

impl<'a> Explorer<'a> {
    pub(crate) fn new(recording: &'a Recording, effort: Effort, seed: u64) -> Self {
        let (seen, tally) = (HashSet::new(), Tally::default());
        Explorer { recording, effort, seed, seen, tally }
    }

    pub(crate) fn explore(&mut self, cuts: impl Iterator<Item = &'a Cut>) {
        for cut in cuts {
            self.tally.cuts += 1;
            let list = persists(&cut.fs, self.seed ^ (cut.number << 20));
            for persist in by_turns(&list, self.effort.models, cut.number) {
                let judge = Judge::of_crash(self.recording, cut);
                let death = Death::Power(persist);
                let trail = Trail { parent: None, operation: cut.number, death };
                self.visit(judge, &cut.fs.crash_clone(persist), &trail, None);
            }
            let judge = Judge::of_kill(self.recording, cut);
            let trail = Trail { parent: None, operation: cut.number, death: Death::Process };
            self.visit(judge, &cut.fs.kill_clone(), &trail, None);
        }
    }

    /// Whether the state is new.
    fn is_new(&mut self, judge: &Judge<'_>, fs: &SimFs) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (fs.content_hash(), judge.least).hash(&mut hasher);
        let state = hasher.finish();
        // Another life is judged by another history, though the state is the same.
        let moment = &judge.cut.moment;
        (judge.cut.life, &moment.alive, &moment.next_alive).hash(&mut hasher);
        let is_new = self.seen.insert(hasher.finish());
        self.tally.distinct.insert(state);
        is_new.then_some(state)
    }

    /// Checks a state, and perhaps those within its recovery. `expected`: what it must hold, if that is known.
    fn visit(
        &mut self,
        judge: Judge<'_>,
        fs: &SimFs,
        trail: &Trail<'_>,
        expected: Option<&Contents>,
    ) {
        let Some(state) = self.is_new(&judge, fs) else {
            self.tally.repeated += 1;
            return;
        };
        match (trail.parent, trail.death) {
            (None, Death::Process) => self.tally.kills += 1,
            (None, _) => {}
            (Some(parent), _) if parent.parent.is_none() => self.tally.nested += 1,
            (Some(_), _) => self.tally.deeper += 1,
        }
        let checked = catch_unwind(AssertUnwindSafe(|| judge.check(&fs.kill_clone())));
        let found = match checked.unwrap_or_else(|_| Err("a panic, see above".to_owned())) {
            Ok(found) => found,
            Err(what) => return self.tally.failures.push(format!("{trail}: {what}")),
        };
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            let what = difference(expected, &found);
            return self.tally.failures.push(format!("{trail}: recovered anew: {what}"));
        }
        let permille = if trail.parent.is_none() {
            self.effort.nested_permille
        } else {
            self.effort.deeper_permille
        };
        if state % 1000 < permille {
            self.cut_recovery(judge, fs, trail, &found);
        }
    }

    /// Cuts the recovery of a state at each of its operations. After a power loss all that is there is durable, so the
    /// second recovery must find what the first one did.
    fn cut_recovery(&mut self, judge: Judge<'_>, fs: &SimFs, trail: &Trail<'_>, found: &Contents) {
        let inner: Arc<Mutex<Vec<SimFs>>> = Arc::default();
        let (sink, fs) = (Arc::clone(&inner), fs.kill_clone());
        fs.on_operation(move |fs, _| sink.lock().unwrap().push(fs.kill_clone()));
        let db = judge.open(&fs).expect("it was opened before");
        fs.on_operation(|_, _| {});
        drop(db);
        let inner = std::mem::take(&mut *inner.lock().unwrap());
        let expected = matches!(trail.death, Death::Power(_)).then_some(found);
        for (operation, inner) in (0..).zip(&inner) {
            let list = persists(inner, self.seed ^ (operation << 40) ^ fs.op_count());
            for persist in by_turns(&list, self.effort.models.min(6), operation) {
                let trail = Trail { parent: Some(trail), operation, death: Death::Power(persist) };
                let judge = judge.of_crash_within();
                self.visit(judge, &inner.crash_clone(persist), &trail, expected);
            }
            let trail = Trail { parent: Some(trail), operation, death: Death::Process };
            self.visit(judge, &inner.kill_clone(), &trail, expected);
        }
    }
}
