//! Stalls as events: when writers of a keyspace begin to be slowed, and when that ends.
//!
//! A stall is a state, not a wait: it begins when the pressure rises above 0 or a writer first finds all memtables
//! full, and ends when the pressure is 0 again or the last such writer went on. So events come in pairs however many
//! writers there are.
//!
//! # Locks
//! The watch is a leaf but for the throttle's lock and the queue of events. Whoever changes the pressure holds it from
//! before he looks at the tree: else a thread that looked earlier could have the last word, and slow writers for a tree
//! that is long in shape.

use std::sync::Arc;
use std::time::Duration;

use crate::compaction::pressure::Load;
use crate::event::{Event, Listeners, StallBegin, StallCause, StallEnd};
use crate::sync::{Mutex, MutexGuard};

/// What a keyspace's writers wait for.
#[derive(Debug)]
pub(crate) struct StallWatch {
    keyspace: Arc<str>,
    state: Mutex<StallState>,
}

/// What the watch's lock protects.
#[derive(Debug, Default)]
pub(crate) struct StallState {
    pressed: Option<Stall>,
    /// Writers that wait for a memtable.
    waiting_count: usize,
    memtables: Option<Stall>,
}

#[derive(Clone, Copy, Debug)]
struct Stall {
    cause: StallCause,
    since_ns: u64,
    pressure_max: f64,
}

impl StallWatch {
    pub(crate) fn new(keyspace: &Arc<str>) -> Self {
        StallWatch { keyspace: Arc::clone(keyspace), state: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, StallState> {
        self.state.lock()
    }

    /// Notes what follows from a new `load`, or none.
    pub(crate) fn note_load(
        &self,
        state: &mut StallState,
        load: Option<Load>,
        now_ns: u64,
        listeners: &Listeners,
    ) {
        let pressure = load.map_or(0.0, Load::pressure);
        match &mut state.pressed {
            Some(stall) if pressure > 0.0 => stall.pressure_max = stall.pressure_max.max(pressure),
            Some(stall) => {
                self.note_end(*stall, now_ns, listeners);
                state.pressed = None;
            }
            None if pressure > 0.0 => {
                let by_debt = load.is_some_and(|load| load.debt_pressure() >= pressure);
                let cause =
                    if by_debt { StallCause::CompactionDebt } else { StallCause::Level0Runs };
                state.pressed = Some(self.note_begin(cause, pressure, now_ns, listeners));
            }
            None => {}
        }
    }

    /// A writer begins to wait for a memtable.
    pub(crate) fn note_wait(&self, now_ns: u64, listeners: &Listeners) {
        let mut state = self.lock();
        state.waiting_count += 1;
        if state.waiting_count == 1 {
            state.memtables = Some(self.note_begin(StallCause::Memtables, 1.0, now_ns, listeners));
        }
    }

    /// A writer waits no longer.
    pub(crate) fn note_waited(&self, now_ns: u64, listeners: &Listeners) {
        let mut state = self.lock();
        state.waiting_count -= 1;
        if state.waiting_count == 0
            && let Some(stall) = state.memtables.take()
        {
            self.note_end(stall, now_ns, listeners);
        }
    }

    fn note_begin(
        &self,
        cause: StallCause,
        pressure: f64,
        now_ns: u64,
        listeners: &Listeners,
    ) -> Stall {
        let keyspace = || Arc::clone(&self.keyspace);
        listeners.note(|| Event::StallBegin(StallBegin { keyspace: keyspace(), cause, pressure }));
        Stall { cause, since_ns: now_ns, pressure_max: pressure }
    }

    fn note_end(&self, stall: Stall, now_ns: u64, listeners: &Listeners) {
        let keyspace = || Arc::clone(&self.keyspace);
        let duration = Duration::from_nanos(now_ns.saturating_sub(stall.since_ns));
        let Stall { cause, pressure_max, .. } = stall;
        listeners.note(|| {
            Event::StallEnd(StallEnd { keyspace: keyspace(), cause, pressure_max, duration })
        });
    }
}
