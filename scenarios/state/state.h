/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef STATE_H
#define STATE_H

#include <stdint.h>
#include <sys/types.h>

/* The nonce. */
uint64_t drawn(void);
/* Calls perror() and exits. */
void fail(const char *what) __attribute__((noreturn));
/* The system call that is the event of the checkpoint. */
void stop_here(void);
pid_t forked(void);
void make_pipe(int ends[2]);
/* Send and receive one byte through a pipe. */
void send(int fd);
void receive(int fd);
/* Prints how a child ended. */
void print_end(const char *who, pid_t pid);

void identity(void);
void family(void);
void files(void);
void cpu(void);
void robust(void);

#endif
