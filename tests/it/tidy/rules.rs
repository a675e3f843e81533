//! The rules, as functions from files and pages to violations. No rule reads a file; the tests below plant a violation
//! for each and expect it to be found.

use std::fmt;

use esker::options::{Compaction, DbOptions, KeyspaceOptions};

use super::layers::{Layers, mentions};
use super::source::{Source, positions_of};

/// The longest source file, tests aside.
const FILE_LINES_MAX: usize = 500;
/// The longest line of code, tests aside; rustfmt keeps it, except where it gives up.
const CODE_WIDTH_MAX: usize = 100;
/// The longest line of anything.
const PROSE_WIDTH_MAX: usize = 120;

/// Marks that say that something was left undone.
const LEFT_UNDONE: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Words that only certain files may contain.
struct Confined {
    words: &'static [&'static str],
    /// Where the rule holds, as the beginning of paths.
    within: &'static str,
    /// The files that may, as beginnings of paths.
    except: &'static [&'static str],
    advice: &'static str,
}

const CONFINED: [Confined; 6] = [
    Confined {
        words: &["unsafe"],
        within: "",
        except: &[
            "src/fs/",
            "src/memtable/",
            "src/memtable.rs",
            "engine-cli/src/signals.rs",
            "engine-cli/src/bench/measure.rs",
        ],
        advice: "write it in safe code, or in one of the files that may, with a SAFETY proof",
    },
    Confined {
        words: &["std::fs", "OpenOptions"],
        within: "src/",
        except: &["src/fs/"],
        advice: "go through the file-system seam (src/fs.rs)",
    },
    Confined {
        words: &["SystemTime", "Instant"],
        within: "src/",
        except: &["src/clock.rs"],
        advice: "go through the clock seam (src/clock.rs)",
    },
    Confined {
        words: &["thread::spawn", "thread::Builder"],
        within: "src/",
        except: &["src/spawn.rs"],
        advice: "go through the spawner seam (src/spawn.rs)",
    },
    Confined {
        words: &[
            "parking_lot",
            "std::sync::Mutex",
            "std::sync::Condvar",
            "std::sync::RwLock",
            "std::thread::park",
            "std::thread::yield_now",
        ],
        within: "src/",
        except: &["src/sync.rs", "src/sync/"],
        advice: "take it from the synchronization seam (src/sync.rs)",
    },
    Confined {
        words: &["todo!", "unimplemented!", "doc(hidden)"],
        within: "",
        except: &[],
        advice: "finish it or leave it out: what is there works, and what is public is documented",
    },
];

/// What is wrong, where, and what to do about it.
pub struct Violation {
    place: String,
    rule: &'static str,
    what: String,
}

impl Violation {
    pub fn new(place: impl Into<String>, rule: &'static str, what: impl Into<String>) -> Self {
        Violation { place: place.into(), rule, what: what.into() }
    }

    fn at(path: &str, line: usize, rule: &'static str, what: impl Into<String>) -> Self {
        Violation::new(format!("{path}:{line}"), rule, what)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.rule, self.what)
    }
}

/// The name that the layer list has for a file under `src/`.
fn layer_name(path: &str) -> &str {
    path.trim_start_matches("src/").trim_end_matches(".rs")
}

/// Every file has a row, and uses only what stands above it.
pub fn layering(list: &Layers, files: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    let with_code = || files.iter().filter(|file| !file.code.trim().is_empty());
    let unlisted = |name: &str| list.row_of(name).is_none();
    let mut unlisted_names = Vec::new();
    for file in with_code().filter(|file| unlisted(layer_name(&file.path))) {
        let name = layer_name(&file.path);
        let what = format!(
            "`{name}` is not in docs/architecture.md: add its row above every file that uses it"
        );
        found.push(Violation::at(&file.path, 1, "layer list", what));
        unlisted_names.push(name);
    }
    for file in with_code() {
        let name = layer_name(&file.path);
        let Some(from) = list.row_of(name) else { continue };
        for mention in mentions(name, &file.code) {
            let used = mention.path.join("::");
            let what = match list.resolve(&mention.path) {
                Some(to) if list.may_use(from, to) => continue,
                // Its missing row was reported; where it stands is not known yet.
                _ if unlisted_names.iter().any(|name| leads_into(&mention.path, name)) => continue,
                Some(to) => format!(
                    "it uses `{used}`, but `{}` is below `{name}`: move what both need above both",
                    list.rows[to]
                ),
                None if name == "lib" => continue,
                // The root re-exports everything; a name taken from there would hide a layer.
                None => format!(
                    "`{used}` is in no file of the layer list: name the item by its module's path"
                ),
            };
            found.push(Violation::at(&file.path, mention.line, "layering", what));
        }
    }
    found
}

/// Whether `path` names the file called `name`, or something in it.
fn leads_into(path: &[String], name: &str) -> bool {
    name.split('/').count() <= path.len() && name.split('/').zip(path).all(|(a, b)| a == b)
}

