//! `put`, `get`, `delete`, `scan`, and how bytes become text.

use crate::support::Place;

#[test]
fn what_is_put_is_got_and_what_is_deleted_is_absent() {
    let place = Place::new();
    assert_eq!(place.run("put k v").ok().text(), "");
    assert_eq!(place.run("get k").ok().text(), "v\n");
    assert_eq!(place.run("get k --raw").ok().text(), "v");
    place.run("put k w").ok();
    assert_eq!(place.run("get k").ok().text(), "w\n");
    place.run("delete k").ok();
    place.run("delete k").ok();
    let absent = place.run("get k");
    assert_eq!((absent.code, absent.text(), absent.err.as_str()), (1, "", ""));
}

#[test]
fn an_entry_with_a_time_to_live_is_there_until_then() {
    let place = Place::new();
    place.run("put k v --ttl 1000000").ok();
    assert_eq!(place.run("get k").ok().text(), "v\n");
    place.run("put k v --ttl 7d").ok();
    place.run("put k v --ttl 0").fails(2, &["--ttl"]);
    assert_eq!(place.shell("put a 1 ttl=1000000\nget a\n"), ["ok", "= 1"]);
    assert_eq!(place.shell("batch 1\nput b 2 ttl=1000000\nget b\n"), ["ok", "= 2"]);
    place.run("flush").ok();
    assert_eq!(place.run("scan").ok().text(), "a\t1\nb\t2\nk\tv\n");
}

#[test]
fn empty_keys_and_values_are_entries() {
    let place = Place::new();
    place.run_with(&["put", "", ""]).ok();
    assert_eq!(place.run_with(&["get", ""]).ok().text(), "\n");
    assert_eq!(place.run("scan").ok().text(), "\t\n");
    assert_eq!(place.run("get x").code, 1);
}

#[test]
fn unprintable_bytes_are_escaped_and_read_back() {
    let place = Place::new();
    place.run_with(&["put", r"a\x00b", "tab\there\nand \\\\ and \\xff"]).ok();
    let shown = r"tab\x09here\x0aand \\ and \xff";
    assert_eq!(place.run_with(&["get", r"a\x00b"]).ok().text(), format!("{shown}\n"));
    assert_eq!(place.run("scan").ok().text(), format!("a\\x00b\t{shown}\n"));
    assert_eq!(
        place.run_with(&["get", "--raw", r"a\x00b"]).ok().out,
        b"tab\there\nand \\ and \xff"
    );
    place.run_with(&["put", r"a\q", "v"]).fails(2, &["KEY", "backslash"]);
}

#[test]
fn arguments_that_are_not_utf8_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let status = place.command().args(["put"]).arg(OsStr::from_bytes(b"\xff")).arg("v").status();
    assert!(status.unwrap().success());
    assert_eq!(place.run_with(&["get", r"\xff"]).ok().text(), "v\n");
}

#[test]
fn hex_goes_in_and_out() {
    let place = Place::new();
    place.run("--hex put 00fF 61").ok();
    assert_eq!(place.run("get --hex 00ff").ok().text(), "61\n");
    assert_eq!(place.run_with(&["get", r"\x00\xff"]).ok().text(), "a\n");
    assert_eq!(place.run("--hex scan").ok().text(), "00ff\t61\n");
    place.run("--hex put 0 61").fails(2, &["KEY", "odd"]);
    place.run("--hex put 61 zz").fails(2, &["VALUE", "hexadecimal"]);
}

#[test]
fn a_value_comes_from_a_file_or_from_standard_input() {
    let place = Place::new();
    let bytes = (0..=255).collect::<Vec<u8>>();
    let file = place.file_with("value", &bytes);
    place.run_with(&["put", "f", "--value-file", file.to_str().unwrap()]).ok();
    assert_eq!(place.run("get f --raw").ok().out, bytes);
    place.feed("put s --value-file -", "from\nstdin").ok();
    assert_eq!(place.run("get s --raw").ok().text(), "from\nstdin");
    place.run("put k --value-file /nowhere/at/all").fails(4, &["/nowhere/at/all"]);
    place.run("put k v --value-file x").fails(2, &[]);
    place.run("put k").fails(2, &["VALUE"]);
}

