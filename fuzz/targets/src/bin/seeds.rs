//! Writes the seeds of all targets below `fuzz/seeds`. What lies there under other names stays.

#![expect(
    clippy::disallowed_methods,
    reason = "seeds are files of the repository's, not of an engine's"
)]

use std::fs;
use std::io;
use std::path::Path;

use esker_fuzz_targets::{TARGETS, seeds};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for target in &TARGETS {
        let dir = root.join(target.name);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in seeds::of(target.name) {
            fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(())
}
