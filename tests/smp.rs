// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests with two CPUs.

mod common;

use std::collections::BTreeMap;

use common::{LONG, spec};
use crucible_engine::guest::Guest;
use crucible_vmm::qemu::{Options, QemuMachine};

/// Number of toggles of the static key, and of signals that run through it. With a kernel of
/// CONFIG_JUMP_LABEL=y, QEMU 7.2 panicked within 13 s.
const COUNT: u32 = 20_000;

/// The guest's script. `$1` is the source, `$2` the count.
const SCRIPT: &str = r#"
set -e
cd /tmp
printf '%s' "$1" > toggle.c
gcc -O2 -Wall -Werror -pthread -o toggle toggle.c
mkdir /sys/fs/cgroup/toggle
./toggle /sys/fs/cgroup/toggle/cgroup.freeze_at "$2"
"#;

/// QEMU before 8.1 reads guest code for translation before it locks the page of the code,
/// so a CPU can keep a translation of an int3 that another CPU replaces at that moment (fixed by
/// QEMU's commit deba78709ae8). `text_poke_bp()` relies on this not happening; the result is
/// "Oops: int3" at a static key. The guest's kernel therefore has no static keys that are patched.
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
        .expect("the script to end");
    assert!(run.success(), "{run:?}");
    guest.shutdown().expect("a clean shutdown");
}
