//! Tidy: the rules of the source tree that neither the compiler nor clippy nor rustfmt knows.
//!
//! They are the rules of CONTRIBUTING.md. A violation is printed as `file:line: rule: what is wrong: what to do`. Every
//! test collects all violations before it fails, so that one run shows them all. This file reads the tree; [`rules`]
//! judges it.

mod layers;
mod rules;
mod source;
mod unsafe_list;

use std::path::Path;

use esker::options::{DbOptions, KeyspaceOptions};

use layers::{Layers, declared_modules};
use rules::Violation;
use source::Source;

/// Where Rust files stand.
const RUST_DIRS: [&str; 9] = [
    "src",
    "engine-cli/src",
    "engine-cli/tests",
    "tests",
    "examples",
    "benches",
    "fuzz/fuzz_targets",
    "fuzz/src",
    "fuzz/targets",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The files below `dir` whose names end in `suffix`, as paths from the root, in order.
fn files_below(dir: &str, suffix: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut pending = vec![root().join(dir)];
    while let Some(dir) = pending.pop() {
        // Not every directory is there at all times.
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Peers and fuzz targets are crates of their own, and may have been built.
                pending.extend((!name.ends_with("target")).then_some(path));
            } else if name.ends_with(suffix) {
                files.push(name);
            }
        }
    }
    files.sort();
    files
}

fn sources(dirs: &[&str]) -> Vec<Source> {
    let paths = dirs.iter().flat_map(|dir| files_below(dir, ".rs"));
    paths.map(|path| Source::new(&path, &page(&path))).collect()
}

fn layer_list() -> Layers {
    Layers::parse(&page("docs/architecture.md"))
}

fn expect_none(found: &[Violation]) {
    let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
    let lines = lines.join("\n");
    assert!(found.is_empty(), "{} against the rules of CONTRIBUTING.md:\n{lines}", found.len());
}

#[test]
fn files_use_only_what_stands_above_them() {
    expect_none(&rules::layering(&layer_list(), &sources(&["src"])));
}

#[test]
fn the_layer_list_names_only_files_that_exist() {
    expect_none(&rules::layer_list(&layer_list(), &sources(&["src"])));
}

#[test]
fn modules_are_declared_in_the_order_of_layers() {
    let list = layer_list();
    let lib = Source::new("src/lib.rs", &page("src/lib.rs"));
    assert_eq!(
        declared_modules(&lib.code),
        list.modules().collect::<Vec<_>>(),
        "the `mod` lines of src/lib.rs (left) and the top rows of docs/architecture.md differ"
    );
}

#[test]
fn every_file_is_in_shape() {
    let files = sources(&RUST_DIRS);
    assert!(files.len() > 40, "the test does not see the sources");
    expect_none(&files.iter().flat_map(rules::shape).collect::<Vec<_>>());
}

#[test]
fn unsafe_and_the_seams_stay_where_they_belong() {
    expect_none(&sources(&RUST_DIRS).iter().flat_map(rules::confinement).collect::<Vec<_>>());
}

#[test]
fn every_unsafe_is_listed_with_its_test() {
    expect_none(&unsafe_list::unsafe_list(&page("docs/unsafe.md"), &sources(&RUST_DIRS)));
}

#[test]
fn every_option_is_documented_with_its_default() {
    let page = page("docs/options.md");
    let mut found = rules::option_docs(&page, DbOptions::NAMES, rules::is_db_default);
    found.extend(rules::option_docs(&page, KeyspaceOptions::NAMES, rules::is_keyspace_default));
    let names = [DbOptions::NAMES, KeyspaceOptions::NAMES].concat();
    found.extend(rules::stale_option_docs(&page, &names));
    expect_none(&found);
}

#[test]
fn every_format_page_names_its_owner() {
    let exists = |name: &str| root().join(name).is_file();
    let pages = files_below("docs/format", ".md");
    let judge = |path: &String| rules::format_page(path, &page(path), exists);
    expect_none(&pages.iter().flat_map(judge).collect::<Vec<_>>());
}
