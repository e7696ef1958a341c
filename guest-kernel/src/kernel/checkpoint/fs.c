// SPDX-License-Identifier: GPL-2.0-only
/*
 * Root and working directory and umask; and the names of paths, which start at
 * the root task's root directory, so that an image can be restarted under a
 * different root directory.
 */
#include <linux/dcache.h>
#include <linux/fs_struct.h>
#include <linux/magic.h>
#include <linux/namei.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ckpt.h"

/*
 * Name a file from a different mount namespace: by its path there, if that path
 * leads to the same file from the root task's root directory.
 */
static char *foreign_path(struct ckpt_ctx *ctx, const struct path *path,
			  char *buf)
{
	char *name = d_absolute_path(path, buf, PATH_MAX);
	struct path here;
	bool same;
	int ret;

	if (IS_ERR(name))
		return ERR_PTR(-EBUSY);
	if (d_unlinked(path->dentry))
		return name;
	ret = vfs_path_lookup(ctx->root_path.dentry, ctx->root_path.mnt, name, 0,
			      &here);
	if (ret)
		return ERR_PTR(ret == -ENOMEM ? ret : -EBUSY);
	same = d_inode(here.dentry) == d_inode(path->dentry);
	path_put(&here);
	return same ? name : ERR_PTR(-EBUSY);
}

/**
 * ckpt_path - return the path of a file from the root task's root directory
 * @ctx: the checkpoint
 * @path: the file
 * @buf: PATH_MAX bytes
 * @deleted: set to true if the name is unlinked; the " (deleted)" that
 *	__d_path() appends is removed
 *
 * Return: the string inside @buf, or ERR_PTR (-ENAMETOOLONG; -EBUSY if the file
 * cannot be reached from that root).
 */
char *ckpt_path(struct ckpt_ctx *ctx, const struct path *path, char *buf,
		bool *deleted)
{
	static const char mark[] = " (deleted)";
	bool gone = d_unlinked(path->dentry);
	char *name = __d_path(path, &ctx->root_path, buf, PATH_MAX);

	if (!name)
		name = foreign_path(ctx, path, buf);
	if (IS_ERR(name))
		return name;
	if (gone) {
		size_t len = strlen(name), cut = strlen(mark);

		if (len > cut && !strcmp(name + len - cut, mark))
			name[len - cut] = '\0';
	}
	*deleted = gone;
	return name;
}

/**
 * ckpt_check_name - check that a name leads to a file
 * @ctx: the checkpoint
 * @path: a file, directory or device
 * @name: its name from the root task's root directory
 *
 * A mount over the file, or over a directory on the way, may hide it. If the
 * caller may not look the name up, the check is left to restart(2).
 *
 * Return: 0, -EBUSY, or an errno of the look-up.
 */
int ckpt_check_name(struct ckpt_ctx *ctx, const struct path *path,
		    const char *name)
{
	const struct inode *inode = d_inode(path->dentry);
	struct path found;
	bool same;
	int ret;

	ret = vfs_path_lookup(ctx->root_path.dentry, ctx->root_path.mnt, name, 0,
			      &found);
	if (ret == -EACCES || ret == -EPERM)
		return 0;
	if (ret == -ENOENT || ret == -ENOTDIR || ret == -ELOOP)
		return ckpt_err(ctx, -EBUSY, "%s: no file has this name any more",
				name);
	if (ret)
		return ckpt_err(ctx, ret, "%s: looking the name up", name);
	same = d_inode(found.dentry) == inode;
	if (S_ISCHR(inode->i_mode))
		same = S_ISCHR(d_inode(found.dentry)->i_mode) &&
		       d_inode(found.dentry)->i_rdev == inode->i_rdev;
	path_put(&found);
	return same ? 0 : ckpt_err(ctx, -EBUSY,
				   "%s: the name leads to a different file than the one in use: is it covered by a mount?",
				   name);
}

static int dir_path(struct ckpt_ctx *ctx, const struct path *path, char *buf,
		    char **name, const char *what)
{
	bool deleted;

	*name = ckpt_path(ctx, path, buf, &deleted);
	if (IS_ERR(*name))
		return ckpt_err(ctx, PTR_ERR(*name),
				"%s is not reachable from the root task's root directory",
				what);
	if (deleted)
		return ckpt_err(ctx, -EBUSY, "%s %s has been deleted", what, *name);
	return ckpt_check_name(ctx, path, *name);
}

