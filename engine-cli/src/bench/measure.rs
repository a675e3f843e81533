//! What a workload cost: latencies, processor time, bytes written, memory, space. Read from the clock and from
//! `/proc`.

#![expect(unsafe_code, reason = "getrusage and kill have no safe wrapper in the standard library")]

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in nanoseconds. Two significant digits keep the buckets in the processor's cache.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

impl Latencies {
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 2);
        Latencies(histogram.expect("the bounds are constants in range"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_MAX_NS));
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// The latency that `percent` of the operations did not exceed, in microseconds.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    pub fn max_us(&self) -> u64 {
        (self.0.max() + 500) / 1000
    }
}

/// The process's counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    pub cpu_s: f64,
    /// Bytes that went to the storage layer.
    pub write_bytes: u64,
    /// Bytes that went through write calls.
    pub write_chars: u64,
}

impl Process {
    pub fn now() -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        Process {
            cpu_s: cpu_seconds(),
            write_bytes: field(&io, "write_bytes:"),
            write_chars: field(&io, "wchar:"),
        }
    }
}

fn cpu_seconds() -> f64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: rusage is plain data, all zero bytes are valid, and the kernel fills it in or leaves it alone.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// The number after `name` in a `/proc` file of `name value` lines; 0 if it is not there.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Peaks of resident memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// All, mapped file pages included.
    pub resident: u64,
    /// What the process allocated itself.
    pub anonymous: u64,
}

/// Watches anonymous memory, whose peak the kernel does not keep, from a thread that wakes ten times a second.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

impl Sampler {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, peak) = (stop.clone(), peak.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(status_bytes("RssAnon:"), Ordering::Relaxed);
                    thread::park_timeout(SAMPLE_INTERVAL);
                }
            }
        });
        Sampler { stop, peak, thread }
    }

    /// Stops watching.
    pub fn finish(self) -> Memory {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
        let anonymous = self.peak.load(Ordering::Relaxed).max(status_bytes("RssAnon:"));
        Memory { resident: status_bytes("VmHWM:"), anonymous }
    }
}

fn status_bytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, name) * 1024
}

/// Makes the kernel's peak of resident memory count from here. Where that is not allowed it counts from the start.
pub fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that the files below `dir` take on disk.
pub fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let blocks = entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks());
    blocks.sum::<u64>() * 512
}

/// Ends the process as a crash does.
pub fn kill_self() -> ! {
    // SAFETY: kill takes plain numbers; it ends this process, which is the purpose.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    // The signal may take a moment to be delivered.
    loop {
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_files_are_found() {
        let text = "rchar: 10\nwchar: 200\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(text, "wchar:"), 200);
        assert_eq!(field(text, "write_bytes:"), 4096);
        assert_eq!(field(text, "nothing:"), 0);
        assert_eq!(field("RssAnon:\t    12 kB\n", "RssAnon:"), 12);
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let (mut one, mut two) = (Latencies::new(), Latencies::new());
        one.record(Duration::from_micros(10));
        two.record(Duration::from_millis(1));
        one.merge(&two);
        assert!((9.9..=10.2).contains(&one.percentile_us(50.0)), "{}", one.percentile_us(50.0));
        assert!((990..=1010).contains(&one.max_us()), "{}", one.max_us());
    }

    #[test]
    fn memory_is_measured() {
        let memory = Sampler::start().finish();
        assert!(memory.resident > 0 && memory.anonymous > 0);
    }
}
