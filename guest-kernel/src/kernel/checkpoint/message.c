// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages that Unix sockets have not received yet: data in the pieces in which
 * it was sent, the credentials of the sender, and open files. A file may be
 * open only in this message, may be a socket with messages of its own, and may
 * be the socket that receives the message. So the messages follow the open
 * files of a descriptor table. Files that first occur in messages are written
 * before these, and their own messages follow.
 */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/sched/user.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <net/af_unix.h>
#include <net/scm.h>
#include <net/sock.h>

#include "ckpt.h"
#include "socket.h"

/* A message to be written. */
struct message {
	struct file *files[SCM_MAX_FD];	/* references held */
	char *data;
	struct ckpt_message rec;
	u32 refs[SCM_MAX_FD];		/* objrefs of @files, follow @rec */
};

static void release_message(struct message *msg)
{
	u32 i;

	for (i = 0; i < msg->rec.nr_files; i++)
		fput(msg->files[i]);
	kvfree(msg->data);
	msg->rec.nr_files = 0;
	msg->data = NULL;
}

static void get_sender(struct ckpt_ctx *ctx, struct sk_buff *skb,
		       struct ckpt_message *rec)
{
	struct user_namespace *ns = ctx->root->real_cred->user_ns;

	if (!uid_valid(UNIXCB(skb).uid) || !gid_valid(UNIXCB(skb).gid))
		return;
	rec->flags |= CKPT_MESSAGE_CREDS;
	rec->pid = pid_nr_ns(UNIXCB(skb).pid, ctx->pidns);
	rec->uid = from_kuid_munged(ns, UNIXCB(skb).uid);
	rec->gid = from_kgid_munged(ns, UNIXCB(skb).gid);
}

/* Get the files of a message as MSG_PEEK does. */
static void get_files(struct sk_buff *skb, struct message *msg)
{
	struct scm_fp_list *fpl = UNIXCB(skb).fp;
	int i;

	if (!fpl)
		return;
	for (i = 0; i < fpl->count; i++)
		msg->files[i] = get_file(fpl->fp[i]);
	msg->rec.nr_files = fpl->count;
	unix_peek_fpl(fpl);
}

static int get_message(struct ckpt_ctx *ctx, struct sock *sk,
		       struct sk_buff *skb, struct message *msg)
{
	if (skb->sk != READ_ONCE(unix_peer(sk)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"a message from a socket other than the peer");
	if (skb->len > CKPT_REC_MAX - sizeof(msg->rec) - sizeof(msg->refs))
		return ckpt_err(ctx, -E2BIG, "a message of %u bytes", skb->len);
	msg->rec.len = skb->len;
	msg->rec.consumed = UNIXCB(skb).consumed;
	msg->rec.stamp = ktime_to_ns(skb_get_ktime(skb));
	if (skb == READ_ONCE(unix_sk(sk)->oob_skb))
		msg->rec.flags |= CKPT_MESSAGE_OOB;
	get_sender(ctx, skb, &msg->rec);
	msg->data = kvmalloc(skb->len ?: 1, GFP_KERNEL);
	if (!msg->data)
		return -ENOMEM;
	get_files(skb, msg);
	return skb_copy_bits(skb, 0, msg->data, skb->len);
}

static struct sk_buff *nth_skb(struct sk_buff_head *queue, unsigned int n)
{
	struct sk_buff *skb, *found = NULL;

	spin_lock(&queue->lock);
	skb_queue_walk(queue, skb) {
		if (!n--) {
			found = skb_get(skb);
			break;
		}
	}
	spin_unlock(&queue->lock);
	return found;
}

/* Return 1, 0 after the last message, or a negative errno. */
static int read_message(struct ckpt_ctx *ctx, struct sock *sk, unsigned int n,
			struct message *msg)
{
	struct unix_sock *u = unix_sk(sk);
	struct sk_buff *skb;
	int ret = 0;

	memset(&msg->rec, 0, sizeof(msg->rec));
	/* no frozen task holds the mutex */
	if (!mutex_trylock(&u->iolock))
		return ckpt_err(ctx, -EBUSY,
				"a task outside the tree is reading a socket");
	skb = nth_skb(&sk->sk_receive_queue, n);
	if (skb)
		ret = get_message(ctx, sk, skb, msg) ?: 1;
	mutex_unlock(&u->iolock);
	consume_skb(skb);
	return ret;
}

static int write_message(struct ckpt_ctx *ctx, struct message *msg)
{
	u32 i;
	int ret;

	for (i = 0; i < msg->rec.nr_files; i++) {
		ret = ckpt_check_syncfs(ctx, msg->files[i]);
		if (!ret)
			ret = ckpt_dump_file(ctx, msg->files[i], &msg->refs[i]);
		if (ret)
			return ckpt_err(ctx, ret,
					"a file in flight on a socket cannot be saved");
		ckpt_obj_use(ctx, msg->refs[i]);
	}
	return ckpt_write(ctx, CKPT_REC_MESSAGE, 0, &msg->rec,
			  sizeof(msg->rec) + msg->rec.nr_files * sizeof(u32),
			  msg->data, msg->rec.len);
}

static int dump_queue(struct ckpt_ctx *ctx, struct sock *sk, u32 ref,
		      struct message *msg)
{
	unsigned int n;
	int ret;

