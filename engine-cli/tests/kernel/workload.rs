//! Commands, what they do to the content, and what they promise.
//!
//! Every value is written once in the life of a database, so a value says which command wrote it, and a state that is
//! no prefix of the commit order is seen. Keys are few, so that most writes overwrite and merges have work.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::dice::Dice;

pub const KEYSPACES: [&str; 2] = ["default", "other"];

/// The content of a database: keyspace and key to value.
pub type State = BTreeMap<(&'static str, String), String>;

/// One change of one key; no value is a delete.
#[derive(Clone, Debug)]
pub struct Edit {
    pub keyspace: &'static str,
    pub key: String,
    pub value: Option<String>,
}

/// One command of the shell.
#[derive(Clone, Debug)]
pub struct Op {
    /// The lines to send.
    pub text: String,
    /// What it changes, all of it or nothing.
    pub edits: Vec<Edit>,
    /// Whether its `ok` says that it and all before it survive a power cut.
    pub is_durable: bool,
}

impl Op {
    pub fn apply(&self, state: &mut State) {
        for Edit { keyspace, key, value } in &self.edits {
            let key = (*keyspace, key.clone());
            match value {
                Some(value) => drop(state.insert(key, value.clone())),
                None => drop(state.remove(&key)),
            }
        }
    }
}

/// Makes commands.
pub struct Workload {
    dice: Dice,
    /// The keyspace that the shell is in.
    keyspace: &'static str,
    written_count: u64,
    /// How many keys there are in each keyspace.
    pub key_count: u64,
    /// How many commands of a hundred change to another keyspace.
    pub keyspace_percent: u64,
    pub value_bytes_max: u64,
    /// How many writes of a hundred are `sync`.
    pub sync_percent: u64,
    /// How many commands of a thousand are `flush`, `compact` or `sync`.
    pub upkeep_per_mille: u64,
}

impl Workload {
    pub fn new(seed: u64, stream: u64) -> Self {
        Workload {
            dice: Dice::new(seed, stream),
            keyspace: KEYSPACES[0],
            written_count: 0,
            key_count: 60,
            keyspace_percent: 8,
            value_bytes_max: 900,
            sync_percent: 20,
            upkeep_per_mille: 40,
        }
    }

    /// The next `count` commands, for a shell that has just been opened.
    pub fn ops(&mut self, count: u64) -> Vec<Op> {
        self.keyspace = KEYSPACES[0];
        (0..count).map(|_| self.op()).collect()
    }

    fn op(&mut self) -> Op {
        let plain =
            |text: &str, is_durable| Op { text: text.to_owned(), edits: vec![], is_durable };
        if self.dice.below(1000) < self.upkeep_per_mille {
            return plain(self.dice.pick(&["flush\n", "compact\n", "sync\n", "sync\n"]), true);
        }
        if self.dice.chance(self.keyspace_percent) {
            self.keyspace = self.dice.pick(&KEYSPACES);
            return plain(&format!("keyspace {}\n", self.keyspace), false);
        }
        if self.dice.chance(80) {
            let (edit, word) = (self.edit(20), self.durability());
            let text = format!("{}{word}\n", command(&edit));
            return Op { text, edits: vec![edit], is_durable: word == " sync" };
        }
        let (edit_count, word) = (self.dice.below(12), self.durability());
        let edits = (0..edit_count).map(|_| self.edit(25)).collect::<Vec<_>>();
        let mut text = format!("batch {edit_count}{word}\n");
        for edit in &edits {
            writeln!(text, "{}", command(edit)).unwrap();
        }
        // An empty batch writes nothing, so it syncs nothing.
        let is_durable = word == " sync" && edit_count > 0;
        Op { text, edits, is_durable }
    }

    fn edit(&mut self, delete_percent: u64) -> Edit {
        let key = key(self.dice.below(self.key_count));
        if self.dice.chance(delete_percent) {
            return Edit { keyspace: self.keyspace, key, value: None };
        }
        self.written_count += 1;
        let mut value = format!("v{:06}-", self.written_count);
        let bytes = self.dice.below(self.value_bytes_max) as usize;
        // Half of it can be compressed.
        while value.len() < bytes {
            write!(value, "{:016x}~~~~~~~~~~~~~~~~", self.dice.next()).unwrap();
        }
        Edit { keyspace: self.keyspace, key, value: Some(value) }
    }

    fn durability(&mut self) -> &'static str {
        if self.dice.chance(self.sync_percent) {
            return " sync";
        }
        self.dice.pick(&[" buffered", " buffered", " async", ""])
    }
}

