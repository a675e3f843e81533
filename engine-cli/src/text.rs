//! Keys and values as text, and back, without losing a byte.
//!
//! Two encodings. `Hex`: two lower-case digits a byte; both cases are read. `Text`: UTF-8 as it is, where a
//! backslash is `\\` and every byte that is no part of a printable character is `\xNN`. So tabs, line ends, control
//! characters, invisible and direction-changing characters and broken UTF-8 are always escaped, and an encoded
//! string is one field of one line in every format (tsv, jsonl, shell answers).
//!
//! Reading is strict about what follows a backslash and about hex digits, and lets every other byte stand for itself.
//! `read(write(bytes)) == bytes` for all bytes; a property test holds it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::Failure;

/// How bytes are shown and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Text,
    Hex,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl Encoding {
    /// Appends `bytes` encoded to `out`.
    pub fn write(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoding::Hex => write_hex(bytes, out),
            Encoding::Text => write_text(bytes, out, false),
        }
    }

    /// As [`Encoding::write`], with spaces escaped too: a token of the shell, whose separator is the space.
    pub fn write_token(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Encoding::Hex => write_hex(bytes, out),
            Encoding::Text => write_text(bytes, out, true),
        }
    }

    /// `bytes` encoded, as a string.
    pub fn show(self, bytes: &[u8]) -> String {
        let mut out = Vec::with_capacity(bytes.len() * 2);
        self.write(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The bytes that `text` stands for, or what is wrong with it.
    pub fn read(self, text: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Encoding::Hex => read_hex(text),
            Encoding::Text => read_text(text),
        }
    }

    /// An argument of the command line as bytes; `name` names it in the error.
    pub fn argument(self, name: &str, text: &OsStr) -> Result<Vec<u8>, Failure> {
        self.read(text.as_bytes()).map_err(|what| {
            Failure::usage(format!("{name} cannot be read: {what}")).advise(match self {
                Encoding::Hex => "with --hex, give two hexadecimal digits a byte",
                Encoding::Text => r"write a backslash as \\ and other bytes as \xNN, or use --hex",
            })
        })
    }

    /// As [`Encoding::argument`], of an argument that may be missing.
    pub fn optional_argument(
        self,
        name: &str,
        text: Option<&OsStr>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        text.map(|text| self.argument(name, text)).transpose()
    }
}

/// `text` with everything escaped that does not show as itself, and nothing else: for names and messages, where no
/// reading back is asked for.
pub fn printable(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    for character in text.chars() {
        let mut buffer = [0; 4];
        let encoded = character.encode_utf8(&mut buffer).as_bytes();
        if matches!(character, ' '..='~') || is_printable(character) {
            out.extend_from_slice(encoded);
        } else {
            write_escapes(encoded, &mut out);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn write_text(bytes: &[u8], out: &mut Vec<u8>, escape_space: bool) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let encoded = character.encode_utf8(&mut buffer).as_bytes();
            match character {
                '\\' => out.extend_from_slice(br"\\"),
                ' ' if escape_space => out.extend_from_slice(br"\x20"),
                ' '..='~' => out.push(encoded[0]),
                _ if is_printable(character) => out.extend_from_slice(encoded),
                _ => write_escapes(encoded, out),
            }
        }
        write_escapes(chunk.invalid(), out);
    }
}

fn write_escapes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(br"\x");
        write_hex(&[*byte], out);
    }
}

/// Whether a character beyond ASCII shows as itself. The standard library knows: it escapes those that do not.
fn is_printable(character: char) -> bool {
    !character.is_ascii() && character.escape_debug().len() == 1
}

fn read_hex(text: &[u8]) -> Result<Vec<u8>, String> {
    if !text.len().is_multiple_of(2) {
        return Err(format!("an odd number of hexadecimal digits ({})", text.len()));
    }
    text.chunks_exact(2).map(|pair| hex_byte(pair[0], pair[1])).collect()
}

