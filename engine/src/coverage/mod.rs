// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the refusals of restart(2) that a run has reached, from the counters of the coverage
//! kernel.
//!
//! A *refusal site* is a statement that calls `ckpt_err()` or produces an errno (`-E…`), in any
//! function that is reachable from `ckpt_restart()`: one that it names, or that a function
//! so found names. A statement that passes an errno on is not a site. A site is
//! reached if its line was executed.

mod fetch;
mod gcov;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use fetch::fetch;

use gcov::Lines;
use source::{Function, Site};

/// The function in which restart(2) starts to read an image.
const ROOT: &str = "ckpt_restart";

/// The functions that all records share.
const COMMON: [&str; 3] = ["ckpt_read", "ckpt_obj_insert", "ckpt_obj_fetch"];

/// Readers of records outside of sections or inside others, and functions that use a record
/// after its section is complete. The readers of all other records are in a `switch`.
const PARSERS: [(&str, &str); 17] = [
    ("HEADER", "ckpt_read_header"),
    ("TREE", "ckpt_prepare_relink"),
    ("TREE", "ckpt_relink"),
    ("TRAILER", "read_trailer"),
    ("TASK_END", "check_section"),
    ("PIPE_BUF", "fill_pipe"),
    ("DATA", "fill_inode"),
    ("TASK", "ckpt_apply_task"),
    ("TASK", "ckpt_vfork_link"),
    ("CRED", "ckpt_apply_cred"),
    ("FS", "ckpt_apply_fs"),
    ("FILES", "ckpt_apply_files"),
    ("MM", "ckpt_apply_mm"),
    ("REGS", "ckpt_apply_regs"),
    ("any", "ckpt_read"),
    ("any", "ckpt_obj_insert"),
    ("any", "ckpt_obj_fetch"),
];

/// An error in reading the coverage.
#[derive(Debug, Error)]
pub enum CoverageError {
    /// A file cannot be read.
    #[error("cannot read the counts of {path}")]
    Io {
        /// Path of the source.
        path: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// gcov failed.
    #[error("gcov cannot read the counts of {path}: {words}")]
    Gcov {
        /// Path of the source.
        path: String,
        /// Its error output.
        words: String,
    },
    /// The output of gcov cannot be parsed.
    #[error("cannot parse gcov's output for {path}")]
    Json {
        /// Path of the source.
        path: String,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// Sources and counters do not match.
    #[error("{0}: is this kernel built with the flavour `coverage`?")]
    Missing(String),
}

/// Numbers of refusal sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Sites reached.
    pub reached: usize,
    /// All sites.
    pub sites: usize,
}

impl Share {
    fn add(&mut self, reached: bool) {
        self.sites += 1;
        self.reached += usize::from(reached);
    }
}

/// A function reachable from restart(2) that has refusal sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionShare {
    /// Its source, a path in the kernel's tree.
    pub file: String,
    /// Its name.
    pub function: String,
    /// Its refusal sites.
    #[serde(flatten)]
    pub share: Share,
}

/// A refusal site that was not reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreached {
    /// Its source, a path in the kernel's tree.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// Its function.
    pub function: String,
    /// Its text.
    pub text: String,
}

/// The coverage of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// All sites.
    #[serde(flatten)]
    pub share: Share,
    /// By type of record; `any` for checks of all records. A function that several types
    /// use counts for each of them.
    pub records: BTreeMap<String, Share>,
    /// By function.
    pub functions: Vec<FunctionShare>,
    /// Sites that were not reached.
    pub unreached: Vec<Unreached>,
}

impl Coverage {
    /// Types of record without a reached refusal.
    pub fn silent(&self) -> Vec<&str> {
        let silent = self
            .records
            .iter()
            .filter(|(_, s)| s.reached == 0 && s.sites > 0);
        silent.map(|(name, _)| name.as_str()).collect()
    }
}

/// Combines the sources and notes in `counted` with the counters, by the source's path without
/// extension.
pub fn measure(
    counted: &Path,
    counts: &BTreeMap<String, Vec<u8>>,
) -> Result<Coverage, CoverageError> {
    let mut functions = Vec::new();
    let mut lines = BTreeMap::new();
    for (stem, counts) in counts {
        let name = format!("{stem}.c");
        let text = fs::read_to_string(counted.join(&name)).map_err(|source| CoverageError::Io {
            path: name.clone(),
            source,
        })?;
        functions.extend(source::functions(&name, &text));
        lines.insert(name.clone(), gcov::lines(counted, &name, counts)?);
    }
    judge(&functions, &lines)
}

/// Returns the lines of each source that were executed, and those that were not, by the source's
/// path.
pub fn executed(
    counted: &Path,
    counts: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Executed>, CoverageError> {
    let sources = counts.iter();
    let sources: Vec<_> = sources
        .map(|(stem, counts)| (format!("{stem}.c"), counts.as_slice()))
        .collect();
    let mut executed = BTreeMap::new();
    for (lines, (name, _)) in gcov::all(counted, &sources)?.into_iter().zip(&sources) {
        let mut of_file = Executed::default();
        for (line, seen) in lines {
            let lines = match seen.count {
                0 => &mut of_file.idle,
                _ => &mut of_file.ran,
            };
            lines.extend(u32::try_from(line));
        }
        executed.insert(name.clone(), of_file);
    }
    Ok(executed)
}

/// The lines of a source for which there is code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// Those that were executed.
    pub ran: BTreeSet<u32>,
    /// Those that were not.
    pub idle: BTreeSet<u32>,
}

