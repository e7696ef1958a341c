// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queries QEMU about a guest that does not answer.

use serde_json::json;

use super::Qemu;
use super::command::CONSOLE_CHARDEV;
use super::qmp::Qmp;
use crate::console::Console;
use crate::states::Probe;
use crate::{Error, Result};

/// Returns the registers of each CPU, as lines of text.
pub(super) fn registers(qmp: &Qmp) -> Result<Vec<String>> {
    let text = qmp.execute(
        "human-monitor-command",
        json!({ "command-line": "info registers -a" }),
    )?;
    let text = text.as_str().unwrap_or_default();
    Ok(text
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect())
}

impl Probe for Qemu {
    fn registers(&mut self) -> Result<Vec<String>> {
        registers(&self.qmp)
    }

    fn press(&mut self, console: &Console, key: u8) -> Result<()> {
        self.qmp
            .execute("chardev-send-break", json!({ "id": CONSOLE_CHARDEV }))?;
        console.write(&[key]).map_err(|source| Error::Io {
            what: "write to the guest's console",
            source,
        })
    }
}