	for (n = 0; ; n++) {
		ret = read_message(ctx, sk, n, msg);
		msg->rec.socket = ref;
		if (ret > 0)
			ret = write_message(ctx, msg) ?: 1;
		release_message(msg);
		if (ret <= 0)
			return ret;
		cond_resched();
	}
}

/**
 * ckpt_dump_messages - write the messages that sockets have not received yet
 * @ctx: the checkpoint
 * @ref: lowest objref of the sockets
 *
 * Includes sockets that are found as files in these messages.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_messages(struct ckpt_ctx *ctx, u32 ref)
{
	struct message *msg;
	int ret = 0;

	msg = kvzalloc(sizeof(*msg), GFP_KERNEL_ACCOUNT);
	if (!msg)
		return -ENOMEM;
	for (; ref <= ctx->nr_objs && !ret; ref++) {
		struct ckpt_obj *obj = xa_load(&ctx->objs, ref);
		struct unix_sock *u = NULL;

		if (obj->type == CKPT_REC_FILE)
			u = unix_get_socket(obj->ptr);
		if (u)
			ret = dump_queue(ctx, &u->sk, ref, msg);
	}
	kvfree(msg);
	return ret;
}

/*
 * Get the struct pid of a process that has exited or is outside the tree. If
 * the number is free, the struct pid has no task. All messages of one process
 * get the same struct pid, because receivers compare the senders of messages.
 */
static struct pid *get_gone(struct ckpt_ctx *ctx, pid_t nr)
{
	struct pid *pid = xa_load(&ctx->pids, nr);
	int ret;

	if (pid)
		return get_pid(pid);
	pid = alloc_pid(ctx->pidns, &nr, 1);
	if (!IS_ERR(pid)) {
		get_pid(pid);
		free_pid(pid);
	} else if (pid == ERR_PTR(-EEXIST)) {
		/*
		 * naming a foreign process requires the capability that
		 * SCM_CREDENTIALS does
		 */
		if (!ns_capable(ctx->pidns->user_ns, CAP_SYS_ADMIN))
			return ERR_PTR(ckpt_err(ctx, -EPERM,
						"a message from pid %d, which is outside the tree: requires CAP_SYS_ADMIN",
						nr));
		rcu_read_lock();
		pid = get_pid(find_pid_ns(nr, ctx->pidns));
		rcu_read_unlock();
		if (!pid)
			return ERR_PTR(-EEXIST);
	} else {
		return ERR_PTR(ckpt_err(ctx, PTR_ERR(pid), "allocating pid %d", nr));
	}
	ret = xa_err(xa_store(&ctx->pids, nr, pid, GFP_KERNEL_ACCOUNT));
	if (ret) {
		put_pid(pid);
		return ERR_PTR(ret);
	}
	return get_pid(pid);
}

/**
 * ckpt_get_pid - get the struct pid of a sender or peer of a socket
 * @ctx: the restart
 * @nr: its number, 0 if it had no number in the tree's pid namespace
 *
 * Return: a reference, NULL for 0, or ERR_PTR().
 */
struct pid *ckpt_get_pid(struct ckpt_ctx *ctx, pid_t nr)
{
	struct ckpt_tsk *ct = nr ? ckpt_find_pid(ctx, nr) : NULL;
	struct pid *pid;

	if (!nr)
		return NULL;
	if (!ct || !ct->task)
		return get_gone(ctx, nr);
	pid = get_task_pid(ct->task, PIDTYPE_PID);
	return pid ?: ERR_PTR(-EINTR);
}

void ckpt_free_pids(struct ckpt_ctx *ctx)
{
	unsigned long nr;
	struct pid *pid;

	xa_for_each(&ctx->pids, nr, pid)
		put_pid(pid);
	xa_destroy(&ctx->pids);
}

/* The rules of SCM_CREDENTIALS. */
static int check_sender(kuid_t uid, kgid_t gid)
{
	const struct cred *cred = current_cred();

	if (!uid_valid(uid) || !gid_valid(gid))
		return -EINVAL;
	if (!uid_eq(uid, cred->uid) && !uid_eq(uid, cred->euid) &&
	    !uid_eq(uid, cred->suid) && !ns_capable(cred->user_ns, CAP_SETUID))
		return -EPERM;
	if (!gid_eq(gid, cred->gid) && !gid_eq(gid, cred->egid) &&
	    !gid_eq(gid, cred->sgid) && !ns_capable(cred->user_ns, CAP_SETGID))
		return -EPERM;
	return 0;
}

static int set_sender(struct ckpt_ctx *ctx, const struct ckpt_message *rec,
		      struct scm_cookie *scm)
{
	struct pid *pid;
	int ret;

