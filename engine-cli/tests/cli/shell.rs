//! The shell on a pipe: the protocol, line by line.

use crate::support::{Place, Talk};

#[test]
fn puts_gets_and_deletes() {
    let place = Place::new();
    let answers = place.shell(
        "put a 1\nget a\nget b\nput a 2 sync\ndel a buffered\nget a\nput b 3 async\nget b\n",
    );
    assert_eq!(answers, ["ok", "= 1", "-", "ok", "ok", "-", "ok", "= 3"]);
    assert_eq!(place.run("scan").ok().text(), "b\t3\n");
}

#[test]
fn an_empty_token_is_an_empty_key_or_value() {
    let place = Place::new();
    let answers = place.shell("put  v\nget \nput k \nget k\nput  \nget \nscan . . 9\ndel \nget \n");
    assert_eq!(answers, ["ok", "= v", "ok", "= ", "ok", "= ", "=  ", "= k ", "end 2", "ok", "-"]);
}

#[test]
fn each_answer_is_there_before_the_next_line_is_asked() {
    let place = Place::new();
    let mut talk = Talk::start(&place, &[]);
    assert_eq!(talk.ask("put a 1"), "ok");
    assert_eq!(talk.ask("get a"), "= 1");
    assert_eq!(talk.ask("nonsense").split(' ').take(2).collect::<Vec<_>>(), ["err", "invalid"]);
    talk.send("scan . . 5");
    assert_eq!((talk.read(), talk.read()), ("= a 1".to_owned(), "end 1".to_owned()));
    talk.send("quit");
    assert_eq!(talk.end().ok().text(), "");
}

#[test]
fn scans_have_open_ends_limits_and_both_directions() {
    let place = Place::new();
    place.shell("put a 1\nput b 2\nput c 3\nput d 4\n");
    let scan = |line: &str| place.shell(&format!("{line}\n")).join("|");
    assert_eq!(scan("scan . . 10"), "= a 1|= b 2|= c 3|= d 4|end 4");
    assert_eq!(scan("scan b d 10"), "= b 2|= c 3|end 2");
    assert_eq!(scan("scan b . 2"), "= b 2|= c 3|end 2");
    assert_eq!(scan("rscan b d 10"), "= c 3|= b 2|end 2");
    assert_eq!(scan("rscan . c 1"), "= b 2|end 1");
    assert_eq!(scan("rscan . . 2"), "= d 4|= c 3|end 2");
    assert_eq!(scan("scan d b 10"), "end 0");
    assert_eq!(scan("scan b b 10"), "end 0");
    assert_eq!(scan("scan . . 0"), "end 0");
    assert_eq!(scan("scan .  10"), "end 0");
}

#[test]
fn a_batch_is_one_answer_and_all_or_nothing() {
    let place = Place::new();
    let answers = place.shell("put x 0\nbatch 3\nput a 1\nput b 2\ndel x\nscan . . 9\n");
    assert_eq!(answers, ["ok", "ok", "= a 1", "= b 2", "end 2"]);
    let answers = place.shell("batch 3 sync\nput c 3\nget a\nput d 4\nget c\nget d\n");
    assert_eq!(answers.len(), 3);
    assert!(answers[0].starts_with("err invalid "), "{answers:?}");
    assert_eq!(answers[1..], ["-", "-"]);
    assert_eq!(place.shell("batch 0\n"), ["ok"]);
    // The lines of a batch with a wrong durability are taken all the same.
    let answers = place.shell("batch 1 never\nput e 5\nget e\n");
    assert!(
        answers.len() == 2 && answers[0].starts_with("err ") && answers[1] == "-",
        "{answers:?}"
    );
    let answers = place.shell("batch 1\nput f 6 sync\nbatch x\nget f\n");
    assert!(answers[0].starts_with("err ") && answers[1].starts_with("err "), "{answers:?}");
    assert_eq!(answers[2..], ["-"]);
}

#[test]
fn the_last_write_of_a_key_in_a_batch_wins() {
    let place = Place::new();
    let answers =
        place.shell("batch 3\nput a 1\ndel a\nput a 2\nget a\nbatch 2\nput a 3\ndel a\nget a\n");
    assert_eq!(answers, ["ok", "= 2", "ok", "-"]);
}

#[test]
fn an_unfinished_batch_is_not_applied() {
    let place = Place::new();
    let answers = place.shell("batch 2\nput a 1\n");
    assert!(answers.len() == 1 && answers[0].starts_with("err invalid "), "{answers:?}");
    assert_eq!(place.run("get a").code, 1);
}

