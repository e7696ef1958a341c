// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rights that an unprivileged user must not gain by checkpoint(2) and restart(2): the content of
//! files without read permission, executables without execute permission, core files owned by
//! root.

mod common;

use std::collections::BTreeMap;

use common::{LONG, boot};

/// Source of a program that changes an image into one that checkpoint(2) would not write.
const FORGE: &str = include_str!("intruders/forge.c");
const IMAGE: &str = include_str!("../rootfs/shared/image.h");

/// Source of a program that calls restart(2) without the tool's cgroup and namespaces.
const RESTART: &str = include_str!("intruders/restart.c");

/// Functions for each script: `freeze CGROUP COMMAND…` starts a command as uid 1000 in a new
/// cgroup, freezes it once it sleeps, and sets `child`; `save` checkpoints it as uid 1000.
const TOOLS: &str = r#"
cd /tmp && chmod 1777 /tmp
gcc -O1 -o /tmp/forge /tmp/forge.c || exit
gcc -DSYS_RESTART=501 -o /tmp/restart /tmp/restart.c || exit
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
# restart IMAGE [CAPABILITY]: with all rights over a user and a pid namespace of his own
restart() {
	$user unshare -Ucpf --keep-caps /tmp/restart $1.img ${2-} 2>&1 | sed "s/^/$1: /"
}
save() { $user /opt/crucible/checkpoint -o $1.img -l $1.log $child && echo "$1: saved"; cat $1.log; }
"#;

fn run_script(script: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let argv = [
        "/bin/bash".to_owned(),
        "-c".to_owned(),
        format!(
            "cat > /tmp/image.h <<'END'\n{IMAGE}END\n\
             cat > /tmp/forge.c <<'END'\n{FORGE}END\n\
             cat > /tmp/restart.c <<'END'\n{RESTART}END\n{TOOLS}{script}"
        ),
    ];
    let run = guest
        .exec(&argv, &BTreeMap::new(), "/", LONG)
        .expect("the script to end");
    guest.shutdown().expect("shutdown");
    assert!(run.success(), "{run:?}");
    run.stdout
}

/// A process can hold a path descriptor of a file without read permission, or a descriptor that is
/// only open for writing. If that file is unlinked, its content belongs in the image, but only if
/// the caller of checkpoint(2) may read the file.
#[test]
fn an_unlinked_file_is_saved_only_if_the_caller_may_read_it() {
    let output = run_script(
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
# what the kernel may drop is no part of an image
cat > dropper.py <<'END'
import mmap, time
m = mmap.mmap(-1, 4096, flags=0x08, prot=3)
for i, c in enumerate("ESPQQFE"):
    m[i] = ord(c) ^ 1
time.sleep(1000)
END
freeze drop python3 dropper.py
hold
save drop
echo "drop: secrets $(grep -a -c DRQPPGD drop.img)"
end
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
        assert!(!output.contains(&format!("{how}: saved\n")), "{output}");
        assert!(output.contains("secret"), "{output}");
        assert!(
            output.contains("the caller may not read it (-EACCES)"),
            "{output}"
        );
        assert!(output.contains(&format!("{how}: secrets 0")), "{output}");
        assert!(
            output.contains(&format!("{how}: saved by root")),
            "{output}"
        );
        assert!(output.contains(&format!("{how}: root has 1")), "{output}");
    }
    assert!(output.contains("drop: saved\n"), "{output}");
    assert!(output.contains("drop: secrets 0"), "{output}");
    assert!(output.contains("own: saved\n"), "{output}");
    assert!(output.contains("own: content"), "{output}");
}

