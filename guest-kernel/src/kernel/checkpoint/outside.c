// SPDX-License-Identifier: GPL-2.0-only
/*
 * Refuses open files that tasks outside the tree share, if a restart would
 * duplicate their state: the offset of an open file, the content of an unlinked
 * file, a pipe end, the state of an anonymous inode file. The first pass of the
 * checkpoint counts all references from inside the tree; any others are
 * outside.
 */
#include <linux/dcache.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/shmem_fs.h>

#include "ckpt.h"

/* Seals that make the content of a memfd constant. */
#define CONSTANT_SEALS	(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* Count the references to an open file beyond the tree and the object table. */
static long held_outside(const struct ckpt_obj *obj)
{
	const struct file *file = obj->ptr;

	return file_count(file) - 1 - obj->uses - obj->maps;
}

/* Count the mappings outside the tree, which do not use the file's offset. */
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
 * Return true if the offset of an open file matters. It does not matter for a
 * file that is only appended to, nor for a directory that has not been read,
 * such as one that is used for openat(2).
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
		 "%s: %s, and is open outside the tree too: close it there, or checkpoint a tree that includes its users",
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

/* Return true if a task can still change the content of a saved inode. */
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
		/* a memfd may be writable without counting as a writer */
		if (mapping_writably_mapped(file->f_mapping) ||
		    file->f_mode & FMODE_WRITE)
			return true;
	}
	return false;
}

/* Count the references to the dentries of an unlinked inode: its open files. */
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

/* Overlayfs opens a backing file for each file. It also holds the dentry. */
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
 * ckpt_check_outside - refuse open files shared with tasks outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Sharing is allowed if a restart duplicates no state: files that are found by
 * path and whose offset does not matter, and content that cannot change.
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
