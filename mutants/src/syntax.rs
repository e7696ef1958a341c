// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Makes the kernel's C readable for a parser of plain C: constructs that only the preprocessor can
//! resolve are replaced by text of the same length, so that all positions stay.

use std::{collections::BTreeSet, ops::Range};

use crate::rules;

/// The keyword that replaces the head of a loop.
const LOOP: &str = "while";

/// A source in plain C.
pub(crate) struct Plain {
    /// The text, as long as the original one and with the same lines.
    pub text: String,
    /// Ranges whose text was replaced: the heads of loops.
    pub replaced: Vec<Range<usize>>,
}

impl Plain {
    /// Returns a source in plain C.
    pub fn of(source: &str) -> Self {
        plain(source)
    }
}

fn plain(source: &str) -> Plain {
    let words = words(source);
    let mut text = source.as_bytes().to_vec();
    let mut replaced = Vec::new();
    for (index, (word, depth)) in words.iter().enumerate() {
        let name = &source[word.clone()];
        if rules::ANNOTATIONS.contains(&name) {
            blank(&mut text, word.clone());
        } else if name.starts_with("SYSCALL_DEFINE") {
            // Its parameters are pairs of a type and a name.
            let Some(end) = parenthesis(source, word.end) else {
                continue;
            };
            let Some((call, _)) = words.get(index + 1) else {
                continue;
            };
            let head = format!("int sys_{}()", &source[call.clone()]);
            if head.len() <= end - word.start {
                blank(&mut text, word.start..end);
                text[word.start..word.start + head.len()].copy_from_slice(head.as_bytes());
            }
        } else if name == "struct" {
            // The name of a type as an argument of a macro: `container_of(p, struct file, f)`.
            let Some((of, _)) = words.get(index + 1) else {
                continue;
            };
            let adjoin = source[word.end..of.start].trim().is_empty();
            if adjoin && source[of.end..].starts_with(',') {
                blank(&mut text, word.clone());
            }
        } else if *depth > 0 && rules::is_type(name) {
            // The name of a type as an argument of a macro: `min_t(unsigned long, a, b)`.
            let first = source[..word.start].trim_end().ends_with(['(', ',']);
            let more = words[index + 1..].iter();
            let last = more.take_while(|(next, _)| rules::is_type(&source[next.clone()]));
            let end = last.last().map_or(word.end, |(last, _)| last.end);
            if first && source[end..].starts_with(',') {
                blank(&mut text, word.start..end);
                text[word.start] = b'x';
            }
        } else if *depth > 0 && name.len() >= LOOP.len() && !rules::is_keyword(name) {
            // Inside a function, a call cannot be followed by a statement, so this is a macro for a
            // loop: `list_for_each_entry(a, b, c) {` becomes `while (a, b, c) {`.
            let Some(end) = parenthesis(source, word.end) else {
                continue;
            };
            let follows = source[end..].trim_start();
            if follows.starts_with(|c: char| c == '{' || c == '_' || c.is_ascii_alphabetic()) {
                blank(&mut text, word.clone());
                text[word.start..word.start + LOOP.len()].copy_from_slice(LOOP.as_bytes());
                replaced.push(word.start..end);
            }
        }
    }
    Plain {
        text: String::from_utf8(text).unwrap_or_else(|_| source.to_owned()),
        replaced,
    }
}

/// The macros with arguments of some files.
#[derive(Default)]
pub(crate) struct Macros {
    /// The names of all.
    pub all: BTreeSet<String>,
    /// The names of macros that are the initial value of a structure.
    pub lists: BTreeSet<String>,
}

impl Macros {
    /// Adds those that a file defines.
    pub fn read(&mut self, text: &str) {
        for (at, _) in text.match_indices("define") {
            let before = text[..at].trim_end_matches([' ', '\t']);
            let rest = &text[at + "define".len()..];
            let name = rest.trim_start_matches([' ', '\t']);
            if !before.ends_with('#') || name.len() == rest.len() {
                continue;
            }
            let end = name
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(name.len());
            let (name, rest) = name.split_at(end);
            if !rest.starts_with('(') {
                continue;
            }
            self.all.insert(name.to_owned());
            let value = rest.find(')').map_or("", |close| &rest[close + 1..]);
            if value
                .trim_start_matches([' ', '\t', '\\', '\n'])
                .starts_with('{')
            {
                self.lists.insert(name.to_owned());
            }
        }
    }
}

