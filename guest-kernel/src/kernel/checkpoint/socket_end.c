// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of one Unix socket: buffer sizes, peer credentials, owner and times
 * of its inode. Options are in socket_option.c, the name is in socket_name.c.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/pid.h>
#include <net/af_unix.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

static int get_peer_cred(struct ckpt_ctx *ctx, struct sock *sk,
			 struct ckpt_socket_end *end)
{
	const struct cred *cred;
	int ret = 0;

	spin_lock(&sk->sk_peer_lock);
	end->peer_pid = pid_nr_ns(sk->sk_peer_pid, ctx->pidns);
	cred = get_cred(sk->sk_peer_cred);
	spin_unlock(&sk->sk_peer_lock);
	if (cred)
		ret = ckpt_dump_cred(ctx, cred, &end->peer_cred);
	put_cred(cred);
	return ret;
}

/* Get owner, mode and times of the socket's inode. */
static int get_inode(struct ckpt_ctx *ctx, struct sock *sk,
		     struct ckpt_socket_end *end)
{
	struct inode *inode = NULL;
	int ret;

	read_lock_bh(&sk->sk_callback_lock);
	if (sk->sk_socket)
		inode = igrab(SOCK_INODE(sk->sk_socket));
	read_unlock_bh(&sk->sk_callback_lock);
	/*
	 * not accepted yet, or being closed outside; ckpt_check_sockets()
	 * refuses both
	 */
	if (!inode)
		return 0;
	end->mode = inode->i_mode;
	ckpt_get_times(inode, &end->times);
	ret = ckpt_get_owner(ctx, inode, "socket", &end->uid, &end->gid);
	iput(inode);
	return ret;
}

/**
 * ckpt_get_socket_end - read the state of a socket
 * @ctx: the checkpoint
 * @sk: the socket
 * @paired: true if it is connected to the other end of its object
 * @end: gets the state
 * @name: gets the name; UNIX_PATH_MAX bytes
 *
 * Return: 0 or a negative errno.
 */
int ckpt_get_socket_end(struct ckpt_ctx *ctx, struct sock *sk, bool paired,
			struct ckpt_socket_end *end, char *name)
{
	const struct unix_address *addr = ckpt_sk_name(sk);
	int ret;

	if (addr) {
		end->name_len = addr->len - CKPT_NAME_OFFSET;
		memcpy(name, addr->name[0].sun_path, end->name_len);
		/* only a socket that is bound to the name is hashed by it */
		if (ckpt_sk_dead(sk) || sk->sk_hash < UNIX_HASH_SIZE / 2)
			end->flags |= CKPT_SOCKET_NAME_FREE;
	}
	/*
	 * also if the socket is closed, because its messages may still be
	 * queued
	 */
	end->sndbuf = sk->sk_sndbuf;
	if (ckpt_sk_dead(sk)) {
		end->flags |= CKPT_SOCKET_CLOSED;
		return 0;
	}
	end->flags |= ckpt_get_socket_flags(sk, paired);
	end->shutdown = sk->sk_shutdown;
	end->error = sk->sk_err;
	end->rcvbuf = sk->sk_rcvbuf;
	end->rcvlowat = sk->sk_rcvlowat;
	end->peek_off = sk->sk_peek_off;
	end->linger = min(sk->sk_lingertime / HZ, (unsigned long)INT_MAX);
	end->rcvtimeo = ckpt_timeo_to_ns(sk->sk_rcvtimeo);
	end->sndtimeo = ckpt_timeo_to_ns(sk->sk_sndtimeo);
	if (sk->sk_type == SOCK_DGRAM)
		end->backlog = READ_ONCE(sk->sk_max_ack_backlog);
	ret = get_inode(ctx, sk, end);
	return ret ?: get_peer_cred(ctx, sk, end);
}

#define END_FLAGS	(CKPT_SOCKET_RCVBUF * 2 - 1)

/**
 * ckpt_socket_end_ok - check the record of a socket
 * @rec: the record of both ends
 * @i: index of the end
 *
 * Return: true if it describes a state that a socket can have.
 */
bool ckpt_socket_end_ok(const struct ckpt_sockets *rec, int i)
{
	const struct ckpt_socket_end *end = &rec->ends[i];
	bool pair = rec->flags & CKPT_SOCKETS_PAIR;

	if (end->flags & ~END_FLAGS || end->pad ||
	    end->name_len > UNIX_PATH_MAX ||
	    end->sndbuf < SOCK_MIN_SNDBUF || end->sndbuf > INT_MAX)
		return false;
	if (end->flags & CKPT_SOCKET_NAME_FREE && !end->name_len)
		return false;
	/*
	 * Only two kinds of sockets have a name without being bound to it:
	 * those accepted by a listening socket with that name, and closed ones.
	 */
	if (end->flags & CKPT_SOCKET_NAME_FREE &&
	    !(end->flags & CKPT_SOCKET_CLOSED) &&
	    (!pair || rec->type == SOCK_DGRAM))
		return false;
	if (end->flags & CKPT_SOCKET_CLOSED)
		return i && !(end->flags & ~(CKPT_SOCKET_CLOSED |
					     CKPT_SOCKET_NAME_FREE));
	if (end->flags & CKPT_SOCKET_CONNECTED &&
	    (pair || rec->type != SOCK_DGRAM))
		return false;
	/* a connection whose peer is closed is shut down in both directions */
	if (pair && rec->type != SOCK_DGRAM && end->shutdown != SHUTDOWN_MASK &&
	    rec->ends[!i].flags & CKPT_SOCKET_CLOSED)
		return false;
	if (!S_ISSOCK(end->mode) || end->mode > (S_IFSOCK | S_IALLUGO) ||
	    !ckpt_times_ok(&end->times) ||
	    (end->backlog && rec->type != SOCK_DGRAM))
		return false;
	return !(end->shutdown & ~SHUTDOWN_MASK) &&
	       (!end->error || end->error == ECONNRESET) &&
	       end->rcvbuf >= SOCK_MIN_RCVBUF && end->rcvbuf <= INT_MAX &&
	       end->rcvlowat && end->rcvlowat <= INT_MAX && end->peek_off >= -1 &&
	       end->linger <= INT_MAX && end->peer_pid >= 0;
}

