// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sources that a kernel of [`Flavour::Coverage`](super::Flavour) counts, and the notes that
//! the compiler has written for them.

use std::fs;
use std::path::Path;

use super::series::Series;
use crate::{Error, Result};

/// Extension of an object's notes. They are in the object's directory, and only an instrumented
/// object has them.
const NOTES: &str = "gcno";

/// Copies every instrumented source of the series with its notes, from the build in `out` to `to`.
pub(super) fn keep(series: &Series, out: &Path, to: &Path) -> Result<()> {
    for (path, content) in &series.files {
        let notes = out.join(path).with_extension(NOTES);
        let source = path.extension().is_some_and(|e| e == "c");
        if !(source && notes.is_file()) {
            continue;
        }
        let kept = to.join(path);
        if let Some(parent) = kept.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make the directory", parent))?;
        }
        fs::write(&kept, content).map_err(Error::file("write", &kept))?;
        fs::copy(&notes, kept.with_extension(NOTES)).map_err(Error::file("copy", &notes))?;
    }
    Ok(())
}
