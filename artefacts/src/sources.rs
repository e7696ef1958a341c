// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::env;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Paths in the checkout from which the agent, the userland and the kernel are made.
pub(crate) const PACKED: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "guest-kernel",
    "protocol",
    "rootfs",
];

/// The checkout of this repository that guests are built from.
#[derive(Debug, Clone)]
pub struct Sources {
    root: PathBuf,
    guest_kernel: PathBuf,
}

impl Sources {
    /// Finds `$CRUCIBLE_SOURCES`, or the checkout that this program was built in.
    ///
    /// # Errors
    ///
    /// There is no checkout.
    pub fn find() -> Result<Self> {
        match env::var_os("CRUCIBLE_SOURCES").filter(|v| !v.is_empty()) {
            Some(root) => Self::at(Path::new(&root)),
            None => Self::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")),
        }
    }

    /// Returns the checkout at `root`.
    ///
    /// # Errors
    ///
    /// There is no checkout.
    pub fn at(root: &Path) -> Result<Self> {
        match root.canonicalize() {
            Ok(root) if root.join("guest-kernel/kernel.lock").is_file() => Ok(Self {
                guest_kernel: root.join("guest-kernel"),
                root,
            }),
            _ => Err(Error::NoSources { path: root.into() }),
        }
    }

    /// Returns the same checkout, but with the directory `guest-kernel` of a different one.
    ///
    /// # Errors
    ///
    /// The directory has no `kernel.lock`.
    pub fn with_guest_kernel(&self, directory: &Path) -> Result<Self> {
        match directory.canonicalize() {
            Ok(directory) if directory.join("kernel.lock").is_file() => Ok(Self {
                root: self.root.clone(),
                guest_kernel: directory,
            }),
            _ => Err(Error::NoSources {
                path: directory.into(),
            }),
        }
    }

    /// Returns the directory of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn guest_kernel(&self) -> PathBuf {
        self.guest_kernel.clone()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }
}
