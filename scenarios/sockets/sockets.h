/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef SOCKETS_H
#define SOCKETS_H

/* Prints whether a condition holds; if not, the program's exit status is 1. */
void expect(int holds, const char *what);
void pair(int type, int ends[2]);
/* Expects exactly the message `text`; "" is an empty message. */
void expect_text(int fd, const char *text);
void say(int fd, const char *text);
/* Send and receive the message `text` with `n` open files. */
void give(int fd, const char *text, const int *fds, int n);
void take(int fd, const char *text, int *fds, int n);

void passed(void);
void cycle(void);

#endif
