// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds functions in kernel sources, the identifiers that they name, and their refusal sites.
//! This is not a C parser: it relies on kernel style, in which a function body starts and ends
//! with a brace alone in the first column.

use std::collections::BTreeSet;

/// The helper that logs the reason for a refusal.
const HELPER: &str = "ckpt_err";

/// Keywords before a statement that decide whether it is executed.
const GUARDS: [&str; 4] = ["if", "while", "for", "switch"];

/// Statements after which the next one is not executed.
const JUMPS: [&str; 4] = ["return", "goto", "break", "continue"];

/// A refusal site: a statement that calls the helper, or produces an errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Line of the call or the errno, counted from 1.
    pub line: usize,
    /// First line of the statement.
    pub first: usize,
    /// Its last line.
    pub last: usize,
    /// True when it is after a `?`: the statement may be executed without refusing.
    pub choice: bool,
    /// Text of the statement, on one line.
    pub text: String,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// All identifiers in its body.
    pub names: BTreeSet<String>,
    /// Record type and function of each `case CKPT_REC_TYPE: return function(…)`.
    pub dispatches: Vec<(String, String)>,
    /// Its refusal sites.
    pub sites: Vec<Site>,
}

/// Finds the functions of a file.
pub fn functions(file: &str, text: &str) -> Vec<Function> {
    let plain = blank(text);
    let (original, plain): (Vec<_>, Vec<_>) = (text.lines().collect(), plain.lines().collect());
    let mut found = Vec::new();
    let mut head = String::new();
    let mut begin = None;
    for (index, line) in plain.iter().enumerate() {
        match (begin, *line) {
            (None, "{") => begin = Some(index + 1),
            (Some(from), "}") => {
                if let Some(name) = name(&head) {
                    found.push(function(file, name, &original, &plain, from, index));
                }
                begin = None;
                head.clear();
            }
            (None, line) if line.trim().is_empty() || line.ends_with([';', '}']) => head.clear(),
            (None, line) => {
                head.push_str(line);
                head.push(' ');
            }
            (Some(_), _) => {}
        }
    }
    found
}

/// Returns the word before the first parenthesis.
fn name(head: &str) -> Option<&str> {
    let (before, _) = head.split_once('(')?;
    let name = before.rsplit(|c: char| !is_word(c)).next()?;
    (!name.is_empty()).then_some(name)
}

fn function(
    file: &str,
    name: &str,
    original: &[&str],
    plain: &[&str],
    from: usize,
    to: usize,
) -> Function {
    let body = plain[from..to].join("\n");
    let words = words(&body);
    let dispatches = words
        .windows(4)
        .filter(|w| w[0].1 == "case" && w[2].1 == "return")
        .filter_map(|w| {
            let record = w[1].1.strip_prefix("CKPT_REC_")?;
            Some((record.to_owned(), w[3].1.to_owned()))
        })
        .collect();
    let sites = sites(&body)
        .into_iter()
        .map(|(at, first, last, choice)| {
            let line = |offset: usize| from + 1 + body[..offset].matches('\n').count();
            let (first, last) = (line(first), line(last));
            let text: Vec<_> = original[first - 1..last].iter().map(|l| l.trim()).collect();
            Site {
                line: line(at),
                first,
                last,
                choice,
                text: text.join(" "),
            }
        })
        .collect();
    Function {
        file: file.to_owned(),
        name: name.to_owned(),
        names: words.iter().map(|&(_, word)| word.to_owned()).collect(),
        dispatches,
        sites,
    }
}

/// Replaces comments, strings and preprocessor lines by blanks; keeps line numbers.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut line_is_empty = true;
    // The end of the part that is being blanked.
    let mut until: Option<&str> = None;
    let mut before = '\0';
    while let Some(c) = chars.next() {
        let end = match until {
            Some("*/") => before == '*' && c == '/',
            // A preprocessor line continues after a backslash.
            Some("\n") => c == '\n' && before != '\\',
            Some(quote) => quote.starts_with(c) && before != '\\',
            None => false,
        };
        let begins = match (c, chars.peek()) {
            _ if until.is_some() => None,
            ('/', Some('*')) => Some("*/"),
            ('#', _) if line_is_empty => Some("\n"),
            ('"', _) => Some("\""),
            ('\'', _) => Some("'"),
            _ => None,
        };
        let out_of_it = until.is_none() && begins.is_none();
        out.push(if out_of_it || c == '\n' { c } else { ' ' });
        if end {
            until = None;
        }
        if begins.is_some() {
            until = begins;
            before = '\0';
        } else {
            // The second `\\` of a pair does not escape the next character.
            before = if before == '\\' && c == '\\' { '\0' } else { c };
        }
        line_is_empty = c == '\n' || (line_is_empty && c.is_whitespace());
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns identifiers and numbers with their offsets.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut begin = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match begin {
            None if is_word(c) => begin = Some(at),
            Some(from) if !is_word(c) => {
                words.push((from, &text[from..at]));
                begin = None;
            }
            _ => {}
        }
    }
    words
}

