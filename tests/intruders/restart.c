// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * restart IMAGE [CAPABILITY]: calls restart(2) with the caller's credentials and into its cgroup,
 * and prints the result. The log goes to standard error. CAPABILITY is one that the caller has,
 * but drops from its inheritable and bounding sets before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int give_up(int capability)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) || syscall(SYS_capget, &head, data))
		return -1;
	data[capability / 32].inheritable &= ~(1U << capability % 32);
	return syscall(SYS_capset, &head, data);
}

/* Prints the start time of the caller's first child in /proc. */
static void tell_start(void)
{
	char path[64], stat[1024], *field;
	FILE *file = fopen("/proc/thread-self/children", "r");
	int pid, n;

	if (!file || fscanf(file, "%d", &pid) != 1)
		return;
	fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	if (!file || !fgets(stat, sizeof(stat), file))
		return;
	fclose(file);
	field = strrchr(stat, ')');
	for (n = 2; field && n < 22; n++)
		field = strchr(field + 1, ' ');
	if (field)
		printf("restart: it began at %.*s\n", (int)strcspn(field + 1, " "), field + 1);
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
	int ready = fd >= 0 && (argc < 3 || !give_up(atoi(argv[2])));
	long pid = ready ? syscall(SYS_RESTART, -1, fd, 0, 2) : -1;

	if (pid < 0) {
		printf("restart: %s\n", strerror(errno));
		return 1;
	}
	printf("restart: done\n");
	tell_start();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, __WALL);
	return 0;
}
