// SPDX-License-Identifier: GPL-2.0-only
/*
 * Detects its restart by the inode number of a pipe, which a restart cannot keep
 * (docs/reference/state.md), and prints that. Crucible must report the difference.
 */
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	struct stat before, after;
	int ends[2];

	if (pipe(ends) || fstat(ends[0], &before))
		return 1;
	syscall(SYS_getppid);
	if (fstat(ends[0], &after))
		return 1;
	puts(after.st_ino == before.st_ino ? "undisturbed" : "restarted");
	return 0;
}
