// SPDX-License-Identifier: GPL-2.0-only
/*
 * Content of inodes without a path: files that were unlinked while open, and
 * shared anonymous memory. Holes are preserved.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
/* needs declarations of fs.h */
#include <linux/fileattr.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pid_namespace.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/xattr.h>

#include "ckpt.h"

#define DATA_CHUNK	(64 * 1024)
#define SHMEM_SEALS	(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | \
			 F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC)

static int dump_data(struct ckpt_ctx *ctx, struct file *file)
{
	loff_t pos = 0, size = i_size_read(file_inode(file)), hole;
	struct ckpt_data rec = { };
	char *buf;
	int ret = 0;

	buf = kvmalloc(DATA_CHUNK, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	while (pos < size && !ret) {
		pos = vfs_llseek(file, pos, SEEK_DATA);
		if (pos == -ENXIO)
			break;
		hole = pos < 0 ? pos : vfs_llseek(file, pos, SEEK_HOLE);
		if (hole < 0) {
			ret = hole;
			break;
		}
		while (pos < hole && !ret) {
			ssize_t n;

			rec.offset = pos;
			n = kernel_read(file, buf,
					min_t(loff_t, hole - pos, DATA_CHUNK),
					&pos);
			if (n <= 0) {
				ret = n ?: -EIO;
				break;
			}
			rec.len = n;
			ret = ckpt_write(ctx, CKPT_REC_DATA, 0, &rec,
					 sizeof(rec), buf, n);
		}
	}
	kvfree(buf);
	if (ret)
		return ret;
	rec.offset = size;
	rec.len = 0;
	return ckpt_write(ctx, CKPT_REC_DATA, 0, &rec, sizeof(rec), NULL, 0);
}

/*
 * Check that the tree has the file open for reading, or that the caller may
 * read it. Tasks can hold a path, write to a file and execute a program without
 * the right to read, and the image must not disclose the file's content.
 */
static int check_readable(struct ckpt_ctx *ctx, struct file *file,
			  const struct path *path)
{
	int ret;

	if (file->f_mode & FMODE_READ && !(file->f_flags & __FMODE_EXEC))
		return 0;
	ret = path_permission(path, MAY_READ);
	if (ckpt_broken(CKPT_BREAK_GUARD_READABLE))
		ret = 0;
	return ret ? ckpt_err(ctx, ret,
			      "%pD: it has no name, so its content must be saved, but the caller may not read it",
			      file) : 0;
}

/* Attributes of FS_IOC_SETFLAGS that are saved: independent of file systems. */
#define KEPT_ATTRS	(FS_SECRM_FL | FS_UNRM_FL | FS_SYNC_FL | \
			 FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | \
			 FS_NOATIME_FL)

static int get_attrs(struct dentry *dentry, u32 *attrs)
{
	struct fileattr fa = { };
	int ret = vfs_fileattr_get(dentry, &fa);

	*attrs = fa.flags & FS_FL_USER_MODIFIABLE;
	/* errors of file systems without attributes */
	return ret == -ENOIOCTLCMD || ret == -ENOTTY || ret == -EOPNOTSUPP ?
		0 : ret;
}

/* Fill in the fields of shmem inodes. Only the tree can read their times. */
static void fill_shmem(struct inode *inode, struct ckpt_inode *rec)
{
	struct shmem_inode_info *info = SHMEM_I(inode);
	struct timespec64 ctime = inode_get_ctime(inode);

	if (info->flags & VM_NORESERVE)
		rec->flags |= CKPT_INODE_NORESERVE;
	rec->seals = info->seals;
	rec->ctime = ctime.tv_sec;
	rec->ctime_nsec = ctime.tv_nsec;
	rec->btime = info->i_crtime.tv_sec;
	rec->btime_nsec = info->i_crtime.tv_nsec;
}

static int fill_rec(struct ckpt_ctx *ctx, struct file *file,
		    struct dentry *dentry, struct ckpt_inode *rec)
{
	struct inode *inode = d_inode(dentry);
	struct timespec64 atime = inode_get_atime(inode);
	struct timespec64 mtime = inode_get_mtime(inode);
	int ret;

