// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's kernel: Debian's source of a stable Linux with our files added and our patches
//! applied, configured from fragments, and built.
//!
//! The result is cached by a hash of source, series, configuration and compiler. The build tree is
//! kept, and only files that differ are written again, so that a change to one C file rebuilds in
//! seconds.

mod blocks;
mod build;
pub mod census;
mod config;
mod counted;
mod export;
mod foreign;
mod lines;
mod lock;
mod members;
mod mutants;
mod report;
mod series;
mod source;
pub mod state;
mod tree;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crucible_mutants::{Generated, Mutant};
use serde::{Deserialize, Serialize};

pub use export::{Export, Signer, export};
pub use foreign::foreign;
pub use lines::{Line, Lines};
pub use members::{Member, Members, members};

pub use blocks::{Blocks, blocks};
pub use report::{Place, places};

use crate::hash::Fingerprint;
use crate::progress::Step;
use crate::run::output;
use crate::{Cache, Error, Progress, Result, Sources};
use config::Config;
use lock::KernelLock;
use series::Series;
use source::{Base, Source};

/// Version of the build procedure, part of the cache key. Change it when the procedure changes.
const RECIPE: &str = "kernel 1";

/// Directory beside the image of a coverage kernel: the instrumented sources and their notes.
const COUNTED: &str = "counted";

/// File beside the image of an instrumented kernel: the mutants that it has.
const MUTANTS: &str = "mutants.json";

/// The configuration of a kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// The configuration for normal use.
    #[default]
    Base,
    /// Like `Base`, with every kernel checker that can catch a mistake in checkpoint or restart.
    Debug,
    /// Has KVM, as a host for guests. Scenarios do not run on it.
    Outer,
    /// Like `Base`, and counts how often each line of checkpoint and restart runs.
    Coverage,
    /// Like `Base`, with all mutants of checkpoint and restart, none of them chosen.
    Instrumented,
    /// Like `Base`, and finds data races of the code of checkpoint and restart.
    Kcsan,
}

impl Flavour {
    /// Returns the flavour's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Debug => "debug",
            Self::Outer => "outer",
            Self::Coverage => "coverage",
            Self::Instrumented => "instrumented",
            Self::Kcsan => "kcsan",
        }
    }

    /// Returns the configuration fragments, in the order in which they are merged.
    fn fragments(self) -> &'static [&'static str] {
        match self {
            Self::Base => &["base.config"],
            Self::Debug => &["base.config", "debug.config"],
            Self::Outer => &["base.config", "outer.config"],
            Self::Coverage => &["base.config", "coverage.config"],
            Self::Instrumented => &["base.config", "instrumented.config"],
            Self::Kcsan => &["base.config", "kcsan.config"],
        }
    }

    /// Returns the variables of make's command line, which override those of all Makefiles.
    fn variables(self) -> &'static [&'static str] {
        match self {
            // Only files whose Makefile names them are instrumented: ours. Otherwise, the known
            // races of the rest of the kernel would be reported.
            Self::Kcsan => &["KCSAN_SANITIZE=n"],
            Self::Base | Self::Debug | Self::Outer | Self::Coverage | Self::Instrumented => &[],
        }
    }

    /// Returns the series that the flavour's source has applied. The outer kernel has none, so
    /// that a change to the series does not rebuild it.
    fn series(self, directory: &Path, carries: Option<&Path>) -> Result<Series> {
        let mut series = match (self, carries) {
            (Self::Outer, _) => return Ok(Series::default()),
            (_, None) => Series::load(directory)?,
            (_, Some(tree)) => Series::carried(tree)?,
        };
        if self == Self::Instrumented {
            mutants::add(&mut series, directory)?;
        }
        Ok(series)
    }

    /// Returns the suffix of the flavour's source tree. Flavours with the same series share one
    /// tree.
    fn tree(self) -> &'static str {
        match self {
            Self::Outer => "-pristine",
            Self::Instrumented => "-instrumented",
            Self::Base | Self::Debug | Self::Coverage | Self::Kcsan => "",
        }
    }
}

