// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unix sockets that are connected to each other, and single ones that are not
 * connected at all. The two of a pair are one object, since either may be the
 * one that is met first, or be closed already. What they have not received yet
 * comes later (message.c), since it can hold open files, even their own.
 *
 * A restarted socket gets what would hinder the sending of its messages when
 * these are there: shutdowns, the end of its peer, and a small buffer.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/slab.h>
#include <linux/un.h>
#include <net/af_unix.h>
#include <net/busy_poll.h>
#include <net/scm.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

#define NAME_OFFSET	offsetof(struct sockaddr_un, sun_path)

/* What F_SETFL changes; all are open for reading and writing. */
#define SOCKET_FLAGS	(O_ACCMODE | O_NONBLOCK | O_APPEND | O_NOATIME | \
			 O_LARGEFILE)

/* The two sockets of an object, being restored. */
struct ckpt_sockets_made {
	struct file *files[2];		/* references held */
	bool claimed[2];
	struct ckpt_sockets rec;
};

/* Options that are a bit of the socket, and what the image calls them. */
static const struct {
	enum sock_flags flag;
	u32 saved;
} options[] = {
	{ SOCK_URGINLINE, CKPT_SOCKET_OOBINLINE },
	{ SOCK_KEEPOPEN, CKPT_SOCKET_KEEPALIVE },
	{ SOCK_LINGER, CKPT_SOCKET_LINGER },
	{ SOCK_BROADCAST, CKPT_SOCKET_BROADCAST },
	{ SOCK_RCVTSTAMP, CKPT_SOCKET_STAMP },
	{ SOCK_RCVTSTAMPNS, CKPT_SOCKET_STAMP_NS },
	{ SOCK_TSTAMP_NEW, CKPT_SOCKET_STAMP_NEW },
	{ SOCK_TIMESTAMP, CKPT_SOCKET_STAMPED },
};

/* And those that are bits of what is above it. */
static const struct {
	unsigned int bit;
	u32 saved;
} passes[] = {
	{ SOCK_PASSCRED, CKPT_SOCKET_PASSCRED },
	{ SOCK_PASSPIDFD, CKPT_SOCKET_PASSPIDFD },
	{ SOCK_PASSSEC, CKPT_SOCKET_PASSSEC },
};

static bool is_dead(const struct sock *sk)
{
	return sock_flag(sk, SOCK_DEAD);
}

static const struct unix_address *name_of(const struct sock *sk)
{
	/* pairs with __unix_set_addr_hash(): the name is whole */
	return smp_load_acquire(&unix_sk(sk)->addr);
}

static bool is_abstract(const struct unix_address *addr)
{
	return !addr || !addr->name[0].sun_path[0];
}

/* They mean nothing to a Unix socket, and getsockopt(2) tells them all the same. */
static bool has_busy_polling(const struct sock *sk)
{
#ifdef CONFIG_NET_RX_BUSY_POLL
	return sk->sk_ll_usec != READ_ONCE(sysctl_net_busy_read) ||
	       sk->sk_prefer_busy_poll || sk->sk_busy_poll_budget;
#else
	return false;
#endif
}

static bool has_other_options(const struct sock *sk)
{
	unsigned long flags = sk->sk_flags & ~BIT(SOCK_ZAPPED);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		flags &= ~BIT(options[i].flag);
	return flags || sk->sk_priority || sk->sk_mark || sk->sk_tsflags ||
	       sk->sk_bound_dev_if || sk->sk_user_data ||
	       rcu_access_pointer(sk->sk_filter) || sk->sk_no_check_tx ||
	       sk->sk_txrehash || sk->sk_max_pacing_rate != ~0UL ||
	       sk->sk_incoming_cpu != -1 || has_busy_polling(sk) ||
	       (sk->sk_err && sk->sk_err != ECONNRESET) || sk->sk_err_soft;
}

static int check_connection(struct ckpt_ctx *ctx, const struct sock *sk,
			    const struct sock *peer)
{
	const struct unix_address *addr = name_of(sk);
	int state = READ_ONCE(sk->sk_state);

	if (state == TCP_LISTEN)
		return ckpt_err(ctx, -EOPNOTSUPP, "a listening socket");
	if (!is_abstract(addr))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket with the name %*pE in a file system",
				(int)strnlen(addr->name[0].sun_path,
					     addr->len - NAME_OFFSET),
				addr->name[0].sun_path);
	if (peer == sk)
		return ckpt_err(ctx, -EOPNOTSUPP, "a socket connected to itself");
	if (peer && !is_dead(peer) && READ_ONCE(unix_peer(peer)) != sk)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket connected to one that is not connected to it");
	if (peer && is_dead(peer) && !is_abstract(name_of(peer)))
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
				"a socket with a peer of another user namespace");
	return 0;
}

