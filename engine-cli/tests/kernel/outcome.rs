//! What must be there when commands failed, but the process did not die of it.
//!
//! A command that answered `ok` is there, whatever failed before or after it. One that answered `err` may be there or
//! not, but whole. After the first `err poisoned` nothing is written any more.

use std::collections::BTreeMap;

use crate::workload::{Edit, KEYSPACES, Op, State};

type Key = (&'static str, String);

/// What a key may have, the last certain value first.
type Allowed = BTreeMap<Key, Vec<Option<String>>>;

/// Compares `found` with what `ops` did to `base` as far as `answers` say.
pub fn check(base: &State, ops: &[Op], answers: &[String], found: &State) -> Result<(), String> {
    check_poisoned(ops, answers)?;
    let ops = &as_run(ops, answers);
    let mut allowed: Allowed =
        base.iter().map(|(key, value)| (key.clone(), vec![Some(value.clone())])).collect();
    let mut doubtful = Vec::new();
    let mut is_poisoned = false;
    // The command after the last answered one may have been under way.
    for (index, op) in ops.iter().enumerate().take(answers.len() + 1) {
        let answer = answers.get(index).map_or("none", String::as_str);
        if answer != "ok" && is_poisoned {
            continue;
        }
        is_poisoned |= answer.starts_with("err poisoned");
        for (key, value) in last_edits(&op.edits) {
            let values = allowed.entry(key).or_insert_with(|| vec![None]);
            if answer == "ok" {
                values.clear();
            }
            values.push(value);
        }
        if answer != "ok" {
            doubtful.push(op);
        }
    }
    for (key, values) in &allowed {
        let value = found.get(key);
        if !values.iter().any(|allowed| allowed.as_ref() == value) {
            let values = values.iter().map(|value| short(value.as_ref())).collect::<Vec<_>>();
            let value = short(value);
            return Err(format!("{}/{}: {value} found, {values:?} allowed", key.0, key.1));
        }
    }
    if let Some(key) = found.keys().find(|key| !allowed.contains_key(*key)) {
        return Err(format!("{}/{} was never written", key.0, key.1));
    }
    doubtful.into_iter().try_for_each(|op| check_whole(op, &allowed, found))
}

/// The commands as they were run: in the keyspace that the shell was in, where it could not change to another.
fn as_run(ops: &[Op], answers: &[String]) -> Vec<Op> {
    let mut ops = ops.to_vec();
    let (mut meant, mut current) = (KEYSPACES[0], KEYSPACES[0]);
    for (index, op) in ops.iter_mut().enumerate() {
        if let Some(name) = op.text.strip_prefix("keyspace ") {
            meant = KEYSPACES.into_iter().find(|keyspace| name.trim_end() == *keyspace).unwrap();
            let is_ok = answers.get(index).is_some_and(|answer| answer == "ok");
            current = if is_ok { meant } else { current };
        }
        debug_assert!(op.edits.iter().all(|edit| edit.keyspace == meant));
        op.edits.iter_mut().for_each(|edit| edit.keyspace = current);
    }
    ops
}

/// The last edit of each key in one command.
fn last_edits(edits: &[Edit]) -> BTreeMap<Key, Option<String>> {
    edits.iter().map(|edit| ((edit.keyspace, edit.key.clone()), edit.value.clone())).collect()
}

/// Once poisoned, every write is refused.
fn check_poisoned(ops: &[Op], answers: &[String]) -> Result<(), String> {
    let is_poisoned = |answer: &&String| answer.starts_with("err poisoned");
    let mut after = ops.iter().zip(answers).skip_while(|(_, answer)| !is_poisoned(answer));
    match after.find(|(op, answer)| !op.edits.is_empty() && !is_poisoned(answer)) {
        Some((op, answer)) => {
            Err(format!("poisoned, but {:?} answers {answer:?}", op.text.get(..20)))
        }
        None => Ok(()),
    }
}

/// A failed batch is there or not, as far as later commands let it be seen.
fn check_whole(op: &Op, allowed: &Allowed, found: &State) -> Result<(), String> {
    let (mut present, mut absent) = (None, None);
    for (key, value) in last_edits(&op.edits) {
        let values = &allowed[&key];
        if values.last() != Some(&value) {
            continue; // overwritten, or perhaps so
        }
        let others = values.iter().filter(|other| **other == value).count();
        if found.get(&key) != value.as_ref() {
            absent = Some(key);
        } else if others == 1 {
            present = Some(key);
        }
    }
    match (present, absent) {
        (Some(present), Some(absent)) => {
            Err(format!("half a batch: {present:?} is there, {absent:?} is not"))
        }
        _ => Ok(()),
    }
}

fn short(value: Option<&String>) -> String {
    value.map_or("nothing".to_owned(), |value| value.chars().take(12).collect())
}

#[test]
fn lost_acks_half_batches_and_writes_after_poison_are_seen() {
    let put = |key: &str, value: &str| Edit {
        keyspace: "default",
        key: key.to_owned(),
        value: Some(value.to_owned()),
    };
    let op = |edits: Vec<Edit>| Op { text: String::new(), edits, is_durable: false };
    let ops = [op(vec![put("a", "1")]), op(vec![put("a", "2"), put("b", "2")])];
    let judge = |answers: &[&str], found: &[(&str, &str)]| {
        let answers = answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>();
        let entry =
            |(key, value): &(&str, &str)| (("default", (*key).to_owned()), (*value).to_owned());
        check(&State::new(), &ops, &answers, &found.iter().map(entry).collect())
    };
    assert!(judge(&["ok", "err io x"], &[("a", "1")]).is_ok());
    assert!(judge(&["ok", "err io x"], &[("a", "2"), ("b", "2")]).is_ok());
    assert!(judge(&["ok", "err io x"], &[("a", "2")]).unwrap_err().contains("half"));
    assert!(judge(&["ok", "err io x"], &[]).unwrap_err().contains("a: nothing found"));
    assert!(judge(&["ok", "ok"], &[("a", "1")]).is_err());
    assert!(judge(&["ok"], &[("a", "1"), ("c", "1")]).unwrap_err().contains("never written"));
    assert!(judge(&["err poisoned x", "ok"], &[("a", "2"), ("b", "2")]).is_err());
    let twice = ["err poisoned x", "err poisoned x"];
    assert!(judge(&twice, &[("a", "1")]).is_ok());
    assert!(judge(&twice, &[("a", "2"), ("b", "2")]).is_err());
}
