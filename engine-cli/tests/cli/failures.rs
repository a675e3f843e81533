//! What goes wrong, and how it is told: exit codes and lines on stderr.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::support::{Answer, Place, Talk, content, numbered, program};

const READING: [&str; 8] =
    ["get k", "scan", "dump", "stats", "levels", "amp", "verify", "keyspaces"];
const CHANGING: [&str; 4] = ["delete k", "flush", "compact", "sync"];

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let place = Place::new();
    for wrong in [
        "",
        "nonsense",
        "put",
        "get",
        "scan --limit x",
        "load",
        "bench",
        "bench nonsense",
        "get k --nonsense",
    ] {
        place.run(wrong).fails(2, &["--help"]);
    }
    let none: Answer = program().args(["get", "k"]).output().unwrap().into();
    none.fails(2, &["--db", "ENGINE_DB"]);
}

#[test]
fn the_database_can_be_named_by_the_environment() {
    let place = Place::new();
    let put = program().env("ENGINE_DB", place.db()).args(["put", "k", "v"]).output().unwrap();
    Answer::from(put).ok();
    assert_eq!(place.run("get k").ok().text(), "v\n");
}

#[test]
fn help_and_version_are_answers() {
    let help: Answer = program().arg("--help").output().unwrap().into();
    assert!(help.ok().text().contains("Exit codes:"));
    let version: Answer = program().arg("--version").output().unwrap().into();
    assert!(version.ok().text().starts_with("engine-cli "));
}

#[test]
fn a_missing_database_is_an_error_that_says_so_and_is_not_created() {
    let place = Place::new();
    for verb in READING.iter().chain(&CHANGING) {
        let answer = place.run(verb).fails(4, &[place.db().to_str().unwrap()]);
        assert_eq!(answer.text(), "", "{verb}");
        assert!(!place.db().exists(), "{verb}");
    }
}

#[test]
fn a_file_in_the_place_of_the_database_is_an_error() {
    let place = Place::new();
    fs::write(place.db(), "text").unwrap();
    place.run("put k v").fails(6, &["not a directory", place.db().to_str().unwrap()]);
    for verb in ["get k", "verify", "repair"] {
        place.run(verb).fails(6, &["not a directory", place.db().to_str().unwrap()]);
    }
    assert_eq!(fs::read(place.db()).unwrap(), b"text");
}

#[test]
fn a_link_to_nowhere_is_no_place_for_a_database() {
    let place = Place::new();
    std::os::unix::fs::symlink(place.file("nowhere"), place.db()).unwrap();
    place.run("put k v").fails(6, &["link that leads nowhere"]);
    fs::create_dir(place.file("nowhere")).unwrap();
    place.run("put k v").ok();
}

#[test]
fn nothing_that_a_terminal_would_obey_goes_to_stderr() {
    let place = Place::new();
    let get: Answer =
        program().args(["--db", "/no\u{1b}[31m/db", "get", "k"]).output().unwrap().into();
    get.fails(4, &["/no\\x1b[31m/db"]);
    place.run("get k --option a\u{1b}=1").fails(2, &["a\\x1b"]);
}

#[test]
fn an_open_database_is_locked() {
    let place = Place::new();
    let mut talk = Talk::start(&place, &[]);
    assert_eq!(talk.ask("put a 1"), "ok");
    for verb in ["put k v", "delete k", "flush", "shell", "get a", "verify"] {
        place.run(verb).fails(5, &[place.db().to_str().unwrap()]);
    }
    assert_eq!(talk.ask("get a"), "= 1");
    talk.end().ok();
    assert_eq!(place.run("get a").ok().text(), "1\n");
}