/**
 * ckpt_check_socket - can it be saved, as far as it alone is concerned?
 * @ctx: the checkpoint
 * @file: a socket, or one that has a name
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
				"a socket of another network namespace");
	if (has_other_options(&u->sk))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a socket with options that are not saved");
	peer = unix_peer_get(&u->sk);
	ret = check_connection(ctx, &u->sk, peer);
	if (peer)
		sock_put(peer);
	return ret ?: check_peer_cred(ctx, &u->sk);
}

static unsigned long pass_bits(struct sock *sk)
{
	unsigned long flags;

	read_lock_bh(&sk->sk_callback_lock);
	flags = sk->sk_socket ? sk->sk_socket->flags : 0;
	read_unlock_bh(&sk->sk_callback_lock);
	return flags;
}

static u32 get_flags(struct sock *sk, bool paired)
{
	unsigned long bits = pass_bits(sk);
	u32 flags = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		if (sock_flag(sk, options[i].flag))
			flags |= options[i].saved;
	for (i = 0; i < ARRAY_SIZE(passes); i++)
		if (bits & BIT(passes[i].bit))
			flags |= passes[i].saved;
	if (!paired && READ_ONCE(sk->sk_state) == TCP_ESTABLISHED)
		flags |= CKPT_SOCKET_CONNECTED;
	if (sk->sk_reuse)
		flags |= CKPT_SOCKET_REUSEADDR;
	if (sk->sk_reuseport)
		flags |= CKPT_SOCKET_REUSEPORT;
	if (sk->sk_userlocks & SOCK_SNDBUF_LOCK)
		flags |= CKPT_SOCKET_SNDBUF;
	if (sk->sk_userlocks & SOCK_RCVBUF_LOCK)
		flags |= CKPT_SOCKET_RCVBUF;
	return flags;
}

/* The longest that nanoseconds can tell are centuries. */
static u64 timeo_to_ns(long timeo)
{
	if (timeo == MAX_SCHEDULE_TIMEOUT)
		return U64_MAX;
	if (timeo >= nsecs_to_jiffies64(U64_MAX - 1))
		return U64_MAX - 1;
	return jiffies64_to_nsecs(timeo);
}

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

/* Whose it is, as fchown(2) sets it, and its times. */
static int get_inode(struct ckpt_ctx *ctx, struct sock *sk,
		     struct ckpt_socket_end *end)
{
	struct inode *inode = NULL;
	int ret;

	read_lock_bh(&sk->sk_callback_lock);
	if (sk->sk_socket)
		inode = igrab(SOCK_INODE(sk->sk_socket));
	read_unlock_bh(&sk->sk_callback_lock);
	/* was not accepted yet, or is being closed outside: refused elsewhere */
	if (!inode)
		return 0;
	end->mode = inode->i_mode;
	ckpt_get_times(inode, &end->times);
	ret = ckpt_get_owner(ctx, inode, "socket", &end->uid, &end->gid);
	iput(inode);
	return ret;
}

/* @name: gets its name, and has room for any */
static int get_end(struct ckpt_ctx *ctx, struct sock *sk, bool paired,
		   struct ckpt_socket_end *end, char *name)
{
	const struct unix_address *addr = name_of(sk);
	int ret;

