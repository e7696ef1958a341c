// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The provenance of a run: hashes and versions of everything that can change its result. Two runs
//! with equal provenance run the same code on the same kind of host.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use crucible_artefacts::Sources;
use crucible_artefacts::kernel::Identity;
use crucible_artefacts::rootfs::DebianPackages;
use serde::{Deserialize, Serialize};

use crate::boot_artefacts::BootArtefacts;
use crate::embedded;
use crate::machines::Kind;

/// The provenance of a run. Hashes are sha256 in hex unless stated otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// This program.
    pub program: Program,
    /// The checkout that the guest's parts are built from; `None` if they come with the program.
    pub checkout: Option<Checkout>,
    /// The guest's kernel.
    pub kernel: KernelParts,
    /// The kernel of the machines that restart, if it is a different one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_kernel: Option<KernelParts>,
    /// Hash of the image with the agent and its tools.
    pub agent: String,
    /// The guest's userland.
    pub userland: Userland,
    /// First line of `qemu-system-x86_64 --version`; `None` with our VMM.
    pub qemu: Option<String>,
    /// The host.
    pub host: Host,
}

/// This program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Version of its compiler, and of the agent's if both are built in one checkout.
    pub compiler: String,
    /// The commit that it was built from. Debug builds do not record it.
    pub built_from: Option<Checkout>,
}

/// A checkout of this repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// Its commit.
    pub commit: String,
    /// True when files differed from the commit.
    pub dirty: bool,
}

/// The guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelParts {
    /// Hash of the image.
    pub image: String,
    /// Version and flavour, and the hashes of its source, series and
    /// configuration.
    #[serde(flatten)]
    pub identity: Identity,
}

/// The guest's userland.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Userland {
    /// Hash of the image.
    pub image: String,
    /// Number of its Debian packages, which `userland-packages.txt` lists; 0 if the packages are
    /// unknown.
    pub packages: usize,
    /// Hash of that list; empty if the packages are unknown.
    pub list: String,
    /// The list: name, version, architecture and sha256 of each package, for a file of the run.
    #[serde(skip)]
    pub text: String,
}

/// The host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Model of its CPU.
    pub cpu: String,
    /// Number of its CPUs.
    pub cpus: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Its kernel: release and version, as `uname -rv` prints them.
    pub kernel: String,
}

/// Returns the provenance of a guest with these artefacts.
///
/// # Errors
///
/// A file cannot be read.
pub fn provenance(images: &BootArtefacts) -> Result<Provenance> {
    Ok(Provenance {
        program: program(),
        checkout: if embedded::in_use() {
            None
        } else {
            Sources::find().ok().and_then(|it| checkout(it.root()))
        },
        kernel: kernel_parts(images)?,
        restart_kernel: None,
        agent: images.content_hash(&images.agent)?,
        userland: userland(images)?,
        qemu: (images.kind() == Kind::Qemu).then(qemu),
        host: host()?,
    })
}

/// Returns the provenance of the kernel of these artefacts.
///
/// # Errors
///
/// Its image cannot be read.
pub fn kernel_parts(images: &BootArtefacts) -> Result<KernelParts> {
    Ok(KernelParts {
        image: images.content_hash(&images.kernel.image)?,
        identity: images.kernel.identity.clone(),
    })
}

fn program() -> Program {
    let commit = env!("CRUCIBLE_COMMIT");
    Program {
        version: env!("CARGO_PKG_VERSION").into(),
        compiler: env!("CRUCIBLE_RUSTC").into(),
        built_from: (!commit.is_empty()).then(|| Checkout {
            commit: commit.into(),
            dirty: matches!(env!("CRUCIBLE_TREE"), "dirty"),
        }),
    }
}

/// Asks git; returns `None` if `root` is not the top of a repository.
fn checkout(root: &Path) -> Option<Checkout> {
    if !root.join(".git").exists() {
        return None;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git")
            // Root may examine a user's checkout: run no program that its configuration names.
            .args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C"])
            .arg(root)
            .args(args)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    Some(Checkout {
        commit: git(&["rev-parse", "HEAD"])?,
        dirty: !git(&["status", "--porcelain"])?.is_empty(),
    })
}

fn userland(images: &BootArtefacts) -> Result<Userland> {
    let packages = DebianPackages::load(&images.package_list).unwrap_or_default();
    Ok(Userland {
        image: images.content_hash(&images.debian)?,
        packages: packages.0.len(),
        list: match packages.0.is_empty() {
            true => String::new(),
            false => images.content_hash(&images.package_list)?,
        },
        text: packages.to_string(),
    })
}

/// Returns QEMU's version; an empty text if it cannot be run.
fn qemu() -> String {
    let options = crucible_vmm::qemu::Options::default();
    let output = Command::new(&options.binary).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn host() -> Result<Host> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let (cpuinfo, meminfo) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let uname = rustix::system::uname();
    let words = [uname.release(), uname.version()].map(|it| it.to_string_lossy().into_owned());
    Ok(Host {
        cpu: value(&cpuinfo, "model name").unwrap_or("unknown").into(),
        cpus: cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        memory_mib: value(&meminfo, "MemTotal")
            .and_then(|text| text.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok())
            .map_or(0, |kib| kib / 1024),
        kernel: words.join(" "),
    })
}

/// Returns the value in the first line `name: value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_known() {
        let host = host().expect("a host");
        assert!(host.cpus > 0 && host.memory_mib > 0, "{host:?}");
        assert!(!host.cpu.is_empty() && !host.kernel.is_empty(), "{host:?}");
    }

    #[test]
    fn a_changed_file_makes_a_checkout_dirty() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        assert_eq!(checkout(root), None);
        let git = |args: &[&str]| {
            let status = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-C"])
                .arg(root)
                .args(args)
                .status();
            assert!(status.expect("git").success(), "{args:?}");
        };
        git(&["init", "--quiet"]);
        git(&["commit", "--quiet", "--allow-empty", "--message=one"]);
        let clean = checkout(root).expect("a checkout");
        assert!(!clean.dirty && clean.commit.len() == 40, "{clean:?}");
        fs::write(root.join("new.c"), "").expect("a file");
        assert!(checkout(root).expect("a checkout").dirty);
    }
}
