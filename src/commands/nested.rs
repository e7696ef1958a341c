// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible nested`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use crucible_protocol::{Ended, ToolRun};

use crate::boot_artefacts::KernelArgs;
use crate::context::Context;
use crate::host_qemu;
use crate::outer_linux::{Outer, Size};
use crate::stdout;

/// The options of `crucible nested`.
#[derive(Debug, Args)]
pub struct NestedArgs {
    /// Memory of the outer Linux, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    memory: u32,
    /// Number of CPUs of the outer Linux
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u8,
    /// Limit for the whole run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// Copy this host's QEMU into the outer Linux
    #[arg(long)]
    qemu: bool,
    /// The kernel of the inner guests
    #[command(flatten, next_help_heading = "Kernel")]
    kernel: KernelArgs,
    /// Run this shell script instead of a command; crucible is `./crucible`
    #[arg(long, value_name = "SCRIPT", conflicts_with = "command")]
    script: Option<String>,
    /// The crucible command to run, with its options
    #[arg(
        required_unless_present = "script",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Runs crucible in an outer Linux. Returns its exit code.
pub fn run(args: &NestedArgs, context: &Context) -> Result<ExitCode> {
    let outer = Outer::prepare(context, &args.kernel, args.qemu)?;
    let script = args.script.as_deref().unwrap_or("exec ./crucible \"$@\"");
    let script = match args.qemu {
        true => format!("{}\n{script}", host_qemu::ENVIRONMENT),
        false => script.to_owned(),
    };
    let size = Size {
        memory_mib: args.memory,
        cpus: args.cpus,
    };
    let limit = Duration::from_secs(args.timeout);
    context.progress().begin(&format!(
        "crucible in the outer Linux; progress: {}",
        outer.console().display()
    ));
    let results = context.results()?;
    let run = outer.run(context, size, &script, &args.command, limit, Some(&results));
    context.progress().end();
    let code = run.and_then(|run| {
        stdout::print(&run.stdout)?;
        stdout::message(format_args!("{}", run.stderr.trim_end()));
        code(&run).with_context(|| format!("in the outer Linux, within {} s", args.timeout))
    });
    match code {
        Ok(code) => Ok(code),
        Err(error) => {
            stdout::message(format_args!("  console  {}", outer.keep().display()));
            Err(error)
        }
    }
}

/// Returns the exit code of the inner crucible.
fn code(run: &ToolRun) -> Result<ExitCode> {
    match &run.ended {
        Some(Ended::Exited { code }) => Ok(u8::try_from(*code)
            .context("crucible ended with an exit code above 255")?
            .into()),
        Some(ended) => bail!("crucible was killed: {ended:?}"),
        None => bail!("crucible did not end"),
    }
}