/// The origin of a kernel.
#[derive(Debug, Clone, Default)]
pub enum Origin {
    /// The pinned source with our series.
    #[default]
    Pinned,
    /// The user's own source tree; our series is applied to a copy of it, unless the tree already
    /// carries checkpoint and restart.
    Tree(PathBuf),
    /// The user's own kernel image, unchanged.
    Image(PathBuf),
}

/// The user's changes to a kernel's build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Custom {
    /// A configuration fragment that is merged after the flavour's.
    pub config: Option<PathBuf>,
    /// The compiler, with arguments, as make's `CC` takes it; `None` for gcc.
    pub cc: Option<String>,
    /// True when symbols that Kconfig does not keep are reported and are not an error: an older
    /// commit does not have all of them.
    pub lenient: bool,
}

impl Custom {
    /// Checks the changes as far as possible without a kernel, and returns the first error.
    pub fn problem(&self) -> Option<String> {
        let of_config = self.config.as_ref().and_then(|path| {
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => return Some(format!("cannot read {}: {error}", path.display())),
            };
            let problem = config::problem(&text)?;
            Some(format!("{}: {problem}", path.display()))
        });
        of_config.or_else(|| {
            let cc = self.cc.as_ref()?;
            let error = toolchain(cc).err()?;
            Some(format!("`{cc} --version` does not work: {error}"))
        })
    }

    fn cc(&self) -> &str {
        self.cc.as_deref().unwrap_or("gcc")
    }

    /// Returns the name of the build directory. There is one for all the user's own builds of a
    /// flavour, so that a change to the fragment compiles only the files that depend on it.
    fn build(&self, flavour: Flavour) -> String {
        match (&self.config, &self.cc) {
            (None, None) => flavour.name().into(),
            _ => format!("{}-custom", flavour.name()),
        }
    }
}

/// A kernel that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// The ELF image.
    pub image: PathBuf,
    /// The kernel's identity, for the record of a run.
    pub identity: Identity,
}

impl Kernel {
    /// Returns a directory laid out like the kernel's source tree, with the sources of checkpoint
    /// and restart and the compiler's notes (`.gcno`) for them. Returns `None` for any flavour but
    /// [`Flavour::Coverage`].
    pub fn counted(&self) -> Option<PathBuf> {
        let directory = self.image.with_file_name(COUNTED);
        directory.is_dir().then_some(directory)
    }

    /// Returns the mutants that the kernel has: only [`Flavour::Instrumented`] has any.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn mutants(&self) -> Result<Vec<Mutant>> {
        mutants::load(&self.image.with_file_name(MUTANTS))
    }
}

/// The inputs that a kernel was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of its source; empty for the user's own image.
    pub version: String,
    /// The flavour; empty for the user's own image.
    pub flavour: String,
    /// The hash of the kernel's inputs, or of the user's own image.
    pub hash: String,
    /// Hashes of its inputs; `None` for the user's own image, whose inputs are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
}

/// Hashes of a kernel's inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The sha256 of Debian's source package. For the user's own tree: `git` and git's hash of its
    /// content if that is committed, else a hash of the names, sizes and times of its files.
    pub source: String,
    /// A hash of our new files and patches, or of the files of checkpoint and restart in a tree
    /// that carries them.
    pub series: String,
    /// A hash of the merged configuration fragments.
    pub config: String,
    /// The versions of the compiler and the linker.
    pub compiler: String,
}

/// Returns the kernel of this origin and flavour. Builds it if it is not cached.
pub fn kernel(
    cache: &Cache,
    sources: &Sources,
    origin: &Origin,
    flavour: Flavour,
    progress: &dyn Progress,
) -> Result<Kernel> {
    custom(
        cache,
        sources,
        origin,
        flavour,
        &Custom::default(),
        progress,
    )
}

