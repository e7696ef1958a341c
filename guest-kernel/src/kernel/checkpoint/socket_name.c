// SPDX-License-Identifier: GPL-2.0-only
/*
 * The abstract names of restored Unix sockets.
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/net.h>
#include <linux/un.h>
#include <net/af_unix.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

/*
 * Maximum time to wait for the garbage collection of a socket and for its
 * fput().
 */
#define NAME_WAIT	(5 * HZ)
#define NAME_RELEASE	(HZ / 5)

/*
 * Bind a socket, and wait for garbage collection while the name is in use: an
 * unreachable socket, held only by a message in its own queue, keeps its name
 * until it is collected, and perhaps no other code triggers the collection. The
 * collection runs in a work queue, as does the last fput() of a collected
 * socket, after which no files are in flight.
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
 * Check that no other socket is bound to a name, because messages from this
 * socket would seem to come from that one. A name that is not in use is safe,
 * because the caller could bind a socket to it.
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

/**
 * ckpt_set_socket_name - restore the name of a socket
 * @ctx: the restart
 * @sock: the socket
 * @end: its state
 * @path: its name, @end->name_len bytes
 *
 * Return: 0, -EINVAL, -EADDRINUSE, -EINTR, -ENOMEM, or -EPERM if a different
 * socket is bound to a name that this socket has without being bound to it.
 */
int ckpt_set_socket_name(struct ckpt_ctx *ctx, struct socket *sock,
			 const struct ckpt_socket_end *end, const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int len = CKPT_NAME_OFFSET + end->name_len, ret;

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
