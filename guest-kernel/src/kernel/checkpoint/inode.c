// SPDX-License-Identifier: GPL-2.0
/*
 * Content that no path leads to: files that were unlinked while open, and
 * shared anonymous memory. Holes stay holes.
 */
#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uidgid.h>

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

int ckpt_dump_inode(struct ckpt_ctx *ctx, struct file *file, u32 kind, u32 *ref)
{
	/* a mapping of overlayfs holds the file below: its user's is meant */
	const struct path *path = file_user_path(file);
	struct inode *inode = d_inode(path->dentry);
	struct ckpt_inode rec = {
		.kind = kind,
		.mode = inode->i_mode,
		.uid = from_kuid_munged(ctx->root->real_cred->user_ns, inode->i_uid),
		.gid = from_kgid_munged(ctx->root->real_cred->user_ns, inode->i_gid),
		.size = i_size_read(inode),
		.ino = inode->i_ino,
	};
	struct file *reader;
	const char *name;
	bool deleted;
	int ret;

	if (ckpt_obj_lookup(ctx, CKPT_REC_INODE, inode, ref))
		return 0;
	if (kind == CKPT_FILE_DELETED) {
		if (inode->i_nlink)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"%pD: unlinked, but with another name left",
					file);
		name = ckpt_path(ctx, path, ctx->page_buf, &deleted);
		if (IS_ERR(name))
			return PTR_ERR(name);
	} else {
		name = file->f_path.dentry->d_name.name;
		rec.seals = SHMEM_I(inode)->seals;
	}
	rec.path_len = strlen(name);
	ret = ckpt_obj_new(ctx, CKPT_REC_INODE, inode, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_INODE, *ref, &rec, sizeof(rec),
				 name, rec.path_len);
	if (ret)
		return ret;
	/* who watches it is not to see this */
	reader = dentry_open(path, O_RDONLY | O_LARGEFILE | __FMODE_NONOTIFY,
			     current_cred());
	if (IS_ERR(reader))
		return ckpt_err(ctx, PTR_ERR(reader), "%pD: reading it", file);
	ret = dump_data(ctx, reader);
	fput(reader);
	return ret ? ckpt_err(ctx, ret, "%pD: reading it", file) : 0;
}

static int unlink_open(struct file *file)
{
	struct dentry *dentry = file->f_path.dentry;
	struct dentry *dir = dget_parent(dentry);
	int ret;

	/* a second reference, or d_delete() would take the inode away */
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

/*
 * Under its old name where that is free, so that /proc shows what it showed;
 * else without one.
 */
static struct file *create_deleted(struct ckpt_ctx *ctx, char *path, umode_t mode)
{
	struct file *file;
	char *slash;
	int ret;

	file = filp_open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR |
			 O_LARGEFILE, mode);
	if (!IS_ERR(file)) {
		ret = unlink_open(file);
		if (!ret)
			return file;
		fput(file);
		return ERR_PTR(ret);
	}
	if (file != ERR_PTR(-EEXIST))
		return file;
	slash = strrchr(path, '/');
	slash[slash == path] = '\0';
	return filp_open(path, O_TMPFILE | O_RDWR | O_LARGEFILE, mode);
}

static int set_owner(struct file *file, const struct ckpt_inode *rec)
{
	struct inode *inode = file_inode(file);
	struct iattr attr = {
		.ia_valid = ATTR_MODE,
		.ia_mode = S_IFREG | (rec->mode & S_IALLUGO),
	};
	int ret;

	attr.ia_uid = make_kuid(current_user_ns(), rec->uid);
	attr.ia_gid = make_kgid(current_user_ns(), rec->gid);
	if (!uid_valid(attr.ia_uid) || !gid_valid(attr.ia_gid))
		return -EINVAL;
	if (!uid_eq(attr.ia_uid, inode->i_uid))
		attr.ia_valid |= ATTR_UID;
	if (!gid_eq(attr.ia_gid, inode->i_gid))
		attr.ia_valid |= ATTR_GID;
	attr.ia_vfsuid = VFSUIDT_INIT(attr.ia_uid);
	attr.ia_vfsgid = VFSGIDT_INIT(attr.ia_gid);
	inode_lock(inode);
	ret = notify_change(file_mnt_idmap(file), file->f_path.dentry, &attr,
			    NULL);
	inode_unlock(inode);
	return ret;
}

static int fill_inode(struct ckpt_ctx *ctx, struct file *file, s64 size)
{
	const struct ckpt_data *rec = (const void *)ctx->rbuf;
	loff_t last = 0;
	int ret;

	for (;;) {
		loff_t pos;
		ssize_t n;

		ret = ckpt_read(ctx);
		if (ret)
			return ret;
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

static struct file *create_inode(struct ckpt_ctx *ctx,
				 const struct ckpt_inode *rec, char *name)
{
	if (rec->kind == CKPT_FILE_SHMEM)
		return shmem_file_setup(name, 0, VM_NORESERVE);
	if (name[0] != '/')
		return ERR_PTR(-EINVAL);
	return create_deleted(ctx, name, 0600);
}

int ckpt_restore_inode(struct ckpt_ctx *ctx)
{
	struct ckpt_inode rec = *(const struct ckpt_inode *)ctx->rbuf;
	u32 ref = ctx->rec.objref;
	struct file *file;
	char *name;
	int ret;

	if ((rec.kind != CKPT_FILE_DELETED && rec.kind != CKPT_FILE_SHMEM) ||
	    !S_ISREG(rec.mode) || rec.size < 0 || !rec.path_len ||
	    rec.path_len != ctx->rec.len - sizeof(rec) ||
	    rec.seals & ~SHMEM_SEALS)
		return ckpt_err(ctx, -EINVAL, "malformed inode");
	name = kmemdup_nul(ctx->rbuf + sizeof(rec), rec.path_len, GFP_KERNEL);
	if (!name)
		return -ENOMEM;
	file = create_inode(ctx, &rec, name);
	if (IS_ERR(file)) {
		ret = ckpt_err(ctx, PTR_ERR(file), "creating deleted %*pE",
			       rec.path_len, name);
		kfree(name);
		return ret;
	}
	kfree(name);
	ret = set_owner(file, &rec);
	if (!ret)
		ret = fill_inode(ctx, file, rec.size);
	if (!ret && rec.kind == CKPT_FILE_SHMEM)
		SHMEM_I(file_inode(file))->seals = rec.seals;
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_INODE, ref, file);
	if (ret)
		fput(file);
	return ret ? ckpt_err(ctx, ret, "a deleted file") : 0;
}

struct file *ckpt_open_inode(struct ckpt_ctx *ctx, const struct ckpt_file *rec)
{
	struct file *keeper = ckpt_obj_fetch(ctx, CKPT_REC_INODE, rec->inode);

	if (IS_ERR(keeper))
		return keeper;
	return dentry_open(&keeper->f_path, rec->flags & ~O_NOFOLLOW,
			   current_cred());
}
