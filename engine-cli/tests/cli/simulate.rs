//! `simulate` and `advise`: predictions without a database.

use crate::support::{Answer, Place, program};

fn run(arguments: &str) -> Answer {
    program().args(arguments.split(' ')).output().unwrap().into()
}

#[test]
fn strategies_are_compared_without_a_database() {
    let place = Place::new();
    let answer = place.run("simulate --data 20GB --hours 0.2").ok();
    let text = answer.text();
    for word in ["leveled", "size_tiered", "lazy_leveled", "wal", "compacted", "into level 6"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    assert!(!place.db().exists());
}

#[test]
fn sorted_writes_cost_the_log_and_the_flush() {
    let json =
        run("simulate --data 1GB --keys sequential --hours 0.1 --strategy leveled --format json")
            .ok()
            .json();
    let simulation = &json["simulations"][0];
    assert_eq!(simulation["strategy"], "leveled");
    assert_eq!(simulation["compaction_bytes_written"], 0);
    let amplification = simulation["write_amplification"].as_f64().unwrap();
    assert!((2.0..2.2).contains(&amplification), "{amplification}");
    assert_eq!(json["workload"]["key_bytes"], 16);
    assert_eq!(simulation["series"].as_array().unwrap().len(), 60);
}

#[test]
fn options_go_to_the_strategies_that_have_them() {
    let answer =
        run("simulate --data 5GB --hours 0.1 --option fanout=4 --option memtable_bytes=1048576")
            .ok();
    let text = answer.text();
    assert!(text.contains("fanout=4") && text.contains("merge_width=10"), "{text}");
    let json = run(
        "simulate --data 580MB --empty --writes 300000 --settle --strategy size_tiered --format json",
    )
    .ok()
    .json();
    assert_eq!(json["simulations"][0]["user_bytes"], 300_000 * 116);
}

#[test]
fn a_strategy_is_recommended_with_reasons_and_options() {
    let answer = run("advise --data 20GB --hours 0.1 --prefer write").ok();
    let text = answer.text();
    assert!(text.contains("recommended: --option compaction="), "{text}");
    assert!(text.contains("* writes ") && text.contains("* a point read"), "{text}");
    let json =
        run("advise --data 5GB --keys time_series --ttl 1h --hours 0.1 --format json").ok().json();
    assert!(json["recommended"][0].as_str().unwrap().starts_with("compaction="), "{json}");
    let simulations = json["simulations"].as_array().unwrap();
    assert!(simulations.iter().any(|simulation| simulation["strategy"] == "time_window"));
}

#[test]
fn limits_that_nothing_keeps_are_refused_with_the_comparison() {
    let answer = run("advise --data 5GB --hours 0.1 --write-amp-max 1.5");
    let answer = answer.fails(6, &["limits", "--write-amp-max"]);
    assert!(answer.text().contains("size_tiered"));
}

#[test]
fn what_cannot_be_simulated_is_one_line() {
    for (wrong, code, word) in [
        ("simulate --data ten", 2, "10TB"),
        ("simulate --strategy nonsense", 2, "lazy_leveled"),
        ("simulate --update-share 2", 6, "update_share=2"),
        ("simulate --theta -1", 2, "--help"),
        ("simulate --hours 0", 2, "--hours"),
        ("simulate --option compaction=fifo", 2, "--strategy"),
        ("simulate --option read_mode=pread", 2, "read_mode"),
        ("simulate --option window_s=5", 6, "time_window"),
        ("simulate --option memtable_bytes=1", 6, "memtable_bytes=1"),
        ("simulate --ingest 0", 2, "100MB/s"),
        ("advise --trace /nonexistent/trace", 4, "/nonexistent/trace"),
    ] {
        run(wrong).fails(code, &[word]);
    }
}
