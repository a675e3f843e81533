//! The handle behind every public handle: it keeps the database open and closes it when the last one is dropped.

use std::sync::Arc;

use crate::db::close;
use crate::db::state::Inner;
use crate::error::Result;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::sync::thread::JoinHandle;

/// Keeps a database open. Shared by [`Db`](crate::Db), [`Keyspace`](crate::Keyspace) and
/// [`Snapshot`](crate::Snapshot).
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Handle {
    pub(crate) fn new(inner: Arc<Inner>, threads: Vec<JoinHandle<()>>) -> Arc<Self> {
        Arc::new(Handle { inner, threads: Mutex::new(threads) })
    }

    /// Closes the database for every handle: finishes running work, makes the log durable, releases the lock. A second
    /// call does nothing.
    pub(crate) fn close(&self) -> Result<()> {
        // Held to the end: a second caller returns when the database is closed, not before.
        let mut threads = self.threads.lock();
        if self.inner.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.work.lock().shutdown = true;
        self.inner.wake_all();
        let mut panicked = false;
        for thread in threads.drain(..) {
            panicked |= thread.join().is_err();
        }
        // Calls of the user's run jobs too.
        self.inner.work.wait_jobs_ended();
        let result = close::close(&self.inner);
        if let Some(recorder) = &self.inner.read.recorder {
            recorder.close();
        }
        // From here on the files may be another opener's: nothing changes the tree any more.
        self.inner.tree.lock().manifest = None;
        *self.inner.lock.lock() = None;
        drop(threads);
        if result.is_err() {
            self.inner.tell_failure();
        }
        self.inner.listeners.end();
        assert!(!panicked, "a background thread panicked: an invariant of the engine is broken");
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Do as little as possible: what was acknowledged is on disk, and the next open recovers it.
            self.inner.closed.store(true, Ordering::SeqCst);
            self.inner.work.lock().shutdown = true;
            self.inner.wake_all();
            for thread in self.threads.lock().drain(..) {
                let _ = thread.join();
            }
            return;
        }
        // Nobody is there to hear an error; close() is for those who want to know.
        let _ = self.close();
    }
}
