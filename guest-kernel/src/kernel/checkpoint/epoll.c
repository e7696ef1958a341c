// SPDX-License-Identifier: GPL-2.0-only
/*
 * The items of epoll files.
 *
 * An item is a descriptor and the file to which the descriptor referred when
 * the item was added. The file may be anywhere in the table, and may be an
 * epoll file itself. So the items follow the table, and are added when all
 * tasks have parked, so that the same items are ready as before, including
 * those that depend on queued signals. The first task with the epoll file adds
 * its items, because a signalfd item watches the signals of the process that
 * has added it.
 *
 * An item whose descriptor no longer refers to its file (it was closed, but the
 * file is open elsewhere) could not be added by a program. It is refused.
 */
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/uaccess.h>
/* needs declarations of the headers above */
#include <linux/eventpoll.h>

#include "ckpt.h"

/* A restored epoll file whose items are not added yet. */
struct ckpt_epoll_wait {
	struct list_head list;
	struct ckpt_tsk *owner;
	struct ckpt_epoll rec;
	u32 *order;			/* indices in order of addition */
	struct ckpt_epoll_item items[];
};

struct epoll_room {
	struct ckpt_epoll_item *items;
	struct ckpt_watched *watched;
	unsigned int max;
};

static void free_room(struct epoll_room *room)
{
	kvfree(room->items);
	kvfree(room->watched);
}

static int read_items(struct ckpt_ctx *ctx, struct file *file,
		      struct epoll_room *room)
{
	int n = ckpt_epoll_items(file, NULL, NULL, 0);

	if (n == -EINTR)
		return n;
	if (n < 0)
		return ckpt_err(ctx, n, "an epoll file with busy polling");
	if (n * sizeof(*room->items) > CKPT_REC_MAX - sizeof(struct ckpt_epoll))
		return ckpt_err(ctx, -E2BIG,
				"%d epoll items do not fit into a record", n);
	room->max = n;
	room->items = kvcalloc(n ?: 1, sizeof(*room->items), GFP_KERNEL_ACCOUNT);
	room->watched = kvcalloc(n ?: 1, sizeof(*room->watched),
				 GFP_KERNEL_ACCOUNT);
	if (!room->items || !room->watched)
		return -ENOMEM;
	/* closing files outside the tree can remove items, but not add any */
	if (ckpt_epoll_items(file, room->items, room->watched, n) != n)
		return -EAGAIN;
	return 0;
}

static int check_items(struct ckpt_ctx *ctx, struct task_struct *t,
		       const struct epoll_room *room)
{
	unsigned int i;

	for (i = 0; i < room->max; i++) {
		struct file *file = fget_task(t, room->items[i].fd);
		bool same = file == room->watched[i].file;

		if (file)
			fput(file);
		if (!same)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%s: epoll watches a file that descriptor %u no longer refers to",
					t->comm, room->items[i].fd);
	}
	return 0;
}

static int by_addition(const void *a, const void *b)
{
	const struct ckpt_watched *one = a, *other = b;

	return one->added < other->added ? -1 : one->added > other->added;
}

/*
 * Number the items in the order of addition. Items that wait for the same event
 * become ready in the reverse order, because wait queues add at the head.
 */
static void number_items(struct epoll_room *room)
{
	unsigned int i;

	sort(room->watched, room->max, sizeof(*room->watched), by_addition, NULL);
	for (i = 0; i < room->max; i++)
		room->items[room->watched[i].item].added = i;
}

static int by_fd(const void *a, const void *b)
{
	const struct ckpt_epoll_item *one = a, *other = b;

	return one->fd < other->fd ? -1 : one->fd > other->fd;
}

/**
 * ckpt_dump_epoll - write the items of an epoll file
 * @ctx: the checkpoint
 * @t: the first task that has the file; the record of its table is written
 * @fd: the file's descriptor
 * @file: the file
 *
 * Return: 0; -EOPNOTSUPP for an item whose descriptor no longer refers to its
 * file; -EAGAIN, -E2BIG, -ENOMEM.
 */
int ckpt_dump_epoll(struct ckpt_ctx *ctx, struct task_struct *t, u32 fd,
		    struct file *file)
{
	struct epoll_room room = { };
	struct ckpt_epoll rec = { .fd = fd };
	unsigned int ready = 0;
	int ret;

	ret = read_items(ctx, file, &room);
	if (!ret)
		ret = check_items(ctx, t, &room);
	if (!ret) {
		number_items(&room);
		while (ready < room.max && room.items[ready].ready)
			ready++;
		/*
		 * the kernel sorts the others by the addresses of their files
		 */
		sort(room.items + ready, room.max - ready, sizeof(*room.items),
		     by_fd, NULL);
		rec.nr = room.max;
		ret = ckpt_write(ctx, CKPT_REC_EPOLL, 0, &rec, sizeof(rec),
				 room.items, rec.nr * sizeof(*room.items));
	}
	free_room(&room);
	return ret;
}

struct file *ckpt_open_epoll(struct ckpt_ctx *ctx)
{
	return ckpt_epoll_create();
}

