//! `verify`, `repair` and `inspect` on whole and damaged files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Answer, Place, content, numbered, program};

/// A database with a table and a log.
fn place() -> Place {
    let place = Place::new();
    let lines = numbered(2000, |n| format!("put k{n:05} value-{n}\n"));
    place.feed("shell", lines + "flush\n").ok();
    // With a log of its own: what the first one held is in the table only.
    place.shell("put late 1\n");
    place
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

#[test]
fn verify_names_every_damaged_file_of_a_database_that_cannot_be_opened() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    flip(&table, 1000);
    fs::write(place.db().join("CURRENT"), "nonsense").unwrap();
    fs::write(place.db().join("notes.txt"), "of somebody").unwrap();
    let before = content(&place.db());
    let verify = place.run("verify").fails(3, &["2 problems", "repair"]);
    for line in ["CURRENT:", "000", "note: notes.txt"] {
        assert!(verify.lines().iter().any(|found| found.contains(line)), "no {line} in {verify:?}");
    }
    assert_eq!(content(&place.db()), before);
}

/// Where the blocks of a table lie, and its other parts.
fn parts(place: &Place, table: &Path, what: &str) -> Vec<usize> {
    let shown = place.run(&format!("inspect table {} --format json", table.display())).ok();
    let items = shown.lines().into_iter().map(|line| serde_json::from_str(line).unwrap());
    items
        .filter(|item: &serde_json::Value| item["what"] == what)
        .map(|item| item["offset"].as_u64().unwrap() as usize)
        .collect()
}

#[test]
fn verify_names_every_damaged_place_of_a_table() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    let blocks = parts(&place, &table, "block");
    let filter = parts(&place, &table, "filter")[0];
    assert!(blocks.len() > 3, "{blocks:?}");
    for at in [blocks[0], blocks[2], *blocks.last().unwrap(), filter] {
        flip(&table, at + 9);
    }
    let verify = place.run("verify").fails(3, &["4 problems"]);
    let name = table.file_name().unwrap().to_str().unwrap();
    for (line, at) in
        verify.lines().into_iter().zip([blocks[0], blocks[2], *blocks.last().unwrap(), filter])
    {
        assert!(line.contains(&format!("{name}:{at}: ")), "no {at} in {verify:?}");
    }
    // Each part by itself: without a good footer too.
    flip(&table, fs::metadata(&table).unwrap().len() as usize - 20);
    let verify = place.run("verify").fails(3, &["4 problems"]);
    assert!(verify.text().contains("footer") && !verify.text().contains("filter"), "{verify:?}");
}

#[test]
fn a_table_of_another_length_is_one_problem() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    let whole = fs::read(&table).unwrap();
    for bytes in [&whole[..whole.len() - 7], &[&whole[..], b"more"].concat()] {
        fs::write(&table, bytes).unwrap();
        let verify = place.run("verify").fails(3, &["one problem"]);
        assert!(verify.text().contains("bytes long instead of"), "{verify:?}");
    }
}

#[test]
fn of_many_damaged_places_the_number_is_told() {
    let place = Place::new();
    let lines = numbered(5000, |n| format!("put k{n:05} value-{n}\n"));
    place.feed("--option block_bytes=512 shell", lines + "flush\n").ok();
    let table = place.files(".table").pop().unwrap();
    let blocks = parts(&place, &table, "block");
    assert!(blocks.len() > 100);
    for at in &blocks {
        flip(&table, at + 9);
    }
    let verify = place.run("verify").fails(3, &["101 problems"]);
    let more = format!("and {} more damaged places", blocks.len() - 100);
    assert!(verify.text().contains(&more), "{verify:?}");
}

#[test]
fn repair_keeps_what_is_readable_and_the_originals() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    flip(&table, 1000);
    let damaged = fs::read(&table).unwrap();
    let before = content(&place.db());
    let dry = place.run("repair --dry-run --format json").ok().json();
    assert_eq!((&dry["needed"], &dry["lossless"]), (&true.into(), &false.into()), "{dry}");
    assert_eq!(dry["lost_ranges"].as_array().unwrap().len(), 1);
    assert_eq!(content(&place.db()), before);

    let repair = place.run("repair").ok();
    assert!(repair.text().contains("may be missing"), "{repair:?}");
    let name = table.file_name().unwrap();
    assert_eq!(fs::read(place.db().join("lost-1").join(name)).unwrap(), damaged);
    place.run("verify").ok();
    let kept: usize = place.run("scan --count").ok().text().trim().parse().unwrap();
    // What the log still has comes back too.
    assert!(kept > 1000 && kept <= 2001, "{kept}");
    assert_eq!(place.run("get late").ok().text(), "1\n");
    assert!(place.run("repair").ok().text().contains("nothing is damaged"));
}

