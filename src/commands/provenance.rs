// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible provenance`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::context::Context;
use crate::exit;
use crate::provenance::provenance;
use crate::stdout;

/// The options of `crucible provenance`.
#[derive(Debug, Args)]
pub struct ProvenanceArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Print the guest's Debian packages: name, version, architecture and sha256
    #[arg(long)]
    packages: bool,
}

/// Prints the provenance of a guest.
pub fn run(args: &ProvenanceArgs, context: &Context) -> Result<ExitCode> {
    let provenance = provenance(&BootArtefacts::prepare(context, &args.guest)?)?;
    if args.packages {
        stdout::print(&provenance.userland.text)?;
    } else {
        stdout::line(format_args!(
            "{}",
            serde_json::to_string_pretty(&provenance)?
        ))?;
    }
    Ok(exit::PASS.into())
}
