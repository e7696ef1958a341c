// SPDX-License-Identifier: GPL-2.0-only
/*
 * Objects that several tasks can share. A checkpoint hashes the object's
 * address to its objref; a restart maps the objref to the restored object. The
 * table holds a reference to each object.
 */
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/pipe_fs_i.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/tty.h>
#include <net/sock.h>

#include "ckpt.h"

/* A restart closes synchronously: a pipe end must not outlive the release. */
static void drop_file(struct file *file, bool restart)
{
	if (restart)
		__fput_sync(file);
	else
		fput(file);
}

static void drop_obj(struct ckpt_ctx *ctx, struct ckpt_obj *obj)
{
	bool restart = ctx->rbuf;

	switch (obj->type) {
	case CKPT_REC_MM:
		mmput(obj->ptr);
		break;
	case CKPT_REC_FILE:
		drop_file(obj->ptr, restart);
		break;
	case CKPT_REC_CRED:
		put_cred(obj->ptr);
		break;
	case CKPT_REC_SECCOMP:
		/*
		 * a checkpoint takes no reference, because frozen tasks keep
		 * their filters
		 */
		if (restart)
			ckpt_seccomp_put(obj->ptr);
		break;
	case CKPT_REC_FS:
		if (restart)
			ckpt_put_fs(obj->ptr);
		break;
	case CKPT_REC_FILES:
		if (restart)
			put_files_struct(obj->ptr);
		break;
	case CKPT_REC_TTY:
		if (restart)
			drop_file(obj->ptr, restart);
		else
			tty_kref_put(obj->ptr);
		break;
	case CKPT_REC_SOCKETS:
		if (restart)
			ckpt_free_sockets(obj->ptr);
		else
			sock_put(obj->ptr);
		break;
	case CKPT_REC_PIPE:
	case CKPT_REC_INODE:
		/* restart: an open file that keeps the inode alive */
		if (restart)
			drop_file(obj->ptr, restart);
		else
			iput(obj->ptr);
		break;
	}
	kfree(obj);
}

static void grab_obj(u32 type, void *ptr)
{
	switch (type) {
	case CKPT_REC_MM:
		mmget(ptr);
		break;
	case CKPT_REC_FILE:
		get_file(ptr);
		break;
	case CKPT_REC_CRED:
		get_cred(ptr);
		break;
	case CKPT_REC_TTY:
		tty_kref_get(ptr);
		break;
	case CKPT_REC_SOCKETS:
		sock_hold(ptr);
		break;
	case CKPT_REC_PIPE:
	case CKPT_REC_INODE:
		ihold(ptr);
		break;
	}
}

/**
 * ckpt_obj_lookup - find the objref of an object that is already written
 * @ctx: the checkpoint
 * @type: its record type
 * @ptr: the object
 * @ref: gets its objref
 *
 * Return: 1 if it is written already, else 0.
 */
int ckpt_obj_lookup(struct ckpt_ctx *ctx, u32 type, void *ptr, u32 *ref)
{
	struct ckpt_obj *obj;

	hash_for_each_possible(ctx->by_ptr, obj, node, (unsigned long)ptr) {
		if (obj->ptr == ptr && obj->type == type) {
			*ref = obj->ref;
			return 1;
		}
	}
	return 0;
}

/**
 * ckpt_obj_new - assign an objref to an object that is about to be written
 * @ctx: the checkpoint
 * @type: its record type
 * @ptr: the object
 * @ref: gets its objref
 *
 * Return: 0 or -ENOMEM.
 */
int ckpt_obj_new(struct ckpt_ctx *ctx, u32 type, void *ptr, u32 *ref)
{
	struct ckpt_obj *obj = kzalloc(sizeof(*obj), GFP_KERNEL_ACCOUNT);
	int ret;

	if (!obj)
		return -ENOMEM;
	obj->type = type;
	obj->ref = ctx->nr_objs + 1;
	obj->pid = ctx->cur_pid;
	obj->ptr = ptr;
	ret = xa_err(xa_store(&ctx->objs, obj->ref, obj, GFP_KERNEL_ACCOUNT));
	if (ret) {
		kfree(obj);
		return ret;
	}
	grab_obj(type, ptr);
	hash_add(ctx->by_ptr, &obj->node, (unsigned long)ptr);
	*ref = ++ctx->nr_objs;
	return 0;
}

/**
 * ckpt_obj_insert - store a restored object under its objref
 * @ctx: the restart
 * @type: its record type
 * @ref: its objref
 * @ptr: the object; on success the table owns the caller's reference
 *
 * Return: 0, -EINVAL if the objref is not the next one, -ENOMEM.
 */
int ckpt_obj_insert(struct ckpt_ctx *ctx, u32 type, u32 ref, void *ptr)
{
	struct ckpt_obj *obj;
	int ret;

	if (ref != ctx->nr_objs + 1)
		return ckpt_err(ctx, -EINVAL, "objref %u, expected %u",
				ref, ctx->nr_objs + 1);
	obj = kzalloc(sizeof(*obj), GFP_KERNEL_ACCOUNT);
	if (!obj)
		return -ENOMEM;
	obj->type = type;
	obj->ref = ref;
	obj->ptr = ptr;
	ret = xa_err(xa_store(&ctx->objs, ref, obj, GFP_KERNEL_ACCOUNT));
	if (ret) {
		kfree(obj);
		return ret;
	}
	ctx->nr_objs++;
	return 0;
}

/**
 * ckpt_obj_fetch - return the restored object of an objref
 * @ctx: the restart
 * @type: its record type
 * @ref: its objref
 *
 * Return: the object, without a reference, or ERR_PTR(-EINVAL) if @ref is not
 * an object of that type.
 */
void *ckpt_obj_fetch(struct ckpt_ctx *ctx, u32 type, u32 ref)
{
	struct ckpt_obj *obj = xa_load(&ctx->objs, ref);

	if (!ref || !obj || obj->type != type)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "objref %u is not a %s",
					ref, ckpt_rec_name(type)));
	return obj->ptr;
}

/* Count a descriptor or a message that refers to a file. */
void ckpt_obj_use(struct ckpt_ctx *ctx, u32 ref)
{
	struct ckpt_obj *obj = xa_load(&ctx->objs, ref);

	obj->uses++;
}

/* Count a mapping, or an mm's exe_file, that refers to a file. */
void ckpt_obj_map(struct ckpt_ctx *ctx, u32 ref)
{
	struct ckpt_obj *obj = xa_load(&ctx->objs, ref);

	obj->maps++;
}

void ckpt_obj_free_all(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj;
	unsigned long ref;

	xa_for_each(&ctx->objs, ref, obj)
		drop_obj(ctx, obj);
	xa_destroy(&ctx->objs);
	ckpt_collect_sockets();
}