fn command(edit: &Edit) -> String {
    match &edit.value {
        Some(value) => format!("put {} {value}", edit.key),
        None => format!("del {}", edit.key),
    }
}

/// The key with this number.
pub fn key(number: u64) -> String {
    format!("k{number:05}")
}

/// What to send for all of these.
pub fn text(ops: &[Op]) -> String {
    ops.iter().map(|op| op.text.as_str()).collect()
}

/// The longest prefix of `ops`, of at least `first` and at most `last` commands, that makes `found` of `base`.
pub fn matching_prefix(
    base: &State,
    ops: &[Op],
    (first, last): (usize, usize),
    found: &State,
) -> Result<usize, String> {
    let mut state = base.clone();
    let mut longest = None;
    let mut nearest = None;
    for count in 0..=last.min(ops.len()) {
        if count > 0 {
            ops[count - 1].apply(&mut state);
        }
        if count >= first && state == *found {
            longest = Some(count);
        }
        if count == first {
            nearest = Some(difference(&state, found));
        }
        if count < first && state == *found {
            nearest = Some(format!("the state after only {count} of them"));
        }
    }
    longest.ok_or_else(|| {
        let nearest = nearest.unwrap_or_default();
        format!("{first} to {last} commands must be there, but what is there is {nearest}")
    })
}

/// The first few keys in which they differ.
pub fn difference(expected: &State, found: &State) -> String {
    let mut text = String::from("this far from it:");
    let keys = expected.keys().chain(found.keys().filter(|key| !expected.contains_key(*key)));
    let differing = keys.filter(|key| expected.get(*key) != found.get(*key)).collect::<Vec<_>>();
    let short = |value: Option<&String>| {
        value.map_or("nothing".to_owned(), |value| value.chars().take(10).collect::<String>())
    };
    for key in differing.iter().take(6) {
        let (expected, found) = (short(expected.get(*key)), short(found.get(*key)));
        write!(text, " {}/{}: {expected} expected, {found} found;", key.0, key.1).unwrap();
    }
    write!(text, " {} keys differ", differing.len()).unwrap();
    text
}

/// Random options of the database and its keyspaces. Small sizes, so that everything happens often.
pub fn options(dice: &mut Dice, background_threads: u64) -> Vec<String> {
    let mut options = vec![format!("background_threads={background_threads}")];
    let mut set = |name: &str, choices: &[&str]| {
        options.push(format!("{name}={}", dice.pick(choices)));
    };
    set("compaction", &["leveled", "leveled", "size_tiered", "lazy_leveled", "time_window"]);
    set("compression", &["none", "snap", "zstd"]);
    set("read_mode", &["mmap", "pread"]);
    set("wal_mode", &["map", "write"]);
    set("verify", &["once", "always"]);
    set("memtable_bytes", &["4096", "16384", "65536"]);
    set("table_bytes", &["4096", "16384", "1048576"]);
    set("block_bytes", &["512", "4096"]);
    set("wal_segment_bytes", &["65536", "131072"]);
    set("cache_bytes", &["0", "65536", "67108864"]);
    set("open_tables_max", &["16", "4096"]);
    set("async_interval_ms", &["1", "20", "200"]);
    options
}