/// A user restarts an image that checkpoint(2) wrote, then variants that it could not have
/// written.
#[test]
fn a_restart_gives_a_user_no_new_rights() {
    let output = run_script(
        r#"
mkdir mine
chown 1000 mine
mkdir -m 700 root
cp /bin/sleep sleeper
cp /bin/sleep mine/execs
chmod 600 mine/execs
echo other > mine/other
cat > holder.py <<'END'
import os, socket, time
fd = os.memfd_create("kept")
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0mine")
listener.listen()
one = socket.socket(socket.AF_UNIX)
one.connect("\0mine")
other, _ = listener.accept()
listener.close()
time.sleep(1000)
END
cat > victim.py <<'END'
import socket, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("\0root")
listener.listen()
time.sleep(1000)
END
cd mine
freeze plain /tmp/sleeper 1000
hold
save plain > /dev/null
end
freeze held sh -c 'exec 3< /tmp/mine/other; exec /tmp/sleeper 1000'
hold
save held > /dev/null
end
cp plain.img held.img /tmp
cd ..
restart plain
# struct ckpt_mm.dumpable
./forge plain.img dumpable.img 17 0 108 4 2 && restart dumpable
# struct ckpt_file: O_PATH, another path, its inode; struct ckpt_mm.exe_file: it is that file
reference=$(python3 - <<'END'
import struct
image, at = open("held.img", "rb").read(), 0
while at < len(image):
    kind, reference, size = struct.unpack_from("IIQ", image, at)
    if kind == 11 and b"/tmp/mine/other" in image[at : at + 24 + size]:
        print(reference)
    at += 24 + size
END
)
TEXT=/tmp/mine/other ./forge held.img a.img 11 0 4 4 0x200000 &&
	TEXT=/tmp/mine/other ./forge a.img b.img 11 0 32 8 $(stat -c %i mine/execs) &&
	TEXT=/tmp/mine/other ./forge b.img path.img 11 0 text /tmp/mine/execs && restart path &&
	./forge path.img exe.img 17 0 104 4 $reference && restart exe
# struct ckpt_fs: the working directory, its inode
TEXT=/tmp/mine ./forge plain.img c.img 10 0 24 8 $(stat -c %i root) &&
	TEXT=/tmp/mine ./forge c.img cwd.img 10 0 text /tmp/root && restart cwd
# struct ckpt_task.restart_kind: from CKPT_RESTART_NANOSLEEP to CKPT_RESTART_ALARM
./forge plain.img alarm.img 5 0 64 4 2 && restart alarm
# struct ckpt_cred: without CAP_NET_RAW (13) in its bounding set, and with it inheritable
./forge plain.img bound.img 9 0 64 8 0x1ffffffdfff && restart bound 13
./forge bound.img inherit.img 9 0 40 8 0x2000 && restart inherit 13
freeze socket python3 holder.py
hold
save socket > /dev/null
end
restart socket
python3 victim.py < /dev/null > /dev/null 2>&1 &
until grep -q @root /proc/net/unix; do :; done
# struct ckpt_sockets: the name of the end that was accepted
TEXT=mine ./forge socket.img name.img 36 0 249 4 0x746f6f72 && restart name
kill $!
echo 2 > /proc/sys/vm/memfd_noexec
cp socket.img noexec.img
restart noexec
true
"#,
    );
    for (image, expected) in [
        ("plain", "restart: done"),
        ("dumpable", "core dumps only root may read (-EPERM)"),
        ("path", "restart: done"),
        ("exe", "execs as an executable (-EACCES)"),
        ("cwd", "/tmp/root (-EACCES)"),
        ("alarm", "a sleep that wakes the machine (-EPERM)"),
        ("bound", "restart: done"),
        ("inherit", "that the caller may not set (-EPERM)"),
        ("socket", "restart: done"),
        (
            "name",
            "a name that a different socket is bound to (-EPERM)",
        ),
        ("noexec", "which vm.memfd_noexec forbids (-EACCES)"),
    ] {
        assert!(
            output
                .lines()
                .any(|line| line.starts_with(&format!("{image}: ")) && line.contains(expected)),
            "{image}: {output}"
        );
    }
}

