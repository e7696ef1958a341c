// SPDX-License-Identifier: GPL-2.0-only
/*
 * Namespaces. The image of a tree has none of them: its tasks get those of the
 * restarter. So they have to be those of the caller of checkpoint(2), too, and
 * what is not is refused by name. Two kinds are different: the pid namespace,
 * whose numbers are in the image, and the mount namespace, which the caller may
 * permit by CHECKPOINT_OWN_MOUNTS. The image then has a list of its mounts, and
 * restart(2) compares.
 */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/user_namespace.h>

#include "ckpt.h"

/* The namespace that a task has and the caller has not, NULL for none. */
static const char *other_namespace(struct ckpt_ctx *ctx, struct task_struct *t)
{
	const struct nsproxy *ns = t->nsproxy, *mine = current->nsproxy;

	if (t->real_cred->user_ns != current_user_ns() ||
	    t->cred->user_ns != current_user_ns())
		return "user namespace";
	if (ns->net_ns != mine->net_ns)
		return "network namespace";
	if (ns->uts_ns != mine->uts_ns)
		return "uts namespace";
	if (ns->ipc_ns != mine->ipc_ns)
		return "ipc namespace";
	if (ns->cgroup_ns != mine->cgroup_ns)
		return "cgroup namespace";
	if (ns->time_ns != mine->time_ns)
		return "time namespace";
	if (ns->time_ns_for_children != mine->time_ns)
		return "children's time namespace";
	return NULL;
}

static int check_task(struct ckpt_ctx *ctx, struct task_struct *t)
{
	bool gone, mounts, own_mounts = false, pids = false;
	const char *what = NULL;

	task_lock(t);
	gone = !t->nsproxy;
	mounts = !gone && t->nsproxy->mnt_ns != ctx->nsproxy->mnt_ns;
	if (!gone) {
		what = other_namespace(ctx, t);
		own_mounts = t->nsproxy->mnt_ns != current->nsproxy->mnt_ns;
		pids = t->nsproxy->pid_ns_for_children != ctx->pidns ||
		       task_active_pid_ns(t) != ctx->pidns;
	}
	task_unlock(t);
	if (gone)
		return ckpt_err(ctx, -EAGAIN, "%s: exiting: try again", t->comm);
	if (what)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: its %s is not the caller's: checkpoint from inside it (nsenter)",
				t->comm, what);
	if (mounts || pids)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: in another %s namespace than the root task",
				t->comm, mounts ? "mount" : "pid");
	if (own_mounts && !(ctx->flags & CHECKPOINT_OWN_MOUNTS))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: its mount namespace is not the caller's: permit it (checkpoint --own-mounts) if equal mounts will be there at the restart",
				t->comm);
	if (!ckpt_cgroup_v1_same(t))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: in another cgroup of a version 1 hierarchy than the caller",
				t->comm);
	return 0;
}

/**
 * ckpt_check_namespaces - whether the tree's namespaces can be had again
 * @ctx: the checkpoint; its tasks are at rest
 *
 * Return: 0; -EOPNOTSUPP for one that is not the caller's, or of a task's own;
 * -EAGAIN.
 */
int ckpt_check_namespaces(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ctx->nr_tsks; i++) {
		if (ctx->tsks[i].tree.flags & CKPT_TREE_ZOMBIE)
			continue;
		ctx->cur_pid = ctx->tsks[i].tree.pid;
		ret = check_task(ctx, ctx->tsks[i].task);
		if (ret)
			return ret;
	}
	ctx->cur_pid = 0;
	return 0;
}

/*
 * Mounts
 */

/* The second word of a line: where it is mounted. Ends with the word. */
static const char *mount_point(const char *line)
{
	return strchr(line, ' ') + 1;
}

/*
 * By the place, and where two are mounted at one, the upper one last. The lines
 * come in the order of mounting, so a later one stands further behind.
 */
