// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The signature of a failure, which distinguishes one bug from another.

use std::fmt::{self, Display};

use crucible_engine::text::from_tree;
use crucible_engine::{Condition, Outcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximal length of the last part, in characters.
const LONGEST: usize = 120;

/// A failure, without the parts that differ from run to run.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Signature {
    /// The scenario.
    pub scenario: String,
    /// The case.
    pub case: String,
    /// The condition.
    pub condition: Condition,
    /// The first check that failed, the site of the kernel's report, or the tool's message.
    pub at: String,
}

impl Signature {
    /// Returns the signature of a bad outcome, and `None` for any other.
    pub fn of(scenario: &str, case: &str, outcome: &Outcome) -> Option<Self> {
        let condition = outcome.condition;
        if !condition.is_bad() {
            return None;
        }
        let at = match condition {
            Condition::KernelReport | Condition::GuestPanic | Condition::Leak => {
                let lines = outcome.lines.iter().chain([&outcome.why]);
                lines.map(|line| site(line)).find(|s| !s.is_empty())
            }
            // The states of the tasks vary.
            Condition::Hang => None,
            _ => Some(plain(&outcome.why)),
        };
        Some(Self {
            scenario: scenario.into(),
            case: case.into(),
            condition,
            at: at.unwrap_or_default(),
        })
    }

    /// Returns true when the text is a part of the signature, as it is shown.
    pub fn is_like(&self, text: &str) -> bool {
        self.to_string().contains(text)
    }
}

impl Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let condition = self.condition.name();
        write!(f, "{}/{}: {condition}", self.scenario, self.case)?;
        match self.at.is_empty() {
            true => Ok(()),
            false => write!(f, " at {}", self.at),
        }
    }
}

/// Returns the function that a line of a kernel's report is about, such as `ckpt_put` of
/// `BUG: KASAN: use-after-free in ckpt_put+0x10/0x80`, with the kind of report; empty if it names
/// none.
fn site(line: &str) -> String {
    const KINDS: [&str; 9] = [
        "BUG:",
        "WARNING:",
        "KASAN:",
        "Oops",
        "general protection fault",
        "RIP:",
        "unreferenced object",
        "INFO:",
        "UBSAN:",
    ];
    let Some(kind) = KINDS.iter().find(|kind| line.contains(**kind)) else {
        return String::new();
    };
    let function = line.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches("0010:");
        let (name, offset) = word.split_once("+0x")?;
        (!name.is_empty() && offset.contains("/0x")).then_some(name)
    });
    match function {
        // Suffixes such as .constprop.0 differ from build to build.
        Some(name) => format!(
            "{} {}",
            kind.trim_end_matches(':'),
            name.split('.').next().unwrap_or(name)
        ),
        None => plain(&from_tree(
            line.split_once(kind).map_or(line, |(_, rest)| rest),
        )),
    }
}

/// Returns a text with all numbers replaced.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for word in text.split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        if word.starts_with("0x") {
            plain.push('N');
            continue;
        }
        for c in word.chars() {
            match c.is_ascii_digit() {
                false => plain.push(c),
                true if plain.ends_with('N') => {}
                true => plain.push('N'),
            }
        }
    }
    plain.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(condition: Condition, why: &str, lines: &[&str]) -> Option<Signature> {
        let outcome = Outcome {
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            ..Outcome::new(condition, why)
        };
        Signature::of("hello", "main", &outcome)
    }

    #[test]
    fn a_divergence_is_named_by_its_check() {
        let one = signature(Condition::Diverged, "restarted = control: stdout", &["a"]).unwrap();
        let other = signature(Condition::Diverged, "restarted = control: stdout", &["b"]).unwrap();
        assert_eq!(one, other);
        let shown = "hello/main: diverged at restarted = control: stdout";
        assert_eq!(one.to_string(), shown);
        assert!(one.is_like("stdout") && !one.is_like("stderr"));
        assert_eq!(signature(Condition::Passed, "", &[]), None);
        assert_eq!(signature(Condition::HostKilled, "", &[]), None);
    }

    #[test]
    fn a_report_is_named_by_its_kind_and_its_function() {
        let report = |line: &str| signature(Condition::KernelReport, "x", &["noise", line]);
        let one = report("[ 12.3] BUG: KASAN: slab-use-after-free in ckpt_put+0x10/0x80").unwrap();
        assert_eq!(one.at, "BUG ckpt_put");
        let same = report("BUG: KASAN: slab-use-after-free in ckpt_put+0x14/0x84").unwrap();
        assert_eq!(one, same);
        let where_it_is = report("RIP: 0010:restore_mm.isra.0+0x1/0x2").unwrap();
        assert_eq!(where_it_is.at, "RIP restore_mm");
        let path = "/x/kernel-tree/1/src/kernel/checkpoint/mm.c:4:2";
        let ubsan = report(&format!("[ 1.2] UBSAN: shift-out-of-bounds in {path}")).unwrap();
        let at = "shift-out-of-bounds in kernel/checkpoint/mm.c:N:N";
        assert_eq!(ubsan.at, at);
    }

    #[test]
    fn numbers_do_not_tell_failures_apart() {
        let refused = |why| signature(Condition::Refused, why, &[]).unwrap().at;
        assert_eq!(
            refused("restart refused: task 312: fd 7"),
            refused("restart refused: task 40: fd 11")
        );
        assert_eq!(refused("at 0xffff888003"), "at N");
        let hang = signature(Condition::Hang, "a", &["pid 3"]).unwrap();
        assert_eq!(hang.at, "");
    }
}
