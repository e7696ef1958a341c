// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Artefacts that stand in for others, which can no longer be made.

use std::fs;

use super::{Cache, list};
use crate::{Error, Result};

impl Cache {
    /// Returns the key of the artefact that stands in for one that can no longer be made.
    pub(crate) fn stand_in(&self, kind: &str, key: &str) -> Option<String> {
        let path = self.root.join("stand-ins").join(format!("{kind}-{key}"));
        let text = fs::read_to_string(path).ok()?;
        let other = text.trim();
        let is_key = !other.is_empty() && other.bytes().all(|b| b.is_ascii_hexdigit());
        (is_key && self.root.join(kind).join(other).is_dir()).then(|| other.to_owned())
    }

    /// Lists all stand-ins: the name of the replaced artefact, and kind and key of its stand-in.
    pub(crate) fn stand_ins(&self) -> Result<Vec<(String, String, String)>> {
        let mut all = Vec::new();
        for (path, _) in list(&self.root.join("stand-ins"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((kind, key)) = name.rsplit_once('-')
                && let Some(other) = self.stand_in(kind, key)
            {
                all.push((name.to_string(), kind.to_owned(), other));
            }
        }
        Ok(all)
    }

    /// Lets one artefact stand in for another one.
    pub(crate) fn set_stand_in(&self, kind: &str, key: &str, other: &str) -> Result<()> {
        let path = self.make("stand-ins")?.join(format!("{kind}-{key}"));
        let new = path.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, other).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("put in place", &path))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tests::{cache, fill};
    use super::*;
    use crate::progress::{Notes, Silent};

    #[test]
    fn an_artefact_of_another_key_stands_in() {
        let (_dir, cache) = cache();
        let other = "b".repeat(32);
        let get = |damage: bool| {
            let notes = Notes::default();
            let built = AtomicUsize::new(0);
            let path = cache.get_or_substitute("debian", "a", &notes, |path, _| {
                built.fetch_add(1, Ordering::Relaxed);
                fill(path).map(|()| other.clone())
            });
            let path = path.unwrap();
            assert!(path.ends_with(format!("debian/{other}")));
            if damage {
                fs::write(path.join("f"), "y").unwrap();
            }
            (built.into_inner(), notes.text())
        };
        assert_eq!(get(false).0, 1);
        assert_eq!(get(true).0, 0);
        let (built, notes) = get(false);
        assert_eq!(built, 1);
        assert!(notes.contains("is damaged"), "{notes}");
        cache.prune(0, &Silent).unwrap();
        assert!(list(&cache.root().join("stand-ins")).unwrap().is_empty());
    }
}
