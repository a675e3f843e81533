//! A Rust file as the tidy rules see it: its text, and the same text with everything blanked that is not code.
//!
//! Blanking keeps every line break and every column, so that a position in the code is a position in the file. This is
//! a lexer of comments and literals only; it knows nothing of Rust's grammar beyond matching braces.

/// A source file.
pub struct Source {
    /// Its path from the repository's root, with `/` between parts.
    pub path: String,
    /// What it says.
    pub text: String,
    /// The text without comments and without the inside of literals.
    pub lexed: String,
    /// As `lexed`, and without the items under `#[cfg(test)]`.
    pub code: String,
}

impl Source {
    /// The file at `path` that holds `text`.
    pub fn new(path: &str, text: &str) -> Self {
        let lexed = blank_comments_and_literals(text);
        let all_test = path.ends_with("/tests.rs") || path.contains("/tests/");
        let code = if all_test { blanked(&lexed) } else { blank_tests(&lexed) };
        Source { path: path.to_owned(), text: text.to_owned(), lexed, code }
    }

    /// How many lines stand before the first test.
    pub fn lines_before_tests(&self) -> usize {
        let end = self.code.trim_end().len();
        self.text[..end.min(self.text.len())].lines().count()
    }

    /// The line numbers on which `word` stands in the code, as a whole word if it begins and ends like one.
    pub fn lines_with(&self, word: &str) -> Vec<usize> {
        positions_of(&self.code, word).map(|at| line_of(&self.code, at)).collect()
    }
}

/// The line, counted from 1, of byte `at`.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Whether `byte` can be part of an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `word` stands in `text`, not as a part of a longer word.
pub fn positions_of<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = text.as_bytes();
    let opens = word.bytes().next().is_some_and(is_word);
    let closes = word.bytes().last().is_some_and(is_word);
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).is_some_and(|i| is_word(bytes[i]));
        let after = bytes.get(at + word.len()).is_some_and(|&b| is_word(b));
        !(opens && before || closes && after)
    })
}

/// `text` with every character but line breaks made a space.
fn blanked(text: &str) -> String {
    text.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect()
}

/// `text` without comments, and with empty literals.
pub fn blank_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.bytes().last().is_some_and(is_word);
        // How many bytes to keep, how many to blank after them, and how many to keep after those.
        let (open, blank, close) = if rest.starts_with("//") {
            (0, rest.find('\n').unwrap_or(rest.len()), 0)
        } else if rest.starts_with("/*") {
            (0, block_comment_len(rest), 0)
        } else if let Some(open) = raw_string_opening(rest).filter(|_| !after_word) {
            let closing = format!("\"{}", "#".repeat(rest[..open].matches('#').count()));
            (open, rest[open..].find(&closing).unwrap_or(rest.len() - open), closing.len())
        } else if first == '"' || first == '\'' && is_char_literal(rest) {
            (1, quoted_len(&rest[1..], first as u8), 1)
        } else {
            (first.len_utf8(), 0, 0)
        };
        let end = (open + blank + close).min(rest.len());
        out.push_str(&rest[..open]);
        out.push_str(&blanked(&rest[open..open + blank]));
        out.push_str(&rest[open + blank..end]);
        rest = &rest[end..];
    }
    out
}

/// The length of the block comment at the start of `rest`; they nest.
fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of the raw string's opening (`r"`, `br##"`) at the start of `rest`, if there is one.
fn raw_string_opening(rest: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let quote = after.find(|c| c != '#')?;
    after[quote..].starts_with('"').then(|| rest.len() - after.len() + quote + 1)
}

/// The number of bytes before the unescaped `quote` that ends a literal.
fn quoted_len(inside: &str, quote: u8) -> usize {
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return at,
            _ => {}
        }
    }
    inside.len()
}

/// Whether the quote at the start of `rest` opens a character and not a lifetime.
fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest[1..].chars();
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// `lexed` without the items under `#[cfg(test)]`; all of it, if the file begins with `#![cfg(test)]`.
fn blank_tests(lexed: &str) -> String {
    if lexed.contains("#![cfg(test)]") {
        return blanked(lexed);
    }
    let mut out = String::with_capacity(lexed.len());
    let mut rest = lexed;
    while let Some(at) =
        rest.find("#[cfg(test)]").into_iter().chain(rest.find("#[cfg(all(test")).min()
    {
        let len = item_len(&rest[at..]);
        out.push_str(&rest[..at]);
        out.push_str(&blanked(&rest[at..at + len]));
        rest = &rest[at + len..];
    }
    out + rest
}

/// The length of the item, attributes included, at the start of `rest`: to its semicolon or closing brace.
fn item_len(rest: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        let text = concat!(
            "let a = \"crate::x // no\"; // crate::y\n",
            "/* crate::z /* nested */ still */ let b = r#\"un\"safe\"#;\n",
            "let c: &'static str = b\"\\\"\"; let d = '\"'; let e = '\\''; unsafe {}\n",
        );
        let lexed = blank_comments_and_literals(text);
        assert_eq!(lexed.len(), text.len());
        assert_eq!(lexed.lines().count(), text.lines().count());
        assert!(
            !lexed.contains("crate") && !lexed.contains("nested") && !lexed.contains("un\"safe"),
            "{lexed}"
        );
        assert!(lexed.contains("let b = r#\"") && lexed.contains("&'static str"), "{lexed}");
        assert_eq!(positions_of(&lexed, "unsafe").count(), 1);
    }

    #[test]
    fn tests_are_not_code() {
        let text = "use crate::a;\n#[cfg(test)]\n#[expect(x)]\n\
                    mod tests { use crate::b; fn f() { g(); } }\nuse crate::c;\n";
        let source = Source::new("src/x.rs", text);
        assert_eq!(source.lines_with("crate"), [1, 5]);
        assert_eq!(
            Source::new("src/x.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests;\n").lines_before_tests(),
            1
        );
        assert_eq!(Source::new("src/x/tests.rs", text).lines_with("crate"), [0usize; 0]);
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(
            positions_of("unsafe_code unsafe not_unsafe", "unsafe").collect::<Vec<_>>(),
            [12]
        );
        assert_eq!(positions_of("x.todo!() my_todo!()", "todo!").collect::<Vec<_>>(), [2]);
    }
}
