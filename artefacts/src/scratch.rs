// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's writable disk: an empty ext4 in a sparse file. The file system is made once
//! per size; each run gets a sparse copy.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::hash::Fingerprint;
use crate::run::run;
use crate::{Cache, Error, Progress, Result};

/// Increase this when the build procedure of the disk changes.
const RECIPE: &str = "scratch 1";

/// Default size of a scratch disk, in MiB.
pub const DEFAULT_MIB: u64 = 4096;

/// Creates an empty scratch disk at `path`, which must not exist.
pub fn create(cache: &Cache, mib: u64, path: &Path, progress: &dyn Progress) -> Result<()> {
    let key = Fingerprint::new(RECIPE)
        .add("MiB", mib.to_string())
        .finish();
    let template = cache
        .get_or_build("scratch", &key, progress, |directory| {
            format(&directory.join("scratch.ext4"), mib)
        })?
        .join("scratch.ext4");
    copy(&template, path)
}

/// Copies the empty scratch disk `template` to `path`, which must not exist.
pub fn copy(template: &Path, path: &Path) -> Result<()> {
    run(
        "copying the scratch disk",
        Command::new("cp")
            .args(["--sparse=always", "--reflink=auto", "--no-clobber"])
            .arg(template)
            .arg(path),
        |_| {},
    )
}

/// Makes the file system. It has no journal: a scratch disk that was not unmounted is discarded.
/// Nothing is initialised lazily, since the guest would do that while a workload is
/// observed; in a sparse file it costs nothing.
fn format(path: &Path, mib: u64) -> Result<()> {
    let file = File::create_new(path).map_err(Error::file("create", path))?;
    file.set_len(mib << 20)
        .map_err(Error::file("set the size of", path))?;
    drop(file);
    run(
        "making the scratch disk's file system",
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", "scratch", "-m", "0"])
            .args(["-O", "^has_journal,^resize_inode,^metadata_csum"])
            .args(["-E", "nodiscard,lazy_itable_init=0,root_owner=0:0"])
            .args(["-U", "6372756c-6962-4c65-8000-000000000001"])
            .arg(path)
            .env("E2FSPROGS_FAKE_TIME", "1700000000"),
        |_| {},
    )?;
    // mke2fs writes zeros to the inode tables; the copy becomes sparse again.
    let sparse = path.with_extension("sparse");
    run(
        "making the scratch disk sparse",
        Command::new("cp")
            .arg("--sparse=always")
            .arg(path)
            .arg(&sparse),
        |_| {},
    )?;
    fs::rename(&sparse, path).map_err(Error::file("put in place", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn scratch_disks_are_sparse_sound_and_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let disk = dir.path().join("disk");
        create(&cache, 1024, &disk, &Silent).unwrap();
        let metadata = fs::metadata(&disk).unwrap();
        assert_eq!(metadata.len(), 1024 << 20);
        assert!(metadata.blocks() * 512 < 4 << 20, "{}", metadata.blocks());
        run(
            "checking",
            Command::new("e2fsck").args(["-f", "-n"]).arg(&disk),
            |_| {},
        )
        .unwrap();
    }
}
