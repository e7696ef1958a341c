// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Captures the state of a guest that does not answer. "Magic SysRq" over the serial console makes
//! its kernel print its tasks, which works as long as the kernel serves interrupts; the registers
//! come from the machine, which always works.

use std::time::{Duration, Instant};

use crate::console::Console;
use crate::{Result, TaskStates};

/// The operations of a machine that the capture needs.
pub trait Probe {
    /// Returns the registers of each CPU, as lines of text.
    fn registers(&mut self) -> Result<Vec<String>>;

    /// Sends a break on the serial line, followed by this key.
    fn press(&mut self, console: &Console, key: u8) -> Result<()>;
}

/// The keys to press, each with the line that the kernel prints when it has received the key. The
/// task list is printed at a level that the console normally leaves out, so the level is raised
/// before and reset after it. The kernel handles keys in order, so the last answer shows that
/// everything has been printed.
const KEYS: [(u8, &str); 5] = [
    (b'9', "Loglevel set to 9"),
    (b'w', "sysrq: Show Blocked State"),
    (b't', "sysrq: Show State"),
    (b'l', "sysrq: Show backtrace of all active CPUs"),
    (b'5', "Loglevel set to 5"),
];

/// The kernel may lose a key that it receives while it prints. A key is pressed again when it was
/// not answered for this long; a repeated key does no harm.
const PATIENCE: Duration = Duration::from_secs(3);

/// Captures the task states and registers. The guest has until `deadline` to print the states.
pub(crate) fn capture(
    machine: &mut impl Probe,
    console: &Console,
    deadline: Instant,
) -> Result<TaskStates> {
    let registers = machine.registers()?;
    console.begin_capture(KEYS.map(|(_, answer)| answer).to_vec());
    let answered = press_all(machine, console, deadline);
    let lines = console.end_capture();
    Ok(TaskStates {
        answered: answered?,
        lines,
        registers,
    })
}

fn press_all(machine: &mut impl Probe, console: &Console, deadline: Instant) -> Result<bool> {
    for (key, answer) in KEYS {
        loop {
            machine.press(console, key)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_contains_another() {
        for (i, (_, a)) in KEYS.iter().enumerate() {
            for (j, (_, b)) in KEYS.iter().enumerate() {
                assert!(i == j || !a.contains(b), "{a} contains {b}");
            }
        }
    }
}