#[test]
fn snapshots_see_their_moment_in_every_keyspace() {
    let place = Place::new();
    let answers = place.shell(
        "put a 1\nkeyspace other\nput a x\nsnap s\nput a y\ndel b\nput b z\nget a\nget@s a\nget@s b\n\
         scan@s . . 9\nrscan@s . . 9\nkeyspace default\nput a 2\nget a\nget@s a\ndrop s\nget@s a\n",
    );
    let expected = [
        "ok", "ok", "ok", "ok", "ok", "ok", "ok", "= y", "= x", "-", "= a x", "end 1", "= a x",
        "end 1", "ok", "ok", "= 2", "= 1", "ok",
    ];
    assert_eq!(answers[..expected.len()], expected);
    assert!(answers[expected.len()].starts_with("err invalid "), "{answers:?}");
    let answers = place.shell("drop none\nscan@none . . 1\nput@s a b\nsnap \n");
    assert!(answers.len() == 4 && answers.iter().all(|answer| answer.starts_with("err invalid ")));
}

#[test]
fn a_snapshot_outlives_flush_and_compaction() {
    let place = Place::new();
    let answers = place.shell(
        "put a 1\nput b 1\nsnap s\nput a 2\ndel b\nflush\ncompact\nget@s a\nget@s b\nget a\nget b\n",
    );
    assert_eq!(answers[7..], ["= 1", "= 1", "= 2", "-"]);
}

#[test]
fn hex_tokens() {
    let place = Place::new();
    let answers = place.feed("--hex shell", "put 6120 ff00\nget 6120\nscan . 62 5\nget zz\n").ok();
    let lines = answers.lines();
    assert_eq!(lines[..4], ["ok", "= ff00", "= 6120 ff00", "end 1"]);
    assert!(lines[4].starts_with("err invalid "), "{lines:?}");
}

#[test]
fn spaces_and_unprintable_bytes_are_escaped_in_tokens() {
    let place = Place::new();
    let answers = place.shell("put a\\x20b c\\x20\\\\d\\x0a\nscan . . 1\n");
    assert_eq!(answers, ["ok", r"= a\x20b c\x20\\d\x0a", "end 1"]);
}

#[test]
fn upkeep_answers_when_done_and_stats_are_json() {
    let place = Place::new();
    let answers = place.shell("put a 1\nflush\ncompact\nsync\nget a\nstats\n");
    assert_eq!(answers[..5], ["ok", "ok", "ok", "ok", "= 1"]);
    let stats: serde_json::Value = serde_json::from_str(&answers[5]).unwrap();
    assert!(stats.is_object());
    assert_eq!(answers.len(), 6);
}

#[test]
fn wrong_lines_are_answered_and_the_shell_goes_on() {
    let place = Place::new();
    let wrong =
        "\nPUT a b\nput a\nput a b c d\nget\nget a b\nscan . .\nscan . . x\nkeyspace \nflush now\n";
    let answers = place.shell(&format!("{wrong}put a b\n"));
    assert_eq!(answers.len(), 11, "{answers:?}");
    assert!(answers[..10].iter().all(|answer| answer.starts_with("err invalid ")), "{answers:?}");
    assert_eq!(answers[10], "ok");
    let long = format!("put {} v\nput ok v\n", "k".repeat(1 << 16));
    let answers = place.shell(&long);
    assert!(answers[0].starts_with("err invalid "), "{answers:?}");
    assert_eq!(answers[1], "ok");
}

#[test]
fn quit_and_the_end_of_input_close_cleanly() {
    let place = Place::new();
    assert_eq!(place.shell("put a 1\nquit\nput b 2\n"), ["ok"]);
    assert_eq!(place.shell("get a\nget b"), ["= 1", "-"]);
    assert!(place.shell("").is_empty());
}

#[test]
fn a_killed_shell_keeps_what_it_acknowledged() {
    let place = Place::new();
    let mut talk = Talk::start(&place, &["--option", "memtable_bytes=65536"]);
    for n in 0..500 {
        assert_eq!(talk.ask(&format!("put k{n:03} value-{n}")), "ok");
    }
    talk.child.kill().unwrap();
    talk.end();
    assert_eq!(place.run("scan --count").ok().text(), "500\n");
    assert_eq!(place.run("get k499").ok().text(), "value-499\n");
}
