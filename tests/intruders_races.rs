// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rights that a user must not gain by racing with a checkpoint(2).

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

const SETUID: &str = include_str!("../rootfs/adversary/setuid.c");

/// Installs a set-user-ID root program that every user may execute, and gives a user cgroups.
const SCRIPT: &str = r#"
cd /tmp && chmod 1777 /tmp
cat > rooted.c <<'END'
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
END
gcc -static -O1 -o rooted rooted.c && chmod 4755 rooted || exit
gcc -O1 -o setuid setuid.c || exit
all=/sys/fs/cgroup/all
mkdir -p $all/a $all/b $all/tree $all/user
chown -R 1000 $all
sh -c "echo \$\$ > $all/user/cgroup.procs
	exec setpriv --reuid 1000 --regid 1000 --clear-groups ./setuid $all ./rooted"
echo status $?
"#;

/// checkpoint(2) repeats the permission check when the task has quiesced: until then the task may
/// execute a program that the caller may not trace.
#[test]
fn a_setuid_program_that_is_executed_during_a_checkpoint_is_not_saved() {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let script = format!("cat > /tmp/setuid.c <<'END'\n{SETUID}END\n{SCRIPT}");
    let argv = ["/bin/bash", "-c", &script].map(String::from);
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG)
        .expect("the script to end");
    guest.shutdown().expect("shutdown");
    assert_eq!(run.stdout, "refused\nstatus 0\n", "{run:#?}");
}
