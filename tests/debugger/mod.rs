// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A session of gdb that stops in the vfork glue of a restarted guest.

/// What gdb is told. None has an apostrophe in it.
const COMMANDS: [&str; 12] = [
    "set pagination off",
    "break ckpt_vfork_wait",
    "continue",
    "backtrace",
    "printf \"at the function: %d\\n\", $rip == (long)&ckpt_vfork_wait",
    // What the restarted call is to return: ckpt_vfork_wait's nr.
    "printf \"waits for %d\\n\", *(int *)($rdi + 0x28)",
    "stepi",
    "printf \"behind the first instruction: %d\\n\", $rip > (long)&ckpt_vfork_wait && $rip <= (long)&ckpt_vfork_wait + 15",
    // The breakpoint is still there: the next process comes by.
    "continue",
    "printf \"again at the function: %d\\n\", $rip == (long)&ckpt_vfork_wait",
    "delete",
    "detach",
];

/// The scenario: in each of its cases, three processes come to the breakpoint.
pub const SCENARIO: &str = "vfork-chain";

/// gdb's arguments, but for the kernel's image.
pub fn arguments(socket: &str) -> Vec<String> {
    let mut arguments = ["-nx", "-batch", "-ex"].map(str::to_owned).to_vec();
    arguments.push(format!("target remote {socket}"));
    for command in COMMANDS {
        arguments.extend(["-ex", command].map(str::to_owned));
    }
    arguments
}

/// Looks through what gdb has said.
pub fn check(said: &str) {
    for words in [
        "Breakpoint 1, 0x",
        "in ckpt_vfork_wait ()",
        // Its caller: the function that a restarted task begins in.
        "in go_to_site ()",
        "at the function: 1",
        "behind the first instruction: 1",
        "again at the function: 1",
        "detached]",
    ] {
        assert!(said.contains(words), "no `{words}` in: {said}");
    }
    // A chain of pids; which one comes first is not told.
    let waits = ["waits for 3\n", "waits for 4\n", "waits for 5\n"];
    assert!(waits.iter().any(|words| said.contains(words)), "{said}");
}
