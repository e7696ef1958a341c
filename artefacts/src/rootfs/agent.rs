// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

use super::erofs;
use crate::cache::Lock;
use crate::hash::{Fingerprint, sha256_file};
use crate::progress::Step;
use crate::run::run;
use crate::sources;
use crate::{Cache, Error, Progress, Result, Sources};

/// Increase this when the build procedure of the image changes.
const RECIPE: &str = "agent 2";

/// Kind of the artefact.
const KIND: &str = "agent";

/// Name of the image.
const IMAGE: &str = "agent.erofs";

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
/// Cargo compiles only changed files, so this is fast if nothing has changed. If it reaches no
/// registry, the function returns an image that `cache import` has added for the same sources.
pub fn agent(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<PathBuf> {
    // Cargo identifies packages by their path in the workspace and compares times: with a shared
    // target directory, a checkout could get the binaries of a different checkout.
    let checkout = Fingerprint::new(RECIPE)
        .add("checkout", sources.root().as_os_str().as_encoded_bytes())
        .finish();
    let target = cache.root().join("cargo").join(&checkout);
    cache.get("cargo", &checkout);
    // Hold the lock until the programs have been copied: another crucible may compile other
    // sources.
    let lock = cache.lock("agent-build", progress)?;
    if let Err(error) = compile(sources, &target, &lock, progress) {
        let kept = cache.get(KIND, &of_sources(sources)?);
        return match kept.filter(|_| error.is_host_setup()) {
            Some(directory) => {
                progress.note("the agent cannot be compiled here; using the one in the cache");
                Ok(directory.join(IMAGE))
            }
            None => Err(error),
        };
    }
    let built = target.join(TARGET).join("release");
    let mut fingerprint = Fingerprint::new(RECIPE);
    for program in PROGRAMS {
        fingerprint = fingerprint.add(program, sha256_file(&built.join(program))?);
    }
    let directory = cache.get_or_build(KIND, &fingerprint.finish(), progress, |directory| {
        build(&built, directory)
    })?;
    Ok(directory.join(IMAGE))
}

/// Records `image` as the agent of these sources, so that it is found without compiling.
pub(crate) fn keep_agent(cache: &Cache, sources: &Sources, image: &Path) -> Result<()> {
    let key = image.parent().and_then(Path::file_name);
    let key = key.unwrap_or_default().to_string_lossy();
    cache.set_stand_in(KIND, &of_sources(sources)?, &key)
}

/// Returns a hash of all files that the agent is compiled from. It includes some others, too.
fn of_sources(sources: &Sources) -> Result<String> {
    let mut fingerprint = Fingerprint::new(RECIPE);
    for top in sources::PACKED {
        for entry in WalkDir::new(sources.root().join(top)).sort_by_file_name() {
            let entry = entry.map_err(|error| Error::Malformed {
                path: sources.root().join(top),
                problem: error.to_string(),
            })?;
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(sources.root());
                let name = name.unwrap_or(entry.path()).to_string_lossy();
                fingerprint = fingerprint.add(&name, sha256_file(entry.path())?);
            }
        }
    }
    Ok(fingerprint.finish())
}

fn compile(sources: &Sources, target: &Path, lock: &Lock, progress: &dyn Progress) -> Result<()> {
    let _step = Step::begin(progress, "compiling the guest's agent");
    // Inside `cargo run` or `cargo test`, CARGO is the path of the running cargo.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(sources.root())
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", "crucible-agent", "--bins"])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(target);
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
    command.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(sources));
    lock.share_with(&mut command)?;
    run("compiling the agent", &mut command, |_| {}).map_err(|error| match error {
        Error::Failed { ref words, .. } if is_unreachable(words) => error.on_host(
            "Cargo fetches the agent's dependencies on first use: connect this machine, or bring \
             the artefacts of another machine with `crucible cache import`",
        ),
        error => error,
    })
}

/// Returns the compiler's flags, separated as `CARGO_ENCODED_RUSTFLAGS` has them. Paths of this
/// host do not get into the programs.
fn rust_flags(sources: &Sources) -> OsString {
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let from = [
        (Some(sources.root()), "crucible"),
        (cargo.as_deref(), "cargo"),
    ];
    for (path, name) in from {
        if let Some(path) = path {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(path);
            flags.push(format!("=/{name}"));
        }
    }
    flags
}

/// Returns true when cargo failed because it cannot reach a registry.
fn is_unreachable(words: &str) -> bool {
    const SIGNS: [&str; 5] = [
        "failed to download",
        "failed to fetch",
        "download of ",
        "Could not resolve host",
        "spurious network error",
    ];
    SIGNS.iter().any(|sign| words.contains(sign))
}

fn build(built: &Path, directory: &Path) -> Result<()> {
    let tree = directory.join("tree");
    erofs::directory(&tree)?;
    for name in MOUNT_POINTS {
        erofs::directory(&tree.join(name))?;
    }
    for program in PROGRAMS {
        let from = built.join(program);
        let content = fs::read(&from).map_err(Error::file("read", &from))?;
        erofs::file(&tree.join(program), &content, 0o755)?;
    }
    erofs::image(&tree, &directory.join(IMAGE))?;
    fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    #[test]
    fn the_image_depends_on_the_programs_alone() {
        let place = tempfile::tempdir().unwrap();
        let built = place.path().join("built");
        fs::create_dir(&built).unwrap();
        for program in PROGRAMS {
            fs::write(built.join(program), program.repeat(1000)).unwrap();
        }
        let image = |name: &str| {
            let directory = place.path().join(name);
            fs::create_dir(&directory).unwrap();
            build(&built, &directory).unwrap();
            fs::read(directory.join(IMAGE)).unwrap()
        };
        let first = image("first");
        let second = thread::scope(|scope| {
            let other = scope.spawn(|| {
                // SAFETY: this thread has its own umask from here on; it has no
                // descriptors or memory of its own.
                unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
                image("second")
            });
            other.join().unwrap()
        });
        assert!(first == second);
    }

    #[test]
    fn a_registry_out_of_reach_is_told_from_code_that_does_not_compile() {
        assert!(is_unreachable("  | error: failed to download from `x`"));
        assert!(!is_unreachable("  | error[E0425]: cannot find value"));
    }
}
