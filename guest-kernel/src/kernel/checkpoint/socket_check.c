// SPDX-License-Identifier: GPL-2.0-only
/*
 * Refuses sockets that cannot be saved, and sockets shared with tasks outside
 * the tree.
 */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/un.h>
#include <net/af_unix.h>
#include <net/scm.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

static int check_connection(struct ckpt_ctx *ctx, const struct sock *sk,
			    const struct sock *peer)
{
	const struct unix_address *addr = ckpt_sk_name(sk);
	int state = READ_ONCE(sk->sk_state);

	if (state == TCP_LISTEN)
		return ckpt_err(ctx, -EOPNOTSUPP, "a listening socket");
	if (!ckpt_sk_abstract(addr))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket with the name %*pE in a file system",
				(int)strnlen(addr->name[0].sun_path,
					     addr->len - CKPT_NAME_OFFSET),
				addr->name[0].sun_path);
	if (peer == sk)
		return ckpt_err(ctx, -EOPNOTSUPP, "a socket connected to itself");
	if (peer && !ckpt_sk_dead(peer) && READ_ONCE(unix_peer(peer)) != sk)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket whose peer is not connected to it");
	if (peer && ckpt_sk_dead(peer) && !ckpt_sk_abstract(ckpt_sk_name(peer)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket whose peer had a name in a file system");
	if (peer ? state != TCP_ESTABLISHED :
		   state != TCP_CLOSE && sk->sk_type != SOCK_DGRAM)
		return ckpt_err(ctx, -EOPNOTSUPP, "a socket in state %d", state);
	return 0;
}

static int check_peer_cred(struct ckpt_ctx *ctx, struct sock *sk)
{
	const struct cred *cred;
	bool foreign;

	spin_lock(&sk->sk_peer_lock);
	cred = sk->sk_peer_cred;
	foreign = cred && cred->user_ns != ctx->root->real_cred->user_ns;
	spin_unlock(&sk->sk_peer_lock);
	if (foreign)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket with a peer from a different user namespace");
	return 0;
}

/**
 * ckpt_check_socket - check that a socket can be saved
 * @ctx: the checkpoint
 * @file: a socket, or the name of a socket in a file system
 *
 * ckpt_check_sockets() checks for users outside the tree.
 *
 * Return: 0 or -EOPNOTSUPP.
 */
int ckpt_check_socket(struct ckpt_ctx *ctx, struct file *file)
{
	struct unix_sock *u = unix_get_socket(file);
	struct socket *sock = sock_from_file(file);
	struct sock *peer;
	int ret;

	if (!sock || file->f_mode & FMODE_PATH)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%pD: the name of a socket in a file system", file);
	if (!u)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket of address family %d",
				sock->sk ? sock->sk->sk_family : AF_UNSPEC);
	if (sock_net(&u->sk) != ctx->nsproxy->net_ns)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket in a different network namespace");
	if (ckpt_has_unsaved_options(&u->sk))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket with options that are not saved");
	peer = unix_peer_get(&u->sk);
	ret = check_connection(ctx, &u->sk, peer);
	if (peer)
		sock_put(peer);
	return ret ?: check_peer_cred(ctx, &u->sk);
}

/* Return the open file of a socket without a reference, for comparison only. */
static struct file *file_of(struct sock *sk)
{
	struct file *file;

	read_lock_bh(&sk->sk_callback_lock);
	file = sk->sk_socket ? sk->sk_socket->file : NULL;
	read_unlock_bh(&sk->sk_callback_lock);
	return file;
}

static int check_outside(struct ckpt_ctx *ctx, struct ckpt_obj *obj)
{
	struct file *file = obj->ptr;
	struct sock *peer;
	bool outside;
	u32 ref;

	peer = unix_peer_get(&unix_get_socket(file)->sk);
	outside = peer && !ckpt_sk_dead(peer) &&
		  !ckpt_obj_lookup(ctx, CKPT_REC_FILE, file_of(peer), &ref);
	if (peer)
		sock_put(peer);
	if (outside)
		return ckpt_err(ctx, -EBUSY,
				"socket:[%lu] is connected to a socket outside the tree or not accepted yet",
				file_inode(file)->i_ino);
	/* the object table holds a reference, too */
	if (file_count(file) != obj->uses + 1)
		return ckpt_err(ctx, -EBUSY,
				"socket:[%lu] is held %ld times, %u of them in the tree",
				file_inode(file)->i_ino, file_count(file) - 1,
				obj->uses);
	return 0;
}

/**
 * ckpt_check_sockets - refuse sockets connected to, or held, outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Return: 0; -EBUSY; or -EOPNOTSUPP for an epoll file in flight that is in no
 * descriptor table: its items refer to the descriptors of a table.
 */
int ckpt_check_sockets(struct ckpt_ctx *ctx)
{
	struct ckpt_obj *obj;
	unsigned long i;
	int ret = 0;

	xa_for_each(&ctx->objs, i, obj) {
		if (obj->type != CKPT_REC_FILE)
			continue;
		if (ckpt_is_epoll(obj->ptr) && !obj->written)
			return ckpt_err(ctx, -EOPNOTSUPP,
					"an epoll file in flight on a socket");
		if (unix_get_socket(obj->ptr))
			ret = check_outside(ctx, obj);
		if (ret)
			return ret;
	}
	return 0;
}

/*
 * Run the garbage collector of sockets in flight, which does not collect
 * sockets that the object table holds.
 */
void ckpt_collect_sockets(void)
{
	if (READ_ONCE(unix_tot_inflight))
		unix_gc();
}