int ckpt_dump_fs(struct ckpt_ctx *ctx, struct task_struct *t, u32 *ref)
{
	char *rbuf = ctx->page_buf, *cbuf = ctx->page_buf + PATH_MAX;
	struct ckpt_fs rec = { };
	struct path root, pwd;
	char *rname, *cname;
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_FS, t->fs, ref))
		return 0;
	get_fs_root(t->fs, &root);
	get_fs_pwd(t->fs, &pwd);
	rec.umask = t->fs->umask;
	ret = dir_path(ctx, &root, rbuf, &rname, "root directory");
	if (!ret)
		ret = dir_path(ctx, &pwd, cbuf, &cname, "working directory");
	if (!ret) {
		rec.root_len = strlen(rname);
		rec.cwd_len = strlen(cname);
		rec.root_ino = d_inode(root.dentry)->i_ino;
		rec.cwd_ino = d_inode(pwd.dentry)->i_ino;
		/* pack the two paths as in the record */
		memmove(ctx->page_buf, rname, rec.root_len);
		memmove(ctx->page_buf + rec.root_len, cname, rec.cwd_len);
		ret = ckpt_obj_new(ctx, CKPT_REC_FS, t->fs, ref);
	}
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_FS, *ref, &rec, sizeof(rec),
				 ctx->page_buf, rec.root_len + rec.cwd_len);
	path_put(&pwd);
	path_put(&root);
	return ret;
}

/*
 * Check a directory by its inode number and the rules of chdir(2), chroot(2).
 */
static int check_dir(const struct path *path, u64 ino)
{
	const struct inode *inode = d_inode(path->dentry);

	/*
	 * a directory of overlayfs may get a new inode number at each look-up
	 */
	if (inode->i_ino != ino && inode->i_sb->s_magic != OVERLAYFS_SUPER_MAGIC)
		return -ESTALE;
	return path_permission(path, MAY_EXEC | MAY_CHDIR);
}

static int lookup_dir(struct ckpt_ctx *ctx, const char *name, u32 len, u64 ino,
		      struct path *path)
{
	char *copy = kmemdup_nul(name, len, GFP_KERNEL);
	int ret;

	if (!copy)
		return -ENOMEM;
	ret = -EINVAL;
	if (strlen(copy) == len && copy[0] == '/')
		ret = kern_path(copy, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, path);
	if (!ret) {
		ret = check_dir(path, ino);
		if (ret)
			path_put(path);
	}
	if (ret)
		ckpt_err(ctx, ret, "directory %*pE", len, copy);
	kfree(copy);
	return ret;
}

void ckpt_put_fs(struct fs_struct *fs)
{
	int last;

	spin_lock(&fs->lock);
	last = !--fs->users;
	spin_unlock(&fs->lock);
	if (last)
		free_fs_struct(fs);
}

int ckpt_restore_fs(struct ckpt_ctx *ctx)
{
	const struct ckpt_fs *rec = (const void *)ctx->rbuf;
	const char *names = (const char *)(rec + 1);
	struct path root, pwd;
	struct fs_struct *fs;
	int ret;

	if (rec->root_len > PATH_MAX || rec->cwd_len > PATH_MAX ||
	    ctx->rec.len != sizeof(*rec) + rec->root_len + rec->cwd_len ||
	    rec->umask & ~0777 || rec->pad)
		return ckpt_err(ctx, -EINVAL, "malformed directories");
	ret = lookup_dir(ctx, names, rec->root_len, rec->root_ino, &root);
	if (ret)
		return ret;
	ret = lookup_dir(ctx, names + rec->root_len, rec->cwd_len,
			 rec->cwd_ino, &pwd);
	if (ret)
		goto put_root;
	/* as chroot(2); the caller's own root directory needs no capability */
	ret = -EPERM;
	if (!path_equal(&root, &ctx->root_path) &&
	    !ns_capable(current_user_ns(), CAP_SYS_CHROOT))
		goto put_pwd;
	ret = -ENOMEM;
	fs = copy_fs_struct(current->fs);
	if (!fs)
		goto put_pwd;
	set_fs_root(fs, &root);
	set_fs_pwd(fs, &pwd);
	fs->umask = rec->umask;
	ret = ckpt_obj_insert(ctx, CKPT_REC_FS, ctx->rec.objref, fs);
	if (ret)
		ckpt_put_fs(fs);
put_pwd:
	path_put(&pwd);
put_root:
	path_put(&root);
	return ret ? ckpt_err(ctx, ret, "directories") : 0;
}

int ckpt_apply_fs(struct ckpt_ctx *ctx, u32 ref)
{
	struct fs_struct *fs = ckpt_obj_fetch(ctx, CKPT_REC_FS, ref), *old;

	if (IS_ERR(fs))
		return PTR_ERR(fs);
	spin_lock(&fs->lock);
	fs->users++;
	spin_unlock(&fs->lock);
	task_lock(current);
	old = current->fs;
	current->fs = fs;
	task_unlock(current);
	ckpt_put_fs(old);
	return 0;
}
