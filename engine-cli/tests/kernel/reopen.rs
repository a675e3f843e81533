//! Opens a database after something bad has happened to it, and looks at all of it.

use std::fs;
use std::path::Path;
use std::vec;

use serde_json::Value;

use crate::dice::Dice;
use crate::shell::{Shell, program};
use crate::workload::{KEYSPACES, State, key};

/// How many single reads each look makes, of keys that are there and of such that are not.
const GETS: u64 = 8;

/// The content of the database in `db`: forwards, backwards and key by key, which must agree. The database is closed
/// again, cleanly.
pub fn read_state(db: &Path, options: &[String], dice: &mut Dice) -> Result<State, String> {
    let keys = (0..GETS).map(|_| key(dice.below(80))).collect::<Vec<_>>();
    let mut text = String::new();
    for keyspace in KEYSPACES {
        text.extend(["keyspace ", keyspace, "\nscan . . 1000000\nrscan . . 1000000\n"]);
        text.extend(keys.iter().map(|key| format!("get {key}\n")));
    }
    let mut shell = Shell::on(db, options);
    shell.feed(text + "quit\n", true);
    let ended = shell.end();
    ended.clean().map_err(|what| format!("cannot read it: {what}, {:?}", last(&ended.answers)))?;
    let mut state = State::new();
    let mut lines = ended.answers.into_iter();
    for keyspace in KEYSPACES {
        expect_line(&mut lines, "ok")?;
        let forwards = scanned(&mut lines)?;
        let mut backwards = scanned(&mut lines)?;
        backwards.reverse();
        if forwards != backwards {
            return Err(format!("scan and rscan of {keyspace} differ"));
        }
        state.extend(forwards.into_iter().map(|(key, value)| ((keyspace, key), value)));
        for key in &keys {
            let expected = state.get(&(keyspace, key.clone()));
            let expected = expected.map_or("-".to_owned(), |value| format!("= {value}"));
            expect_line(&mut lines, &expected).map_err(|what| format!("get {key}: {what}"))?;
        }
    }
    Ok(state)
}

fn last(answers: &[String]) -> Option<&String> {
    answers.iter().rfind(|line| !line.starts_with("= "))
}

fn expect_line(lines: &mut vec::IntoIter<String>, expected: &str) -> Result<(), String> {
    let line = lines.next().unwrap_or_default();
    if line == expected { Ok(()) } else { Err(format!("{expected:?} expected, {line:?} found")) }
}

/// The lines of one scan.
pub fn scanned(lines: &mut vec::IntoIter<String>) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    for line in lines {
        if let Some((key, value)) = line.strip_prefix("= ").and_then(|rest| rest.split_once(' ')) {
            entries.push((key.to_owned(), value.to_owned()));
            continue;
        }
        let is_end = line == format!("end {}", entries.len());
        return if is_end { Ok(entries) } else { Err(format!("a scan answered {line:?}")) };
    }
    Err("a scan without an end".to_owned())
}

/// Every byte of every file is right, says the program.
pub fn verify(db: &Path) -> Result<(), String> {
    let output = program().arg("--db").arg(db).arg("verify").output().unwrap();
    if output.status.code() == Some(0) { Ok(()) } else { Err(format!("verify: {output:?}")) }
}

/// Flushes and closes the database; afterwards no file may be there that nothing needs.
pub fn check_no_waste(db: &Path) -> Result<(), String> {
    // Without background threads all work is done before the figures are taken.
    let mut shell = Shell::on(db, &["background_threads=0".to_owned()]);
    shell.feed("flush\nstats\nquit\n".to_owned(), true);
    let ended = shell.end();
    ended.clean().map_err(|what| format!("cannot flush it: {what}"))?;
    let stats = ended.answers.get(1).map(String::as_str).unwrap_or_default();
    let stats: Value = serde_json::from_str(stats).map_err(|error| format!("stats: {error}"))?;
    let keyspaces = stats["keyspaces"].as_array().ok_or("stats without keyspaces")?;
    let levels = keyspaces.iter().filter_map(|keyspace| keyspace["levels"].as_array()).flatten();
    let table_count = levels.filter_map(|level| level["tables"].as_u64()).sum::<u64>();
    let names = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap()).collect::<Vec<_>>();
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count() as u64;
    let is_clean = count("MANIFEST-") == 1
        && count(".table") == table_count
        && names.len() as u64 == 3 + table_count;
    if is_clean {
        return Ok(());
    }
    Err(format!("after a close there are {table_count} tables, but the directory holds {names:?}"))
}
