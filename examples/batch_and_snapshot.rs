//! Atomic batches and stable views: money moves between accounts while an audit adds it up.
//!
//! `cargo run --example batch_and_snapshot`

use esker::{Db, Error, Result, Snapshot, WriteBatch, WriteOptions};

const ACCOUNTS: u32 = 10;
const OPENING: u64 = 100;

/// Keys that sort as the numbers do: big-endian.
fn account(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

fn amount(stored: &[u8]) -> Result<u64> {
    let bytes =
        <[u8; 8]>::try_from(stored).map_err(|_| Error::invalid("an amount is 8 bytes long"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn balance(db: &Db, number: u32) -> Result<u64> {
    db.get(account(number))?.map_or(Ok(0), |stored| amount(&stored))
}

/// Moves money by one batch: after any crash both accounts changed, or neither.
fn transfer(db: &Db, from: u32, to: u32, sum: u64) -> Result<()> {
    let (source, target) = (balance(db, from)?, balance(db, to)?);
    if from == to || source < sum {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    batch.put(account(from), (source - sum).to_le_bytes());
    batch.put(account(to), (target + sum).to_le_bytes());
    db.write_with(batch, &WriteOptions::SYNC)
}

/// The sum of all accounts at the moment of the snapshot, whatever was written since.
fn total(snapshot: &Snapshot) -> Result<u64> {
    let mut total = 0;
    for entry in snapshot {
        total += amount(&entry?.1)?;
    }
    Ok(total)
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("esker-bank-{}", std::process::id()));
    let db = Db::open(&dir)?;

    let mut opening = WriteBatch::new();
    for number in 0..ACCOUNTS {
        opening.put(account(number), OPENING.to_le_bytes());
    }
    db.write(opening)?;

    let before = db.snapshot();
    for step in 0..20 {
        transfer(&db, step % ACCOUNTS, (step * 7 + 3) % ACCOUNTS, u64::from(step) * 5)?;
        // An audit in the middle sees every transfer whole.
        assert_eq!(total(&db.snapshot())?, u64::from(ACCOUNTS) * OPENING);
    }

    for number in 0..ACCOUNTS {
        let then = before.get(account(number))?.map_or(Ok(0), |stored| amount(&stored))?;
        println!("account {number}: {then} -> {}", balance(&db, number)?);
    }

    // A snapshot keeps old versions alive: let it go when it is no longer read.
    drop(before);
    db.close()?;
    let _ = std::fs::remove_dir_all(&dir);
    Ok(())
}
