//! Directories that somebody prepared: links, FIFOs, holes and odd names in place of files.
//!
//! An open ends soon, with an error that names the path or with what the files hold, and nothing outside of the
//! directory is created, written, cut or removed. What is promised is in `docs/threat-model.md`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use esker::{Db, DbOptions, ErrorKind};

use super::process::Share;
use crate::concurrency::guarded;

const KEYS: u64 = 400;

fn options() -> DbOptions {
    DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 128 << 10,
        ..DbOptions::default()
    }
}

fn open(dir: &Path) -> esker::Result<Db> {
    Db::builder().options(options()).open(dir)
}

fn write(db: &Db, round: u64) -> esker::Result<()> {
    (0..KEYS).try_for_each(|n| db.put(format!("key {n:05}"), format!("{n} in round {round}")))
}

/// A place with a closed database, and beside it what must not change.
struct Scene {
    place: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { place: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.outside()).unwrap();
        fs::write(scene.victim(), vec![7; 64 << 10]).unwrap();
        let db = open(&scene.dir()).unwrap();
        write(&db, 0).unwrap();
        db.flush().unwrap();
        db.put("in the log", "yes").unwrap();
        db.close().unwrap();
        scene
    }

    fn dir(&self) -> PathBuf {
        self.place.path().join("db")
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    fn victim(&self) -> PathBuf {
        self.outside().join("victim")
    }

    /// The names of the files of the database.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for part in ["LOCK", "CURRENT", "MANIFEST-", ".table", ".wal"] {
            assert!(names.iter().any(|name| name.contains(part)), "{part} in {names:?}");
        }
        names
    }

    /// What stands outside of the database.
    fn look_outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.outside()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    /// Opens, reads and writes, as far as that goes. What is outside stays as it is.
    fn use_it(&self, what: &str) -> esker::Result<()> {
        let before = self.look_outside();
        let used = open(&self.dir()).and_then(|db| {
            db.iter().try_for_each(|item| item.map(drop))?;
            // Enough for several segments, so that obsolete ones are recycled.
            (1..8).try_for_each(|round| write(&db, round))?;
            db.flush()?;
            db.compact_range::<&[u8]>(..)?;
            db.close()
        });
        assert!(self.look_outside() == before, "{what}: something outside was changed");
        used
    }

    fn expect_refusal(&self, name: &str, what: &str) {
        let path = self.dir().join(name);
        let reader = DbOptions { read_only: true, ..options() };
        let before = self.look_outside();
        let read = Db::builder().options(reader).open(self.dir()).map(drop);
        assert!(self.look_outside() == before, "{what}: something outside was changed");
        for result in [read, self.use_it(what)] {
            let error = result.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corruption, "{what}: {error}");
            assert_eq!(error.path(), Some(path.as_path()), "{what}: {error}");
            assert!(error.what().contains("regular"), "{what}: {error}");
            assert!(error.advice().is_some(), "{what}: {error}");
        }
    }
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed() {
    guarded(|| {
        for name in Scene::new().names() {
            let scene = Scene::new();
            let path = scene.dir().join(&name);
            // The file itself stands outside now: even what would be right is not read through a link.
            fs::rename(&path, scene.outside().join("moved")).unwrap();
            symlink("../outside/moved", &path).unwrap();
            scene.expect_refusal(&name, &format!("a link in place of {name}"));
            fs::remove_file(&path).unwrap();
            symlink("../outside/nothing", &path).unwrap();
            scene.expect_refusal(&name, &format!("a dangling link in place of {name}"));
        }
    });
}

#[test]
fn a_fifo_a_device_or_a_directory_in_place_of_a_file_is_refused_at_once() {
    guarded(|| {
        for name in Scene::new().names() {
            let scene = Scene::new();
            let path = scene.dir().join(&name);
            fs::remove_file(&path).unwrap();
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            scene.expect_refusal(&name, &format!("a FIFO in place of {name}"));
            fs::remove_file(&path).unwrap();
            symlink("/dev/zero", &path).unwrap();
            scene.expect_refusal(&name, &format!("a device in place of {name}"));
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            scene.expect_refusal(&name, &format!("a directory in place of {name}"));
        }
    });
}

/// The names that the next open and its writes may use, and that are not there yet.
fn next_names(scene: &Scene) -> Vec<String> {
    let numbers = scene.names().into_iter().filter_map(|name| {
        name.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
    });
    let last = numbers.max().unwrap();
    let mut names = vec!["CURRENT.tmp".to_owned()];
    for number in 1..last + 12 {
        names.push(format!("MANIFEST-{number:06}"));
        names.push(format!("{number:06}.table"));
        names.push(format!("{number:06}.wal"));
    }
    names
}

