// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The journal of a search: one line for each build, run and choice, on the disk before the search
//! continues.
//!
//! This is not the engine's journal, which belongs to one run with one kernel and is replaced by
//! the next: here each line has the hash of its kernel, so any search can use it.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::subject::{Offer, Seen, Setting};

/// Number of lines that are kept of a failure.
const LINES: usize = 24;

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
enum Line {
    /// A build, by a hash of all its inputs.
    Built {
        inputs: String,
        /// Hash of the kernel; `None` if it does not build.
        image: Option<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
        seconds: f64,
    },
    /// A kernel that does not boot.
    Unbootable {
        image: String,
        harness: String,
        why: String,
    },
    /// A run.
    Ran {
        image: String,
        harness: String,
        #[serde(deserialize_with = "setting")]
        setting: Setting,
        seen: Seen,
        seconds: f64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<String>,
    },
    /// A later observation of the run in an earlier line, whose number is given.
    Revised { line: usize, seen: Seen },
    /// Settings in which a failure may be more frequent than in this one.
    Offered {
        image: String,
        harness: String,
        setting: Setting,
        others: Vec<Setting>,
        seconds: f64,
    },
    /// The setting that was chosen after this one, and the seconds that were given to look for it.
    /// The kernel `good` does not show the same failure in it.
    Chosen {
        image: String,
        good: String,
        harness: String,
        setting: Setting,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        like: Option<String>,
        limit: f64,
        chosen: Setting,
    },
}

/// Reads a setting. Older lines have its options as on a command line.
fn setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
    #[derive(Deserialize)]
    struct Written {
        #[serde(flatten)]
        setting: Setting,
        #[serde(default)]
        options: String,
    }
    let Written {
        mut setting,
        options,
    } = Written::deserialize(deserializer)?;
    setting.take(&options);
    Ok(setting)
}

/// The subject of an offer or a choice: a kernel, everything else that runs, and the setting
/// before.
type Before = (String, String, Setting);

/// The search for a setting to which a choice belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The setting before.
    pub setting: &'a Setting,
    /// Part of the signature that is sought, if the user names it.
    pub like: Option<&'a str>,
    /// Image of the good end, which must not show the same failure.
    pub good: &'a str,
}

/// What is known of a build.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    /// Hash of the kernel; `None` if it does not build.
    pub image: Option<String>,
    /// The last lines of a build that failed.
    pub why: String,
}

/// A run of an earlier search, or of this one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ran {
    /// Hash of the kernel.
    pub image: String,
    /// Hash of everything that ran, except the kernel.
    pub harness: String,
    /// How it ran.
    pub setting: Setting,
    /// What was seen.
    pub seen: Seen,
    /// Duration in seconds.
    pub seconds: f64,
    /// What a failure showed.
    pub lines: Vec<String>,
}