/// Like [`kernel`], with the user's changes. They do not affect an image.
///
/// # Errors
/// Those of [`kernel`], and [`Error::Config`] if Kconfig does not keep all lines of the fragment.
pub fn custom(
    cache: &Cache,
    sources: &Sources,
    origin: &Origin,
    flavour: Flavour,
    custom: &Custom,
    progress: &dyn Progress,
) -> Result<Kernel> {
    let source = match origin {
        Origin::Image(image) => return foreign(image),
        Origin::Pinned => {
            let lock = KernelLock::load(&sources.guest_kernel().join("kernel.lock"))?;
            let source = match source::cached(cache, &lock) {
                Some(source) => source,
                None => {
                    // The kernel of the pinned version may be cached even if its source was
                    // pruned.
                    if let Some(kernel) = pinned_kernel(cache, sources, &lock, flavour, custom)? {
                        return Ok(kernel);
                    }
                    source::fetch(cache, &lock, progress)?
                }
            };
            if source.version != lock.version {
                progress.note(&format!(
                    "the kernel's source is {} {}; guest-kernel/kernel.lock has {}, which the \
                     archive does not offer",
                    lock.package, source.version, lock.version
                ));
            }
            source
        }
        Origin::Tree(tree) => source::foreign(tree)?,
    };
    let plan = Plan::new(sources, &source.base(), flavour, custom)?;
    if let Some(kernel) = plan.cached(cache) {
        return Ok(kernel);
    }
    if source.carries {
        progress.note("this tree carries checkpoint and restart, and is built without our series");
    }
    plan.build(cache, &source, progress)
}

/// Brings the build directory up to date for a kernel that is cached: it may have built a
/// different one since, as bisections do. The files that [`Lines`] needs exist afterwards.
///
/// # Errors
/// Those of [`custom`].
pub fn build_again(
    cache: &Cache,
    sources: &Sources,
    origin: &Origin,
    flavour: Flavour,
    custom: &Custom,
    progress: &dyn Progress,
) -> Result<()> {
    let source = match origin {
        Origin::Image(_) => return Ok(()),
        Origin::Pinned => source::pinned(cache, sources, progress)?,
        Origin::Tree(tree) => source::foreign(tree)?,
    };
    let plan = Plan::new(sources, &source.base(), flavour, custom)?;
    plan.make(cache, &source, progress, |_, _| Ok(()))
}

/// Returns a hash of all inputs of a kernel of the pinned source, or of a kernel of the tree that
/// git's name `tree` identifies. Fetches and builds nothing.
///
/// # Errors
/// The series or the configuration cannot be read.
pub fn planned(
    sources: &Sources,
    tree: Option<&str>,
    flavour: Flavour,
    custom: &Custom,
) -> Result<String> {
    let lock = KernelLock::load(&sources.guest_kernel().join("kernel.lock"))?;
    let base = Base {
        identity: tree.unwrap_or(&lock.sha256),
        version: "",
        carries: None,
    };
    Ok(Plan::new(sources, &base, flavour, custom)?.key)
}

