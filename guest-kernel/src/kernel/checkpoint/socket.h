/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KERNEL_CHECKPOINT_SOCKET_H
#define _KERNEL_CHECKPOINT_SOCKET_H

#include <linux/un.h>
#include <net/af_unix.h>
#include <net/sock.h>

struct ckpt_ctx;
struct ckpt_socket_end;
struct ckpt_sockets;
struct pid;
struct socket;

#define CKPT_NAME_OFFSET	offsetof(struct sockaddr_un, sun_path)

/* socket_end.c */
int ckpt_get_socket_end(struct ckpt_ctx *ctx, struct sock *sk, bool paired,
			struct ckpt_socket_end *end, char *name);
bool ckpt_socket_end_ok(const struct ckpt_sockets *rec, int i);
int ckpt_set_socket_end(struct ckpt_ctx *ctx, struct file *file,
			const struct ckpt_socket_end *end, const char *name);

/* socket_option.c */
bool ckpt_has_unsaved_options(const struct sock *sk);
u32 ckpt_get_socket_flags(struct sock *sk, bool paired);
u64 ckpt_timeo_to_ns(long timeo);
void ckpt_set_socket_options(struct socket *sock,
			     const struct ckpt_socket_end *end);

/* socket_name.c */
int ckpt_set_socket_name(struct ckpt_ctx *ctx, struct socket *sock,
			 const struct ckpt_socket_end *end, const char *path);

/* message.c */
struct pid *ckpt_get_pid(struct ckpt_ctx *ctx, pid_t nr);

static inline bool ckpt_sk_dead(const struct sock *sk)
{
	return sock_flag(sk, SOCK_DEAD);
}

static inline const struct unix_address *ckpt_sk_name(const struct sock *sk)
{
	/* pairs with __unix_set_addr_hash(): the name is complete */
	return smp_load_acquire(&unix_sk(sk)->addr);
}

static inline bool ckpt_sk_abstract(const struct unix_address *addr)
{
	return !addr || !addr->name[0].sun_path[0];
}

#endif /* _KERNEL_CHECKPOINT_SOCKET_H */
