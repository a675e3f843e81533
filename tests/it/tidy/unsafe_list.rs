//! `docs/unsafe.md` against the code: each file's rows count its `unsafe`, and the tests that they name exist.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Violation;
use super::source::{Source, is_word, positions_of};

const PAGE: &str = "docs/unsafe.md";

/// A row of the list.
struct Row<'a> {
    file: &'a str,
    count: usize,
    tests: Vec<&'a str>,
}

/// The words of `text` in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn rows(page: &str) -> impl Iterator<Item = Row<'_>> {
    page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').collect();
        let [_, file, count, _, _, tests, _] = cells[..] else { return None };
        let file = quoted(file).next()?;
        Some(Row { file, count: count.trim().parse().ok()?, tests: quoted(tests).collect() })
    })
}

/// The names of the functions in `files`.
fn functions<'a>(files: &'a [Source]) -> BTreeSet<&'a str> {
    let in_file = |file: &'a Source| {
        positions_of(&file.lexed, "fn").map(|at| {
            let rest = file.lexed[at + 2..].trim_start();
            &rest[..rest.bytes().take_while(|&b| is_word(b)).count()]
        })
    };
    files.iter().flat_map(in_file).collect()
}

/// What the page and the code of `files` say differently.
pub fn unsafe_list(page: &str, files: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut listed: BTreeMap<&str, usize> = BTreeMap::new();
    let functions = functions(files);
    for row in rows(page) {
        *listed.entry(row.file).or_default() += row.count;
        if row.tests.is_empty() {
            let what = format!("a row of `{}` names no test: write one", row.file);
            found.push(Violation::new(PAGE, "unsafe list", what));
        }
        for test in row.tests.into_iter().filter(|test| !functions.contains(test)) {
            let what = format!("there is no test `{test}`");
            found.push(Violation::new(PAGE, "unsafe list", what));
        }
    }
    for file in files {
        let count = file.lines_with("unsafe").len();
        let listed = listed.remove(file.path.as_str()).unwrap_or(0);
        if count != listed {
            let what = format!(
                "`unsafe` stands there {count} times, {PAGE} lists {listed}: mend its rows, with proof and test"
            );
            found.push(Violation::new(file.path.as_str(), "unsafe list", what));
        }
    }
    for file in listed.keys() {
        found.push(Violation::new(PAGE, "unsafe list", format!("there is no `{file}`")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_differ_from_the_code_are_found() {
        let text =
            "//! F.\nfn f() { unsafe { g() } }\n#[cfg(test)]\nmod tests { fn t() { unsafe {} } }\n";
        let count = |page: &str| unsafe_list(page, &[Source::new("src/fs/f.rs", text)]).len();
        assert_eq!(count("| `src/fs/f.rs` | 1 | what | why | `t` |"), 0);
        assert_eq!(count("| `src/fs/f.rs` | 2 | what | why | `t` |"), 1, "the count is another");
        assert_eq!(count("no list"), 1, "a file is not listed");
        assert_eq!(count("| `src/fs/f.rs` | 1 | what | why | `u` |"), 1, "no such test");
        assert_eq!(count("| `src/fs/f.rs` | 1 | what | why | none |"), 1, "no test");
        let two =
            "| `src/fs/f.rs` | 1 | what | why | `t` |\n| `src/fs/g.rs` | 1 | what | why | `t` |";
        assert_eq!(count(two), 1, "no such file");
    }
}
