// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian packages that crucible needs on the host, and their installation.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::progress::Step;
use crate::run::run;
use crate::{Error, Progress, Result};

/// A Debian package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Package {
    /// Name.
    pub name: &'static str,
    /// Purpose.
    pub purpose: &'static str,
}

/// Packages that crucible needs besides a Rust toolchain.
pub const PACKAGES: &[Package] = &[
    package("qemu-system-x86", "runs guests"),
    package("mmdebstrap", "makes the guest's Debian userland"),
    package("erofs-utils", "makes read-only images"),
    package("e2fsprogs", "makes scratch disks"),
    package("gcc", "compiles the guest's kernel"),
    package("make", "builds the guest's kernel"),
    package("flex", "generates the kernel configurator's scanner"),
    package("bison", "generates the kernel configurator's parser"),
    package("bc", "computes the kernel's time constants"),
    package("libelf-dev", "checks the kernel's objects"),
    package("libc6-dev", "compiles the kernel's host tools"),
    package("xz-utils", "unpacks the kernel's source"),
    package("patch", "applies the kernel's series"),
    package("git", "exports the kernel's series"),
    package("zstd", "compresses recordings of guests"),
    package("gdb", "debugs the guest's kernel"),
];

/// Packages that `tests/house.rs` needs in addition.
pub const TEST_PACKAGES: &[Package] = &[
    package("reuse", "checks that every file has a licence"),
    package("codespell", "finds misspelt words"),
    package("python3-venv", "installs checkers of workflow files"),
];

const fn package(name: &'static str, purpose: &'static str) -> Package {
    Package { name, purpose }
}

/// Time for which to wait while another program uses apt's package lists; equals
/// `DPkg::Lock::Timeout`.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lists the [`PACKAGES`] that are not installed.
pub fn missing() -> Result<Vec<Package>> {
    missing_of(PACKAGES)
}

fn missing_of(packages: &[Package]) -> Result<Vec<Package>> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages.iter().map(|package| package.name))
        .stdin(Stdio::null())
        // dpkg-query reports unknown names there.
        .stderr(Stdio::null())
        .output()
        .map_err(|source| Error::Program {
            program: "dpkg-query".into(),
            source,
        })?;
    let installed = installed(&String::from_utf8_lossy(&query.stdout));
    Ok(packages
        .iter()
        .filter(|package| !installed.contains(package.name))
        .copied()
        .collect())
}

fn installed(listing: &str) -> HashSet<String> {
    listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect()
}

/// Returns the command that installs these packages.
pub fn install_command(packages: &[Package]) -> String {
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let sudo = if is_root() { "" } else { "sudo " };
    format!(
        "{sudo}apt-get update && {sudo}apt-get install --yes --no-install-recommends {}",
        names.join(" ")
    )
}

/// Installs missing [`PACKAGES`], after naming them. Without
/// `install`, returns [`Error::MissingPackages`] instead.
pub fn ensure(install: bool, progress: &dyn Progress) -> Result<()> {
    ensure_of(PACKAGES, install, progress)
}

/// Like [`ensure`], for other `packages`.
pub fn ensure_of(packages: &[Package], install: bool, progress: &dyn Progress) -> Result<()> {
    let missing = missing_of(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|p| p.name.to_owned()).collect();
    if !install {
        return Err(Error::MissingPackages {
            command: install_command(&missing),
            packages: names,
        });
    }
    progress.note(&format!(
        "this host lacks {}; installing (--no-install refuses instead)",
        names.join(" ")
    ));
    let attempt = || {
        let arguments = ["install", "--yes", "--no-install-recommends"];
        let what = "installing host packages";
        apt(&Rights::own(), what, &arguments, &names, progress)
    };
    // The package lists may be missing or outdated.
    if attempt().is_err() {
        refresh(progress)?;
        attempt().map_err(|error| {
            error.on_host(format!("To try by hand: {}", install_command(&missing)))
        })?;
    }
    Ok(())
}

/// Advice for the case that a mirror cannot be reached.
pub(crate) const NETWORK: &str = "`crucible doctor` says whether apt reaches its archives; check the network, the proxy and \
     /etc/apt/sources.list. `crucible cache import` brings what another machine has built";

/// Updates apt's package lists.
pub(crate) fn refresh(progress: &dyn Progress) -> Result<()> {
    let what = "refreshing apt's package lists";
    apt(&Rights::own(), what, &["update"], &[], progress).map_err(|error| error.on_host(NETWORK))
}

/// Runs apt-get as one step.
fn apt(
    rights: &Rights,
    what: &str,
    arguments: &[&str],
    names: &[String],
    progress: &dyn Progress,
) -> Result<()> {
    // Ask before the step, whose progress line would be drawn over sudo's question.
    rights.authorise()?;
    let _step = Step::begin(progress, what);
    let began = Instant::now();
    let mut noted = false;
    loop {
        let mut command = match rights.sudo() {
            None => Command::new("apt-get"),
            Some(mut command) => {
                command.args([
                    "-n",
                    "DEBIAN_FRONTEND=noninteractive",
                    "LC_ALL=C",
                    "apt-get",
                ]);
                command
            }
        };
        command
            .args(["-o", "DPkg::Lock::Timeout=300", "--quiet"])
            .args(arguments)
            .args(names)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        match run(what, &mut command, |_| {}) {
            Err(Error::Failed { words, .. }) if is_locked(&words) && began.elapsed() < PATIENCE => {
                if !noted {
                    progress.note("another program uses apt's package lists; waiting for it");
                    noted = true;
                }
                // apt can wait for the lock of an installation, but not for that of an update.
                thread::sleep(Duration::from_secs(1));
            }
            result => return result,
        }
    }
}

