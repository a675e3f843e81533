//! `checkpoint`, `backup`, `backups`, `restore`.

use crate::support::{Answer, Place, content, numbered, program};

/// The path of something beside the database, as an argument.
fn beside(place: &Place, name: &str) -> String {
    place.file(name).display().to_string()
}

/// Runs the program without a database.
fn alone(arguments: &[&str]) -> Answer {
    program().args(arguments).output().unwrap().into()
}

/// Everything in another database at the same place.
fn scan(place: &Place, name: &str) -> String {
    alone(&["--db", &beside(place, name), "scan"]).ok().text().to_owned()
}

#[test]
fn a_checkpoint_is_a_database_of_its_own_and_changes_nothing() {
    let place = Place::new();
    place.feed("load -", numbered(3000, |n| format!("k{n:04}\tv\n"))).ok();
    place.run("flush").ok();
    place.run("put later x").ok();
    let copy = beside(&place, "copy");
    let before = content(&place.db());
    let said = place.run_with(&["checkpoint", &copy, "--format", "json"]).ok().json();
    assert_eq!(content(&place.db()), before);
    assert_eq!((&said["tables_copied"], &said["tables_written"]), (&0.into(), &1.into()));
    assert!(said["tables_linked"].as_u64() > Some(0) && said["sequence"] == 3001, "{said}");
    let all = place.run("scan").ok();
    assert_eq!(scan(&place, "copy"), all.text());
    place.run("delete later").ok();
    place.run("compact").ok();
    assert_eq!(scan(&place, "copy"), all.text());
    let text = place.run_with(&["checkpoint", &beside(&place, "second")]).ok();
    assert!(text.text().starts_with("checkpoint at sequence 3002: linked 1 table"), "{text:?}");
    alone(&["--db", &copy, "verify"]).ok();
}

