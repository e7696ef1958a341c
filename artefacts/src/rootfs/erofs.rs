// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::run::run;

/// Every file in an image has this time, so that the same content makes the
/// same image.
pub(super) const TIME: &str = "1700000000";

/// Makes a read-only image of a directory. Everything in it belongs to root;
/// the same directory gives the same bytes.
///
/// It is not compressed: under emulation the guest's CPU is what is scarce,
/// not the host's disk.
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
