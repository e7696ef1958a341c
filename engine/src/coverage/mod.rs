// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which refusals of restart(2) a run has reached, by the counts of a kernel that counts
//! its lines.
//!
//! A *refusal site* is a statement that calls `ckpt_err()` or makes an errno (`-E…`), in any
//! function that can be reached from `ckpt_restart()`: that is, which it names, or which a
//! function that it names does, and so on. What only passes an errno on is none. A site is
//! reached where its line was run.

mod fetch;
mod gcov;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use serde::Serialize;
use thiserror::Error;

pub use fetch::fetch;

use gcov::Lines;
use source::{Function, Site};

/// Where restart(2) begins to look at an image.
const ROOT: &str = "ckpt_restart";

/// The functions that all records share.
const COMMON: [&str; 3] = ["ckpt_read", "ckpt_obj_insert", "ckpt_obj_fetch"];

/// What reads the records that stand outside of the tasks' sections or within others, and
/// what uses a record once its section is complete. The others are in a `switch`.
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

/// Why there is no coverage.
#[derive(Debug, Error)]
pub enum CoverageError {
    /// A file.
    #[error("cannot read the counts of {path}")]
    Io {
        /// Whose counts.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program.
    #[error("gcov cannot read the counts of {path}: {words}")]
    Gcov {
        /// Whose counts.
        path: String,
        /// What it said.
        words: String,
    },
    /// What it printed.
    #[error("gcov's output for {path} makes no sense")]
    Json {
        /// Whose counts.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Sources and counts are not of each other.
    #[error("{0}: does this kernel count the lines of checkpoint and restart?")]
    Missing(String),
}

/// Sites that were reached, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Reached.
    pub reached: usize,
    /// All.
    pub sites: usize,
}

impl Share {
    fn add(&mut self, reached: bool) {
        self.sites += 1;
        self.reached += usize::from(reached);
    }
}

/// A function that restart(2) can reach and that refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionShare {
    /// Its source, a path in the kernel's tree.
    pub file: String,
    /// Its name.
    pub function: String,
    /// Its sites.
    #[serde(flatten)]
    pub share: Share,
}

/// A refusal that was never given.
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

/// What a run has reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// All sites.
    #[serde(flatten)]
    pub share: Share,
    /// By type of record, `any` for what is asked of each; a function that several types
    /// use counts for each of them.
    pub records: BTreeMap<String, Share>,
    /// By function.
    pub functions: Vec<FunctionShare>,
    /// The rest.
    pub unreached: Vec<Unreached>,
}

impl Coverage {
    /// The types of record of which nothing was ever refused.
    pub fn silent(&self) -> Vec<&str> {
        let silent = self
            .records
            .iter()
            .filter(|(_, s)| s.reached == 0 && s.sites > 0);
        silent.map(|(name, _)| name.as_str()).collect()
    }
}

/// Joins the sources and notes in `counted` with the counts, by the source's path without its
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

fn judge(
    functions: &[Function],
    lines: &BTreeMap<String, Lines>,
) -> Result<Coverage, CoverageError> {
    let missing = |what: &str| CoverageError::Missing(format!("there is no {what}()"));
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

/// The functions that `root` can reach, itself among them, but for those left out; none
/// where there is no such function.
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
            // Of two static functions of one name the own file's is meant.
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

/// Where the compiler has left the very line without a block, the statement's others tell.
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
