// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which entry of a context a task is, or a pid: two hash tables over ctx->tsks.
 * Looking one up costs the same in a tree of ten tasks and in one of thousands,
 * so it may be done under tasklist_lock.
 */
#include <linux/hash.h>
#include <linux/slab.h>

#include "ckpt.h"

#define MIN_BITS	6

/**
 * ckpt_alloc_lookup - make room for entries that are to be found
 * @ctx: the checkpoint or restart; without entries so far
 * @room: about how many there will be
 *
 * Return: 0 or -ENOMEM.
 */
int ckpt_alloc_lookup(struct ckpt_ctx *ctx, unsigned int room)
{
	unsigned int bits = max(order_base_2(room + 1), MIN_BITS);

	kvfree(ctx->by_task);
	kvfree(ctx->by_pid);
	ctx->lookup_bits = bits;
	ctx->by_task = kvcalloc(1U << bits, sizeof(*ctx->by_task),
				GFP_KERNEL_ACCOUNT);
	ctx->by_pid = kvcalloc(1U << bits, sizeof(*ctx->by_pid),
			       GFP_KERNEL_ACCOUNT);
	return ctx->by_task && ctx->by_pid ? 0 : -ENOMEM;
}

void ckpt_free_lookup(struct ckpt_ctx *ctx)
{
	kvfree(ctx->by_task);
	kvfree(ctx->by_pid);
}

/* From now on ckpt_find_task() finds the entry. Does not sleep. */
void ckpt_index_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	hlist_add_head(&ct->task_node,
		       &ctx->by_task[hash_ptr(ct->task, ctx->lookup_bits)]);
}

/*
 * From now on ckpt_find_pid() finds the entry, unless there is one of that pid
 * already. Does not sleep.
 */
void ckpt_index_pid(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	if (ckpt_find_pid(ctx, ct->tree.pid))
		return;
	hlist_add_head(&ct->pid_node,
		       &ctx->by_pid[hash_32(ct->tree.pid, ctx->lookup_bits)]);
}

struct ckpt_tsk *ckpt_find_task(struct ckpt_ctx *ctx, struct task_struct *task)
{
	struct ckpt_tsk *ct;

	hlist_for_each_entry(ct, &ctx->by_task[hash_ptr(task, ctx->lookup_bits)],
			     task_node)
		if (ct->task == task)
			return ct;
	return NULL;
}

struct ckpt_tsk *ckpt_find_pid(struct ckpt_ctx *ctx, pid_t pid)
{
	struct ckpt_tsk *ct;

	hlist_for_each_entry(ct, &ctx->by_pid[hash_32(pid, ctx->lookup_bits)],
			     pid_node)
		if (ct->tree.pid == pid)
			return ct;
	return NULL;
}
