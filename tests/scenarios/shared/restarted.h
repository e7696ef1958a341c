/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Detects that the program has been restarted: a restart cannot keep the inode number of a pipe
 * (docs/reference/state.md).
 */
#ifndef RESTARTED_H
#define RESTARTED_H

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int pipe_ends[2];
static ino_t pipe_number;

static ino_t number_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		exit(100);
	return st.st_ino;
}

/* Call it before the checkpoint. */
static void remember_pipe(void)
{
	if (pipe(pipe_ends))
		exit(100);
	pipe_number = number_of(pipe_ends[0]);
}

/* Returns true after a restart. */
static int is_restarted(void)
{
	return number_of(pipe_ends[0]) != pipe_number;
}

#endif
