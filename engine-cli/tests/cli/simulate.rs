//! `simulate` and `advise`: predictions without a database.

use crate::support::{Answer, Place, Talk, program};

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
    assert!(text.contains("leveled fanout=4"), "{text}");
    // What is as by default only makes the table wide.
    assert!(!text.contains("merge_width"), "{text}");
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
        ("simulate --data 0", 2, "above 0"),
        ("simulate --ttl 0.5s", 2, "a second at least"),
        ("simulate --ttl 0", 2, "a second at least"),
        ("advise --space-amp-max NaN", 2, "above 0"),
        ("advise --write-amp-max 0", 2, "above 0"),
        ("advise --drop-above 0", 2, "above 0"),
        ("advise --option compaction=fifo", 2, "compares all"),
        ("advise --trace /", 4, "record_workload"),
        ("advise --trace /nonexistent/trace", 4, "/nonexistent/trace"),
    ] {
        run(wrong).fails(code, &[word]);
    }
}

#[test]
fn columns_are_explained_and_fifo_is_said_to_drop_live_data() {
    let text = run("simulate --data 1GB --hours 0.1").ok();
    let text = text.text();
    assert!(text.contains("write amp: bytes written for each byte of yours"), "{text}");
    assert!(!text.contains("drops live data"), "{text}");
    let fifo =
        run("simulate --data 1GB --hours 0.1 --strategy fifo --option total_bytes_max=1000000")
            .ok();
    assert!(fifo.text().contains("fifo drops live data by design"), "{fifo:?}");
}

#[test]
fn live_data_is_dropped_only_where_that_is_allowed() {
    let all = |json: &serde_json::Value| -> Vec<String> {
        let simulations = json["simulations"].as_array().unwrap().iter();
        simulations.map(|each| each["strategy"].as_str().unwrap().to_owned()).collect()
    };
    let kept = run("advise --data 2GB --hours 0.1 --prefer write --format json").ok().json();
    assert!(!all(&kept).contains(&"fifo".to_owned()), "{kept}");
    // A cache that is bounded: what keeps everything takes too much.
    let cache = "advise --data 2GB --update-share 0 --hours 0.1 --drop-above 1GB";
    let text = run(cache).ok();
    let text = text.text();
    assert!(text.contains("recommended: --option compaction=fifo"), "{text}");
    assert!(text.contains("total_bytes_max=1000000000"), "{text}");
    assert!(text.contains("drops data by design: the oldest"), "{text}");
}

#[test]
fn a_small_database_is_told_that_the_choice_hardly_matters() {
    let small = run("advise --data 10MB --ingest 1MB/s --hours 0.1").ok();
    assert!(small.text().contains("hardly matters"), "{small:?}");
    let large = run("advise --data 5GB --hours 0.1").ok();
    assert!(!large.text().contains("hardly matters"), "{large:?}");
}

#[test]
fn what_is_no_trace_is_named_with_what_to_do() {
    let place = Place::new();
    let empty = place.file_with("empty", "");
    let text = place.file_with("text", "a\tb\n".repeat(100));
    for file in [empty, text] {
        let answer = place.run_with(&["advise", "--trace", file.to_str().unwrap()]);
        answer.fails(3, &[file.to_str().unwrap(), "record_workload=FILE"]);
    }
}

#[test]
fn a_workload_that_expires_when_recorded_does_not_allow_to_drop() {
    let place = Place::new();
    let trace = place.file("app.trace");
    let option = format!("record_workload={}", trace.display());
    let mut talk = Talk::start(&place, &["--option", &option]);
    for number in 0..200 {
        assert_eq!(talk.ask(&format!("put k{number} v ttl=3600")), "ok");
    }
    talk.end().ok();
    let trace = trace.to_str().unwrap();
    let advise = |more: &[&str]| {
        let arguments = [&["advise", "--hours", "0.01", "--trace", trace], more].concat();
        place.run_with(&arguments).ok().text().contains("fifo")
    };
    assert!(!advise(&[]));
    assert!(advise(&["--ttl", "1h"]));
}

#[test]
fn a_report_of_something_else_names_it() {
    let place = Place::new();
    let empty = place.file_with("empty", "");
    place.run_with(&["report", empty.to_str().unwrap()]).fails(6, &[empty.to_str().unwrap()]);
    let binary = place.file_with("binary", [0xff, 0xfe, 0x00]);
    place.run_with(&["report", binary.to_str().unwrap()]).fails(6, &["line 1"]);
    let cut = place.file_with("cut", "{\"line\":\"sample\",\"load\":");
    place.run_with(&["report", cut.to_str().unwrap()]).fails(6, &["line 1", "cut"]);
}