/// A memfd that is sealed against writable mappings can be mapped writable by a restart only if
/// the same restart has created it.
#[test]
fn a_seal_of_a_foreign_memfd_is_respected() {
    let output = run_script(
        r#"
mkdir mine
chown 1000 mine
cat > mapped.c <<'END'
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Maps a file at an address that the test searches for. The restarted task opens the file while
 * it still has the descriptors of the caller of restart(2), so a forged path can name one of these.
 */
int main(void)
{
	int fd = open("/tmp/mine/share", O_RDWR | O_CREAT, 0644);

	if (fd < 0 || ftruncate(fd, 4096) ||
	    mmap((void *)0x414141410000, 4096, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return 1;
	for (;;)
		usleep(999999);
}
END
cat > sealed.c <<'END'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Seals memory that it has as descriptor 9, and runs a command. */
int main(int argc, char **argv)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	char number[32];
	struct stat st;

	if (argc < 2 || fd < 0 || dup2(fd, 9) < 0 || ftruncate(9, 4096) ||
	    fcntl(9, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) || fstat(9, &st))
		return 1;
	snprintf(number, sizeof(number), "%lu", st.st_ino);
	setenv("NUMBER", number, 1);
	execvp(argv[1], argv + 1);
	return 1;
}
END
gcc -O1 -o /tmp/mapped mapped.c && gcc -O1 -o /tmp/sealed sealed.c || exit
cd mine
freeze share /tmp/mapped
hold
save share > /dev/null
end
restart share
# struct ckpt_vma.advice: CKPT_VMA_UNSEALED; struct ckpt_file: its path and its inode
TEXT=AAAA /tmp/forge share.img unsealed.img 18 0 40 4 0x80 && restart unsealed
cat > seal.sh <<'END'
TEXT=/tmp/mine/share /tmp/forge unsealed.img a.img 11 0 32 8 $NUMBER &&
	TEXT=/tmp/mine/share /tmp/forge a.img seal.img 11 0 text /proc/self/fd/9 &&
	exec /tmp/restart seal.img
END
$user unshare -Ucpf --keep-caps /tmp/sealed sh seal.sh 2>&1 | sed "s/^/seal: /"
true
"#,
    );
    for (image, expected) in [
        ("share", "restart: done"),
        ("unsealed", "mapping 414141410000-414141411000 (-E"),
        ("seal", "mapping 414141410000-414141411000 (-EPERM)"),
    ] {
        assert!(
            output
                .lines()
                .any(|line| line.starts_with(&format!("{image}: ")) && line.contains(expected)),
            "{image}: {output}"
        );
    }
}

/// A caller with only CAP_CHECKPOINT_RESTORE, which lets it choose pids, cannot create sockets
/// that belong to other users, nor sockets with a longer backlog than the administrator permits.
#[test]
fn a_restart_creates_no_socket_of_another_user() {
    let output = run_script(
        r#"
cat > holder.py <<'END'
import socket, time
one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
one.bind("\0datagrams")
time.sleep(1000)
END
able="setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps +cap_40 --ambient-caps +cap_40"
restart() { $able /tmp/restart $1.img 2>&1 | sed "s/^/$1: /"; }
freeze own python3 holder.py
hold
save own > /dev/null
end
restart own
# struct ckpt_socket_end of the first end: uid, gid, backlog
TEXT=datagrams ./forge own.img uid.img 36 0 72 4 0 && restart uid
TEXT=datagrams ./forge own.img gid.img 36 0 76 4 5 && restart gid
TEXT=datagrams ./forge own.img nobody.img 36 0 72 4 0xffffffff && restart nobody
TEXT=datagrams ./forge own.img mode.img 36 0 80 4 0100644 && restart mode
TEXT=datagrams ./forge own.img backlog.img 36 0 84 4 1000000 && restart backlog
true
"#,
    );
    for (image, expected) in [
        ("own", "restart: done"),
        (
            "uid",
            "setting a socket's owner: uid 0, gid 1000, mode 140777 (-EPERM)",
        ),
        (
            "gid",
            "setting a socket's owner: uid 1000, gid 5, mode 140777 (-EPERM)",
        ),
        ("nobody", "mode 140777 (-EINVAL)"),
        ("mode", "malformed sockets (-EINVAL)"),
        ("backlog", "more than net.unix.max_dgram_qlen (-EPERM)"),
    ] {
        assert!(
            output
                .lines()
                .any(|line| line.starts_with(&format!("{image}: ")) && line.contains(expected)),
            "{image}: {output}"
        );
    }
}

/// Services such as polkit identify a process by its pid and start time. A caller that could also
/// choose the start time would only have to wait for the pid to be free, so only a caller that may
/// choose pids in all pid namespaces of the task may choose it.
#[test]
fn a_user_cannot_choose_the_start_time_of_a_process() {
    let output = run_script(
        r#"
freeze born /bin/sleep 1000
hold
echo "born: it began at $(sed 's/.*) //' /proc/$child/stat | cut -d ' ' -f 20)"
save born > /dev/null
end
restart born
cp born.img root.img
/tmp/restart root.img 2>&1 | sed "s/^/root: /"
true
"#,
    );
    let began = |prefix: &str| {
        let mut lines = output.lines().filter_map(|line| line.strip_prefix(prefix));
        let number = lines.next().and_then(|number| number.parse::<u64>().ok());
        number.unwrap_or_else(|| panic!("{prefix}: {output}"))
    };
    let original = began("born: it began at ");
    assert!(
        began("born: restart: it began at ") > original,
        "a user's restart: {output}"
    );
    assert_eq!(
        began("root: restart: it began at "),
        original,
        "root's restart: {output}"
    );
}
