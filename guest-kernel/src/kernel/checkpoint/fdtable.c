// SPDX-License-Identifier: GPL-2.0-only
/*
 * Descriptor tables. The open files are in files.c.
 */
#include <linux/capability.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/init_task.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ckpt.h"

/* Refuse a table that is shared with a task outside the tree. */
static int check_shared_table(struct ckpt_ctx *ctx, struct task_struct *t)
{
	unsigned int i;
	int users = 0;

	for (i = 0; i < ctx->nr_tsks; i++)
		users += ctx->tsks[i].task->files == t->files;
	if (atomic_read(&t->files->count) > users)
		return ckpt_err(ctx, -EBUSY,
				"%s: descriptors shared with a task outside the tree",
				t->comm);
	return 0;
}

/*
 * Write the items of the epoll files that this table is the first to contain.
 */
static int dump_epolls(struct ckpt_ctx *ctx, struct task_struct *t,
		       const struct ckpt_fd *fds, unsigned int n)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < n && !ret; i++) {
		struct ckpt_obj *obj = xa_load(&ctx->objs, fds[i].file);

		if (obj->written || !ckpt_is_epoll(obj->ptr))
			continue;
		obj->written = true;
		ret = ckpt_dump_epoll(ctx, t, fds[i].fd, obj->ptr);
	}
	return ret;
}

int ckpt_dump_files(struct ckpt_ctx *ctx, struct task_struct *t, u32 *ref)
{
	unsigned int fd, n = 0, room;
	u32 objs = ctx->nr_objs;
	struct ckpt_fd *fds;
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_FILES, t->files, ref))
		return 0;
	ret = check_shared_table(ctx, t);
	if (ret)
		return ret;
	spin_lock(&t->files->file_lock);
	room = files_fdtable(t->files)->max_fds;
	spin_unlock(&t->files->file_lock);
	fds = kvcalloc(room, sizeof(*fds), GFP_KERNEL_ACCOUNT);
	if (!fds)
		return -ENOMEM;
	for (fd = 0; fd < room && !ret; fd++) {
		struct file *file = fget_task(t, fd);

		if (!file)
			continue;
		fds[n].fd = fd;
		spin_lock(&t->files->file_lock);
		fds[n].cloexec = close_on_exec(fd, t->files);
		spin_unlock(&t->files->file_lock);
		ret = ckpt_check_syncfs(ctx, file);
		if (!ret)
			ret = ckpt_dump_file(ctx, file, &fds[n].file);
		if (ret)
			ckpt_err(ctx, ret, "%s: fd %u cannot be saved",
				 t->comm, fd);
		else
			ckpt_obj_use(ctx, fds[n].file);
		n++;
		fput(file);
	}
	if (!ret && n * sizeof(*fds) > CKPT_REC_MAX)
		ret = ckpt_err(ctx, -E2BIG,
			       "%u open descriptors do not fit into a record", n);
	if (!ret)
		ret = ckpt_obj_new(ctx, CKPT_REC_FILES, t->files, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_FILES, *ref, fds,
				 n * sizeof(*fds), NULL, 0);
	if (!ret)
		ret = dump_epolls(ctx, t, fds, n);
	if (!ret)
		ret = ckpt_dump_messages(ctx, objs + 1);
	kvfree(fds);
	return ret;
}

static void switch_files(struct files_struct *files)
{
	struct files_struct *old;

	task_lock(current);
	old = current->files;
	current->files = files;
	task_unlock(current);
	put_files_struct(old);
}

static int install(struct ckpt_ctx *ctx, const struct ckpt_fd *fds, size_t n)
{
	size_t i;
	int ret;

	for (i = 0; i < n; i++) {
		struct file *file;

		if (i && fds[i].fd <= fds[i - 1].fd)
			return ckpt_err(ctx, -EINVAL, "descriptors out of order");
		if (fds[i].cloexec > 1 || fds[i].pad)
			return ckpt_err(ctx, -EINVAL, "malformed descriptor");
		file = ckpt_obj_fetch(ctx, CKPT_REC_FILE, fds[i].file);
		if (IS_ERR(file))
			return PTR_ERR(file);
		ret = replace_fd(fds[i].fd, file,
				 fds[i].cloexec ? O_CLOEXEC : 0);
		if (ret < 0)
			return ckpt_err(ctx, ret,
					"descriptor %u: the caller's hard RLIMIT_NOFILE, or fs.nr_open, is too low",
					fds[i].fd);
	}
	return 0;
}

/*
 * A program may lower RLIMIT_NOFILE below descriptors that it has open, and the
 * saved limits are restored later. So the limit here is the highest one that
 * the caller of restart(2) could set.
 */
static int fill_table(struct ckpt_ctx *ctx, const struct ckpt_fd *fds, size_t n)
{
	struct rlimit *mine = &current->signal->rlim[RLIMIT_NOFILE];
	unsigned long cur = READ_ONCE(mine->rlim_cur), most;
	int ret;

	most = capable(CAP_SYS_RESOURCE) ? sysctl_nr_open :
	       READ_ONCE(ctx->coordinator->signal->rlim[RLIMIT_NOFILE].rlim_max);
	WRITE_ONCE(mine->rlim_cur, max(cur, most));
	ret = install(ctx, fds, n);
	WRITE_ONCE(mine->rlim_cur, cur);
	return ret;
}

int ckpt_restore_files(struct ckpt_ctx *ctx)
{
	const struct ckpt_fd *fds = (const void *)ctx->rbuf;
	size_t n = ctx->rec.len / sizeof(*fds);
	struct files_struct *files;
	int ret;

	if (ctx->rec.len % sizeof(*fds))
		return ckpt_err(ctx, -EINVAL, "malformed descriptor table");
	files = dup_fd(&init_files, NULL);
	if (IS_ERR(files))
		return PTR_ERR(files);
	/* one reference for current, one for the object table */
	atomic_inc(&files->count);
	switch_files(files);
	ret = ckpt_obj_insert(ctx, CKPT_REC_FILES, ctx->rec.objref, files);
	if (ret) {
		put_files_struct(files);
		return ret;
	}
	return fill_table(ctx, fds, n);
}

int ckpt_apply_files(struct ckpt_ctx *ctx, u32 ref)
{
	struct files_struct *files = ckpt_obj_fetch(ctx, CKPT_REC_FILES, ref);

	if (IS_ERR(files))
		return PTR_ERR(files);
	if (files == current->files)
		return 0;
	atomic_inc(&files->count);
	switch_files(files);
	return 0;
}
