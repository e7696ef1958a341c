// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::Flavour;
use super::config::Config;
use crate::cache::Lock;
use crate::progress::Step;
use crate::run::{run, run_with};
use crate::{Error, Progress, Result};

/// Approximate number of steps of a build from scratch. After the first build, the recorded count
/// of the longest build is used instead.
const STEPS: u64 = 1500;

/// File in the build directory that holds the merged configuration fragments.
const FRAGMENTS: &str = "crucible.config";
/// File in the build directory that holds the number of steps of the longest build so far.
const COUNT: &str = "crucible.steps";

/// Parameters of a kernel's build.
pub(super) struct How<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// Its flavour.
    pub flavour: Flavour,
    /// The user's own compiler.
    pub cc: Option<&'a str>,
    /// True when symbols that Kconfig does not keep are not errors.
    pub lenient: bool,
}

/// Configures and builds the kernel, and returns the path of `vmlinux`. `lock` is the lock of the
/// source tree.
pub(super) fn build(
    tree: &Path,
    out: &Path,
    how: &How<'_>,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    fs::create_dir_all(out).map_err(Error::file("make the directory", out))?;
    match configure(tree, out, how.config, how.cc) {
        Err(error @ Error::Config { .. }) if how.lenient => progress.note(&error.to_string()),
        result => result?,
    }

    let what = format!("building the {} kernel", how.flavour.name());
    let step = Step::begin(progress, &what);
    let count = out.join(COUNT);
    let total = fs::read_to_string(&count)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(STEPS);
    let jobs = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut done = 0;
    let mut make = make(tree, out, how.cc);
    make.args(how.flavour.variables());
    lock.share_with(&mut make)?;
    run_with(
        &what,
        make.arg(format!("-j{jobs}")).arg("vmlinux"),
        |line| {
            if is_step(line) {
                done += 1;
                step.advance(done, total.max(done));
            }
        },
        |line| {
            if is_warning(line) {
                progress.note(line);
            }
        },
    )?;
    if done > total || total == STEPS {
        fs::write(&count, done.max(1).to_string()).map_err(Error::file("write", &count))?;
    }
    Ok(out.join("vmlinux"))
}

/// Configures the kernel and compiles only the given objects, with debug information.
pub(super) fn objects(
    tree: &Path,
    out: &Path,
    config: &Config,
    objects: &BTreeSet<PathBuf>,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::file("make the directory", out))?;
    configure(tree, out, config, None)?;
    let what = "compiling with debug information";
    let _step = Step::begin(progress, what);
    let jobs = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut make = make(tree, out, None);
    lock.share_with(&mut make)?;
    make.arg(format!("-j{jobs}"))
        .arg("KCFLAGS=-g")
        .args(objects);
    run(what, &mut make, |_| {})
}

/// Runs Kconfig. Leaves `.config` untouched, modification time included, if its content would not
/// change.
fn configure(tree: &Path, out: &Path, config: &Config, cc: Option<&str>) -> Result<()> {
    let fragments = out.join(FRAGMENTS);
    fs::write(&fragments, config.text()).map_err(Error::file("write", &fragments))?;
    run(
        "configuring the kernel",
        make(tree, out, cc)
            .arg("allnoconfig")
            .env("KCONFIG_ALLCONFIG", &fragments),
        |_| {},
    )?;
    let dot_config = out.join(".config");
    let text = fs::read_to_string(&dot_config).map_err(Error::file("read", &dot_config))?;
    config.check(&text)
}

/// Returns a `make` command set up for a reproducible build, with gcc unless `cc` names a
/// different compiler.
fn make(tree: &Path, out: &Path, cc: Option<&str>) -> Command {
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(tree)
        .arg(format!("O={}", out.display()))
        .args(["ARCH=x86_64", "LOCALVERSION="])
        .args(cc.map(|cc| format!("CC={cc}")))
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "crucible")
        .env("KBUILD_BUILD_HOST", "crucible")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LC_ALL", "C")
        // Do not join the jobserver of an outer make.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL");
    command
}

/// Returns true when kbuild announces a step, such as `  CC      kernel/fork.o`.
fn is_step(line: &str) -> bool {
    line.starts_with("  ")
        && line
            .trim_start()
            .starts_with(|c: char| c.is_ascii_uppercase())
}

/// Returns true for the line of a compiler's warning that names the place and the warning.
fn is_warning(line: &str) -> bool {
    line.contains(": warning: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_from_their_explanations() {
        assert!(is_warning(
            "fs/x.c:3:5: warning: unused variable 'a' [-Wunused-variable]"
        ));
        assert!(!is_warning("    3 | int a;"));
        assert!(!is_warning("fs/x.c: In function 'f':"));
    }

    #[test]
    fn kbuild_step_lines_are_recognised() {
        assert!(is_step("  CC      kernel/fork.o"));
        assert!(is_step("  HOSTCC  scripts/kconfig/conf.o"));
        assert!(!is_step("make[1]: Entering directory"));
        assert!(!is_step("  "));
    }
}
