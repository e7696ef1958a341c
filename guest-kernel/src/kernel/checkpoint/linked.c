// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files whose name was unlinked, but that still have a different name:
 * sem_open(3) creates a semaphore under a temporary name, links it to the
 * requested name, and unlinks the first. A restart opens such a file by the
 * remaining name; /proc shows the unlinked name, as deleted.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/namei.h>
#include <linux/string.h>

#include "ckpt.h"

/**
 * ckpt_find_link - find a remaining name of a file whose name was unlinked
 * @path: the unlinked name
 *
 * Searches the cached names in the same directory; tmpfs caches all names. Does
 * not support overlayfs, which would have to copy up by the unlinked name.
 *
 * Return: the name's dentry with a reference, or NULL.
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
 * ckpt_open_link - open a file by an unlinked name
 * @file: the file, opened by the remaining name; consumed
 * @gone: the unlinked name, in the same directory
 * @len: bytes of @gone
 *
 * Requires write access to the directory, as unlinking the name did.
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
	/* as unlink(2) leaves a used dentry: with its inode, but unhashed */
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
