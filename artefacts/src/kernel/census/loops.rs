// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds loops in which a task waits for a different task without sleeping.

use std::fs;
use std::path::Path;

/// The function that a long-running loop calls to give up the CPU between iterations.
pub(super) const RESCHEDULE: &str = "__cond_resched";

/// Returns true when the source of a function jumps back to a label or has a loop without a
/// condition. Also returns true when the definition is not found.
pub(super) fn tries_again(tree: &Path, file: &str, name: &str) -> bool {
    let Ok(text) = fs::read_to_string(tree.join(file)) else {
        return true;
    };
    body(&text, name).is_none_or(has_loop)
}

/// Returns the body of a function, located by its definition in the kernel's coding style.
fn body<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.match_indices(name).find_map(|(at, _)| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let after = &text[at + name.len()..];
        if text[..at].ends_with(word) || !after.starts_with('(') {
            return None;
        }
        let (head, rest) = after.split_once("\n{\n")?;
        if head.contains([';', '{', '}']) {
            return None;
        }
        rest.split_once("\n}").map(|(body, _)| body)
    })
}

fn has_loop(body: &str) -> bool {
    let endless = ["for (;;)", "while (1)", "while (true)"];
    endless.iter().any(|form| body.contains(form)) || jumps_back(body)
}

fn jumps_back(body: &str) -> bool {
    let mut at = 0;
    body.split_inclusive('\n').any(|line| {
        at += line.len();
        let label = line.trim().strip_suffix(':').filter(|label| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            *label != "default" && !label.is_empty() && label.chars().all(word)
        });
        label.is_some_and(|label| body[at..].contains(&format!("goto {label};")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
int again(void);

static int again(int a,
		 int b)
{
	try_again(a);
retry:
	if (!done)
		goto retry;
	return 0;
}

int forth(void)
{
	if (done)
		goto out;
	while (!done)
		cond_resched();
out:
	return again(1, 2);
}

void endless(void)
{
	for (;;)
		cond_resched();
}
";

    #[test]
    fn only_a_backward_jump_is_a_loop() {
        assert!(has_loop(body(TEXT, "again").unwrap()));
        assert!(!has_loop(body(TEXT, "forth").unwrap()));
        assert!(has_loop(body(TEXT, "endless").unwrap()));
        assert_eq!(body(TEXT, "nothing"), None);
    }

    #[test]
    fn a_missing_definition_counts_as_a_loop() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.c"), TEXT).unwrap();
        assert!(tries_again(directory.path(), "a.c", "again"));
        assert!(!tries_again(directory.path(), "a.c", "forth"));
        assert!(tries_again(directory.path(), "a.c", "nothing"));
        assert!(tries_again(directory.path(), "b.c", "forth"));
    }
}
