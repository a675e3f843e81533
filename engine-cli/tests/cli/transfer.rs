//! `load` and `dump`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::{Answer, Place, numbered};

/// Keys and values with every kind of byte in them.
fn awkward(place: &Place) -> usize {
    let mut lines = numbered(256, |byte| format!("put 6b{byte:02x} {byte:02x}{byte:02x}\n"));
    lines += "put  00\nput 00 \nput e697a5e69cac c3bc20e280ae\n";
    place.feed("--hex shell", &lines).ok();
    256 + 3
}

#[test]
fn every_form_round_trips_every_byte() {
    let place = Place::new();
    let entries = awkward(&place);
    let all = place.run("--hex scan").ok().out;
    for form in ["tsv", "jsonl", "hex"] {
        let dump = place.run_with(&["dump", "--output", form]).ok();
        assert_eq!(dump.lines().len(), entries, "{form}");
        let copy = Place::new();
        let load = copy.feed(&format!("load - --input {form}"), &dump.out).ok();
        assert!(load.text().contains(&entries.to_string()), "{load:?}");
        assert_eq!(copy.run("--hex scan").ok().out, all, "{form}");
        assert_eq!(copy.run_with(&["dump", "--output", form]).ok().out, dump.out);
    }
}

#[test]
fn dump_has_the_forms_of_the_flags() {
    let place = Place::new();
    place.run("put a b").ok();
    assert_eq!(place.run("dump").ok().text(), "a\tb\n");
    assert_eq!(place.run("dump --output hex").ok().text(), "61\t62\n");
    assert_eq!(place.run("dump --hex").ok().text(), "61\t62\n");
    let json = "{\"key\":\"a\",\"value\":\"b\"}\n";
    assert_eq!(place.run("dump --output jsonl").ok().text(), json);
    assert_eq!(place.run("dump --input jsonl").ok().text(), json);
    assert_eq!(place.run("dump --format json").ok().text(), json);
}

#[test]
fn load_reads_files_and_the_last_line_may_lack_its_newline() {
    let place = Place::new();
    let file = place.file_with("in.tsv", "a\t1\nb\t2");
    place.run_with(&["load", file.to_str().unwrap()]).ok();
    assert_eq!(place.run("scan").ok().text(), "a\t1\nb\t2\n");
    let load = place.run_with(&["load", file.to_str().unwrap(), "--format", "json"]).ok();
    assert_eq!(load.json(), serde_json::json!({"entries": 2, "bytes": 4}));
    place.run("load /nowhere/at/all").fails(4, &["/nowhere/at/all"]);
    place.run("load /").fails(4, &["/"]);
}

#[test]
fn a_bad_line_is_named_and_what_came_before_is_kept() {
    let place = Place::new();
    let lines = numbered(2500, |n| format!("k{n:04}\tv\n")) + "bad\nlater\tv\n";
    let failed = place.feed("load -", lines).fails(6, &["line 2501", "no tab", "2500"]);
    assert_eq!(failed.text(), "");
    assert_eq!(place.run("scan --count").ok().text(), "2500\n");
    assert_eq!(place.run("get later").code, 1);
}

#[test]
fn a_sorted_load_is_a_bulk_ingest() {
    let place = Place::new();
    let lines = numbered(2500, |n| format!("k{n:04}\tvalue {n}\n"));
    place.feed("load - --sorted", lines.clone()).ok();
    assert_eq!(place.run("scan --count").ok().text(), "2500\n");
    assert_eq!(place.run("get k2499").ok().text(), "value 2499\n");
    let out_of_order = lines + "k0007\tagain\nk9\tlast\n";
    for (flags, kept) in [("--sorted", "2500\n"), ("--sorted --atomic", "0\n")] {
        let place = Place::new();
        let refused = place.feed(&format!("load - {flags}"), out_of_order.clone());
        refused.fails(6, &["line 2501", "does not stand after"]);
        assert_eq!(place.run("scan --count").ok().text(), kept, "{flags}");
    }
}

