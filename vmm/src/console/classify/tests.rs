// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;

fn alerts(console: &str) -> Vec<Alert> {
    let now = Instant::now();
    let mut classifier = Classifier::default();
    let mut all: Vec<_> = console
        .lines()
        .flat_map(|line| classifier.line(line, now))
        .collect();
    all.extend(classifier.close());
    all
}

fn kinds(console: &str) -> Vec<AlertKind> {
    alerts(console).into_iter().map(|a| a.kind).collect()
}

#[test]
fn prefixes_are_removed() {
    assert_eq!(message("[    1.234567] hello"), "hello");
    assert_eq!(message("[    1.234567][   T12] hello"), "hello");
    assert_eq!(message("[    1.234567] [T12] hello"), "[T12] hello");
    assert_eq!(message("[INFO] hello"), "[INFO] hello");
    assert_eq!(message("plain"), "plain");
}

#[test]
fn an_orderly_boot_is_silent() {
    let boot = "\
[    0.000000] Linux version 6.12.117-crucible (crucible@crucible) (gcc (Debian 12.2.0-14) 12.2.0)
[    0.012000] You have booted with nomodule. Your modules are barely loaded.
[    0.310412] printk: legacy console [ttyS0] enabled
[    0.498214] EXT4-fs (vdc): mounted filesystem r/w without journal. Quota mode: disabled.
[    2.101010] traps: a.out[77] general protection fault ip:401136 sp:7ffc error:0 in a.out
[    2.202020] sh[80]: segfault at 0 ip 0000000000401136 sp 00007ffc error 6 in a.out
[    9.000000] reboot: Restarting system";
    assert_eq!(kinds(boot), []);
}

#[test]
fn an_oops_that_ends_in_a_panic_is_both() {
    let text = "\
[    3.1] some line before
[    3.210000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    3.210100] #PF: supervisor read access in kernel mode
[    3.210300] Oops: Oops: 0000 [#1] SMP NOPTI
[    3.210400] CPU: 0 UID: 0 PID: 71 Comm: restart Not tainted 6.12.117-crucible #1
[    3.210500] RIP: 0010:ckpt_restore_files+0x31/0x90
[    3.210900] Call Trace:
[    3.211000]  <TASK>
[    3.215000] ---[ end trace 0000000000000000 ]---
[    3.216000] RIP: 0010:ckpt_restore_files+0x31/0x90
[    3.217000] Kernel panic - not syncing: Fatal exception
[    3.218000] Kernel Offset: disabled
[    3.219000] ---[ end Kernel panic - not syncing: Fatal exception ]---";
    let found = alerts(text);
    assert_eq!(
        found.iter().map(|a| a.kind).collect::<Vec<_>>(),
        [AlertKind::Oops, AlertKind::Panic]
    );
    assert_eq!(
        found[0].headline,
        "BUG: kernel NULL pointer dereference, address: 0000000000000010"
    );
    assert_eq!(found[0].lines[0], "[    3.1] some line before");
    assert!(found[0].lines.last().unwrap().contains("end trace"));
    assert!(found[1].lines.iter().any(|l| l.contains("Kernel Offset")));
}

#[test]
fn a_panic_inside_an_open_oops_closes_it() {
    let text = "\
general protection fault, probably for non-canonical address 0xdead000000000108: 0000 [#1]
Call Trace:
Kernel panic - not syncing: Fatal exception in interrupt";
    assert_eq!(kinds(text), [AlertKind::Oops, AlertKind::Panic]);
}

#[test]
fn kasan_reports_end_at_their_rule() {
    let text = "\
[   10.0] ==================================================================
[   10.0] BUG: KASAN: slab-use-after-free in objhash_get+0x5c/0x80
[   10.0] Read of size 8 at addr ffff888004a3c010 by task restart/91
[   10.0] CPU: 0 UID: 0 PID: 91 Comm: restart Not tainted 6.12.117-crucible-debug #3
[   10.0] Allocated by task 91:
[   10.0] Freed by task 91:
[   10.0] ==================================================================
[   10.1] Disabling lock debugging due to kernel taint";
    let found = alerts(text);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, AlertKind::Kasan);
    assert_eq!(found[0].lines.len(), 7);
}

