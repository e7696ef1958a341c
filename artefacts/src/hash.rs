// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hashes that name cached artefacts.

use std::fs::File;
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::manifest;
use crate::{Error, Result};

/// Hashes everything that an artefact depends on.
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Starts the hash of an artefact of this kind. Increase `recipe` when the build procedure
    /// changes.
    pub fn new(recipe: &str) -> Self {
        Self(Sha256::new()).add("recipe", recipe)
    }

    /// Adds an input. Lengths are hashed too, so that different lists of inputs never result in
    /// the same bytes.
    pub fn add(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// Returns the name: 32 hex digits, half of a sha256.
    pub fn finish(self) -> String {
        hex::encode(&self.0.finalize()[..16])
    }
}

/// Returns the sha256 of a file's content, in hex. Does not read an artefact of the cache again,
/// whose content was verified before it was handed out.
pub fn content_hash(path: &Path) -> Result<String> {
    match manifest::sha256(path) {
        Some(hash) => Ok(hash),
        None => sha256_file(path),
    }
}

/// Returns the sha256 of a file, in hex.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::file("read", path))?;
    let mut hasher = Hasher(Sha256::new());
    io::copy(&mut file, &mut hasher).map_err(Error::file("read", path))?;
    Ok(hex::encode(hasher.0.finalize()))
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_do_not_run_together() {
        let a = Fingerprint::new("r").add("ab", "c").finish();
        let b = Fingerprint::new("r").add("a", "bc").finish();
        let c = Fingerprint::new("r").add("ab", "").add("c", "").finish();
        assert_ne!(a, b);
        assert_ne!(a, c);
        assert_eq!(a.len(), 32);
    }

    #[test]
    fn files_have_the_usual_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256_file(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
