// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The outcome of a unit of an experiment: one type for cases, points, cells, images and clones.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    abort::Abort,
    blame::{Blame, Condition},
    compare::Check,
    verdict::Verdict,
};

/// The condition that ended a unit, with its reason and evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The condition that ended it; decides blame, verdict and exit code.
    pub condition: Condition,
    /// Reason in one line.
    pub why: String,
    /// Further lines: a kernel report, a tool's log, task states, a difference.
    pub lines: Vec<String>,
    /// Evidence of a fault of the kernel.
    pub evidence: Evidence,
}

/// Evidence of a fault of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Lines of the source at which the functions of a kernel report were, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<SourceLine>,
    /// The memory of a guest that has crashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// A place in the kernel's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceLine {
    /// The place as the kernel prints it: `function+0x12/0x40`.
    pub place: String,
    /// Path of the file in the kernel's tree.
    pub file: String,
    /// Number of the line, from 1 on.
    pub line: u32,
}

/// The memory of a guest that has crashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// It is an ELF core file.
    Kept {
        /// Path of the file in the results directory.
        file: String,
        /// The command that opens it.
        open: String,
    },
    /// It could not be kept.
    Missing {
        /// The reason.
        why: String,
    },
}

/// Number of lines of the source on a screen: the innermost functions are the most useful.
const SHOWN: usize = 6;

impl Evidence {
    /// Returns the evidence as lines for a screen, each with its name before it.
    pub fn lines(&self) -> Vec<String> {
        let source = self.source.iter().take(SHOWN).map(|source| {
            let SourceLine { place, file, line } = source;
            format!("source   {file}:{line} ({place})")
        });
        let memory = self.memory.iter().map(|memory| match memory {
            Memory::Kept { open, .. } => format!("memory   {open}"),
            Memory::Missing { why } => format!("memory   not kept: {why}"),
        });
        source.chain(memory).collect()
    }
}

impl Outcome {
    /// Returns an outcome without further lines.
    pub fn new(condition: Condition, why: impl Into<String>) -> Self {
        Self {
            condition,
            why: why.into(),
            lines: Vec::new(),
            evidence: Evidence::default(),
        }
    }

    /// Returns the outcome of a unit that passed.
    pub fn passed(why: impl Into<String>) -> Self {
        Self::new(Condition::Passed, why)
    }

    /// Returns the outcome of a unit with a difference that the kernel is to blame for.
    pub fn diverged(check: &Check) -> Self {
        Self {
            lines: check.lines(),
            ..Self::new(Condition::Diverged, check.name.clone())
        }
    }

    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        self.condition.verdict()
    }

    /// Returns true when the unit passed.
    pub fn is_pass(&self) -> bool {
        self.condition.exit_code() == 0
    }
}

impl From<Abort> for Outcome {
    fn from(abort: Abort) -> Self {
        Self {
            condition: abort.condition,
            why: abort.why,
            lines: abort.lines,
            evidence: Evidence {
                source: Vec::new(),
                memory: abort.memory.map(|memory| match memory {
                    Ok(path) => Memory::Kept {
                        file: path.to_string_lossy().into_owned(),
                        open: String::new(),
                    },
                    Err(why) => Memory::Missing { why },
                }),
            },
        }
    }
}

/// The JSON form of an [`Outcome`]. Blame and verdict follow from the condition, and are written
/// for the reader.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Outcome")]
struct Written {
    /// The condition that ended the unit.
    condition: Condition,
    /// The party at fault; absent if the unit passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blame: Option<Blame>,
    /// The verdict.
    verdict: Verdict,
    /// Reason in one line.
    why: String,
    /// Further lines: a kernel report, a tool's log, task states, a difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<String>,
    #[serde(flatten)]
    evidence: Evidence,
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Written {
            condition: self.condition,
            blame: self.condition.blame(),
            verdict: self.verdict(),
            why: self.why.clone(),
            lines: self.lines.clone(),
            evidence: self.evidence.clone(),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(from)?;
        Ok(Self {
            condition: written.condition,
            why: written.why,
            lines: written.lines,
            evidence: written.evidence,
        })
    }
}

impl JsonSchema for Outcome {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Written::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Written::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_who_is_to_blame() {
        let outcome = Outcome::new(Condition::DiskFull, "no space");
        let value = serde_json::to_value(&outcome).unwrap();
        assert_eq!(value["blame"], "host");
        assert_eq!(value["verdict"], "unknown");
        assert_eq!(serde_json::from_value::<Outcome>(value).unwrap(), outcome);
        let passed = serde_json::to_value(Outcome::passed("all equal")).unwrap();
        assert_eq!(passed["blame"], serde_json::Value::Null);
    }

    #[test]
    fn verdict_and_success_follow_from_the_condition() {
        let passed = Outcome::passed("all equal");
        assert!(passed.is_pass());
        assert_eq!(passed.verdict(), Verdict::Pass);
        let check = Check::bad("restarted = control: stdout", "differs\n  - a");
        let diverged = Outcome::diverged(&check);
        assert!(!diverged.is_pass());
        assert_eq!(diverged.verdict(), Verdict::Diverged);
        assert_eq!(diverged.condition, Condition::Diverged);
        assert_eq!(diverged.why, "restarted = control: stdout");
        assert_eq!(diverged.lines, ["differs", "  - a"]);
    }

    #[test]
    fn an_abort_keeps_its_reason_and_its_lines() {
        let abort = Abort::missed("gone").with(vec!["last words".into()]);
        let outcome = Outcome::from(abort);
        assert_eq!(outcome.condition, Condition::Missed);
        assert_eq!(outcome.why, "gone");
        assert_eq!(outcome.lines, ["last words"]);
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(serde_json::from_value::<Outcome>(json).unwrap(), outcome);
    }

    #[test]
    fn the_schema_is_that_of_the_json_form() {
        assert_eq!(Outcome::schema_name(), "Outcome");
        let schema = serde_json::to_value(schemars::schema_for!(Outcome)).unwrap();
        assert_eq!(
            schema["required"],
            serde_json::json!(["condition", "verdict", "why"])
        );
        assert!(schema["properties"]["blame"].is_object(), "{schema}");
    }
}
