// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes records with their checksums, and reads only records that are
 * complete, in their place and of a permitted size. The payload of a record is
 * not used before its checksum has been verified: later checks only concern
 * forged images, not accidental damage.
 */
#include <linux/mm.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/sched/signal.h>
#include <linux/task_work.h>
#include <linux/un.h>
#include <linux/utsname.h>
#include <linux/xxhash.h>
#include <generated/utsrelease.h>

#include "ckpt.h"

struct rec_desc {
	const char *name;
	u32 min_len;
	u32 max_len;
	bool object;
};

#define REC(_type, _struct, _max, _obj)				\
	[CKPT_REC_##_type] = { #_type, sizeof(_struct), _max, _obj }
#define EXACT(_type, _struct, _obj) REC(_type, _struct, sizeof(_struct), _obj)

static const struct rec_desc rec_descs[CKPT_REC_MAX_TYPE] = {
	REC(HEADER, struct ckpt_header, CKPT_REC_MAX, false),
	REC(SCHEMA, struct ckpt_schema, CKPT_REC_MAX, false),
	REC(TREE, struct ckpt_tree, CKPT_REC_MAX, false),
	EXACT(TRAILER, struct ckpt_trailer, false),
	EXACT(TASK, struct ckpt_task, false),
	EXACT(TASK_END, struct { }, false),
	EXACT(REGS, struct ckpt_regs, false),
	REC(XSTATE, struct xregs_state, CKPT_REC_MAX, false),
	REC(CRED, struct ckpt_cred, sizeof(struct ckpt_cred) + 65536 * 4, true),
	REC(FS, struct ckpt_fs, sizeof(struct ckpt_fs) + 2 * PATH_MAX, true),
	REC(FILE, struct ckpt_file, sizeof(struct ckpt_file) + PATH_MAX, true),
	REC(FILES, struct { }, CKPT_REC_MAX, true),
	EXACT(PIPE, struct ckpt_pipe, true),
	REC(PIPE_BUF, struct ckpt_pipe_buf, CKPT_REC_MAX, false),
	REC(INODE, struct ckpt_inode, sizeof(struct ckpt_inode) + PATH_MAX,
	    true),
	REC(DATA, struct ckpt_data, CKPT_REC_MAX, false),
	REC(MM, struct ckpt_mm, sizeof(struct ckpt_mm) + 1024, true),
	EXACT(VMA, struct ckpt_vma, false),
	REC(PAGES, struct ckpt_pages, CKPT_REC_MAX, false),
	EXACT(SAME, struct ckpt_pages, false),
	EXACT(MM_END, struct { }, false),
	REC(SIGHAND, struct ckpt_sigaction[_NSIG],
	    sizeof(struct ckpt_sigaction[_NSIG]), false),
	EXACT(SIGNAL, struct ckpt_signal, false),
	EXACT(SIGINFO, struct ckpt_siginfo, false),
	EXACT(TIMERS, struct ckpt_timers, false),
	EXACT(RLIMITS, struct ckpt_rlimit[RLIM_NLIMITS], false),
	EXACT(PTRACE, struct ckpt_ptrace, false),
	EXACT(DEBUGREGS, struct ckpt_debugregs, false),
	EXACT(EVENTFD, struct ckpt_eventfd, false),
	EXACT(SIGNALFD, struct ckpt_signalfd, false),
	EXACT(TIMERFD, struct ckpt_timerfd, false),
	REC(EPOLL, struct ckpt_epoll, CKPT_REC_MAX, false),
	EXACT(POSIX_TIMER, struct ckpt_posix_timer, false),
	REC(TTY, struct ckpt_tty, CKPT_REC_MAX, true),
	REC(SECCOMP, struct ckpt_seccomp, CKPT_REC_MAX, true),
	REC(SOCKETS, struct ckpt_sockets,
	    sizeof(struct ckpt_sockets) + 2 * UNIX_PATH_MAX, true),
	REC(MESSAGE, struct ckpt_message, CKPT_REC_MAX, false),
	EXACT(INOTIFY, struct ckpt_inotify, false),
	REC(WATCH, struct ckpt_watch, sizeof(struct ckpt_watch) + PATH_MAX,
	    false),
	REC(INOTIFY_EVENT, struct ckpt_inotify_event,
	    sizeof(struct ckpt_inotify_event) + NAME_MAX, false),
};

const char *ckpt_rec_name(u32 type)
{
	if (type >= CKPT_REC_MAX_TYPE || !rec_descs[type].name)
		return "unknown record";
	return rec_descs[type].name;
}

static u64 rec_seed(const struct ckpt_rec *rec, u64 seq)
{
	return xxh64(rec, offsetof(struct ckpt_rec, sum), seq);
}

/*
 * Return true for the return values of a function that a signal has
 * interrupted.
 */
bool ckpt_interrupted(long ret)
{
	return ret == -EINTR || ret == -ERESTARTSYS || ret == -ERESTARTNOINTR ||
	       ret == -ERESTARTNOHAND || ret == -ERESTART_RESTARTBLOCK;
}

/*
 * A partly written image cannot be withdrawn, and some images can be read only
 * once. So a transfer that a signal has interrupted continues, unless the
 * signal is fatal. Other signals stay pending until the end of the system call,
 * which calls recalc_sigpending().
 */
static bool continues(ssize_t n)
{
	if (!ckpt_interrupted(n))
		return false;
	clear_thread_flag(TIF_SIGPENDING);
	if (test_thread_flag(TIF_NOTIFY_SIGNAL)) {
		clear_notify_signal();
		task_work_run();
	}
	/* a later SIGKILL sets the flag again */
	smp_mb();
	return !__fatal_signal_pending(current);
}

int ckpt_flush(struct ckpt_ctx *ctx)
{
	size_t done = 0;

	while (done < ctx->wlen) {
		ssize_t n = kernel_write(ctx->file, ctx->wbuf + done,
					 ctx->wlen - done, &ctx->file->f_pos);

		if (continues(n))
			continue;
		if (ckpt_interrupted(n))
			n = -EINTR;
		if (n == 0)
			n = -EIO;
		if (n < 0) {
			ctx->wlen = 0;
			return ckpt_err(ctx, n, "writing the image");
		}
		done += n;
	}
	ctx->wlen = 0;
	return 0;
}

static int put_bytes(struct ckpt_ctx *ctx, const void *p, size_t len)
{
	while (len) {
		size_t n = min(len, CKPT_WBUF_SIZE - ctx->wlen);
		int ret;

		memcpy(ctx->wbuf + ctx->wlen, p, n);
		ctx->wlen += n;
		p += n;
		len -= n;
		if (ctx->wlen < CKPT_WBUF_SIZE)
			break;
		ret = ckpt_flush(ctx);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * ckpt_write - append a record whose payload is in one or two pieces
 * @ctx: the checkpoint
 * @type: enum ckpt_rec_type
 * @objref: the object's number, 0 for none
 * @a: first piece
 * @alen: its length, bytes
 * @b: second piece
 * @blen: its length, bytes
 *
 * Only checks for a fatal signal if ctx->check_only is set.
 *
 * Return: 0, or the error of writing to the file.
 */
int ckpt_write(struct ckpt_ctx *ctx, u32 type, u32 objref,
	       const void *a, size_t alen, const void *b, size_t blen)
{
	struct ckpt_rec rec = {
		.type = type, .objref = objref, .len = alen + blen,
	};
	struct xxh64_state sum;
	int ret;

	if (WARN_ON_ONCE(rec.len > CKPT_REC_MAX))
		return -EFBIG;
	if (fatal_signal_pending(current))
		return -EINTR;
	if (ctx->check_only)
		return 0;
	xxh64_reset(&sum, rec_seed(&rec, ctx->seq++));
	if (alen)
		xxh64_update(&sum, a, alen);
	if (blen)
		xxh64_update(&sum, b, blen);
	rec.sum = xxh64_digest(&sum);
	ret = put_bytes(ctx, &rec, sizeof(rec));
	if (!ret)
		ret = put_bytes(ctx, a, alen);
	if (!ret)
		ret = put_bytes(ctx, b, blen);
	return ret;
}

/*
 * The restarted tasks read their sections themselves. Restored signals may
 * already be pending. They must not interrupt the read; only a fatal signal
 * may.
 */
static int get_bytes(struct ckpt_ctx *ctx, void *p, size_t len)
{
	while (len) {
		ssize_t n = kernel_read(ctx->file, p, len, &ctx->file->f_pos);

		/* ckpt_abort_restart() interrupts the coordinator's read */
		if (READ_ONCE(ctx->abort))
			return -EINTR;
		if (continues(n))
			continue;
		if (ckpt_interrupted(n))
			n = -EINTR;
		if (n == 0)
			return ckpt_err(ctx, -EIO,
					"the image ends in the middle, after %llu records",
					ctx->seq);
		if (n < 0)
			return ckpt_err(ctx, n, "reading the image");
		p += n;
		len -= n;
	}
	return 0;
}

/*
 * Under KASAN each record has a buffer of its own size, so that KASAN reports a
 * function that reads beyond the record's end, or in the record before.
 */
static int fit_buffer(struct ckpt_ctx *ctx, size_t len)
{
	char *fitting;

	if (!IS_ENABLED(CONFIG_KASAN))
		return 0;
	fitting = kvmalloc(len ?: 1, GFP_KERNEL_ACCOUNT);
	if (!fitting)
		return -ENOMEM;
	kvfree(ctx->rbuf);
	ctx->rbuf = fitting;
	return 0;
}

/**
 * ckpt_read - read the next record into ctx->rec and ctx->rbuf
 * @ctx: the restart
 *
 * Pointers into ctx->rbuf are stale afterwards.
 *
 * On success the record is of a known type, its size is one that its type
 * allows, and its checksum is correct.
 *
 * Return: 0, -EIO at the end of the file, -EINVAL for a damaged record.
 */
int ckpt_read(struct ckpt_ctx *ctx)
{
	struct ckpt_rec *rec = &ctx->rec;
	const struct rec_desc *desc;
	int ret;

	ret = get_bytes(ctx, rec, sizeof(*rec));
	if (ret)
		return ret;
	if (rec->type >= CKPT_REC_MAX_TYPE || !rec_descs[rec->type].name)
		return ckpt_err(ctx, -EINVAL, "record %llu: unknown type %u",
				ctx->seq, rec->type);
	desc = &rec_descs[rec->type];
	if (rec->len < desc->min_len || rec->len > desc->max_len)
		return ckpt_err(ctx, -EINVAL,
				"record %llu (%s): length %llu is not in %u..%u",
				ctx->seq, desc->name, rec->len, desc->min_len,
				desc->max_len);
	if (desc->object != !!rec->objref)
		return ckpt_err(ctx, -EINVAL,
				"record %llu (%s): objref %u, expected %s",
				ctx->seq, desc->name, rec->objref,
				desc->object ? "one" : "none");
	ret = fit_buffer(ctx, rec->len);
	if (!ret)
		ret = get_bytes(ctx, ctx->rbuf, rec->len);
	if (ret)
		return ret;
	if (xxh64(ctx->rbuf, rec->len, rec_seed(rec, ctx->seq)) != rec->sum)
		return ckpt_err(ctx, -EINVAL,
				"record %llu (%s): wrong checksum",
				ctx->seq, desc->name);
	ctx->seq++;
	return 0;
}

static void fill_header(struct ckpt_header *h)
{
	memset(h, 0, sizeof(*h));
	h->magic = CKPT_MAGIC;
	h->version = CKPT_VERSION;
	h->page_size = PAGE_SIZE;
	h->xfeatures = ckpt_xfeatures();
	h->vdso_sum = ckpt_vdso_sum();
	h->mono_ns = ktime_get_ns();
	h->real_ns = ktime_get_real_ns();
	h->boot_ns = ktime_get_boottime_ns();
	h->tai_ns = ktime_get_clocktai_ns();
	h->ncpus = num_possible_cpus();
	strscpy(h->release, init_uts_ns.name.release, sizeof(h->release));
	strscpy(h->build, init_uts_ns.name.version, sizeof(h->build));
}

int ckpt_write_header(struct ckpt_ctx *ctx)
{
	struct ckpt_schema *schema;
	int i, n = 0, ret;

	fill_header(&ctx->hdr);
	ctx->hdr.nr_tasks = ctx->nr_tsks;
	ctx->hdr.next_pid = idr_get_cursor(&ctx->pidns->idr);
	ctx->hdr.mounts_len = ctx->mounts ? strlen(ctx->mounts) : 0;
	ret = ckpt_write(ctx, CKPT_REC_HEADER, 0, &ctx->hdr, sizeof(ctx->hdr),
			 ctx->mounts, ctx->hdr.mounts_len);
	if (ret)
		return ret;
	schema = kcalloc(CKPT_REC_MAX_TYPE, sizeof(*schema), GFP_KERNEL);
	if (!schema)
		return -ENOMEM;
	for (i = 1; i < CKPT_REC_MAX_TYPE; i++) {
		if (!rec_descs[i].name)
			continue;
		schema[n].type = i;
		schema[n].min_len = rec_descs[i].min_len;
		strscpy(schema[n].name, rec_descs[i].name,
			sizeof(schema[n].name));
		n++;
	}
	ret = ckpt_write(ctx, CKPT_REC_SCHEMA, 0, schema, n * sizeof(*schema),
			 NULL, 0);
	kfree(schema);
	return ret;
}

int ckpt_write_tree(struct ckpt_ctx *ctx)
{
	size_t len = ctx->nr_tsks * sizeof(struct ckpt_tree);
	struct ckpt_tree *tree;
	unsigned int i;
	int ret;

	if (len > CKPT_REC_MAX)
		return ckpt_err(ctx, -E2BIG, "%u tasks: an image holds fewer",
				ctx->nr_tsks);
	tree = kvmalloc(len, GFP_KERNEL);
	if (!tree)
		return -ENOMEM;
	for (i = 0; i < ctx->nr_tsks; i++)
		tree[i] = ctx->tsks[i].tree;
	ret = ckpt_write(ctx, CKPT_REC_TREE, 0, tree, len, NULL, 0);
	kvfree(tree);
	return ret;
}

int ckpt_write_trailer(struct ckpt_ctx *ctx)
{
	struct ckpt_trailer t = {
		.nr_records = ctx->seq + 1, .nr_objects = ctx->nr_objs,
	};
	int ret;

	ret = ckpt_write(ctx, CKPT_REC_TRAILER, 0, &t, sizeof(t), NULL, 0);
	return ret ?: ckpt_flush(ctx);
}

/* Keep the list of mounts that follows the header, if there is one. */
static int keep_mounts(struct ckpt_ctx *ctx)
{
	if (current->nsproxy->time_ns_for_children != current->nsproxy->time_ns)
		return ckpt_err(ctx, -EINVAL,
				"the caller's children will be in a different time namespace: call restart(2) from a child");
	if (!ctx->hdr.mounts_len)
		return 0;
	if (!ctx->equal_mounts)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"the tree had a mount namespace of its own: make equal mounts and confirm it (restart --equal-mounts)");
	ctx->mounts = kvmalloc(ctx->hdr.mounts_len + 1, GFP_KERNEL_ACCOUNT);
	if (!ctx->mounts)
		return -ENOMEM;
	memcpy(ctx->mounts, ctx->rbuf + sizeof(ctx->hdr), ctx->hdr.mounts_len);
	ctx->mounts[ctx->hdr.mounts_len] = '\0';
	return 0;
}

/**
 * ckpt_read_header - read the records before the first task's section
 * @ctx: the restart; gets its task table
 *
 * ckpt_prepare_relink() checks the tree.
 *
 * Return: 0; -EINVAL if the file is not an image or is damaged; -EOPNOTSUPP if
 * a different kernel made the image or this CPU lacks a feature.
 */
int ckpt_read_header(struct ckpt_ctx *ctx)
{
	struct ckpt_header mine, *h = &ctx->hdr;
	const struct ckpt_tree *tree;
	unsigned int i;
	int ret;

	ret = ckpt_read(ctx);
	if (ret)
		return ret;
	if (ctx->rec.type != CKPT_REC_HEADER)
		return ckpt_err(ctx, -EINVAL, "this is not a checkpoint image");
	memcpy(h, ctx->rbuf, sizeof(*h));
	fill_header(&mine);
	if (h->magic != mine.magic)
		return ckpt_err(ctx, -EINVAL, "this is not a checkpoint image");
	if (h->version != mine.version)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"the image has version %u, this kernel reads %u",
				h->version, mine.version);
	if (memcmp(h->release, mine.release, sizeof(mine.release)))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"the image was made by kernel %*pE, this is %s",
				(int)strnlen(h->release, sizeof(h->release)),
				h->release, mine.release);
	if (h->page_size != mine.page_size || h->vdso_sum != mine.vdso_sum)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"the image was made with a different vdso");
	if (h->xfeatures & ~mine.xfeatures)
		return ckpt_err(ctx, -EOPNOTSUPP,
				"the image needs CPU states %#llx that this CPU lacks",
				h->xfeatures & ~mine.xfeatures);
	if (h->next_pid > PID_MAX_LIMIT || h->pad || h->pad2 ||
	    h->mounts_len != ctx->rec.len - sizeof(*h))
		return ckpt_err(ctx, -EINVAL, "malformed header");
	ret = keep_mounts(ctx);
	if (ret)
		return ret;

	ret = ckpt_read(ctx);
	if (!ret && ctx->rec.type == CKPT_REC_SCHEMA)
		ret = ckpt_read(ctx);
	if (ret)
		return ret;
	if (ctx->rec.type != CKPT_REC_TREE ||
	    ctx->rec.len % sizeof(*tree) ||
	    ctx->rec.len / sizeof(*tree) != h->nr_tasks)
		return ckpt_err(ctx, -EINVAL, "no task tree, or one of the wrong size");
	ctx->tsks = kvcalloc(h->nr_tasks, sizeof(*ctx->tsks),
			     GFP_KERNEL_ACCOUNT);
	if (!ctx->tsks)
		return -ENOMEM;
	ctx->nr_tsks = h->nr_tasks;
	ret = ckpt_alloc_lookup(ctx, ctx->nr_tsks);
	if (ret)
		return ret;
	tree = (const void *)ctx->rbuf;
	for (i = 0; i < ctx->nr_tsks; i++) {
		ctx->tsks[i].tree = tree[i];
		ckpt_index_pid(ctx, &ctx->tsks[i]);
	}
	return 0;
}