#[test]
fn what_a_repair_said_stands_beside_the_originals() {
    let place = place();
    flip(&place.files(".table").pop().unwrap(), 1000);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = place.command();
    let repair: Answer = command.arg("repair").stdout(full).output().unwrap().into();
    assert_eq!(repair.code, 4, "{repair:?}");
    let report = fs::read_to_string(place.db().join("lost-1/REPORT.txt")).unwrap();
    assert!(report.contains("may be missing") && report.contains("originals are in"), "{report}");

    // Removes the damaged table, which nothing names any more.
    place.run("flush").ok();
    let mut tables = place.files(".table");
    tables.sort_by_key(|path| fs::metadata(path).unwrap().len());
    flip(&tables.pop().unwrap(), 1000);
    let said = place.run("repair --format json").ok().json();
    let path = said["report"].as_str().unwrap();
    assert!(path.ends_with("lost-2/REPORT.txt"), "{said}");
    assert!(fs::read_to_string(path).unwrap().contains("may be missing"));
    let dry = place.run("repair --dry-run --format json").ok().json();
    assert!(dry["report"].is_null());
}

#[test]
fn a_whole_database_is_copied_by_a_repair_into_another_directory() {
    let place = place();
    let target = place.file("repaired");
    let text = target.to_str().unwrap();
    place.run(&format!("repair --dry-run --into {text}")).ok();
    assert!(!target.exists());
    let repair = place.run(&format!("repair --into {text}")).ok();
    assert!(repair.text().contains("nothing is damaged: made a checkpoint in "), "{repair:?}");
    let scan: Answer = program().args(["--db", text, "scan", "--count"]).output().unwrap().into();
    assert_eq!(scan.ok().text(), "2001\n");
    place.run(&format!("repair --into {text}")).fails(6, &["not empty"]);
}

#[test]
fn a_missing_segment_of_the_log_is_named_and_no_other() {
    let place = Place::new();
    let options = "--option wal_segment_bytes=65536 --option memtable_bytes=1048576";
    let lines = numbered(4000, |n| format!("k{n:06}\tvalue {n}\n"));
    for _ in 0..2 {
        place.feed(&format!("{options} load -"), lines.clone()).ok();
    }
    let segments = place.files(".wal");
    assert!(segments.len() > 3, "{segments:?}");
    let (before, lost) = (&segments[1], &segments[2]);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let bytes = fs::read(lost).unwrap();
    let zeros = vec![0; bytes.len()];
    for damaged in [None, Some(&b""[..]), Some(&zeros)] {
        match damaged {
            None => fs::remove_file(lost).unwrap(),
            Some(bytes) => fs::write(lost, bytes).unwrap(),
        }
        let verify = place.run("verify").fails(3, &["one problem"]);
        assert!(verify.text().contains(&name(lost)), "{verify:?}");
        assert!(!verify.text().contains(&name(before)), "{verify:?}");
    }
    // The last one is named by the manifest alone.
    fs::write(lost, bytes).unwrap();
    let last = segments.last().unwrap();
    fs::remove_file(last).unwrap();
    let verify = place.run("verify").fails(3, &["one problem"]);
    assert!(verify.text().contains(&name(last)), "{verify:?}");
}

#[test]
fn repair_into_another_directory_touches_nothing() {
    let place = place();
    fs::remove_file(place.db().join("CURRENT")).unwrap();
    place.run("get late").fails(3, &["CURRENT"]);
    let before = content(&place.db());
    let target = place.file("repaired");
    let text = target.to_str().unwrap();
    let repair = place.run(&format!("repair --into {text}")).ok();
    assert!(repair.text().contains("nothing is lost"), "{repair:?}");
    assert_eq!(content(&place.db()), before);
    let get: Answer = program().args(["--db", text, "get", "late"]).output().unwrap().into();
    assert_eq!((get.code, get.text()), (0, "1\n"));
    place.run(&format!("repair --into {text}")).fails(6, &["not empty"]);
    Place::new().run("repair").fails(4, &["no such directory"]);
}

