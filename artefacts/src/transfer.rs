// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Artefacts in one file, for a machine that cannot make them: a compressed tar archive with an
//! index, and each artefact's files after its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};

use crate::cache::Lock;
use crate::kernel::{self, Flavour, Origin};
use crate::manifest::{self, Check, Manifest};
use crate::progress::Step;
use crate::rootfs;
use crate::{Cache, Error, Progress, Result, Sources};

/// Name of the archive's first file.
const INDEX: &str = "crucible-cache.json";

/// Version of the format.
const FORMAT: u32 = 1;

/// Kinds of artefacts that an archive may have. Others are specific to one host, or quickly made.
const KINDS: [&str; 5] = ["kernel", "kernel-source", "debian", "agent", "sources"];

/// Maximum size of an index or a manifest, in bytes.
const LARGEST: u64 = 256 << 20;

/// The first file of an archive.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: u32,
    artefacts: Vec<Artefact>,
    /// Stand-ins, by the name of the replaced artefact.
    stand_ins: BTreeMap<String, Artefact>,
}

/// The place of an artefact in the cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Artefact {
    kind: String,
    key: String,
}

impl Artefact {
    /// Returns the artefact that a file of the cache belongs to.
    fn of(cache: &Cache, path: &Path) -> Option<Self> {
        let mut parts = path.strip_prefix(cache.root()).ok()?.components();
        let mut next = || Some(parts.next()?.as_os_str().to_str()?.to_owned());
        let (kind, key) = (next()?, next()?);
        Some(Self { kind, key })
    }

    fn name(&self) -> String {
        format!("{}/{}", self.kind, self.key)
    }

    fn is_sound(&self) -> bool {
        let Self { kind, key } = self;
        KINDS.contains(&kind.as_str()) && is_key(key)
    }
}

fn is_key(key: &str) -> bool {
    key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Writes all artefacts of guests to `file`: the kernels of these sources that are
/// cached, the base kernel and its source, the userland and the agent. Makes missing ones.
/// Returns the names of the artefacts.
pub fn export(
    cache: &Cache,
    sources: &Sources,
    file: &Path,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let agent = rootfs::agent(cache, sources, progress)?;
    rootfs::keep_agent(cache, sources, &agent)?;
    let mut paths = vec![agent, rootfs::debian(cache, sources, progress)?];
    paths.push(kernel::source(cache, sources, progress)?);
    let base = kernel::kernel(cache, sources, &Origin::Pinned, Flavour::Base, progress)?;
    paths.push(base.image);
    for flavour in [
        Flavour::Debug,
        Flavour::Coverage,
        Flavour::Instrumented,
        Flavour::Kcsan,
    ] {
        paths.extend(kernel::cached(cache, sources, flavour)?.map(|kernel| kernel.image));
    }
    paths.push(sources.root().join("Cargo.toml"));
    let artefacts: BTreeSet<_> = paths
        .iter()
        .filter_map(|path| Artefact::of(cache, path))
        .filter(Artefact::is_sound)
        .collect();
    let artefacts: Vec<_> = artefacts.into_iter().collect();
    write(cache, &artefacts, file, progress)?;
    Ok(artefacts.iter().map(Artefact::name).collect())
}

/// Writes these artefacts to `file`, atomically.
fn write(
    cache: &Cache,
    artefacts: &[Artefact],
    file: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let _hold = cache.hold()?;
    let step = Step::begin(progress, "writing the archive");
    let mut manifests = Vec::new();
    for artefact in artefacts {
        let directory = cache.root().join(artefact.name());
        let manifest = match Manifest::read(&directory)? {
            Some(manifest) => manifest,
            None => Manifest::of(&directory)?,
        };
        manifests.push((directory, artefact, manifest));
    }
    let total = manifests.iter().map(|it| it.2.size()).sum();
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = file.with_file_name(name);
    let failed = |source| Error::file("write", &partial)(source);
    let index = Index {
        format: FORMAT,
        artefacts: artefacts.to_vec(),
        stand_ins: cache
            .stand_ins()?
            .into_iter()
            .map(|(name, kind, key)| (name, Artefact { kind, key }))
            .filter(|(_, artefact)| artefacts.contains(artefact))
            .collect(),
    };
    let mut done = 0;
    let mut run = || {
        let out = BufWriter::new(File::create(&partial)?);
        let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
        append(&mut tar, INDEX, &serde_json::json!(index).to_string())?;
        for (directory, artefact, manifest) in &manifests {
            let artefact = artefact.name();
            let name = format!("{artefact}/{}", manifest::NAME);
            append(&mut tar, &name, &serde_json::json!(manifest).to_string())?;
            for (name, entry) in &manifest.files {
                let path = directory.join(name);
                let metadata = path.symlink_metadata()?;
                let mut header = Header::new_gnu();
                header.set_mode(metadata.mode() & 0o755);
                header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
                let name = format!("{artefact}/{name}");
                match entry {
                    manifest::Entry::Link(target) => {
                        header.set_entry_type(EntryType::Symlink);
                        header.set_size(0);
                        tar.append_link(&mut header, name, target)?;
                    }
                    manifest::Entry::File { size, .. } => {
                        header.set_size(*size);
                        tar.append_data(&mut header, name, File::open(&path)?.take(*size))?;
                        done += size;
                        step.advance(done, total);
                    }
                }
            }
        }
        let file = tar.into_inner()?.finish()?.into_inner()?;
        file.sync_all()
    };
    let result = run()
        .map_err(failed)
        .and_then(|()| fs::rename(&partial, file).map_err(Error::file("put in place", file)));
    if result.is_err() {
        // Return the error that is the cause.
        let _ = fs::remove_file(&partial);
    }
    result
}

fn append(tar: &mut Builder<impl Write>, name: &str, text: &str) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    tar.append_data(&mut header, name, text.as_bytes())
}

