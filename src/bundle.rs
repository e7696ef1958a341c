// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bundles: directories with everything that scenarios need, including this program, for
//! machines that do not build kernels. A program in a bundle uses it.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};
use crucible_artefacts::kernel::{Flavour, Identity, Kernel};
use crucible_artefacts::{content_hash, rootfs};
use serde::{Deserialize, Serialize};

use crate::host_program::succeed;

/// Name of the manifest.
const MANIFEST: &str = "bundle.json";

/// The manifest of a bundle. Paths are relative to the bundle, or absolute.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    #[serde(skip)]
    root: PathBuf,
    flavour: Flavour,
    kernel: PathBuf,
    identity: Identity,
    agent: PathBuf,
    debian: PathBuf,
    scratch: PathBuf,
    /// The sha256 of the kernel and the disks, by the paths above. Reading a disk takes a long
    /// time on an emulated CPU.
    #[serde(default)]
    hashes: BTreeMap<PathBuf, String>,
}

/// The files to make a bundle from.
pub struct Parts<'a> {
    /// The kernel's flavour.
    pub flavour: Flavour,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The agent's disk.
    pub agent: &'a Path,
    /// The userland's disk.
    pub debian: &'a Path,
    /// An empty writable disk.
    pub scratch: &'a Path,
    /// The directory of the scenarios.
    pub scenarios: &'a Path,
}

impl Bundle {
    /// Returns the bundle that contains this program, if any.
    pub fn of_this_program() -> Result<Option<Self>> {
        let program = env::current_exe().context("cannot find the path of this program")?;
        let root = program.parent().unwrap_or(Path::new("/"));
        let manifest = root.join(MANIFEST);
        if !manifest.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let mut bundle: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a manifest of a bundle", manifest.display()))?;
        bundle.root = root.to_owned();
        Ok(Some(bundle))
    }

    /// Creates a bundle in `root`, which must not exist. If `debian` is given, the userland's
    /// disk is not copied: the manifest names this path.
    pub fn create(root: &Path, parts: &Parts<'_>, debian: Option<&Path>) -> Result<()> {
        fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
        // This path still leads to this program if another build has replaced its file.
        let program = format!("/proc/{}/exe", process::id());
        // The debug information is ten times as large as the program.
        succeed(
            Command::new("strip")
                .arg("-o")
                .arg(root.join("crucible"))
                .arg(program),
        )?;
        let mut bundle = Self {
            root: PathBuf::new(),
            flavour: parts.flavour,
            kernel: "vmlinux".into(),
            identity: parts.kernel.identity.clone(),
            agent: "agent.erofs".into(),
            debian: debian.unwrap_or(Path::new("debian.erofs")).to_owned(),
            scratch: "scratch.ext4".into(),
            hashes: BTreeMap::new(),
        };
        for (path, file) in [
            (&bundle.kernel, parts.kernel.image.as_path()),
            (&bundle.agent, parts.agent),
            (&bundle.debian, parts.debian),
        ] {
            bundle.hashes.insert(path.clone(), content_hash(file)?);
        }
        let packages = rootfs::package_list(parts.debian);
        let list = root.join(packages.file_name().unwrap_or_default());
        if packages.exists() {
            fs::copy(&packages, &list)
                .with_context(|| format!("cannot write {}", list.display()))?;
        }
        let mut files = vec![
            (parts.kernel.image.as_path(), &bundle.kernel),
            (parts.agent, &bundle.agent),
            (parts.scratch, &bundle.scratch),
        ];
        if debian.is_none() {
            files.push((parts.debian, &bundle.debian));
        }
        let scenarios = PathBuf::from("scenarios");
        files.push((parts.scenarios, &scenarios));
        for (from, to) in files {
            succeed(
                Command::new("cp")
                    .args(["--recursive", "--sparse=always", "--reflink=auto"])
                    .arg(from)
                    .arg(root.join(to)),
            )?;
        }
        let results = root.join("results");
        fs::create_dir(&results).with_context(|| format!("cannot make {}", results.display()))?;
        let manifest = root.join(MANIFEST);
        fs::write(&manifest, serde_json::to_string_pretty(&bundle)?)
            .with_context(|| format!("cannot write {}", manifest.display()))
    }

    /// Returns the directory of the bundle.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the kernel. Fails if it has a different flavour.
    pub fn kernel(&self, flavour: Flavour) -> Result<Kernel> {
        if flavour != self.flavour {
            bail!(
                "this bundle has the {} kernel, not the {} one",
                self.flavour.name(),
                flavour.name()
            );
        }
        Ok(Kernel {
            image: self.root.join(&self.kernel),
            identity: self.identity.clone(),
        })
    }

    /// Returns the agent's disk.
    pub fn agent(&self) -> PathBuf {
        self.root.join(&self.agent)
    }

    /// Returns the userland's disk.
    pub fn debian(&self) -> PathBuf {
        self.root.join(&self.debian)
    }

    /// Returns the list of the userland's packages.
    pub fn package_list(&self) -> PathBuf {
        rootfs::package_list(&self.root.join("userland"))
    }

    /// Returns the sha256 of the kernel and the disks, by their paths.
    pub fn hashes(&self) -> HashMap<PathBuf, String> {
        let absolute = |(path, hash): (&PathBuf, &String)| (self.root.join(path), hash.clone());
        self.hashes.iter().map(absolute).collect()
    }

    /// Returns an empty writable disk, to be copied for each guest.
    pub fn scratch(&self) -> PathBuf {
        self.root.join(&self.scratch)
    }
}
