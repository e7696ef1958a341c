// SPDX-License-Identifier: GPL-2.0-only
/*
 * Credentials. A restarted task can only get credentials that the caller of
 * restart(2) could have set by setresuid(2), setgroups(2), capset(2) and
 * prctl(2).
 */
#include <linux/bsearch.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/sched/coredump.h>
#include <linux/sched/user.h>
#include <linux/securebits.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/user_namespace.h>

#include "ckpt.h"

int ckpt_dump_cred(struct ckpt_ctx *ctx, const struct cred *cred, u32 *ref)
{
	struct user_namespace *ns = cred->user_ns;
	struct group_info *gi = cred->group_info;
	struct ckpt_cred rec = {
		.uid = from_kuid_munged(ns, cred->uid),
		.gid = from_kgid_munged(ns, cred->gid),
		.euid = from_kuid_munged(ns, cred->euid),
		.egid = from_kgid_munged(ns, cred->egid),
		.suid = from_kuid_munged(ns, cred->suid),
		.sgid = from_kgid_munged(ns, cred->sgid),
		.fsuid = from_kuid_munged(ns, cred->fsuid),
		.fsgid = from_kgid_munged(ns, cred->fsgid),
		.securebits = cred->securebits,
		.ngroups = gi->ngroups,
		.cap_inheritable = cred->cap_inheritable.val,
		.cap_permitted = cred->cap_permitted.val,
		.cap_effective = cred->cap_effective.val,
		.cap_bset = cred->cap_bset.val,
		.cap_ambient = cred->cap_ambient.val,
	};
	u32 *groups;
	int i, ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_CRED, (void *)cred, ref))
		return 0;
	/* restart(2) interprets ids in its caller's user namespace */
	if (ns != current_user_ns())
		return ckpt_err(ctx, -EOPNOTSUPP,
				"credentials (uid %u) from a user namespace other than the caller's: checkpoint from inside it (nsenter)",
				rec.uid);
	groups = kvmalloc_array(gi->ngroups ?: 1, sizeof(*groups), GFP_KERNEL);
	if (!groups)
		return -ENOMEM;
	for (i = 0; i < gi->ngroups; i++)
		groups[i] = from_kgid_munged(ns, gi->gid[i]);
	ret = ckpt_obj_new(ctx, CKPT_REC_CRED, (void *)cred, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_CRED, *ref, &rec, sizeof(rec),
				 groups, gi->ngroups * sizeof(*groups));
	kvfree(groups);
	return ret;
}

static int by_address(const void *a, const void *b)
{
	const struct cred *one = *(const struct cred **)a;
	const struct cred *other = *(const struct cred **)b;

	return one < other ? -1 : one > other;
}

/**
 * ckpt_sort_creds - collect the credentials of all tasks in ctx->creds
 * @ctx: the checkpoint; its tasks are held
 *
 * Return: 0 or -ENOMEM.
 */
int ckpt_sort_creds(struct ckpt_ctx *ctx)
{
	unsigned int i;

	ctx->creds = kvmalloc_array(ctx->nr_tsks, sizeof(*ctx->creds),
				    GFP_KERNEL_ACCOUNT);
	if (!ctx->creds)
		return -ENOMEM;
	for (i = 0; i < ctx->nr_tsks; i++)
		ctx->creds[i] = rcu_access_pointer(ctx->tsks[i].task->real_cred);
	sort(ctx->creds, ctx->nr_tsks, sizeof(*ctx->creds), by_address, NULL);
	return 0;
}

/**
 * ckpt_dump_opener - write the credentials that a file was opened with
 * @ctx: the checkpoint
 * @file: the file
 * @ref: gets their objref; 0 if no task has them any longer
 *
 * linkat(2) of a descriptor (AT_EMPTY_PATH) compares the address of these
 * credentials with that of its caller's. Credentials that no task has need not
 * be equal to those of any restarted task.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_opener(struct ckpt_ctx *ctx, const struct file *file, u32 *ref)
{
	const struct cred *cred = file->f_cred;

	*ref = 0;
	if (!bsearch(&cred, ctx->creds, ctx->nr_tsks, sizeof(*ctx->creds),
		     by_address))
		return 0;
	return ckpt_dump_cred(ctx, cred, ref);
}

/**
 * ckpt_set_opener - set the credentials that a file was opened with
 * @ctx: the restart
 * @file: a file that this restart has opened and no task uses yet
 * @ref: objref of the credentials, 0 to keep those of current
 *
 * This grants no access: the caller may set these credentials for a task, and
 * the file has passed the checks of open(2) with the caller's.
 *
 * Return: 0 or -EINVAL.
 */
