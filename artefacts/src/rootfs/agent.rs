// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::erofs;
use crate::hash::{Fingerprint, sha256_file};
use crate::progress::Step;
use crate::run::run;
use crate::{Cache, Error, Progress, Result, Sources};

/// Increase this when the way in which the image is made changes.
const RECIPE: &str = "agent 1";

/// The programs in the root directory of the image.
const PROGRAMS: [&str; 6] = [
    "agent",
    "init",
    "checkpoint",
    "restart",
    "torture",
    "matrix",
];

/// Mount points that the agent uses before it changes the root.
const MOUNT_POINTS: [&str; 7] = ["dev", "mnt", "proc", "run", "sys", "tmp", "root"];

/// The target: a static binary does not depend on the userland.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the image of the agent and its tools from the current sources.
///
/// Cargo decides what to compile, so this is fast if nothing has changed.
pub fn agent(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<PathBuf> {
    // Cargo identifies packages by their path in the workspace and compares times: with a shared
    // target directory, a checkout could get the binaries of another one.
    let checkout = Fingerprint::new(RECIPE)
        .add("checkout", sources.root().as_os_str().as_encoded_bytes())
        .finish();
    let target = cache.root().join("cargo").join(&checkout);
    cache.get("cargo", &checkout);
    let built = {
        let _lock = cache.lock("agent-build", progress)?;
        compile(sources, &target, progress)?;
        target.join(TARGET).join("release")
    };
    let mut fingerprint = Fingerprint::new(RECIPE);
    for program in PROGRAMS {
        fingerprint = fingerprint.add(program, sha256_file(&built.join(program))?);
    }
    let directory = cache.get_or_build("agent", &fingerprint.finish(), progress, |directory| {
        build(&built, directory)
    })?;
    Ok(directory.join("agent.erofs"))
}

fn compile(sources: &Sources, target: &Path, progress: &dyn Progress) -> Result<()> {
    let _step = Step::begin(progress, "compiling the guest's agent");
    // Inside `cargo run` or `cargo test`, CARGO is the cargo that was called.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(sources.root())
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "crucible-agent", "--bins"])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    // The outer cargo's variables are about another package.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let foreign = name_text.starts_with("CARGO_PKG_")
            || name_text.starts_with("CARGO_MANIFEST_")
            || name_text.starts_with("CARGO_ENCODED_")
            || name_text.starts_with("CARGO_TARGET_DIR");
        if foreign {
            command.env_remove(&name);
        }
    }
    run("compiling the agent", &mut command, |_| {})
}

fn build(built: &Path, directory: &Path) -> Result<()> {
    let tree = directory.join("tree");
    for name in MOUNT_POINTS {
        let path = tree.join(name);
        fs::create_dir_all(&path).map_err(Error::file("make the directory", &path))?;
    }
    for program in PROGRAMS {
        let from = built.join(program);
        fs::copy(&from, tree.join(program)).map_err(Error::file("copy", &from))?;
    }
    erofs::image(&tree, &directory.join("agent.erofs"))?;
    fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))
}
