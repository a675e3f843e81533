//! Loads random keys into a database that is compacted by [`TwoLevel`], and prints its levels and what it cost.
//!
//! `cargo run --release -p user-strategy -- DIRECTORY`

#![allow(clippy::print_stdout, reason = "a program that prints")]

use std::path::PathBuf;
use std::sync::Arc;

use esker::{Compaction, Db, Error, KeyspaceOptions, Result};
use user_strategy::TwoLevel;

const PUTS: u64 = 500_000;
const KEYS: u64 = 250_000;

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or_else(|| Error::invalid("usage: user-strategy DIRECTORY"))?;
    // Registered by every open: the database keeps the strategy's name, not its code.
    let db = Db::builder()
        .strategy(Arc::new(TwoLevel::default()))
        .default_keyspace(KeyspaceOptions {
            compaction: Compaction::Named("two_level".to_owned()),
            memtable_bytes: 4 << 20,
            ..KeyspaceOptions::default()
        })
        .open(dir)?;
    let mut state = 1u64;
    for _ in 0..PUTS {
        // A generator of Knuth's; its upper bits are random enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = (state >> 33) % KEYS;
        db.put(key.to_be_bytes(), [state.to_be_bytes(); 12].concat())?;
    }
    db.flush()?;
    db.wait_idle()?;
    let metrics = db.metrics();
    println!("level  runs  tables       bytes     written");
    for level in metrics.keyspaces[0].levels.iter().filter(|level| level.tables > 0) {
        println!(
            "{:>5} {:>5} {:>7} {:>11} {:>11}",
            level.level, level.runs, level.tables, level.bytes, level.bytes_written
        );
    }
    println!(
        "write amplification {:.1}, space amplification {:.2}, runs {}",
        metrics.write_amplification(),
        metrics.space_amplification(),
        metrics.read_amplification()
    );
    db.close()
}
