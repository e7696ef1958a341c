// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::iter;
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

/// Debian's directory of links that are named as compilers and run ccache. With it in PATH, the
/// compiler keeps its name in kbuild's commands, so nothing is compiled again when ccache is
/// installed.
const CCACHE: &str = "/usr/lib/ccache";
/// Directory of the compiler cache in crucible's cache.
pub(super) const COMPILER_CACHE: &str = "ccache";
/// Limit of the compiler cache's size: objects of about ten kernels.
const CCACHE_SIZE: &str = "2G";

/// Parameters of a kernel's build.
pub(super) struct How<'a> {
    /// The directory of the compiler cache, which all builds share.
    pub compiler_cache: &'a Path,
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
    let ready = || make(tree, out, how.cc, how.compiler_cache);
    match configure(ready(), out, how.config) {
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
    let mut make = ready();
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
    compiler_cache: &Path,
    objects: &BTreeSet<PathBuf>,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::file("make the directory", out))?;
    let ready = || make(tree, out, None, compiler_cache);
    configure(ready(), out, config)?;
    let what = "compiling with debug information";
    let _step = Step::begin(progress, what);
    let jobs = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut make = ready();
    lock.share_with(&mut make)?;
    make.arg(format!("-j{jobs}"))
        .arg("KCFLAGS=-g")
        .args(objects);
    run(what, &mut make, |_| {})
}

/// Runs Kconfig. Leaves `.config` untouched, modification time included, if its content would not
/// change.
fn configure(mut make: Command, out: &Path, config: &Config) -> Result<()> {
    let fragments = out.join(FRAGMENTS);
    fs::write(&fragments, config.text()).map_err(Error::file("write", &fragments))?;
    run(
        "configuring the kernel",
        make.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &fragments),
        |_| {},
    )?;
    let dot_config = out.join(".config");
    let text = fs::read_to_string(&dot_config).map_err(Error::file("read", &dot_config))?;
    config.check(&text)
}

/// Returns a `make` command set up for a reproducible build, with gcc unless `cc` names a
/// different compiler. If ccache is installed, the compilers use this directory.
fn make(tree: &Path, out: &Path, cc: Option<&str>, compiler_cache: &Path) -> Command {
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
    if Path::new(CCACHE).is_dir() {
        let path = env::var_os("PATH").unwrap_or_default();
        let all = iter::once(PathBuf::from(CCACHE)).chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(all) {
            command
                .env("PATH", path)
                .env("CCACHE_DIR", compiler_cache)
                .env("CCACHE_MAXSIZE", CCACHE_SIZE)
                // With a base directory, ccache makes the paths of sources relative, so that
                // `__FILE__` and the debug information differ from those of other builds.
                .env_remove("CCACHE_BASEDIR")
                .env_remove("CCACHE_NOHASHDIR");
        }
    }
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

    /// Compiles a file as kbuild does for a build outside of the tree.
    #[test]
    fn a_kernel_has_the_names_of_its_sources_with_and_without_ccache() {
        let directory = tempfile::tempdir().unwrap();
        let [tree, out] = ["src", "base"].map(|name| directory.path().join(name));
        for directory in [&tree, &out] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(tree.join("a.c"), "const char name[] = __FILE__;\n").unwrap();
        let rule =
            "all:\n\tcd $(O) && gcc -fmacro-prefix-map=$(CURDIR)/= -c -o a.o $(CURDIR)/a.c\n";
        fs::write(tree.join("Makefile"), rule).unwrap();
        let mut make = make(&tree, &out, None, &directory.path().join("ccache"));
        assert!(make.status().unwrap().success());
        let object = fs::read(out.join("a.o")).unwrap();
        let has = |name: &[u8]| object.windows(name.len()).any(|it| it == name);
        assert!(has(b"\0a.c\0") && !has(b"/a.c\0"));
    }

    #[test]
    fn kbuild_step_lines_are_recognised() {
        assert!(is_step("  CC      kernel/fork.o"));
        assert!(is_step("  HOSTCC  scripts/kconfig/conf.o"));
        assert!(!is_step("make[1]: Entering directory"));
        assert!(!is_step("  "));
    }
}
