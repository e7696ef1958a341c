/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Reads all properties that the kernel reports to a process about itself. A workload calls
 * ask_before() where it is checkpointed and ask_after() after that, which prints a line for each
 * property that differs.
 */
#ifndef ASK_H
#define ASK_H

/* Reads all properties, and then causes the event of the checkpoint. */
void ask_before(void);
/* Reads all properties again, and prints those that differ, or that all are equal. */
void ask_after(void);

#endif
