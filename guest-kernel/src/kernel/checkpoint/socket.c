// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unix sockets that are connected to each other, and single unconnected ones. A
 * pair is one object, because a checkpoint may find either end first, and the
 * other may be closed. The state of one end is in socket_end.c, its options in
 * socket_option.c, its name in socket_name.c. Unreceived messages are separate
 * records (message.c), since they can contain open files, even these sockets.
 *
 * State that would prevent a restart from queueing messages is restored after
 * them: shutdowns, a closed peer, and a small send buffer.
 */
#include <linux/file.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <net/af_unix.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

/* Flags of open files of sockets: O_RDWR, and those that F_SETFL can change. */
#define SOCKET_FLAGS	(O_ACCMODE | O_NONBLOCK | O_APPEND | O_NOATIME | \
			 O_LARGEFILE)

/* The one or two restored sockets of an object. */
struct ckpt_sockets_made {
	struct file *files[2];		/* references held */
	bool claimed[2];
	struct ckpt_sockets rec;
};

static int dump_sockets(struct ckpt_ctx *ctx, struct sock *sk,
			struct sock *peer, u32 *ref)
{
	struct ckpt_sockets rec = {
		.type = sk->sk_type,
		.flags = peer ? CKPT_SOCKETS_PAIR : 0,
	};
	char names[2 * UNIX_PATH_MAX];
	int ret;

	ret = ckpt_get_socket_end(ctx, sk, peer, &rec.ends[0], names);
	if (!ret && peer)
		ret = ckpt_get_socket_end(ctx, peer, true, &rec.ends[1],
					  names + rec.ends[0].name_len);
	if (!ret)
		ret = ckpt_obj_new(ctx, CKPT_REC_SOCKETS, sk, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_SOCKETS, *ref, &rec, sizeof(rec),
				 names, rec.ends[0].name_len + rec.ends[1].name_len);
	return ret;
}

/**
 * ckpt_dump_socket - write a socket and its peer
 * @ctx: the checkpoint
 * @file: a socket that has passed ckpt_check_socket()
 * @rec: gets the objref of the sockets, and the index of this end
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_socket(struct ckpt_ctx *ctx, struct file *file,
		     struct ckpt_file *rec)
{
	struct sock *sk = &unix_get_socket(file)->sk;
	struct sock *peer = unix_peer_get(sk);
	int ret = 0;

	/* the end that is found first becomes end 0 */
	rec->rdev = peer && !ckpt_sk_dead(peer) &&
		    ckpt_obj_lookup(ctx, CKPT_REC_SOCKETS, peer, &rec->inode);
	if (!rec->rdev &&
	    !ckpt_obj_lookup(ctx, CKPT_REC_SOCKETS, sk, &rec->inode))
		ret = dump_sockets(ctx, sk, peer, &rec->inode);
	if (peer)
		sock_put(peer);
	return ret;
}

static bool sockets_ok(const struct ckpt_sockets *rec, size_t len)
{
	static const struct ckpt_socket_end none;
	size_t names = (size_t)rec->ends[0].name_len + rec->ends[1].name_len;

	if (rec->type != SOCK_STREAM && rec->type != SOCK_DGRAM &&
	    rec->type != SOCK_SEQPACKET)
		return false;
	if (rec->flags & ~CKPT_SOCKETS_PAIR || !ckpt_socket_end_ok(rec, 0))
		return false;
	if (rec->flags & CKPT_SOCKETS_PAIR ? !ckpt_socket_end_ok(rec, 1) :
	    memcmp(&rec->ends[1], &none, sizeof(none)))
		return false;
	return names == len;
}

/* Create the sockets as socketpair(2) does. */
static int make_sockets(struct ckpt_sockets_made *made)
{
	int i, n = made->rec.flags & CKPT_SOCKETS_PAIR ? 2 : 1, ret;
	struct socket *socks[2];

	for (i = 0; i < n; i++) {
		struct file *file;

		ret = sock_create(AF_UNIX, made->rec.type, 0, &socks[i]);
		if (ret)
			return ret;
		file = sock_alloc_file(socks[i], O_RDWR, NULL);
		if (IS_ERR(file))
			return PTR_ERR(file);
		made->files[i] = file;
	}
	return n == 2 ? READ_ONCE(socks[0]->ops)->socketpair(socks[0], socks[1]) : 0;
}

void ckpt_free_sockets(struct ckpt_sockets_made *made)
{
	int i;

	for (i = 0; i < 2; i++)
		if (made->files[i])
			__fput_sync(made->files[i]);
	kfree(made);
}

