// SPDX-License-Identifier: GPL-2.0-only
/*
 * Open files. The descriptor tables are in fdtable.c.
 *
 * A restart opens a file that has a path by that path, with the rights of its
 * caller; the inode must be the same. Files without a path belong to an object:
 * a pipe (pipe.c), sockets, a terminal, or the content of an unlinked file or
 * of shared anonymous memory (inode.c).
 */
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/kdev_t.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <linux/pipe_fs_i.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "ckpt.h"

/* Flags that a restart passes to open(2). */
#define KEPT_FLAGS (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | __O_SYNC | \
		    O_DIRECT | O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | \
		    O_NOATIME | O_PATH)

/**
 * ckpt_known_fs - check whether files of a file system are found by path
 * @sb: the file system
 *
 * Return: true for file systems on a block device, tmpfs, ramfs and overlayfs.
 */
bool ckpt_known_fs(const struct super_block *sb)
{
	return sb->s_type->fs_flags & FS_REQUIRES_DEV ||
	       sb->s_magic == TMPFS_MAGIC || sb->s_magic == RAMFS_MAGIC ||
	       sb->s_magic == OVERLAYFS_SUPER_MAGIC;
}

/* Return true for shared anonymous memory and memfds. */
static bool is_shmem_object(struct file *file)
{
	return shmem_mapping(file->f_mapping) &&
	       file->f_path.mnt->mnt_flags & MNT_INTERNAL;
}

static bool has_locks(struct file *file)
{
	struct file_lock_context *flc = locks_inode_context(file_inode(file));
	struct file_lock_core *fl;
	bool found = false;

	if (!flc)
		return false;
	spin_lock(&flc->flc_lock);
	list_for_each_entry(fl, &flc->flc_flock, flc_list)
		found |= fl->flc_file == file;
	list_for_each_entry(fl, &flc->flc_posix, flc_list)
		found |= fl->flc_file == file;
	list_for_each_entry(fl, &flc->flc_lease, flc_list)
		found |= fl->flc_file == file;
	spin_unlock(&flc->flc_lock);
	return found;
}

/*
 * Return true if F_SETOWN has been used. Removing the owner leaves its type and
 * uids, which F_GETOWN_EX and F_GETOWNER_UIDS report.
 */
static bool has_owner(const struct fown_struct *owner)
{
	return owner && (owner->pid || owner->pid_type ||
			 !uid_eq(owner->uid, GLOBAL_ROOT_UID) ||
			 !uid_eq(owner->euid, GLOBAL_ROOT_UID));
}

/*
 * Refuse state of an open file that a restart cannot restore: locks, an owner
 * of signals, which may be any process, and an error that fsync(2) will report.
 */
static int check_state(struct ckpt_ctx *ctx, struct file *file, const char *name)
{
	struct fown_struct *owner = file_f_owner(file);

	if (has_locks(file))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: file locks", name);
	if (file->f_flags & FASYNC || has_owner(owner))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: F_SETOWN or O_ASYNC", name);
	if (!(file->f_mode & FMODE_PATH) && S_ISREG(file_inode(file)->i_mode) &&
	    errseq_check(&file->f_mapping->wb_err, READ_ONCE(file->f_wb_err)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: a write-back error that fsync(2) has not reported yet",
				name);
	return 0;
}

static int refuse_device(struct ckpt_ctx *ctx, const struct inode *inode,
			 const char *name)
{
	unsigned int major = imajor(inode);

	if (major >= UNIX98_PTY_SLAVE_MAJOR &&
	    major < UNIX98_PTY_SLAVE_MAJOR + UNIX98_PTY_MAJOR_COUNT)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: a terminal whose other end was closed",
				name);
	return ckpt_err(ctx, -EOPNOTSUPP, "%s: device %u:%u", name, major,
			iminor(inode));
}

