// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A gdb session that stops in the vfork glue of a restarted guest.

/// The commands for gdb. They must not contain an apostrophe, because a shell quotes them.
const COMMANDS: [&str; 12] = [
    "set pagination off",
    "break ckpt_vfork_wait",
    "continue",
    "backtrace",
    "printf \"at the function: %d\\n\", $rip == (long)&ckpt_vfork_wait",
    // The pid that the restarted call is to return: the `nr` of ckpt_vfork_wait.
    "printf \"waits for %d\\n\", *(int *)($rdi + 0x28)",
    "stepi",
    "printf \"after the first instruction: %d\\n\", $rip > (long)&ckpt_vfork_wait && $rip <= (long)&ckpt_vfork_wait + 15",
    // The breakpoint must still be set when the next process reaches it.
    "continue",
    "printf \"again at the function: %d\\n\", $rip == (long)&ckpt_vfork_wait",
    "delete",
    "detach",
];

/// The scenario. In each of its cases, three processes reach the breakpoint.
pub const SCENARIO: &str = "vfork-chain";

/// Returns gdb's arguments, except for the kernel's image.
pub fn arguments(socket: &str) -> Vec<String> {
    let mut arguments = ["-nx", "-batch", "-ex"].map(str::to_owned).to_vec();
    arguments.push(format!("target remote {socket}"));
    for command in COMMANDS {
        arguments.extend(["-ex", command].map(str::to_owned));
    }
    arguments
}

/// Checks the output of gdb.
pub fn check(output: &str) {
    for text in [
        "Breakpoint 1, 0x",
        "in ckpt_vfork_wait ()",
        // The caller: the function in which a restarted task begins.
        "in go_to_site ()",
        "at the function: 1",
        "after the first instruction: 1",
        "again at the function: 1",
        "detached]",
    ] {
        assert!(output.contains(text), "no `{text}` in: {output}");
    }
    // The pids of a chain of processes; the order in which they reach the breakpoint is undefined.
    let waits = ["waits for 3\n", "waits for 4\n", "waits for 5\n"];
    assert!(waits.iter().any(|text| output.contains(text)), "{output}");
}
