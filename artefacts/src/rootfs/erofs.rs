// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::run::run;
use crate::{Error, Result};

/// Time stamp of every file in an image, so that equal content results in equal images.
pub(super) const TIME: &str = "1700000000";

/// Makes a read-only image of a directory. All files belong to root; equal directories
/// result in equal images.
///
/// The image is not compressed: under emulation the guest's CPU is the bottleneck, not the
/// host's disk.
pub(super) fn image(directory: &Path, image: &Path) -> Result<()> {
    run(
        "making a read-only image",
        Command::new("mkfs.erofs")
            .args(["-T", TIME, "--all-root", "--quiet"])
            .args(["-U", "6372756c-6962-4c65-8000-000000000000"])
            .arg(image)
            .arg(directory),
        |_| {},
    )
}

/// Writes a file of an image, with this mode whatever the umask is. An existing file or link
/// is replaced.
pub(super) fn file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).map_err(Error::file("remove", path))?;
    }
    fs::write(path, content).map_err(Error::file("write", path))?;
    set_mode(path, mode)
}

/// Creates a directory of an image.
pub(super) fn directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("make the directory", path))?;
    set_mode(path, 0o755)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("set the mode of", path))
}