#[test]
fn inspect_decodes_files_and_ends_at_damage() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    let path = table.to_str().unwrap();
    let shown = place.run(&format!("inspect table {path}")).ok();
    for what in ["header", "block", "filter", "index", "properties", "footer"] {
        assert!(shown.lines().iter().any(|line| line.contains(what)), "no {what} in {shown:?}");
    }
    let entries = place.run(&format!("inspect table {path} --entries --hex --format json")).ok();
    let count = entries.lines().iter().filter(|line| line.contains(r#""what":"entry""#)).count();
    assert_eq!(count, 2000);
    assert!(entries.text().contains(r#""key":"6b3030303030""#));
    for line in entries.lines() {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(item["offset"].is_u64() && item["what"].is_string());
    }
    let log = place.files(".wal").pop().unwrap();
    let shown = place.run(&format!("inspect wal {}", log.to_str().unwrap())).ok();
    assert!(shown.text().contains("key=late") && shown.text().contains("close"), "{shown:?}");
    let names = fs::read_dir(place.db()).unwrap().map(|entry| entry.unwrap().path());
    let manifest = names.into_iter().find(|p| p.to_str().unwrap().contains("MANIFEST")).unwrap();
    let shown = place.run(&format!("inspect manifest {}", manifest.to_str().unwrap())).ok();
    assert!(shown.text().contains("table_added") && shown.text().contains("name=default"));

    // A copy outside any database, damaged in a block.
    let copy = place.file("copy");
    fs::copy(&table, &copy).unwrap();
    flip(&copy, 1000);
    let shown = place.run(&format!("inspect table {}", copy.to_str().unwrap()));
    let shown = shown.fails(3, &["checksum", "offset"]);
    assert!(shown.text().contains("checksum=bad") && shown.text().contains("footer"));
    place.run(&format!("inspect wal {path}")).fails(6, &["of kind table", "inspect table"]);
    place.run(&format!("inspect wal {}", place.db().display())).fails(6, &["a directory"]);
    let text =
        place.file_with("text", "nothing that esker wrote, of more than one line\n".repeat(9));
    place.run(&format!("inspect wal {}", text.display())).fails(3, &["header"]);
    place.run("inspect manifest /nowhere/at/all").fails(4, &["/nowhere"]);
    place.run("inspect nonsense x").fails(2, &[]);
}

#[test]
fn inspect_follows_the_blocks_of_a_table_without_a_footer() {
    let place = place();
    let table = place.files(".table").pop().unwrap();
    let blocks = parts(&place, &table, "block");
    let whole = fs::read(&table).unwrap();
    let copy = place.file("copy");
    let inspect = || place.run(&format!("inspect table {} --entries", copy.display()));
    let count = |answer: &Answer, what: &str| {
        answer.lines().iter().filter(|line| line.contains(&format!("  {what}  "))).count()
    };
    // The footer is damaged, its last byte but one.
    fs::write(&copy, &whole).unwrap();
    flip(&copy, whole.len() - 2);
    let shown = inspect().fails(3, &["copy"]);
    assert_eq!((count(&shown, "block"), count(&shown, "entry")), (blocks.len(), 2000));
    assert_eq!((count(&shown, "filter"), count(&shown, "properties")), (1, 1), "{shown:?}");
    // The index is.
    fs::write(&copy, &whole).unwrap();
    flip(&copy, parts(&place, &table, "index")[0] + 3);
    let shown = inspect().fails(3, &["index checksum"]);
    assert_eq!((count(&shown, "block"), count(&shown, "entry")), (blocks.len(), 2000));
    // The file is cut in its third block.
    fs::write(&copy, &whole[..blocks[2] + 1000]).unwrap();
    let shown = inspect().fails(3, &["copy"]);
    assert_eq!((count(&shown, "block"), count(&shown, "filter")), (2, 0), "{shown:?}");
}

/// It was opened to see of what kind it is, and that waits for somebody who writes.
#[test]
fn inspect_does_not_wait_for_a_fifo() {
    let place = Place::new();
    let fifo = place.file("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = Command::new("timeout");
    command.arg("20").arg(assert_cmd::cargo::cargo_bin!("engine-cli"));
    let answer: Answer = command.args(["inspect", "table"]).arg(&fifo).output().unwrap().into();
    assert_eq!(answer.code, 3, "{answer:?}");
}
