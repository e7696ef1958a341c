// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs programs of the host.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Runs a program. Fails with its error output if it does not succeed.
pub fn succeed(command: &mut Command) -> Result<()> {
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
