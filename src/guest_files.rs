// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies files and directories into a guest and out of it, as a stream of tar.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use crucible_engine::guest::{Attached, Guest, Program, Streams};
use crucible_protocol::WORK_DIR;
use crucible_protocol::stdio::Last;
use crucible_vmm::Alert;
use tar::{Archive, Builder, Entry, EntryType, HeaderMode};

use crate::stdout;

/// Maximum number of bytes kept of the standard error of a program in the guest.
const KEPT: usize = 4096;

/// A file or directory on the host, and one in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    host: PathBuf,
    /// Its directory and its name in the guest.
    guest: (String, String),
}

impl std::str::FromStr for Copy {
    type Err = String;

    /// Parses `HOST[:GUEST]`. A relative path in the guest is in the work directory; without it,
    /// the name is the same as on the host.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = match text.rsplit_once(':') {
            Some((host, guest)) => (host, Some(guest)),
            None => (text, None),
        };
        if host.is_empty() || guest == Some("") {
            return Err("a path is HOST or HOST:GUEST".into());
        }
        let name = match guest {
            Some(guest) => guest.to_owned(),
            None => {
                let resolved = std::path::absolute(host).map_err(|error| error.to_string())?;
                let name = resolved.file_name().and_then(|name| name.to_str());
                name.ok_or("this path has no name; write HOST:GUEST")?
                    .into()
            }
        };
        let guest = Path::new(WORK_DIR).join(name);
        match (guest.parent(), guest.file_name()) {
            (Some(parent), Some(name)) => Ok(Self {
                host: host.into(),
                // Made of texts.
                guest: [parent.as_os_str(), name]
                    .map(|part| part.to_string_lossy().into_owned())
                    .into(),
            }),
            _ => Err("the guest's root cannot be copied".into()),
        }
    }
}

impl Copy {
    /// Returns the copy of the file or directory `name` in a directory of the guest to `host`.
    pub fn out_of(directory: &str, name: &str, host: &Path) -> Self {
        Self {
            host: host.to_owned(),
            guest: (directory.into(), name.into()),
        }
    }

    /// Returns the reason why this cannot be copied into a guest, if that is known beforehand.
    pub fn cannot_enter(&self) -> Option<String> {
        let exists = self.host.exists();
        (!exists).then(|| format!("--copy-in: there is no {}", self.host.display()))
    }

    /// Returns the reason why nothing can be copied from a guest to `host`, if that is known
    /// beforehand.
    pub fn cannot_leave(&self) -> Option<String> {
        let parent = std::path::absolute(&self.host).ok()?;
        let parent = parent.parent()?;
        let exists = parent.is_dir();
        (!exists).then(|| format!("--copy-out: there is no directory {}", parent.display()))
    }

    /// Copies the file or directory into a guest, with its mode; root owns the copy. Existing
    /// directories are kept.
    pub fn enter(&self, guest: &mut Guest) -> Result<()> {
        let what = || format!("cannot copy {} into the guest", self.host.display());
        let (reader, writer) = io::pipe().with_context(what)?;
        let (from, (directory, name)) = (self.host.clone(), self.guest.clone());
        let sender = thread::spawn(move || send(&from, &name, writer));
        let script = "mkdir -p -- \"$1\" && exec tar -xpf - --no-same-owner --no-overwrite-dir \
                      --keep-directory-symlink -C \"$1\"";
        let argv = ["sh", "-c", script, "sh", &directory];
        let end = run(guest, &argv, Box::new(reader), Box::new(io::sink()));
        let sent = match sender.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let ended = end.with_context(what)?;
        match sent {
            // The guest has the reason.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.with_context(what)?,
        }
        ended.check().with_context(what)
    }

