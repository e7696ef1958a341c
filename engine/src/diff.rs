// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first difference of two texts, in a few lines.

/// Number of lines shown before and after the first difference.
const CONTEXT: usize = 3;

/// Maximum length of a shown line, in characters.
const WIDTH: usize = 160;

/// Returns the first difference of two texts with the lines around it, or `None` if they
/// are equal. Lines of only the expected text begin with `-`, lines of only the actual one with
/// `+`.
pub fn first(expected: &str, actual: &str) -> Option<String> {
    if expected == actual {
        return None;
    }
    let (one, two): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let same = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
    let short = |line: &str| -> String {
        let mut cut: String = line.chars().take(WIDTH).collect();
        if cut.len() < line.len() {
            cut.push('…');
        }
        cut
    };
    let mut text = format!("differs from line {}", same + 1);
    for line in &one[same.saturating_sub(CONTEXT)..same] {
        text.push_str(&format!("\n    {}", short(line)));
    }
    if one.get(same) == two.get(same) {
        text.push_str("\n  only one of them ends with a newline");
        return Some(text);
    }
    let after = |lines: &[&str]| -> Vec<String> {
        let lines = lines.iter().skip(same + 1).take(CONTEXT);
        lines.map(|line| short(line)).collect()
    };
    let (after_one, after_two) = (after(&one), after(&two));
    let both = after_one == after_two;
    for (mark, lines, after) in [('-', &one, &after_one), ('+', &two, &after_two)] {
        match lines.get(same) {
            Some(line) => text.push_str(&format!("\n  {mark} {}", short(line))),
            None => text.push_str(&format!("\n  {mark} (ends here)")),
        }
        for line in after.iter().filter(|_| !both) {
            text.push_str(&format!("\n  {mark} {line}"));
        }
    }
    for line in after_one.iter().filter(|_| both) {
        text.push_str(&format!("\n    {line}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_shown_with_context() {
        let text = first("a\nb\nc\nd\n", "a\nb\nX\nd\n").unwrap();
        assert_eq!(
            text,
            "differs from line 3\n    a\n    b\n  - c\n  + X\n    d"
        );
    }

    #[test]
    fn lines_of_one_text_only_are_marked() {
        let text = first("a\nb\nc\n", "x\n").unwrap();
        assert_eq!(text, "differs from line 1\n  - a\n  - b\n  - c\n  + x");
    }

    #[test]
    fn a_text_that_ends_early_is_said_to() {
        let text = first("a\nb\n", "a\n").unwrap();
        assert!(
            text.contains("- b") && text.contains("+ (ends here)"),
            "{text}"
        );
        let text = first("a\n", "a").unwrap();
        assert!(text.contains("ends with a newline"), "{text}");
    }
}
