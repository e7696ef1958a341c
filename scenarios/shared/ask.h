/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Everything that a process can ask the kernel about itself. A workload calls ask_before() where it
 * is checkpointed and ask_after() after that, which prints a line for each answer that differs.
 */
#ifndef ASK_H
#define ASK_H

/* Asks everything, and stops at the event of the checkpoint. */
void ask_before(void);
/* Asks again and prints the answers that differ, or that none does. */
void ask_after(void);

#endif