fn judge(
    functions: &[Function],
    lines: &BTreeMap<String, Lines>,
) -> Result<Coverage, CoverageError> {
    let missing = |what: &str| CoverageError::Missing(format!("the sources have no {what}()"));
    let all = closure(functions, ROOT, &[]).ok_or_else(|| missing(ROOT))?;
    let reached = |function: &Function, site: &Site| {
        lines
            .get(&function.file)
            .is_some_and(|l| is_reached(l, site))
    };
    let share = |members: &BTreeSet<usize>| {
        let mut share = Share::default();
        for function in members.iter().map(|&index| &functions[index]) {
            for site in &function.sites {
                share.add(reached(function, site));
            }
        }
        share
    };

    let dispatched = all.iter().flat_map(|&index| &functions[index].dispatches);
    let parsers = dispatched
        .map(|(record, parser)| (record.as_str(), parser.as_str()))
        .chain(PARSERS);
    let mut of_record: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for (record, parser) in parsers {
        let common: &[&str] = if record == "any" { &[] } else { &COMMON };
        let members = closure(functions, parser, common).ok_or_else(|| missing(parser))?;
        of_record.entry(record).or_default().extend(members);
    }
    let mut by_function = Vec::new();
    let mut unreached = Vec::new();
    for &index in &all {
        let function = &functions[index];
        if function.sites.is_empty() {
            continue;
        }
        by_function.push(FunctionShare {
            file: function.file.clone(),
            function: function.name.clone(),
            share: share(&BTreeSet::from([index])),
        });
        let missed = function
            .sites
            .iter()
            .filter(|site| !reached(function, site));
        unreached.extend(missed.map(|site| Unreached {
            file: function.file.clone(),
            line: site.line,
            function: function.name.clone(),
            text: site.text.clone(),
        }));
    }
    Ok(Coverage {
        share: share(&all),
        records: of_record
            .iter()
            .map(|(record, members)| ((*record).to_owned(), share(members)))
            .collect(),
        functions: by_function,
        unreached,
    })
}

/// Returns the functions reachable from `root`, including itself, except those left out; `None`
/// if there is no such function.
fn closure(functions: &[Function], root: &str, without: &[&str]) -> Option<BTreeSet<usize>> {
    let first = functions.iter().position(|f| f.name == root)?;
    let mut members = BTreeSet::from([first]);
    let mut next = vec![first];
    while let Some(index) = next.pop() {
        let from = &functions[index];
        for name in from
            .names
            .iter()
            .filter(|name| !without.contains(&name.as_str()))
        {
            // Of two static functions of one name, take the one in the same file.
            let named = |f: &&Function| f.name == *name;
            let own = functions.iter().find(|f| named(f) && f.file == from.file);
            let Some(called) = own.or_else(|| functions.iter().find(named)) else {
                continue;
            };
            let called = functions.iter().position(|f| std::ptr::eq(f, called))?;
            if members.insert(called) {
                next.push(called);
            }
        }
    }
    Some(members)
}

/// If the compiler has emitted no block for the line itself, the other lines of the statement
/// decide.
fn is_reached(lines: &Lines, site: &Site) -> bool {
    let run = |line: &gcov::Line| line.count > 0 && !(site.choice && line.partly);
    match lines.get(&site.line) {
        Some(line) => run(line),
        None => (site.first..=site.last).any(|n| lines.get(&n).is_some_and(run)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
int ckpt_restart(struct ckpt_ctx *ctx)
{
	switch (ctx->type) {
	case CKPT_REC_PIPE:
		return ckpt_restore_pipe(ctx);
	}
	return ckpt_read(ctx) ? -EINVAL : 0;
}

int ckpt_restore_pipe(struct ckpt_ctx *ctx)
{
	if (ctx->a)
		return -EINVAL;
	return ckpt_read(ctx);
}

int ckpt_read(struct ckpt_ctx *ctx)
{
	return ckpt_err(ctx, -EIO, \"end\");
}

int ckpt_dump(struct ckpt_ctx *ctx)
{
	return -EBUSY;
}
";

    fn judged(counts: &[(usize, u64, bool)]) -> Coverage {
        let mut text = SOURCE.to_owned();
        for (_, parser) in PARSERS {
            if !SOURCE.contains(&format!("{parser}(struct")) {
                text.push_str(&format!("\nint {parser}(void)\n{{\n\treturn 0;\n}}\n"));
            }
        }
        let lines = counts
            .iter()
            .map(|&(line, count, partly)| (line, gcov::Line { count, partly }))
            .collect();
        let functions = source::functions("a.c", &text);
        judge(&functions, &BTreeMap::from([("a.c".to_owned(), lines)])).unwrap()
    }

    #[test]
    fn reached_and_unreached_are_told_apart() {
        let coverage = judged(&[(8, 5, true), (14, 2, false), (20, 3, false)]);
        assert_eq!(
            coverage.share,
            Share {
                reached: 2,
                sites: 3
            }
        );
        assert_eq!(
            coverage.records["PIPE"],
            Share {
                reached: 1,
                sites: 1
            }
        );
        assert_eq!(
            coverage.records["any"],
            Share {
                reached: 1,
                sites: 1
            }
        );
        assert_eq!(coverage.unreached.len(), 1);
        assert_eq!(coverage.unreached[0].line, 8);
        assert_eq!(
            coverage.unreached[0].text,
            "return ckpt_read(ctx) ? -EINVAL : 0;"
        );
        assert!(coverage.silent().is_empty());
    }

    #[test]
    fn a_parser_that_never_refused_is_named() {
        let coverage = judged(&[(8, 5, false), (14, 0, true), (20, 3, false)]);
        assert_eq!(coverage.silent(), ["PIPE"]);
    }
}