	if (addr) {
		end->name_len = addr->len - NAME_OFFSET;
		memcpy(name, addr->name[0].sun_path, end->name_len);
		/* a name of its own is what it is found by */
		if (is_dead(sk) || sk->sk_hash < UNIX_HASH_SIZE / 2)
			end->flags |= CKPT_SOCKET_NAME_FREE;
	}
	/* messages that it has sent may be on their way */
	end->sndbuf = sk->sk_sndbuf;
	if (is_dead(sk)) {
		end->flags |= CKPT_SOCKET_CLOSED;
		return 0;
	}
	end->flags |= get_flags(sk, paired);
	end->shutdown = sk->sk_shutdown;
	end->error = sk->sk_err;
	end->rcvbuf = sk->sk_rcvbuf;
	end->rcvlowat = sk->sk_rcvlowat;
	end->peek_off = sk->sk_peek_off;
	end->linger = min(sk->sk_lingertime / HZ, (unsigned long)INT_MAX);
	end->rcvtimeo = timeo_to_ns(sk->sk_rcvtimeo);
	end->sndtimeo = timeo_to_ns(sk->sk_sndtimeo);
	if (sk->sk_type == SOCK_DGRAM)
		end->backlog = READ_ONCE(sk->sk_max_ack_backlog);
	ret = get_inode(ctx, sk, end);
	return ret ?: get_peer_cred(ctx, sk, end);
}

static int dump_sockets(struct ckpt_ctx *ctx, struct sock *sk,
			struct sock *peer, u32 *ref)
{
	struct ckpt_sockets rec = {
		.type = sk->sk_type,
		.flags = peer ? CKPT_SOCKETS_PAIR : 0,
	};
	char names[2 * UNIX_PATH_MAX];
	int ret;

	ret = get_end(ctx, sk, peer, &rec.ends[0], names);
	if (!ret && peer)
		ret = get_end(ctx, peer, true, &rec.ends[1],
			      names + rec.ends[0].name_len);
	if (!ret)
		ret = ckpt_obj_new(ctx, CKPT_REC_SOCKETS, sk, ref);
	if (!ret)
		ret = ckpt_write(ctx, CKPT_REC_SOCKETS, *ref, &rec, sizeof(rec),
				 names, rec.ends[0].name_len + rec.ends[1].name_len);
	return ret;
}

/**
 * ckpt_dump_socket - write a socket and the one that it is connected to
 * @ctx: the checkpoint
 * @file: a socket that ckpt_check_socket() found to be sound
 * @rec: gets its object, and which end of it @file is
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_socket(struct ckpt_ctx *ctx, struct file *file,
		     struct ckpt_file *rec)
{
	struct sock *sk = &unix_get_socket(file)->sk;
	struct sock *peer = unix_peer_get(sk);
	bool second = peer && !is_dead(peer) && peer < sk;
	int ret = 0;

	rec->rdev = second;
	if (!ckpt_obj_lookup(ctx, CKPT_REC_SOCKETS, second ? peer : sk,
			     &rec->inode))
		ret = dump_sockets(ctx, second ? peer : sk, second ? sk : peer,
				   &rec->inode);
	if (peer)
		sock_put(peer);
	return ret;
}

/* For comparisons only. */
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
	outside = peer && !is_dead(peer) &&
		  !ckpt_obj_lookup(ctx, CKPT_REC_FILE, file_of(peer), &ref);
	if (peer)
		sock_put(peer);
	if (outside)
		return ckpt_err(ctx, -EBUSY,
				"socket:[%lu] is connected to a socket outside the tree or not accepted yet",
				file_inode(file)->i_ino);
	/* the object table has it once itself */
	if (file_count(file) != obj->uses + 1)
		return ckpt_err(ctx, -EBUSY,
				"socket:[%lu] is held %ld times, %u of them in the tree",
				file_inode(file)->i_ino, file_count(file) - 1,
				obj->uses);
	return 0;
}

/**
 * ckpt_check_sockets - no socket is connected to, or held, outside the tree
 * @ctx: the checkpoint, all its objects known
 *
 * Return: 0, -EBUSY, or -EOPNOTSUPP for an epoll file that no table has, only a
 * socket: what it watches, it watches by the descriptors of a table.
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
 * While the object table had a socket in flight, the garbage collector could not
 * see that nobody else has it.
 */
void ckpt_collect_sockets(void)
{
	if (READ_ONCE(unix_tot_inflight))
		unix_gc();
}

#define END_FLAGS	(CKPT_SOCKET_RCVBUF * 2 - 1)

static bool end_ok(const struct ckpt_sockets *rec, int i)
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
	 * A name that it is not found by: it was accepted by one that has or had
	 * this name, or is closed.
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
	/* whose peer has gone neither sends nor receives */
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