/// Every row is there once and has a file.
pub fn layer_list(list: &Layers, files: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, row) in list.rows.iter().enumerate() {
        if list.row_of(row) != Some(at) {
            let what = format!("`{row}` stands there twice: remove one row");
            found.push(Violation::new("docs/architecture.md", "layer list", what));
        } else if !files.iter().any(|file| layer_name(&file.path) == row) {
            let what = format!("`{row}` has a row, but there is no src/{row}.rs: remove the row");
            found.push(Violation::new("docs/architecture.md", "layer list", what));
        }
    }
    found
}

/// The rules that look at one file alone: essay, size, characters, width, nothing left undone.
pub fn shape(file: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add =
        |line, rule, what: String| found.push(Violation::at(&file.path, line, rule, what));
    if !file.text.starts_with("//!") {
        add(
            1,
            "essay",
            "it does not open with `//!`: say what it owns and does not know".to_owned(),
        );
    }
    let lines = file.lines_before_tests();
    if lines > FILE_LINES_MAX && !file.path.starts_with("tests/") {
        let what = format!(
            "{lines} lines before the tests, more than {FILE_LINES_MAX}: split it by theme"
        );
        add(lines, "size", what);
    }
    let views = file.lexed.lines().zip(file.code.lines());
    for (at, (line, (lexed, code))) in file.text.lines().zip(views).enumerate() {
        let number = at + 1;
        if !line.is_ascii() {
            add(number, "ascii", "there are other characters: write ASCII, or escapes".to_owned());
        }
        // A literal or an address cannot always be broken.
        let may_be_wide = lexed.contains('"') || line.contains("://");
        if code.trim_end().len() > CODE_WIDTH_MAX && !may_be_wide {
            add(number, "width", format!("code is wider than {CODE_WIDTH_MAX}: run `cargo fmt`"));
        } else if line.len() > PROSE_WIDTH_MAX && !may_be_wide {
            add(number, "width", format!("the line is wider than {PROSE_WIDTH_MAX}: break it"));
        }
        for mark in LEFT_UNDONE.iter().filter(|mark| positions_of(line, mark).next().is_some()) {
            add(number, "undone", format!("`{mark}`: do it, or open an issue and leave no mark"));
        }
    }
    found
}

/// `unsafe`, files, time and threads stay where they belong.
pub fn confinement(file: &Source) -> Vec<Violation> {
    let holds = |rule: &&Confined| {
        file.path.starts_with(rule.within)
            && !rule.except.iter().any(|path| file.path.starts_with(path))
    };
    let mut found = Vec::new();
    for rule in CONFINED.iter().filter(holds) {
        for word in rule.words {
            for line in file.lines_with(word) {
                let what = format!("`{word}` is not allowed here: {}", rule.advice);
                found.push(Violation::at(&file.path, line, "confined", what));
            }
        }
    }
    found
}

/// The default that the options page gives: what stands in quotes after `Default:` in the option's section.
fn documented_default<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = page.split_once(&format!("\n### `{name}`\n"))?;
    let section = after.split("\n#").next()?;
    let (_, default) = section.split_once("Default: `")?;
    default.split('`').next()
}

/// Whether setting the option to `value` leaves the database's options as they are by default.
pub fn is_db_default(name: &str, value: &str) -> bool {
    let mut options = DbOptions::default();
    options.set(name, value).unwrap_or(false) && options == DbOptions::default()
}

/// Whether setting the option to `value` leaves a keyspace's options as they are by default.
pub fn is_keyspace_default(name: &str, value: &str) -> bool {
    // An option of a strategy can be set only where the strategy is chosen.
    Compaction::BUILT_IN.iter().any(|strategy| {
        let default = KeyspaceOptions::default().compaction(Compaction::from_name(strategy));
        let mut options = default.clone();
        options.set(name, value).unwrap_or(false) && options == default
    })
}

/// Every option of `names` has a section that tells its default.
pub fn option_docs(
    page: &str,
    names: &[&str],
    is_default: impl Fn(&str, &str) -> bool,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for name in names {
        let what = match documented_default(page, name) {
            Some(value) if is_default(name, value) => continue,
            Some(value) => {
                format!("the default of `{name}` is not `{value}`: write what src/options.rs says")
            }
            None => format!(
                "`{name}` is undocumented: add a section \"### `{name}`\" with its meaning, \
                 \"* Default: `...`\", its range, and when to touch it"
            ),
        };
        found.push(Violation::new("docs/options.md", "options", what));
    }
    found
}

/// Every section of the options page is about an option of `names`.
pub fn stale_option_docs(page: &str, names: &[&str]) -> Vec<Violation> {
    let sections = page.split("\n### `").skip(1).filter_map(|section| section.split('`').next());
    let stale = sections.filter(|name| !names.contains(name));
    let what = |name| format!("there is no option `{name}`: remove the section");
    stale.map(|name| Violation::new("docs/options.md", "options", what(name))).collect()
}

/// A format page names the files that own the format before its first section, and `exists` knows each.
pub fn format_page(path: &str, page: &str, exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let top = page.split("\n## ").next().unwrap_or(page);
    if named_sources(top).next().is_none() {
        let what = "its top does not name the owner: write \"Owner: `src/....rs`\"";
        found.push(Violation::at(path, 1, "format", what));
    }
    for name in named_sources(page).filter(|name| !exists(name)) {
        let what = format!("`{name}` does not exist: name the file that owns the format now");
        found.push(Violation::new(path, "format", what));
    }
    found
}

