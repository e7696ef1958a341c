/* SPDX-License-Identifier: GPL-2.0-only */
/* A tree of processes by a recipe: declarations of the program's parts. */
#ifndef TREE_H
#define TREE_H

#include <stdio.h>

/* A resource of a process, which the process checks after the restart. */
struct item {
	const struct kind *kind;
	long number;		/* number from the recipe: a size, a value, a variant */
	int fd[4];
	void *memory;
	long kept;
};

struct kind {
	const char *name;
	void (*make)(struct item *item);
	/*
	 * Returns a description of the first difference from the state that it was made with; NULL
	 * if there is none.
	 */
	const char *(*verify)(struct item *item);
};

/* Each list ends with a kind without a name. */
extern const struct kind file_kinds[];
extern const struct kind queue_kinds[];
extern const struct kind memory_kinds[];
extern const struct kind task_kinds[];
extern const struct kind refused_kinds[];

/* Number of bytes of content, and one of them. */
#define BYTES 3000
unsigned char pattern(long number, long at);
/* Write such content from the current offset on, and read and compare it. */
void put_pattern(int fd, long number, size_t size);
int has_pattern(int fd, long number, size_t size);

/* Queues a signal for this thread. glibc does not know the tid after clone(2). */
void queue_signal(int signal, int value);

/* The number of this process in the recipe. */
extern int own_id;
/* Opens a file that no other item has. */
int own_file(const char *what, int flags, char *name, size_t size);

/* The reading end of the pipe that is closed when all processes must check their resources. */
extern int go;
/* Waits in read(2) until the pipe is closed. */
void wait_for_end(void);

#endif