/// Returns true when apt failed because another process has locked its package lists.
fn is_locked(words: &str) -> bool {
    words.contains("Could not get lock") || words.contains("Unable to lock directory")
}

/// The rights of this process to install packages.
struct Rights {
    /// The words that start sudo; `None` for root, who needs none.
    sudo: Option<Vec<OsString>>,
    /// True when there is a terminal at which sudo can ask for a password.
    can_ask: bool,
}

impl Rights {
    fn own() -> Self {
        Self {
            sudo: (!is_root()).then(|| vec!["sudo".into()]),
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// Returns sudo, still without arguments; `None` for root.
    fn sudo(&self) -> Option<Command> {
        let (program, arguments) = self.sudo.as_ref()?.split_first()?;
        let mut command = Command::new(program);
        command.args(arguments);
        Some(command)
    }

    /// Lets sudo ask for a password, if it needs one. sudo then does not ask again for some
    /// minutes.
    fn authorise(&self) -> Result<()> {
        let (Some(mut test), Some(mut ask)) = (self.sudo(), self.sudo()) else {
            return Ok(());
        };
        let succeeds = |command: &mut Command| match command.status() {
            Ok(status) => Ok(status.success()),
            Err(source) => Err(Error::Program {
                program: "sudo".into(),
                source,
            }),
        };
        test.args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if succeeds(&mut test)? || (self.can_ask && succeeds(ask.arg("-v"))?) {
            return Ok(());
        }
        let why = match self.can_ask {
            true => "it refused",
            false => "it needs a password, and there is no terminal to ask for it",
        };
        Err(Error::Failed {
            what: "sudo".into(),
            status: why.into(),
            command: "sudo -v".into(),
            words: String::new(),
        }
        .on_host(
            "Run crucible as root, or allow sudo without a password, or install the packages by \
             hand: `crucible doctor` names them",
        ))
    }
}

/// Returns true when this process may install packages without sudo.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::PathBuf;

    use super::*;

    /// A shell script in sudo's place: writes its arguments to the file `log` beside it, needs a
    /// password until `-v` has asked for it, and starts nothing.
    const SUDO: &str = "\
        cd \"$(dirname \"$0\")\"\n\
        echo \"sudo $1 ${*: -1}\" >> log\n\
        case $1 in\n\
        -n) test -e password ;;\n\
        -v) : > password ;;\n\
        esac\n";

    /// Writes the begin and the end of each step to a file.
    struct Steps(PathBuf);

    impl Steps {
        fn write(&self, line: &str) {
            let file = File::options().append(true).create(true).open(&self.0);
            writeln!(file.unwrap(), "{line}").unwrap();
        }
    }

    impl Progress for Steps {
        fn begin(&self, step: &str) {
            self.write(&format!("begin {step}"));
        }
        fn advance(&self, _: u64, _: u64) {}
        fn end(&self) {
            self.write("end");
        }
        fn note(&self, _: &str) {}
    }

    /// Updates apt's lists with [`SUDO`]. Returns what the user's terminal would have seen, in its
    /// order.
    fn updated(can_ask: bool) -> (Result<()>, String) {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("sudo");
        fs::write(&script, SUDO).unwrap();
        let log = directory.path().join("log");
        let rights = Rights {
            sudo: Some(vec!["bash".into(), script.into()]),
            can_ask,
        };
        let result = apt(&rights, "updating", &["update"], &[], &Steps(log.clone()));
        (result, fs::read_to_string(log).unwrap())
    }

    #[test]
    fn sudo_asks_for_a_password_before_the_step_is_drawn() {
        let (result, log) = updated(true);
        result.unwrap();
        let expected = [
            "sudo -n true",
            "sudo -v -v",
            "begin updating",
            "sudo -n update",
            "end",
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn without_a_terminal_a_password_is_a_matter_of_the_host() {
        let (result, log) = updated(false);
        let error = result.unwrap_err();
        assert!(error.is_host_setup(), "{error}");
        assert_eq!(log, "sudo -n true\n");
    }

    #[test]
    fn only_what_is_installed_counts() {
        let set = installed("gcc installed\nbison config-files\nmake installed\n");
        assert!(set.contains("gcc") && set.contains("make"));
        assert!(!set.contains("bison"));
    }

    #[test]
    fn the_command_names_every_package() {
        let command = install_command(&PACKAGES[..2]);
        assert!(command.contains("apt-get install"), "{command}");
        assert!(command.ends_with("qemu-system-x86 mmdebstrap"), "{command}");
    }
}