/// The journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another process writes it.
    #[error("{} belongs to a running crucible; wait for its end", .0.display())]
    Busy(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// The journal.
#[derive(Debug, Default)]
pub struct Journal {
    path: PathBuf,
    /// `None` for a journal that is kept in memory only.
    file: Option<File>,
    builds: HashMap<String, Known>,
    unbootable: HashMap<(String, String), String>,
    offers: HashMap<Before, Offer>,
    /// Choices, each with the part of the signature that was given.
    choices: HashMap<(Before, String, Option<String>), (f64, Setting)>,
    runs: Vec<Ran>,
    /// Index of the run in each line that has one.
    run_of: HashMap<usize, usize>,
    /// Number of lines.
    lines: usize,
    /// Number of lines that could not be read.
    damaged: usize,
}

impl Journal {
    /// Opens or creates the journal in this file, which no other process may have open.
    ///
    /// # Errors
    /// The journal is in use, or cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        let mut options = File::options();
        let file = options.read(true).append(true).create(true).open(path);
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let bytes = fs::read(path).map_err(io)?;
        // The search has not used a line that a kill has cut off.
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(io)?;
        }
        let mut journal = Self {
            path: path.to_owned(),
            file: Some(file),
            ..Self::default()
        };
        for line in bytes[..whole].split_inclusive(|b| *b == b'\n') {
            match serde_json::from_slice(line) {
                Ok(line) => journal.take(line),
                Err(_) => {
                    journal.damaged += 1;
                    journal.lines += 1;
                }
            }
        }
        Ok(journal)
    }

    /// Returns a journal that is kept in memory only.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Number of lines that could not be read.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Number of runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn built(&self, inputs: &str) -> Option<&Known> {
        self.builds.get(inputs)
    }

    pub(crate) fn unbootable(&self, image: &str, harness: &str) -> Option<&str> {
        let key = (image.to_owned(), harness.to_owned());
        self.unbootable.get(&key).map(String::as_str)
    }

    pub(crate) fn all_runs(&self) -> &[Ran] {
        &self.runs
    }

    pub(crate) fn add_build(
        &mut self,
        inputs: &str,
        image: Option<&str>,
        why: &str,
        seconds: f64,
    ) -> Result<(), JournalError> {
        let known = Known {
            image: image.map(str::to_owned),
            why: why.to_owned(),
        };
        if self.builds.get(inputs) == Some(&known) {
            return Ok(());
        }
        self.add(Line::Built {
            inputs: inputs.into(),
            image: known.image,
            why: known.why,
            seconds,
        })
    }

    pub(crate) fn add_unbootable(
        &mut self,
        image: &str,
        harness: &str,
        why: &str,
    ) -> Result<(), JournalError> {
        self.add(Line::Unbootable {
            image: image.into(),
            harness: harness.into(),
            why: why.into(),
        })
    }

    /// Appends a run. Returns the number of its line.
    pub(crate) fn add_run(&mut self, mut ran: Ran) -> Result<usize, JournalError> {
        ran.lines.truncate(LINES);
        let line = self.lines;
        self.add(Line::Ran {
            image: ran.image,
            harness: ran.harness,
            setting: ran.setting,
            seen: ran.seen,
            seconds: ran.seconds,
            lines: ran.lines,
        })?;
        Ok(line)
    }

    pub(crate) fn revise(&mut self, line: usize, seen: Seen) -> Result<(), JournalError> {
        self.add(Line::Revised { line, seen })
    }

    /// Returns the settings that were offered for this kernel beside a setting.
    pub(crate) fn offered(&self, image: &str, harness: &str, setting: &Setting) -> Option<&Offer> {
        self.offers.get(&before(image, harness, setting))
    }

    pub(crate) fn add_offer(
        &mut self,
        image: &str,
        harness: &str,
        setting: &Setting,
        offer: &Offer,
    ) -> Result<(), JournalError> {
        self.add(Line::Offered {
            image: image.into(),
            harness: harness.into(),
            setting: setting.clone(),
            others: offer.settings.clone(),
            seconds: offer.seconds,
        })
    }

    /// Returns the setting that was chosen for this kernel and this failure, by a search that had
    /// at least `limit` seconds for it.
    pub(crate) fn chosen(
        &self,
        image: &str,
        harness: &str,
        asked: Asked<'_>,
        limit: f64,
    ) -> Option<&Setting> {
        let Asked {
            setting,
            like,
            good,
        } = asked;
        let before = before(image, harness, setting);
        let key = (before, good.to_owned(), like.map(str::to_owned));
        let (had, chosen) = self.choices.get(&key)?;
        (*had >= limit).then_some(chosen)
    }

    pub(crate) fn add_choice(
        &mut self,
        image: &str,
        harness: &str,
        asked: Asked<'_>,
        limit: f64,
        chosen: &Setting,
    ) -> Result<(), JournalError> {
        self.add(Line::Chosen {
            image: image.into(),
            good: asked.good.into(),
            harness: harness.into(),
            setting: asked.setting.clone(),
            like: asked.like.map(str::to_owned),
            limit,
            chosen: chosen.clone(),
        })
    }

    fn add(&mut self, line: Line) -> Result<(), JournalError> {
        if let Some(file) = &mut self.file {
            // A line has text keys and finite numbers only.
            let text = serde_json::to_string(&line).unwrap_or_default();
            file.write_all(format!("{text}\n").as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(|source| JournalError::Io {
                    path: self.path.clone(),
                    source,
                })?;
        }
        self.take(line);
        Ok(())
    }

    fn take(&mut self, line: Line) {
        let number = self.lines;
        self.lines += 1;
        match line {
            Line::Built {
                inputs, image, why, ..
            } => {
                self.builds.insert(inputs, Known { image, why });
            }
            Line::Unbootable {
                image,
                harness,
                why,
            } => {
                self.unbootable.insert((image, harness), why);
            }
            Line::Ran {
                image,
                harness,
                setting,
                seen,
                seconds,
                lines,
            } => {
                self.run_of.insert(number, self.runs.len());
                self.runs.push(Ran {
                    image,
                    harness,
                    setting,
                    seen,
                    seconds,
                    lines,
                });
            }
            Line::Revised { line, seen } => {
                let run = self.run_of.get(&line);
                if let Some(ran) = run.and_then(|&run| self.runs.get_mut(run)) {
                    ran.seen = seen;
                }
            }
            Line::Offered {
                image,
                harness,
                setting,
                others,
                seconds,
            } => {
                let offer = Offer {
                    settings: others,
                    seconds,
                    is_partial: false,
                };
                self.offers.insert((image, harness, setting), offer);
            }
            Line::Chosen {
                image,
                good,
                harness,
                setting,
                like,
                limit,
                chosen,
            } => {
                let key = ((image, harness, setting), good, like);
                self.choices.insert(key, (limit, chosen));
            }
        }
    }
}

