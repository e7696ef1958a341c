// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory that a crashed guest leaves.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::Value;

/// Opens the memory of a unit's guest by the command that the record names, and checks that gdb
/// finds the kernel's variables, and one of these functions where a CPU was.
pub fn check(unit: &Value, functions: &[&str]) {
    let kept = &unit["memory"]["kept"];
    let open = kept["open"].as_str().unwrap_or_else(|| panic!("{unit:#}"));
    let requests = [
        "x/s (char *)&linux_banner",
        "info symbol $rip",
        "x/64xg $rsp",
    ];
    let requests: Vec<_> = requests
        .iter()
        .map(|request| format!("-ex '{request}'"))
        .collect();
    // The command that the user would copy, with more arguments.
    let command = format!("exec {open} -nx -batch {}", requests.join(" "));
    let output = Command::new("/bin/sh")
        .args(["-c", &command])
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"Linux version 6."), "{text}{output:?}");
    let found = functions
        .iter()
        .any(|name| text.contains(&format!("\n{name}")));
    assert!(found, "{functions:?}: {text}");
    // The dump has the stack, too.
    assert!(!text.contains("Cannot access memory"), "{text}");
    let path = open.rsplit(' ').next().unwrap_or_default();
    let metadata = std::fs::metadata(path).expect(path);
    assert!(metadata.blocks() * 512 < metadata.len() / 2, "not sparse");
}
