// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares the image of a restarted cell with the one that it was restarted from.

use std::{
    fs::{self, File},
    io::{self, BufReader, Seek},
    path::{Path, PathBuf},
};

use anyhow::Result;
use crucible_protocol::image::diff::{self, Comparison};

/// Size of a buffer for reading, in bytes.
const BUFFER: usize = 256 << 10;

/// The comparison of a second image with the first.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// The comparison.
    pub comparison: Comparison,
    /// The error of an image that cannot be read.
    pub unreadable: Option<String>,
    /// Paths of the images, if they differ.
    pub kept: Vec<PathBuf>,
}

/// Compares two images. Keeps both in `directory` if they differ.
///
/// # Errors
/// Fails if a file cannot be read or written.
pub fn compare(first: &File, second: &File, directory: &Path) -> Result<Second> {
    let from_start = |file: &File| -> io::Result<File> {
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(file)
    };
    let images = [from_start(first)?, from_start(second)?];
    let buffered = |file| BufReader::with_capacity(BUFFER, file);
    let compared = diff::compare(buffered(&images[0]), buffered(&images[1]), false);
    let mut found = Second::default();
    match compared {
        Ok(comparison) => found.comparison = comparison,
        Err(error) => found.unreadable = Some(error.to_string()),
    }
    if found.unreadable.is_none() && found.comparison.is_equal() {
        return Ok(found);
    }
    fs::create_dir_all(directory)?;
    for (image, name) in images.into_iter().zip(["image", "second-image"]) {
        let path = directory.join(name);
        let mut image = image;
        image.rewind()?;
        io::copy(&mut image, &mut File::create(&path)?)?;
        found.kept.push(path);
    }
    Ok(found)
}
