// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of the facts, from the tables that the agent reads by.

use std::fmt::Write as _;

use crucible_protocol::facts::table::{COMPUTED, Field, SMAPS, STAT, STATUS, Use};

use super::{code, table};

/// The source of the agent's lists of files.
const OBSERVE: &str = include_str!("../../rootfs/agent/src/bin/agent/observe.rs");

/// Returns the page's text.
pub fn text() -> String {
    let mut text = "A fact is a property of a task that is read before the checkpoint and after the \
                    restart; a difference makes the case `diverged`, unless a [rule](rules.md) names it. \
                    [Add a fact](../howto/add-a-fact.md) says how to add one. The second image has most \
                    state again, exactly; facts are what the kernel shows, whatever wrote the image.\n\n\
                    ## Files and links\n\n"
        .to_owned();
    let rows = [
        ("TASK_FILES", "the whole content, of each task"),
        ("SHARED_FILES", "the whole content, of each process"),
        ("PROCESS_FILES", "the whole content, of each process"),
        ("LINKS", "the target of the link, of each task"),
    ];
    let rows = rows.map(|(name, what)| {
        let files = list(name).into_iter().map(code).collect::<Vec<_>>();
        [files.join(", "), what.to_owned()]
    });
    text += &table(["file in `/proc/PID`", "what is compared"], rows);
    text += "\n## What takes more than a file\n\n";
    let rows = COMPUTED.iter().map(|row| row.map(str::to_owned));
    text += &table(["fact", "from", "what it is"], rows);
    for (file, fields) in [("stat", STAT), ("status", STATUS), ("smaps", SMAPS)] {
        let _ = write!(
            text,
            "\n## Fields of `{file}`\n\nA field that the kernel shows and that is not in this table \
             is an error of the agent, and the verdict `unknown`.\n\n{}",
            table(["field", "compared"], fields.iter().map(row))
        );
    }
    text
}

fn row((name, what): &Field) -> [String; 2] {
    let what = match what {
        Use::Compared => "yes".to_owned(),
        Use::OfZombies => "of zombies".to_owned(),
        Use::Grows => "it does not shrink, and grows by at most the cost of a restart".to_owned(),
        Use::Bits(_, which) => format!("these bits: {which}"),
        Use::Left(why) => format!("no: {why}"),
    };
    [code(name), what]
}

/// Returns the texts of one of the agent's lists.
fn list(name: &str) -> Vec<&'static str> {
    let begin = format!("const {name}: &[&str] = &[");
    let rest = OBSERVE.split_once(&begin).map_or("", |(_, rest)| rest);
    let list = rest.split_once("];").map_or("", |(list, _)| list);
    list.split('"').skip(1).step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_those_of_the_agent() {
        assert!(list("TASK_FILES").contains(&"cmdline"));
        assert!(list("LINKS").contains(&"ns/mnt"));
        assert!(list("NONE").is_empty());
        let text = text();
        for part in [
            "`timers`",
            "| `VmFlags` | yes |",
            "kcmp(2)",
            "| `utime` | it does not",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