/// Replaces a range by blanks; keeps its lines.
fn blank(text: &mut [u8], range: Range<usize>) {
    for byte in &mut text[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Returns the end of the parenthesis that follows.
fn parenthesis(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let open = from + source[from..].find(|c: char| !c.is_whitespace())?;
    if bytes[open] != b'(' {
        return None;
    }
    let mut depth = 0_u32;
    let mut at = open;
    while at < bytes.len() {
        at = match token(source, at) {
            Token::Opaque(end) => end,
            Token::Word(range) => range.end,
            Token::Other => {
                match bytes[at] {
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return Some(at + 1);
                }
                at + 1
            }
        };
    }
    None
}

enum Token {
    /// A comment, a text, a character, or a line for the preprocessor, up to its end.
    Opaque(usize),
    Word(Range<usize>),
    Other,
}

/// Returns the words of a source, without comments, texts and lines for the preprocessor, each with
/// the number of braces around it.
fn words(source: &str) -> Vec<(Range<usize>, u32)> {
    let mut words = Vec::new();
    let mut depth = 0_u32;
    let mut at = 0;
    while at < source.len() {
        at = match token(source, at) {
            Token::Opaque(end) => end,
            Token::Word(range) => {
                let end = range.end;
                words.push((range, depth));
                end
            }
            Token::Other => {
                match source.as_bytes()[at] {
                    b'{' => depth += 1,
                    b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                at + 1
            }
        };
    }
    words
}

fn token(source: &str, at: usize) -> Token {
    let bytes = source.as_bytes();
    let rest = &bytes[at..];
    let until = |end: &str, skip: usize| {
        let found = source[at + skip..].find(end);
        found.map_or(source.len(), |found| at + skip + found + end.len())
    };
    match rest {
        [b'/', b'*', ..] => Token::Opaque(until("*/", 2)),
        [b'/', b'/', ..] => Token::Opaque(until("\n", 2)),
        [b'#', ..] if source[..at].trim_end_matches([' ', '\t']).ends_with('\n') => {
            let mut end = at;
            loop {
                let line = source[end..]
                    .find('\n')
                    .map_or(source.len(), |n| end + n + 1);
                let goes_on = source[end..line].trim_end().ends_with('\\');
                end = line;
                if !goes_on || end == source.len() {
                    return Token::Opaque(end);
                }
            }
        }
        [quote @ (b'"' | b'\''), ..] => {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != *quote {
                end += 1 + usize::from(bytes[end] == b'\\');
            }
            Token::Opaque((end + 1).min(bytes.len()))
        }
        [first, ..] if first.is_ascii_alphabetic() || *first == b'_' => {
            let more = rest
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
            Token::Word(at..at + more.count())
        }
        [first, ..] if first.is_ascii_digit() => {
            let more = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric());
            Token::Opaque(at + more.count())
        }
        // In the middle of a character of several bytes, too.
        _ => Token::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_stay_and_loops_become_plain() {
        let source = "\
static void f(char __user *p)
{
	/* list_for_each_entry(no) */
	list_for_each_entry(a, g(\")\"),
			    node)
		h(container_of(a, struct file, f));
	for_each(x);
	walks(a)
		i(min_t(unsigned long, b, c));
}
SYSCALL_DEFINE2(call, int, a, char __user *, b)
{
}
";
        let plain = plain(source);
        let expected = "\
static void f(char        *p)
{
	/* list_for_each_entry(no) */
	while              (a, g(\")\"),
			    node)
		h(container_of(a,        file, f));
	for_each(x);
	while(a)
		i(min_t(x            , b, c));
}
int sys_call()                                 
{
}
";
        assert_eq!(plain.text, expected);
        assert_eq!(plain.text.len(), source.len());
        assert_eq!(plain.replaced.len(), 2);
    }

    #[test]
    fn macros_with_arguments_are_found() {
        let mut macros = Macros::default();
        let text =
            "#define A(x) x\n# define B_2(y, z) \\\n { y }\n#define C 1\n#define D (1)\nE(x)\n";
        macros.read(text);
        assert_eq!(macros.all.into_iter().collect::<Vec<_>>(), ["A", "B_2"]);
        assert_eq!(macros.lists.into_iter().collect::<Vec<_>>(), ["B_2"]);
    }
}