/// Returns for each refusal its offset, the range of its statement, and true if it is after a `?`.
fn sites(body: &str) -> Vec<(usize, usize, usize, bool)> {
    let statements = statements(body);
    let mut found = Vec::new();
    for (index, &(guarded, first, last)) in statements.iter().enumerate() {
        let text = &body[first..last];
        let Some(at) = refusal(text) else { continue };
        // An errno that is assigned for later checks is not a refusal; the statement to which they
        // jump is.
        let ready = !guarded && is_assignment(text);
        let jumps = statements
            .get(index + 1)
            .is_some_and(|&(guarded, next, end)| {
                let next = words(&body[next..end]);
                !guarded && next.first().is_some_and(|&(_, word)| JUMPS.contains(&word))
            });
        if !ready || jumps {
            found.push((first + at, first, last, text[..at].contains('?')));
        }
    }
    found
}

/// Returns true for a statement `x = -ERRNO`, or a declaration that ends in that.
fn is_assignment(text: &str) -> bool {
    text.rsplit_once('=').is_some_and(|(_, value)| {
        let value = value.trim();
        value
            .strip_prefix("-E")
            .is_some_and(|rest| rest.chars().all(is_word))
    })
}

/// Returns the offset of the refusal in a statement.
fn refusal(text: &str) -> Option<usize> {
    let helper = words(text)
        .into_iter()
        .find(|&(at, word)| word == HELPER && text[at + word.len()..].starts_with('('));
    if let Some((at, _)) = helper {
        return Some(at);
    }
    let errno = |&(at, word): &(usize, &str)| {
        let before = text[..at].strip_suffix('-').map(str::trim_end);
        let all_upper = word.chars().all(|c| !c.is_ascii_lowercase());
        // `== -EINTR` is a comparison.
        word.starts_with('E')
            && word.len() > 2
            && all_upper
            && before.is_some_and(|b| !b.ends_with("==") && !b.ends_with("!="))
    };
    words(text)
        .iter()
        .find(|word| errno(word))
        .map(|&(at, _)| at)
}

/// Splits a body into statements. For each: true if a condition guards it, its start, its end.
fn statements(body: &str) -> Vec<(bool, usize, usize)> {
    let mut found = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in body.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ';' | '{' | '}' if depth == 0 => {
                let skipped = skip_guards(&body[begin..at]);
                let (guarded, first) = (skipped.0, begin + skipped.1);
                if !body[first..at].trim().is_empty() {
                    found.push((guarded, first, at));
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// Returns true if `if (…)` or the like precedes the statement, and the offset of its start.
fn skip_guards(text: &str) -> (bool, usize) {
    let mut at = 0;
    let mut guarded = false;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let word: String = text[at..].chars().take_while(|&c| is_word(c)).collect();
        let after = &text[at + word.len()..];
        if word == "else" || word == "do" {
            guarded = true;
            at += word.len();
        } else if GUARDS.contains(&word.as_str()) {
            guarded = true;
            at += word.len() + parenthesis(after);
        } else if word == "case" || (!word.is_empty() && after.starts_with(':')) {
            at += text[at..]
                .find(':')
                .map_or(text.len() - at, |colon| colon + 1);
        } else {
            return (guarded, at);
        }
    }
}

/// Returns the length of the text up to the closing parenthesis of the first one.
fn parenthesis(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return at + 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
#define NOT_ONE(x) \
	return -EINVAL;

/* return -EINVAL; */
static int check(struct ctx *ctx,
		 int n)
{
	int ret = -ENOMEM;

	if (n == -EINTR || n > 3)
		return -EINVAL;
	ret = -EPERM;
	if (n == 2 &&
	    !capable(n))
		goto out;
	if (n < 0) {
		ret = -EIO;
		goto out;
	} else if (!n)
		ret = ckpt_err(ctx, ret ? ret : 1,
			       "a ; in { a -EBUSY \" string");
	switch (n) {
	case CKPT_REC_PIPE:
		return restore_pipe(ctx);
	default:
		return n ? -EINVAL :
		       0;
	}
out:
	return ret == -EINTR;
}

int restore_pipe(struct ctx *ctx)
{
	return 0;
}
"#;

    #[test]
    fn refusals_are_found_and_nothing_else() {
        let found = functions("a.c", TEXT);
        let names: Vec<_> = found.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["check", "restore_pipe"]);
        let sites: Vec<_> = found[0]
            .sites
            .iter()
            .map(|s| (s.line, s.first, s.last, s.choice))
            .collect();
        assert_eq!(
            sites,
            [
                (12, 12, 12, false),
                (18, 18, 18, false),
                (21, 21, 22, false),
                (27, 27, 28, true)
            ]
        );
        assert_eq!(found[0].sites[3].text, "return n ? -EINVAL : 0;");
        assert!(found[1].sites.is_empty());
    }

    #[test]
    fn what_is_called_and_dispatched_is_known() {
        let found = functions("a.c", TEXT);
        assert!(found[0].names.contains("restore_pipe"));
        assert!(!found[0].names.contains("string"));
        let pipe = ("PIPE".to_owned(), "restore_pipe".to_owned());
        assert_eq!(found[0].dispatches, [pipe]);
    }
}
