//! `bench` and `demo`.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{Answer, Place, Talk, program};

const FIELDS: [&str; 21] = [
    "engine", "wl", "n", "threads", "ops", "found", "secs", "kops", "p50us", "p99us", "p999us",
    "maxus", "cpu", "wMB", "wMBclose", "wcharMB", "spaceMB", "rssMB", "open_ms", "settle_s", "tag",
];

fn bench(place: &Place, arguments: &str) -> Vec<serde_json::Value> {
    let answer = place.run(&format!("bench {arguments}")).ok();
    answer.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_has_the_peers_fields_in_their_order() {
    let place = Place::new();
    let answer = place.run("bench fillseq --n 100 --tag t1").ok();
    assert_eq!(answer.lines().len(), 1);
    let mut at = 0;
    for field in FIELDS {
        let name = format!("\"{field}\":");
        let found = answer.text()[at..].find(&name);
        at += found.unwrap_or_else(|| panic!("{field} is missing or misplaced: {answer:?}"));
    }
    let line = answer.json();
    assert_eq!(
        (&line["engine"], &line["wl"], &line["tag"]),
        (&"esker".into(), &"fillseq".into(), &"t1".into())
    );
}

#[test]
fn every_workload_runs_on_what_the_first_filled() {
    let place = Place::new();
    let names = "fillseq readrandom readmissing readzipf seekscan revscan scanall overwrite mixed ycsba ycsbb \
                 ycsbc ycsbd ycsbe ycsbf rww fillsync batchload fillrandom compact open";
    let names = names.split_whitespace().collect::<Vec<_>>();
    let lines =
        bench(&place, &format!("{} --n 200 --threads 2 --len 10 --settle 1", names.join(" ")));
    assert_eq!(lines.iter().map(|line| line["wl"].as_str().unwrap()).collect::<Vec<_>>(), names);
    let line = |name| lines.iter().find(|line| line["wl"] == name).unwrap();
    assert_eq!(line("fillseq")["ops"], 200);
    assert_eq!(line("readrandom")["found"], 200);
    assert_eq!(line("readmissing")["found"], 0);
    assert_eq!(line("readzipf")["found"], 200);
    assert_eq!((&line("scanall")["found"], &line("scanall")["ops"]), (&200.into(), &200.into()));
    assert!(line("seekscan")["found"].as_u64().unwrap() > 1000);
    assert!(line("revscan")["found"].as_u64().unwrap() > 1000);
    assert!(line("rww")["writes"].is_u64());
    assert_eq!((&line("compact")["ops"], &line("open")["ops"]), (&1.into(), &1.into()));
    // YCSB D and E put new keys above the old ones.
    assert!(place.run("scan --count --from 0000000000000200").ok().text().trim() != "0");
}

#[test]
fn keys_are_sixteen_digits_below_the_bound() {
    let place = Place::new();
    bench(&place, "fillrandom --n 500 --keys 20 --vs 10");
    let scan = place.run("--hex scan").ok();
    assert_eq!(scan.lines().len(), 20);
    assert_eq!(place.run("scan --keys-only --reverse --limit 1").ok().text(), "0000000000000019\n");
    let value = place.run("--hex get 30303030303030303030303030303139").ok();
    let value = value.text().trim();
    assert_eq!((value.len(), &value[..10]), (20, &value[10..]));
}

#[test]
fn fresh_removes_a_database_and_nothing_else() {
    let place = Place::new();
    place.run("put old v").ok();
    bench(&place, "fillseq --n 10");
    assert_eq!(place.run("get old").ok().text(), "v\n");
    bench(&place, "fillseq --n 10 --fresh 1");
    assert_eq!(place.run("get old").code, 1);
    let mut talk = Talk::start(&place, &[]);
    assert_eq!(talk.ask("get old"), "-");
    place.run("bench fillseq --n 10 --fresh 1").fails(5, &[place.db().to_str().unwrap()]);
    talk.end().ok();
    fs::write(place.db().join("letters.txt"), "dear").unwrap();
    place.run("bench fillseq --n 10 --fresh 1").fails(6, &["letters.txt"]);
    assert_eq!(place.run("scan --count").ok().text(), "10\n");
}

#[test]
fn a_crash_keeps_what_was_written() {
    let place = Place::new();
    let crashed = place.run("bench fillseq --n 1000 --crash 1");
    assert_eq!(crashed.code, -1);
    assert_eq!(crashed.json()["ops"], 1000);
    assert_eq!(place.run("scan --count").ok().text(), "1000\n");
}

#[test]
fn flags_are_options_of_the_keyspace() {
    let place = Place::new();
    bench(&place, "fillseq --n 2000 --mem 1 --comp zstd");
    bench(&place, "readrandom --n 20");
    let stats = place.run("stats --format json").ok().json();
    let options = stats["keyspaces"][0]["options"].to_string();
    for pair in [r#"["memtable_bytes","1048576"]"#, r#"["compression","zstd"]"#] {
        assert!(options.contains(pair), "no {pair} in {options}");
    }
    place.run("bench fillseq --n 10 --comp lz4").fails(6, &["lz4"]);
}

fn tree(place: &Place) -> std::path::PathBuf {
    let root = place.file("root");
    for dir in 0..8 {
        let dir = root.join(format!("dir-{dir}/below"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..60 {
            fs::write(dir.join(format!("file-{file}")), vec![b'x'; file]).unwrap();
        }
    }
    symlink("/", root.join("link-to-the-root")).unwrap();
    root
}

#[test]
fn the_demo_checks_everything_in_a_directory_of_its_own() {
    let place = Place::new();
    let root = tree(&place);
    let mut command = program();
    let answer: Answer = command.arg("demo").arg(&root).output().unwrap().into();
    let answer = answer.ok();
    assert!(answer.text().contains("temporary, removed at the end"), "{answer:?}");
    assert!(answer.lines().last().unwrap().contains("everything checked"), "{answer:?}");
    // 1 root, 8 directories, 8 below them, 480 files, 1 link that is not followed.
    assert!(answer.text().contains("498"), "{answer:?}");
    let dir = answer.lines()[0].split(' ').nth(2).unwrap().to_owned();
    assert!(!std::path::Path::new(&dir).exists(), "{dir}");
}

#[test]
fn the_demo_keeps_a_database_that_is_named_and_leaves_a_full_one_alone() {
    let place = Place::new();
    let root = tree(&place);
    let root = root.to_str().unwrap();
    let first = place.run_with(&["demo", root, "--format", "json"]).ok();
    let stages = first.lines().into_iter().map(|line| serde_json::from_str(line).unwrap());
    let stages = stages.collect::<Vec<serde_json::Value>>();
    let checked = stages.last().unwrap();
    assert_eq!(checked["stage"], "checked");
    let count = place.run("scan --count").ok().text().trim().to_owned();
    assert_eq!(count, checked["entries"].to_string());
    place.run_with(&["demo", root]).fails(6, &["not empty"]);
    place.run("demo /nowhere/at/all").fails(4, &["/nowhere/at/all"]);
    assert_eq!(place.run("scan --count").ok().text().trim(), count);
}

/// A store into a map dirties the whole page-cache folio; were that a large one, each sync would write it all.
#[test]
fn a_sync_writes_a_few_pages_and_not_a_whole_folio() {
    let place = Place::new();
    for mode in ["map", "write"] {
        let arguments = format!("bench fillsync --n 500 --fresh 1 --option wal_mode={mode}");
        let answer = place.run(&arguments).ok();
        let written_mb = answer.json()["wMB"].as_u64().unwrap();
        // 500 syncs of one page, and of two where a record crosses a page, are 2 to 4 MB; of 1 MiB folios, 500.
        assert!(written_mb <= 8, "{mode}: 500 syncs wrote {written_mb} MB");
    }
}
