/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Helpers of several workloads. A call that fails ends the program with a message and status 1. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

/* Prints the message of errno, and exits. */
void die(const char *what) __attribute__((noreturn));
/* Calls die() if `failed`. */
void check(int failed, const char *what);

/*
 * A random number that is drawn before the checkpoint and printed at the end. A run
 * that was silently started again would print a different number than it has recorded.
 */
extern uint64_t nonce;
void nonce_draw(void);
void nonce_print(void);

/* The system call that is the event of the checkpoint. Printed text may still be buffered. */
void stop_here(void);
/* The same, with nothing buffered. */
void flush_and_stop_here(void);

/* Forks with nothing buffered. */
pid_t forked(void);
/* Waits for the end of a child, and returns its status. */
int wait_for_child(pid_t pid);
void start_thread(pthread_t *thread, void *(*run)(void *), void *argument);

void make_pipe(int ends[2]);
/* Send, with nothing buffered, and receive one byte through a pipe. */
void send_byte(int fd);
void receive_byte(int fd);

#endif
