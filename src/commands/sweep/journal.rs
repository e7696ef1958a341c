// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The journal of a sweep: one line per tried point, so that an interrupted sweep can be resumed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use crucible_artefacts::Fingerprint;
use crucible_engine::Scenario;
use crucible_engine::record::Versions;
use crucible_engine::scenario::Case;
use crucible_engine::sweep::{Point, PointResult};

/// The journal of a running or finished sweep.
pub struct Journal {
    path: PathBuf,
    identity: String,
    /// `None` until the first result is to be written.
    file: Option<File>,
    tried: HashMap<(String, u64), PointResult>,
}

/// Returns a hash of everything that the points depend on. The points of a different kernel,
/// program, source or machine are not comparable.
pub fn identity(
    scenario: &Scenario,
    case: &Case,
    versions: &Versions,
    machine: &str,
    broken: Option<&str>,
) -> Result<String> {
    let sources = scenario
        .sources()
        .context("cannot read the scenario's sources")?;
    let description = scenario.dir.join("scenario.toml");
    let description =
        fs::read(&description).with_context(|| format!("cannot read {}", description.display()))?;
    let mut hash = Fingerprint::new("sweep 2");
    for source in &sources {
        hash = hash
            .add(&source.path, &source.content)
            .add("mode", source.mode.to_string());
    }
    let hash = hash
        .add("description", &description)
        .add("case", &case.name)
        .add("machine", machine)
        .add("versions", format!("{:?} {broken:?}", versions.parts));
    Ok(format!("{{\"sweep\":\"{}\"}}", hash.finish()))
}

impl Journal {
    /// Opens the journal, empty or with the earlier results. Writes nothing: an existing file
    /// stays unchanged until [`Self::begin`]. The error is a mistake on the command line.
    pub fn open(path: &Path, identity: &str, resume: bool) -> Result<Self, String> {
        let mut journal = Self {
            path: path.to_owned(),
            identity: identity.to_owned(),
            file: None,
            tried: HashMap::new(),
        };
        if !resume {
            return Ok(journal);
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        match lines.next() {
            None => Err(format!(
                "cannot resume: {} does not exist; run without --resume",
                path.display()
            )),
            Some(line) if line != identity => Err(
                "cannot resume: the earlier sweep had a different kernel, machine or scenario; \
                 run without --resume"
                    .to_owned(),
            ),
            Some(_) => {
                // The last line may be incomplete; that point is tried again.
                for one in lines.map_while(|line| serde_json::from_str::<PointResult>(line).ok()) {
                    journal
                        .tried
                        .insert((one.point.task.clone(), one.point.nth), one);
                }
                Ok(journal)
            }
        }
    }

    /// Begins the journal with the resumed results, complete lines only. Replaces the old file
    /// once the new one is complete.
    pub fn begin(&mut self) -> Result<()> {
        let at = || format!("cannot write {}", self.path.display());
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).with_context(at)?;
        }
        let mut text = format!("{}\n", self.identity);
        for one in self.tried.values() {
            text.push_str(&serde_json::to_string(one)?);
            text.push('\n');
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new).with_context(at)?;
        file.write_all(text.as_bytes()).with_context(at)?;
        fs::rename(&new, &self.path).with_context(at)?;
        self.file = Some(file);
        Ok(())
    }

    /// Separates points into the results of those already tried, and the points left to try.
    pub fn split(&mut self, points: &[Point]) -> (Vec<PointResult>, Vec<Point>) {
        let mut tried = Vec::new();
        let mut left = Vec::new();
        for point in points {
            match self.tried.remove(&(point.task.clone(), point.nth)) {
                Some(one) => tried.push(one),
                None => left.push(point.clone()),
            }
        }
        (tried, left)
    }

    /// Appends one result, if the journal was begun.
    pub fn add(&mut self, tried: &PointResult) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let line = format!("{}\n", serde_json::to_string(tried)?);
        file.write_all(line.as_bytes())
            .context("cannot write the result of a point")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::sweep::PointOutcome;

    fn one(nth: u64) -> PointResult {
        PointResult {
            point: Point {
                task: "2".into(),
                nth,
                what: "vfork".into(),
            },
            met: None,
            outcome: PointOutcome::Passed,
            cause: String::new(),
            lines: Vec::new(),
            stops: Default::default(),
            missed: 0,
            by_control: false,
            ms: 1,
        }
    }

    fn begun(path: &Path) -> Journal {
        let mut journal = Journal::open(path, "x", false).unwrap();
        journal.begin().unwrap();
        journal
    }

    #[test]
    fn an_interrupted_sweep_resumes_after_its_last_complete_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut journal = begun(&path);
        journal.add(&one(1)).unwrap();
        journal.add(&one(2)).unwrap();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        let points: Vec<_> = (1..4).map(|nth| one(nth).point).collect();
        let mut journal = Journal::open(&path, "x", true).unwrap();
        journal.begin().unwrap();
        let (tried, left) = journal.split(&points);
        assert_eq!(tried.len(), 1);
        assert_eq!(left, points[1..]);
        journal.add(&one(2)).unwrap();
        let mut journal = Journal::open(&path, "x", true).unwrap();
        assert_eq!(journal.split(&points).1, points[2..]);
    }

    #[test]
    fn an_existing_journal_stays_until_a_sweep_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        begun(&path).add(&one(1)).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let mut journal = Journal::open(&path, "y", false).unwrap();
        journal.add(&one(2)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn a_sweep_of_a_different_kernel_is_not_resumed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        assert!(Journal::open(&path, "x", true).is_err());
        begun(&path);
        assert!(Journal::open(&path, "y", true).is_err());
    }

    #[test]
    fn the_identity_depends_on_the_description_and_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let identity = |text: &str, machine: &str| {
            fs::write(dir.path().join("scenario.toml"), text).unwrap();
            let scenario = Scenario::load(dir.path()).unwrap();
            let versions = Versions::default();
            identity(&scenario, &scenario.cases[0], &versions, machine, None).unwrap()
        };
        let text = "summary = \"s\"\nargv = [\"true\"]\nat = \"vfork\"\n";
        let one = identity(text, "Kvm 1");
        assert_eq!(one, identity(text, "Kvm 1"));
        assert_ne!(one, identity(text, "Qemu 1"));
        assert_ne!(one, identity(&format!("{text}status = 1\n"), "Kvm 1"));
    }
}
