// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that crucible trusts: the names that they may have, and their permissions.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// Checks that only this user and root can change the content of `path`, an existing directory.
/// `setting` is the variable that selects a different directory. The group may write if it is the
/// user's own, with the user's number, as Debian makes them.
///
/// # Errors
/// [`Error::Directory`], with the command that repairs it.
pub fn check_owner(path: &Path, setting: &'static str) -> Result<()> {
    let metadata = path.metadata().map_err(Error::file("look at", path))?;
    let me = rustix::process::geteuid().as_raw();
    let refuse = |problem: String, mend: String| {
        Err(Error::Directory {
            path: path.to_owned(),
            problem,
            mend: format!(
                "run `{mend}` if you trust its content, or set {setting} to a directory of your own"
            ),
        })
    };
    let quoted = quote(&path.to_string_lossy());
    let owner = metadata.uid();
    if owner != me && owner != 0 {
        return refuse(
            format!("it belongs to user {owner}, but user {me} would run its content"),
            format!("sudo chown -R {me} {quoted}"),
        );
    }
    let own_group = metadata.gid() == owner;
    if metadata.mode() & 0o002 != 0 || (metadata.mode() & 0o020 != 0 && !own_group) {
        return refuse(
            format!(
                "others may write to it (mode {:04o}), so they could put programs there that you would run",
                metadata.mode() & 0o7777
            ),
            format!("chmod go-w {quoted}"),
        );
    }
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if rustix::fs::access(path, wanted) == Err(rustix::io::Errno::ACCESS) {
        let mend = if owner == me {
            format!("chmod u+wx {quoted}")
        } else {
            format!("sudo chown -R {me} {quoted}")
        };
        return refuse(format!("user {me} cannot write to it"), mend);
    }
    Ok(())
}

/// Checks that a path can be the cache: it is UTF-8, as configurations are, without spaces and
/// colons, which the kernel's Makefile refuses.
///
/// # Errors
/// [`Error::Directory`].
pub fn check_name(path: &Path) -> Result<()> {
    let problem = match path.to_str() {
        None => "its name is not UTF-8",
        Some(text) if text.contains(|c: char| c.is_whitespace() || c == ':') => {
            "the kernel cannot be built in a path with spaces or colons"
        }
        Some(_) => return Ok(()),
    };
    Err(Error::Directory {
        path: path.to_owned(),
        problem: problem.into(),
        mend: "set CRUCIBLE_CACHE to another directory".into(),
    })
}

/// Quotes a word for a shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, chown};

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn names_that_make_cannot_use_are_refused() {
        check_name(Path::new("/tmp/cache-1.2_x")).unwrap();
        for bad in ["/tmp/my cache", "/tmp/a:b", "/tmp/a\tb"] {
            let error = check_name(Path::new(bad)).unwrap_err();
            assert!(error.is_host_setup());
            assert!(error.to_string().contains("CRUCIBLE_CACHE"), "{error}");
        }
        let raw = Path::new(OsStr::from_bytes(b"/tmp/\xff"));
        let error = check_name(raw).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused_with_the_command_that_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's here");
        fs::create_dir(&path).unwrap();
        mode(&path, 0o755);
        check_owner(&path, "CRUCIBLE_CACHE").unwrap();
        mode(&path, 0o1777);
        let error = check_owner(&path, "CRUCIBLE_CACHE").unwrap_err();
        let text = error.to_string();
        let (_, command) = text.split_once("run `").unwrap();
        let (command, _) = command.split_once('`').unwrap();
        assert!(command.starts_with("chmod go-w"), "{text}");
        let mended = std::process::Command::new("sh")
            .args(["-c", command])
            .status();
        assert!(mended.unwrap().success(), "{command}");
        check_owner(&path, "CRUCIBLE_CACHE").unwrap();
    }

    #[test]
    fn another_users_directory_and_group_are_refused() {
        // Only root can change the owner of a directory.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        mode(directory.path(), 0o775);
        check_owner(directory.path(), "X").unwrap();
        chown(directory.path(), None, Some(12345)).unwrap();
        let error = check_owner(directory.path(), "X").unwrap_err();
        assert!(error.to_string().contains("0775"), "{error}");
        chown(directory.path(), Some(12345), None).unwrap();
        let error = check_owner(directory.path(), "X").unwrap_err();
        assert!(error.to_string().contains("user 12345"), "{error}");
        assert!(error.to_string().contains("chown"), "{error}");
    }
}