/// The source files that a page names, as paths from the root.
fn named_sources(page: &str) -> impl Iterator<Item = &str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let words = page.split(move |c| !is_path(c));
    words.filter(|word| word.strip_suffix(".rs").is_some_and(|name| name.starts_with("src/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[&str]) -> Layers {
        Layers { rows: rows.iter().map(|&row| row.to_owned()).collect() }
    }

    fn rules(found: &[Violation]) -> Vec<&'static str> {
        found.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_use_of_a_lower_layer_is_found_with_its_line() {
        let text = "//! Keys.\n\nuse crate::error::Result;\nuse crate::db::Db;\n";
        let found = layering(&list(&["error", "key", "db"]), &[Source::new("src/key.rs", text)]);
        assert_eq!(rules(&found), ["layering"]);
        assert!(found[0].to_string().starts_with("src/key.rs:4: layering: it uses `db::Db`, but"));
    }

    #[test]
    fn names_from_the_root_and_unlisted_files_are_found() {
        let root_name = Source::new("src/key.rs", "//! Keys.\nuse crate::Error;\n");
        let unlisted = Source::new("src/new.rs", "//! New.\nfn f() {}\n");
        let user = Source::new("src/error.rs", "//! Errors.\nuse crate::new::f;\n");
        let found = layering(&list(&["error", "key"]), &[root_name, unlisted, user]);
        assert_eq!(rules(&found), ["layer list", "layering"], "a file without a row is named once");
        assert!(found[0].to_string().contains("`new` is not in"));
    }

    #[test]
    fn rows_without_a_file_and_double_rows_are_found() {
        let files = ["src/error.rs", "src/key.rs"].map(|path| Source::new(path, "//! It.\n"));
        let found = layer_list(&list(&["error", "key", "gone", "key"]), &files);
        assert!(found.len() == 2 && found[0].what.contains("src/gone.rs"));
        assert!(found[1].what.contains("twice"));
    }

    #[test]
    fn files_out_of_shape_are_found() {
        let functions = "fn f() {}\n".repeat(FILE_LINES_MAX);
        let cases: [(&str, &[&str]); 8] = [
            (&format!("//! Long.\n{functions}"), &["size"]),
            (&format!("//! Fine.\n#[cfg(test)]\nmod tests {{\n{functions}}}\n"), &[]),
            (&format!("//! Wide.\nfn f() {{ {} }}\n", "a + ".repeat(30)), &["width"]),
            (&format!("//! Wide.\n// {}\n", "word ".repeat(30)), &["width"]),
            (&format!("//! Fine.\nlet a = \"{}\";\n", "word ".repeat(30)), &[]),
            (&format!("//! Undone.\n// {}: later\n", LEFT_UNDONE[0]), &["undone"]),
            ("// No essay.\n", &["essay"]),
            ("//! Caf\u{e9}.\n", &["ascii"]),
        ];
        for (text, expected) in cases {
            assert_eq!(rules(&shape(&Source::new("src/x.rs", text))), expected, "{text}");
        }
    }

    #[test]
    fn words_out_of_place_are_found() {
        let found = |path: &str, text: &str| confinement(&Source::new(path, text)).len();
        assert_eq!(found("src/db/write.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(found("src/fs/mapping.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(found("src/db.rs", "#![deny(unsafe_code)]\n// unsafe\n"), 0);
        assert_eq!(found("src/db.rs", "use std::fs;\nInstant::now();\nthread::spawn(f);"), 3);
        assert_eq!(found("engine-cli/src/main.rs", "use std::fs;\nInstant::now();"), 0);
        assert_eq!(found("engine-cli/src/main.rs", "fn f() { todo!() }"), 1);
    }

    #[test]
    fn options_without_their_default_are_found() {
        let page = "# Options\n\n### `verify`\n\nWhen.\n\n* Default: `once`.\n\n### `read_mode`\n\n\
                    * Default: `pread`.\n\n### `gone`\n";
        let names = ["verify", "read_mode", "cache_bytes"];
        let found = option_docs(page, &names, is_db_default);
        assert!(found.len() == 2 && found[0].what.contains("not `pread`"));
        assert!(found[1].what.contains("`cache_bytes` is undocumented"));
        assert_eq!(stale_option_docs(page, &names).len(), 1);
    }

    #[test]
    fn format_pages_without_an_owner_are_found() {
        let check =
            |page: &str| format_page("docs/format/x.md", page, |name| name == "src/wal.rs").len();
        assert_eq!(
            check("# Log\n\nOwner: `src/wal.rs`, see [it](../../src/wal.rs).\n\n## Bytes\n"),
            0
        );
        assert_eq!(check("# Log\n\n## Owner\n\n`src/wal.rs`\n"), 1);
        assert_eq!(check("# Log\n\nOwner: `src/log.rs`\n"), 1);
    }
}