static int check_kind(struct ckpt_ctx *ctx, struct file *file, const char *name)
{
	struct inode *inode = file_inode(file);

	/* ipc/shm.c wraps tmpfs files and sets private_data */
	if (is_shmem_object(file) && file->private_data)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: System V shared memory",
				name);
	switch (inode->i_mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
		if (ckpt_is_proc(file))
			return 0;
		if (!ckpt_known_fs(inode->i_sb))
			return ckpt_err(ctx, -EOPNOTSUPP, "%s: a file on %s",
					name, inode->i_sb->s_type->name);
		return 0;
	case S_IFLNK:
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: a symbolic link that is itself open (O_PATH)",
				name);
	case S_IFCHR:
		if (ckpt_pty_kind(file) || imajor(inode) == MEM_MAJOR)
			return 0;
		return refuse_device(ctx, inode, name);
	case S_IFIFO:
		if (inode->i_sb->s_magic != PIPEFS_MAGIC)
			return ckpt_err(ctx, -EOPNOTSUPP, "%s: a named pipe", name);
		return 0;
	case S_IFSOCK:
		return ckpt_check_socket(ctx, file);
	default:
		if (ckpt_anon_kind(file))
			return 0;
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: a file of %s", name,
				inode->i_sb->s_type->name);
	}
}

/**
 * ckpt_file_name - return the name of a file for messages
 * @file: the file
 *
 * A file without a path is named by its type and number: pipe:[123].
 *
 * Return: the name, to be freed by kfree(), or NULL.
 */
char *ckpt_file_name(struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	char buf[64], *name = ERR_PTR(-EINVAL);

	if (dentry->d_op && dentry->d_op->d_dname)
		name = dentry->d_op->d_dname(dentry, buf, sizeof(buf));
	return IS_ERR(name) ? kasprintf(GFP_KERNEL, "%pD", file) :
			      kstrdup(name, GFP_KERNEL);
}

static int check_file(struct ckpt_ctx *ctx, struct file *file)
{
	char *name = ckpt_file_name(file);
	int ret;

	if (!name)
		return -ENOMEM;
	ret = check_state(ctx, file, name);
	if (!ret)
		ret = check_kind(ctx, file, name);
	kfree(name);
	return ret;
}

/*
 * Overlayfs copies a file up when it is first written to. Files that were
 * opened earlier then use the copy, but mappings keep the lower file, which no
 * longer has a name.
 */
static int check_copied_up(struct ckpt_ctx *ctx, struct file *file)
{
	if (!(file->f_mode & FMODE_BACKING) ||
	    file_inode(file) == d_real_inode(file_user_path(file)->dentry))
		return 0;
	return ckpt_err(ctx, -EBUSY,
			"%pD: mapped before overlayfs copied it up, so its name now leads to a different file",
			file);
}

static int write_file(struct ckpt_ctx *ctx, struct file *file, u32 *ref,
		      struct ckpt_file *rec, const char *name)
{
	int ret = ckpt_obj_new(ctx, CKPT_REC_FILE, file, ref);

	if (ret)
		return ret;
	return ckpt_write(ctx, CKPT_REC_FILE, *ref, rec, sizeof(*rec), name,
			  rec->path_len + rec->gone_len);
}

/*
 * Write a file by @link, its remaining name; the name by which it was opened is
 * unlinked.
 */
static int dump_by_link(struct ckpt_ctx *ctx, struct file *file, u32 *ref,
			struct ckpt_file *rec, struct dentry *link)
{
	const struct path *opened = file_user_path(file);
	const struct qstr *gone = &opened->dentry->d_name;
	struct path path = { .mnt = opened->mnt, .dentry = link };
	bool deleted;
	char *name = ckpt_path(ctx, &path, ctx->page_buf, &deleted);
	int ret;

	if (IS_ERR(name))
		return PTR_ERR(name);
	ret = deleted ? -EAGAIN : ckpt_check_name(ctx, &path, name);
	if (ret)
		return ret;
	rec->kind = CKPT_FILE_PATH;
	rec->path_len = strlen(name);
	rec->gone_len = gone->len;
	/*
	 * move the directory's path to the front and append the unlinked name
	 */
	memmove(ctx->page_buf, name, rec->path_len);
	memcpy(ctx->page_buf + rec->path_len, gone->name, gone->len);
	return write_file(ctx, file, ref, rec, ctx->page_buf);
}

static int dump_by_path(struct ckpt_ctx *ctx, struct file *file, u32 *ref,
			struct ckpt_file *rec)
{
	const struct path *path = file_user_path(file);
	bool deleted;
	char *name = ckpt_path(ctx, path, ctx->page_buf, &deleted);
	int ret;