static void free_wait(struct ckpt_epoll_wait *wait)
{
	if (wait)
		kvfree(wait->order);
	kvfree(wait);
}

/*
 * Invert the numbering of the items. Return false if it is not a permutation.
 */
static bool find_order(const struct ckpt_epoll_item *items, u32 nr, u32 *order)
{
	u32 i;

	for (i = 0; i < nr; i++)
		order[i] = nr;
	for (i = 0; i < nr; i++) {
		if (items[i].added >= nr || order[items[i].added] != nr)
			return false;
		order[items[i].added] = i;
	}
	return true;
}

/* Keep the record until all tasks have parked. */
int ckpt_restore_epoll(struct ckpt_ctx *ctx)
{
	const struct ckpt_epoll *rec = (const void *)ctx->rbuf;
	const struct ckpt_epoll_item *items = (const void *)(rec + 1);
	struct ckpt_epoll_wait *wait;
	u32 i;

	if (!(ctx->seen & BIT_ULL(CKPT_REC_FILES)) ||
	    rec->nr != (ctx->rec.len - sizeof(*rec)) / sizeof(*items) ||
	    (ctx->rec.len - sizeof(*rec)) % sizeof(*items))
		return ckpt_err(ctx, -EINVAL, "malformed epoll file");
	for (i = 0; i < rec->nr; i++)
		if (items[i].ready > 1 || (i && items[i].ready > items[i - 1].ready))
			return ckpt_err(ctx, -EINVAL, "malformed epoll item");
	wait = kvzalloc(struct_size(wait, items, rec->nr), GFP_KERNEL_ACCOUNT);
	if (wait)
		wait->order = kvmalloc_array(rec->nr ?: 1, sizeof(*wait->order),
					     GFP_KERNEL_ACCOUNT);
	if (!wait || !wait->order) {
		free_wait(wait);
		return -ENOMEM;
	}
	if (!find_order(items, rec->nr, wait->order)) {
		free_wait(wait);
		return ckpt_err(ctx, -EINVAL, "malformed order of epoll items");
	}
	wait->owner = ckpt_current(ctx);
	wait->rec = *rec;
	memcpy(wait->items, items, rec->nr * sizeof(*items));
	list_add_tail(&wait->list, &ctx->epolls);
	return 0;
}

static int add_item(struct ckpt_ctx *ctx, const struct ckpt_epoll *rec,
		    const struct ckpt_epoll_item *item)
{
	struct epoll_event event = {
		.events = (__force __poll_t)item->events, .data = item->data,
	};
	int ret;

	ret = do_epoll_ctl(rec->fd, EPOLL_CTL_ADD, item->fd, &event, false);
	if (!ret)
		ret = ckpt_epoll_settle(rec->fd, item);
	/* not a descriptor, a duplicate, or a cycle: the image is forged */
	if (ret && ret != -ENOMEM && ret != -ENOSPC)
		ret = -EINVAL;
	return ret ? ckpt_err(ctx, ret, "adding descriptor %u to an epoll file",
			      item->fd) : 0;
}

/**
 * ckpt_add_epoll_items - add the items of current's epoll files
 * @ctx: the restart; all tasks have parked, with their own descriptor tables
 * @ct: current's entry
 *
 * Adds items by epoll_ctl(2), with all its checks.
 *
 * Return: 0, -EINVAL, -ENOMEM, -ENOSPC if the user has too many items.
 */
int ckpt_add_epoll_items(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_epoll_wait *wait;
	int ret = 0;
	u32 i;

	list_for_each_entry(wait, &ctx->epolls, list) {
		if (wait->owner != ct)
			continue;
		for (i = 0; i < wait->rec.nr && !ret; i++) {
			ret = add_item(ctx, &wait->rec,
				       &wait->items[wait->order[i]]);
			cond_resched();
		}
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * ckpt_order_epolls - restore the order of the ready lists
 * @ctx: the restart; all items are added, and no task can read them yet
 *
 * The order in which a restart makes items ready differs: an epoll file becomes
 * ready when its own items are added, and a terminal when its buffered
 * characters are pushed.
 */
void ckpt_order_epolls(struct ckpt_ctx *ctx)
{
	struct ckpt_epoll_wait *wait;
	u32 i;

	list_for_each_entry(wait, &ctx->epolls, list) {
		struct task_struct *t = wait->owner->task;
		struct file *file = fget_task(t, wait->rec.fd);

		/* a killed task no longer has files */
		for (i = wait->rec.nr; file && i-- > 0;) {
			struct file *watched;

			if (!wait->items[i].ready)
				continue;
			watched = fget_task(t, wait->items[i].fd);
			if (!watched)
				continue;
			ckpt_epoll_first(file, watched, wait->items[i].fd);
			__fput_sync(watched);
		}
		if (file)
			__fput_sync(file);
	}
}

void ckpt_free_epolls(struct ckpt_ctx *ctx)
{
	struct ckpt_epoll_wait *wait, *next;

	list_for_each_entry_safe(wait, next, &ctx->epolls, list) {
		list_del(&wait->list);
		free_wait(wait);
	}
}
