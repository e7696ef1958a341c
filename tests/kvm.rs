// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our own VMM on a working KVM: in an outer Linux, to which QEMU gives a CPU with virtualisation,
//! so that the test is the same on every host.

mod common;
mod debugger;

use std::path::Path;

use common::cli;

/// Source of a program that checks that the outer Linux's timer keeps running.
const TIMER: &str = include_str!("outer/timer.c");

/// A scenario that writes more than the outer Linux has space for.
const FILLS: &str = "summary = \"x\"
at = \"syscall:getppid:1\"
argv = [\"/bin/dd\", \"if=/dev/zero\", \"of=data\", \"bs=1M\", \"count=200\", \"conv=fsync\"]
timeout = 600
";

/// A scenario whose kernel panics.
const CRASHES: &str = "summary = \"x\"
at = \"syscall:getppid:1\"
argv = [\"/bin/sh\", \"-c\", \"echo c > /proc/sysrq-trigger\"]
";

/// Checks the outer Linux's timer; then runs hello, cold with two vCPUs; the main scenario from a
/// snapshot; a scenario from the same snapshot under gdb; several guests in parallel from a
/// snapshot that contains changes made by another guest; a scenario that fills the outer Linux's
/// disk; and one whose kernel panics, whose memory gdb opens. Only records go to standard output.
fn script() -> String {
    let quote = |argument: String| format!("'{argument}'");
    let arguments = debugger::arguments("/tmp/gdb").into_iter().map(quote);
    format!(
        "cat > /tmp/timer.c <<'END'
{TIMER}
END
        gcc -O2 -Wall -o /tmp/timer /tmp/timer.c
        /tmp/timer 10
        ./crucible -q scenario hello --machine kvm --cold --vcpus 2 --json
        ./crucible -q scenario vfork --machine kvm --json
        ./crucible -q scenario {scenario} --machine kvm --gdb /tmp/gdb --json &
        until test -S /tmp/gdb; do kill -0 $!; sleep 0.1; done
        timeout 1200 gdb {arguments} vmlinux >&2
        wait $!
        ./crucible -q clones 4 --machine kvm --changes >&2
        mkdir -p /tmp/fills /tmp/crashes /tmp/full
        cat > /tmp/fills/scenario.toml <<'END'
{FILLS}
END
        cat > /tmp/crashes/scenario.toml <<'END'
{CRASHES}
END
        mount -t tmpfs -o size=64m,mode=755 tmpfs /tmp/full
        CRUCIBLE_RESULTS=/tmp/full ./crucible -q scenario /tmp/fills --machine kvm --json ||
            test $? = 129
        umount /tmp/full
        ./crucible -q scenario /tmp/crashes --machine kvm --vcpus 2 --json || test $? = 125
        timeout 600 gdb -nx -batch vmlinux results/*-crashes/machine-1/guest-memory.elf \
            -ex 'x/s (char *)&linux_banner' -ex 'thread apply all info symbol $rip' \
            -ex 'x/64xg $rsp' >&2",
        scenario = debugger::SCENARIO,
        arguments = arguments.collect::<Vec<_>>().join(" "),
    )
}

#[test]
fn the_main_scenario_passes_in_our_own_vmm() {
    let ended = cli::run(&["-q", "nested", "--script", &script()]);
    let records = ended.records();
    let stderr = &ended.stderr;
    assert_eq!(records.len(), 5, "{stderr}");
    for (record, start) in records[..3].iter().zip(["cold", "warm", "warm"]) {
        assert_eq!(record["verdict"], "pass", "{record:#}");
        let machine = &record["machine"];
        assert_eq!(machine["kind"], "kvm", "{machine}");
        assert_eq!(machine["start"], start, "{machine}");
    }
    assert!(stderr.contains("in a sleep"), "{stderr}");
    assert!(
        stderr.contains("4 clones of one snapshot: pass"),
        "{stderr}"
    );
    assert_eq!(ended.code(), Some(0), "{stderr}");
    debugger::check(stderr);
    // A full disk of the host is not the kernel's fault.
    let full = &records[3];
    assert_eq!(full["condition"], "disk-full", "{full:#}");
    assert_eq!(full["blame"], "host", "{full:#}");
    assert_eq!(full["exit_code"], 129, "{full:#}");
    // After a panic, the dump has the memory, the stacks and the registers of each vCPU.
    let crashed = &records[4];
    assert_eq!(crashed["condition"], "early-report", "{crashed:#}");
    let kept = &crashed["units"][0]["memory"]["kept"];
    assert_eq!(kept["file"], "machine-1/guest-memory.elf", "{crashed:#}");
    assert!(stderr.contains("\"Linux version 6."), "{stderr}");
    assert!(
        stderr.contains("\nnative_machine_emergency_restart + "),
        "{stderr}"
    );
    assert!(!stderr.contains("Cannot access memory"), "{stderr}");
}

#[test]
#[ignore = "needs an outer Linux with 8 GiB, runs ten minutes"]
fn thirty_two_clones_have_their_own_identities() {
    let ended = cli::run(&[
        "-q",
        "nested",
        "--memory",
        "8192",
        "clones",
        "32",
        "--machine",
        "kvm",
    ]);
    let verdict = "32 clones of one snapshot: pass";
    let said = ended.stdout.lines().any(|line| line == verdict);
    assert!(said, "{ended:?}");
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

#[test]
fn doctor_reports_why_kvm_is_not_used() {
    let report = cli::run(&["doctor", "--json"]).record();
    let finding = report["findings"]
        .as_array()
        .and_then(|all| all.iter().find(|finding| finding["what"] == "kvm"))
        .expect("a finding about KVM");
    let detail = finding["detail"].as_str().expect("a text");
    match finding["state"].as_str() {
        Some("ok") => assert!(detail.contains("instructions a second"), "{detail}"),
        _ if Path::new("/dev/kvm").exists() => {
            assert!(detail.contains("exists but is not used"), "{detail}");
            assert!(detail.contains("cannot "), "{detail}");
        }
        _ => assert!(detail.contains("this host has no KVM"), "{detail}"),
    }
}
