//! The language of the shell: a line into a [`Command`], without a database.
//!
//! ```text
//! put K V [sync|buffered|async]      get K            scan FROM TO LIMIT      snap NAME       flush    stats
//! del K [sync|buffered|async]        get@NAME K       rscan FROM TO LIMIT     drop NAME       compact  quit
//! batch N [sync|buffered|async]                       scan@NAME ...           keyspace NAME   sync
//! ```
//! A put may end with `ttl=SECONDS`, after which the entry expires; in a batch too.
//!
//! Tokens are separated by exactly one space, so an empty token is an empty key or value. Keys and values are encoded
//! as everywhere; names and numbers are plain text. `.` as a bound of a range is an open end (a key that is a
//! single dot is written `\x2e`, or `2e` with `--hex`).

use std::time::Duration;

use esker::Durability;

use crate::range::KeyRange;
use crate::text::Encoding;

/// One write of a batch, or alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    Put { key: Vec<u8>, value: Vec<u8>, ttl: Option<Duration> },
    Delete { key: Vec<u8> },
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Write {
        write: Write,
        durability: Option<Durability>,
    },
    /// `durability` is checked only when all lines of the batch are there, because they follow in any case.
    Batch {
        lines: u64,
        durability: Result<Option<Durability>, String>,
    },
    Get {
        snapshot: Option<String>,
        key: Vec<u8>,
    },
    Scan {
        snapshot: Option<String>,
        range: KeyRange,
        limit: u64,
        reverse: bool,
    },
    Snapshot {
        name: String,
    },
    Drop {
        name: String,
    },
    Keyspace {
        name: String,
    },
    Flush,
    Compact,
    Sync,
    Stats,
    Quit,
}

/// Every command word, for help and completion.
pub const WORDS: &[(&str, &str)] = &[
    ("put", "put K V [sync|buffered|async] [ttl=SECONDS]: write an entry"),
    ("del", "del K [sync|buffered|async]: delete a key"),
    ("batch", "batch N [sync|buffered|async]: the next N lines `put K V` or `del K` as one write"),
    ("get", "get K, get@NAME K: the value, or -"),
    (
        "scan",
        "scan FROM TO LIMIT, scan@NAME ...: entries in order; . is an open end, TO is excluded",
    ),
    ("rscan", "rscan FROM TO LIMIT, rscan@NAME ...: the same range from its top down"),
    ("snap", "snap NAME: keep this moment of all keyspaces under a name"),
    ("drop", "drop NAME: let a snapshot go"),
    ("keyspace", "keyspace NAME: later lines use it; created if absent"),
    ("flush", "flush: memtables to tables"),
    ("compact", "compact: merge the tables of the keyspace"),
    ("sync", "sync: make every earlier write durable"),
    ("stats", "stats: the metrics as one line of JSON"),
    ("quit", "quit: close the database"),
];

/// Takes a line apart. The error says what is wrong with it.
pub fn parse(line: &[u8], encoding: Encoding) -> Result<Command, String> {
    let tokens = line.split(|byte| *byte == b' ').collect::<Vec<_>>();
    let (word, arguments) = tokens.split_first().expect("split gives at least one token");
    let word = std::str::from_utf8(word).map_err(|_| "the command is not UTF-8".to_owned())?;
    let (verb, snapshot) = match word.split_once('@') {
        Some((verb, name)) => (verb, Some(text(name.as_bytes(), "snapshot name")?)),
        None => (word, None),
    };
    if snapshot.is_some() && !matches!(verb, "get" | "scan" | "rscan") {
        return Err(format!("{verb} cannot read from a snapshot"));
    }
    let key = |token: &[u8]| encoding.read(token);
    match (verb, arguments) {
        ("put", [k, v, rest @ ..]) => {
            let (ttl, rest) = ttl(rest)?;
            Ok(Command::Write {
                write: Write::Put { key: key(k)?, value: key(v)?, ttl },
                durability: durability(rest)?,
            })
        }
        ("del", [k, rest @ ..]) => Ok(Command::Write {
            write: Write::Delete { key: key(k)? },
            durability: durability(rest)?,
        }),
        ("batch", [lines, rest @ ..]) => {
            Ok(Command::Batch { lines: number(lines)?, durability: durability(rest) })
        }
        ("get", [k]) => Ok(Command::Get { snapshot, key: key(k)? }),
        ("scan" | "rscan", [from, to, limit]) => Ok(Command::Scan {
            snapshot,
            range: KeyRange { from: bound(from, encoding)?, to: bound(to, encoding)? },
            limit: number(limit)?,
            reverse: verb == "rscan",
        }),
        ("snap", [name]) => Ok(Command::Snapshot { name: text(name, "snapshot name")? }),
        ("drop", [name]) => Ok(Command::Drop { name: text(name, "snapshot name")? }),
        ("keyspace", [name]) => Ok(Command::Keyspace { name: text(name, "keyspace name")? }),
        ("flush", []) => Ok(Command::Flush),
        ("compact", []) => Ok(Command::Compact),
        ("sync", []) => Ok(Command::Sync),
        ("stats", []) => Ok(Command::Stats),
        ("quit", []) => Ok(Command::Quit),
        _ => Err(complaint(verb, arguments.len())),
    }
}

/// A line of a batch: `put K V` or `del K`, and nothing else.
pub fn parse_batch_line(line: &[u8], encoding: Encoding) -> Result<Write, String> {
    match parse(line, encoding)? {
        Command::Write { write, durability: None } => Ok(write),
        Command::Write { .. } => Err("a line of a batch names no durability".to_owned()),
        _ => Err("a line of a batch is `put K V` or `del K`".to_owned()),
    }
}

