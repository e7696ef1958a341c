// SPDX-License-Identifier: GPL-2.0-only
/*
 * Owner, mode and times of the inodes that a restart creates: pipes, sockets,
 * shared memory and unlinked files.
 *
 * The owner is set by the rules of chown(2). For inodes that cannot get a name,
 * all times are restored, including the change time (ctime). For an unlinked
 * file, which may be linked again, the ctime is left to its file system:
 * backups and network clients rely on it.
 */
#include <linux/fs.h>
#include <linux/time64.h>
#include <linux/uidgid.h>

#include "ckpt.h"

/**
 * ckpt_get_owner - get the owner of an inode
 * @ctx: the checkpoint
 * @inode: the inode
 * @name: its name in messages
 * @uid: gets its user in the tree's user namespace
 * @gid: gets its group in the tree's user namespace
 *
 * Return: 0, -EOPNOTSUPP if the namespace does not map the user or group.
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
			"%s:[%lu] belongs to a user or group outside the tree's user namespace",
			name, inode->i_ino);
}

/**
 * ckpt_set_owner - set owner, mode and times of an inode that current has
 * created
 * @file: an open file of it
 * @uid: user in current's user namespace
 * @gid: group in current's user namespace
 * @mode: st_mode
 * @times: times to be set; its other members are overwritten
 *
 * Follows the rules of chown(2), chmod(2) and utimensat(2), but fails where
 * chmod(2) would silently clear a bit of the mode.
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
 * ckpt_set_times - set all times of an inode
 * @inode: an inode that current has created and that cannot get a name
 * @times: checked by ckpt_times_ok()
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
