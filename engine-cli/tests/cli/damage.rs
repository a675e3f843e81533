//! `verify`, `repair` and `inspect` on whole and damaged files.

use std::fs;
use std::path::Path;

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
    place.run(&format!("inspect wal {path}")).fails(3, &["header"]);
    place.run("inspect manifest /nowhere/at/all").fails(4, &["/nowhere"]);
    place.run("inspect nonsense x").fails(2, &[]);
}
