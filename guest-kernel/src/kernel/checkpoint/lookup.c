// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds the entry of a task or pid by two hash tables over ctx->tsks. The cost
 * of a look-up does not depend on the size of the tree, so look-ups are allowed
 * under tasklist_lock.
 */
#include <linux/hash.h>
#include <linux/slab.h>

#include "ckpt.h"

#define MIN_BITS	6

/**
 * ckpt_alloc_lookup - allocate the hash tables
 * @ctx: the checkpoint or restart, without entries so far
 * @room: approximate number of entries
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

/* Make ckpt_find_task() find the entry. Does not sleep. */
void ckpt_index_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	hlist_add_head(&ct->task_node,
		       &ctx->by_task[hash_ptr(ct->task, ctx->lookup_bits)]);
}

/*
 * Make ckpt_find_pid() find the entry, unless it finds one of that pid already.
 * Does not sleep.
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
