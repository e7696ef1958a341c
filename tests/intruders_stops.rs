// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Seccomp: an image does not let a task bypass a seccomp filter, neither the caller's nor its
//! own. A forged image may claim that a filter's stop has already been reported, after which the
//! call would continue without one.

mod common;

use common::scripts::{assert_lines, run_script};

const FORGE: &str = include_str!("intruders/forge.c");
const IMAGE: &str = include_str!("../rootfs/shared/image.h");
const STOPS: &str = include_str!("intruders/stops.c");
const CAGE: &str = include_str!("intruders/cage.c");

const SCRIPT: &str = r#"
for program in forge stops cage; do
	gcc -O1 -Wall -Werror -o $program $program.c || die gcc
done
# saved KIND: an image of that name
saved() {
	rm -f there
	begin ./stops $1
	until [ -e there ]; do kill -0 $root || die "stops has ended: $(cat out)"; done
	freeze
	save
	end
	[ -e image ] && mv image $1
}
# again IMAGE [COMMAND]...: restarts it by that command
again() {
	"${@:2}" $tools/restart --pids --no-wait -i $1 -l log > pid 2> /dev/null
	case $? in
	0)
		echo restarted
		pkill -KILL -P $(cat pid)
		kill -KILL $(cat pid)
		until ! kill -0 $(cat pid) 2> /dev/null; do :; done
		;;
	*) echo refused: $(cat log) ;;
	esac
}
saved seccomp
again seccomp
again seccomp ./cage
# struct ckpt_task.seccomp
TEXT=tracee ./forge seccomp none 5 0 220 4 0 && again none
saved signal
again signal
again signal ./cage
# struct ckpt_ptrace.flags: PTRACE_O_SUSPEND_SECCOMP
./forge signal suspend 27 0 4 4 0x200000 || die forge
again suspend
again suspend ./cage
saved strict
again strict
again strict ./cage
"#;

#[test]
fn an_image_does_not_bypass_a_seccomp_filter() {
    let output = run_script(&format!(
        "cat > image.h <<'END'\n{IMAGE}END\n\
         cat > forge.c <<'END'\n{FORGE}END\n\
         cat > stops.c <<'END'\n{STOPS}END\n\
         cat > cage.c <<'END'\n{CAGE}END\n{SCRIPT}"
    ));
    assert_lines(
        &output,
        &[
            "saved",
            "restarted",
            "refused: pid",
            "a seccomp stop without a filter (-EINVAL)",
            "saved",
            "restarted",
            "restarted",
            "restarted",
            "PTRACE_O_SUSPEND_SECCOMP (-EPERM)",
            "saved",
            "restarted",
            "seccomp filters (-EPERM)",
        ],
    );
    assert!(
        output.contains("a seccomp stop, restarted from under seccomp filters (-EPERM)"),
        "{output}"
    );
}
