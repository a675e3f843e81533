//! Directories of tests: in memory where the machine has such a file system, gone when the test is done, kept when it
//! has failed.
//!
//! The name holds the id of the process, so that what a killed run left is known as such and removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &str = "esker-kernel-";

/// A directory of its own.
pub struct Place {
    path: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        SWEPT.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root().join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Place { path }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The database's directory; nothing makes it but the program.
    pub fn db(&self) -> PathBuf {
        self.file("db")
    }

    /// What a failure says about the directory, which is kept: `what` and where to look.
    pub fn keep(self, what: &str) -> String {
        let kept = kept_path();
        let place = if fs::rename(&self.path, &kept).is_ok() { &kept } else { &self.path };
        let text = format!("{what}\n  kept: {}", place.display());
        std::mem::forget(self);
        text
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A path beside the places that no sweep removes.
pub fn kept_path() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    root().join(format!("esker-failed-{}-{number}", std::process::id()))
}

/// Copies the files of one directory into another, which must not exist.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() }
}

/// Removes the places of processes that are gone.
fn sweep() {
    for entry in fs::read_dir(root()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let process = rest.split('-').next().unwrap_or_default();
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