    /// Copies the file or directory out of a guest. Replaces existing files, and adds to
    /// existing directories.
    pub fn leave(&self, guest: &mut Guest) -> Result<()> {
        let (directory, name) = &self.guest;
        let what = || format!("cannot copy {directory}/{name} out of the guest");
        let (reader, writer) = io::pipe().with_context(what)?;
        let to = self.host.clone();
        let receiver = thread::spawn(move || receive(reader, &to));
        let argv = [
            "tar",
            "-cf",
            "-",
            "--hard-dereference",
            "-C",
            directory,
            "--",
            name,
        ];
        let end = run(guest, &argv, Box::new(io::empty()), Box::new(writer));
        let received = match receiver.join() {
            Ok(received) => received,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let ended = end.with_context(what)?;
        // If the guest has failed, the archive is not complete either.
        ended.check().with_context(what)?;
        received.with_context(what)
    }
}

/// The end of a tar in the guest.
struct Finished {
    last: Last,
    stderr: String,
}

impl Finished {
    fn check(&self) -> Result<()> {
        match &self.last {
            Last::Ended(ended) if ended.shell_status() == 0 => Ok(()),
            Last::Ended(ended) => bail!("{} ({ended})", self.stderr.trim()),
            Last::NotRun { message, .. } => bail!("there is no tar: {message}"),
        }
    }
}

/// Runs a program in the guest; its error includes its standard error.
fn run(
    guest: &mut Guest,
    argv: &[&str],
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
) -> Result<Finished> {
    let stderr = Excerpt::default();
    let program = Program {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        cwd: "/".into(),
        terminal: None,
    };
    let streams = Streams {
        input,
        output,
        error: Box::new(stderr.clone()),
    };
    let mut reports = Vec::new();
    let mut reported = |alerts: &[Alert]| reports.extend_from_slice(alerts);
    let Attached { last, .. } = guest.attach(program, streams, &mut |_| {}, &mut reported)?;
    // The kernel is to blame for reports, whatever the result of the copy.
    if !reports.is_empty() {
        return Err(crucible_engine::guest::GuestError::Alert {
            alerts: reports,
            used: true,
            memory: None,
        }
        .into());
    }
    Ok(Finished {
        last,
        stderr: stderr.text(),
    })
}

/// Keeps the beginning of the output.
#[derive(Clone, Default)]
struct Excerpt(Arc<Mutex<Vec<u8>>>);

impl Excerpt {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Excerpt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.len());
        kept.extend(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes an archive of a file or directory under this name. A symbolic link is followed if it is
/// the path itself, and kept below.
fn send(from: &Path, name: &str, to: PipeWriter) -> io::Result<()> {
    let mut archive = Builder::new(io::BufWriter::with_capacity(1 << 16, to));
    archive.follow_symlinks(false);
    archive.mode(HeaderMode::Complete);
    let from = fs::canonicalize(from)?;
    match from.is_dir() {
        true => archive.append_dir_all(name, &from)?,
        false => archive.append_file(name, &mut File::open(&from)?)?,
    }
    archive.into_inner()?.flush()
}

/// Reads an archive from a guest, which may be hostile: each entry is below `to`, through real
/// directories only, and is a file, a directory or a symbolic link without special mode bits.
fn receive(from: PipeReader, to: &Path) -> Result<()> {
    // The user's own links are followed; links that the archive creates are not.
    let resolved = fs::canonicalize(to).ok().filter(|to| to.is_dir());
    let to = resolved.as_deref().unwrap_or(to);
    let mut archive = Archive::new(from);
    let mut modes = Vec::new();
    let mut skipped = 0;
    let unpacked = (|| {
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = below(to, &entry.path()?)?;
            skipped += u64::from(!unpack(&mut entry, &path, to, &mut modes)?);
        }
        Ok(())
    })();
    // The mode of a read-only directory is set after its content is written.
    for (path, mode) in modes.into_iter().rev() {
        fs::set_permissions(&path, Permissions::from_mode(mode))
            .with_context(|| path.display().to_string())?;
    }
    if skipped > 0 {
        stdout::message(format_args!(
            "crucible: {}: left out {skipped} that are neither files, directories nor symbolic links",
            to.display()
        ));
    }
    // Read the rest: otherwise tar in the guest would block.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    unpacked
}

/// Returns the path of an entry on the host: its first component is the name in the guest.
fn below(to: &Path, entry: &Path) -> Result<PathBuf> {
    let mut path = to.to_owned();
    for (index, component) in entry.components().enumerate() {
        match component {
            Component::Normal(_) if index == 0 => {}
            Component::Normal(name) => path.push(name),
            _ => bail!("the guest's archive has the path {}", entry.display()),
        }
    }
    Ok(path)
}

/// Unpacks an entry. Returns false when it is of a different type.
fn unpack<R: Read>(
    entry: &mut Entry<'_, R>,
    path: &Path,
    root: &Path,
    modes: &mut Vec<(PathBuf, u32)>,
) -> Result<bool> {
    let shown = || path.display().to_string();
    let header = entry.header().clone();
    let mode = header.mode()? & 0o777;
    let mut parent = root.to_owned();
    for component in path.strip_prefix(root)?.components() {
        let real = fs::symlink_metadata(&parent).is_ok_and(|found| found.is_dir());
        if !real {
            bail!("{} is no directory", parent.display());
        }
        parent.push(component);
    }
    match header.entry_type() {
        EntryType::Directory => {
            let real = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            if !real {
                make_room(path).with_context(shown)?;
                fs::create_dir(path).with_context(shown)?;
            }
            fs::set_permissions(path, Permissions::from_mode(mode | 0o700)).with_context(shown)?;
            modes.push((path.to_owned(), mode));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            make_room(path).with_context(shown)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .with_context(shown)?;
            io::copy(entry, &mut file).with_context(shown)?;
            file.set_permissions(Permissions::from_mode(mode))
                .with_context(shown)?;
            let time = UNIX_EPOCH.checked_add(Duration::from_secs(header.mtime()?));
            // Ignore a failure: some file systems cannot store such a time.
            let _ = time.map(|time| file.set_modified(time));
        }
        EntryType::Symlink => {
            let target = entry
                .link_name()?
                .ok_or_else(|| anyhow!("a link without a target"))?
                .into_owned();
            make_room(path).with_context(shown)?;
            symlink(target, path).with_context(shown)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Removes a file that is not a directory.
fn make_room(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(text: &str) -> Result<(String, String), String> {
        text.parse::<Copy>().map(|copy| copy.guest)
    }

    #[test]
    fn a_path_in_the_guest_is_in_the_work_directory() {
        let of = |directory: &str, name: &str| Ok((directory.to_owned(), name.to_owned()));
        assert_eq!(copy("a/b"), of("/work", "b"));
        assert_eq!(copy("a/b/"), of("/work", "b"));
        assert_eq!(copy("b:c/d"), of("/work/c", "d"));
        assert_eq!(copy("b:/etc/d"), of("/etc", "d"));
        for wrong in ["", ":x", "x:", "/", "x:/"] {
            assert!(copy(wrong).is_err(), "{wrong}");
        }
    }

    /// Returns an archive with these entries: type, path, target or content.
    fn archive(entries: &[(EntryType, &str, &str)]) -> PipeReader {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut archive = Builder::new(Vec::new());
        for &(kind, path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_mtime(1);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            if kind == EntryType::Symlink {
                header.set_link_name(content).unwrap();
                header.set_size(0);
                header.set_cksum();
                archive.append(&header, io::empty()).unwrap();
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                archive.append(&header, content.as_bytes()).unwrap();
            }
        }
        writer.write_all(&archive.into_inner().unwrap()).unwrap();
        reader
    }

    #[test]
    fn files_directories_and_links_arrive_without_special_bits() {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("here");
        let entries = [
            (EntryType::Directory, "x", ""),
            (EntryType::Regular, "x/a", "text"),
            (EntryType::Symlink, "x/l", "../../etc/passwd"),
            (EntryType::Fifo, "x/f", ""),
        ];
        receive(archive(&entries), &to).unwrap();
        // Once more, over the existing files.
        receive(archive(&entries), &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "text");
        let mode = fs::metadata(to.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
        let target = fs::read_link(to.join("l")).unwrap();
        assert_eq!(target, Path::new("../../etc/passwd"));
        assert!(!to.join("f").exists());
    }

    #[test]
    fn a_hostile_archive_leaves_its_directory_by_no_way() {
        for entries in [
            &[(EntryType::Regular, "x/../../evil", "no")][..],
            &[(EntryType::Regular, "/evil", "no")],
            &[
                (EntryType::Directory, "x", ""),
                (EntryType::Symlink, "x/l", ".."),
                (EntryType::Regular, "x/l/evil", "no"),
            ],
            &[
                (EntryType::Symlink, "x", ".."),
                (EntryType::Regular, "x/evil", "no"),
            ],
        ] {
            let place = tempfile::tempdir().unwrap();
            let to = place.path().join("inner/here");
            fs::create_dir(to.parent().unwrap()).unwrap();
            let result = receive(archive(entries), &to);
            for evil in ["evil", "inner/evil"] {
                assert!(!place.path().join(evil).exists(), "{entries:?}");
            }
            assert!(result.is_err(), "{entries:?}");
        }
    }
}
