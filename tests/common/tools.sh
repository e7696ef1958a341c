# SPDX-License-Identifier: Apache-2.0 OR MIT
# Before each script of scripts.rs.
set -u
cg=/sys/fs/cgroup/tree
tools=/opt/crucible
mkdir $cg /tmp/t
cd /tmp/t
# fails CONDITION...: what must not be
die() { echo "script: $*" >&2; exit 1; }
# begin COMMAND...: runs it in the cgroup; its number in $root
begin() {
	sh -c "echo \$\$ > $cg/cgroup.procs; exec \"\$@\"" sh "$@" < /dev/null > /tmp/t/out 2>&1 &
	root=$!
}
# at_rest NAME [PID]: waits until it has that name and sleeps
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
# ends what is in the cgroup
end() {
	echo 1 > $cg/cgroup.kill
	while grep -q 'populated 1' $cg/cgroup.events; do :; done
	wait $root 2> /dev/null
	echo 0 > $cg/cgroup.freeze
}
# save [OPTION]...: saves the tree
save() {
	$tools/checkpoint "$@" -o /tmp/t/image -l /tmp/t/log $root 2> /dev/null
	case $? in 0) echo saved ;; *) echo refused; cat /tmp/t/log ;; esac
}
# stalled [COMMAND]...: calls checkpoint(2) into a pipe, and returns when that is full
stalled() {
	mkfifo /tmp/t/pipe
	"$@" $tools/checkpoint -l /tmp/t/log $root > /tmp/t/pipe 2> /dev/null &
	caller=$!
	exec 9< /tmp/t/pipe
	until grep -q '^500 ' /proc/$caller/syscall; do
		kill -0 $caller || die "checkpoint ended: $(cat /tmp/t/log)"
	done
}
# reads the rest of the image, and what the call said
drain() {
	cat <&9 > /tmp/t/image
	exec 9<&-
	wait $caller
	case $? in 0) echo saved ;; *) echo refused; cat /tmp/t/log ;; esac
}
# A program whose image is longer than a pipe, with a child of it.
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
