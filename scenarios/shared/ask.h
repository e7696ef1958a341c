/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a process can ask the kernel about itself. A workload calls ask_before() where it is
 * checkpointed and ask_after() behind it, which prints a line for each answer that is another.
 */
#ifndef ASK_H
#define ASK_H

/* Asks everything, and stops at the event of the checkpoint. */
void ask_before(void);
/* Asks again and prints what differs, or that nothing does. */
void ask_after(void);

#endif
