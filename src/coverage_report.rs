// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `torture --coverage`: the refusals of restart(2) that were reached, and those that
//! were not.

use crucible_engine::coverage::{Coverage, Share};

/// Maximum width of a line.
const WIDTH: usize = 96;

/// Formats the coverage: each type of record with its refusals, then the refusals not reached.
pub fn lines(coverage: &Coverage) -> Vec<String> {
    let share = |share: &Share| format!("{} of {}", share.reached, share.sites);
    let mut lines = vec![format!("refusals reached: {}", share(&coverage.share))];
    let mut line = String::new();
    for (name, of_record) in &coverage.records {
        let cell = format!("{name} {}", share(of_record));
        if !line.is_empty() && line.len() + cell.len() + 4 > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(if line.is_empty() { "  " } else { ", " });
        line.push_str(&cell);
    }
    lines.push(line);
    if !coverage.unreached.is_empty() {
        lines.push("never reached:".into());
    }
    for site in &coverage.unreached {
        lines.push(format!(
            "  {}:{} {}(): {}",
            site.file, site.line, site.function, site.text
        ));
    }
    let silent = coverage.silent();
    if !silent.is_empty() {
        lines.push(format!(
            "types of record without a reached refusal: {}",
            silent.join(", ")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::coverage::Unreached;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_not_reached_is_named() {
        let coverage = Coverage {
            share: Share {
                reached: 3,
                sites: 5,
            },
            records: BTreeMap::from([
                (
                    "CRED".into(),
                    Share {
                        reached: 3,
                        sites: 4,
                    },
                ),
                (
                    "FS".into(),
                    Share {
                        reached: 0,
                        sites: 1,
                    },
                ),
            ]),
            functions: Vec::new(),
            unreached: vec![Unreached {
                file: "kernel/checkpoint/cred.c".into(),
                line: 71,
                function: "set_ids".into(),
                text: "return -EINVAL;".into(),
            }],
        };
        let expected = [
            "refusals reached: 3 of 5",
            "  CRED 3 of 4, FS 0 of 1",
            "never reached:",
            "  kernel/checkpoint/cred.c:71 set_ids(): return -EINVAL;",
            "types of record without a reached refusal: FS",
        ];
        assert_eq!(lines(&coverage), expected);
    }
}