/// Returns the directory of the pinned source, without our series. Fetches it if it is not cached.
pub fn source(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<PathBuf> {
    Ok(source::pinned(cache, sources, progress)?.directory)
}

/// Returns the pinned source's kernel if it is cached. Fetches and builds nothing.
pub fn cached(cache: &Cache, sources: &Sources, flavour: Flavour) -> Result<Option<Kernel>> {
    let custom = Custom::default();
    let lock = KernelLock::load(&sources.guest_kernel().join("kernel.lock"))?;
    match source::cached(cache, &lock) {
        Some(source) => Ok(Plan::new(sources, &source.base(), flavour, &custom)?.cached(cache)),
        None => pinned_kernel(cache, sources, &lock, flavour, &custom),
    }
}

/// Returns all mutants of the pinned source with our series, including those that the compiler does
/// not keep. Fetches the source if it is not cached.
///
/// # Errors
/// The source or the series cannot be read.
pub fn all_mutants(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<Generated> {
    let source = source::pinned(cache, sources, progress)?;
    let series = Series::load(&sources.guest_kernel())?;
    mutants::all(&series, &source.directory)
}

fn pinned_kernel(
    cache: &Cache,
    sources: &Sources,
    lock: &KernelLock,
    flavour: Flavour,
    custom: &Custom,
) -> Result<Option<Kernel>> {
    let base = Base {
        identity: &lock.sha256,
        version: &lock.version,
        carries: None,
    };
    Ok(Plan::new(sources, &base, flavour, custom)?.cached(cache))
}

/// All inputs that determine a kernel.
struct Plan {
    flavour: Flavour,
    version: String,
    series: Series,
    config: Config,
    custom: Custom,
    inputs: Inputs,
    key: String,
}

impl Plan {
    fn new(sources: &Sources, base: &Base<'_>, flavour: Flavour, custom: &Custom) -> Result<Self> {
        let directory = sources.guest_kernel();
        let series = flavour.series(&directory, base.carries)?;
        let mut config = Config::load(&directory.join("config"), flavour.fragments())?;
        if let Some(fragment) = &custom.config {
            config.add(fragment)?;
        }
        let compiler = toolchain(custom.cc())?;
        let mut fingerprint = Fingerprint::new(RECIPE)
            .add("source", base.identity)
            .add("config", config.text())
            .add("compiler", &compiler);
        // Two programs may state the same version.
        if let Some(cc) = &custom.cc {
            fingerprint = fingerprint.add("cc", cc);
        }
        for variable in flavour.variables() {
            fingerprint = fingerprint.add("variable", variable);
        }
        if flavour == Flavour::Instrumented {
            for part in crucible_mutants::VERSION {
                fingerprint = fingerprint.add("generator", part);
            }
        }
        let mut ours = Fingerprint::new("series");
        for (name, content) in series.inputs() {
            fingerprint = fingerprint.add(&name, content);
            ours = ours.add(&name, content);
        }
        let inputs = Inputs {
            source: base.identity.into(),
            series: ours.finish(),
            config: Fingerprint::new("config")
                .add("text", config.text())
                .finish(),
            compiler: compiler.trim().replace('\n', "; "),
        };
        Ok(Self {
            flavour,
            version: base.version.into(),
            series,
            config,
            custom: custom.clone(),
            inputs,
            key: fingerprint.finish(),
        })
    }

    fn cached(&self, cache: &Cache) -> Option<Kernel> {
        cache
            .get("kernel", &self.key)
            .map(|path| self.kernel(&path))
    }

    fn kernel(&self, directory: &Path) -> Kernel {
        Kernel {
            image: directory.join("vmlinux"),
            identity: Identity {
                version: self.version.clone(),
                flavour: self.flavour.name().into(),
                hash: self.key.clone(),
                inputs: Some(self.inputs.clone()),
            },
        }
    }

    fn build(&self, cache: &Cache, source: &Source, progress: &dyn Progress) -> Result<Kernel> {
        let directory = cache.get_or_build("kernel", &self.key, progress, |directory| {
            self.make(cache, source, progress, |out, made| {
                for name in ["vmlinux", ".config", "System.map"] {
                    let from = out.join(name);
                    fs::copy(&from, directory.join(name.trim_start_matches('.')))
                        .map_err(Error::file("copy", &from))?;
                }
                match self.flavour {
                    Flavour::Coverage => counted::keep(&self.series, out, &directory.join(COUNTED)),
                    Flavour::Instrumented => mutants::keep(made, out, &directory.join(MUTANTS)),
                    _ => Ok(()),
                }
            })
        })?;
        Ok(self.kernel(&directory))
    }

    /// Brings the source tree and the build directory up to date, and calls `then` with the latter
    /// while the tree is locked.
    fn make<T>(
        &self,
        cache: &Cache,
        source: &Source,
        progress: &dyn Progress,
        then: impl FnOnce(&Path, &[Mutant]) -> Result<T>,
    ) -> Result<T> {
        let name = format!("{}{}", source.tree_name, self.flavour.tree());
        let trees = cache.root().join("kernel-tree").join(&name);
        let lock = cache.lock(&format!("kernel-tree-{name}"), progress)?;
        let tree = trees.join("src");
        let mut made = Vec::new();
        {
            let _step = Step::begin(progress, "making the kernel's tree");
            tree::mirror(source, &tree)?;
            // Pruning uses this time.
            let _ = File::open(&trees).and_then(|it| it.set_modified(SystemTime::now()));
            let rewritten = match self.flavour {
                Flavour::Instrumented => {
                    let (series, mutants) = mutants::rewrite(&self.series, &source.directory)?;
                    made = mutants;
                    Some(series)
                }
                _ => None,
            };
            tree::apply(source, rewritten.as_ref().unwrap_or(&self.series), &tree)?;
        }
        let out = trees.join(self.custom.build(self.flavour));
        let how = build::How {
            config: &self.config,
            flavour: self.flavour,
            cc: self.custom.cc.as_deref(),
            lenient: self.custom.lenient,
        };
        build::build(&tree, &out, &how, &lock, progress)?;
        then(&out, &made)
    }
}

/// Returns the version lines of the compiler and the linker.
fn toolchain(cc: &str) -> Result<String> {
    let mut versions = String::new();
    for program in [cc, "ld"] {
        // `CC` may be `ccache gcc`.
        let mut words = program.split_whitespace();
        let text = output(
            "asking for the compiler's version",
            Command::new(words.next().unwrap_or_default())
                .args(words)
                .arg("--version"),
        )?;
        versions.push_str(text.lines().next().unwrap_or_default());
        versions.push('\n');
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Base<'static> = Base {
        identity: "source",
        version: "6.12",
        carries: None,
    };

    #[test]
    fn the_series_does_not_affect_the_outer_kernel() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join("guest-kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("kernel.lock", "");
        for name in ["base", "debug", "coverage", "outer"] {
            write(&format!("config/{name}.config"), "CONFIG_X=y\n");
        }
        write(
            "patches/0001.patch",
            "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
        );
        write("src/kernel/checkpoint/sys.c", "one\n");
        let keys = || {
            [Flavour::Base, Flavour::Outer].map(|flavour| {
                let sources = Sources::at(root.path()).unwrap();
                let custom = Custom::default();
                Plan::new(&sources, &BASE, flavour, &custom).unwrap().key
            })
        };
        let [base, outer] = keys();
        assert_ne!(base, outer);
        write("src/kernel/checkpoint/sys.c", "two\n");
        let [changed, same] = keys();
        assert_ne!(base, changed);
        assert_eq!(outer, same);
    }

    #[test]
    fn the_users_fragment_and_compiler_are_part_of_the_kernel() {
        let root = tempfile::tempdir().unwrap();
        let guest_kernel = root.path().join("guest-kernel");
        for directory in ["config", "patches", "src"] {
            fs::create_dir_all(guest_kernel.join(directory)).unwrap();
        }
        fs::write(guest_kernel.join("kernel.lock"), "").unwrap();
        fs::write(guest_kernel.join("config/base.config"), "CONFIG_X=y\n").unwrap();
        let fragment = root.path().join("mine");
        fs::write(&fragment, "CONFIG_Y=y\n# CONFIG_X is not set\n").unwrap();
        let sources = Sources::at(root.path()).unwrap();
        let plan = |custom: &Custom| Plan::new(&sources, &BASE, Flavour::Base, custom).unwrap();
        let usual = Custom::default();
        let config = Custom {
            config: Some(fragment.clone()),
            ..Custom::default()
        };
        let cc = Custom {
            cc: Some("env gcc".into()),
            ..Custom::default()
        };
        let lenient = Custom {
            lenient: true,
            ..Custom::default()
        };
        assert_eq!(plan(&usual).key, plan(&lenient).key);
        assert_eq!(lenient.build(Flavour::Base), "base");
        assert_ne!(plan(&usual).key, plan(&config).key);
        assert_ne!(plan(&usual).key, plan(&cc).key);
        let text = plan(&config).config.text();
        assert_eq!(text, "# CONFIG_X is not set\nCONFIG_Y=y\n");
        assert_eq!(config.problem(), None);
        assert_eq!(cc.problem(), None);
        fs::write(&fragment, "CONFIG_Y\n").unwrap();
        assert!(config.problem().unwrap().contains("line 1"));
        let no_compiler = Custom {
            cc: Some("no-such-cc".into()),
            ..Custom::default()
        };
        assert!(no_compiler.problem().unwrap().contains("no-such-cc"));
    }
}
