//! Runs a workload: threads, their loops, and the clock around each operation.
//!
//! The operations are split evenly over the threads, which start together at a barrier; what is left over is not
//! done, as in the peers' harness. A thread owns its random numbers, key, value and histogram, so that nothing is
//! shared and nothing is allocated between two operations.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use esker::{Durability, Keyspace, WriteBatch, WriteOptions};

use super::data::{Key, Random, Values, Zipf};
use super::measure::Latencies;
use super::workload::Workload;
use crate::args::BenchArgs;
use crate::database::Opened;
use crate::error::Failure;

/// Puts in one batch of `batchload`.
const BATCH: u64 = 100;

/// What a workload did and how long it took.
pub struct Outcome {
    pub ops: u64,
    pub found: u64,
    pub seconds: f64,
    pub latencies: Latencies,
    /// Puts of the writer beside the readers (`rww`).
    pub background_writes: Option<u64>,
}

impl Outcome {
    /// One operation that took `seconds`.
    pub fn single(seconds: f64, found: u64) -> Self {
        let mut latencies = Latencies::new();
        latencies.record(std::time::Duration::from_secs_f64(seconds));
        Outcome { ops: found.max(1), found, seconds, latencies, background_writes: None }
    }
}

/// A workload with all that its threads share.
pub struct Driver<'a> {
    args: &'a BenchArgs,
    workload: Workload,
    keys: u64,
    zipf: Option<Zipf>,
    /// The next new key of the workloads that insert.
    next_key: AtomicU64,
}

/// What one thread brings home.
struct Share {
    ops: u64,
    found: u64,
    latencies: Latencies,
}

impl<'a> Driver<'a> {
    pub fn new(args: &'a BenchArgs, workload: Workload) -> Self {
        let keys = args.keys.unwrap_or(args.n).max(1);
        let zipf = workload.is_zipfian().then(|| Zipf::new(keys));
        Driver { args, workload, keys, zipf, next_key: AtomicU64::new(keys) }
    }

    /// Runs the workload on an open database.
    pub fn run(&mut self, opened: &Opened) -> Result<Outcome, Failure> {
        if self.workload.is_single() {
            return self.run_single(opened);
        }
        let threads = self.args.threads;
        let barrier = Barrier::new(threads as usize + 1);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let workers = (0..threads).map(|thread| {
                let mut worker = Worker::new(self, opened, thread);
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    worker.run()
                })
            });
            let workers = workers.collect::<Vec<_>>();
            let writer = (self.workload == Workload::Rww).then(|| {
                let mut worker = Worker::new(self, opened, threads);
                let done = &done;
                scope.spawn(move || worker.overwrite_until(done))
            });
            barrier.wait();
            let start = Instant::now();
            let shares =
                workers.into_iter().map(|worker| worker.join().expect("a worker panicked"));
            let shares = shares.collect::<Vec<_>>();
            let seconds = start.elapsed().as_secs_f64();
            done.store(true, Ordering::Relaxed);
            let writes = writer.map(|writer| writer.join().expect("the writer panicked"));
            let mut outcome = Outcome {
                ops: 0,
                found: 0,
                seconds,
                latencies: Latencies::new(),
                background_writes: writes.transpose()?,
            };
            for share in shares {
                let share = share?;
                outcome.ops += share.ops;
                outcome.found += share.found;
                outcome.latencies.merge(&share.latencies);
            }
            Ok(outcome)
        })
    }

    fn run_single(&self, opened: &Opened) -> Result<Outcome, Failure> {
        let start = Instant::now();
        let mut found = 0;
        if self.workload == Workload::ScanAll {
            let mut cursor = opened.keyspace.cursor();
            cursor.seek_to_first()?;
            while cursor.valid() {
                black_box((cursor.key(), cursor.value()));
                found += 1;
                cursor.next()?;
            }
        } else {
            opened.db.flush()?;
            opened.keyspace.compact_range::<Vec<u8>>(..)?;
        }
        Ok(Outcome::single(start.elapsed().as_secs_f64(), found))
    }
}

/// One thread of a workload.
struct Worker<'a> {
    driver: &'a Driver<'a>,
    opened: &'a Opened,
    keyspace: Keyspace,
    thread: u64,
    random: Random,
    key: Key,
    values: Values,
    share: Share,
}

