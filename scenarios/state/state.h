/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#ifndef STATE_H
#define STATE_H

#include <sys/types.h>

/* Prints how a child ended. */
void print_end(const char *who, pid_t pid);

void identity(void);
void family(void);
void files(void);
void cpu(void);
void robust(void);

#endif
