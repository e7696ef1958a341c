// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files whose name was unlinked while they were open, and that have another one:
 * sem_open(3) makes a semaphore under a name of its own, links it to the one that
 * it was asked for, and unlinks the first. Such a file is found by the name that
 * is left; /proc shows it under the one that has gone, as deleted.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/namei.h>
#include <linux/string.h>

#include "ckpt.h"

/**
 * ckpt_find_link - another name of a file whose name was unlinked
 * @path: the name that has gone
 *
 * Looked for are names in the same directory that the kernel has at hand; those
 * of tmpfs always are. Overlayfs would have to copy up by the name that has gone.
 *
 * Return: the name's dentry, to be put, or NULL.
 */
struct dentry *ckpt_find_link(const struct path *path)
{
	struct inode *inode = d_inode(path->dentry);
	struct dentry *dir, *dentry, *found = NULL;

	if (inode->i_sb->s_magic == OVERLAYFS_SUPER_MAGIC ||
	    strchr(path->dentry->d_name.name, '/'))
		return NULL;
	dir = dget_parent(path->dentry);
	spin_lock(&inode->i_lock);
	hlist_for_each_entry(dentry, &inode->i_dentry, d_u.d_alias) {
		spin_lock(&dentry->d_lock);
		if (!d_unhashed(dentry) && dentry->d_parent == dir)
			found = dget_dlock(dentry);
		spin_unlock(&dentry->d_lock);
		if (found)
			break;
	}
	spin_unlock(&inode->i_lock);
	dput(dir);
	return found;
}

/**
 * ckpt_open_link - open a file under a name that has gone
 * @file: the file, open by the name that is left; taken
 * @gone: the other name, in the same directory
 * @len: bytes of it
 *
 * Only who may write to the directory can have unlinked something there.
 *
 * Return: the file, or ERR_PTR().
 */
struct file *ckpt_open_link(struct file *file, const char *gone, u32 len)
{
	struct path path = { .mnt = file->f_path.mnt };
	struct inode *inode = file_inode(file);
	struct qstr name = QSTR_INIT(gone, len);
	struct file *opened = ERR_PTR(-EINVAL);
	struct dentry *dir = dget_parent(file->f_path.dentry);
	int ret;

	if (!S_ISREG(inode->i_mode) || len > NAME_MAX || memchr(gone, '/', len) ||
	    memchr(gone, '\0', len) || !ckpt_known_fs(inode->i_sb) ||
	    inode->i_sb->s_magic == OVERLAYFS_SUPER_MAGIC)
		goto out;
	ret = inode_permission(file_mnt_idmap(file), d_inode(dir),
			       MAY_WRITE | MAY_EXEC);
	opened = ERR_PTR(ret);
	if (ret)
		goto out;
	/* as unlink(2) leaves one that is in use: with its inode, and not found */
	opened = ERR_PTR(-ENOMEM);
	path.dentry = d_alloc(dir, &name);
	if (!path.dentry)
		goto out;
	ihold(inode);
	d_instantiate(path.dentry, inode);
	opened = dentry_open(&path, file->f_flags, current_cred());
	dput(path.dentry);
out:
	dput(dir);
	fput(file);
	return opened;
}
