//! The recovery modes, by the cases in `tests/data/recovery/*.txt`. `README.md` there explains
//! their language.

use std::fmt::Write as _;

use super::*;
use crate::error::ErrorKind;

const SEGMENT_BYTES: u64 = 256;

struct Case {
    log: Log,
    promised: WalPosition,
}

impl Case {
    fn run(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        match words[0] {
            "append" => {
                let index = self.log.appended.len() as u64;
                self.log.append(1, &payload(index, number(1) as usize));
            }
            "skip" => {
                let first = self.log.writer.next_sequence().0 + number(1);
                self.log.append_at(first, 1, b"after");
            }
            "sync" => self.log.sync(),
            "close" => {
                self.log.writer.close().unwrap();
            }
            "promise" => self.promised = self.log.writer.end_position(),
            "flip" => self.damage(number(1), |bytes, start| bytes[start] ^= 0x10, &words),
            "zero" => self.damage(number(1), |bytes, start| bytes[start..].fill(0), &words),
            "remove" => StdFs.remove(&segment_path(self.log.path(), number(1))).unwrap(),
            "replay" => return Some(self.replay(words[1].parse().unwrap())),
            other => panic!("unknown command {other}"),
        }
        None
    }

    fn damage(&self, segment: u64, change: impl Fn(&mut [u8], usize), words: &[&str]) {
        let mut bytes = read_segment(self.log.path(), segment);
        change(&mut bytes, words[2].parse().unwrap());
        write_segment(self.log.path(), segment, &bytes);
    }

    fn replay(&self, mode: RecoveryMode) -> String {
        match replay_dir(self.log.path(), mode, self.promised) {
            Ok((found, seen)) => {
                let firsts: Vec<_> = seen
                    .iter()
                    .filter(|record| record.kind == RecordKind::Batch)
                    .map(|record| record.first.to_string())
                    .collect();
                let dropped = found.dropped_record_count;
                format!("{} end {}:{}", firsts.join(" "), found.end.segment.0, found.end.offset)
                    + &format!(" dropped {dropped} used {}", found.max_sequence_seen)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
                let name = error.path().unwrap().file_name().unwrap().display().to_string();
                format!("{name}:{} {}", error.offset().unwrap(), error.what())
            }
        }
    }
}

#[test]
fn recovery_modes_do_what_their_cases_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/recovery");
    let mut names: Vec<String> =
        StdFs.list(&dir).unwrap().unwrap().into_iter().map(|entry| entry.name).collect();
    names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "txt"));
    names.sort();
    assert!(!names.is_empty());
    let rewrite = std::env::var_os("ESKER_REWRITE").is_some();
    for name in names {
        let path = dir.join(&name);
        let file = StdFs.open(&path).unwrap().unwrap();
        let mut text = vec![0; file.bytes() as usize];
        file.read_at(&mut text, 0).unwrap();
        let text = String::from_utf8(text).unwrap();
        let log = Log::new(SEGMENT_BYTES, false);
        let mut case = Case { log, promised: WalPosition::default() };
        let mut actual = String::new();
        for line in text.lines().filter(|line| !line.starts_with('=')) {
            writeln!(actual, "{line}").unwrap();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(result) = case.run(line) {
                writeln!(actual, "= {result}").unwrap();
            }
        }
        if rewrite {
            StdFs.create(&path).unwrap().append(actual.as_bytes()).unwrap();
        }
        assert!(rewrite || actual == text, "{name} gives:\n{actual}");
    }
}
