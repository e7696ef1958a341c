// SPDX-License-Identifier: GPL-2.0-only
/*
 * Owner, mode and times of what a restart makes: pipes, sockets, memory and
 * files without a name.
 *
 * The owner is given by the rules of chown(2). The times of inodes that only
 * the kernel has, and that no name can ever lead to, are set as they were, the
 * change time (ctime) too. In a file system that others use the change time is
 * the file system's own: backups and network clients go by it, and a file that
 * has no name may be given one again.
 */
#include <linux/fs.h>
#include <linux/time64.h>
#include <linux/uidgid.h>

#include "ckpt.h"

/**
 * ckpt_get_owner - whose an inode is
 * @ctx: the checkpoint
 * @inode: the inode
 * @name: what to call it in a message
 * @uid: gets its user, as the tree's user namespace has it
 * @gid: gets its group, likewise
 *
 * Return: 0, -EOPNOTSUPP where the tree's user namespace has no such user.
 */
int ckpt_get_owner(struct ckpt_ctx *ctx, const struct inode *inode,
		   const char *name, u32 *uid, u32 *gid)
{
	struct user_namespace *ns = ctx->root->real_cred->user_ns;

	*uid = from_kuid(ns, inode->i_uid);
	*gid = from_kgid(ns, inode->i_gid);
	if (*uid != (u32)-1 && *gid != (u32)-1)
		return 0;
	return ckpt_err(ctx, -EOPNOTSUPP,
			"%s:[%lu] belongs to a user or group that the tree's user namespace has not",
			name, inode->i_ino);
}

/**
 * ckpt_set_owner - give an inode that current has made its owner, mode and times
 * @file: an open file of it
 * @uid: as current's user namespace has it
 * @gid: likewise
 * @mode: st_mode
 * @times: times to be set; its other members are overwritten
 *
 * By the rules of chown(2), chmod(2) and utimensat(2). Where chmod(2) would leave
 * out a bit of the mode, it is an error here.
 *
 * Return: 0, -EINVAL, -EPERM.
 */
int ckpt_set_owner(struct file *file, u32 uid, u32 gid, umode_t mode,
		   struct iattr *times)
{
	struct inode *inode = file_inode(file);
	int ret;

	times->ia_valid |= ATTR_MODE;
	times->ia_mode = (inode->i_mode & S_IFMT) | (mode & S_IALLUGO);
	times->ia_uid = make_kuid(current_user_ns(), uid);
	times->ia_gid = make_kgid(current_user_ns(), gid);
	if (!uid_valid(times->ia_uid) || !gid_valid(times->ia_gid))
		return -EINVAL;
	if (!uid_eq(times->ia_uid, inode->i_uid))
		times->ia_valid |= ATTR_UID;
	if (!gid_eq(times->ia_gid, inode->i_gid))
		times->ia_valid |= ATTR_GID;
	times->ia_vfsuid = VFSUIDT_INIT(times->ia_uid);
	times->ia_vfsgid = VFSGIDT_INIT(times->ia_gid);
	inode_lock(inode);
	ret = notify_change(file_mnt_idmap(file), file->f_path.dentry, times,
			    NULL);
	if (!ret && (inode->i_mode ^ mode) & S_IALLUGO)
		ret = -EPERM;
	inode_unlock(inode);
	return ret;
}

void ckpt_get_times(const struct inode *inode, struct ckpt_times *times)
{
	struct timespec64 atime = inode_get_atime(inode);
	struct timespec64 mtime = inode_get_mtime(inode);
	struct timespec64 ctime = inode_get_ctime(inode);

	*times = (struct ckpt_times) {
		.atime = atime.tv_sec, .atime_nsec = atime.tv_nsec,
		.mtime = mtime.tv_sec, .mtime_nsec = mtime.tv_nsec,
		.ctime = ctime.tv_sec, .ctime_nsec = ctime.tv_nsec,
	};
}

bool ckpt_times_ok(const struct ckpt_times *times)
{
	return times->atime_nsec < NSEC_PER_SEC &&
	       times->mtime_nsec < NSEC_PER_SEC &&
	       times->ctime_nsec < NSEC_PER_SEC && !times->pad;
}

/**
 * ckpt_set_times - give an inode the times that it had
 * @inode: one that current has made, and that no name can lead to
 * @times: what ckpt_times_ok() has found to be sound
 */
void ckpt_set_times(struct inode *inode, const struct ckpt_times *times)
{
	struct timespec64 atime = { times->atime, times->atime_nsec };
	struct timespec64 mtime = { times->mtime, times->mtime_nsec };
	struct timespec64 ctime = { times->ctime, times->ctime_nsec };

	inode_lock(inode);
	inode_set_atime_to_ts(inode, timestamp_truncate(atime, inode));
	inode_set_mtime_to_ts(inode, timestamp_truncate(mtime, inode));
	inode_set_ctime_to_ts(inode, timestamp_truncate(ctime, inode));
	inode_unlock(inode);
}
