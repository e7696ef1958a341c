// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Output of programs as text.

use std::fmt::Write as _;

/// The mark before the two digits of a byte that is not UTF-8; the mark itself is doubled.
const MARK: char = char::REPLACEMENT_CHARACTER;

/// Returns bytes as text. Different bytes give different texts: a byte that is not UTF-8 is written
/// in hexadecimal after a mark, as in `\u{fffd}ff`.
pub fn exact(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for (index, part) in chunk.valid().split(MARK).enumerate() {
            if index > 0 {
                text.extend([MARK, MARK]);
            }
            text.push_str(part);
        }
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{MARK}{byte:02x}");
        }
    }
    text
}

/// Returns a line of a kernel's report with the path that UBSAN prints made relative to the source
/// tree. The compiler inserts the absolute one, which is different on each host.
pub fn from_tree(line: &str) -> String {
    let Some((before, rest)) = line.split_once("/kernel-tree/") else {
        return line.to_owned();
    };
    let start = before.rfind(' ').map_or(0, |at| at + 1);
    match rest.split_once("/src/") {
        Some((_, path)) => format!("{}{path}", &before[..start]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_report_has_no_path_of_the_host() {
        let line = "UBSAN: shift-out-of-bounds in /x/crucible/kernel-tree/1f/src/mm/a.c:4:2";
        let expected = "UBSAN: shift-out-of-bounds in mm/a.c:4:2";
        assert_eq!(from_tree(line), expected);
        assert_eq!(from_tree(expected), expected);
    }

    #[test]
    fn text_is_left_alone() {
        for text in ["", "a\nb", "größe ✓", "\0\u{7f}"] {
            assert_eq!(exact(text.as_bytes()), text);
        }
    }

    #[test]
    fn different_bytes_are_different_texts() {
        let mark = MARK.to_string();
        let inputs: Vec<Vec<u8>> = vec![
            b"a\xffb".to_vec(),
            b"a\xfeb".to_vec(),
            b"a\xff\xffb".to_vec(),
            b"\xe2\x82".to_vec(),
            b"\xe2".to_vec(),
            mark.as_bytes().to_vec(),
            mark.repeat(2).into_bytes(),
            format!("a{mark}ffb").into_bytes(),
            b"a\xef\xbfb".to_vec(),
            b"a\xefbfbd".to_vec(),
            format!("{mark}\u{0}").into_bytes(),
            [mark.as_bytes(), b"\xff"].concat(),
            [b"\xff", mark.as_bytes()].concat(),
        ];
        let texts: BTreeSet<_> = inputs.iter().map(|bytes| exact(bytes)).collect();
        assert_eq!(texts.len(), inputs.len(), "{texts:?}");
        assert_eq!(exact(b"a\xffb"), "a\u{fffd}ffb");
    }
}
