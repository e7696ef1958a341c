// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a search has found out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{cross::Cross, signature::Signature, subject::Setting};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// This node is the first bad one.
    Culprit {
        /// Its number.
        node: usize,
    },
    /// The first bad one is a merge: only both sides together show the failure.
    Merge {
        /// Its number.
        node: usize,
    },
    /// The first bad node is one of these; the nodes between them cannot be run.
    NotSeparable {
        /// Their numbers.
        candidates: Vec<usize>,
    },
    /// The bad end does not show the failure.
    NotReproduced,
    /// Both ends show the failure equally often.
    BothEnds,
    /// Both ends are the same kernel, byte for byte.
    SameKernel,
    /// An end of the range cannot be built or does not boot.
    NoEnd {
        /// Its number.
        node: usize,
        /// The reason.
        why: String,
    },
    /// The permitted number of runs does not suffice.
    Undecided,
}

impl Answer {
    /// Returns true when one node is named.
    pub fn is_found(&self) -> bool {
        matches!(self, Self::Culprit { .. } | Self::Merge { .. })
    }

    /// Returns the nodes that are named.
    pub fn nodes(&self) -> Vec<usize> {
        match self {
            Self::Culprit { node } | Self::Merge { node } => vec![*node],
            Self::NotSeparable { candidates } => candidates.clone(),
            _ => Vec::new(),
        }
    }
}

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It was neither built nor run.
    Untouched,
    /// It was built.
    Built,
    /// It does not build.
    Unbuildable,
    /// It does not boot.
    Unbootable,
    /// Too many of its runs failed in another way, or gave no observation.
    Drowned,
}

/// A failure that was not sought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OtherFailure {
    /// The failure, as `--signature` takes it.
    pub signature: String,
    /// Number of runs.
    pub runs: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReport {
    /// Its name: a commit's hash, a patch's name.
    pub name: String,
    /// One line about it.
    pub title: String,
    /// Numbers of its parents in the range.
    pub parents: Vec<usize>,
    /// What became of it.
    pub state: NodeState,
    /// The reason why the node is unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Hash of its kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Number of an earlier node that is the same kernel, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as: Option<usize>,
    /// Number of runs that passed or showed the failure.
    pub runs: u64,
    /// Number of those that showed the failure.
    pub failures: u64,
    /// Number of runs without an observation.
    pub unclear: u64,
    /// Runs that failed in another way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherFailure>,
    /// The probability that this kernel is the first bad one.
    pub posterior: f64,
}

/// Runs of a kernel that support the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Its role: `culprit`, `parent`, `reverted`.
    pub what: String,
    /// The number of the node; `None` if it is not one of the range.
    pub node: Option<usize>,
    /// Number of runs.
    pub runs: u64,
    /// Number of those that showed the failure.
    pub failures: u64,
    /// What the first failure showed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
    /// The probability that the answer is right.
    pub probability: f64,
    /// The requested probability.
    pub confidence: f64,
    /// The failure that was sought; `None` if no run failed.
    pub sought: Option<Signature>,
    /// The setting in which the runs were made.
    pub setting: Setting,
    /// The factor by which the failure is more frequent in that setting than usually.
    pub amplified: f64,
    /// The rate of the failure before and after the change.
    pub rates: (f64, f64),
    /// All nodes, the good end first.
    pub nodes: Vec<NodeReport>,
    /// The culprit, its parents, and the bad end without it, as far as they were run.
    pub checks: Vec<Check>,
    /// The half of checkpoint/restart that the culprit breaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crossed: Option<Cross>,
    /// Unknown nodes that might be the first bad one, with their probabilities.
    pub hidden: Vec<usize>,
    /// The sum of those probabilities.
    pub hidden_probability: f64,
    /// Number of kernels that this search has built, the ends included.
    pub builds: u64,
    /// Number of runs that this search has made.
    pub runs: u64,
    /// Number of runs that earlier searches have made and that count.
    pub reused: u64,
    /// Duration of builds and runs in seconds.
    pub seconds: f64,
}

/// Returns the JSON Schema of a report, as text.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Report);
    // A schema has text keys only.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}