#[test]
fn checkpoints_into_the_wrong_place_are_refused() {
    let place = Place::new();
    place.run("put a b").ok();
    let inside = place.db().join("copy").display().to_string();
    place.run_with(&["checkpoint", &inside]).fails(6, &["within", "copy"]);
    let db = place.db().display().to_string();
    place.run_with(&["checkpoint", &db]).fails(6, &["within"]);
    let file = place.file_with("file", "x").display().to_string();
    place.run_with(&["checkpoint", &file]).fails(6, &["file"]);
    let full = place.file("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("notes"), "x").unwrap();
    place.run_with(&["checkpoint", &full.display().to_string()]).fails(6, &["not empty", "notes"]);
    place.run("checkpoint").fails(2, &["<DIR>"]);
    let missing = Place::new();
    missing.run_with(&["checkpoint", &beside(&missing, "copy")]).fails(4, &["db"]);
    assert!(!missing.file("copy").exists());
}

#[test]
fn links_lead_into_no_database_and_no_backup_directory() {
    let place = Place::new();
    place.run("put a b").ok();
    std::os::unix::fs::symlink(place.db(), place.file("link")).unwrap();
    let inside = place.file("link").join("x").display().to_string();
    for verb in [&["checkpoint", &inside][..], &["backup", &inside], &["repair", "--into", &inside]]
    {
        place.run_with(verb).fails(6, &["within", "x"]);
    }
    assert!(!place.db().join("x").exists());
    // Through the link of the database itself.
    let link = beside(&place, "link");
    let inside = place.db().join("x").display().to_string();
    alone(&["--db", &link, "checkpoint", &inside]).fails(6, &["within"]);
    // A database does not belong among backups.
    let backups = beside(&place, "backups");
    place.run_with(&["backup", &backups]).ok();
    let inside = format!("{backups}/sub");
    alone(&["--db", &inside, "restore", &backups]).fails(6, &["within"]);
    assert!(!place.file("backups").join("sub").exists());
}

#[test]
fn an_unfinished_copy_is_no_database_and_is_made_again() {
    let place = Place::new();
    place.run("put a b").ok();
    let copy = beside(&place, "copy");
    place.run_with(&["checkpoint", &copy]).ok();
    std::fs::write(place.file("copy").join("INCOMPLETE"), "").unwrap();
    for verb in ["scan", "verify"] {
        alone(&["--db", &copy, verb]).fails(6, &["unfinished", "INCOMPLETE", "again"]);
    }
    alone(&["--db", &copy, "put", "c", "d"]).fails(6, &["unfinished"]);
    place.run_with(&["checkpoint", &copy]).ok();
    assert_eq!(scan(&place, "copy"), "a\tb\n");
}

#[test]
fn backups_are_incremental_listed_verified_restored_and_removed() {
    let place = Place::new();
    place.feed("load -", numbered(3000, |n| format!("k{n:04}\tv\n"))).ok();
    let backups = beside(&place, "backups");
    let json = |arguments: &[&str]| {
        place.run_with(&[arguments, &["--format", "json"]].concat()).ok().json()
    };
    let first = json(&["backup", &backups]);
    assert_eq!((&first["id"], &first["tables_shared"]), (&1.into(), &0.into()));
    place.run("put later x").ok();
    let second = json(&["backup", &backups]);
    assert_eq!((&second["id"], &second["tables_copied"]), (&2.into(), &1.into()));
    assert_eq!(second["bytes_shared"], first["bytes_copied"]);
    let third = place.run_with(&["backup", &backups]).ok();
    assert!(third.text().starts_with("backup 3 at sequence 3001: copied 0 tables"), "{third:?}");

    // No database is needed for the rest.
    let list = alone(&["backups", &backups, "--format", "json"]).ok().json();
    let ids: Vec<_> = list["backups"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(ids, [&1, &2, &3]);
    let stored = first["bytes_copied"].as_u64().unwrap() + second["bytes_copied"].as_u64().unwrap();
    assert_eq!(list["stored_bytes"], stored);
    assert_eq!(list["backups"][1]["table_bytes"], stored);
    let text = alone(&["backups", &backups]).ok();
    assert!(
        text.lines()[0].split_whitespace().eq(["id", "created", "sequence", "tables", "bytes"])
    );
    assert_eq!(text.lines().len(), 5, "{text:?}");
    let verified = alone(&["backups", &backups, "--verify"]).ok();
    assert!(verified.text().contains("3 backups, 2 tables"), "{verified:?}");

    let all = place.run("scan").ok().text().to_owned();
    alone(&["--db", &beside(&place, "old"), "restore", &backups, "--id", "1"]).ok();
    let latest = ["--db", &beside(&place, "new"), "restore", &backups, "--format", "json"];
    assert_eq!(alone(&latest).ok().json()["id"], 3);
    assert_eq!(scan(&place, "new"), all);
    assert_eq!(scan(&place, "old"), all.replace("later\tx\n", ""));
    alone(&["--db", &beside(&place, "new"), "verify"]).ok();

    assert_eq!(json(&["backups", &backups, "--remove", "1"])["tables_removed"], 0);
    assert_eq!(json(&["backups", &backups, "--remove", "2"])["tables_removed"], 0);
    let last = place.run_with(&["backups", &backups, "--remove", "3"]).ok();
    assert!(last.text().starts_with("removed backup 3: freed 2 tables"), "{last:?}");
}

#[test]
fn what_cannot_be_restored_or_removed_says_why() {
    let place = Place::new();
    place.run("put a b").ok();
    let backups = beside(&place, "backups");
    place.run_with(&["backup", &backups]).ok();
    let new = beside(&place, "new");
    let restore = |more: &[&str]| alone(&[&["--db", &new, "restore", &backups], more].concat());
    restore(&["--id", "7"]).fails(6, &["no backup 7", "list"]);
    place.run_with(&["restore", &backups]).fails(6, &["not empty"]);
    alone(&["--db", &new, "restore", "/none"]).fails(4, &["no backups", "/none"]);
    place.run_with(&["backups", "/none"]).fails(4, &["no backups", "/none"]);
    place.run_with(&["backups", &backups, "--remove", "9"]).fails(6, &["no backup 9"]);
    place.run_with(&["backups", &backups, "--remove", "1", "--verify"]).fails(2, &["--verify"]);
    let db = place.db().display().to_string();
    place.run_with(&["backups", &db]).fails(6, &["holds no backups"]);
    place.run_with(&["backup", &db]).fails(6, &["within"]);
    alone(&["restore", &backups]).fails(2, &["--db"]);

    // Damage: named, with exit code 3, and nothing is made of it.
    let mut files =
        std::fs::read_dir(place.file("backups")).unwrap().map(|entry| entry.unwrap().path());
    let table = files.find(|path| path.extension().is_some_and(|end| end == "table")).unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let name = table.file_name().unwrap().to_str().unwrap();
    restore(&[]).fails(3, &[name, "checksum"]);
    assert!(!place.file("new").exists());
    std::fs::create_dir(&new).unwrap();
    restore(&[]).fails(3, &[name, "checksum"]);
    assert_eq!(std::fs::read_dir(&new).unwrap().count(), 0);
    let verify = place.run_with(&["backups", &backups, "--verify"]).fails(3, &["one problem"]);
    assert!(verify.text().contains(name), "{verify:?}");
    std::fs::remove_file(&table).unwrap();
    let missing = restore(&[]).fails(3, &[name, "another backup"]);
    assert!(!missing.err.contains("repair"), "{missing:?}");
    std::fs::write(place.file("backups").join("BACKUP-000001"), "x").unwrap();
    let list = place.run_with(&["backups", &backups]).fails(3, &["one problem"]);
    assert!(list.text().contains("BACKUP-000001"), "{list:?}");
}
