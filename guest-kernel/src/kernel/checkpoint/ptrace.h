/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_PTRACE_H
#define _KERNEL_CHECKPOINT_PTRACE_H

#include "ckpt.h"
#include "vfork.h"

int ckpt_dump_ptrace(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
int ckpt_restore_ptrace(struct ckpt_ctx *ctx);
int ckpt_prepare_stop(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_apply_ptrace(const struct ckpt_ptrace *rec);
void ckpt_apply_jobctl(u32 jobctl);

int ckpt_check_links(struct ckpt_ctx *ctx);
int ckpt_check_tracees(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
struct ckpt_tsk **ckpt_sort_tracees(struct ckpt_ctx *ctx);
void ckpt_link_tracees(struct ckpt_ctx *ctx, struct ckpt_tsk **list);

struct ckpt_gate *ckpt_gate_alloc(void);
void ckpt_gate_get(struct ckpt_gate *gate);
void ckpt_gate_put(struct ckpt_gate *gate);
void ckpt_gate_count(struct ckpt_gate *gate);
void ckpt_gate_wait(struct ckpt_gate *gate);
void ckpt_stop_free(struct ckpt_stop *resume);

const char *ckpt_stop_name(u32 stop);
int ckpt_resume_stop(const struct ckpt_task *rec, const struct ckpt_ptrace *ptrace,
		     struct ckpt_vfork_wait *vfork);

#endif /* _KERNEL_CHECKPOINT_PTRACE_H */
