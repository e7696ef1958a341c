// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files a guest boots from, and the machine it boots in.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use crucible_artefacts::kernel::{self, Custom, Flavour, Kernel, Lines, Origin};
use crucible_artefacts::{Beside, Cache, Lock, Progress, Sources, content_hash, rootfs, scratch};
use crucible_engine::guest::Guest;
use crucible_vmm::{DebuggerAddress, Disk, Machine, MachineSpec, Start};

use crate::bundle::Bundle;
use crate::context::Context;
use crate::exit;
use crate::machines::{self, Kind, MachineArgs};
use crate::stdout;
use crate::temporary::Temporary;
use crate::vm_snapshot;

/// Memory of a guest, in MiB, by the kernel's flavour. KASAN uses an eighth of it as its
/// shadow, and delays the reuse of freed memory.
const MEMORY: [(Flavour, u32); 5] = [
    (Flavour::Base, 1024),
    (Flavour::Debug, 2048),
    (Flavour::Coverage, 1024),
    (Flavour::Instrumented, 1024),
    (Flavour::Kcsan, 1024),
];

/// Returns the memory of a guest in MiB: the user's value, or the kernel's need.
pub fn memory_mib(args: &GuestArgs) -> u32 {
    let flavour = Flavour::from(args.kernel.flavour);
    let usual = MEMORY.iter().find(|(of, _)| *of == flavour);
    let usual = usual.map_or(MEMORY[0].1, |&(_, mib)| mib);
    args.machine.memory.unwrap_or(usual)
}

/// Returns the gdb command line that debugs a guest.
pub fn gdb(address: &DebuggerAddress, kernel: &Path) -> String {
    format!(
        "gdb -ex {} {}",
        quoted(&format!("target remote {address}")),
        quoted(&kernel.display().to_string())
    )
}

/// Returns a word quoted for a shell.
pub fn quoted(word: &str) -> String {
    match word.contains(|it: char| !it.is_alphanumeric() && !"/.-_".contains(it)) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word.to_owned(),
    }
}

/// The kernel and the machine, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestArgs {
    /// The kernel.
    #[command(flatten, next_help_heading = "Kernel")]
    pub kernel: KernelArgs,
    /// The machine.
    #[command(flatten, next_help_heading = "Machine")]
    pub machine: MachineArgs,
    /// Let each guest wait for gdb, without any time limits: on a socket for this user alone,
    /// on this Unix socket, or on this TCP port of localhost, which any user of this host may
    /// use; see docs/howto/debug-with-gdb.md
    #[arg(
        long,
        help_heading = "Machine",
        value_name = "SOCKET|PORT",
        num_args = 0..=1,
        default_missing_value = ""
    )]
    pub gdb: Option<GdbArg>,
}

/// The value of `--gdb`: the address at which a guest waits for gdb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GdbArg {
    /// A socket in a directory that only this user may enter.
    Own,
    /// This address.
    At(DebuggerAddress),
}

impl FromStr for GdbArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.chars().all(|c| c.is_ascii_digit());
        match text {
            "" => Ok(Self::Own),
            // The word after `--gdb` may be an argument of the command.
            _ if !number && !text.contains('/') => Err(format!(
                "a socket's path contains a slash; if `{text}` is no value of this option, \
                 write it before `--gdb`"
            )),
            _ => text.parse().map(Self::At),
        }
    }
}

/// The address at which guests wait for gdb, and the directory of the socket if it is ours.
pub struct Debugger {
    /// The address.
    pub address: DebuggerAddress,
    _directory: Option<Temporary>,
}

impl Debugger {
    /// Returns the debugger that the user has requested; `None` without `--gdb`.
    pub fn at(gdb: Option<&GdbArg>) -> Result<Option<Self>> {
        Ok(match gdb {
            None => None,
            Some(GdbArg::At(address)) => Some(Self {
                address: address.clone(),
                _directory: None,
            }),
            // The directory of results may be too deep: the path of a socket has at most 107 bytes.
            Some(GdbArg::Own) => {
                let directory = Temporary::new("gdb")?;
                Some(Self {
                    address: DebuggerAddress::Socket(directory.path().join("socket")),
                    _directory: Some(directory),
                })
            }
        })
    }
}

