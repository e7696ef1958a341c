//! `crucible nested`

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use crucible_artefacts::kernel::{self, Flavour, Origin};
use crucible_engine::guest::Guest;
use crucible_protocol::Ended;
use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, MachineSpec};
use tempfile::TempDir;

use crate::bundle::{Bundle, Parts};
use crate::context::Context;
use crate::images::{GuestArgs, Images};
use crate::machines::{MachineArg, MachineArgs};

/// How long the outer agent may take to answer.
const BOOT: Duration = Duration::from_secs(120);

/// What results may take in the bundle's disk, in MiB.
const ROOM: u64 = 2048;

/// Mounts the bundle's disk.
const ENTER: &str = "mkdir -p /bundle && mount /dev/vdd /bundle && cd /bundle";

/// Where the outer Linux finds the userland's disk.
const USERLAND: &str = "/dev/vdb";

/// The options of `crucible nested`.
#[derive(Debug, Args)]
pub struct NestedArgs {
    /// The outer Linux's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    memory: u32,
    /// The outer Linux's CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u8,
    /// After how many seconds it is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// The kernel of the inner guests
    #[command(flatten)]
    kernel: crate::images::KernelArgs,
    /// Run this script of the shell there; crucible is `./crucible`
    #[arg(long, value_name = "SCRIPT", conflicts_with = "command")]
    script: Option<String>,
    /// crucible's command there, with its options
    #[arg(
        required_unless_present = "script",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Runs crucible in a Linux that has a KVM of its own, whatever this host has: QEMU
/// emulates a CPU with virtualisation for it. Exits as that did.
pub fn run(args: &NestedArgs, context: &Context) -> Result<ExitCode> {
    let guest = GuestArgs {
        kernel: args.kernel.clone(),
        gdb: None,
        // Only the files are wanted here.
        machine: MachineArgs {
            machine: MachineArg::Qemu,
            vcpus: 1,
            cold: true,
        },
    };
    let images = Images::prepare(context, &guest)?;
    let outer = kernel::kernel(
        &context.cache()?,
        &context.sources()?,
        &Origin::Pinned,
        Flavour::Outer,
        context.progress(),
    )?;
    let directory = tempfile::Builder::new()
        .prefix("crucible-nested-")
        .tempdir()
        .context("cannot make a directory for the outer guest")?;
    let disk = bundle(&images, context, &directory)?;

    let scratch = directory.path().join("scratch.ext4");
    images.scratch(context, &scratch)?;
    let spec = MachineSpec {
        memory_mib: args.memory,
        vcpus: args.cpus,
        kernel: outer.image,
        disks: {
            let mut disks = images.machine(&scratch, directory.path()).disks;
            disks.push(Disk::writable(&disk));
            disks
        },
        ..images.machine(&scratch, directory.path())
    };
    let options = Options {
        nested: true,
        ..Options::default()
    };
    let machine = QemuMachine::start(&spec, &options)?;
    let mut guest = Guest::connect(Box::new(machine), BOOT)?;
    guest.prepare(None)?;
    context.progress().begin("crucible in the outer Linux");
    let result = execute(&mut guest, args);
    context.progress().end();
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            let kept = directory.keep();
            eprintln!("  console  {}", kept.join("console.log").display());
            return Err(error);
        }
    };
    guest.shutdown()?;
    bring_results(&disk, directory.path(), &context.root()?)?;
    Ok(code)
}

/// Copies what runs have left in the bundle to this host's results.
fn bring_results(disk: &Path, directory: &Path, root: &Path) -> Result<()> {
    let request = format!("rdump /results \"{}\"", directory.display());
    // It tells of failures in words only; without the directory there is nothing to copy.
    succeed(Command::new("debugfs").args(["-R", &request]).arg(disk))?;
    succeed(
        Command::new("cp")
            .args(["--recursive", "--no-target-directory"])
            .arg(directory.join("results"))
            .arg(root.join("results")),
    )
}

/// Runs a program of the host to its good end.
fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed: {}", words.trim_end());
    }
    Ok(())
}

/// Runs the command there, and gives its exit code.
fn execute(guest: &mut Guest, args: &NestedArgs) -> Result<ExitCode> {
    let script = args.script.as_deref().unwrap_or("exec ./crucible \"$@\"");
    let mut words = ["/bin/sh", "-ec", &format!("{ENTER}\n{script}"), "crucible"]
        .map(String::from)
        .to_vec();
    words.extend(args.command.iter().cloned());
    let environment = [("CRUCIBLE_CACHE".to_owned(), "/tmp/cache".to_owned())];
    let run = guest.exec(
        &words,
        &BTreeMap::from(environment),
        "/",
        Duration::from_secs(args.timeout),
    )?;
    print!("{}", run.stdout);
    eprint!("{}", run.stderr);
    match run.ended {
        Some(Ended::Exited { code }) => Ok(u8::try_from(code)
            .context("crucible exited strangely in the outer Linux")?
            .into()),
        Some(ended) => bail!("crucible was killed in the outer Linux: {ended:?}"),
        None => bail!(
            "crucible took longer than {} s in the outer Linux",
            args.timeout
        ),
    }
}

/// A disk with a bundle of `images` on it.
fn bundle(images: &Images, context: &Context, directory: &TempDir) -> Result<std::path::PathBuf> {
    let template = directory.path().join("template.ext4");
    images.scratch(context, &template)?;
    let root = directory.path().join("bundle");
    let parts = Parts {
        flavour: images.flavour(),
        kernel: &images.kernel,
        agent: &images.agent,
        debian: &images.debian,
        scratch: &template,
        scenarios: &context.root()?.join("scenarios"),
    };
    Bundle::create(&root, &parts, Some(Path::new(USERLAND)))?;
    fs::remove_file(&template).context("cannot remove the disk's template")?;
    let disk = directory.path().join("bundle.ext4");
    let size = used(&root)? + (ROOM << 20);
    File::create(&disk)
        .and_then(|file| file.set_len(size))
        .with_context(|| format!("cannot make {}", disk.display()))?;
    succeed(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .arg(&root)
            .arg(&disk),
    )?;
    fs::remove_dir_all(&root).context("cannot remove the bundle's directory")?;
    Ok(disk)
}

/// How much the files below a directory take, in bytes.
fn used(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;

    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() {
            used(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(sum)
}
