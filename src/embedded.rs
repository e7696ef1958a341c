// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sources that come with the program: those of guests, and the scenarios.
//!
//! A program that runs where cargo built it uses its checkout. A program that was installed or
//! copied uses the archive that the release profile packs into it (`build.rs`).

use std::env;
use std::path::Path;

use anyhow::{Context as _, Result};
use crucible_artefacts::{Cache, Fingerprint, Progress, Sources};
use flate2::read::GzDecoder;

/// The archive; empty in a debug build.
const ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sources.tar.gz"));

/// The directory that cargo built the program in.
const BUILD_DIR: &str = env!("CRUCIBLE_BUILD_DIR");

/// Returns true when this program is not where cargo built it: it was installed or copied.
pub fn is_moved() -> bool {
    // If the next build has replaced the program's file, its path is unknown; it was built here.
    env::current_exe().is_ok_and(|path| path.exists() && !path.starts_with(BUILD_DIR))
}

/// Returns true when the program uses its own sources: it was moved, contains them, and
/// `CRUCIBLE_SOURCES` names no checkout.
pub fn in_use() -> bool {
    let named = env::var_os("CRUCIBLE_SOURCES").is_some_and(|path| !path.is_empty());
    is_moved() && !named && !ARCHIVE.is_empty()
}

/// Unpacks the archive into the cache, if the cache does not have it yet.
///
/// # Errors
///
/// The cache cannot be written.
pub fn unpack(cache: &Cache, progress: &dyn Progress) -> Result<Sources> {
    let key = Fingerprint::new("sources 1")
        .add("archive", ARCHIVE)
        .finish();
    let root = cache.get_or_build("sources", &key, progress, |directory: &Path| {
        tar::Archive::new(GzDecoder::new(ARCHIVE))
            .unpack(directory)
            .map_err(crucible_artefacts::Error::file(
                "unpack the sources in",
                directory,
            ))
    })?;
    Sources::at(&root).context("the unpacked sources are incomplete; run `crucible clean --all`")
}
