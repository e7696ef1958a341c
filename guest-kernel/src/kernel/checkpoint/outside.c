// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is shared with tasks outside the tree, and would be cut in two: the offset
 * of an open file, the content of what has no name, a pipe's end, and what the
 * kernel keeps in a file of anon_inodefs. All users inside are known when the
 * tree was gone over once; who is counted beyond these is outside.
 */
#include <linux/dcache.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/shmem_fs.h>

#include "ckpt.h"

/* With these nobody can change what is in it. */
#define CONSTANT_SEALS	(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* References to an open file that are not the tree's, nor the object table's. */
static long held_outside(const struct ckpt_obj *obj)
{
	const struct file *file = obj->ptr;

	return file_count(file) - 1 - obj->uses - obj->maps;
}

/* Who has it mapped can neither move its offset nor look at it. */
static long mapped_outside(struct ckpt_ctx *ctx, struct file *file)
{
	struct address_space *mapping = file->f_mapping;
	struct vm_area_struct *vma;
	long n = 0;
	u32 ref;

	i_mmap_lock_read(mapping);
	vma_interval_tree_foreach(vma, &mapping->i_mmap, 0, ULONG_MAX)
		if (vma->vm_file == file &&
		    !ckpt_obj_lookup(ctx, CKPT_REC_MM, vma->vm_mm, &ref))
			n++;
	i_mmap_unlock_read(mapping);
	return n;
}

/*
 * Is it of any consequence where in the file the next read or write will be?
 * Not for one that only appends, nor for a directory of which nothing was read:
 * such a one is held to find files by.
 */
static bool has_offset(const struct file *file)
{
	umode_t mode = file_inode(file)->i_mode;

	if (!(file->f_mode & FMODE_LSEEK) || file->f_mode & FMODE_PATH)
		return false;
	if (S_ISDIR(mode))
		return file->f_pos;
	return S_ISREG(mode) &&
	       (file->f_mode & FMODE_READ || !(file->f_flags & O_APPEND));
}

static int shared(struct ckpt_ctx *ctx, const struct ckpt_obj *obj,
		  const char *what)
{
	char *name = ckpt_file_name(obj->ptr);

	ctx->cur_pid = obj->pid;
	ckpt_err(ctx, -EBUSY,
		 "%s: %s, and is open outside the tree too: close it there, or checkpoint a root that includes who has it",
		 name ?: "a file", what);
	kfree(name);
	return -EBUSY;
}

static int check_open_file(struct ckpt_ctx *ctx, struct ckpt_obj *obj)
{
	struct file *file = obj->ptr;
	long n = held_outside(obj);

	if (!obj->uses || n <= 0)
		return 0;
	if (S_ISFIFO(file_inode(file)->i_mode))
		return shared(ctx, obj, "is the end of a pipe");
	if (ckpt_anon_kind(file))
		return shared(ctx, obj, "has a state of its own");
	if (has_offset(file) && n > mapped_outside(ctx, file))
		return shared(ctx, obj, "has an offset");
	return 0;
}

/* Can somebody still change the content of an inode that is an object? */
static bool can_change(struct ckpt_ctx *ctx, struct inode *inode)
{
	struct ckpt_obj *obj;
	unsigned long i;

	if (shmem_mapping(inode->i_mapping) && IS_ENABLED(CONFIG_MEMFD_CREATE) &&
	    (SHMEM_I(inode)->seals & CONSTANT_SEALS) == CONSTANT_SEALS)
		return false;
	if (inode_is_open_for_write(inode))
		return true;
	xa_for_each(&ctx->objs, i, obj) {
		struct file *file = obj->ptr;

		if (obj->type != CKPT_REC_FILE || file_user_inode(file) != inode)
			continue;
		/* a memfd may be written by who does not count as a writer */
		if (mapping_writably_mapped(file->f_mapping) ||
		    file->f_mode & FMODE_WRITE)
			return true;
	}
	return false;
}

/* What keeps a name that has gone: the open files of the inode. */
static unsigned int count_names(struct inode *inode)
{
	struct dentry *dentry;
	unsigned int n = 0;

	spin_lock(&inode->i_lock);
	hlist_for_each_entry(dentry, &inode->i_dentry, d_u.d_alias)
		n += d_count(dentry);
	spin_unlock(&inode->i_lock);
	return n;
}

/* Overlayfs opens a file below for each, which keeps the name once more. */
static unsigned int names_of(const struct file *file)
{
	bool overlay = file_user_inode(file)->i_sb->s_magic ==
		       OVERLAYFS_SUPER_MAGIC;

	return overlay && !(file->f_mode & (FMODE_BACKING | FMODE_PATH)) ? 2 : 1;
}

static int check_content(struct ckpt_ctx *ctx, struct inode *inode)
{
	struct ckpt_obj *obj, *one = NULL;
	unsigned int inside = 0;
	unsigned long i;

	xa_for_each(&ctx->objs, i, obj) {
		if (obj->type != CKPT_REC_FILE ||
		    file_user_inode(obj->ptr) != inode)
			continue;
		if (held_outside(obj) > 0)
			return shared(ctx, obj, "has no name");
		inside += names_of(obj->ptr);
		one = obj;
	}
	if (one && count_names(inode) > inside)
		return shared(ctx, one, "has no name");
	return 0;
}

/**
 * ckpt_check_outside - no open file is shared with a task outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Files of which nothing would be cut in two are left alone: those that a path
 * leads to, without an offset that matters, and content that cannot change.
 *
 * Return: 0 or -EBUSY.
 */
int ckpt_check_outside(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj;
	unsigned long i;
	int ret = 0;

	xa_for_each(&ctx->objs, i, obj) {
		if (obj->type == CKPT_REC_FILE)
			ret = check_open_file(ctx, obj);
		else if (obj->type == CKPT_REC_INODE && can_change(ctx, obj->ptr))
			ret = check_content(ctx, obj->ptr);
		if (ret)
			break;
		cond_resched();
	}
	ctx->cur_pid = 0;
	return ret;
}
