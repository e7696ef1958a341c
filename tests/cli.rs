// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line as scripts use it: exit codes and JSON.

use std::process::{Command, Output};

fn crucible(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crucible"))
        .args(args)
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit status")
}

#[test]
fn a_wrong_command_line_exits_with_128() {
    for args in [
        &["no-such-command"][..],
        &["kernel"],
        &["kernel", "build", "--flavour", "sweet"],
        &["kernel", "build", "--kernel", "a", "--kernel-src", "b"],
        &["kernel", "build", "--kernel", "a", "--config", "b"],
        &["kernel", "build", "--cc", "no-such-compiler"],
        &["torture", "--coverage", "--flavour", "debug"],
        &["scenario", "hello", "--memory", "1"],
        &["exec", "--copy-in", "Cargo.toml"],
        &["rerun"],
        &[],
    ] {
        let output = crucible(args);
        assert_eq!(code(&output), 128, "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_exit_with_0() {
    assert_eq!(code(&crucible(&["--help"])), 0);
    assert_eq!(code(&crucible(&["--version"])), 0);
}

#[test]
fn doctor_prints_json() {
    let output = crucible(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ready = report["ready"].as_bool().unwrap();
    assert_eq!(code(&output), if ready { 0 } else { 129 });
    let findings = report["findings"].as_array().unwrap();
    for what in [
        "qemu",
        "kvm",
        "confinement",
        "packages",
        "cache",
        "results",
        "sources",
        "memory",
        "disk",
        "base kernel",
    ] {
        assert!(findings.iter().any(|f| f["what"] == what), "{report}");
    }
}

#[test]
fn missing_packages_exit_with_129_and_the_command_to_install_them() {
    // A PATH of one directory, whose fake dpkg-query reports every package as missing.
    let directory = tempfile::tempdir().unwrap();
    let fake = directory.path().join("dpkg-query");
    std::fs::write(&fake, "#!/bin/sh\nexit 1\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&fake, mode).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_crucible"))
        .args(["rootfs", "build", "--no-install"])
        .env("PATH", directory.path())
        .output()
        .unwrap();
    assert_eq!(code(&output), 129);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("apt-get install"), "{text}");
    assert!(text.contains("qemu-system-x86"), "{text}");
}

#[test]
fn a_file_that_is_not_a_kernel_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("bzImage");
    std::fs::write(&image, b"MZ no kernel").unwrap();
    let output = crucible(&["kernel", "build", "--kernel", image.to_str().unwrap()]);
    assert_eq!(code(&output), 125);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("vmlinux"), "{text}");
}
