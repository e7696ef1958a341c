// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's configuration: fragments, merged, on top of `allnoconfig`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// The merged fragments.
#[derive(Debug)]
pub(super) struct Config {
    names: String,
    wanted: BTreeMap<String, String>,
}

impl Config {
    /// Merges the fragments. If several lines set one symbol, the last one wins.
    pub fn load(directory: &Path, names: &[&str]) -> Result<Self> {
        let mut wanted = BTreeMap::new();
        for name in names {
            let path = directory.join(name);
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            merge(&mut wanted, &text).map_err(|problem| Error::Malformed { path, problem })?;
        }
        Ok(Self {
            names: names.join(", "),
            wanted,
        })
    }

    /// Merges one more fragment, the user's.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        merge(&mut self.wanted, &text).map_err(|problem| Error::Malformed {
            path: path.to_owned(),
            problem,
        })?;
        self.names.push_str(&format!(", {}", path.display()));
        Ok(())
    }

    /// Returns the merged fragments as one file, for `KCONFIG_ALLCONFIG`.
    pub fn text(&self) -> String {
        self.wanted
            .iter()
            .map(|(symbol, value)| match value.as_str() {
                "n" => format!("# {symbol} is not set\n"),
                value => format!("{symbol}={value}\n"),
            })
            .collect()
    }

    /// Checks that `.config` holds every line of the fragments, because Kconfig silently drops a
    /// symbol whose dependencies are not met.
    pub fn check(&self, dot_config: &str) -> Result<()> {
        let have: HashMap<_, _> = dot_config
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .collect();
        let lines: Vec<_> = self
            .wanted
            .iter()
            .filter_map(|(symbol, value)| {
                let found = have.get(symbol.as_str()).copied().unwrap_or("n");
                (found != value).then(|| format!("{symbol}={value} (is {found})"))
            })
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        Err(Error::Config {
            fragments: self.names.clone(),
            lines,
        })
    }
}

/// Returns the error of a fragment.
pub(super) fn problem(text: &str) -> Option<String> {
    merge(&mut BTreeMap::new(), text).err()
}

fn merge(wanted: &mut BTreeMap<String, String>, text: &str) -> Result<(), String> {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let unset = line
            .strip_prefix("# ")
            .and_then(|rest| rest.strip_suffix(" is not set"));
        let (symbol, value) = match unset {
            Some(symbol) => (symbol, "n"),
            None if line.is_empty() || line.starts_with('#') => continue,
            None => line.split_once('=').ok_or_else(|| {
                format!(
                    "line {}: `{line}` is not of the form CONFIG_X=value",
                    index + 1
                )
            })?,
        };
        if !symbol.starts_with("CONFIG_") || value.is_empty() {
            return Err(format!(
                "line {}: `{line}` is not of the form CONFIG_X=value",
                index + 1
            ));
        }
        wanted.insert(symbol.into(), value.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fragments: &[&str]) -> Config {
        let mut wanted = BTreeMap::new();
        for text in fragments {
            merge(&mut wanted, text).unwrap();
        }
        Config {
            names: "test".into(),
            wanted,
        }
    }

    #[test]
    fn later_fragments_override_earlier_ones() {
        let config = config(&[
            "# a comment\nCONFIG_A=y\nCONFIG_N=\"base\"\nCONFIG_B=y\n",
            "CONFIG_N=\"debug\"\n# CONFIG_B is not set\n",
        ]);
        assert_eq!(
            config.text(),
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=\"debug\"\n"
        );
    }

    #[test]
    fn dropped_symbols_are_reported() {
        let config = config(&["CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=8\nCONFIG_E=n"]);
        config
            .check("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_D=8\n")
            .unwrap();
        let error = config
            .check("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D=4\n")
            .unwrap_err()
            .to_string();
        for part in [
            "CONFIG_B=y (is n)",
            "CONFIG_C=n (is y)",
            "CONFIG_D=8 (is 4)",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("CONFIG_A"), "{error}");
    }

    #[test]
    fn a_malformed_line_is_refused_with_its_number() {
        let error = merge(&mut BTreeMap::new(), "CONFIG_A=y\nCONFIG_B\n").unwrap_err();
        assert!(error.starts_with("line 2"), "{error}");
    }
}