static bool sockets_ok(const struct ckpt_sockets *rec, size_t len)
{
	static const struct ckpt_socket_end none;
	size_t names = (size_t)rec->ends[0].name_len + rec->ends[1].name_len;

	if (rec->type != SOCK_STREAM && rec->type != SOCK_DGRAM &&
	    rec->type != SOCK_SEQPACKET)
		return false;
	if (rec->flags & ~CKPT_SOCKETS_PAIR || !end_ok(rec, 0))
		return false;
	if (rec->flags & CKPT_SOCKETS_PAIR ? !end_ok(rec, 1) :
	    memcmp(&rec->ends[1], &none, sizeof(none)))
		return false;
	return names == len;
}

/* The sizes that SO_SNDBUF and SO_RCVBUF give to everybody. */
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

static long ns_to_timeo(u64 ns)
{
	return ns == U64_MAX ? MAX_SCHEDULE_TIMEOUT : nsecs_to_jiffies64(ns);
}

static void set_options(struct socket *sock, const struct ckpt_socket_end *end)
{
	struct sock *sk = sock->sk;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(options); i++)
		sock_valbool_flag(sk, options[i].flag,
				  end->flags & options[i].saved);
	for (i = 0; i < ARRAY_SIZE(passes); i++)
		if (end->flags & passes[i].saved)
			set_bit(passes[i].bit, &sock->flags);
	if (end->flags & CKPT_SOCKET_CONNECTED)
		sk->sk_state = TCP_ESTABLISHED;
	sk->sk_reuse = end->flags & CKPT_SOCKET_REUSEADDR ? SK_CAN_REUSE :
							    SK_NO_REUSE;
	sk->sk_reuseport = !!(end->flags & CKPT_SOCKET_REUSEPORT);
	if (end->flags & CKPT_SOCKET_SNDBUF)
		sk->sk_userlocks |= SOCK_SNDBUF_LOCK;
	if (end->flags & CKPT_SOCKET_RCVBUF)
		sk->sk_userlocks |= SOCK_RCVBUF_LOCK;
	sk->sk_rcvbuf = end->rcvbuf;
	sk->sk_rcvlowat = end->rcvlowat;
	sk->sk_peek_off = end->peek_off;
	sk->sk_lingertime = (unsigned long)end->linger * HZ;
	sk->sk_rcvtimeo = ns_to_timeo(end->rcvtimeo);
	sk->sk_sndtimeo = ns_to_timeo(end->sndtimeo);
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

/* For how long an unreachable socket can hold its name: until the collection, and after it */
#define NAME_WAIT	(5 * HZ)
#define NAME_RELEASE	(HZ / 5)

/*
 * A socket that only a message of its own holds keeps its name until it is
 * collected as garbage, and only this call may cause that: so wait for it. The
 * collection runs in a work queue, and so does the last fput() of a collected
 * socket, when nothing is in flight any more.
 */
static int bind_name(struct socket *sock, struct sockaddr_un *name, int len)
{
	unsigned long end = jiffies + NAME_WAIT;
	bool idle = false;
	int ret;

	for (;;) {
		ret = kernel_bind(sock, (struct sockaddr *)name, len);
		if (ret != -EADDRINUSE || time_after(jiffies, end))
			return ret;
		if (!idle && !READ_ONCE(unix_tot_inflight)) {
			idle = true;
			end = jiffies + NAME_RELEASE;
		}
		unix_gc();
		flush_delayed_fput();
		if (schedule_timeout_killable(1) && fatal_signal_pending(current))
			return -EINTR;
	}
}

/*
 * A name that others find somebody else by makes messages look like his. One that
 * is free could have been bound before.
 */
static int check_free(struct ckpt_ctx *ctx, struct socket *sock,
		      struct sockaddr_un *name, int len)
{
	struct socket *probe;
	int ret;

	if (ns_capable(sock_net(sock->sk)->user_ns, CAP_NET_ADMIN))
		return 0;
	ret = sock_create(AF_UNIX, sock->type, 0, &probe);
	if (ret)
		return ret;
	ret = bind_name(probe, name, len);
	sock_release(probe);
	return ret == -EADDRINUSE ?
		ckpt_err(ctx, -EPERM, "a name that a different socket is bound to") :
		ret;
}

