// SPDX-License-Identifier: GPL-2.0-only
/*
 * Namespaces are not saved: restarted tasks get those of the caller of
 * restart(2). So checkpoint(2) refuses a tree whose namespaces differ from its
 * caller's, with two exceptions. The pid namespace may differ; its numbers are
 * in the image. The mount namespace may differ with CHECKPOINT_OWN_MOUNTS; the
 * image then lists its mounts, and restart(2) compares them with its caller's.
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

/* Name a namespace in which a task differs from the caller, NULL if none. */
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
				"%s: its %s namespace differs from the root task's",
				t->comm, mounts ? "mount" : "pid");
	if (own_mounts && !(ctx->flags & CHECKPOINT_OWN_MOUNTS))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: its mount namespace is not the caller's: permit it (checkpoint --own-mounts) if the caller of restart(2) will have equal mounts",
				t->comm);
	if (!ckpt_cgroup_v1_same(t))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: its cgroup in a version 1 hierarchy differs from the caller's",
				t->comm);
	return 0;
}

/**
 * ckpt_check_namespaces - check that a restart can provide the tree's
 * namespaces
 * @ctx: the checkpoint; its tasks are at rest
 *
 * Return: 0; -EOPNOTSUPP for a namespace that differs from the caller's or from
 * the root task's; -EAGAIN.
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

/* The second field of a line, the mount point, up to the next space. */
static const char *mount_point(const char *line)
{
	return strchr(line, ' ') + 1;
}

/*
 * Sort by mount point, and at the same mount point the upper mount last. The
 * lines are in mounting order, so the upper mount has the higher address.
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

/* Copy the lines of @text to @sorted in sorted order. Overwrites @text. */
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

/*
 * List the mounts of a namespace as seen from @root, to be freed by kvfree().
 */
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
			ckpt_err(ctx, ret, "the list of mounts is longer than %zu bytes",
				 CKPT_MOUNTS_MAX);
	}
	kvfree(text);
	if (!ret)
		return sorted;
	kvfree(sorted);
	return ERR_PTR(ret);
}

/**
 * ckpt_dump_mounts - list the mounts of a tree with its own mount namespace
 * @ctx: the checkpoint; gets ctx->mounts
 *
 * Return: 0, -E2BIG, -ENOMEM, or an error of a file system's show function.
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

static int report_difference(struct ckpt_ctx *ctx, const char *had,
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
	return ckpt_err(ctx, -ESTALE,
			"%s instead: %*pE: mounts must be equal to the tree's",
			n ? "the caller has" : "the caller has none", (int)n, have);
}

/**
 * ckpt_check_mounts - compare current's mounts with those that the image lists
 * @ctx: the restart; current is its first task, /proc is mounted
 *
 * Return: 0; -ESTALE if they differ; -E2BIG, -ENOMEM.
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
		ret = report_difference(ctx, ctx->mounts, list);
	kvfree(list);
	return ret;
}
