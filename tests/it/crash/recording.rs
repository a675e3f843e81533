//! Workloads as they are recorded: every moment at which the power can go, with what must be left then.
//!
//! A [`Stage`] is a database on a simulated disk and a history of what was done to it. Before each operation on a file
//! it takes a [`Cut`]: a clone of the disk, and what is known at that moment. Both are taken under the lock of the
//! history, so they fit together with background threads too: what was issued before the clone is in the history as
//! issued, and what the history calls durable was durable before the clone.
//!
//! A stage can die and go on ([`Stage::die`]): then the cuts of its next life are judged by the history of that life,
//! which begins with what the crash left.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::fs::sim_fs::{Persist, SimFs};

use crate::crash::check::{Allowance, AlsoCheck};
use crate::support::{History, Moment, Op, Setup, World, read_contents};

/// A moment before a file operation.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Counted over all lives.
    pub(crate) number: u64,
    /// The disk with everything that was not synced still not synced.
    pub(crate) fs: SimFs,
    pub(crate) moment: Moment,
    /// What the clock said; 0 if it ticks by itself.
    pub(crate) now_ms: u64,
    /// Which history judges it.
    pub(crate) life: usize,
}

/// A workload that was run, and the moments before each of its operations.
pub(crate) struct Recording {
    pub(crate) setup: Setup,
    pub(crate) allowance: Allowance,
    pub(crate) also: Option<AlsoCheck>,
    pub(crate) histories: Vec<History>,
    pub(crate) cuts: Vec<Cut>,
    /// What the file system was asked for, in words.
    pub(crate) operations: Vec<String>,
}

impl Recording {
    /// Opens the database of `world`, which stands on `fs`, and runs `ops`; `before` is told the index of each.
    pub(crate) fn of(world: World, fs: &SimFs, ops: &[Op], before: impl Fn(usize)) -> Self {
        let mut stage = Stage::on(world, fs);
        for (index, op) in ops.iter().enumerate() {
            before(index);
            stage.run(std::slice::from_ref(op));
        }
        stage.finish()
    }
}

/// A workload while it runs.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) fs: SimFs,
    pub(crate) allowance: Allowance,
    /// A check of this workload alone, beside those of every state.
    pub(crate) also: Option<AlsoCheck>,
    cuts: Arc<Mutex<Vec<Cut>>>,
    histories: Vec<History>,
    operations: Vec<String>,
    before_cuts: Hook,
}

/// Called before each cut, on the thread whose operation it is.
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

impl Stage {
    /// Opens a new database.
    pub(crate) fn new(setup: &Setup) -> Self {
        let fs = SimFs::new();
        Stage::on(World::on_sim(setup, &fs), &fs)
    }

    /// Opens the database of `world`, which stands on `fs`.
    pub(crate) fn on(world: World, fs: &SimFs) -> Self {
        let mut stage = Stage {
            world,
            fs: fs.clone(),
            allowance: Allowance::default(),
            also: None,
            cuts: Arc::default(),
            histories: Vec::new(),
            operations: Vec::new(),
            before_cuts: Arc::new(|| ()),
        };
        stage.fs.count_reads(false);
        stage.fs.trace_operations(true);
        stage.observe(0);
        stage.world.open().unwrap();
        stage
    }

    fn cut(fs: &SimFs, history: &History, now_ms: u64, life: usize) -> Cut {
        let fs = fs.kill_clone();
        fs.trace_operations(false);
        Cut { number: 0, fs, moment: history.moment.clone(), now_ms, life }
    }

    fn observe(&self, life: usize) {
        let (cuts, history) = (Arc::clone(&self.cuts), Arc::clone(&self.world.history));
        let (setup, hook) = (self.world.setup.clone(), Arc::clone(&self.before_cuts));
        self.fs.on_operation(move |fs, _| {
            hook();
            let history = history.lock().unwrap();
            let cut = Stage::cut(fs, &history, setup.now_ms(), life);
            cuts.lock().unwrap().push(cut);
        });
    }

    /// Calls `hook` before each cut from now on.
    pub(crate) fn before_cuts(&mut self, hook: Hook) {
        self.before_cuts = hook;
        self.observe(self.histories.len());
    }

    /// Does `ops`, of which none may fail.
    pub(crate) fn run(&mut self, ops: &[Op]) {
        for op in ops {
            self.world.run(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        }
    }

    /// Sets the clock forward.
    pub(crate) fn advance(&self, seconds: u64) {
        let clock = self.world.setup.clock.as_ref().expect("the clock stands still");
        clock.advance(Duration::from_secs(seconds));
    }

    /// Forgets the cuts so far: what came before is the subject of another workload.
    pub(crate) fn only_from_here(&mut self) {
        self.cuts.lock().unwrap().clear();
    }

    fn end_life(&mut self) {
        // The end is a moment too. The database is not closed: closing is an operation of its own.
        let history = self.world.history.lock().unwrap().clone();
        let cut = Stage::cut(&self.fs, &history, self.world.setup.now_ms(), self.histories.len());
        self.fs.on_operation(|_, _| {});
        self.cuts.lock().unwrap().push(cut);
        self.histories.push(history);
        self.operations.extend(self.fs.operations());
    }

    /// Cuts the power now and opens what is left; the history goes on from there.
    pub(crate) fn die(&mut self, persist: Persist) {
        let fs = self.fs.crash_clone(persist);
        self.end_life();
        let moment = self.world.moment();
        drop(self.world.db.take());
        self.fs = fs;
        self.world.fs = Arc::new(self.fs.clone());
        let mut history = self.world.history.lock().unwrap().clone();
        // From now on a kill, too, may find no more than what was synced.
        history.moment.logged = history.moment.synced;
        self.world.history = Arc::new(Mutex::new(history));
        // The recovery is judged by what was known before the crash.
        self.observe(self.histories.len() - 1);
        self.world.open().unwrap();
        let found = read_contents(self.world.db()).unwrap();
        let count = self.world.history.lock().unwrap().find_prefix(&found, moment.synced, &moment);
        self.world.truncate(count.unwrap(), &found);
        self.observe(self.histories.len());
    }

    /// What was recorded.
    pub(crate) fn finish(mut self) -> Recording {
        self.end_life();
        let mut cuts = std::mem::take(&mut *self.cuts.lock().unwrap());
        cuts.iter_mut().zip(0..).for_each(|(cut, number)| cut.number = number);
        Recording {
            setup: self.world.setup.clone(),
            allowance: self.allowance,
            also: self.also,
            histories: self.histories,
            cuts,
            operations: self.operations,
        }
    }
}
