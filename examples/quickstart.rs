//! The first steps: open, write, read, walk, close.
//!
//! `cargo run --example quickstart [DIR]`. Without a directory it uses one of its own and removes it.

use std::path::PathBuf;

use esker::{Db, Durability, WriteOptions};

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> esker::Result<()> {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let own = std::env::temp_dir().join(format!("esker-quickstart-{}", std::process::id()));
    let dir = given.as_ref().unwrap_or(&own);

    // Opening creates the database if the directory is missing or empty.
    let db = Db::open(dir)?;

    // The default survives the death of the process. A `Sync` write survives the loss of power too.
    db.put("apple", "red")?;
    db.put("banana", "yellow")?;
    db.put_with("cherry", "dark red", &WriteOptions::SYNC)?;
    db.put_with("date", "brown", &WriteOptions::with_durability(Durability::Async))?;

    // A value points into the engine's memory and derefs to bytes. An absent key is `None`, not an error.
    if let Some(color) = db.get("banana")? {
        println!("banana: {}", String::from_utf8_lossy(&color));
    }
    db.delete("banana")?;
    assert!(db.get("banana")?.is_none());

    // Keys are ordered by their bytes; ranges and prefixes go both ways.
    for entry in db.range("a".."d") {
        let (key, value) = entry?;
        println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    if let Some(last) = db.iter().next_back() {
        println!("the last key is {}", String::from_utf8_lossy(&last?.0));
    }

    // `sync` makes every earlier write durable at once; `close` reports errors that a drop would hide.
    db.sync()?;
    db.close()?;

    if given.is_none() {
        let _ = std::fs::remove_dir_all(&own);
    }
    Ok(())
}
