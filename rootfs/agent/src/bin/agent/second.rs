// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares the image of a restarted tree with the one that it was restarted from.

use std::{fs::File, io::BufReader};

use anyhow::{Context, Result};
use crucible_protocol::image::diff::{self, Comparison, Which};

/// Size of a buffer for reading, in bytes.
const BUFFER: usize = 256 << 10;

/// Compares two images. The inner error is returned for an image that cannot be read.
///
/// # Errors
/// Fails if a file cannot be opened.
pub fn compare(first: &str, second: &str) -> Result<Result<Comparison, String>> {
    let open = |path: &str| -> Result<_> {
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        Ok(BufReader::with_capacity(BUFFER, file))
    };
    let compared = diff::compare(open(first)?, open(second)?, false);
    Ok(compared.map_err(|error| match error.which {
        Which::First => format!("the first image: {error}"),
        Which::Second => format!("the second image: {error}"),
    }))
}
