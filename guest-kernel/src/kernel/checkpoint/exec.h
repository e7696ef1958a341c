/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_EXEC_H
#define _KERNEL_CHECKPOINT_EXEC_H

#include "ckpt.h"

int ckpt_dump_exec(struct ckpt_ctx *ctx, struct task_struct *t,
		   struct ckpt_task *rec);
int ckpt_enter_exec(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);

/* restart_task.c: the last barrier, for a task that reaches it in execve(2) */
int ckpt_wait_release(struct ckpt_ctx *ctx);
void ckpt_leave_restart(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);

#endif /* _KERNEL_CHECKPOINT_EXEC_H */