#[test]
fn reading_verbs_change_nothing_and_run_on_a_read_only_directory() {
    let place = Place::new();
    place.shell("put a 1\nput b 2\nflush\nput c 3\n");
    let before = content(&place.db());
    for verb in READING {
        let code = place.run(verb).code;
        assert_eq!(code, i32::from(verb == "get k"), "{verb}");
    }
    assert_eq!(content(&place.db()), before);
    fs::set_permissions(place.db(), fs::Permissions::from_mode(0o555)).unwrap();
    let scanned = place.run("scan").ok();
    fs::set_permissions(place.db(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(scanned.text(), "a\t1\nb\t2\nc\t3\n");
}

#[test]
fn a_too_long_key_is_refused() {
    let place = Place::new();
    place.run_with(&["put", &"k".repeat(1 << 16), "v"]).fails(6, &["key"]);
    place.run_with(&["put", &"k".repeat((1 << 16) - 1), "v"]).ok();
}

#[test]
fn options_are_set_by_name_and_wrong_ones_are_named() {
    let place = Place::new();
    place.run("put k v --option memtable_bytes=65536 --option read_mode=pread").ok();
    place.run("get k --option read_mode=pread --option verify=always").ok();
    place.run("put k v --option nonsense=1").fails(2, &["nonsense", "memtable_bytes", "read_mode"]);
    place.run("get k --option nonsense=1").fails(2, &["nonsense"]);
    place.run("put k v --option block_bytes").fails(2, &["block_bytes"]);
    place.run("put k v --option block_bytes=many").fails(6, &["block_bytes=many"]);
    place.run("put k v --option block_bytes=3").fails(6, &["block_bytes=3"]);
    place.run("put k v --option verify=often").fails(6, &["verify=often"]);
    place.run("get k --option block_bytes=many").fails(6, &["block_bytes=many"]);
    for verb in ["get k", "scan", "stats", "verify", "repair"] {
        place.run(&format!("{verb} --option block_bytes=1")).fails(6, &["block_bytes=1"]);
        place.run(&format!("{verb} --option memtable_bytes=0")).fails(6, &["memtable_bytes=0"]);
        place.run(&format!("{verb} --option compaction=foo")).fails(6, &["foo", "leveled"]);
    }
    // Right for the strategy that the keyspace has, whatever the default is.
    place.run("put k v --option compaction=size_tiered").ok();
    for verb in ["get k", "verify"] {
        place.run(&format!("{verb} --option merge_width=3")).ok();
        place.run(&format!("{verb} --option merge_width=999")).fails(6, &["merge_width"]);
    }
}

#[test]
fn options_hold_from_the_first_memtable_on() {
    let place = Place::new();
    let lines = numbered(4000, |n| format!("k{n:05}\tvalue-{n}\n"));
    place.feed("load - --option memtable_bytes=16384", lines).ok();
    assert!(!place.files(".table").is_empty());
}

#[test]
fn keyspace_options_stay_and_are_overridden_one_by_one() {
    let place = Place::new();
    place.run("put k v --option block_bytes=1024 --option compression=snap").ok();
    place.run("put k v --option memtable_bytes=65536").ok();
    let stats = place.run("stats --format json").ok().json();
    let options = stats["keyspaces"][0]["options"].to_string();
    for pair in
        [r#"["block_bytes","1024"]"#, r#"["compression","snap"]"#, r#"["memtable_bytes","65536"]"#]
    {
        assert!(options.contains(pair), "no {pair} in {options}");
    }
}

#[test]
fn damage_is_named_with_file_and_offset_and_exits_3() {
    let place = Place::new();
    let lines = numbered(2000, |n| format!("put k{n:05} value-{n}\n"));
    place.feed("shell", lines + "flush\n").ok();
    assert!(place.run("verify").ok().text().starts_with("verified: "));
    let table = place.files(".table").pop().unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[1000] ^= 0x40;
    fs::write(&table, bytes).unwrap();
    let verify = place.run("verify").fails(3, &["problem"]);
    let name = table.to_str().unwrap();
    let found = verify.lines().into_iter().find(|line| line.starts_with(name)).unwrap();
    let offset = found[name.len()..].split(':').nth(1).unwrap();
    assert!(offset.parse::<u64>().unwrap() <= 1000, "{found}");
    place.run("scan").fails(3, &[name, "offset"]);
    let json = place.run("verify --format json");
    assert_eq!(json.code, 3);
    assert_eq!(json.json()["problems"].as_array().unwrap().len(), 1);
}

#[test]
fn a_damaged_manifest_is_a_finding_too() {
    let place = Place::new();
    place.run("put k v").ok();
    fs::write(place.db().join("CURRENT"), "nonsense").unwrap();
    place.run("get k").fails(3, &["CURRENT"]);
    let verify = place.run("verify").fails(3, &["problem"]);
    assert!(verify.text().contains("CURRENT:"), "{verify:?}");
}

#[test]
fn causes_follow_when_asked() {
    let place = Place::new();
    let quiet = place.run("put k --value-file /nowhere/at/all").fails(4, &[]);
    let loud = place.run("-v put k --value-file /nowhere/at/all");
    assert_eq!(loud.code, 4);
    assert!(loud.err.starts_with(&quiet.err) && loud.err.contains("  caused by: "), "{loud:?}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::new();
    let lines = numbered(20_000, |n| format!("k{n:08}\tvalue\n"));
    place.feed("load -", lines).ok();
    let mut command = place.command();
    command.arg("scan").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    Answer::from(child.wait_with_output().unwrap()).ok();
}

#[test]
fn a_full_output_device_is_an_error() {
    let place = Place::new();
    place.run("put k v").ok();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let answer: Answer =
        place.command().arg("scan").stdout(full).stderr(Stdio::piped()).output().unwrap().into();
    answer.fails(4, &["standard output"]);
    for flag in ["--help", "--version"] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let answer: Answer = program().arg(flag).stdout(full).output().unwrap().into();
        answer.fails(4, &["standard output"]);
    }
}

#[test]
fn a_file_size_limit_is_an_error_not_a_signal() {
    let place = Place::new();
    place.run("put k v").ok();
    let exe = assert_cmd::cargo::cargo_bin!("engine-cli");
    let script = format!(
        "ulimit -f 64; head -c 1000000 /dev/zero | '{}' --db '{}' put big --value-file - --option wal_mode=write",
        exe.display(),
        place.db().display()
    );
    let answer: Answer =
        std::process::Command::new("bash").args(["-c", &script]).output().unwrap().into();
    // 4 if the write itself reports the limit, 6 if it reports that the log is poisoned by it.
    let code = answer.code;
    assert!([4, 6].contains(&code), "{answer:?}");
    answer.fails(code, &["File too large"]);
    assert_eq!(place.run("get k").ok().text(), "v\n");
}

#[test]
fn a_line_without_end_is_refused_at_once() {
    let place = Place::new();
    for verb in ["load /dev/zero", "load /dev/zero --input jsonl", "load /dev/zero --input hex"] {
        place.run(verb).fails(6, &["bad line 1", "/dev/zero"]);
    }
}

#[test]
fn a_mapped_file_cut_short_names_the_file_and_exits_4() {
    let place = Place::new();
    let lines = numbered(3000, |n| format!("k{n:05}\tvalue-{n}\n"));
    place.feed("load -", lines).ok();
    place.run("flush").ok();
    let table = place.files(".table").pop().unwrap();
    let mut talk = Talk::start(&place, &["--option", "read_mode=mmap"]);
    assert_eq!(talk.ask("get k01500"), "= value-1500");
    fs::OpenOptions::new().write(true).open(&table).unwrap().set_len(0).unwrap();
    talk.send("get k01500");
    let answered = talk.read();
    let ended = talk.end();
    if answered.is_empty() {
        ended.fails(4, &["SIGBUS", table.to_str().unwrap(), "offset"]);
    } else {
        assert!(answered.starts_with("err "), "{answered}");
    }
}