/// Adds the artefacts in `file` to the cache, each only if it is complete and its files have the
/// hashes of its manifest. Returns the names of the new ones.
///
/// # Errors
/// The file is not such an archive, is damaged, or has a path that leads out of its artefact.
/// Artefacts before that place have been added.
pub fn import(cache: &Cache, file: &Path, progress: &dyn Progress) -> Result<Vec<String>> {
    let _step = Step::begin(progress, "reading the archive");
    let input = BufReader::new(File::open(file).map_err(Error::file("read", file))?);
    Reader {
        cache,
        file,
        progress,
        added: Vec::new(),
    }
    .read(input)
}

/// Reads an archive.
struct Reader<'a> {
    cache: &'a Cache,
    file: &'a Path,
    progress: &'a dyn Progress,
    added: Vec<String>,
}

/// An artefact that is being read.
struct Incoming {
    artefact: Artefact,
    manifest: Manifest,
    /// The directory for its files, with its lock; `None` if it is in the cache already.
    to: Option<(Unfinished, Lock)>,
    links: Vec<(PathBuf, String)>,
}

/// A directory that is removed when dropped, unless it has been renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // An incomplete directory is removed before the artefact is made, or by `clean`.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Reader<'_> {
    fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed {
            path: self.file.to_owned(),
            problem: problem.into(),
        }
    }

    fn read(mut self, input: impl Read) -> Result<Vec<String>> {
        let damaged = |error: io::Error| Error::Malformed {
            path: self.file.to_owned(),
            problem: format!("it is damaged: {error}"),
        };
        let mut archive = Archive::new(GzDecoder::new(input));
        let mut entries = archive.entries().map_err(damaged)?;
        let Some(first) = entries.next() else {
            return Err(self.malformed("it is empty"));
        };
        let mut first = first.map_err(|_| self.malformed("it is not an archive of a cache"))?;
        if first.path_bytes() != INDEX.as_bytes() {
            return Err(self.malformed("it is not an archive of a cache"));
        }
        let index: Index = serde_json::from_slice(&self.small(&mut first)?)
            .map_err(|error| self.malformed(format!("its index is damaged: {error}")))?;
        self.check(&index)?;
        let mut wanted: BTreeSet<_> = index.artefacts.iter().cloned().collect();
        let mut current: Option<Incoming> = None;
        for entry in entries {
            let mut entry = entry.map_err(damaged)?;
            let path = entry.path().map_err(damaged)?.into_owned();
            let (artefact, name) = self.split(&path)?;
            if name == manifest::NAME {
                self.end(current.take())?;
                if !wanted.remove(&artefact) {
                    return Err(self.malformed(format!("{} is not in its index", path.display())));
                }
                let text = self.small(&mut entry)?;
                current = Some(self.begin(artefact, &text)?);
                continue;
            }
            let known = current
                .as_mut()
                .filter(|it| it.artefact == artefact && it.manifest.files.contains_key(&name));
            let Some(current) = known else {
                return Err(self.malformed(format!("{} is in no manifest", path.display())));
            };
            self.entry(current, &name, &mut entry)?;
        }
        self.end(current)?;
        if let Some(artefact) = wanted.first() {
            return Err(self.malformed(format!("it lacks {}", artefact.name())));
        }
        for (name, artefact) in &index.stand_ins {
            if let Some((kind, key)) = name.rsplit_once('-') {
                self.cache.set_stand_in(kind, key, &artefact.key)?;
            }
        }
        Ok(self.added)
    }

    fn check(&self, index: &Index) -> Result<()> {
        if index.format != FORMAT {
            return Err(self.malformed(format!(
                "it has format {}, and this crucible reads format {FORMAT}",
                index.format
            )));
        }
        let stand_ins = index.stand_ins.iter().all(|(name, artefact)| {
            let named = name.rsplit_once('-');
            named.is_some_and(|(kind, key)| kind == artefact.kind && is_key(key))
                && artefact.is_sound()
        });
        match index.artefacts.iter().find(|it| !it.is_sound()) {
            Some(bad) => Err(self.malformed(format!("{:?} is no artefact", bad.name()))),
            None if !stand_ins => Err(self.malformed("its index is damaged")),
            None => Ok(()),
        }
    }

    /// Splits a path into the artefact and the path in it. Refuses paths that lead elsewhere.
    fn split(&self, path: &Path) -> Result<(Artefact, String)> {
        let refused = || self.malformed(format!("{path:?} is not a path of an artefact"));
        let mut parts = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_str().ok_or_else(refused)?),
                _ => return Err(refused()),
            }
        }
        let [kind, key, rest @ ..] = parts.as_slice() else {
            return Err(refused());
        };
        let artefact = Artefact {
            kind: (*kind).to_owned(),
            key: (*key).to_owned(),
        };
        if rest.is_empty() || !artefact.is_sound() {
            return Err(refused());
        }
        Ok((artefact, rest.join("/")))
    }

    fn small(&self, entry: &mut impl Read) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        entry
            .take(LARGEST)
            .read_to_end(&mut text)
            .map_err(Error::file("read the archive", self.file))?;
        Ok(text)
    }

    fn begin(&self, artefact: Artefact, manifest: &[u8]) -> Result<Incoming> {
        let manifest = Manifest::parse(manifest).map_err(|problem| self.malformed(problem))?;
        let Artefact { kind, key } = &artefact;
        let lock = self.cache.lock(&format!("{kind}-{key}"), self.progress)?;
        let to = match self.cache.get(kind, key) {
            Some(_) => None,
            None => Some((Unfinished(self.cache.begin(kind, key)?), lock)),
        };
        Ok(Incoming {
            artefact,
            manifest,
            to,
            links: Vec::new(),
        })
    }

    fn entry<R: Read>(
        &self,
        current: &mut Incoming,
        name: &str,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<()> {
        let Some((directory, _)) = &current.to else {
            return Ok(());
        };
        let path = directory.0.join(name);
        match entry.header().entry_type() {
            EntryType::Regular => {
                let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
                let modified = entry.header().mtime().unwrap_or(0);
                // No links exist yet, so this path is below the directory.
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)
                        .map_err(Error::file("make the directory", parent))?;
                }
                let mut write = || {
                    let mut file = File::create_new(&path)?;
                    io::copy(entry, &mut file)?;
                    let mode = if executable { 0o755 } else { 0o644 };
                    file.set_permissions(fs::Permissions::from_mode(mode))?;
                    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified))
                };
                write().map_err(Error::file("write", &path))
            }
            EntryType::Symlink => {
                let target = entry.link_name().ok().flatten().unwrap_or_default();
                if !stays_inside(Path::new(name), &target) {
                    return Err(
                        self.malformed(format!("the link {name} leads out of its artefact"))
                    );
                }
                current
                    .links
                    .push((path, target.to_string_lossy().into_owned()));
                Ok(())
            }
            _ => Err(self.malformed(format!("{name} is neither a file nor a link"))),
        }
    }

    /// Puts a complete artefact into the cache.
    fn end(&mut self, current: Option<Incoming>) -> Result<()> {
        let Some(Incoming {
            artefact,
            manifest,
            to: Some((directory, _lock)),
            links,
        }) = current
        else {
            return Ok(());
        };
        for (path, target) in links {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(Error::file("make the directory", parent))?;
            }
            symlink(target, &path).map_err(Error::file("make the link", &path))?;
        }
        if let Some(problem) = manifest.verify(&directory.0, Check::Content) {
            return Err(self.malformed(format!("{}: {problem}", artefact.name())));
        }
        self.cache
            .finish(&artefact.kind, &artefact.key, &directory.0)?;
        self.added.push(artefact.name());
        Ok(())
    }
}

