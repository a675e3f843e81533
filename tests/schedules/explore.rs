//! Runs a body under many schedules.
//!
//! A failure prints the number of the schedule and the file that it was written to;
//! `ESKER_SCHEDULE=FILE tests/schedules.sh TEST` runs that one schedule again. Choices of the workload come from
//! [`below`], which is part of the schedule.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use super::trust;

/// Changes of priority in a PCT schedule.
const PCT_DEPTH: usize = 3;
/// A schedule that takes more steps does not end.
const STEPS_MAX: usize = 1_000_000;
/// At size full, each test tries schedules for so long at most.
const FULL_TIME_MAX: Duration = Duration::from_secs(90);

/// Runs `body` under random schedules and PCT schedules, half and half; `(quick, ci, full)` says how many in all.
pub(crate) fn explore(
    test: &'static str,
    (quick, ci, full): (u64, u64, u64),
    body: impl Fn() + Send + Sync + 'static,
) {
    let body = Arc::new(body);
    if let Ok(file) = std::env::var("ESKER_SCHEDULE") {
        let scheduler =
            ReplayScheduler::new_from_file(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        run(scheduler, &body, &Arc::default());
        return;
    }
    let count = trust::cases(quick, ci, full).div_ceil(2) as usize;
    let seed = trust::seed();
    let tried = Arc::<AtomicU64>::default();
    let result = catch_unwind(AssertUnwindSafe(|| {
        run(RandomScheduler::new_from_seed(seed, count), &body, &tried);
        run(PctScheduler::new_from_seed(seed, PCT_DEPTH, count), &body, &tried);
    }));
    let tried = tried.load(Ordering::Relaxed);
    trust::report(&format!("schedules::{test}"), tried, result.is_err().into(), &[]);
    println!("{test}: {tried} schedules");
    if let Err(panic) = result {
        eprintln!("{test}: schedule {tried} of seed {seed} failed");
        resume_unwind(panic);
    }
}

fn run<B: Fn() + Send + Sync + 'static>(
    scheduler: impl Scheduler + 'static,
    body: &Arc<B>,
    tried: &Arc<AtomicU64>,
) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    let failed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/schedules/failed");
    std::fs::create_dir_all(&failed).unwrap();
    config.failure_persistence = FailurePersistence::File(Some(failed));
    if trust::Size::get() == trust::Size::Full {
        config.max_time = Some(FULL_TIME_MAX / 2);
    }
    let (body, tried) = (Arc::clone(body), Arc::clone(tried));
    Runner::new(scheduler, config).run(move || {
        tried.fetch_add(1, Ordering::Relaxed);
        body();
    });
}

/// A number below `bound`, by the schedule.
pub(crate) fn below(bound: u64) -> u64 {
    thread_rng().gen_range(0..bound)
}
