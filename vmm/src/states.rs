//! What a guest that does not answer is doing: its kernel is asked by "magic
//! SysRq" over the serial console, which works as long as it serves
//! interrupts; and QEMU is asked for the registers, which always works.

use std::time::{Duration, Instant};

use serde_json::json;

use super::ANSWER;
use super::command::CONSOLE_CHARDEV;
use super::qmp::Qmp;
use crate::console::Console;
use crate::{Error, Result, TaskStates};

/// The keys to press, each with what the kernel prints when it has been
/// heard. The task list is printed at a level that the console normally
/// leaves out, so the level is raised before and set back after it; being
/// handled in order, the last answer says that all has been printed.
const KEYS: [(u8, &str); 5] = [
    (b'9', "Loglevel set to 9"),
    (b'w', "sysrq: Show Blocked State"),
    (b't', "sysrq: Show State"),
    (b'l', "sysrq: Show backtrace of all active CPUs"),
    (b'5', "Loglevel set to 5"),
];

/// A key that comes while the kernel prints may be lost. It is pressed again
/// when it was not answered for this long; twice the same does no harm.
const PATIENCE: Duration = Duration::from_secs(3);

/// Captures the states, giving the guest until `deadline` to print them.
pub(super) fn capture(qmp: &mut Qmp, console: &Console, deadline: Instant) -> Result<TaskStates> {
    let registers = registers(qmp)?;
    console.begin_capture();
    let answered = press_all(qmp, console, deadline);
    let lines = console.end_capture();
    Ok(TaskStates {
        answered: answered?,
        lines,
        registers,
    })
}

fn press_all(qmp: &mut Qmp, console: &Console, deadline: Instant) -> Result<bool> {
    for (key, answer) in KEYS {
        loop {
            press(qmp, console, key)?;
            let patience = deadline.min(Instant::now() + PATIENCE);
            if console.wait_captured(answer, patience) {
                break;
            }
            if patience == deadline {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn press(qmp: &mut Qmp, console: &Console, key: u8) -> Result<()> {
    qmp.execute(
        "chardev-send-break",
        json!({ "id": CONSOLE_CHARDEV }),
        ANSWER,
    )?;
    console.write(&[key]).map_err(|source| Error::Io {
        what: "write to the guest's console",
        source,
    })
}

fn registers(qmp: &mut Qmp) -> Result<Vec<String>> {
    let text = qmp.execute(
        "human-monitor-command",
        json!({ "command-line": "info registers -a" }),
        ANSWER,
    )?;
    Ok(text
        .as_str()
        .map(|text| {
            text.lines()
                .map(|line| line.trim_end().to_owned())
                .collect()
        })
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_can_be_taken_for_another() {
        for (i, (_, a)) in KEYS.iter().enumerate() {
            for (j, (_, b)) in KEYS.iter().enumerate() {
                assert!(i == j || !a.contains(b), "{a} contains {b}");
            }
        }
    }
}
