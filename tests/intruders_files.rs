// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user without rights may not get by checkpoint(2) and restart(2): the content of files
//! that he may not read, executables that he may not execute, core files of root's.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Makes images other than any that checkpoint(2) writes.
const FORGE: &str = include_str!("intruders/forge.c");

/// Before each script: `freeze CGROUP COMMAND…` starts a command as uid 1000 in a new frozen
/// cgroup, when it sleeps, and sets `child`; `save` has uid 1000 checkpoint it.
const TOOLS: &str = r#"
cd /tmp && chmod 1777 /tmp
gcc -O1 -o /tmp/forge /tmp/forge.c || exit
user="setpriv --reuid 1000 --regid 1000 --clear-groups"
sleeping() { grep -q '^\(35\|230\) ' /proc/$1/syscall; }
freeze() {
	cg=/sys/fs/cgroup/$1
	shift
	mkdir $cg
	sh -c 'echo $$ > $0/cgroup.procs; exec "$@"' $cg $user "$@" < /dev/null > /dev/null 2>&1 &
	child=$!
	until sleeping $child; do :; done
}
hold() {
	echo 1 > $cg/cgroup.freeze
	until grep -q 'frozen 1' $cg/cgroup.events; do :; done
}
end() {
	echo 0 > $cg/cgroup.freeze
	echo 1 > $cg/cgroup.kill
	while grep -q 'populated 1' $cg/cgroup.events; do :; done
}
save() { $user /opt/crucible/checkpoint -o $1.img -l $1.log $child && echo "$1: saved"; cat $1.log; }
"#;

fn said_by(script: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let words = [
        "/bin/bash".to_owned(),
        "-c".to_owned(),
        format!("cat > /tmp/forge.c <<'END'\n{FORGE}END\n{TOOLS}{script}"),
    ];
    let run = guest
        .exec(&words, &BTreeMap::new(), "/", LONG)
        .expect("the script's end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    run.stdout
}

/// A path to a file that may not be read can be held, and so can a file that is only written.
/// When the file is unlinked its content belongs into an image: but only into one of somebody who
/// may read it.
#[test]
fn an_unlinked_file_is_saved_for_its_readers_only() {
    let said = said_by(
        r#"
cat > holder.py <<'END'
import os, sys, time
how = os.O_PATH if sys.argv[1] == "path" else os.O_WRONLY
fd = os.open(sys.argv[2], how)
time.sleep(1000)
END
for how in path write; do
	echo TOPSECRET > secret
	[ $how = path ] && chmod 600 secret || chmod 622 secret
	freeze $how python3 holder.py $how secret
	rm secret
	hold
	save $how
	cat $how.img 2> /dev/null | grep -c TOPSECRET | sed "s/^/$how: secrets /"
	# root may
	/opt/crucible/checkpoint -o root.img $child && echo "$how: saved by root"
	grep -a -o TOPSECRET root.img | grep -c . | sed "s/^/$how: root has /"
	end
done
# whoever may read, may save
echo OWN > own
chown 1000:1000 own
freeze own python3 holder.py path own
rm own
hold
save own
grep -a -q "OWN$" own.img && echo "own: content"
end
true
"#,
    );
    for how in ["path", "write"] {
        assert!(!said.contains(&format!("{how}: saved\n")), "{said}");
        assert!(said.contains("secret"), "{said}");
        assert!(
            said.contains("the caller may not read it (-EACCES)"),
            "{said}"
        );
        assert!(said.contains(&format!("{how}: secrets 0")), "{said}");
        assert!(said.contains(&format!("{how}: saved by root")), "{said}");
        assert!(said.contains(&format!("{how}: root has 1")), "{said}");
    }
    assert!(said.contains("own: saved\n"), "{said}");
    assert!(said.contains("own: content"), "{said}");
}
