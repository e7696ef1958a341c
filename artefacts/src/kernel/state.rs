// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The list of a task's state (`guest-kernel/state/`): every member of the structs that make up a
//! task, and how checkpoint and restart treat it.
//!
//! A file is named after its struct. Its first lines are `struct NAME` and `source FILE`, a source
//! of the kernel whose object has the struct in its debug information. Entries follow, separated
//! by empty lines: a line with a class and its references, lines with the members (`a.{b,c}`
//! stands for `a.b` and `a.c`), and lines that begin with `|` and give the reason. `leaves` names
//! the structs that are not entered where they are embedded, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::members::Members;
use crate::{Error, Result};

/// The treatment of a member by checkpoint and restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The member is in the image; the entry names the record.
    Saved,
    /// The restart creates a new one; the entry names the function that does so.
    Rebuilt,
    /// It is the same before and after, or the same in every image.
    Same,
    /// An unusual value is refused; the entry names the check.
    Refused,
    /// It is not restored, and no task can notice that.
    Lost,
    /// It is not restored, and a task could notice that.
    Gap,
}

impl Class {
    /// All classes, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Saved,
        Self::Rebuilt,
        Self::Same,
        Self::Refused,
        Self::Lost,
        Self::Gap,
    ];

    /// Returns the name of the class in the list.
    pub fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Rebuilt => "rebuilt",
            Self::Same => "same",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Gap => "gap",
        }
    }

    /// Returns the description of the class below the table.
    fn meaning(self) -> &'static str {
        match self {
            Self::Saved => "saved by a record",
            Self::Rebuilt => "created anew by the restart",
            Self::Same => "cannot differ",
            Self::Refused => "refused by a check if it has an unusual value",
            Self::Lost => "not restored, and no task can notice",
            Self::Gap => "not restored, and a task could notice",
        }
    }

    /// Returns two flags: true if an entry must have a reference, and true if it must have a
    /// reason.
    fn asks_for(self) -> (bool, bool) {
        match self {
            Self::Saved => (true, false),
            Self::Rebuilt | Self::Refused => (true, true),
            Self::Same | Self::Lost | Self::Gap => (false, true),
        }
    }
}

/// Some members of a struct that are treated in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The class of the members.
    pub class: Class,
    /// Records (`CKPT_REC_TASK`) and functions (`kernel/fork.c:copy_process`; a file
    /// without a directory is one of `kernel/checkpoint`).
    pub refers: Vec<String>,
    /// The paths of the members.
    pub members: Vec<String>,
    /// The reason for the class; may be empty.
    pub why: String,
    /// The number of the line at which the entry begins.
    pub line: usize,
}

/// A struct of the list, with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Struct {
    /// The name of the struct.
    pub name: String,
    /// A source of the kernel whose object has the struct in its debug information.
    pub source: String,
    /// The entries that classify its members.
    pub entries: Vec<Entry>,
}

/// The complete list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// The structs, sorted by name.
    pub structs: Vec<Struct>,
    /// Structs that are not entered where they are embedded, with the reason for each.
    pub leaves: BTreeMap<String, String>,
}

const LEAVES: &str = "leaves";

