# SPDX-License-Identifier: Apache-2.0 OR MIT
# Functions for the scripts of scripts.rs.
set -u
cg=/sys/fs/cgroup/tree
tools=/opt/crucible
mkdir $cg /tmp/t
cd /tmp/t
# die MESSAGE...: reports an error and exits
die() { echo "script: $*" >&2; exit 1; }
# begin COMMAND...: runs it in the cgroup; sets $root to its pid
begin() {
	sh -c "echo \$\$ > $cg/cgroup.procs; exec \"\$@\"" sh "$@" < /dev/null > /tmp/t/out 2>&1 &
	root=$!
}
# at_rest NAME [PID]: waits until the process has that name and sleeps
at_rest() {
	until [ "$(cat /proc/${2:-$root}/comm 2> /dev/null)" = "$1" ] &&
		grep -q '^[0-9]' /proc/${2:-$root}/syscall; do
		kill -0 ${2:-$root} || die "$1 has ended: $(cat /tmp/t/out)"
	done
}
freeze() {
	echo 1 > $cg/cgroup.freeze
	until grep -q 'frozen 1' $cg/cgroup.events; do :; done
}
# kills all processes in the cgroup
end() {
	echo 1 > $cg/cgroup.kill
	while grep -q 'populated 1' $cg/cgroup.events; do :; done
	wait $root 2> /dev/null
	echo 0 > $cg/cgroup.freeze
}
# save [OPTION]...: checkpoints the tree
save() {
	$tools/checkpoint "$@" -o /tmp/t/image -l /tmp/t/log $root 2> /dev/null
	case $? in 0) echo saved ;; *) echo refused; cat /tmp/t/log ;; esac
}
# stalled [COMMAND]...: starts a checkpoint into a pipe, and returns when the pipe is full
stalled() {
	mkfifo /tmp/t/pipe
	"$@" $tools/checkpoint -l /tmp/t/log $root > /tmp/t/pipe 2> /dev/null &
	caller=$!
	exec 9< /tmp/t/pipe
	until grep -q '^500 ' /proc/$caller/syscall; do
		kill -0 $caller || die "checkpoint ended: $(cat /tmp/t/log)"
	done
}
# reads the rest of the image, and prints the messages of the call
drain() {
	cat <&9 > /tmp/t/image
	exec 9<&-
	wait $caller
	case $? in 0) echo saved ;; *) echo refused; cat /tmp/t/log ;; esac
}
# A program with a child, whose image is larger than a pipe.
cat > big.c <<'END'
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	char *memory = malloc(1 << 20);

	memset(memory, 7, 1 << 20);
	if (!fork())
		execlp("sleep", "sleep", "1000", NULL);
	for (;;)
		pause();
}
END
