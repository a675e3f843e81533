//! Background threads, behind one trait, so that an embedder or a test decides how they run.

use std::fmt;
use std::io;

use crate::sync::thread::{Builder, JoinHandle};

/// How the engine starts its background threads.
pub trait Spawn: Send + Sync + fmt::Debug {
    /// Starts a thread called `name` that runs `body` once. The engine joins it when the database closes.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;
}

/// Threads of the standard library.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdSpawn;

impl Spawn for StdSpawn {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        Builder::new().name(name.to_owned()).spawn(body)
    }
}
