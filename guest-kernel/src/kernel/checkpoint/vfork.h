/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_VFORK_H
#define _KERNEL_CHECKPOINT_VFORK_H

#include "ckpt.h"

/* A restarted parent's wait; lives on its stack. */
struct ckpt_vfork_wait {
	struct completion done;
	struct task_struct *child;	/* reference held */
	pid_t nr;
};

int ckpt_vfork_link(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		    struct ckpt_vfork_wait *w);
void ckpt_vfork_unlink(struct ckpt_vfork_wait *w);
void ckpt_vfork_wait(struct ckpt_vfork_wait *w, struct pt_regs *regs);

#endif /* _KERNEL_CHECKPOINT_VFORK_H */
