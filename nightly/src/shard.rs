// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Identifies the shard of a night: from the command line, or from the CI system's environment.

/// A shard of a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Its number, from 1 on.
    pub number: u32,
    /// Number of shards.
    pub of: u32,
}

/// The reason why the shard is unknown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// The text is malformed.
    #[error("a shard is I/N with I from 1 to N, such as 2/3, or `auto`")]
    Malformed,
    /// No environment variable has it.
    #[error(
        "no environment variable says which shard this is; `auto` reads CRUCIBLE_SHARD (I/N), \
         JOB_COMPLETION_INDEX of Kubernetes with CRUCIBLE_SHARDS, SLURM_ARRAY_TASK_ID, and \
         CI_NODE_INDEX of GitLab"
    )]
    NotInCi,
    /// A variable has a value that is not a shard.
    #[error("{0} does not identify the shard")]
    Unusable(String),
}

impl ShardSpec {
    /// The only shard of a night.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    fn new(number: u32, of: u32) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    /// Parses `I/N`.
    ///
    /// # Errors
    /// Fails if there is no such shard.
    pub fn parse(text: &str) -> Result<Self, ShardError> {
        let parts = text
            .split_once('/')
            .and_then(|(number, of)| Self::new(number.parse().ok()?, of.parse().ok()?));
        parts.ok_or(ShardError::Malformed)
    }

    /// Reads the variables of CI systems. `get` returns the value of an environment variable.
    ///
    /// Kubernetes counts the pods of an indexed job from 0, and GitLab from 1. A Slurm array has
    /// any first number. GitHub has no variable for a matrix: its workflow sets `CRUCIBLE_SHARD`.
    ///
    /// # Errors
    /// Fails if no variable is set, or if one has no usable value.
    pub fn auto(get: impl Fn(&str) -> Option<String>) -> Result<Self, ShardError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        if let Some(text) = get("CRUCIBLE_SHARD") {
            return Self::parse(&text).map_err(|_| unusable(&["CRUCIBLE_SHARD"], get));
        }
        let systems = [
            (["JOB_COMPLETION_INDEX", "CRUCIBLE_SHARDS", ""], 0),
            (
                [
                    "SLURM_ARRAY_TASK_ID",
                    "SLURM_ARRAY_TASK_COUNT",
                    "SLURM_ARRAY_TASK_MIN",
                ],
                0,
            ),
            (["CI_NODE_INDEX", "CI_NODE_TOTAL", ""], 1),
        ];
        for (names, first) in systems {
            let [index, of, min] = names;
            let Some(text) = get(index) else { continue };
            let number = |name: &str| get(name)?.parse::<u32>().ok();
            let first = match min.is_empty() {
                true => Some(first),
                false => number(min),
            };
            let shard = text
                .parse::<u32>()
                .ok()
                .zip(first)
                .and_then(|(index, first)| {
                    Self::new(index.checked_sub(first)?.checked_add(1)?, number(of)?)
                });
            return shard.ok_or_else(|| unusable(&names, get));
        }
        Err(ShardError::NotInCi)
    }
}

fn unusable(names: &[&str], get: impl Fn(&str) -> Option<String>) -> ShardError {
    let values = names.iter().filter(|name| !name.is_empty()).map(|name| {
        let value = get(name).unwrap_or_else(|| "unset".into());
        format!("{name} ({value})")
    });
    ShardError::Unusable(values.collect::<Vec<_>>().join(" with "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(values: &[(&str, &str)]) -> Result<(u32, u32), ShardError> {
        let get = |name: &str| {
            let found = values.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ShardSpec::auto(get).map(|shard| (shard.number, shard.of))
    }

    #[test]
    fn shards_count_from_one() {
        let shard = ShardSpec::parse("2/3").unwrap();
        assert_eq!((shard.number, shard.of), (2, 3));
        for wrong in ["", "2", "0/3", "4/3", "a/b", "1/0", "1/2/3", "-1/2"] {
            assert_eq!(
                ShardSpec::parse(wrong),
                Err(ShardError::Malformed),
                "{wrong}"
            );
        }
    }

    #[test]
    fn each_ci_system_is_read_as_it_counts() {
        let kubernetes = [("JOB_COMPLETION_INDEX", "0"), ("CRUCIBLE_SHARDS", "3")];
        assert_eq!(auto(&kubernetes), Ok((1, 3)));
        let gitlab = [("CI_NODE_INDEX", "3"), ("CI_NODE_TOTAL", "3")];
        assert_eq!(auto(&gitlab), Ok((3, 3)));
        let slurm = |id, min| {
            auto(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_COUNT", "3"),
                ("SLURM_ARRAY_TASK_MIN", min),
            ])
        };
        assert_eq!(slurm("0", "0"), Ok((1, 3)));
        assert_eq!(slurm("3", "1"), Ok((3, 3)));
        assert_eq!(auto(&[("CRUCIBLE_SHARD", "2/2")]), Ok((2, 2)));
    }

    #[test]
    fn what_makes_no_shard_is_an_error_that_names_it() {
        assert_eq!(auto(&[]), Err(ShardError::NotInCi));
        assert_eq!(auto(&[("CI_NODE_INDEX", "")]), Err(ShardError::NotInCi));
        let error = auto(&[("JOB_COMPLETION_INDEX", "1")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("CRUCIBLE_SHARDS (unset)"), "{error}");
        let error = auto(&[("CI_NODE_INDEX", "0"), ("CI_NODE_TOTAL", "3")]);
        assert!(error.is_err());
        assert!(auto(&[("CRUCIBLE_SHARD", "x")]).is_err());
    }
}