impl List {
    /// Reads the list from `directory`.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut list = Self::default();
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
            paths.push(entry.map_err(Error::file("list", directory))?.path());
        }
        paths.sort();
        for path in paths {
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            let malformed = |problem: String| Error::Malformed {
                path: path.clone(),
                problem,
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == LEAVES {
                list.leaves = parse_leaves(&text).map_err(malformed)?;
                continue;
            }
            let one = Struct::parse(&text).map_err(malformed)?;
            if one.name != name {
                return Err(malformed(format!("this is struct {}", one.name)));
            }
            list.structs.push(one);
        }
        Ok(list)
    }

    /// Returns the names of the structs that are not entered: those with a list of their own, and
    /// the leaves.
    pub fn whole(&self) -> BTreeSet<&str> {
        let own = self.structs.iter().map(|one| one.name.as_str());
        own.chain(self.leaves.keys().map(String::as_str)).collect()
    }

    /// Returns the mistakes in the list, given the members that the structs have under each
    /// flavour. `text` returns the content of a file of the kernel's tree.
    pub fn problems(
        &self,
        flavours: &[Members],
        text: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut kinds = BTreeSet::new();
        for one in &self.structs {
            let mut times = BTreeMap::new();
            for entry in &one.entries {
                for member in &entry.members {
                    *times.entry(member.as_str()).or_insert(0) += 1;
                }
                self.check_entry(one, entry, text, &mut problems);
            }
            let mut seen = BTreeSet::new();
            for flavour in flavours {
                for member in flavour.structs.get(&one.name).into_iter().flatten() {
                    kinds.insert(member.kind.as_str());
                    if self.structs.iter().any(|one| one.name == member.kind) {
                        continue;
                    }
                    if times.contains_key(member.path.as_str()) {
                        seen.insert(member.path.as_str());
                    } else {
                        problems.push(format!(
                            "struct {} has a member {} ({} flavour) that is not in the list",
                            one.name, member.path, flavour.flavour
                        ));
                    }
                }
            }
            for (member, times) in times {
                if times > 1 {
                    problems.push(format!(
                        "{}.{member} is in the list {times} times",
                        one.name
                    ));
                }
                if !seen.contains(member) {
                    problems.push(format!(
                        "{}.{member} is in the list, but not in the struct of any flavour",
                        one.name
                    ));
                }
            }
        }
        for name in self
            .leaves
            .keys()
            .filter(|name| !kinds.contains(name.as_str()))
        {
            problems.push(format!("{LEAVES} lists {name}, but no struct embeds it"));
        }
        problems
    }

    fn check_entry(
        &self,
        one: &Struct,
        entry: &Entry,
        text: &dyn Fn(&str) -> Option<String>,
        problems: &mut Vec<String>,
    ) {
        let mut problem = |what: String| {
            problems.push(format!("struct {}, line {}: {what}", one.name, entry.line));
        };
        let (refers, why) = entry.class.asks_for();
        if refers && entry.refers.is_empty() {
            problem(format!("`{}` has no reference", entry.class.name()));
        }
        if why && entry.why.is_empty() {
            problem(format!("`{}` has no reason", entry.class.name()));
        }
        if entry.class == Class::Saved && !entry.refers.iter().any(|r| r.starts_with(RECORD)) {
            problem("`saved` has no reference to a record".into());
        }
        for reference in &entry.refers {
            let (file, word) = match reference.split_once(':') {
                Some((file, word)) if file.contains('/') => (file.to_owned(), word),
                Some((file, word)) => (format!("kernel/checkpoint/{file}"), word),
                None => ("include/uapi/linux/checkpoint.h".into(), reference.as_str()),
            };
            match text(&file) {
                None => problem(format!("{file} does not exist")),
                Some(text) if !has_word(&text, word) => {
                    problem(format!("{file} does not contain {word}"));
                }
                Some(_) => {}
            }
        }
    }

    /// Returns a Markdown table of the number of members of each class.
    pub fn table(&self) -> String {
        let mut table = String::from("| struct |");
        for class in Class::ALL {
            let _ = write!(table, " {} |", class.name());
        }
        table.push_str("\n|---|");
        table.push_str(&"---|".repeat(Class::ALL.len()));
        let mut all = [0; Class::ALL.len()];
        for one in &self.structs {
            let _ = write!(table, "\n| `{}` |", one.name);
            for (class, all) in Class::ALL.into_iter().zip(&mut all) {
                let count = one.count(class);
                *all += count;
                let _ = write!(table, " {count} |");
            }
        }
        table.push_str("\n| all |");
        for count in all {
            let _ = write!(table, " {count} |");
        }
        table.push('\n');
        for class in Class::ALL {
            let _ = write!(table, "\n- `{}`: {}", class.name(), class.meaning());
        }
        table.push('\n');
        table
    }

    /// Returns the entries of a class, one per line.
    pub fn of_class(&self, class: Class) -> String {
        let mut text = String::new();
        for one in &self.structs {
            for entry in one.entries.iter().filter(|entry| entry.class == class) {
                let members: Vec<_> = entry.members.iter().map(|m| format!("`{m}`")).collect();
                let members = members.join(", ");
                let _ = writeln!(text, "- `{}`: {members}: {}", one.name, entry.why);
            }
        }
        text
    }
}

