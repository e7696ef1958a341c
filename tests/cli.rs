// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line as scripts use it: exit codes and JSON.

mod common;

use common::cli;

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
        let ended = cli::run(args);
        assert_eq!(ended.code(), Some(128), "{args:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn an_eye_that_only_mutate_has_cannot_be_closed_elsewhere() {
    for (args, eye) in [
        (&["scenario", "hello"][..], "books"),
        (&["sweep", "vfork"], "forged-images"),
        (&["matrix", "ptrace"], "facts,books"),
        (&["torture"], "forged-images"),
        (&["torture"], "refusals"),
    ] {
        let ended = cli::run(&[args, &["--without", eye]].concat());
        assert_eq!(ended.code(), Some(128), "{args:?}{}", ended.stderr);
        assert!(
            ended.stderr.contains("only `crucible mutate`"),
            "{args:?}{}",
            ended.stderr
        );
    }
}

#[test]
fn help_and_version_exit_with_0() {
    assert_eq!(cli::run(&["--help"]).code(), Some(0));
    assert_eq!(cli::run(&["--version"]).code(), Some(0));
}

#[test]
fn doctor_prints_json() {
    let ended = cli::run(&["doctor", "--json"]);
    let report = ended.record();
    let ready = report["ready"].as_bool().unwrap();
    assert_eq!(ended.code(), Some(if ready { 0 } else { 129 }));
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
    let (mut command, results) = cli::command(&["rootfs", "build", "--no-install"]);
    command.env("PATH", directory.path());
    let ended = cli::spawn(command, results.path().to_owned(), Some(results)).end();
    assert_eq!(ended.code(), Some(129));
    let text = ended.stderr;
    assert!(text.contains("apt-get install"), "{text}");
    assert!(text.contains("qemu-system-x86"), "{text}");
}

#[test]
fn a_file_that_is_not_a_kernel_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("bzImage");
    std::fs::write(&image, b"MZ no kernel").unwrap();
    let ended = cli::run(&["kernel", "build", "--kernel", image.to_str().unwrap()]);
    assert_eq!(ended.code(), Some(125));
    let text = ended.stderr;
    assert!(text.contains("vmlinux"), "{text}");
}