int ckpt_restore_sockets(struct ckpt_ctx *ctx)
{
	const struct ckpt_sockets *rec = (const void *)ctx->rbuf;
	const char *name = (const char *)(rec + 1);
	struct ckpt_sockets_made *made;
	int i, ret;

	if (!sockets_ok(rec, ctx->rec.len - sizeof(*rec)))
		return ckpt_err(ctx, -EINVAL, "malformed sockets");
	made = kzalloc(sizeof(*made), GFP_KERNEL_ACCOUNT);
	if (!made)
		return -ENOMEM;
	made->rec = *rec;
	ret = make_sockets(made);
	for (i = 0; i < 2 && !ret; i++) {
		if (!made->files[i])
			break;
		ret = ckpt_set_socket_end(ctx, made->files[i], &rec->ends[i], name);
		name += rec->ends[i].name_len;
	}
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_SOCKETS, ctx->rec.objref,
				      made);
	if (ret)
		ckpt_free_sockets(made);
	return ret ? ckpt_err(ctx, ret, "restoring sockets") : 0;
}

/* Claim the open file of a restored socket; each socket has one. */
struct file *ckpt_open_socket(struct ckpt_ctx *ctx, const struct ckpt_file *rec)
{
	struct ckpt_sockets_made *made;
	struct file *file;

	made = ckpt_obj_fetch(ctx, CKPT_REC_SOCKETS, rec->inode);
	if (IS_ERR(made))
		return ERR_CAST(made);
	if (rec->rdev > 1 || rec->path_len || rec->pos ||
	    rec->flags & ~SOCKET_FLAGS || (rec->flags & O_ACCMODE) != O_RDWR)
		return ERR_PTR(ckpt_err(ctx, -EINVAL, "malformed file"));
	file = made->files[rec->rdev];
	if (!file || made->claimed[rec->rdev] ||
	    made->rec.ends[rec->rdev].flags & CKPT_SOCKET_CLOSED)
		return ERR_PTR(ckpt_err(ctx, -EINVAL,
					"a file of a socket that is closed or has a file already"));
	made->claimed[rec->rdev] = true;
	file->f_flags = rec->flags;
	return get_file(file);
}

/*
 * Close the ends that were closed, and restore the state that would have
 * prevented queueing messages.
 */
static int settle(struct ckpt_ctx *ctx, struct ckpt_sockets_made *made)
{
	const struct ckpt_socket_end *end;
	struct sock *sk;
	int i;

	for (i = 0; i < 2; i++) {
		if (!made->files[i] || made->claimed[i])
			continue;
		if (!(made->rec.ends[i].flags & CKPT_SOCKET_CLOSED))
			return ckpt_err(ctx, -EINVAL, "a socket without an open file");
		/* the socket stays for its messages */
		sk = sock_from_file(made->files[i])->sk;
		WRITE_ONCE(sk->sk_sndbuf, made->rec.ends[i].sndbuf);
		__fput_sync(made->files[i]);
		made->files[i] = NULL;
	}
	for (i = 0; i < 2; i++) {
		if (!made->files[i])
			continue;
		end = &made->rec.ends[i];
		sk = sock_from_file(made->files[i])->sk;
		unix_state_lock(sk);
		sk->sk_sndbuf = end->sndbuf;
		sk->sk_shutdown = end->shutdown;
		sk->sk_err = end->error;
		unix_state_unlock(sk);
	}
	return 0;
}

/**
 * ckpt_settle_sockets - complete the sockets after all messages are queued
 * @ctx: the restart; all tasks have parked
 *
 * Called before items are added to epoll files, which check sockets for events.
 *
 * Return: 0 or -EINVAL.
 */
int ckpt_settle_sockets(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj;
	unsigned long i;
	int ret;

	xa_for_each(&ctx->objs, i, obj) {
		if (obj->type != CKPT_REC_SOCKETS)
			continue;
		ret = settle(ctx, obj->ptr);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * ckpt_publish_sockets - make the sockets visible by their names
 * @ctx: the restart, about to release its tasks
 */
void ckpt_publish_sockets(struct ckpt_ctx *ctx)
{
	struct ckpt_sockets_made *made;
	struct ckpt_obj *obj;
	unsigned long i;
	int end;

	xa_for_each(&ctx->objs, i, obj) {
		if (obj->type != CKPT_REC_SOCKETS)
			continue;
		made = obj->ptr;
		for (end = 0; end < 2; end++)
			if (made->files[end])
				ckpt_unix_hide(sock_from_file(made->files[end])->sk,
					       false);
	}
}
