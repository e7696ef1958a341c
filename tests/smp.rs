// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests with two CPUs.

mod common;

use std::collections::BTreeMap;

use common::{LONG, spec};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{Options, QemuMachine};

/// Toggles of the static key, and signals that run through it. Of a kernel with CONFIG_JUMP_LABEL=y, QEMU 7.2 has
/// panicked within 13 s.
const COUNT: u32 = 20_000;

/// The guest's script; `$1` is the source, `$2` the count.
const SCRIPT: &str = r#"
set -e
cd /tmp
printf '%s' "$1" > toggle.c
gcc -O2 -Wall -Werror -pthread -o toggle toggle.c
mkdir /sys/fs/cgroup/toggle
./toggle /sys/fs/cgroup/toggle/cgroup.freeze_at "$2"
"#;

/// QEMU before 8.1 reads the guest's code to be translated before it locks the code's
/// page, so a CPU can keep a translation of an int3 that another CPU replaces at that
/// moment (its commit deba78709ae8 is the fix). `text_poke_bp()` relies on that not
/// happening: "Oops: int3" at a static key. The guest's kernel has none of those that
/// are patched.
#[test]
fn a_static_key_can_be_toggled_while_another_cpu_runs_through_it() {
    let (_directory, mut spec) = spec();
    spec.vcpus = 2;
    let machine = QemuMachine::start(&spec, &Options::default()).expect("machine");
    let mut guest = Guest::connect(Box::new(machine), LONG).expect("agent");
    let argv = [
        "/bin/bash",
        "-c",
        SCRIPT,
        "bash",
        include_str!("smp/toggle.c"),
        &COUNT.to_string(),
    ]
    .map(String::from);
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG * 5)
        .expect("the script's end");
    assert!(run.success(), "{run:?}");
    guest.shutdown().expect("an orderly end");
}
