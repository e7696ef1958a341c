// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The mutants of a kernel of [`Flavour::Instrumented`](super::Flavour): a rewritten copy of the
//! series is built, and the image lists those that the compiler has kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crucible_mutants::{Generated, Mutant, SECTION, generate, is_source};
use object::{Object, ObjectSection};
use walkdir::WalkDir;

use super::series::Series;
use crate::{Error, Result};

/// The code that selects a mutant: each file's name in `guest-kernel/mutants/`, and its path in the
/// kernel's tree.
const FILES: [(&str, &str); 2] = [
    ("mutant.h", "include/linux/ckpt_mutant.h"),
    ("mutant.c", "kernel/checkpoint/mutant.c"),
];

/// The Makefile that builds the C file, and the line to add.
const MAKEFILE: (&str, &str) = ("kernel/checkpoint/Makefile", "obj-y += mutant.o\n");

/// Headers whose macros the sources may use.
const HEADERS: [&str; 2] = ["include", "arch/x86/include"];

/// Adds to a series the code that selects a mutant. `directory` is `guest-kernel/`.
pub(super) fn add(series: &mut Series, directory: &Path) -> Result<()> {
    for (name, to) in FILES {
        let path = directory.join("mutants").join(name);
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        series.files.insert(to.into(), text);
    }
    let (path, line) = MAKEFILE;
    let makefile = series.files.entry(path.into()).or_default();
    makefile.extend(line.as_bytes());
    Ok(())
}

/// Returns the series with all mutants, and their list. `tree` is the source to which the series
/// applies.
pub(super) fn rewrite(series: &Series, tree: &Path) -> Result<(Series, Vec<Mutant>)> {
    let generated = all(series, tree)?;
    let mut rewritten = series.clone();
    for (path, text) in generated.sources {
        let path = PathBuf::from(path);
        rewritten.files.insert(path, text.into_bytes());
    }
    Ok((rewritten, generated.mutants))
}

/// Returns all mutants of a series, including those that the compiler does not keep.
pub(super) fn all(series: &Series, tree: &Path) -> Result<Generated> {
    let mut headers = Vec::new();
    for directory in HEADERS {
        for entry in WalkDir::new(tree.join(directory)) {
            // A tree may lack some of them.
            let Ok(entry) = entry else { continue };
            if entry.path().extension().is_some_and(|e| e == "h") {
                let text = fs::read(entry.path()).map_err(Error::file("read", entry.path()))?;
                headers.push(String::from_utf8_lossy(&text).into_owned());
            }
        }
    }
    let mut sources = BTreeMap::new();
    for (path, content) in &series.files {
        let text = || String::from_utf8_lossy(content).into_owned();
        let name = path.to_string_lossy();
        if path.extension().is_some_and(|e| e == "h") {
            headers.push(text());
        } else if is_source(&name) && FILES.iter().all(|(_, ours)| *ours != name) {
            sources.insert(name.into_owned(), text());
        }
    }
    let headers = headers.iter().map(String::as_str);
    generate(&sources, headers).map_err(|error| malformed(tree, &error))
}

/// Writes the list of the mutants that the kernel built in `out` has.
pub(super) fn keep(mutants: &[Mutant], out: &Path, to: &Path) -> Result<()> {
    let image = out.join("vmlinux");
    let bytes = fs::read(&image).map_err(Error::file("read", &image))?;
    let numbers = numbers(&bytes).map_err(|error| malformed(&image, &error))?;
    let kept = mutants.iter().filter(|one| numbers.contains(&one.number));
    let kept: Vec<_> = kept.collect();
    let text = serde_json::to_vec(&kept).map_err(|error| malformed(to, &error))?;
    fs::write(to, text).map_err(Error::file("write", to))
}

/// Reads such a list. Without a file there are no mutants.
pub(super) fn load(path: &Path) -> Result<Vec<Mutant>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|error| malformed(path, &error))
}

/// Returns the numbers of the mutants that are in an image. Code that was compiled into several
/// functions has its mutants' numbers several times.
fn numbers(image: &[u8]) -> object::Result<BTreeSet<u32>> {
    let file = object::File::parse(image)?;
    let Some(section) = file.section_by_name(SECTION) else {
        return Ok(BTreeSet::new());
    };
    let words = section.data()?.as_chunks::<4>().0;
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

fn malformed(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        problem: error.to_string(),
    }
}
