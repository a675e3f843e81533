//! The layer list of `docs/architecture.md`, and the paths by which a file names other files.
//!
//! The list is the table between the markers [`BEGIN`] and [`END`]. Its rows are the files under `src/`, top layer
//! last; the second column is the file's name without `src/` and `.rs`. A file may use the rows above its own, and the
//! children that stand directly below it.

use super::source::{is_word, line_of, positions_of};

/// Opens the list.
pub const BEGIN: &str = "<!-- layers: begin -->";
/// Closes the list.
pub const END: &str = "<!-- layers: end -->";

/// The files under `src/` in the order of layers.
pub struct Layers {
    /// Names like `fs/std_fs`.
    pub rows: Vec<String>,
}

impl Layers {
    /// Reads the list out of the page.
    pub fn parse(page: &str) -> Self {
        let (_, after) = page
            .split_once(BEGIN)
            .expect("docs/architecture.md has the line that opens the layer list");
        let (list, _) = after
            .split_once(END)
            .expect("docs/architecture.md has the line that closes the layer list");
        let cell = |line: &str| line.split('|').nth(2).map(|cell| cell.trim().to_owned());
        let quoted = |cell: String| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
        Layers { rows: list.lines().filter_map(cell).filter_map(quoted).collect() }
    }

    /// The row of a file.
    pub fn row_of(&self, name: &str) -> Option<usize> {
        self.rows.iter().position(|row| row == name)
    }

    /// The row that a path from the crate's root leads into: the deepest module that is a file.
    pub fn resolve(&self, path: &[String]) -> Option<usize> {
        (1..=path.len()).rev().find_map(|len| self.row_of(&path[..len].join("/")))
    }

    /// Whether the file of row `from` may use the file of row `to`.
    pub fn may_use(&self, from: usize, to: usize) -> bool {
        let family = format!("{}/", self.rows[from]);
        to <= from || self.rows[from + 1..=to].iter().all(|row| row.starts_with(&family))
    }

    /// The top-level modules, in order.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(String::as_str).filter(|row| !row.contains('/') && *row != "lib")
    }
}

/// A path in the code of a file, from the crate's root.
#[derive(Debug, PartialEq, Eq)]
pub struct Mention {
    /// The line it begins on.
    pub line: usize,
    /// Its parts, without `crate`.
    pub path: Vec<String>,
}

/// Every path that begins with `crate::`, `super::` or `self::` in `code`, the code of the file called `name`.
pub fn mentions(name: &str, code: &str) -> Vec<Mention> {
    let module: Vec<String> = match name {
        "lib" => Vec::new(),
        _ => name.split('/').map(str::to_owned).collect(),
    };
    let parent = &module[..module.len().saturating_sub(1)];
    let mut found = Vec::new();
    for (root, base) in [("crate", &[][..]), ("super", parent), ("self", &module[..])] {
        for at in positions_of(code, root) {
            let rest = &code[at + root.len()..];
            let continues = code[..at].trim_end().ends_with("::");
            if continues || !rest.starts_with("::") {
                continue;
            }
            let mut paths = Vec::new();
            path_tree(&rest[2..], base.to_vec(), &mut paths);
            let line = line_of(code, at);
            found.extend(paths.into_iter().map(|path| Mention { line, path }));
        }
    }
    found.sort_by_key(|mention| mention.line);
    found
}

/// Reads `a::b::{c, d::*}` from the start of `text`, adds each full path to `out`, and returns what is left.
fn path_tree<'a>(text: &'a str, mut path: Vec<String>, out: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = text.trim_start();
    loop {
        if let Some(inside) = rest.strip_prefix('{') {
            return path_group(inside, &path, out);
        }
        let len = rest.bytes().take_while(|&b| is_word(b)).count();
        match &rest[..len] {
            "" | "self" => {}
            "super" => drop(path.pop()),
            part => path.push(part.to_owned()),
        }
        rest = rest[len..].trim_start();
        match rest.strip_prefix("::") {
            Some(tail) if len > 0 => rest = tail.trim_start(),
            _ => break,
        }
    }
    out.push(path);
    rest
}

/// Reads the inside of braces up to and with the closing one, each tree under `path`.
fn path_group<'a>(mut inside: &'a str, path: &[String], out: &mut Vec<Vec<String>>) -> &'a str {
    loop {
        inside = inside.trim_start();
        match inside.strip_prefix('}') {
            Some(rest) => return rest,
            None if inside.is_empty() => return inside,
            None => {}
        }
        inside = path_tree(inside, path.to_vec(), out);
        // What stands before the comma is `as name`.
        inside = &inside[inside.find([',', '}']).unwrap_or(inside.len())..];
        inside = inside.strip_prefix(',').unwrap_or(inside);
    }
}

/// The names in `mod x;` declarations of `code`, in order.
pub fn declared_modules(code: &str) -> Vec<String> {
    let name_of = |at: usize| {
        let rest = code[at + 3..].trim_start();
        let len = rest.bytes().take_while(|&b| is_word(b)).count();
        rest[len..].trim_start().starts_with(';').then(|| rest[..len].to_owned())
    };
    positions_of(code, "mod").filter_map(name_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Layers {
        let rows = ["a", "b", "b/x", "b/y", "c", "b/z", "d", "lib"];
        let table = rows.map(|row| format!("| 0 | `{row}` | owns |")).join("\n");
        Layers::parse(&format!("{BEGIN}\n| layer | file | owns |\n|---|---|---|\n{table}\n{END}\n"))
    }

    fn paths(name: &str, code: &str) -> Vec<String> {
        mentions(name, code).into_iter().map(|mention| mention.path.join("/")).collect()
    }

    #[test]
    fn a_file_uses_what_stands_above_and_its_own_children() {
        let list = list();
        let may = |from: &str, to: &str| {
            list.may_use(list.row_of(from).unwrap(), list.row_of(to).unwrap())
        };
        assert!(
            may("c", "b/y")
                && may("b", "a")
                && may("b/x", "b")
                && may("b", "b/y")
                && may("b/z", "c")
        );
        assert!(!may("a", "b") && !may("b/x", "b/y") && !may("c", "b/z"));
        assert!(!may("b", "b/z"), "a child that stands lower is not directly below");
        assert_eq!(list.modules().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn every_form_of_path_is_read() {
        let code = "use crate::a::{self, x::Y, z::{P, Q as R,},};\n\
                    pub(crate) use crate::b::*;\nfn f() { crate::c::g::<u8>(); }";
        assert_eq!(paths("d", code), ["a", "a/x/Y", "a/z/P", "a/z/Q", "b", "c/g"]);
        assert_eq!(
            paths("b/x", "use super::{y::K, Own};\nuse super::super::c::L;\nself::inner::f()"),
            ["b/y/K", "b/Own", "c/L", "b/x/inner/f"]
        );
        assert_eq!(mentions("d", "\n\nuse crate::a;")[0].line, 3);
    }

    #[test]
    fn a_path_leads_into_the_deepest_file() {
        let list = list();
        let into =
            |path: &str| list.resolve(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(into("b/x/Type"), list.row_of("b/x"));
        assert_eq!(into("b/Type"), list.row_of("b"));
        assert_eq!(into("Type"), None);
    }

    #[test]
    fn declarations_are_read_in_order() {
        let code = "pub mod error;\npub(crate) mod coding;\nmod inline { }\nmod  key ;";
        assert_eq!(declared_modules(code), ["error", "coding", "key"]);
    }
}