#[test]
fn every_durability_is_taken() {
    let place = Place::new();
    for durability in ["sync", "buffered", "async"] {
        place.run_with(&["put", durability, "v", "--durability", durability]).ok();
        assert_eq!(place.run_with(&["get", durability]).ok().text(), "v\n");
    }
    place.run("put k v --durability never").fails(2, &["never"]);
}

#[test]
fn hyphens_are_values_after_a_double_hyphen_and_negative_numbers_always() {
    let place = Place::new();
    place.run("put -1 -2.5").ok();
    assert_eq!(place.run("get -1").ok().text(), "-2.5\n");
    place.run("put -- --a -b").ok();
    assert_eq!(place.run("get -- --a").ok().text(), "-b\n");
}

fn letters() -> Place {
    let place = Place::new();
    let lines = ["a", "b", "c", "d", "e", "f", "g"].map(|c| format!("{c}\t{c}{c}\n")).concat();
    place.feed("load -", lines + "ab\tx\nac\ty\n").ok();
    place
}

fn keys(place: &Place, scan: &str) -> String {
    let arguments = format!("scan --keys-only {scan}");
    place.run(arguments.trim_end()).ok().lines().join(" ")
}

#[test]
fn scans_go_both_ways_and_exclude_their_end() {
    let place = letters();
    assert_eq!(keys(&place, ""), "a ab ac b c d e f g");
    assert_eq!(keys(&place, "--reverse"), "g f e d c b ac ab a");
    assert_eq!(keys(&place, "--from ab --to d"), "ab ac b c");
    assert_eq!(keys(&place, "--from ab --to d --reverse"), "c b ac ab");
    assert_eq!(keys(&place, "--from aa --to cc --reverse --limit 2"), "c b");
    assert_eq!(keys(&place, "--limit 2"), "a ab");
    assert_eq!(keys(&place, "--limit 0"), "");
    assert_eq!(keys(&place, "--from d --to b"), "");
    assert_eq!(keys(&place, "--from d --to d"), "");
}

#[test]
fn prefixes_combine_with_bounds_and_direction() {
    let place = letters();
    assert_eq!(keys(&place, "--prefix a"), "a ab ac");
    assert_eq!(keys(&place, "--prefix a --reverse"), "ac ab a");
    assert_eq!(keys(&place, "--prefix a --from ab"), "ab ac");
    assert_eq!(keys(&place, "--prefix a --to ac --reverse"), "ab a");
    assert_eq!(keys(&place, "--prefix a --from b"), "");
    assert_eq!(keys(&place, "--prefix x"), "");
}

#[test]
fn counts_are_numbers() {
    let place = letters();
    assert_eq!(place.run("scan --count").ok().text(), "9\n");
    assert_eq!(place.run("scan --count --prefix a --limit 2").ok().text(), "2\n");
    assert_eq!(place.run("scan --count --from z").ok().text(), "0\n");
}

#[test]
fn json_is_one_object_a_line() {
    let place = Place::new();
    place.run_with(&["put", "a\"b", r"x\x01y"]).ok();
    let line = place.run("scan --format json").ok();
    assert_eq!(line.lines().len(), 1);
    assert_eq!(line.json(), serde_json::json!({"key": "a\"b", "value": r"x\x01y"}));
    let keys = place.run("scan --format json --keys-only").ok();
    assert_eq!(keys.json(), serde_json::json!({"key": "a\"b"}));
    let get = place.run_with(&["get", "a\"b", "--format", "json", "--hex"]);
    assert_eq!(get.code, 2, "{get:?}");
    let get = place.run("get 612262 --format json --hex").ok();
    assert_eq!(get.json(), serde_json::json!({"key": "612262", "value": "780179"}));
}

#[test]
fn keyspaces_are_apart() {
    let place = Place::new();
    place.run("put k one").ok();
    place.run("--keyspace other put k two").ok();
    assert_eq!(place.run("get k").ok().text(), "one\n");
    assert_eq!(place.run("get k --keyspace other").ok().text(), "two\n");
    assert_eq!(place.run("keyspaces").ok().text(), "default\nother\n");
    place.run("keyspaces drop other").fails(2, &["--yes"]);
    place.run("keyspaces drop other --yes").ok();
    assert_eq!(place.run("keyspaces list").ok().text(), "default\n");
    place.run("get k --keyspace other").fails(6, &["other"]);
    place.run("delete k --keyspace other").fails(6, &["other"]);
    place.run("keyspaces drop other --yes").fails(6, &["other"]);
}