fn complaint(verb: &str, arguments: usize) -> String {
    match WORDS.iter().find(|(word, _)| *word == verb) {
        Some((_, usage)) => format!("{arguments} arguments do not fit: {usage}"),
        None if verb.is_empty() => "a line begins with a command word".to_owned(),
        None => {
            let words = WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" ");
            format!("there is no command {verb:?}; the commands are: {words}")
        }
    }
}

/// Takes `ttl=SECONDS` off the end.
fn ttl<'a, 'b>(tokens: &'a [&'b [u8]]) -> Result<(Option<Duration>, &'a [&'b [u8]]), String> {
    let Some((last, rest)) = tokens.split_last() else { return Ok((None, tokens)) };
    let Some(seconds) = last.strip_prefix(b"ttl=") else { return Ok((None, tokens)) };
    match number(seconds)? {
        0 => Err("a time to live is at least one second".to_owned()),
        seconds => Ok((Some(Duration::from_secs(seconds)), rest)),
    }
}

fn durability(tokens: &[&[u8]]) -> Result<Option<Durability>, String> {
    match tokens {
        [] => Ok(None),
        [word] => {
            let word = String::from_utf8_lossy(word);
            word.parse().map(Some).map_err(|error: esker::Error| error.what().to_owned())
        }
        _ => Err(format!("{} tokens too many", tokens.len() - 1)),
    }
}

fn bound(token: &[u8], encoding: Encoding) -> Result<Option<Vec<u8>>, String> {
    if token == b"." { Ok(None) } else { encoding.read(token).map(Some) }
}

fn number(token: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(token);
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn text(token: &[u8], what: &str) -> Result<String, String> {
    match std::str::from_utf8(token) {
        Ok("") => Err(format!("the {what} is empty")),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(format!("the {what} is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(key: &str, value: &str) -> Write {
        Write::Put { key: key.into(), value: value.into(), ttl: None }
    }

    fn ok(line: &str) -> Command {
        parse(line.as_bytes(), Encoding::Text).unwrap()
    }

    fn err(line: &str) -> String {
        parse(line.as_bytes(), Encoding::Text).unwrap_err()
    }

    #[test]
    fn one_space_separates_so_empty_tokens_are_empty_keys_and_values() {
        assert_eq!(ok("put  "), Command::Write { write: put("", ""), durability: None });
        assert_eq!(ok("put k "), Command::Write { write: put("k", ""), durability: None });
        assert_eq!(ok("get "), Command::Get { snapshot: None, key: vec![] });
        assert!(err("put k").contains("put K V"));
        assert!(err("get").contains("0 arguments"));
        assert!(err("put k v ").contains("durability"));
    }

    #[test]
    fn durability_is_optional_and_checked() {
        let durability = Some(Durability::Async);
        assert_eq!(ok("put k v async"), Command::Write { write: put("k", "v"), durability });
        assert!(err("put k v soon").contains("soon"));
        assert!(err("del k sync sync").contains("too many"));
    }

    #[test]
    fn a_time_to_live_stands_last() {
        let ttl = Some(Duration::from_secs(60));
        let write = || Write::Put { key: b"k".to_vec(), value: b"v".to_vec(), ttl };
        assert_eq!(ok("put k v ttl=60"), Command::Write { write: write(), durability: None });
        let durability = Some(Durability::Sync);
        assert_eq!(ok("put k v sync ttl=60"), Command::Write { write: write(), durability });
        assert_eq!(parse_batch_line(b"put k v ttl=60", Encoding::Text).unwrap(), write());
        assert!(err("put k v ttl=60 sync").contains("too many"));
        assert!(err("put k v ttl=0").contains("at least one second"));
        assert!(err("put k v ttl=soon").contains("not a number"));
        assert!(err("del k ttl=60").contains("ttl=60"));
        assert_eq!(
            ok("put k ttl=1"),
            Command::Write { write: put("k", "ttl=1"), durability: None }
        );
    }

    #[test]
    fn ranges_have_open_ends() {
        let Command::Scan { range, limit, reverse, snapshot } = ok("rscan@s1 . b 10") else {
            panic!()
        };
        assert_eq!(range, KeyRange { from: None, to: Some(b"b".to_vec()) });
        assert_eq!((limit, reverse, snapshot.as_deref()), (10, true, Some("s1")));
        let Command::Scan { range, .. } = ok(r"scan \x2e  1") else { panic!() };
        assert_eq!(range, KeyRange { from: Some(b".".to_vec()), to: Some(vec![]) });
        assert!(err("scan a b").contains("FROM TO LIMIT"));
        assert!(err("scan a b -1").contains("not a number"));
    }

    #[test]
    fn a_batch_keeps_its_length_whatever_its_durability() {
        let Command::Batch { lines: 3, durability: Err(_) } = ok("batch 3 never") else { panic!() };
        assert_eq!(ok("batch 0"), Command::Batch { lines: 0, durability: Ok(None) });
        assert!(err("batch x").contains("not a number"));
        let line = |line: &str| parse_batch_line(line.as_bytes(), Encoding::Text);
        assert_eq!(line("put a b").unwrap(), put("a", "b"));
        assert!(line("put a b sync").is_err() && line("get a").is_err() && line("").is_err());
    }

    #[test]
    fn anything_wrong_says_so() {
        assert!(err("").contains("begins with"));
        assert!(err("PUT a b").contains("no command"));
        assert!(err("snap ").contains("empty"));
        assert!(err("get@ k").contains("empty"));
        assert!(err("put@s a b").contains("snapshot"));
        assert!(err("flush now").contains("flush"));
    }

    proptest! {
        #[test]
        fn no_line_panics(line: Vec<u8>) {
            for encoding in [Encoding::Text, Encoding::Hex] {
                let _ = (parse(&line, encoding), parse_batch_line(&line, encoding));
            }
        }
    }
}