#[test]
fn a_report_after_the_rule_of_a_kcsan_report_is_another_one() {
    let text = "\
[   10.0] ==================================================================
[   10.0] BUG: KCSAN: data-race in ckpt_quiesce+0x10/0x80
[   10.0] race at unknown origin, with read to 0xffff888004a3c010 of 8 bytes by task 91 on cpu 0:
[   10.0] value changed: 0x0000000000000001 -> 0x0000000000000002
[   10.0] Reported by Kernel Concurrency Sanitizer on:
[   10.0] CPU: 0 UID: 0 PID: 91 Comm: restart Not tainted 6.12.117-crucible-kcsan #3
[   10.0] ==================================================================
[   10.1] WARNING: CPU: 0 PID: 12 at kernel/checkpoint/sys.c:40 sys_checkpoint+0x1/0x2";
    let found = alerts(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].kind, AlertKind::Kcsan);
    assert_eq!(found[0].lines.len(), 7);
    assert_eq!(found[1].kind, AlertKind::Warning);
}

#[test]
fn every_checker_is_distinguished() {
    for (line, kind) in [
        (
            "WARNING: possible circular locking dependency detected",
            AlertKind::Lockdep,
        ),
        (
            "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
            AlertKind::Lockdep,
        ),
        ("WARNING: suspicious RCU usage", AlertKind::Lockdep),
        ("[ BUG: Invalid wait context ]", AlertKind::Lockdep),
        (
            "WARNING: CPU: 0 PID: 12 at kernel/checkpoint/sys.c:40 sys_checkpoint+0x1/0x2",
            AlertKind::Warning,
        ),
        (
            "BUG: sleeping function called from invalid context at mm/page_alloc.c:1",
            AlertKind::Bug,
        ),
        (
            "BUG: scheduling while atomic: make/71/0x00000002",
            AlertKind::Bug,
        ),
        (
            "BUG: Bad page state in process cc1  pfn:01234",
            AlertKind::Bug,
        ),
        ("kernel BUG at mm/rmap.c:1234!", AlertKind::Oops),
        (
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [make:71]",
            AlertKind::Lockup,
        ),
        (
            "INFO: task make:71 blocked for more than 10 seconds.",
            AlertKind::HungTask,
        ),
        (
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            AlertKind::RcuStall,
        ),
        (
            "kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            AlertKind::Kmemleak,
        ),
        (
            "UBSAN: array-index-out-of-bounds in kernel/checkpoint/image.c:7:3",
            AlertKind::Ubsan,
        ),
        (
            "BUG: KCSAN: data-race in ckpt_quiesce / do_exit",
            AlertKind::Kcsan,
        ),
    ] {
        assert_eq!(kinds(&format!("[    7.000001] {line}")), [kind], "{line}");
    }
    assert_eq!(
        kinds("kmemleak: Automatic memory scanning thread ended"),
        []
    );
    assert_eq!(kinds("INFO: task list follows"), []);
}

#[test]
fn a_report_is_closed_by_silence_and_by_its_age() {
    let start = Instant::now();
    let mut classifier = Classifier::default();
    assert!(
        classifier
            .line("WARNING: suspicious RCU usage", start)
            .is_empty()
    );
    assert!(
        classifier
            .expire(start + Duration::from_millis(200))
            .is_none()
    );
    assert!(classifier.expire(start + SILENCE).is_some());
    assert_eq!(classifier.deadline(), None);

    assert!(
        classifier
            .line("WARNING: suspicious RCU usage", start)
            .is_empty()
    );
    let mut closed = Vec::new();
    for tenths in 1..=9 {
        closed.extend(classifier.line(
            "still printing",
            start + Duration::from_millis(100 * tenths),
        ));
    }
    assert_eq!(closed.len(), 1, "a report is delivered after LONGEST");
}

#[test]
fn reports_without_the_usual_words_are_found() {
    for line in [
        "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
        "BUG kmalloc-64 (Tainted: G    B   W         ): Poison overwritten",
        "VFS: Busy inodes after unmount of vdc (ext4)",
        "unregister_netdevice: waiting for eth0 to become free. Usage count = 2",
        "ODEBUG: free active (active state 0) object: 0000 object type: timer_list",
        "EXT4-fs error (device vdc): ext4_lookup:1813: inode #2",
        "pagealloc: memory corruption",
        "ref_tracker: reference already released.",
    ] {
        assert_eq!(headline(line), Some(AlertKind::Bug), "{line}");
    }
    assert_eq!(headline("BUG reports go to the list"), None);
}