#[test]
fn links_under_names_that_will_be_used_lead_nowhere() {
    guarded(|| {
        for is_hard in [false, true] {
            let names = next_names(&Scene::new());
            for name in names.iter().map(Some).chain([None]) {
                let scene = Scene::new();
                for name in names.iter().filter(|other| name.is_none_or(|name| name == *other)) {
                    let path = scene.dir().join(name);
                    if path.exists() {
                        continue;
                    }
                    if is_hard {
                        fs::hard_link(scene.victim(), path).unwrap();
                    } else {
                        symlink("../outside/victim", path).unwrap();
                    }
                }
                // An error is fine, as is a database that passes over the link.
                let _ = scene.use_it(&format!("links named {name:?}, hard: {is_hard}"));
            }
        }
    });
}

#[test]
fn files_with_a_second_name_are_read_and_not_written_over() {
    guarded(|| {
        let scene = Scene::new();
        for name in scene.names() {
            fs::hard_link(scene.dir().join(&name), scene.outside().join(&name)).unwrap();
        }
        for round in 0..3 {
            scene.use_it(&format!("every file has a second name, round {round}")).unwrap();
        }
    });
}

#[test]
fn the_directory_itself_may_be_a_link() {
    let scene = Scene::new();
    let link = scene.place.path().join("link");
    symlink("db", &link).unwrap();
    let db = open(&link).unwrap();
    assert_eq!(db.get("in the log").unwrap().as_deref(), Some(&b"yes"[..]));
    db.close().unwrap();
}

#[test]
fn current_names_nothing_but_a_manifest_of_its_directory() {
    let scene = Scene::new();
    let manifest = scene.names().into_iter().find(|name| name.starts_with("MANIFEST-")).unwrap();
    fs::copy(scene.dir().join(&manifest), scene.outside().join(&manifest)).unwrap();
    let long = "x".repeat(4000);
    for name in [
        &format!("../outside/{manifest}"),
        &format!("./{manifest}"),
        &scene.outside().join(&manifest).display().to_string(),
        &format!("{manifest}\0"),
        "MANIFEST-../../etc/passwd",
        "MANIFEST-",
        "MANIFEST-+00001",
        "MANIFEST-18446744073709551615",
        "MANIFEST-99999999999999999999999999",
        "..",
        "",
        &long,
    ] {
        let text = format!("{name}\n{:08x}\n", crc32fast::hash(name.as_bytes()));
        fs::write(scene.dir().join("CURRENT"), text).unwrap();
        let error = scene.use_it(name).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corruption, "{name}: {error}");
        assert_eq!(error.path(), Some(scene.dir().join("CURRENT").as_path()), "{name}: {error}");
    }
}

#[test]
fn odd_names_are_foreign() {
    let scene = Scene::new();
    let names: [&[u8]; 9] = [
        b"18446744073709551615.table",
        b"18446744073709551614.wal",
        b"MANIFEST-18446744073709551615",
        b"9223372036854775807.table",
        b"000001.table\n",
        b"\xff\xfe.table",
        b"-00001.wal",
        b"..table",
        b"CURRENT.tmp.tmp",
    ];
    for name in names {
        fs::write(scene.dir().join(OsStr::from_bytes(name)), "foreign").unwrap();
    }
    scene.use_it("odd names").unwrap();
    for name in names {
        let left = fs::read(scene.dir().join(OsStr::from_bytes(name))).unwrap();
        assert_eq!(left, b"foreign", "{}", name.escape_ascii());
    }
}

/// Files that are a hole of a terabyte behind their bytes, or nothing else.
pub(super) fn sweep(share: &Share) {
    let sizes = [1u64 << 30, 1 << 40];
    let names = Scene::new().names();
    let cases = names.iter().flat_map(|name| {
        sizes.into_iter().flat_map(move |bytes| [false, true].map(|keep| (name, bytes, keep)))
    });
    for (number, (name, bytes, keep)) in (0..).zip(cases) {
        if !share.has(number) {
            continue;
        }
        share.begin(number, || format!("{name} of {bytes} bytes, with its own at first: {keep}"));
        let scene = Scene::new();
        let file = File::options().write(true).open(scene.dir().join(name)).unwrap();
        if !keep {
            file.set_len(0).unwrap();
        }
        file.set_len(bytes).unwrap();
        drop(file);
        let used = scene.use_it("a hole");
        // Nobody looks into LOCK. What follows the end of a log that was closed is nothing.
        if name != "LOCK" && !(keep && name.ends_with(".wal")) {
            let error = used.expect_err("a hole was taken for a file");
            assert!(error.path().is_some(), "{error}");
        }
    }
}
