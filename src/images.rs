// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Opens checkpoint images for the commands that show them.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Error, Result};
use crucible_protocol::image::ImageError;

use crate::exit::Usage;

/// Size of a buffer for reading, in bytes.
const BUFFER: usize = 256 << 10;

/// Opens an image.
///
/// # Errors
/// A file that cannot be opened is a mistake on the command line.
pub fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path)
        .map_err(|error| Usage(format!("cannot open {}: {error}", path.display())))?;
    Ok(BufReader::with_capacity(BUFFER, file))
}

/// Returns the error for an image that cannot be read. A file that is not an image, or a damaged
/// one, is a mistake on the command line.
pub fn unreadable(path: &Path, error: ImageError) -> Error {
    let path = path.display();
    match error {
        ImageError::Io(error) => Error::from(error).context(format!("cannot read {path}")),
        error => Usage(format!("{path}: {error}")).into(),
    }
}
