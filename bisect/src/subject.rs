// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The subject of a bisection, which builds and runs nodes.

use std::fmt::{self, Display};

use crucible_engine::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::signature::Signature;

/// The node number that selects the kernel of [`Subject::revert`] in [`Subject::run`].
pub const REVERTED: usize = usize::MAX;

/// The case of a run, with its options: some settings show a bug more often than others.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct Setting {
    /// The scenario and its case, as `SCENARIO/CASE`.
    pub case: String,
    /// The event, if it is not the case's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Number of the guest's vCPUs.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub vcpus: u32,
    /// Number of times that each run is checkpointed, killed and restarted.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub chain: u32,
    /// Number of processes that keep the guest's vCPUs busy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub load: u32,
    /// Limit for each wait in seconds, if it is not the case's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            case: String::new(),
            at: None,
            vcpus: 1,
            chain: 1,
            load: 0,
            timeout: None,
        }
    }
}

impl Setting {
    /// Returns the options that differ from the usual ones, each with its value, as on a command
    /// line.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let unless = |usual: u32, number: u32| (number != usual).then(|| number.to_string());
        let all = [
            ("--at", self.at.clone()),
            ("--timeout", self.timeout.map(|it| it.to_string())),
            ("--vcpus", unless(1, self.vcpus)),
            ("--chain", unless(1, self.chain)),
            ("--load", unless(0, self.load)),
        ];
        let set = all.into_iter();
        set.filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// Sets the fields that `options`, written as on a command line, name.
    pub(crate) fn take(&mut self, options: &str) {
        let words: Vec<_> = options.split_whitespace().collect();
        for pair in words.windows(2) {
            let number = pair[1].parse().ok();
            match pair[0] {
                "--at" => self.at = Some(pair[1].to_owned()),
                "--timeout" => self.timeout = pair[1].parse().ok(),
                "--vcpus" => self.vcpus = number.unwrap_or(self.vcpus),
                _ => {}
            }
        }
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.case)?;
        let mut options = self.options().into_iter();
        options.try_for_each(|(name, value)| write!(f, " {name} {value}"))
    }
}

/// Settings in which a bug may show more often than in another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// The settings. Each differs from the given setting in one respect.
    pub settings: Vec<Setting>,
    /// Seconds that it took to find them.
    pub seconds: f64,
    /// True when some settings could not be found this time, such as the events of a workload whose
    /// guest has failed. The next search asks again.
    pub is_partial: bool,
}

/// What became of a build.
#[derive(Clone, Debug, PartialEq)]
pub enum Built {
    /// A kernel.
    Image {
        /// A hash of its content: equal kernels are one node.
        image: String,
        /// Duration in seconds; 0 if the kernel existed already.
        seconds: f64,
    },
    /// The node does not build.
    Unbuildable {
        /// The last lines of the build's output.
        why: String,
        /// Duration in seconds.
        seconds: f64,
    },
}

/// What was seen of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// The restarted run equals the control.
    Pass,
    /// A failure of the kernel.
    Failed(Signature),
    /// The workload failed, or two undisturbed runs differ.
    Unclear(String),
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What was seen.
    pub seen: Seen,
    /// Duration in seconds.
    pub seconds: f64,
    /// What a failure showed: a difference, a report.
    pub lines: Vec<String>,
}

/// The results that are known only after the guest of several runs has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Visit {
    /// Seconds that were not part of a run: the guest's start, the workload's build.
    pub enter: f64,
    /// Runs for which the guest has reported more since they ended, each with its index in this
    /// visit.
    pub revised: Vec<(usize, Seen)>,
    /// The reason, if the kernel does not boot.
    pub unbootable: Option<String>,
}

/// The reason why a search ends without an answer. It is not an observation of any kernel.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{why}")]
pub struct Stop {
    /// What ended it.
    pub condition: Condition,
    /// Reason in one line.
    pub why: String,
}

impl Stop {
    /// Creates one.
    pub fn new(condition: Condition, why: impl Into<String>) -> Self {
        Self {
            condition,
            why: why.into(),
        }
    }
}

/// Builds and runs nodes, by their number in the graph.
pub trait Subject {
    /// Returns a hash of all inputs of the node's build, if they are known before it. Nodes with
    /// equal hashes are one node, and need no build if an earlier search has built them.
    ///
    /// # Errors
    /// The host is to blame.
    fn inputs(&mut self, _node: usize) -> Result<Option<String>, Stop> {
        Ok(None)
    }

    /// Builds a node.
    ///
    /// # Errors
    /// The host is to blame, or the command was interrupted: the node remains unknown.
    fn build(&mut self, node: usize) -> Result<Built, Stop>;

    /// Runs a node in this setting, again and again, as long as `see` returns true.
    ///
    /// # Errors
    /// Those of [`Self::build`]. The observations that `see` got stay.
    fn run(
        &mut self,
        node: usize,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Visit, Stop>;

    /// Returns the settings to run: one for each case.
    fn usual(&self) -> Vec<Setting> {
        vec![Setting::default()]
    }

    /// Returns true when there are other settings than the usual ones.
    fn amplifies(&self) -> bool {
        false
    }

    /// Returns settings in which a bug may show more often than in this one, for a node that is
    /// built. Each changes a property that still has its usual value; if there is no such property,
    /// the list is empty.
    ///
    /// # Errors
    /// Those of [`Self::build`].
    fn others(&mut self, _node: usize, _setting: &Setting) -> Result<Offer, Stop> {
        Ok(Offer::default())
    }

    /// Returns a hash of everything that runs in this setting, except the kernel; `None` if the
    /// setting does not occur in this search.
    fn harness(&self, _setting: &Setting) -> Option<String> {
        Some(String::new())
    }

    /// Checkpoints with one node's kernel and restarts with another's, both of which are built,
    /// again and again, as long as `see` returns true. Returns `None` if the subject cannot do
    /// that.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    fn cross(
        &mut self,
        _checkpointer: usize,
        _restarter: usize,
        _setting: &Setting,
        _see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Option<Visit>, Stop> {
        Ok(None)
    }

    /// Builds the bad end without the change of this node, if that can be reverted.
    ///
    /// # Errors
    /// Those of [`Self::build`].
    fn revert(&mut self, _node: usize) -> Result<Option<Built>, Stop> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_shown_as_it_is_typed() {
        let usual = Setting {
            case: "hello/main".into(),
            ..Setting::default()
        };
        assert_eq!(usual.to_string(), "hello/main");
        let json = serde_json::to_string(&usual).unwrap();
        assert_eq!(json, r#"{"case":"hello/main"}"#);
        let setting = Setting {
            at: Some("all:@2:7".into()),
            vcpus: 2,
            chain: 4,
            load: 2,
            ..usual
        };
        let typed = "hello/main --at all:@2:7 --vcpus 2 --chain 4 --load 2";
        assert_eq!(setting.to_string(), typed);
        let json = serde_json::to_string(&setting).unwrap();
        assert_eq!(serde_json::from_str::<Setting>(&json).unwrap(), setting);
    }
}
