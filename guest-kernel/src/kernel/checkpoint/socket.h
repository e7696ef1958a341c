/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_SOCKET_H
#define _KERNEL_CHECKPOINT_SOCKET_H

struct ckpt_ctx;
struct pid;

/* message.c */
struct pid *ckpt_get_pid(struct ckpt_ctx *ctx, pid_t nr);

#endif /* _KERNEL_CHECKPOINT_SOCKET_H */
