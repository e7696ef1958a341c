//! What QEMU can tell of a guest that does not answer.

use serde_json::json;

use super::ANSWER;
use super::command::CONSOLE_CHARDEV;
use super::qmp::Qmp;
use crate::console::Console;
use crate::states::Probe;
use crate::{Error, Result};

impl Probe for Qmp {
    fn registers(&mut self) -> Result<Vec<String>> {
        let text = self.execute(
            "human-monitor-command",
            json!({ "command-line": "info registers -a" }),
            ANSWER,
        )?;
        let text = text.as_str().unwrap_or_default();
        Ok(text
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect())
    }

    fn press(&mut self, console: &Console, key: u8) -> Result<()> {
        self.execute(
            "chardev-send-break",
            json!({ "id": CONSOLE_CHARDEV }),
            ANSWER,
        )?;
        console.write(&[key]).map_err(|source| Error::Io {
            what: "write to the guest's console",
            source,
        })
    }
}
