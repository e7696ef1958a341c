/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>
#include <stdio.h>

/* Calls perror() and exits. */
void fail(const char *what) __attribute__((noreturn));
/* The system call that is the event of the checkpoint. */
void stop_here(void);

void kernel(void);
void opener(void);

#endif