	if (IS_ERR(name))
		return ckpt_err(ctx, PTR_ERR(name),
				"%pD: not reachable from the root task's root directory",
				file);
	if (ckpt_is_proc(file)) {
		ret = ckpt_dump_proc(ctx, file, name, rec);
		if (ret)
			return ret;
	} else if (!rec->kind) {
		ret = check_copied_up(ctx, file);
		if (!ret && !deleted)
			ret = ckpt_check_name(ctx, path, name);
		if (ret)
			return ret;
		rec->kind = CKPT_FILE_PATH;
	}
	if (deleted) {
		struct dentry *link = NULL;

		if (!S_ISREG(rec->mode) || rec->kind != CKPT_FILE_PATH)
			return ckpt_err(ctx, -EBUSY, "%s: has been deleted", name);
		if (d_inode(path->dentry)->i_nlink)
			link = ckpt_find_link(path);
		if (link) {
			ret = dump_by_link(ctx, file, ref, rec, link);
			dput(link);
			return ret;
		}
		rec->kind = CKPT_FILE_DELETED;
		rec->flags |= file->f_flags & __O_TMPFILE;
		ret = ckpt_dump_inode(ctx, file, rec->kind, &rec->inode);
		if (ret)
			return ret;
		/* ckpt_dump_inode() has overwritten the buffer */
		name = ckpt_path(ctx, path, ctx->page_buf, &deleted);
		if (IS_ERR(name))
			return PTR_ERR(name);
	}
	rec->path_len = strlen(name);
	return write_file(ctx, file, ref, rec, name);
}

static void fill_state(struct file *file, struct ckpt_file *rec)
{
	struct fown_struct *owner = file_f_owner(file);

	if (file->f_mode & FMODE_RANDOM)
		rec->state |= CKPT_FILE_RANDOM;
	if (file->f_mode & FMODE_NOREUSE)
		rec->state |= CKPT_FILE_NOREUSE;
	if (is_shmem_object(file) && file->f_mode & FMODE_WRITE &&
	    !(file->f_mode & FMODE_WRITER))
		rec->state |= CKPT_FILE_UNCOUNTED;
	if (owner)
		rec->signum = owner->signum;
	rec->write_hint = file_inode(file)->i_write_hint;
}

/**
 * ckpt_check_syncfs - refuse an error that syncfs(2) has not reported yet
 * @ctx: the checkpoint
 * @file: the file of a descriptor or of a message
 *
 * Not needed for the file of a mapping, which syncfs(2) cannot be called on.
 *
 * Return: 0 or -EOPNOTSUPP.
 */
int ckpt_check_syncfs(struct ckpt_ctx *ctx, struct file *file)
{
	struct super_block *sb = file->f_path.dentry->d_sb;

	if (file->f_mode & FMODE_PATH ||
	    !errseq_check(&sb->s_wb_err, READ_ONCE(file->f_sb_err)))
		return 0;
	return ckpt_err(ctx, -EOPNOTSUPP,
			"%pD: a write-back error of its file system that syncfs(2) has not reported yet",
			file);
}