	rec->mode = inode->i_mode;
	rec->size = i_size_read(inode);
	rec->ino = inode->i_ino;
	rec->atime = atime.tv_sec;
	rec->atime_nsec = atime.tv_nsec;
	rec->mtime = mtime.tv_sec;
	rec->mtime_nsec = mtime.tv_nsec;
	rec->write_hint = inode->i_write_hint;
	if (inode->i_state & I_LINKABLE)
		rec->flags |= CKPT_INODE_LINKABLE;
	if (rec->kind == CKPT_FILE_SHMEM)
		fill_shmem(inode, rec);
	ret = ckpt_get_owner(ctx, inode, "inode", &rec->uid, &rec->gid);
	if (ret)
		return ret;
	ret = get_attrs(dentry, &rec->attrs);
	if (!ret && rec->attrs & ~KEPT_ATTRS)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%pD: has no name, but attributes %#x (see lsattr)",
				file, rec->attrs & ~KEPT_ATTRS);
	if (!ret && vfs_listxattr(dentry, NULL, 0) > 0)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%pD: has no name, but extended attributes or an ACL",
				file);
	return ret ? ckpt_err(ctx, ret, "reading the attributes of %pD", file) : 0;
}

int ckpt_dump_inode(struct ckpt_ctx *ctx, struct file *file, u32 kind, u32 *ref)
{
	/* for a backing file of overlayfs, the path that user space sees */
	const struct path *path = file_user_path(file);
	struct inode *inode = d_inode(path->dentry);
	struct ckpt_inode rec = { .kind = kind };
	struct file *reader;
	const char *name;
	bool deleted;
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_INODE, inode, ref))
		return 0;
	if (kind == CKPT_FILE_DELETED && inode->i_nlink)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%pD: unlinked, but it still has a different name",
				file);
	ret = check_readable(ctx, file, path);
	if (!ret)
		ret = fill_rec(ctx, file, path->dentry, &rec);
	if (ret)
		return ret;
	if (kind == CKPT_FILE_DELETED) {
		name = ckpt_path(ctx, path, ctx->page_buf, &deleted);
		if (IS_ERR(name))
			return PTR_ERR(name);
	} else {
		name = file->f_path.dentry->d_name.name;
	}
	rec.path_len = strlen(name);
	ret = ckpt_obj_new(ctx, CKPT_REC_INODE, inode, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_INODE, *ref, &rec, sizeof(rec),
				 name, rec.path_len);
	if (ret || ctx->check_only)
		return ret;
	/* reading must not cause inotify events or change the access time */
	reader = dentry_open(path, O_RDONLY | O_LARGEFILE | O_NOATIME |
			     __FMODE_NONOTIFY, current_cred());
	if (IS_ERR(reader))
		return ckpt_err(ctx, PTR_ERR(reader), "opening %pD to read it",
				file);
	ret = dump_data(ctx, reader);
	/*
	 * synchronously, because outside.c counts the open files of the inode
	 */
	__fput_sync(reader);
	return ret ? ckpt_err(ctx, ret, "reading %pD", file) : 0;
}

static int unlink_open(struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	struct dentry *dir = dget_parent(dentry);
	int ret;

	/* without a second reference d_delete() would detach the inode */
	dget(dentry);
	ret = mnt_want_write(file->f_path.mnt);
	if (!ret) {
		inode_lock_nested(d_inode(dir), I_MUTEX_PARENT);
		ret = -ENOENT;
		if (dentry->d_parent == dir)
			ret = vfs_unlink(file_mnt_idmap(file), d_inode(dir),
					 dentry, NULL);
		inode_unlock(d_inode(dir));
		mnt_drop_write(file->f_path.mnt);
	}
	dput(dentry);
	dput(dir);
	return ret;
}

/* Create an unlinked file on a file system without O_TMPFILE. */
static struct file *create_unlinked(const char *path)
{
	struct file *file;
	int ret;

	file = filp_open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR |
			 O_LARGEFILE, 0600);
	if (IS_ERR(file))
		return file;
	ret = unlink_open(file);
	if (!ret)
		return file;
	fput(file);
	return ERR_PTR(ret);
}

/*
 * Create an unlinked file that /proc shows under its old path. If its directory
 * no longer exists, create it in the nearest existing ancestor directory.
 */
static struct file *create_deleted(char *path, bool linkable)
{
	int flags = O_TMPFILE | O_RDWR | O_LARGEFILE | (linkable ? 0 : O_EXCL);
	size_t len = strlen(path);
	struct file *file;
	int ret;

	do {
		char was;

		while (path[--len] != '/')
			;
		was = path[len ?: 1];
		path[len ?: 1] = '\0';
		file = filp_open(path, flags, 0600);
		path[len ?: 1] = was;
	} while (len && (file == ERR_PTR(-ENOENT) || file == ERR_PTR(-ENOTDIR)));
	if ((file == ERR_PTR(-EOPNOTSUPP) || file == ERR_PTR(-EISDIR)) && !linkable)
		return create_unlinked(path);
	if (IS_ERR(file))
		return file;
	ret = ckpt_d_name(file->f_path.dentry, path + len + 1);
	if (!ret)
		return file;
	fput(file);
	return ERR_PTR(ret);
}

