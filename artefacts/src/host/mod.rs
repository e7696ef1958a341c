// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian packages that crucible needs on the host, and their installation.

use std::collections::HashSet;
use std::process::{Command, Stdio};

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

/// Lists the [`PACKAGES`] that are not installed.
pub fn missing() -> Result<Vec<Package>> {
    missing_of(PACKAGES)
}

fn missing_of(packages: &[Package]) -> Result<Vec<Package>> {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages.iter().map(|package| package.name))
        .stdin(Stdio::null())
        // It reports unknown names there.
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

/// Installs those of [`PACKAGES`] that are missing, after naming them. Without
/// `install`, returns [`Error::MissingPackages`] instead.
pub fn ensure(install: bool, progress: &dyn Progress) -> Result<()> {
    ensure_of(PACKAGES, install, progress)
}

/// As [`ensure`], for other `packages`.
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
        let _step = Step::begin(progress, "installing host packages");
        apt(
            "installing host packages",
            &["install", "--yes", "--no-install-recommends"],
            &names,
        )
    };
    // The package lists may be missing or outdated.
    if attempt().is_err() {
        refresh(progress)?;
        attempt()?;
    }
    Ok(())
}

/// Updates apt's package lists.
pub(crate) fn refresh(progress: &dyn Progress) -> Result<()> {
    let _step = Step::begin(progress, "refreshing apt's package lists");
    apt("refreshing apt's package lists", &["update"], &[])
}

fn apt(what: &str, arguments: &[&str], names: &[String]) -> Result<()> {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        // sudo may ask for a password on the terminal.
        let mut command = Command::new("sudo");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    };
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "--quiet"])
        .args(arguments)
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive");
    run(what, &mut command, |_| {})
}

/// Returns true if this process may install packages without sudo.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

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
