//! One opener at a time, by the lock of the kernel: it refuses a second process at once and dies with the first.

use crate::place::Place;
use crate::pool::Suite;
use crate::shell::{Shell, program};
use crate::trust;

#[test]
fn a_second_process_is_refused_and_a_killed_one_lets_go() {
    let suite = Suite::new("kernel: locks");
    suite.run_each(trust::cases(4, 50, 1000), |_| {
        let place = Place::new();
        suite.count_case();
        check_lock(&place).map_err(|what| place.keep(&what))
    });
    suite.end();
}

fn check_lock(place: &Place) -> Result<(), String> {
    let mut holder = Shell::on(&place.db(), &[]);
    let answer = holder.ask("put k 1");
    if answer.as_deref() != Some("ok") {
        return Err(format!("the first opener answers {answer:?}"));
    }
    let run = |words: &[&str]| program().arg("--db").arg(place.db()).args(words).output().unwrap();
    for words in [&["put", "k", "2"][..], &["get", "k"], &["compact"]] {
        let output = run(words);
        if output.status.code() != Some(5) {
            return Err(format!("while it is open elsewhere, {words:?} gives {output:?}"));
        }
    }
    holder.kill();
    let output = run(&["get", "k"]);
    if output.status.code() != Some(0) || output.stdout != b"1\n" {
        return Err(format!("after the holder's death: {output:?}"));
    }
    Ok(())
}