/// The kernel, on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct KernelArgs {
    /// Configuration of the guest's kernel
    #[arg(long, value_enum, default_value_t, value_name = "FLAVOUR")]
    pub flavour: FlavourArg,
    /// Boot this kernel image: an ELF vmlinux with CONFIG_PVH, or a bzImage
    #[arg(long, value_name = "IMAGE", conflicts_with = "kernel_src")]
    pub kernel: Option<PathBuf>,
    /// Build and boot this kernel tree, with our series applied to a copy of it unless it already
    /// carries checkpoint and restart
    #[arg(long, value_name = "DIR")]
    pub kernel_src: Option<PathBuf>,
    /// Build the kernel with this Kconfig fragment merged into our configuration
    #[arg(long, value_name = "FRAGMENT", conflicts_with = "kernel")]
    pub config: Option<PathBuf>,
    /// Build the kernel with this compiler instead of gcc; the value is passed as make's CC
    #[arg(long, value_name = "CC", conflicts_with = "kernel")]
    pub cc: Option<String>,
    /// True when symbols that Kconfig drops are not an error. Only commands set it; there is no
    /// such option.
    #[arg(skip)]
    pub lenient: bool,
}

/// The values of `--flavour`; see [`Flavour`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlavourArg {
    /// Base kernel, without debugging options
    #[default]
    Base,
    /// Base kernel with KASAN, lockdep, kmemleak and other checkers
    Debug,
    /// Base kernel with gcov counters in the checkpoint/restart code
    Coverage,
    /// Base kernel with all mutants of the checkpoint/restart code, none of them chosen
    Instrumented,
    /// Base kernel with KCSAN for the checkpoint/restart code, and two vCPUs
    Kcsan,
}

impl From<FlavourArg> for Flavour {
    fn from(flavour: FlavourArg) -> Self {
        match flavour {
            FlavourArg::Base => Self::Base,
            FlavourArg::Debug => Self::Debug,
            FlavourArg::Coverage => Self::Coverage,
            FlavourArg::Instrumented => Self::Instrumented,
            FlavourArg::Kcsan => Self::Kcsan,
        }
    }
}

