/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>
#include <stdio.h>

/* As perror(), and the end. */
void fail(const char *what) __attribute__((noreturn));
/* The system call at which everything is stopped. */
void stop_here(void);

void kernel(void);
void opener(void);

#endif