int ckpt_set_opener(struct ckpt_ctx *ctx, struct file *file, u32 ref)
{
	const struct cred *cred, *old = file->f_cred;

	if (!ref)
		return 0;
	cred = ckpt_obj_fetch(ctx, CKPT_REC_CRED, ref);
	if (IS_ERR(cred))
		return PTR_ERR(cred);
	file->f_cred = get_cred(cred);
	put_cred(old);
	return 0;
}

static int set_ids(struct cred *new, const struct ckpt_cred *rec)
{
	struct user_namespace *ns = new->user_ns;

	new->uid = make_kuid(ns, rec->uid);
	new->euid = make_kuid(ns, rec->euid);
	new->suid = make_kuid(ns, rec->suid);
	new->fsuid = make_kuid(ns, rec->fsuid);
	new->gid = make_kgid(ns, rec->gid);
	new->egid = make_kgid(ns, rec->egid);
	new->sgid = make_kgid(ns, rec->sgid);
	new->fsgid = make_kgid(ns, rec->fsgid);
	if (!uid_valid(new->uid) || !uid_valid(new->euid) ||
	    !uid_valid(new->suid) || !uid_valid(new->fsuid) ||
	    !gid_valid(new->gid) || !gid_valid(new->egid) ||
	    !gid_valid(new->sgid) || !gid_valid(new->fsgid))
		return -EINVAL;
	return 0;
}

static bool own_uid(const struct cred *old, kuid_t uid)
{
	return uid_eq(uid, old->uid) || uid_eq(uid, old->euid) ||
	       uid_eq(uid, old->suid);
}

static bool own_gid(const struct cred *old, kgid_t gid)
{
	return gid_eq(gid, old->gid) || gid_eq(gid, old->egid) ||
	       gid_eq(gid, old->sgid);
}

static bool same_groups(const struct cred *old, const struct group_info *gi)
{
	int i;

	if (old->group_info->ngroups != gi->ngroups)
		return false;
	for (i = 0; i < gi->ngroups; i++)
		if (!gid_eq(old->group_info->gid[i], gi->gid[i]))
			return false;
	return true;
}

/* The rules of PR_SET_SECUREBITS and PR_SET_KEEPCAPS. */
static int check_securebits(const struct cred *old, const struct cred *new)
{
	unsigned int changed = new->securebits ^ old->securebits;

	if (!changed)
		return 0;
	if (new->securebits & ~(SECURE_ALL_LOCKS | SECURE_ALL_BITS))
		return -EINVAL;
	/* a lock cannot be removed, nor can the bit that it locks change */
	if (old->securebits & SECURE_ALL_LOCKS & ~new->securebits ||
	    (old->securebits & SECURE_ALL_LOCKS) >> 1 & changed)
		return -EPERM;
	/* PR_SET_KEEPCAPS needs no capability */
	if (changed & ~issecure_mask(SECURE_KEEP_CAPS) &&
	    !ns_capable(new->user_ns, CAP_SETPCAP))
		return -EPERM;
	return 0;
}

/* The rules of setresuid(2), setgroups(2), capset(2) and prctl(2). */
static int check_rights(const struct cred *old, const struct cred *new)
{
	struct user_namespace *ns = new->user_ns;
	kernel_cap_t want = new->cap_permitted;

	if (!(own_uid(old, new->uid) && own_uid(old, new->euid) &&
	      own_uid(old, new->suid) && own_uid(old, new->fsuid)) &&
	    !ns_capable(ns, CAP_SETUID))
		return -EPERM;
	if (!(own_gid(old, new->gid) && own_gid(old, new->egid) &&
	      own_gid(old, new->sgid) && own_gid(old, new->fsgid)) &&
	    !ns_capable(ns, CAP_SETGID))
		return -EPERM;
	if (!same_groups(old, new->group_info) &&
	    (!ns_capable(ns, CAP_SETGID) || !userns_may_setgroups(ns)))
		return -EPERM;
	if (!cap_issubset(want, old->cap_permitted) ||
	    !cap_issubset(new->cap_bset, old->cap_bset))
		return -EPERM;
	/*
	 * PR_CAPBSET_DROP: setuid programs may fail badly without a capability
	 */
	if (!cap_issubset(old->cap_bset, new->cap_bset) &&
	    !ns_capable(ns, CAP_SETPCAP))
		return -EPERM;
	/*
	 * cap_capset(): from permitted, or with CAP_SETPCAP from the bounding
	 * set
	 */
	if (!cap_issubset(new->cap_inheritable,
			  cap_combine(old->cap_inheritable,
				      ns_capable(ns, CAP_SETPCAP) ?
				      old->cap_bset : old->cap_permitted)) ||
	    !cap_issubset(new->cap_inheritable,
			  cap_combine(old->cap_inheritable, old->cap_bset)))
		return -EPERM;
	if (!cap_issubset(new->cap_effective, want) ||
	    !cap_issubset(new->cap_ambient,
			  cap_intersect(want, new->cap_inheritable)))
		return -EINVAL;
	/* PR_CAP_AMBIENT_RAISE: only applies to capabilities that are added */
	if (!cap_issubset(new->cap_ambient, old->cap_ambient) &&
	    old->securebits & issecure_mask(SECURE_NO_CAP_AMBIENT_RAISE))
		return -EPERM;
	return check_securebits(old, new);
}