#[test]
fn an_atomic_load_keeps_nothing_of_a_bad_file() {
    let place = Place::new();
    let lines = numbered(2500, |n| format!("k{n:04}\tv\n"));
    place.feed("load - --atomic", lines.clone() + "bad\n").fails(6, &["line 2501", "nothing"]);
    assert_eq!(place.run("scan --count").ok().text(), "0\n");
    place.feed("load - --atomic", lines).ok();
    assert_eq!(place.run("scan --count").ok().text(), "2500\n");
}

#[test]
fn each_form_says_what_is_wrong_with_a_line() {
    let place = Place::new();
    place.feed("load -", "a\tb\n\n").fails(6, &["line 2"]);
    place.feed("load -", "a\\q\tb\n").fails(6, &["line 1", "backslash"]);
    place.feed("load - --input hex", "61\t6\n").fails(6, &["line 1", "odd"]);
    place.feed("load - --input jsonl", "{\"key\":\"a\"}\n").fails(6, &["line 1", "value"]);
    for line in ["[]", "[\"a\",\"1\"]", "7"] {
        place.feed("load - --input jsonl", line).fails(6, &["line 1", "not an object"]);
    }
    let json = place.feed("load - --input jsonl", "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":1}\n");
    let json = json.fails(6, &["bad line 2: ", "column 8", "the entry before it is kept"]);
    assert!(!json.err.contains("line 1") && !json.err.contains("JsonLine"), "{json:?}");
    place.feed("load - --input csv", "").fails(2, &["csv"]);
    let long = format!("ok\tv\n{}\tv\n", "k".repeat(1 << 16));
    place.feed("load -", long).fails(6, &["line 2", "65536", "65535"]);
    assert_eq!(place.run("get ok").ok().text(), "v\n");
}

#[test]
fn long_keys_do_not_flood_an_error() {
    let place = Place::new();
    let lines = format!("{}\tv\n{}\tv\n", "y".repeat(60_000), "x".repeat(60_000));
    let failed = place.feed("load - --sorted", lines).fails(6, &["line 2", "(60000 characters)"]);
    assert!(failed.err.len() < 1000, "{failed:?}");
}

/// How many entries an interrupted load says are kept.
fn told(answer: &Answer) -> u64 {
    answer.err.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_load_ended_by_a_signal_says_what_is_kept() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let place = Place::new();
        // What runs the tests may ignore signals, and then so would the program.
        let program = place.command();
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM").arg(program.get_program());
        command.args(program.get_args()).args(["load", "-"]).env_remove("ENGINE_DB");
        command.stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // More than the pipe and its buffers hold: when all is in, most of it was read.
        let lines = numbered(20_000, |n| format!("k{n:06}\t{}\n", "v".repeat(40)));
        stdin.write_all(lines.as_bytes()).unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let answer: Answer = child.wait_with_output().unwrap().into();
        drop(stdin);
        let answer = answer.fails(code, &["interrupted", "kept"]);
        assert!(told(&answer) >= 10_000, "{answer:?}");
        let count = place.run("scan --count").ok();
        assert!(count.text().trim().parse::<u64>().unwrap() >= told(&answer), "{count:?}");
    }
}

#[test]
fn a_load_ended_by_an_error_says_what_is_kept() {
    let place = Place::new();
    place.run("put k v").ok();
    let lines = numbered(5000, |n| format!("k{n:06}\tv\n"));
    let input = place.file_with("in", lines + &format!("large\t{}\n", "v".repeat(1 << 20)));
    let script = format!(
        "ulimit -f 100; '{}' --db '{}' load '{}' --option wal_mode=write --option wal_segment_bytes=65536",
        assert_cmd::cargo::cargo_bin!("engine-cli").display(),
        place.db().display(),
        input.display(),
    );
    let answer: Answer = Command::new("bash").args(["-c", &script]).output().unwrap().into();
    let code = answer.code;
    assert!([4, 6].contains(&code), "{answer:?}");
    answer.fails(code, &["File too large", "the 5000 entries before it are kept"]);
    assert_eq!(place.run("scan --count").ok().text(), "5001\n");
}

#[test]
fn load_and_dump_follow_the_keyspace() {
    let place = Place::new();
    place.feed("load - --keyspace logs", "a\tb\n").ok();
    assert_eq!(place.run("dump --keyspace logs").ok().text(), "a\tb\n");
    assert_eq!(place.run("dump").ok().text(), "");
}