const RECORD: &str = "CKPT_REC_";

impl Struct {
    fn count(&self, class: Class) -> usize {
        let entries = self.entries.iter().filter(|entry| entry.class == class);
        entries.map(|entry| entry.members.len()).sum()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().enumerate();
        let mut head = |word: &str| {
            let line = lines.next().map_or("", |(_, line)| line);
            line.strip_prefix(word)
                .and_then(|rest| rest.strip_prefix(' '))
                .map(str::to_owned)
                .ok_or_else(|| format!("`{word} ...` expected, not `{line}`"))
        };
        let mut one = Self {
            name: head("struct")?,
            source: head("source")?,
            entries: Vec::new(),
        };
        let mut open = false;
        for (number, line) in lines {
            let line_number = number + 1;
            if line.is_empty() {
                open = false;
                continue;
            }
            if !open {
                let mut words = line.split(' ').map(str::to_owned);
                let name = words.next().unwrap_or_default();
                let class = Class::ALL.into_iter().find(|class| class.name() == name);
                one.entries.push(Entry {
                    class: class.ok_or(format!("line {line_number}: no class `{name}`"))?,
                    refers: words.collect(),
                    members: Vec::new(),
                    why: String::new(),
                    line: line_number,
                });
                open = true;
                continue;
            }
            let entry = one.entries.last_mut().ok_or("no entry")?;
            if let Some(why) = line.strip_prefix("  | ") {
                if !entry.why.is_empty() {
                    entry.why.push(' ');
                }
                entry.why.push_str(why);
            } else if let (Some(members), true) = (line.strip_prefix("  "), entry.why.is_empty()) {
                for word in members.split(' ') {
                    entry.members.extend(expand(word));
                }
            } else {
                return Err(format!("line {line_number}: `{line}`"));
            }
        }
        match one.entries.iter().find(|entry| entry.members.is_empty()) {
            Some(entry) => Err(format!("line {}: no members", entry.line)),
            None => Ok(one),
        }
    }
}

/// Expands `a.{b,c}` to `a.b` and `a.c`.
fn expand(word: &str) -> Vec<String> {
    let parts = word.split_once('{').and_then(|(head, rest)| {
        let (list, tail) = rest.split_once('}')?;
        Some((head, list, tail))
    });
    let Some((head, list, tail)) = parts else {
        return vec![word.to_owned()];
    };
    list.split(',')
        .flat_map(|one| expand(&format!("{head}{one}{tail}")))
        .collect()
}

fn parse_leaves(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut leaves = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    let mut why = String::new();
    for line in text.lines().chain([""]) {
        if let Some(more) = line.strip_prefix("  | ") {
            why.push_str(if why.is_empty() { "" } else { " " });
            why.push_str(more);
        } else if line.is_empty() {
            for name in names.drain(..) {
                if why.is_empty() || leaves.insert(name.to_owned(), why.clone()).is_some() {
                    return Err(format!("`{name}` has no reason, or several"));
                }
            }
            why.clear();
        } else {
            names.extend(line.split(' '));
        }
    }
    Ok(leaves)
}

/// Returns true when `word` occurs in the text as a whole word.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c == '_' || c.is_ascii_alphanumeric();
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part)
        })
}

#[cfg(test)]
mod tests;