static int by_place(const void *a, const void *b)
{
	const char *x = *(const char **)a, *y = *(const char **)b;
	const char *p = mount_point(x), *q = mount_point(y);
	size_t n = strcspn(p, " "), m = strcspn(q, " ");
	int order = memcmp(p, q, min(n, m));

	if (order || n != m)
		return order ?: n < m ? -1 : 1;
	return x < y ? -1 : x > y;
}

/* Lines of text in the order of their places; @text is cut into pieces. */
static int sort_lines(char *text, char *sorted)
{
	char **lines, *line;
	size_t n = 0, i;

	for (line = text; *line; line = strchr(line, '\n') + 1)
		n++;
	lines = kvmalloc_array(n ?: 1, sizeof(*lines), GFP_KERNEL_ACCOUNT);
	if (!lines)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		lines[i] = strsep(&text, "\n");
	sort(lines, n, sizeof(*lines), by_place, NULL);
	for (i = 0; i < n; i++) {
		size_t len = strlen(lines[i]);

		memcpy(sorted, lines[i], len);
		sorted[len] = '\n';
		sorted += len + 1;
	}
	*sorted = '\0';
	kvfree(lines);
	return 0;
}

/* Mounts of a namespace as one sees them from @root; the caller's to kvfree(). */
static char *list_mounts(struct ckpt_ctx *ctx, struct mnt_namespace *ns,
			 const struct path *root)
{
	char *text, *sorted;
	ssize_t len;
	int ret;

	text = kvmalloc(CKPT_MOUNTS_MAX, GFP_KERNEL_ACCOUNT);
	sorted = kvmalloc(CKPT_MOUNTS_MAX, GFP_KERNEL_ACCOUNT);
	ret = text && sorted ? 0 : -ENOMEM;
	if (!ret) {
		len = ckpt_show_mounts(ns, root, text, CKPT_MOUNTS_MAX);
		ret = len < 0 ? len : sort_lines(text, sorted);
		if (len == -E2BIG)
			ckpt_err(ctx, ret, "the list of mounts is longer than %u bytes",
				 CKPT_MOUNTS_MAX);
	}
	kvfree(text);
	if (!ret)
		return sorted;
	kvfree(sorted);
	return ERR_PTR(ret);
}

/**
 * ckpt_dump_mounts - list the tree's mounts in ctx->mounts, if they are its own
 * @ctx: the checkpoint
 *
 * Return: 0, -E2BIG, -ENOMEM, or what the file system that is asked gives.
 */
int ckpt_dump_mounts(struct ckpt_ctx *ctx)
{
	char *list;

	if (ctx->nsproxy->mnt_ns == current->nsproxy->mnt_ns)
		return 0;
	list = list_mounts(ctx, ctx->nsproxy->mnt_ns, &ctx->root_path);
	if (IS_ERR(list))
		return PTR_ERR(list);
	ctx->mounts = list;
	return 0;
}

static int tell_difference(struct ckpt_ctx *ctx, const char *had,
			   const char *have)
{
	size_t line, n;

	for (;;) {
		line = strcspn(had, "\n");
		n = strcspn(have, "\n");
		if (line != n || memcmp(had, have, n) || !had[line] || !have[n])
			break;
		had += line + 1;
		have += n + 1;
	}
	if (line)
		ckpt_err(ctx, -ESTALE, "the tree had this mount: %*pE",
			 (int)line, had);
	return ckpt_err(ctx, -ESTALE, "%s instead: %*pE: mounts have to be as they were",
			n ? "here is" : "here is none", (int)n, have);
}

/**
 * ckpt_check_mounts - whether current's mounts are those that the image lists
 * @ctx: the restart; current is its first task, /proc is mounted
 *
 * Return: 0; -ESTALE where they differ; -E2BIG, -ENOMEM.
 */
int ckpt_check_mounts(struct ckpt_ctx *ctx)
{
	char *list;
	int ret = 0;

	if (!ctx->mounts)
		return 0;
	list = list_mounts(ctx, current->nsproxy->mnt_ns, &ctx->root_path);
	if (IS_ERR(list))
		return PTR_ERR(list);
	if (strcmp(list, ctx->mounts))
		ret = tell_difference(ctx, ctx->mounts, list);
	kvfree(list);
	return ret;
}