	scm->creds.uid = INVALID_UID;
	scm->creds.gid = INVALID_GID;
	if (!(rec->flags & CKPT_MESSAGE_CREDS))
		return 0;
	scm->creds.uid = make_kuid(current_user_ns(), rec->uid);
	scm->creds.gid = make_kgid(current_user_ns(), rec->gid);
	ret = check_sender(scm->creds.uid, scm->creds.gid);
	if (ret)
		return ckpt_err(ctx, ret,
				"a message from uid %u that the caller may not send",
				rec->uid);
	pid = ckpt_get_pid(ctx, rec->pid);
	if (IS_ERR(pid))
		return PTR_ERR(pid);
	scm->pid = pid;
	return 0;
}

static int set_files(struct ckpt_ctx *ctx, const struct ckpt_message *rec,
		     struct scm_cookie *scm)
{
	const u32 *refs = (const void *)(rec + 1);
	struct scm_fp_list *fpl;
	u32 i;

	if (!rec->nr_files)
		return 0;
	fpl = kzalloc(sizeof(*fpl), GFP_KERNEL_ACCOUNT);
	if (!fpl)
		return -ENOMEM;
	fpl->max = SCM_MAX_FD;
	fpl->user = get_uid(current_user());
	INIT_LIST_HEAD(&fpl->vertices);
	scm->fp = fpl;
	for (i = 0; i < rec->nr_files; i++) {
		struct file *file = ckpt_obj_fetch(ctx, CKPT_REC_FILE, refs[i]);

		if (IS_ERR(file))
			return PTR_ERR(file);
		if (unix_get_socket(file))
			fpl->count_unix++;
		fpl->fp[fpl->count++] = get_file(file);
	}
	return 0;
}

static bool message_ok(const struct ckpt_message *rec, size_t len)
{
	if (rec->flags & ~(CKPT_MESSAGE_CREDS | CKPT_MESSAGE_OOB) ||
	    rec->nr_files > SCM_MAX_FD || rec->consumed > rec->len ||
	    rec->len > CKPT_REC_MAX || rec->stamp < 0)
		return false;
	if (rec->flags & CKPT_MESSAGE_OOB && (rec->len != 1 || rec->consumed))
		return false;
	if (rec->flags & CKPT_MESSAGE_CREDS ? rec->pid < 0 :
	    rec->pid || rec->uid || rec->gid)
		return false;
	return len == sizeof(*rec) + rec->nr_files * sizeof(u32) + rec->len;
}

static struct sock *find_socket(struct ckpt_ctx *ctx,
				const struct ckpt_message *rec)
{
	struct file *file = ckpt_obj_fetch(ctx, CKPT_REC_FILE, rec->socket);
	struct unix_sock *u;
	struct sock *sk;

	if (IS_ERR(file))
		return ERR_CAST(file);
	u = unix_get_socket(file);
	if (!u || !unix_peer(&u->sk))
		return ERR_PTR(ckpt_err(ctx, -EINVAL,
					"a message to a socket that is not connected"));
	sk = &u->sk;
	if (sk->sk_type == SOCK_STREAM)
		return rec->len ? sk :
		       ERR_PTR(ckpt_err(ctx, -EINVAL, "an empty message in a stream"));
	if (rec->consumed || rec->flags & CKPT_MESSAGE_OOB)
		return ERR_PTR(ckpt_err(ctx, -EINVAL,
					"a partial or out-of-band message outside a stream"));
	return sk;
}

/*
 * Queue a message on a restored socket. No other task can reach the socket yet.
 */
int ckpt_restore_message(struct ckpt_ctx *ctx)
{
	const struct ckpt_message *rec = (const void *)ctx->rbuf;
	struct scm_cookie scm = { };
	struct sock *sk;
	int ret;

	if (!(ctx->seen & BIT_ULL(CKPT_REC_FILES)) ||
	    !message_ok(rec, ctx->rec.len))
		return ckpt_err(ctx, -EINVAL, "malformed message");
	sk = find_socket(ctx, rec);
	if (IS_ERR(sk))
		return PTR_ERR(sk);
	ret = set_sender(ctx, rec, &scm);
	if (!ret)
		ret = set_files(ctx, rec, &scm);
	if (!ret) {
		ret = ckpt_unix_queue(sk, rec,
				      (const u32 *)(rec + 1) + rec->nr_files,
				      &scm);
		if (ret)
			ckpt_err(ctx, ret, "queueing a message of %u bytes with %u files",
				 rec->len, rec->nr_files);
	}
	scm_destroy(&scm);
	return ret;
}
