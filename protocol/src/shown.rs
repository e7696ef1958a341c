// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes text of a guest or an image safe for a terminal.
//!
//! A task chooses its name, its files' names and its output, and an image may come from
//! anywhere. Printed raw, an escape sequence in them changes the terminal's title or its colours,
//! hides other lines, or types an answer.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns `text` as one line that is safe to print: control characters, including line ends and
/// tabs, are replaced by `\x1b` or `\u{85}`, and so are the characters that change the direction of
/// text.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    escape(text, is_hidden)
}

/// Returns `text` like [`shown`], but keeps its line ends and tabs.
#[must_use]
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_hidden(c) && c != '\n' && c != '\t')
}

/// Returns JSON text without raw control characters, of which JSON itself only escapes some. Line
/// ends between its tokens stay.
#[must_use]
pub fn shown_json(json: &str) -> Cow<'_, str> {
    if !json.contains(|c| is_hidden(c) && c != '\n') {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        // In valid JSON such a character is within a string. All are in the basic plane.
        if is_hidden(c) && c != '\n' {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn escape(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !hidden(c) {
            out.push(c);
        } else if c.is_ascii() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else {
            out.extend(c.escape_unicode());
        }
    }
    Cow::Owned(out)
}

/// Returns true for a control character of ASCII or of ISO 8859 (a terminal may take U+009B for the
/// start of a sequence), and for a character that reorders the text around it.
fn is_hidden(c: char) -> bool {
    let reorders = matches!(
        c,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || reorders || separates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_is_not_copied() {
        for text in ["", "make -j4", "Grüße, 世界 🙂"] {
            assert!(matches!(shown(text), Cow::Borrowed(same) if same == text));
        }
        assert!(matches!(shown_lines("a\n\tb"), Cow::Borrowed(_)));
    }

    #[test]
    fn sequences_are_spelled_out() {
        assert_eq!(
            shown("\x1b[31m\x07\x7f\u{9b}2J\ta\nb\r\u{202e}"),
            r"\x1b[31m\x07\x7f\u{9b}2J\x09a\x0ab\x0d\u{202e}"
        );
        assert_eq!(shown_lines("a\x1b\r\n\tb"), "a\\x1b\\x0d\n\tb");
    }

    #[test]
    fn json_stays_json_with_the_same_content() {
        let content = "a\x1b\x7f\u{9b}\u{202e}\n\"\\ü";
        let json = serde_json::to_string_pretty(&[content]).unwrap();
        let safe = shown_json(&json);
        assert!(!safe.contains(|c| is_hidden(c) && c != '\n'), "{safe}");
        let back: Vec<String> = serde_json::from_str(&safe).unwrap();
        assert_eq!(back, [content]);
    }
}