impl<'a> Worker<'a> {
    fn new(driver: &'a Driver<'a>, opened: &'a Opened, thread: u64) -> Self {
        let args = driver.args;
        // The same value in every thread; different keys in each.
        let values = Values::new(args.vs as usize, args.vary == 1, &mut Random::new(args.seed));
        // Reads draw other keys than the writes before them: the same ones would all be there, in write order.
        let stream = if driver.workload.only_writes() { 0 } else { 0x5851_f42d_4c95_7f2d };
        let thread_salt = (thread + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mut seeds = Random::new(args.seed ^ thread_salt ^ stream);
        Worker {
            driver,
            opened,
            keyspace: opened.keyspace.clone(),
            thread,
            random: Random::new(seeds.next()),
            key: Key::new(),
            values,
            share: Share { ops: 0, found: 0, latencies: Latencies::new() },
        }
    }

    fn run(&mut self) -> Result<Share, Failure> {
        let ops = self.driver.args.n / self.driver.args.threads;
        match self.driver.workload {
            Workload::FillSeq => self.fill_sequential(ops)?,
            Workload::FillRandom | Workload::Overwrite => {
                self.each(ops, |worker| worker.put_random(WriteOptions::default()))?;
            }
            Workload::FillSync => {
                let options = WriteOptions::with_durability(Durability::Sync);
                self.each(ops, |worker| worker.put_random(options))?;
            }
            Workload::BatchLoad => self.batch_load(ops)?,
            Workload::ReadRandom | Workload::Rww => self.each(ops, Worker::get_random)?,
            Workload::ReadMissing => self.each(ops, Worker::get_missing)?,
            Workload::ReadZipf | Workload::YcsbC => self.each(ops, Worker::get_zipf)?,
            Workload::SeekScan => self.each(ops, Worker::seek_scan)?,
            Workload::RevScan => self.each(ops, Worker::reverse_scan)?,
            Workload::Mixed | Workload::YcsbA => {
                self.mix(ops, 50, Worker::get_zipf, Worker::put_zipf)?;
            }
            Workload::YcsbB => self.mix(ops, 95, Worker::get_zipf, Worker::put_zipf)?,
            Workload::YcsbD => self.mix(ops, 95, Worker::get_latest, Worker::insert)?,
            Workload::YcsbE => self.mix(ops, 95, Worker::scan_zipf, Worker::insert)?,
            Workload::YcsbF => self.mix(ops, 50, Worker::get_zipf, Worker::read_modify_write)?,
            Workload::ScanAll | Workload::Compact | Workload::Open | Workload::Amplification => {
                unreachable!("{:?} is not run by threads of ours", self.driver.workload)
            }
        }
        Ok(std::mem::replace(
            &mut self.share,
            Share { ops: 0, found: 0, latencies: Latencies::new() },
        ))
    }

    /// Does `op` so many times. `op` measures itself, so that drawing its key is not part of it.
    fn each(
        &mut self,
        ops: u64,
        op: impl Fn(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        (0..ops).try_for_each(|_| op(self))
    }

    /// Does `first` in so many per cent of the operations, else `second`.
    fn mix(
        &mut self,
        ops: u64,
        percent: u64,
        first: impl Fn(&mut Self) -> Result<(), Failure>,
        second: impl Fn(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.each(ops, |worker| {
            if worker.random.below(100) < percent { first(worker) } else { second(worker) }
        })
    }

    fn fill_sequential(&mut self, ops: u64) -> Result<(), Failure> {
        let first = self.thread * ops;
        let options = WriteOptions::default();
        (first..first + ops).try_for_each(|number| self.put(number, options))
    }

    fn put_random(&mut self, options: WriteOptions) -> Result<(), Failure> {
        let number = self.random.below(self.driver.keys);
        self.put(number, options)
    }

    fn put_zipf(&mut self) -> Result<(), Failure> {
        let number = self.zipf().scrambled(&mut self.random);
        self.put(number, WriteOptions::default())
    }

    fn insert(&mut self) -> Result<(), Failure> {
        let number = self.driver.next_key.fetch_add(1, Ordering::Relaxed);
        self.put(number, WriteOptions::default())
    }

    fn put(&mut self, number: u64, options: WriteOptions) -> Result<(), Failure> {
        let (key, value) = (self.key.set(number), self.values.next());
        let start = Instant::now();
        self.keyspace.put_with(key, value, &options)?;
        self.share.latencies.record(start.elapsed());
        self.share.ops += 1;
        Ok(())
    }

    fn batch_load(&mut self, ops: u64) -> Result<(), Failure> {
        let mut left = ops;
        while left > 0 {
            let size = left.min(BATCH);
            let start = Instant::now();
            let mut batch = WriteBatch::new();
            for _ in 0..size {
                let key = self.key.set(self.random.below(self.driver.keys));
                batch.put_in(&self.keyspace, key, self.values.next());
            }
            self.opened.db.write(batch)?;
            self.share.latencies.record(start.elapsed());
            self.share.ops += size;
            left -= size;
        }
        Ok(())
    }

    fn get_random(&mut self) -> Result<(), Failure> {
        let number = self.random.below(self.driver.keys);
        self.key.set(number);
        self.get()
    }

    fn get_missing(&mut self) -> Result<(), Failure> {
        let number = self.random.below(self.driver.keys);
        self.key.set_absent(number);
        self.get()
    }

    fn get_zipf(&mut self) -> Result<(), Failure> {
        let number = self.zipf().scrambled(&mut self.random);
        self.key.set(number);
        self.get()
    }

    fn get_latest(&mut self) -> Result<(), Failure> {
        let newest = self.driver.next_key.load(Ordering::Relaxed) - 1;
        let number = newest - self.zipf().rank(&mut self.random);
        self.key.set(number);
        self.get()
    }

    /// Gets the key that was set last.
    fn get(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let value = self.keyspace.get(self.key.bytes())?;
        self.share.latencies.record(start.elapsed());
        self.share.found += u64::from(black_box(value).is_some());
        self.share.ops += 1;
        Ok(())
    }

    fn read_modify_write(&mut self) -> Result<(), Failure> {
        let number = self.zipf().scrambled(&mut self.random);
        let (key, value) = (self.key.set(number), self.values.next());
        let start = Instant::now();
        let old = self.keyspace.get(key)?;
        self.keyspace.put(key, value)?;
        self.share.latencies.record(start.elapsed());
        self.share.found += u64::from(old.is_some());
        self.share.ops += 1;
        Ok(())
    }

    fn scan_zipf(&mut self) -> Result<(), Failure> {
        let number = self.zipf().scrambled(&mut self.random);
        let len = 1 + self.random.below(self.driver.args.len.max(1));
        self.scan(number, len)
    }

    fn seek_scan(&mut self) -> Result<(), Failure> {
        let number = self.random.below(self.driver.keys);
        self.scan(number, self.driver.args.len)
    }

    fn scan(&mut self, number: u64, len: u64) -> Result<(), Failure> {
        let key = self.key.set(number);
        let start = Instant::now();
        let mut cursor = self.keyspace.cursor();
        cursor.seek(key)?;
        let mut left = len;
        while left > 0 && cursor.valid() {
            black_box((cursor.key(), cursor.value()));
            left -= 1;
            if left > 0 {
                cursor.next()?;
            }
        }
        self.finish_scan(start, len - left);
        Ok(())
    }

    fn reverse_scan(&mut self) -> Result<(), Failure> {
        let number = self.random.below(self.driver.keys);
        let len = self.driver.args.len;
        let key = self.key.set(number);
        let start = Instant::now();
        let mut cursor = self.keyspace.cursor();
        cursor.seek_for_prev(key)?;
        let mut left = len;
        while left > 0 && cursor.valid() {
            black_box((cursor.key(), cursor.value()));
            left -= 1;
            if left > 0 {
                cursor.prev()?;
            }
        }
        self.finish_scan(start, len - left);
        Ok(())
    }

    fn finish_scan(&mut self, start: Instant, found: u64) {
        self.share.latencies.record(start.elapsed());
        self.share.found += found;
        self.share.ops += 1;
    }

    /// Puts random keys until the readers are done; returns how many.
    fn overwrite_until(&mut self, done: &AtomicBool) -> Result<u64, Failure> {
        let options = WriteOptions::default();
        while !done.load(Ordering::Relaxed) {
            self.put_random(options)?;
        }
        Ok(self.share.ops)
    }

    fn zipf(&self) -> &'a Zipf {
        self.driver.zipf.as_ref().expect("zipfian workloads have their distribution")
    }
}