/// Returns true when the target of the link `name` is in the same artefact, by the names alone.
fn stays_inside(name: &Path, target: &Path) -> bool {
    let mut depth = name.components().count() - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn cache(place: &Path, name: &str) -> Cache {
        Cache::at(place.join(name)).unwrap()
    }

    fn artefact() -> Artefact {
        Artefact {
            kind: "kernel".into(),
            key: KEY.into(),
        }
    }

    /// Returns an archive of one artefact.
    fn archive(place: &Path) -> PathBuf {
        let from = cache(place, "from");
        from.get_or_build("kernel", KEY, &Silent, |directory| {
            fs::create_dir(directory.join("deep")).unwrap();
            fs::write(directory.join("deep/vmlinux"), vec![3; 100_000]).unwrap();
            symlink("deep/vmlinux", directory.join("link")).unwrap();
            Ok::<_, Error>(())
        })
        .unwrap();
        from.set_stand_in("kernel", &"f".repeat(32), KEY).unwrap();
        let file = place.join("archive");
        write(&from, &[artefact()], &file, &Silent).unwrap();
        file
    }

    #[test]
    fn what_is_exported_is_imported_once() {
        let place = tempfile::tempdir().unwrap();
        let file = archive(place.path());
        let to = cache(place.path(), "to");
        assert_eq!(import(&to, &file, &Silent).unwrap(), [artefact().name()]);
        let path = to.get("kernel", KEY).unwrap();
        assert_eq!(fs::read(path.join("link")).unwrap(), vec![3; 100_000]);
        assert_eq!(to.get("kernel", &"f".repeat(32)), Some(path));
        assert!(import(&to, &file, &Silent).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_archive_adds_nothing() {
        let place = tempfile::tempdir().unwrap();
        let file = archive(place.path());
        let good = fs::read(&file).unwrap();
        for at in (20..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, bad).unwrap();
            let to = cache(place.path(), "to");
            let result = import(&to, &file, &Silent);
            // A flip in a time or a mode changes no content.
            if result.is_err() {
                assert!(to.get("kernel", KEY).is_none());
            } else if let Some(path) = to.get("kernel", KEY) {
                assert_eq!(fs::read(path.join("link")).unwrap(), vec![3; 100_000]);
            }
            to.remove(&Silent).unwrap();
        }
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        assert!(import(&cache(place.path(), "to"), &file, &Silent).is_err());
        fs::write(&file, "something else").unwrap();
        let error = import(&cache(place.path(), "to"), &file, &Silent).unwrap_err();
        assert!(error.to_string().contains("not an archive"), "{error}");
    }

    /// Writes an archive of one artefact with these entries: a path and the target of a link, or
    /// the content of a file.
    fn forged(file: &Path, entries: &[(&str, Result<&str, &str>)]) {
        let mut tar = Builder::new(GzEncoder::new(
            File::create(file).unwrap(),
            Compression::fast(),
        ));
        let index = Index {
            format: FORMAT,
            artefacts: vec![artefact()],
            stand_ins: BTreeMap::new(),
        };
        append(&mut tar, INDEX, &serde_json::json!(index).to_string()).unwrap();
        let files: BTreeMap<_, _> = entries
            .iter()
            .map(|(name, what)| {
                let entry = match what {
                    Ok(content) => {
                        let path = file.with_extension("content");
                        fs::write(&path, content).unwrap();
                        manifest::Entry::of(&path).unwrap()
                    }
                    Err(target) => manifest::Entry::Link((*target).to_owned()),
                };
                ((*name).to_owned(), entry)
            })
            .collect();
        let text = serde_json::json!({"format": 1, "files": files}).to_string();
        append(&mut tar, &format!("kernel/{KEY}/{}", manifest::NAME), &text).unwrap();
        for (name, what) in entries {
            let mut header = Header::new_gnu();
            // The tar crate refuses to write such paths.
            let path = format!("kernel/{KEY}/{name}");
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_mode(0o644);
            match what {
                Ok(content) => {
                    header.set_size(content.len() as u64);
                    header.set_cksum();
                    tar.append(&header, content.as_bytes()).unwrap();
                }
                Err(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_size(0);
                    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
                    header.set_cksum();
                    tar.append(&header, io::empty()).unwrap();
                }
            }
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    #[test]
    fn paths_that_lead_out_of_an_artefact_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("forged");
        let outside = place.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let there = outside.to_str().unwrap();
        let into = format!("{there}/x");
        let attacks: [&[(&str, Result<&str, &str>)]; 5] = [
            &[("../../../outside/x", Ok("evil"))],
            &[("a", Err("../../../outside")), ("a/x", Ok("evil"))],
            &[("a", Err(there)), ("a/x", Ok("evil"))],
            &[("a", Err(&into))],
            &[("b/a", Err("../.."))],
        ];
        for entries in attacks {
            forged(&file, entries);
            let to = cache(place.path(), "to");
            let error = import(&to, &file, &Silent).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
            assert!(to.get("kernel", KEY).is_none());
            let unfinished = fs::read_dir(to.root().join("tmp")).unwrap();
            assert_eq!(unfinished.count(), 0);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
        forged(&file, &[("a", Ok("good")), ("b/c", Err("../a"))]);
        let to = cache(place.path(), "to");
        assert_eq!(import(&to, &file, &Silent).unwrap().len(), 1);
    }
}
