// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A directory with all that scenarios need, this program included: for machines that
//! cannot, or shall not, build kernels. A program that lies in one uses it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};
use crucible_artefacts::kernel::{Flavour, Identity, Kernel};
use serde::{Deserialize, Serialize};

use crate::host_program::succeed;

/// Its table of contents.
const MANIFEST: &str = "bundle.json";

/// What is in a bundle. Paths are relative to it, or absolute.
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
}

/// The files that a bundle is made from.
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
    /// The bundle that this program lies in, if it does.
    pub fn of_this_program() -> Result<Option<Self>> {
        let program = env::current_exe().context("cannot tell where this program is")?;
        let root = program.parent().unwrap_or(Path::new("/"));
        let manifest = root.join(MANIFEST);
        if !manifest.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let mut bundle: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no list of a bundle", manifest.display()))?;
        bundle.root = root.to_owned();
        Ok(Some(bundle))
    }

    /// Makes a bundle in `root`, which must not be there. With `debian` the userland's
    /// disk is not copied, but expected there.
    pub fn create(root: &Path, parts: &Parts<'_>, debian: Option<&Path>) -> Result<()> {
        fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
        // By this path it is there even where another build has taken its place meanwhile.
        let program = format!("/proc/{}/exe", process::id());
        // Its debugging information is ten times the program.
        succeed(
            Command::new("strip")
                .arg("-o")
                .arg(root.join("crucible"))
                .arg(program),
        )?;
        let bundle = Self {
            root: PathBuf::new(),
            flavour: parts.flavour,
            kernel: "vmlinux".into(),
            identity: parts.kernel.identity.clone(),
            agent: "agent.erofs".into(),
            debian: debian.unwrap_or(Path::new("debian.erofs")).to_owned(),
            scratch: "scratch.ext4".into(),
        };
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

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its kernel, which must be of this flavour.
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

    /// The agent's disk.
    pub fn agent(&self) -> PathBuf {
        self.root.join(&self.agent)
    }

    /// The userland's disk.
    pub fn debian(&self) -> PathBuf {
        self.root.join(&self.debian)
    }

    /// An empty writable disk, to be copied.
    pub fn scratch(&self) -> PathBuf {
        self.root.join(&self.scratch)
    }
}