impl KernelArgs {
    /// Returns the arguments for this kernel image.
    pub fn image(image: &Path) -> Self {
        Self {
            kernel: Some(image.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the origin of the kernel.
    pub fn origin(&self) -> Origin {
        match (&self.kernel, &self.kernel_src) {
            (Some(image), _) => Origin::Image(image.clone()),
            (None, Some(tree)) => Origin::Tree(tree.clone()),
            (None, None) => Origin::Pinned,
        }
    }

    /// Returns the user's changes to the kernel's build.
    ///
    /// # Errors
    ///
    /// A usage error: the fragment is malformed, or there is no such compiler.
    pub fn custom(&self) -> Result<Custom> {
        let custom = Custom {
            config: self.config.clone(),
            // Make runs in a different directory.
            cc: self.cc.as_deref().map(absolute),
            lenient: self.lenient,
        };
        match custom.problem() {
            Some(problem) => Err(exit::Usage(problem).into()),
            None => Ok(custom),
        }
    }
}

/// Returns the compiler's command line, with an absolute path if it has a path.
pub fn absolute(cc: &str) -> String {
    let (program, rest) = cc.split_once(' ').unwrap_or((cc, ""));
    let path = std::path::absolute(program).ok();
    match path.filter(|_| program.contains('/')) {
        Some(path) => format!("{} {rest}", path.display()).trim_end().to_owned(),
        None => cc.to_owned(),
    }
}

/// A kernel and the read-only disks, ready to boot, and the machine that boots them.
pub struct BootArtefacts {
    cache: Cache,
    /// Keeps `clean --all` from removing the cache meanwhile.
    _hold: Lock,
    /// The empty disk from which writable disks are copied; `None` if each is newly made.
    template: Option<PathBuf>,
    flavour: Flavour,
    kind: Kind,
    vcpus: u8,
    memory_mib: u32,
    cold: bool,
    debugger: Option<Debugger>,
    /// The kernel.
    pub kernel: Kernel,
    /// The disk with the agent and its tools.
    pub agent: PathBuf,
    /// The disk with the Debian userland.
    pub debian: PathBuf,
    /// The list of the userland's packages; it may be missing.
    pub package_list: PathBuf,
    /// Hashes that are known without reading the files.
    hashes: HashMap<PathBuf, String>,
    /// The inputs of the kernel's build; `None` in a bundle, which builds no kernel.
    build: Option<KernelBuild>,
}

/// The inputs of a kernel's build.
struct KernelBuild {
    sources: Sources,
    origin: Origin,
    flavour: Flavour,
    custom: Custom,
}

impl KernelBuild {
    fn again(&self, cache: &Cache, progress: &dyn Progress) -> crucible_artefacts::Result<()> {
        let Self {
            sources,
            origin,
            flavour,
            custom,
        } = self;
        kernel::build_again(cache, sources, origin, *flavour, custom, progress)
    }
}

/// Finds wrong paths in the user's options, before anything is built.
fn check_origin(origin: &Origin) -> Result<(), exit::Usage> {
    let problem = match origin {
        Origin::Tree(dir) if !dir.is_dir() => format!("there is no directory {}", dir.display()),
        Origin::Tree(dir) if !dir.join("Kbuild").is_file() => {
            format!("{} is not a kernel tree: it has no Kbuild", dir.display())
        }
        Origin::Image(image) if !image.is_file() => format!("there is no file {}", image.display()),
        _ => return Ok(()),
    };
    Err(exit::Usage(problem))
}

impl BootArtefacts {
    /// Builds or finds everything, after installing missing host packages.
    pub fn prepare(context: &Context, args: &GuestArgs) -> Result<Self> {
        Self::prepare_with(context, args, None)
    }

    /// Does the same as [`Self::prepare`], with these sources.
    pub(crate) fn prepare_from(
        context: &Context,
        args: &GuestArgs,
        sources: &Sources,
    ) -> Result<Self> {
        Self::prepare_with(context, args, Some(sources))
    }

    fn prepare_with(
        context: &Context,
        args: &GuestArgs,
        sources: Option<&Sources>,
    ) -> Result<Self> {
        let flavour = args.kernel.flavour.into();
        check_origin(&args.kernel.origin())?;
        let custom = args.kernel.custom()?;
        if let Some(bundle) = Bundle::of_this_program()? {
            if custom != Custom::default() {
                bail!("a bundle builds no kernels");
            }
            return Ok(Self {
                agent: bundle.agent(),
                debian: bundle.debian(),
                package_list: bundle.package_list(),
                hashes: bundle.hashes(),
                kernel: match args.kernel.origin() {
                    Origin::Pinned => bundle.kernel(flavour)?,
                    Origin::Image(image) => kernel::foreign(&image)?,
                    Origin::Tree(_) => bail!("a bundle builds no kernels"),
                },
                _hold: context.cache()?.hold()?,
                cache: context.cache()?,
                template: Some(bundle.scratch()),
                flavour,
                kind: machines::choose(context, args.machine.machine)?,
                vcpus: args.machine.vcpus,
                memory_mib: memory_mib(args),
                cold: args.machine.cold,
                debugger: Debugger::at(args.gdb.as_ref())?,
                build: None,
            });
        }
        context.host()?;
        let cache = context.cache()?;
        let hold = cache.hold()?;
        let sources = match sources {
            Some(sources) => sources.clone(),
            None => context.sources()?,
        };
        let progress = context.progress();
        let origin = args.kernel.origin();
        // Make the disks in parallel: they do not need the kernel, and a part of its build uses
        // only one CPU.
        let beside = Beside::new(progress);
        let (disks, kernel) = thread::scope(|scope| {
            let disks = scope.spawn(|| {
                let agent = rootfs::agent(&cache, &sources, &beside)?;
                Ok((agent, rootfs::debian(&cache, &sources, &beside)?))
            });
            let kernel = kernel::custom(&cache, &sources, &origin, flavour, &custom, progress);
            let disks: crucible_artefacts::Result<_> = match disks.join() {
                Ok(disks) => disks,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            (disks, kernel)
        });
        let (agent, debian) = disks?;
        Ok(Self {
            agent,
            package_list: rootfs::package_list(&debian),
            hashes: HashMap::new(),
            debian,
            kernel: kernel?,
            cache,
            _hold: hold,
            template: None,
            flavour,
            kind: machines::choose(context, args.machine.machine)?,
            vcpus: args.machine.vcpus,
            memory_mib: memory_mib(args),
            cold: args.machine.cold,
            debugger: Debugger::at(args.gdb.as_ref())?,
            build: Some(KernelBuild {
                sources,
                origin,
                flavour,
                custom,
            }),
        })
    }

    /// Returns the kernel's flavour.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Returns the sha256 of one of these files.
    pub fn content_hash(&self, path: &Path) -> Result<String> {
        match self.hashes.get(path) {
            Some(hash) => Ok(hash.clone()),
            None => Ok(content_hash(path)?),
        }
    }

    /// Creates an empty writable disk at `path`.
    pub fn scratch(&self, context: &Context, path: &Path) -> Result<()> {
        match &self.template {
            Some(template) => scratch::copy(template, path)?,
            None => scratch::create(&self.cache, scratch::DEFAULT_MIB, path, context.progress())?,
        }
        Ok(())
    }

    /// Boots a guest with an empty writable disk. The disk and the console's log are created
    /// in `directory`. Fails when the agent has not answered after `limit`.
    pub fn boot(&self, context: &Context, directory: &Path, limit: Duration) -> Result<Guest> {
        let scratch = directory.join("scratch.ext4");
        self.scratch(context, &scratch)?;
        let spec = self.machine(&scratch, directory);
        Ok(Guest::connect(self.start(context, spec)?, limit)?)
    }

    /// Returns the directory of a snapshot from which such a machine can start. If there is
    /// none, boots a guest and takes it.
    pub fn saved(&self, context: &Context, spec: &MachineSpec) -> Result<PathBuf> {
        vm_snapshot::saved(&self.cache, self, spec, self.kind, context)
    }

    /// Finds lines of the kernel's source.
    pub fn lines<'a>(&'a self, context: &'a Context) -> Lines<'a> {
        let again = || {
            if let Some(build) = &self.build {
                let progress = context.progress();
                progress.note("building the kernel once more, to find the lines of its report");
                // If that fails, a report has no lines.
                let _ = build.again(&self.cache, progress);
            }
        };
        Lines::new(self.cache.clone(), self.kernel.image.clone(), again)
    }

    /// Returns the kind of machine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts a machine with this specification, from a snapshot unless the user has given `--cold`.
    pub fn start(&self, context: &Context, mut spec: MachineSpec) -> Result<Box<dyn Machine>> {
        if !self.cold {
            spec.start = Start::Saved(self.saved(context, &spec)?);
        }
        let address = self.debugger.as_ref().map(|debugger| &debugger.address);
        spec.debugger = address.cloned();
        let machine = machines::start(self.kind, &spec)?;
        if let Some(address) = address {
            // Printed even with --quiet: without gdb the guest never runs.
            stdout::message(format_args!(
                "crucible: the guest waits for: {}",
                gdb(address, &self.kernel.image)
            ));
        }
        Ok(machine)
    }

    /// Describes the machine that boots these files with the writable disk `scratch`. Its
    /// logs go to `run_dir`.
    pub fn machine(&self, scratch: &Path, run_dir: &Path) -> MachineSpec {
        let mut spec = MachineSpec::new(&self.kernel.image, run_dir);
        spec.vcpus = self.vcpus;
        spec.memory_mib = self.memory_mib;
        spec.disks = vec![
            Disk::readonly(&self.agent),
            Disk::readonly(&self.debian),
            Disk::writable(scratch),
        ];
        spec.cmdline = ["root=/dev/vda", "rootfstype=erofs", "ro", "init=/agent"]
            .map(String::from)
            .to_vec();
        spec
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        name: Option<String>,
        #[command(flatten)]
        guest: GuestArgs,
    }

    fn parse(args: &[&str]) -> Result<Line, String> {
        let args = ["crucible"].iter().chain(args);
        Line::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_port_for_gdb_is_opened_only_on_request() {
        let gdb = |args: &[&str]| parse(args).unwrap().guest.gdb;
        assert_eq!(gdb(&["hello"]), None);
        assert_eq!(gdb(&["hello", "--gdb"]), Some(GdbArg::Own));
        assert_eq!(gdb(&["--gdb", "--cold", "hello"]), Some(GdbArg::Own));
        let port = GdbArg::At(DebuggerAddress::Port(1234));
        assert_eq!(gdb(&["hello", "--gdb", "1234"]), Some(port));
        let socket = GdbArg::At(DebuggerAddress::Socket("./gdb".into()));
        assert_eq!(gdb(&["--gdb=./gdb"]), Some(socket));
        let error = parse(&["--gdb", "hello"]).unwrap_err();
        assert!(error.contains("write it before `--gdb`"), "{error}");
        assert!(parse(&["--gdb", "0"]).is_err());
    }

    #[test]
    fn only_this_user_reaches_a_socket_for_gdb() {
        let guest = parse(&["--gdb"]).unwrap().guest;
        let debugger = Debugger::at(guest.gdb.as_ref()).unwrap().unwrap();
        let DebuggerAddress::Socket(socket) = &debugger.address else {
            panic!("{}", debugger.address);
        };
        let directory = socket.parent().unwrap().to_owned();
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(socket.as_os_str().len() < 108);
        drop(debugger);
        assert!(!directory.exists());
    }

    #[test]
    fn the_command_for_gdb_can_be_copied() {
        let kernel = Path::new("/a/it's/vmlinux");
        assert_eq!(
            gdb(&DebuggerAddress::Port(1234), Path::new("/a/vmlinux")),
            "gdb -ex 'target remote :1234' /a/vmlinux"
        );
        assert_eq!(
            gdb(&DebuggerAddress::Socket("/run/gdb".into()), kernel),
            r"gdb -ex 'target remote /run/gdb' '/a/it'\''s/vmlinux'"
        );
    }
}
