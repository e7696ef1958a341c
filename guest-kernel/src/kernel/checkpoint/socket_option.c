// SPDX-License-Identifier: GPL-2.0-only
/*
 * The options of Unix sockets that setsockopt(2) sets.
 */
#include <linux/net.h>
#include <net/af_unix.h>
#include <net/busy_poll.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

/* Options that are flags of struct sock, and their flags in the image. */
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

/* Options that are flags of struct socket, and their flags in the image. */
static const struct {
	unsigned int bit;
	u32 saved;
} passes[] = {
	{ SOCK_PASSCRED, CKPT_SOCKET_PASSCRED },
	{ SOCK_PASSPIDFD, CKPT_SOCKET_PASSPIDFD },
	{ SOCK_PASSSEC, CKPT_SOCKET_PASSSEC },
};

/* These have no effect on Unix sockets, but getsockopt(2) reports them. */
static bool has_busy_polling(const struct sock *sk)
{
#ifdef CONFIG_NET_RX_BUSY_POLL
	return sk->sk_ll_usec != READ_ONCE(sysctl_net_busy_read) ||
	       sk->sk_prefer_busy_poll || sk->sk_busy_poll_budget;
#else
	return false;
#endif
}

/**
 * ckpt_has_unsaved_options - check for options that an image cannot hold
 * @sk: the socket
 *
 * Return: true if such an option differs from its default.
 */
bool ckpt_has_unsaved_options(const struct sock *sk)
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

static unsigned long pass_bits(struct sock *sk)
{
	unsigned long flags;

	read_lock_bh(&sk->sk_callback_lock);
	flags = sk->sk_socket ? sk->sk_socket->flags : 0;
	read_unlock_bh(&sk->sk_callback_lock);
	return flags;
}

/**
 * ckpt_get_socket_flags - return the options of a socket that are flags
 * @sk: the socket
 * @paired: true if it is connected to the other end of its object
 *
 * Return: CKPT_SOCKET_*.
 */
u32 ckpt_get_socket_flags(struct sock *sk, bool paired)
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

/*
 * Convert jiffies to ns. U64_MAX means no timeout; longer ones are truncated.
 */
u64 ckpt_timeo_to_ns(long timeo)
{
	if (timeo == MAX_SCHEDULE_TIMEOUT)
		return U64_MAX;
	if (timeo >= nsecs_to_jiffies64(U64_MAX - 1))
		return U64_MAX - 1;
	return jiffies64_to_nsecs(timeo);
}

static long ns_to_timeo(u64 ns)
{
	return ns == U64_MAX ? MAX_SCHEDULE_TIMEOUT : nsecs_to_jiffies64(ns);
}

/**
 * ckpt_set_socket_options - restore the options of a socket
 * @sock: the socket
 * @end: its state
 */
void ckpt_set_socket_options(struct socket *sock,
			     const struct ckpt_socket_end *end)
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
