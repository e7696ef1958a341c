// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Exports the series as mails, with `git format-patch`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::series::Series;
use super::source;
use crate::progress::Step;
use crate::run::{output, run};
use crate::{Cache, Error, Progress, Result, Sources};

/// Writes the series to `directory` as numbered patches: first the new files, one patch for each
/// directory, then the changes to existing files, which call them. Returns the patches and the
/// tree's `checkpatch.pl`.
pub fn export(
    cache: &Cache,
    sources: &Sources,
    directory: &Path,
    signer: &Signer,
    progress: &dyn Progress,
) -> Result<Export> {
    let source = source::pinned(cache, sources, progress)?;
    let series = Series::load(&sources.guest_kernel())?;
    let _step = Step::begin(progress, "exporting the kernel's series");

    let work =
        tempfile::tempdir().map_err(Error::file("make a directory in", Path::new("/tmp")))?;
    let repository = Repository::new(work.path(), signer)?;
    let touched: BTreeSet<_> = series.patches.iter().flat_map(|p| &p.targets).collect();
    for path in touched {
        let from = source.directory.join(path);
        if from.exists() {
            let content = fs::read(&from).map_err(Error::file("read", &from))?;
            repository.write(path, &content)?;
        }
    }
    repository.commit("base", "")?;
    repository.git(&["tag", "base"])?;

    for (place, paths) in by_directory(&series) {
        for path in &paths {
            repository.write(path, &series.files[*path])?;
        }
        repository.commit(&subject(&place), &body(&series, &paths))?;
    }
    for patch in &series.patches {
        let (subject, body) = patch.message();
        repository.apply(&patch.path)?;
        repository.commit(&subject, &reflow(&body))?;
    }

    fs::create_dir_all(directory).map_err(Error::file("make the directory", directory))?;
    let directory = directory
        .canonicalize()
        .map_err(Error::file("find", directory))?;
    repository.git(&[
        "format-patch",
        "--quiet",
        "--no-signature",
        "--numbered",
        "--zero-commit",
        "--output-directory",
        &directory.to_string_lossy(),
        "base",
    ])?;
    let mut patches = Vec::new();
    for entry in fs::read_dir(&directory).map_err(Error::file("list", &directory))? {
        let path = entry.map_err(Error::file("list", &directory))?.path();
        if path.extension().is_some_and(|e| e == "patch") {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(Export {
        patches,
        checkpatch: source.directory.join("scripts/checkpatch.pl"),
    })
}

/// The exported series.
#[derive(Debug)]
pub struct Export {
    /// The patches, in their order.
    pub patches: Vec<PathBuf>,
    /// The tree's own style checker.
    pub checkpatch: PathBuf,
}

/// Returns the new files of each directory.
fn by_directory(series: &Series) -> BTreeMap<PathBuf, Vec<&PathBuf>> {
    let mut places: BTreeMap<PathBuf, Vec<&PathBuf>> = BTreeMap::new();
    for path in series.files.keys() {
        let place = path.parent().unwrap_or(Path::new("")).to_owned();
        places.entry(place).or_default().push(path);
    }
    places
}

fn subject(place: &Path) -> String {
    format!("checkpoint: Add {}/", place.display())
}

/// Returns the message of a patch that adds files: the summary of each file.
fn body(series: &Series, paths: &[&PathBuf]) -> String {
    let mut text = String::from("Checkpoint and restart of process trees, in the kernel.\n");
    for path in paths {
        let content = String::from_utf8_lossy(&series.files[*path]);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match summary(&content) {
            Some(summary) => text.push_str(&wrap(&format!("{name}: {summary}"))),
            None => text.push_str(&wrap(&name)),
        }
    }
    text
}

/// Returns the first sentence of the first comment of a C file after its licence line.
fn summary(content: &str) -> Option<String> {
    let start = content.find("/*\n")?;
    let comment = content[start + 3..].split("*/").next()?;
    let mut sentence = String::new();
    for line in comment.lines() {
        let line = line.trim().trim_start_matches('*').trim();
        if line.is_empty() {
            break;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(line);
    }
    let end = sentence.find(". ").map_or(sentence.len(), |at| at + 1);
    sentence.truncate(end);
    (!sentence.is_empty()).then_some(sentence)
}

/// Wraps the paragraphs of a patch's message to the width of a mail. Leaves indented text and
/// lists as they are.
fn reflow(body: &str) -> String {
    let paragraphs: Vec<_> = body
        .split("\n\n")
        .map(|paragraph| {
            let laid_out = |line: &str| line.starts_with([' ', '\t', '-', '*']);
            if paragraph.lines().any(laid_out) {
                paragraph.to_owned()
            } else {
                fill(paragraph, "", "")
            }
        })
        .collect();
    paragraphs.join("\n\n")
}

/// Wraps a list item to the width of a mail.
fn wrap(text: &str) -> String {
    format!("\n{}\n", fill(text, "- ", "  "))
}

/// Fills lines of 72 columns.
fn fill(text: &str, first: &str, rest: &str) -> String {
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.len() + 1 + word.len() > 72 {
            lines.push(std::mem::replace(&mut line, rest.to_owned()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines.join("\n")
}

/// The person who signs the patches off, as a mailed patch requires.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The name.
    pub name: String,
    /// The address.
    pub email: String,
}

impl Signer {
    /// Returns the author that git would record for a commit in this directory.
    pub fn from_git(directory: &Path) -> Result<Self> {
        let identity = output(
            "reading the author from git (set it with `git config --global user.name` and \
             `user.email`)",
            Command::new("git")
                .args(["var", "GIT_AUTHOR_IDENT"])
                .current_dir(directory),
        )?;
        Self::parse(&identity).ok_or_else(|| Error::Malformed {
            path: directory.to_owned(),
            problem: format!(
                "git's author is `{}`, which is not of the form NAME <ADDRESS>",
                identity.trim()
            ),
        })
    }

    fn parse(identity: &str) -> Option<Self> {
        let (name, rest) = identity.split_once(" <")?;
        let (email, _) = rest.split_once('>')?;
        Some(Self {
            name: name.trim().to_owned(),
            email: email.to_owned(),
        })
    }
}

/// A repository that holds only the files that the series adds or changes.
struct Repository<'a> {
    directory: &'a Path,
    signer: &'a Signer,
}

impl<'a> Repository<'a> {
    fn new(directory: &'a Path, signer: &'a Signer) -> Result<Self> {
        let repository = Self { directory, signer };
        repository.git(&["init", "--quiet"])?;
        Ok(repository)
    }

    fn git(&self, arguments: &[&str]) -> Result<()> {
        run("git", self.command().args(arguments), |_| {})
    }

    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command
            .current_dir(self.directory)
            .env("GIT_AUTHOR_NAME", &self.signer.name)
            .env("GIT_AUTHOR_EMAIL", &self.signer.email)
            .env("GIT_COMMITTER_NAME", &self.signer.name)
            .env("GIT_COMMITTER_EMAIL", &self.signer.email)
            // The environment of a hook or of an outer git must not redirect this one.
            .env_remove("GIT_DIR")
            .env_remove("GIT_INDEX_FILE")
            .env_remove("GIT_WORK_TREE");
        command
    }

    fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        let path = self.directory.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make the directory", parent))?;
        }
        fs::write(&path, content).map_err(Error::file("write", &path))
    }

    fn apply(&self, patch: &Path) -> Result<()> {
        run(
            "applying a patch",
            Command::new("patch")
                .args(["-p1", "--force", "--no-backup-if-mismatch", "--input"])
                .arg(patch)
                .current_dir(self.directory),
            |_| {},
        )
    }

    fn commit(&self, subject: &str, body: &str) -> Result<()> {
        let message = format!("{subject}\n\n{body}");
        self.git(&["add", "--all", "--force"])?;
        self.git(&[
            "-c",
            "commit.gpgsign=false",
            "commit",
            "--quiet",
            "--allow-empty",
            "--no-verify",
            "--signoff",
            "--message",
            &message,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_comment_is_the_summary() {
        let text = "// SPDX-License-Identifier: GPL-2.0-only\n/*\n * The object table: what was seen\n * gets a number. More.\n */\n";
        assert_eq!(
            summary(text).as_deref(),
            Some("The object table: what was seen gets a number.")
        );
        assert_eq!(summary("int x;\n"), None);
    }

    #[test]
    fn gits_author_is_parsed() {
        let signer = Signer::parse("A Name <a@b.example> 1700000000 +0000\n").unwrap();
        assert_eq!((&*signer.name, &*signer.email), ("A Name", "a@b.example"));
        assert!(Signer::parse("nobody").is_none());
    }

    #[test]
    fn items_are_wrapped() {
        let text = wrap(&"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= 72));
        assert!(text.starts_with("\n- word"));
        assert!(text.contains("\n  word"));
    }

    #[test]
    fn paragraphs_are_filled_and_lists_left_alone() {
        let long = "word ".repeat(20);
        let text = reflow(&format!("{long}\n\n  laid  out\n\nshort\nlines"));
        assert!(text.lines().all(|line| line.len() <= 72));
        assert!(text.ends_with("word\n\n  laid  out\n\nshort lines"));
    }
}