static struct group_info *read_groups(struct user_namespace *ns,
				      const u32 *groups, u32 ngroups)
{
	struct group_info *gi = groups_alloc(ngroups);
	u32 i;

	if (!gi)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < ngroups; i++) {
		gi->gid[i] = make_kgid(ns, groups[i]);
		if (!gid_valid(gi->gid[i])) {
			put_group_info(gi);
			return ERR_PTR(-EINVAL);
		}
	}
	groups_sort(gi);
	return gi;
}

static kernel_cap_t to_cap(u64 val)
{
	return (kernel_cap_t) { val & CAP_VALID_MASK };
}

static int fill_cred(struct cred *new, const struct ckpt_cred *rec,
		     const u32 *groups)
{
	const struct cred *old = current_cred();
	struct group_info *gi;
	int ret;

	ret = set_ids(new, rec);
	if (ret)
		return ret;
	gi = read_groups(new->user_ns, groups, rec->ngroups);
	if (IS_ERR(gi))
		return PTR_ERR(gi);
	set_groups(new, gi);
	put_group_info(gi);
	new->securebits = rec->securebits;
	new->cap_inheritable = to_cap(rec->cap_inheritable);
	new->cap_permitted = to_cap(rec->cap_permitted);
	new->cap_effective = to_cap(rec->cap_effective);
	new->cap_bset = to_cap(rec->cap_bset);
	if (!ckpt_broken(CKPT_BREAK_CREDENTIAL))
		new->cap_ambient = to_cap(rec->cap_ambient);
	ret = check_rights(old, new);
	if (ret)
		return ret;
	if (!uid_eq(new->uid, old->uid)) {
		struct user_struct *user = alloc_uid(new->uid);

		if (!user)
			return -EAGAIN;
		free_uid(new->user);
		new->user = user;
	}
	return set_cred_ucounts(new);
}

int ckpt_restore_cred(struct ckpt_ctx *ctx)
{
	const struct ckpt_cred *rec = (const void *)ctx->rbuf;
	struct cred *new;
	int ret;

	if (rec->ngroups > NGROUPS_MAX ||
	    ctx->rec.len != sizeof(*rec) + rec->ngroups * sizeof(u32))
		return ckpt_err(ctx, -EINVAL, "credentials: bad group count");
	new = prepare_creds();
	if (!new)
		return -ENOMEM;
	ret = fill_cred(new, rec, (const u32 *)(rec + 1));
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_CRED, ctx->rec.objref, new);
	if (ret) {
		abort_creds(new);
		return ckpt_err(ctx, ret,
				"credentials (uid %u) that the caller may not set",
				rec->euid);
	}
	return 0;
}

int ckpt_apply_cred(struct ckpt_ctx *ctx, u32 ref)
{
	const struct cred *src = ckpt_obj_fetch(ctx, CKPT_REC_CRED, ref);
	bool other;

	if (IS_ERR(src))
		return PTR_ERR(src);
	/*
	 * As after setuid(2), a task that changes to a user with too many
	 * processes may not execve(2). A caller with CAP_SYS_RESOURCE can avoid
	 * that by raising the limit, so for such a caller the saved flag
	 * applies (CKPT_TASK_NPROC).
	 */
	other = !uid_eq(src->uid, current_uid()) && !capable(CAP_SYS_RESOURCE);
	if (other && src->user != INIT_USER &&
	    is_rlimit_overlimit(src->ucounts, UCOUNT_RLIMIT_NPROC,
				rlimit(RLIMIT_NPROC)))
		current->flags |= PF_NPROC_EXCEEDED;
	else if (other)
		current->flags &= ~PF_NPROC_EXCEEDED;
	return commit_creds((struct cred *)get_cred(src));
}