static int set_name(struct ckpt_ctx *ctx, struct socket *sock,
		    const struct ckpt_socket_end *end, const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int len = NAME_OFFSET + end->name_len, ret;

	if (!end->name_len)
		return 0;
	if (path[0])
		return ckpt_err(ctx, -EINVAL, "malformed socket name");
	memcpy(name.sun_path, path, end->name_len);
	if (end->flags & CKPT_SOCKET_NAME_FREE) {
		ret = check_free(ctx, sock, &name, len);
		if (!ret)
			ret = ckpt_unix_set_name(sock->sk, &name, len);
	} else {
		ckpt_unix_hide(sock->sk, true);
		ret = bind_name(sock, &name, len);
	}
	return ret ? ckpt_err(ctx, ret, "binding a socket to @%*pE",
			      (int)end->name_len - 1, path + 1) : 0;
}

/*
 * How many messages may wait before senders do, which was net.unix.max_dgram_qlen
 * when the socket was made. More than that gives now is more than any program
 * could get itself.
 */
static int set_backlog(struct ckpt_ctx *ctx, struct sock *sk, u32 backlog)
{
	struct net *net = sock_net(sk);

	if (backlog > (u32)READ_ONCE(net->unx.sysctl_max_dgram_qlen) &&
	    !ns_capable(net->user_ns, CAP_NET_ADMIN))
		return ckpt_err(ctx, -EPERM,
				"a datagram socket that holds %u messages, more than net.unix.max_dgram_qlen",
				backlog);
	WRITE_ONCE(sk->sk_max_ack_backlog, backlog);
	return 0;
}

/* By the rules of fchown(2), which gives the socket itself to the user, too. */
static int set_inode(struct ckpt_ctx *ctx, struct file *file,
		     const struct ckpt_socket_end *end)
{
	struct iattr none = { };
	int ret = ckpt_set_owner(file, end->uid, end->gid, end->mode, &none);

	if (ret)
		return ckpt_err(ctx, ret, "a socket of uid %u, gid %u, mode %o",
				end->uid, end->gid, end->mode);
	ckpt_set_times(file_inode(file), &end->times);
	return 0;
}

static int set_end(struct ckpt_ctx *ctx, struct file *file,
		   const struct ckpt_socket_end *end, const char *name)
{
	struct socket *sock = sock_from_file(file);
	int ret = set_name(ctx, sock, end, name);

	if (ret)
		return ret;
	if ((end->sndbuf > max_sndbuf() || end->rcvbuf > max_rcvbuf()) &&
	    !capable(CAP_NET_ADMIN))
		return ckpt_err(ctx, -EPERM, "socket buffers of %u and %u bytes",
				end->sndbuf, end->rcvbuf);
	/* its messages may be older than a size that was made less */
	sock->sk->sk_sndbuf = max(end->sndbuf, max_sndbuf());
	if (end->flags & CKPT_SOCKET_CLOSED)
		return 0;
	set_options(sock, end);
	if (sock->type == SOCK_DGRAM)
		ret = set_backlog(ctx, sock->sk, end->backlog);
	if (!ret)
		ret = set_inode(ctx, file, end);
	return ret ?: set_peer_cred(ctx, sock->sk, end);
}

/* As socketpair(2) does it. */
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
		ret = set_end(ctx, made->files[i], &rec->ends[i], name);
		name += rec->ends[i].name_len;
	}
	if (!ret)
		ret = ckpt_obj_insert(ctx, CKPT_REC_SOCKETS, ctx->rec.objref,
				      made);
	if (ret)
		ckpt_free_sockets(made);
	return ret ? ckpt_err(ctx, ret, "a socket") : 0;
}

/* Each socket has one open file. */
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
					"a socket that is closed, or open twice"));
	made->claimed[rec->rdev] = true;
	file->f_flags = rec->flags;
	return get_file(file);
}

static int settle(struct ckpt_ctx *ctx, struct ckpt_sockets_made *made)
{
	const struct ckpt_socket_end *end;
	struct sock *sk;
	int i;

	for (i = 0; i < 2; i++) {
		if (!made->files[i] || made->claimed[i])
			continue;
		if (!(made->rec.ends[i].flags & CKPT_SOCKET_CLOSED))
			return ckpt_err(ctx, -EINVAL, "a socket that is open nowhere");
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
 * ckpt_settle_sockets - all messages are there: close what was closed
 * @ctx: the restart; all are parked
 *
 * Before anybody looks whether a socket is ready.
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
 * ckpt_publish_sockets - let everybody find them by their names
 * @ctx: the restart; its tasks are about to be let go
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