int ckpt_dump_file(struct ckpt_ctx *ctx, struct file *file, u32 *ref)
{
	/* for a backing file of overlayfs, the inode that user space sees */
	const struct inode *inode = file_user_inode(file);
	struct ckpt_file rec = {
		.flags = file->f_flags & KEPT_FLAGS,
		/*
		 * programs cannot observe the offset of the file below
		 * overlayfs
		 */
		.pos = file->f_mode & FMODE_BACKING ? 0 : file->f_pos,
		.mode = inode->i_mode,
		.ino = inode->i_ino,
	};
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_FILE, file, ref))
		return 0;
	ret = check_file(ctx, file);
	if (ret)
		return ret;
	/*
	 * overlayfs sets O_NOATIME in backing files; open(2) may refuse that
	 * flag
	 */
	if (file->f_mode & FMODE_BACKING)
		rec.flags &= ~O_NOATIME;
	if (S_ISCHR(inode->i_mode))
		rec.rdev = inode->i_rdev;
	if (S_ISREG(inode->i_mode))
		rec.size = i_size_read(inode);
	fill_state(file, &rec);
	/* a restarted task itself reopens its files in /proc */
	if (!ckpt_is_proc(file))
		ret = ckpt_dump_opener(ctx, file, &rec.cred);
	if (ret)
		return ret;
	rec.kind = ckpt_pty_kind(file);
	if (rec.kind)
		ret = ckpt_dump_tty(ctx, ckpt_file_tty(file), &rec.inode);
	else
		rec.kind = ckpt_anon_kind(file);
	if (ret)
		return ret;
	if (rec.kind == CKPT_FILE_PTY_SLAVE)
		return dump_by_path(ctx, file, ref, &rec);
	if (rec.kind) {
		/* has no path, or the path is not needed */
	} else if (S_ISFIFO(inode->i_mode)) {
		rec.kind = CKPT_FILE_PIPE;
		ret = ckpt_dump_pipe(ctx, file, &rec.inode);
	} else if (S_ISSOCK(inode->i_mode)) {
		rec.kind = CKPT_FILE_SOCKET;
		ret = ckpt_dump_socket(ctx, file, &rec);
	} else if (is_shmem_object(file)) {
		rec.kind = CKPT_FILE_SHMEM;
		ret = ckpt_dump_inode(ctx, file, rec.kind, &rec.inode);
	} else {
		return dump_by_path(ctx, file, ref, &rec);
	}
	if (!ret)
		ret = ckpt_obj_new(ctx, CKPT_REC_FILE, file, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_FILE, *ref, &rec, sizeof(rec),
				 NULL, 0);
	if (!ret)
		ret = ckpt_dump_anon(ctx, file);
	return ret;
}

/* A directory of overlayfs may get a new inode number at each look-up. */
static bool keeps_number(const struct inode *inode)
{
	return S_ISREG(inode->i_mode) ||
	       (S_ISDIR(inode->i_mode) &&
		inode->i_sb->s_magic != OVERLAYFS_SUPER_MAGIC);
}

static bool same_as_saved(struct file *file, const struct ckpt_file *rec)
{
	const struct inode *inode = file_inode(file);

	if ((inode->i_mode ^ rec->mode) & S_IFMT)
		return false;
	if (S_ISCHR(inode->i_mode) &&
	    (inode->i_rdev != rec->rdev || imajor(inode) != MEM_MAJOR))
		return false;
	return rec->kind != CKPT_FILE_PATH || inode->i_ino == rec->ino ||
	       !keeps_number(inode);
}

static struct file *open_by_path(struct ckpt_ctx *ctx,
				 const struct ckpt_file *rec, const char *name)
{
	char *path = kmemdup_nul(name, rec->path_len, GFP_KERNEL);
	struct file *file;

	if (!path)
		return ERR_PTR(-ENOMEM);
	if (path[0] != '/' || strlen(path) != rec->path_len) {
		kfree(path);
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file name"));
	}
	if (rec->kind == CKPT_FILE_PROC || rec->kind == CKPT_FILE_PROC_MEM)
		file = ckpt_open_gone(ctx, rec, path);
	else
		file = filp_open(path, rec->flags, 0);
	if (IS_ERR(file)) {
		ckpt_err(ctx, PTR_ERR(file), "opening %*pE", rec->path_len, path);
		goto out;
	}
	/* files in /proc need a record of their own kind to be reopened */
	if (rec->kind == CKPT_FILE_PATH && ckpt_is_proc(file)) {
		fput(file);
		file = ERR_PTR(ckpt_err(ctx, -EINVAL,
					"%*pE is in /proc, but was not saved as such",
					rec->path_len, path));
		goto out;
	}
	if (!same_as_saved(file, rec)) {
		fput(file);
		file = ERR_PTR(ckpt_err(ctx, -ESTALE,
					"%*pE is a different file than at the checkpoint",
					rec->path_len, path));
	} else if (rec->gone_len) {
		file = ckpt_open_link(file, name + rec->path_len, rec->gone_len);
		if (IS_ERR(file))
			ckpt_err(ctx, PTR_ERR(file),
				 "opening %*pE by its unlinked name",
				 rec->path_len, path);
	}
out:
	kfree(path);
	return file;
}

