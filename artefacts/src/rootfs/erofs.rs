// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::run::run;

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