static int set_attrs(struct file *file, u32 wanted)
{
	struct dentry *dentry = file->f_path.dentry;
	struct fileattr fa = { };
	u32 attrs;
	int ret = get_attrs(dentry, &attrs);

	/* a new file inherits attributes from its directory */
	if (ret || (attrs & KEPT_ATTRS) == wanted)
		return ret;
	ret = vfs_fileattr_get(dentry, &fa);
	if (ret)
		return ret;
	fileattr_fill_flags(&fa, (fa.flags & ~KEPT_ATTRS) | wanted);
	return vfs_fileattr_set(file_mnt_idmap(file), dentry, &fa);
}

static void set_shmem(struct inode *inode, const struct ckpt_inode *rec)
{
	const struct ckpt_times times = {
		.atime = rec->atime, .atime_nsec = rec->atime_nsec,
		.mtime = rec->mtime, .mtime_nsec = rec->mtime_nsec,
		.ctime = rec->ctime, .ctime_nsec = rec->ctime_nsec,
	};

	SHMEM_I(inode)->seals = rec->seals;
	SHMEM_I(inode)->i_crtime.tv_sec = rec->btime;
	SHMEM_I(inode)->i_crtime.tv_nsec = rec->btime_nsec;
	ckpt_set_times(inode, &times);
}

/* Called after the content is written, because writing clears setuid bits. */
static int set_rest(struct file *file, const struct ckpt_inode *rec)
{
	struct iattr attr = {
		.ia_valid = ATTR_ATIME | ATTR_ATIME_SET |
			    ATTR_MTIME | ATTR_MTIME_SET,
		.ia_atime = { rec->atime, rec->atime_nsec },
		.ia_mtime = { rec->mtime, rec->mtime_nsec },
	};
	struct inode *inode = file_inode(file);
	int ret;

	ret = ckpt_set_owner(file, rec->uid, rec->gid, rec->mode, &attr);
	if (!ret)
		ret = set_attrs(file, rec->attrs);
	if (ret)
		return ret;
	WRITE_ONCE(inode->i_write_hint, rec->write_hint);
	if (rec->kind != CKPT_FILE_SHMEM)
		return 0;
	set_shmem(inode, rec);
	if (rec->seals & F_SEAL_WRITE)
		return mapping_deny_writable(inode->i_mapping);
	return 0;
}

static int fill_inode(struct ckpt_ctx *ctx, struct file *file, s64 size)
{
	const struct ckpt_data *rec;
	loff_t last = 0;
	int ret;

	for (;;) {
		loff_t pos;
		ssize_t n;

		ret = ckpt_read(ctx);
		if (ret)
			return ret;
		rec = (const void *)ctx->rbuf;
		if (ctx->rec.type != CKPT_REC_DATA ||
		    rec->len != ctx->rec.len - sizeof(*rec) ||
		    rec->offset < last || rec->offset > size ||
		    rec->len > size - rec->offset)
			return ckpt_err(ctx, -EINVAL, "malformed file content");
		if (!rec->len)
			break;
		pos = rec->offset;
		n = kernel_write(file, rec + 1, rec->len, &pos);
		if (n != rec->len)
			return ckpt_err(ctx, n < 0 ? n : -ENOSPC,
					"writing a file's content");
		last = pos;
	}
	if (i_size_read(file_inode(file)) == size)
		return 0;
	return vfs_truncate(&file->f_path, size);
}

#define MEMFD	"memfd:"

/* Enforce vm.memfd_noexec as memfd_create(2) does. */
static int check_noexec(struct ckpt_ctx *ctx, struct ckpt_inode *rec,
			const char *name)
{
	if (pidns_memfd_noexec_scope(task_active_pid_ns(current)) <
	    MEMFD_NOEXEC_SCOPE_NOEXEC_ENFORCED)
		return 0;
	if (rec->seals & F_SEAL_EXEC && !(rec->mode & 0111))
		return 0;
	if (!strncmp(name, MEMFD, strlen(MEMFD)))
		return ckpt_err(ctx, -EACCES,
				"%s is executable, which vm.memfd_noexec forbids",
				name);
	/* anonymous memory has no descriptor to execute: drop the mode bits */
	rec->mode &= ~0111;
	rec->seals |= F_SEAL_EXEC;
	return 0;
}

static struct file *create_inode(struct ckpt_ctx *ctx, struct ckpt_inode *rec,
				 char *name)
{
	bool reserve = !(rec->flags & CKPT_INODE_NORESERVE);
	struct file *file;
	int ret;

	if (rec->kind == CKPT_FILE_SHMEM) {
		ret = check_noexec(ctx, rec, name);
		if (ret)
			return ERR_PTR(ret);
		/* as in mmap(2); a memfd never reserves memory */
		if (strncmp(name, MEMFD, strlen(MEMFD)) &&
		    sysctl_overcommit_memory == OVERCOMMIT_NEVER)
			reserve = true;
		file = shmem_file_setup(name, reserve ? rec->size : 0,
					reserve ? 0 : VM_NORESERVE);
		if (!IS_ERR(file))
			file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
		return file;
	}
	if (name[0] != '/' || !name[1])
		return ERR_PTR(-EINVAL);
	return create_deleted(name, rec->flags & CKPT_INODE_LINKABLE);
}