static bool state_ok(const struct ckpt_file *rec)
{
	if (rec->flags & __O_TMPFILE && rec->kind != CKPT_FILE_DELETED)
		return false;
	if (rec->cred && (rec->kind == CKPT_FILE_PROC ||
			  rec->kind == CKPT_FILE_PROC_MEM))
		return false;
	return !(rec->state & ~(CKPT_FILE_UNCOUNTED | CKPT_FILE_RANDOM |
				CKPT_FILE_NOREUSE)) &&
	       (!rec->gone_len || rec->kind == CKPT_FILE_PATH) &&
	       valid_signal(rec->signum) && rec->write_hint <= WRITE_LIFE_EXTREME;
}

/* Set the offset. Directories may keep more state, which llseek restores. */
static int set_pos(struct ckpt_ctx *ctx, struct file *file, loff_t pos)
{
	if (!(file->f_mode & FMODE_LSEEK))
		return 0;
	if (!S_ISDIR(file_inode(file)->i_mode)) {
		file->f_pos = pos;
		return 0;
	}
	if (pos && vfs_llseek(file, pos, SEEK_SET) != pos)
		return ckpt_err(ctx, -ESTALE,
				"%pD: seeking the directory to its saved position",
				file);
	return 0;
}

/* Restore the offset and the state that fcntl(2) and posix_fadvise(2) set. */
static int set_state(struct ckpt_ctx *ctx, struct file *file,
		     const struct ckpt_file *rec)
{
	struct inode *inode = file_inode(file);
	int ret = set_pos(ctx, file, rec->pos);

	if (!ret && rec->signum)
		ret = file_f_owner_allocate(file);
	if (ret)
		return ret;
	if (rec->signum)
		file_f_owner(file)->signum = rec->signum;
	spin_lock(&file->f_lock);
	if (rec->state & CKPT_FILE_RANDOM)
		file->f_mode |= FMODE_RANDOM;
	if (rec->state & CKPT_FILE_NOREUSE)
		file->f_mode |= FMODE_NOREUSE;
	spin_unlock(&file->f_lock);
	/* the inode may still have the hint, or a newer one */
	if (rec->write_hint && inode->i_write_hint == WRITE_LIFE_NOT_SET)
		WRITE_ONCE(inode->i_write_hint, rec->write_hint);
	return 0;
}

int ckpt_restore_file(struct ckpt_ctx *ctx)
{
	const struct ckpt_file *rec = (const void *)ctx->rbuf;
	struct ckpt_file copy = *rec;
	u32 ref = ctx->rec.objref;
	struct file *file;
	int ret;

	if ((u64)rec->path_len + rec->gone_len != ctx->rec.len - sizeof(*rec) ||
	    (rec->pos < 0 && rec->kind != CKPT_FILE_PROC_MEM) ||
	    rec->flags & ~(KEPT_FLAGS | __O_TMPFILE) || !state_ok(rec))
		return ckpt_err(ctx, -EINVAL, "malformed file");
	switch (rec->kind) {
	case CKPT_FILE_PATH:
		file = open_by_path(ctx, rec, (const char *)(rec + 1));
		break;
	case CKPT_FILE_PROC:
	case CKPT_FILE_PROC_MEM:
		file = open_by_path(ctx, rec, (const char *)(rec + 1));
		if (IS_ERR(file))
			break;
		ret = ckpt_open_proc(ctx, file, rec);
		if (ret) {
			fput(file);
			return ret;
		}
		break;
	case CKPT_FILE_PTY_MASTER:
	case CKPT_FILE_PTY_SLAVE:
		file = ckpt_open_pty(ctx, rec, (const char *)(rec + 1));
		break;
	case CKPT_FILE_PIPE:
		file = ckpt_open_pipe(ctx, rec);
		break;
	case CKPT_FILE_SOCKET:
		file = ckpt_open_socket(ctx, rec);
		break;
	case CKPT_FILE_DELETED:
	case CKPT_FILE_SHMEM:
		file = ckpt_open_inode(ctx, rec);
		break;
	default:
		/* reads the next record, so @rec is no longer valid */
		file = ckpt_open_anon(ctx, &copy);
	}
	if (IS_ERR(file))
		return ckpt_err(ctx, PTR_ERR(file), "opening file %u", ref);
	ret = set_state(ctx, file, &copy);
	if (!ret)
		ret = ckpt_set_opener(ctx, file, copy.cred);
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_FILE, ref, file);
	if (ret)
		fput(file);
	return ret;
}
