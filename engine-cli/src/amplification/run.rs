//! One run: a load under a strategy on a fresh database, measured.
//!
//! One thread writes, and records the time of each operation. Another takes samples. Afterwards compaction comes to
//! rest, and only then space is taken, keys are read at random and everything is scanned, so that all strategies are
//! compared in the shape that they strive for.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use esker::{Db, DbOptions, Keyspace, KeyspaceOptions, Metrics};

use super::line::{Line, Pair, Sample, Total};
use super::load::{Load, Operation, Operations, TTL, WINDOW_S};
use crate::args::{BenchArgs, Global};
use crate::bench::data::{Key, Random, Values};
use crate::bench::measure::Latencies;
use crate::bench::remove_database;
use crate::bench::report::round;
use crate::database::Overrides;
use crate::error::Failure;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
/// Operations between two looks at the clock of a load that keeps a pace.
const PACE_OPERATIONS: u64 = 256;
/// Random gets at the end.
const GETS: u64 = 200_000;
/// The memtable, unless `--mem` says otherwise: small, so that a run of a gigabyte makes a tree with levels.
const MEMTABLE_MIB: u64 = 8;
const MIB: u64 = 1 << 20;

/// A run to be measured.
pub struct Run<'a> {
    args: &'a BenchArgs,
    load: Load,
    pair: Pair,
    dir: PathBuf,
    db: Db,
    keyspace: Keyspace,
}

/// What the writer brings home.
struct Written {
    seconds: f64,
    latencies: Latencies,
}

/// What the samples came to.
#[derive(Default)]
struct Extremes {
    disk_bytes_max: u64,
    runs_max: u64,
    runs_sum: u64,
    count: u64,
}

impl<'a> Run<'a> {
    /// Opens a fresh database for it.
    pub fn new(
        global: &Global,
        args: &'a BenchArgs,
        load: Load,
        strategy: &str,
        dir: &Path,
    ) -> Result<Self, Failure> {
        let dir = dir.join(format!("{}-{strategy}", load.name()));
        remove_database(&dir)?;
        let memtable_bytes = args.mem.unwrap_or(MEMTABLE_MIB).saturating_mul(MIB);
        let mut options = KeyspaceOptions {
            memtable_bytes,
            table_bytes: 4 * memtable_bytes,
            ..KeyspaceOptions::default()
        };
        for (name, value) in strategy_options(strategy, load) {
            options.set(name, &value).map_err(|error| Failure::from(error).at("--strategies"))?;
        }
        let overrides = Overrides::parse(&global.options)?;
        let defaults =
            DbOptions { cache_bytes: args.cache.saturating_mul(MIB), ..DbOptions::default() };
        std::fs::create_dir_all(&dir).map_err(|error| Failure::io("create", &dir, error))?;
        let db = Db::builder()
            .options(overrides.database(defaults)?)
            .default_keyspace(overrides.keyspace(options)?)
            .open(&dir)?;
        let pair = Pair { load: load.name().to_owned(), strategy: strategy.to_owned() };
        let keyspace = db.default_keyspace().clone();
        Ok(Run { args, load, pair, dir, db, keyspace })
    }

