// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mutants of the kernel's checkpoint and restart: small changes to its sources, each of which a
//! lab should notice.
//!
//! [`generate`] parses the sources and returns a rewritten copy of them that contains all mutants at
//! once. The kernel that is built from it has one of them when its number is written to debugfs
//! `checkpoint/mutant`, and none by default. Mutants are not listed by hand: the syntax alone
//! determines them (`docs/howto/score-the-lab.md` has the rules). The compiler then determines the
//! mutants of a kernel: each leaves its number in a section of the image ([`SECTION`]), unless it
//! is in code that is left out or changes a value that is not an integer.
//!
//! This crate does no I/O.

mod equivalent;
mod generate;
mod rules;
mod syntax;

use serde::{Deserialize, Serialize};

pub use equivalent::{Equivalent, EquivalentsError, equivalents};
pub use generate::{GenerateError, Generated, generate};
pub use rules::{LEFT_OUT, is_source};

/// Section of the kernel's image with the numbers of the mutants that it has, 32 bits each.
pub const SECTION: &str = ".ckpt_mutants";

/// File in debugfs that chooses a mutant by its number; 0 chooses none.
pub const SWITCH: &str = "/sys/kernel/debug/checkpoint/mutant";

/// The sources of this crate, a part of the identity of a kernel with mutants: a changed source may
/// make other mutants.
pub const VERSION: [&str; 4] = [
    include_str!("generate.rs"),
    include_str!("rules.rs"),
    include_str!("syntax.rs"),
    include_str!("lib.rs"),
];

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A statement is left out.
    LeftOut,
    /// A condition is negated.
    Negated,
    /// A value is one larger, or a truth value is inverted; of `<`, `<=`, `>` and `>=`, the bound
    /// is changed.
    Skewed,
}

impl Kind {
    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeftOut => "left-out",
            Self::Negated => "negated",
            Self::Skewed => "skewed",
        }
    }
}

/// The half of checkpoint/restart that a mutant is in, by the system calls that can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    /// Only checkpoint(2) reaches its function.
    Saving,
    /// Only restart(2) reaches its function.
    Restoring,
    /// Both do.
    Both,
    /// Neither system call reaches it: other code of the kernel calls it.
    Hook,
}

/// A change to one place of the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mutant {
    /// Its name, which stays the same when other places of the sources change.
    pub id: String,
    /// Its number in this kernel, from 1 on.
    pub number: u32,
    /// Path of the source in the kernel's tree.
    pub file: String,
    /// The function that it is in.
    pub function: String,
    /// Its half.
    pub half: Half,
    /// The kind of change.
    pub kind: Kind,
    /// First line of the changed text, from 1 on.
    pub line: u32,
    /// First and last line of the statement, or the condition of a statement, that contains it.
    pub statement: (u32, u32),
    /// The change, in one line.
    pub text: String,
}

impl Mutant {
    /// Returns its place: `kernel/checkpoint/vma.c:17`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}
