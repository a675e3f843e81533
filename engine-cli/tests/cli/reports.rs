//! Metrics, options, completions, man.

use std::process::{Command, Stdio};

use crate::support::{Answer, Place, numbered, program};

fn filled() -> Place {
    let place = Place::new();
    let lines = numbered(5000, |n| format!("k{n:05}\tvalue-{n}\n"));
    place.feed("load -", lines).ok();
    place.run("flush").ok();
    place
}

#[test]
fn reports_are_text_and_json_documents() {
    let place = filled();
    for verb in ["stats", "levels", "amp"] {
        let text = place.run(verb).ok();
        assert!(text.lines().len() > 3, "{verb}: {text:?}");
        assert!(!text.text().contains('\x1b'), "{verb}");
        let json = place.run_with(&[verb, "--format", "json"]).ok();
        assert!(json.json().is_object() && json.lines().len() == 1, "{verb}");
    }
}

#[test]
fn levels_show_the_tree() {
    let place = filled();
    let json = place.run("levels --format json").ok().json();
    let levels = json["keyspaces"][0]["levels"].as_array().unwrap();
    let entries: u64 = levels.iter().map(|level| level["entries"].as_u64().unwrap()).sum();
    assert_eq!(entries, 5000);
    assert!(place.run("levels").ok().text().contains("L0"));
}

#[test]
fn amplification_is_by_part() {
    let json = filled().run("amp --format json").ok().json();
    for part in ["write", "read", "space"] {
        assert!(json[part].is_object(), "{json}");
    }
    assert!(json["space"]["disk_bytes"].as_u64().unwrap() > 0);
    assert!(json["space"]["parts"].as_array().unwrap().len() >= 3);
}

#[test]
fn amplification_knows_the_life_of_the_database() {
    let place = filled();
    let user_bytes: u64 = (0..5000).map(|n| 6 + format!("value-{n}").len() as u64).sum();
    place.run("compact").ok();
    let json = place.run("amp --format json").ok().json();
    let write = &json["write"];
    assert_eq!(write["user_bytes"].as_u64(), Some(user_bytes), "{json}");
    assert_eq!(write["since_open"]["user_bytes"].as_u64(), Some(0), "{json}");
    let parts = write["parts"].as_array().unwrap();
    let written: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    let amplification = write["amplification"].as_f64().unwrap();
    assert_eq!(amplification, written as f64 / user_bytes as f64);
    let compactions = write["compactions"].as_array().unwrap();
    assert!(compactions.iter().any(|part| part["reason"] == "manual"), "{json}");
    let text = place.run("amp").ok();
    assert!(text.text().contains("compaction into L1: manual"), "{text:?}");
    assert!(!text.text().contains("since open, "), "{text:?}");
}

#[test]
fn exact_amplification_counts_what_is_alive() {
    let place = filled();
    place.run("delete k00001").ok();
    let json = place.run("amp --exact --format json").ok().json();
    let exact = &json["space"]["exact"];
    assert_eq!(exact["live_entries"].as_u64(), Some(4999), "{json}");
    let live: u64 =
        (0..5000).filter(|n| *n != 1).map(|n| 6 + format!("value-{n}").len() as u64).sum();
    assert_eq!(exact["live_bytes"].as_u64(), Some(live), "{json}");
    // Every file of the database, as the operating system tells it.
    let on_disk: u64 = place.files("").iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(exact["disk_bytes"].as_u64(), Some(on_disk), "{json}");
    assert_eq!(exact["amplification"].as_f64(), Some(on_disk as f64 / live as f64));
    assert!(json["read"]["blocks_per_scanned_entry"].as_f64().unwrap() > 0.0);
    assert!(place.run("amp --exact").ok().text().contains("live, exactly"));
    assert!(place.run("amp --format json").ok().json()["space"]["exact"].is_null());
}

#[test]
fn levels_are_drawn_as_bars() {
    let place = filled();
    place.run("delete k00001").ok();
    place.run("flush").ok();
    let drawn = place.run("levels").ok();
    let level0 = drawn.lines().into_iter().find(|line| line.starts_with("L0")).unwrap().to_owned();
    assert!(level0.contains(" %") && level0.ends_with('#'), "{level0}");
    assert!(drawn.text().is_ascii(), "{drawn:?}");
}

#[test]
fn compact_says_what_it_rewrote() {
    let place = filled();
    let compacted = place.run("compact").ok();
    assert!(compacted.text().contains("compacted default: read "), "{compacted:?}");
    let json = place.run("compact --from k1 --to k2 --format json").ok().json();
    assert_eq!(json["keyspace"], "default");
    place.run("compact --from k2 --to k1").ok();
    assert_eq!(place.run("scan --count").ok().text(), "5000\n");
}

#[test]
fn an_interrupted_compaction_leaves_a_valid_database() {
    let place = filled();
    let wide = numbered(3000, |n| format!("w{n}\t{}\n", "x".repeat(1024)));
    place.feed("load -", wide).ok();
    // So slow that it cannot end by itself before it is interrupted.
    let arguments = ["--option", "compaction_rate=65536", "compact", "--limited"];
    let mut command = place.command();
    let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let status = format!("/proc/{}/status", child.id());
    let catches_sigint = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 2 != 0
    };
    while !catches_sigint() {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let answer: Answer = child.wait_with_output().unwrap().into();
    answer.fails(130, &["cancelled", place.db().to_str().unwrap()]);
    place.run("verify").ok();
    assert_eq!(place.run("scan --count").ok().text(), "8000\n");
    place.run("compact").ok();
    assert_eq!(place.run("scan --count").ok().text(), "8000\n");
}

#[test]
fn the_table_of_options_is_complete() {
    let place = Place::new();
    let options = place.run("options --format json").ok().json();
    let rows = options.as_array().unwrap();
    for name in ["memtable_bytes", "read_mode", "wal_mode", "compaction", "background_threads"] {
        assert!(rows.iter().any(|row| row["name"] == name), "{name}");
    }
    assert!(place.run("options").ok().text().contains("memtable_bytes"));
}

#[test]
fn completions_and_man_page_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let answer: Answer = program().args(["completions", shell]).output().unwrap().into();
        assert!(answer.ok().text().contains("engine-cli"));
    }
    let man: Answer = program().arg("man").output().unwrap().into();
    let man = man.ok();
    assert!(man.text().contains(".TH engine-cli") && man.text().contains("durability"));
}