fn before(image: &str, harness: &str, setting: &Setting) -> Before {
    (image.to_owned(), harness.to_owned(), setting.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(image: &str) -> Ran {
        Ran {
            image: image.into(),
            harness: "h".into(),
            setting: Setting::default(),
            seen: Seen::Pass,
            seconds: 1.0,
            lines: Vec::new(),
        }
    }

    #[test]
    fn whatever_was_added_is_there_after_a_kill_at_any_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("observations.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Busy(_))));
        journal.add_build("in", Some("a"), "", 2.0).unwrap();
        journal.add_build("in", Some("a"), "", 0.0).unwrap();
        journal.add_build("bad", None, "error: x", 2.0).unwrap();
        journal.add_run(ran("a")).unwrap();
        let second = journal.add_run(ran("b")).unwrap();
        let unclear = Seen::Unclear("late".into());
        journal.revise(second, unclear.clone()).unwrap();
        drop(journal);
        let all = fs::read(&path).unwrap();
        let ends: Vec<_> = (0..all.len()).filter(|&at| all[at] == b'\n').collect();
        assert_eq!(ends.len(), 5);
        for cut in 0..=all.len() {
            fs::write(&path, &all[..cut]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            let whole = ends.iter().filter(|end| **end < cut).count();
            assert_eq!(journal.runs(), whole.saturating_sub(2).min(2), "{cut}");
            assert_eq!(journal.damaged(), 0);
            assert_eq!(journal.built("bad").is_some(), whole >= 2);
            if whole == 5 {
                assert_eq!(journal.all_runs()[1].seen, unclear);
            }
            // The next line begins after it.
            journal.add_run(ran("c")).unwrap();
            drop(journal);
            let journal = Journal::open(&path).unwrap();
            assert_eq!(journal.damaged(), 0);
            assert_eq!(journal.all_runs().last().unwrap().image, "c");
        }
    }

    #[test]
    fn settings_of_older_lines_are_those_of_newer_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("observations.jsonl");
        let line = |setting: &str| {
            format!(
                r#"{{"what":"ran","image":"a","harness":"h","setting":{setting},"seen":"pass","seconds":1.0}}"#
            )
        };
        let old = line(r#"{"case":"a/b","options":"--at vfork:3 --timeout 9 --vcpus 2"}"#);
        let usual = line(r#"{"case":"a/b"}"#);
        fs::write(&path, format!("{old}\n{usual}\n")).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!((journal.runs(), journal.damaged()), (2, 0));
        let of = |journal: &Journal, run: usize| journal.all_runs()[run].setting.clone();
        let setting = of(&journal, 0);
        let shown = "a/b --at vfork:3 --timeout 9 --vcpus 2";
        assert_eq!(setting.to_string(), shown);
        assert_eq!(of(&journal, 1).to_string(), "a/b");
        let again = Ran {
            setting: setting.clone(),
            ..ran("a")
        };
        journal.add_run(again).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(of(&journal, 2), setting);
    }

    #[test]
    fn offers_and_choices_are_those_of_a_kernel_and_a_setting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("observations.jsonl");
        let usual = Setting::default();
        let other = Setting {
            chain: 4,
            ..Setting::default()
        };
        let offer = Offer {
            settings: vec![other.clone()],
            seconds: 2.0,
            is_partial: false,
        };
        let mut journal = Journal::open(&path).unwrap();
        journal.add_offer("a", "h", &usual, &offer).unwrap();
        let of = Asked {
            setting: &usual,
            like: Some("x"),
            good: "g",
        };
        journal.add_choice("a", "h", of, 60.0, &other).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.offered("a", "h", &usual), Some(&offer));
        assert_eq!(journal.offered("b", "h", &usual), None);
        assert_eq!(journal.offered("a", "h", &other), None);
        assert_eq!(journal.chosen("a", "h", of, 60.0), Some(&other));
        // With more time, a search may find another one.
        assert_eq!(journal.chosen("a", "h", of, 61.0), None);
        let unlike = Asked { like: None, ..of };
        assert_eq!(journal.chosen("a", "h", unlike, 60.0), None);
        // Another good end may fail in the same way.
        let from = Asked {
            good: "other",
            ..of
        };
        assert_eq!(journal.chosen("a", "h", from, 60.0), None);
    }

    #[test]
    fn a_damaged_line_is_counted_and_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("observations.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.add_run(ran("a")).unwrap();
        journal.add_run(ran("b")).unwrap();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        fs::write(&path, format!("{first}\n\0\0{{\n{second}")).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!((journal.runs(), journal.damaged()), (2, 1));
    }
}
