// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that writes its core is exiting, and a freeze must not stop it there: the freezer's
//! signal would interrupt its write to a full pipe and truncate the core.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Makes a process with 4 MiB of memory dump its core into a pipe whose reader reads one page and
/// waits; freezes the process there, then lets the reader continue. Argument: `freeze` or `leave`.
const SCRIPT: &str = r#"
cd /tmp
cat > reader <<'END'
#!/bin/sh
head -c 4096 > /tmp/begin
touch /tmp/begun
while [ ! -e /tmp/go ]; do :; done
cat > /tmp/rest
touch /tmp/end
END
chmod +x reader
cat > dumps.c <<'END'
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int main(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_CORE, &limit);
	memset(malloc(4 << 20), 'x', 4 << 20);
	abort();
}
END
gcc -o dumps dumps.c || exit
echo '|/tmp/reader' > /proc/sys/kernel/core_pattern
cg=/sys/fs/cgroup/cores
mkdir $cg
sh -c "echo \$\$ > $cg/cgroup.procs; exec ./dumps" &
until [ -e begun ]; do :; done
child=$(cat $cg/cgroup.procs)
# the pipe is full, and it sleeps
until grep -q '^State:.S' /proc/$child/status; do :; done
if [ $1 = freeze ]; then
	echo 1 > $cg/cgroup.freeze
	echo 0 > $cg/cgroup.freeze
fi
touch go
until [ -e end ]; do :; done
echo $(( $(stat -c %s begin) + $(stat -c %s rest) ))
"#;

fn size_of_core(freeze: &str) -> u64 {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let argv = ["/bin/bash", "-c", SCRIPT, "cores", freeze].map(String::from);
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG)
        .expect("the script to end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    run.stdout
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{run:?}"))
}

#[test]
fn a_freeze_does_not_truncate_a_core() {
    let whole = size_of_core("leave");
    assert!(whole > 4 << 20, "a core of {whole} bytes");
    assert_eq!(size_of_core("freeze"), whole);
}