/* The largest sizes that SO_SNDBUF and SO_RCVBUF allow without capabilities. */
static u32 max_sndbuf(void)
{
	return max(min_t(u32, READ_ONCE(sysctl_wmem_max), INT_MAX / 2) * 2,
		   READ_ONCE(sysctl_wmem_default));
}

static u32 max_rcvbuf(void)
{
	return max(min_t(u32, READ_ONCE(sysctl_rmem_max), INT_MAX / 2) * 2,
		   READ_ONCE(sysctl_rmem_default));
}

static int set_peer_cred(struct ckpt_ctx *ctx, struct sock *sk,
			 const struct ckpt_socket_end *end)
{
	const struct cred *cred = NULL;
	struct pid *pid;

	if (end->peer_cred) {
		cred = ckpt_obj_fetch(ctx, CKPT_REC_CRED, end->peer_cred);
		if (IS_ERR(cred))
			return PTR_ERR(cred);
	}
	pid = ckpt_get_pid(ctx, end->peer_pid);
	if (IS_ERR(pid))
		return PTR_ERR(pid);
	spin_lock(&sk->sk_peer_lock);
	swap(sk->sk_peer_pid, pid);
	swap(sk->sk_peer_cred, cred);
	get_cred(sk->sk_peer_cred);
	spin_unlock(&sk->sk_peer_lock);
	put_pid(pid);
	put_cred(cred);
	return 0;
}

/*
 * Set the number of messages that may be queued. A new socket gets the current
 * value of net.unix.max_dgram_qlen; exceeding it requires CAP_NET_ADMIN.
 */
static int set_backlog(struct ckpt_ctx *ctx, struct sock *sk, u32 backlog)
{
	struct net *net = sock_net(sk);

	if (backlog > (u32)READ_ONCE(net->unx.sysctl_max_dgram_qlen) &&
	    !ns_capable(net->user_ns, CAP_NET_ADMIN))
		return ckpt_err(ctx, -EPERM,
				"a datagram socket that queues %u messages, more than net.unix.max_dgram_qlen",
				backlog);
	WRITE_ONCE(sk->sk_max_ack_backlog, backlog);
	return 0;
}

/* Set the owner by the rules of fchown(2), which also sets that of the sock. */
static int set_inode(struct ckpt_ctx *ctx, struct file *file,
		     const struct ckpt_socket_end *end)
{
	struct iattr none = { };
	int ret = ckpt_set_owner(file, end->uid, end->gid, end->mode, &none);

	if (ret)
		return ckpt_err(ctx, ret,
				"setting a socket's owner: uid %u, gid %u, mode %o",
				end->uid, end->gid, end->mode);
	ckpt_set_times(file_inode(file), &end->times);
	return 0;
}

/**
 * ckpt_set_socket_end - restore the state of a socket before messages are
 * queued
 * @ctx: the restart
 * @file: its open file
 * @end: the state, checked by ckpt_socket_end_ok()
 * @name: its name
 *
 * Return: 0 or a negative errno.
 */
int ckpt_set_socket_end(struct ckpt_ctx *ctx, struct file *file,
			const struct ckpt_socket_end *end, const char *name)
{
	struct socket *sock = sock_from_file(file);
	int ret = ckpt_set_socket_name(ctx, sock, end, name);

	if (ret)
		return ret;
	if ((end->sndbuf > max_sndbuf() || end->rcvbuf > max_rcvbuf()) &&
	    !capable(CAP_NET_ADMIN))
		return ckpt_err(ctx, -EPERM,
				"socket buffers of %u and %u bytes need CAP_NET_ADMIN",
				end->sndbuf, end->rcvbuf);
	/* queued messages may exceed a buffer that was made smaller later */
	sock->sk->sk_sndbuf = max(end->sndbuf, max_sndbuf());
	if (end->flags & CKPT_SOCKET_CLOSED)
		return 0;
	ckpt_set_socket_options(sock, end);
	if (sock->type == SOCK_DGRAM)
		ret = set_backlog(ctx, sock->sk, end->backlog);
	if (!ret)
		ret = set_inode(ctx, file, end);
	return ret ?: set_peer_cred(ctx, sock->sk, end);
}