fn read_text(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = match &rest[at + 1..] {
            [b'\\', after @ ..] => {
                out.push(b'\\');
                after
            }
            [b'x', high, low, after @ ..] => {
                out.push(hex_byte(*high, *low)?);
                after
            }
            _ => return Err(r"a backslash that is neither \\ nor \xNN".to_owned()),
        };
    }
    out.extend_from_slice(rest);
    Ok(out)
}

fn hex_byte(high: u8, low: u8) -> Result<u8, String> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .ok_or_else(|| format!("{:?} is not a hexadecimal digit", char::from(byte)))
    };
    Ok((digit(high)? << 4 | digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(encoding: Encoding, bytes: &[u8], text: &str) {
        assert_eq!(encoding.show(bytes), text);
        assert_eq!(encoding.read(text.as_bytes()).unwrap(), bytes);
    }

    #[test]
    fn printable_text_stands_for_itself() {
        check(Encoding::Text, b"", "");
        check(Encoding::Text, b"a b~!", "a b~!");
        check(
            Encoding::Text,
            "gr\u{fc}n \u{65e5}\u{672c}".as_bytes(),
            "gr\u{fc}n \u{65e5}\u{672c}",
        );
    }

    #[test]
    fn everything_else_is_escaped() {
        check(Encoding::Text, br"C:\x", r"C:\\x");
        check(Encoding::Text, b"a\tb\nc\r\0\x7f", r"a\x09b\x0ac\x0d\x00\x7f");
        check(Encoding::Text, b"\xff\xfe", r"\xff\xfe");
        check(Encoding::Text, b"\xe6\x97", r"\xe6\x97");
        check(
            Encoding::Text,
            "\u{202e}\u{200b}\u{85}".as_bytes(),
            r"\xe2\x80\xae\xe2\x80\x8b\xc2\x85",
        );
    }

    #[test]
    fn hex_is_two_digits_a_byte_in_either_case() {
        check(Encoding::Hex, b"", "");
        check(Encoding::Hex, b"\x00\xab", "00ab");
        assert_eq!(Encoding::Hex.read(b"00AB").unwrap(), b"\x00\xab");
        assert!(Encoding::Hex.read(b"0").is_err());
        assert!(Encoding::Hex.read(b"0g").is_err());
        assert!(Encoding::Hex.read(b"+1").is_err());
    }

    #[test]
    fn a_lone_backslash_is_refused() {
        for text in [r"\", r"\n", r"\x", r"\x1", r"\xzz", r"a\\\"] {
            assert!(Encoding::Text.read(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Encoding::Text.read(br"\xFF\\x41").unwrap(), b"\xff\\x41");
    }

    #[test]
    fn messages_keep_backslashes_and_show_what_terminals_would_obey() {
        assert_eq!(
            printable("a\u{1b}[31m\r\n\\ \u{9b}\u{fc}"),
            "a\\x1b[31m\\x0d\\x0a\\ \\xc2\\x9b\u{fc}"
        );
    }

    #[test]
    fn tokens_have_no_space() {
        let mut out = Vec::new();
        Encoding::Text.write_token(b"a b\\", &mut out);
        assert_eq!(out, br"a\x20b\\");
        assert_eq!(Encoding::Text.read(&out).unwrap(), b"a b\\");
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip_as_one_field_of_one_line(bytes: Vec<u8>) {
            for encoding in [Encoding::Text, Encoding::Hex] {
                let text = encoding.show(&bytes);
                prop_assert!(!text.contains(['\t', '\n', '\r', '\0']));
                prop_assert_eq!(&encoding.read(text.as_bytes()).unwrap(), &bytes);
                let mut token = Vec::new();
                encoding.write_token(&bytes, &mut token);
                prop_assert!(!token.contains(&b' '));
                prop_assert_eq!(&encoding.read(&token).unwrap(), &bytes);
            }
        }

        #[test]
        fn any_string_round_trips(text: String) {
            let shown = Encoding::Text.show(text.as_bytes());
            prop_assert_eq!(&Encoding::Text.read(shown.as_bytes()).unwrap(), text.as_bytes());
        }

        #[test]
        fn reading_never_panics(text: Vec<u8>) {
            let _ = (Encoding::Text.read(&text), Encoding::Hex.read(&text));
        }
    }
}