static bool inode_ok(const struct ckpt_inode *rec, size_t path_len)
{
	if (rec->kind != CKPT_FILE_DELETED && rec->kind != CKPT_FILE_SHMEM)
		return false;
	if (rec->kind == CKPT_FILE_SHMEM ? rec->flags & ~CKPT_INODE_NORESERVE :
	    rec->flags & ~CKPT_INODE_LINKABLE || rec->seals || rec->ctime ||
	    rec->ctime_nsec || rec->btime || rec->btime_nsec)
		return false;
	return S_ISREG(rec->mode) && rec->mode <= (S_IFREG | S_IALLUGO) &&
	       rec->size >= 0 && rec->path_len &&
	       rec->path_len == path_len && !(rec->seals & ~SHMEM_SEALS) &&
	       rec->atime_nsec < NSEC_PER_SEC && rec->mtime_nsec < NSEC_PER_SEC &&
	       rec->ctime_nsec < NSEC_PER_SEC && rec->btime_nsec < NSEC_PER_SEC &&
	       !(rec->attrs & ~KEPT_ATTRS) &&
	       rec->write_hint <= WRITE_LIFE_EXTREME && !rec->pad;
}

/*
 * Replace an open file by an O_PATH one for the object table, because an inode
 * that is open for writing cannot be executed. Consumes @file.
 */
static struct file *as_path(struct file *file)
{
	struct file *keeper = dentry_open(&file->f_path, O_PATH, current_cred());

	__fput_sync(file);
	return keeper;
}

int ckpt_restore_inode(struct ckpt_ctx *ctx)
{
	struct ckpt_inode rec = *(const struct ckpt_inode *)ctx->rbuf;
	u32 ref = ctx->rec.objref;
	struct file *file;
	char *name;
	int ret;

	if (!inode_ok(&rec, ctx->rec.len - sizeof(rec)))
		return ckpt_err(ctx, -EINVAL, "malformed inode");
	name = kmemdup_nul(ctx->rbuf + sizeof(rec), rec.path_len, GFP_KERNEL);
	if (!name)
		return -ENOMEM;
	file = strlen(name) == rec.path_len ? create_inode(ctx, &rec, name) :
					      ERR_PTR(-EINVAL);
	if (IS_ERR(file)) {
		ret = ckpt_err(ctx, PTR_ERR(file), "creating unlinked %*pE",
			       rec.path_len, name);
		kfree(name);
		return ret;
	}
	kfree(name);
	ret = fill_inode(ctx, file, rec.size);
	if (!ret)
		ret = set_rest(file, &rec);
	if (!ret && rec.kind == CKPT_FILE_DELETED) {
		file = as_path(file);
		if (IS_ERR(file))
			return PTR_ERR(file);
	}
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_INODE, ref, file);
	if (ret)
		__fput_sync(file);
	return ret ? ckpt_err(ctx, ret, "restoring an unlinked file") : 0;
}

/* Open as memfd_create(2) does: not counted as a writer of the inode. */
static struct file *open_uncounted(struct file *keeper, u32 flags)
{
	struct file *file;

	if ((flags & O_ACCMODE) != O_RDWR ||
	    flags & ~(O_ACCMODE | O_LARGEFILE | O_APPEND | O_NONBLOCK | O_NOATIME))
		return ERR_PTR(-EINVAL);
	file = alloc_file_clone(keeper, flags, keeper->f_op);
	if (!IS_ERR(file))
		file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	return file;
}

struct file *ckpt_open_inode(struct ckpt_ctx *ctx, const struct ckpt_file *rec)
{
	struct file *keeper = ckpt_obj_fetch(ctx, CKPT_REC_INODE, rec->inode);
	struct file *file;

	if (IS_ERR(keeper))
		return keeper;
	if (!(rec->state & CKPT_FILE_UNCOUNTED)) {
		file = dentry_open(&keeper->f_path, rec->flags & ~__O_TMPFILE,
				   current_cred());
		/* F_GETFL reports O_TMPFILE */
		if (!IS_ERR(file))
			file->f_flags |= rec->flags & __O_TMPFILE;
		return file;
	}
	if (rec->kind != CKPT_FILE_SHMEM || !shmem_mapping(keeper->f_mapping))
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file"));
	return open_uncounted(keeper, rec->flags);
}