    /// Runs it, gives its lines to `emit`, and removes the database.
    pub fn measure(
        self,
        emit: &mut dyn FnMut(&Line) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut operations =
            Operations::new(self.load, self.args.n, self.args.keys, self.args.seed);
        let mut extremes = Extremes::default();
        let done = AtomicBool::new(false);
        let began = Instant::now();
        let written = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let written = self.write(&mut operations);
                done.store(true, Ordering::Release);
                written
            });
            while !done.load(Ordering::Acquire) {
                emit(&Line::Sample(self.sample(began, &mut extremes)))?;
                thread::sleep(SAMPLE_INTERVAL);
            }
            writer.join().expect("the writer does not panic")
        })?;
        let settling = Instant::now();
        self.db.wait_idle()?;
        let settle_seconds = settling.elapsed().as_secs_f64();
        emit(&Line::Sample(self.sample(began, &mut extremes)))?;
        let metrics = self.db.metrics();
        let (blocks_per_get, get_p50us) = self.read(&operations)?;
        let live_bytes = self.scan()?;
        let total = self.total(&written, &metrics, &extremes);
        emit(&Line::Total(Total {
            settle_seconds: round(settle_seconds, 2),
            blocks_per_get: round(blocks_per_get, 3),
            get_p50us: round(get_p50us, 2),
            live_bytes,
            space_amplification: round(metrics.table_bytes as f64 / live_bytes.max(1) as f64, 3),
            ..total
        }))?;
        self.remove()
    }

    fn write(&self, operations: &mut Operations) -> Result<Written, Failure> {
        let mut key = Key::new();
        let mut random = Random::new(self.args.seed ^ 1);
        let mut values = Values::new(self.args.vs as usize, true, &mut random);
        let mut latencies = Latencies::new();
        let pace = self.load.pace(self.args.n);
        let began = Instant::now();
        for at in 0..self.args.n {
            if let Some(pace) = pace.filter(|_| at % PACE_OPERATIONS == 0) {
                let due = Duration::from_secs_f64(at as f64 / pace as f64);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            let operation = operations.next();
            let start = Instant::now();
            match operation {
                Operation::Put(number) => self.keyspace.put(key.set(number), values.next())?,
                Operation::PutExpiring(number) => {
                    self.keyspace.put_with_ttl(key.set(number), values.next(), TTL)?;
                }
                Operation::Delete(number) => self.keyspace.delete(key.set(number))?,
            }
            latencies.record(start.elapsed());
        }
        Ok(Written { seconds: began.elapsed().as_secs_f64(), latencies })
    }

    fn sample(&self, began: Instant, extremes: &mut Extremes) -> Sample {
        let metrics = self.db.metrics();
        let runs = metrics.read_amplification();
        extremes.disk_bytes_max = extremes.disk_bytes_max.max(metrics.disk_bytes);
        extremes.runs_max = extremes.runs_max.max(runs);
        extremes.runs_sum += runs;
        extremes.count += 1;
        Sample {
            pair: self.pair.clone(),
            seconds: round(began.elapsed().as_secs_f64(), 2),
            user_bytes: metrics.user_bytes_written,
            written_bytes: written_bytes(&metrics),
            disk_bytes: metrics.disk_bytes,
            table_bytes: metrics.table_bytes,
            runs,
            stall_ms: round(stall_ms(&metrics), 1),
        }
    }

    /// Gets keys at random: blocks for each, and the median time in microseconds.
    fn read(&self, operations: &Operations) -> Result<(f64, f64), Failure> {
        let before = self.db.metrics();
        let mut key = Key::new();
        let mut random = Random::new(self.args.seed ^ 2);
        let mut latencies = Latencies::new();
        for _ in 0..GETS {
            let number = operations.any_key(&mut random, self.args.n);
            let start = Instant::now();
            black_box(self.keyspace.get(key.set(number))?);
            latencies.record(start.elapsed());
        }
        let blocks = self.db.metrics().get_blocks_read - before.get_blocks_read;
        Ok((blocks as f64 / GETS as f64, latencies.percentile_us(50.0)))
    }

    /// The bytes of keys and values that a scan returns.
    fn scan(&self) -> Result<u64, Failure> {
        let mut bytes = 0;
        let mut cursor = self.keyspace.cursor();
        cursor.seek_to_first()?;
        while cursor.valid() {
            bytes += (cursor.key().len() + cursor.value().len()) as u64;
            cursor.next()?;
        }
        Ok(bytes)
    }

    /// What is known before anything is read.
    fn total(&self, written: &Written, metrics: &Metrics, extremes: &Extremes) -> Total {
        let percentile = |percent| round(written.latencies.percentile_us(percent), 2);
        Total {
            pair: self.pair.clone(),
            esker: env!("CARGO_PKG_VERSION").to_owned(),
            operations: self.args.n,
            seconds: round(written.seconds, 3),
            kops: round(self.args.n as f64 / written.seconds.max(1e-9) / 1e3, 1),
            p50us: percentile(50.0),
            p99us: percentile(99.0),
            p999us: percentile(99.9),
            p9999us: percentile(99.99),
            maxus: written.latencies.max_us(),
            settle_seconds: 0.0,
            stall_ms: round(stall_ms(metrics), 1),
            user_bytes: metrics.user_bytes_written,
            wal_bytes: metrics.wal_bytes,
            flush_bytes: metrics.flush_bytes,
            compaction_bytes: metrics.compaction_bytes_written,
            manifest_bytes: metrics.manifest_bytes,
            write_amplification: round(metrics.write_amplification(), 3),
            table_bytes: metrics.table_bytes,
            disk_bytes_max: extremes.disk_bytes_max,
            live_bytes: 0,
            space_amplification: 0.0,
            runs: metrics.read_amplification(),
            runs_max: extremes.runs_max,
            runs_mean: round(extremes.runs_sum as f64 / extremes.count.max(1) as f64, 2),
            blocks_per_get: 0.0,
            get_p50us: 0.0,
        }
    }

    fn remove(self) -> Result<(), Failure> {
        let Run { db, keyspace, dir, .. } = self;
        drop(keyspace);
        db.close()?;
        remove_database(&dir)?;
        std::fs::remove_dir(&dir).map_err(|error| Failure::io("remove", &dir, error))
    }
}

/// Options by which a strategy is fit for the load: bounded ones get its bounds.
fn strategy_options(strategy: &str, load: Load) -> Vec<(&'static str, String)> {
    let mut options = vec![("compaction", strategy.to_owned())];
    if load == Load::TimeSeries {
        match strategy {
            "fifo" => options.push(("age_max_s", TTL.as_secs().to_string())),
            "time_window" => options.push(("window_s", WINDOW_S.to_string())),
            _ => {}
        }
    }
    options
}

fn written_bytes(metrics: &Metrics) -> u64 {
    metrics.wal_bytes
        + metrics.flush_bytes
        + metrics.compaction_bytes_written
        + metrics.manifest_bytes
}

fn stall_ms(metrics: &Metrics) -> f64 {
    metrics.stalls.iter().map(|stall| stall.duration_ns).sum::<u64>() as f64 / 1e6
}
