/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef SOCKETS_H
#define SOCKETS_H

#include <sys/types.h>

/* As perror(), and the end, where `failed`. */
void check(int failed, const char *what);
/* Says whether it holds; where it does not, the program fails in the end. */
void expect(int holds, const char *what);
/* The system call at which everything is stopped. */
void stop_here(void);
void pair(int type, int ends[2]);
/* `text` arrives whole, and alone; "" is an empty message. */
void expect_text(int fd, const char *text);
void say(int fd, const char *text);
pid_t forked(void);
/* The message `text`, with `n` open files. */
void give(int fd, const char *text, const int *fds, int n);
void take(int fd, const char *text, int *fds, int n);

void passed(void);
void cycle(void);

#endif
