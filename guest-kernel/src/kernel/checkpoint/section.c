// SPDX-License-Identifier: GPL-2.0-only
/*
 * A task's section of an image: the records that it may and must have, and the
 * function that reads each.
 */
#include "ckpt.h"
#include "ptrace.h"

#define SEEN(type)	BIT_ULL(CKPT_REC_##type)

/* Restore from one record of a task's section. */
static int restore_record(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	switch (ctx->rec.type) {
	case CKPT_REC_CRED:
		return ckpt_restore_cred(ctx);
	case CKPT_REC_FS:
		return ckpt_restore_fs(ctx);
	case CKPT_REC_FILE:
		return ckpt_restore_file(ctx);
	case CKPT_REC_FILES:
		return ckpt_restore_files(ctx);
	case CKPT_REC_EPOLL:
		return ckpt_restore_epoll(ctx);
	case CKPT_REC_PIPE:
		return ckpt_restore_pipe(ctx);
	case CKPT_REC_INODE:
		return ckpt_restore_inode(ctx);
	case CKPT_REC_TTY:
		return ckpt_restore_tty(ctx);
	case CKPT_REC_SOCKETS:
		return ckpt_restore_sockets(ctx);
	case CKPT_REC_MESSAGE:
		return ckpt_restore_message(ctx);
	case CKPT_REC_MM:
		return ckpt_restore_mm(ctx);
	case CKPT_REC_VMA:
		return ckpt_restore_vma(ctx);
	case CKPT_REC_PAGES:
		return ckpt_restore_pages(ctx);
	case CKPT_REC_SAME:
		return ckpt_restore_same(ctx);
	case CKPT_REC_MM_END:
		return ckpt_restore_mm_end(ctx);
	case CKPT_REC_RLIMITS:
		return ckpt_restore_rlimits(ctx);
	case CKPT_REC_SIGHAND:
		return ckpt_restore_sighand(ctx);
	case CKPT_REC_SIGNAL:
		return ckpt_restore_signal(ctx);
	case CKPT_REC_SIGINFO:
		return ckpt_restore_siginfo(ctx);
	case CKPT_REC_TIMERS:
		return ckpt_restore_timers(ctx);
	case CKPT_REC_POSIX_TIMER:
		return ckpt_restore_posix_timer(ctx);
	case CKPT_REC_REGS:
		return ckpt_restore_regs(ctx);
	case CKPT_REC_XSTATE:
		return ckpt_restore_xstate(ctx);
	case CKPT_REC_SECCOMP:
		return ckpt_restore_seccomp(ctx);
	case CKPT_REC_DEBUGREGS:
		return ckpt_restore_debugregs(ctx);
	case CKPT_REC_PTRACE:
		return ckpt_restore_ptrace(ctx);
	case CKPT_REC_TASK:
		return ckpt_restore_task(ctx, ct);
	default:
		return ckpt_err(ctx, -EINVAL, "%s in the section of a task",
				ckpt_rec_name(ctx->rec.type));
	}
}

/*
 * Check that a section has all required records and no record that is not
 * permitted.
 */
static int check_section(struct ckpt_ctx *ctx, const struct ckpt_tsk *ct)
{
	bool leader = ct->tree.flags & CKPT_TREE_LEADER;
	bool zombie = ct->tree.flags & CKPT_TREE_ZOMBIE;
	/* includes a dead leader of a process that has live threads */
	bool lives = leader && ct->lives;
	u64 must = SEEN(TASK), process = SEEN(RLIMITS) | SEEN(SIGNAL);
	u64 alive = SEEN(SIGHAND) | SEEN(TIMERS);

	if (!zombie)
		must |= SEEN(REGS) | SEEN(XSTATE);
	if (leader)
		must |= process;
	if (lives)
		must |= alive;
	if ((ctx->seen & must) != must)
		return ckpt_err(ctx, -EINVAL,
				"section lacks a record (has %#llx, needs %#llx)",
				ctx->seen, must);
	if ((!leader && ctx->seen & process) ||
	    (!lives && ctx->seen & (alive | SEEN(POSIX_TIMER))) ||
	    (zombie && !lives && ctx->seen & (SEEN(MM) | SEEN(SIGINFO) |
					      SEEN(FILE))) ||
	    (zombie && ctx->seen & (SEEN(REGS) | SEEN(XSTATE) | SEEN(FILES) |
				    SEEN(DEBUGREGS))))
		return ckpt_err(ctx, -EINVAL, "section has an unexpected record");
	return 0;
}

/* Records of which a section has at most one. */
#define ONCE	(SEEN(TASK) | SEEN(REGS) | SEEN(XSTATE) | SEEN(MM) | \
		 SEEN(RLIMITS) | SEEN(SIGHAND) | SEEN(SIGNAL) | SEEN(TIMERS) | \
		 SEEN(PTRACE) | SEEN(DEBUGREGS) | \
		 SEEN(FILES) | SEEN(FS))

/**
 * ckpt_read_section - read the section of current
 * @ctx: the restart; current has the turn
 * @ct: current's entry
 *
 * Applies the state that only current can use; the rest is kept in @ct.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_read_section(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	int ret;

	ctx->seen = 0;
	ctx->cur_mm = NULL;
	ctx->vma_end = 0;
	for (;;) {
		ret = ckpt_read(ctx);
		if (ret)
			return ret;
		if (ctx->rec.type == CKPT_REC_TASK_END)
			break;
		/* a thread always shares the address space of its process */
		if (ctx->rec.type == CKPT_REC_MM &&
		    !(ct->tree.flags & CKPT_TREE_LEADER))
			return ckpt_err(ctx, -EINVAL,
					"an address space in a thread's section");
		if (BIT_ULL(ctx->rec.type) & ctx->seen & ONCE)
			return ckpt_err(ctx, -EINVAL, "%s twice in one task",
					ckpt_rec_name(ctx->rec.type));
		ctx->seen |= BIT_ULL(ctx->rec.type);
		ret = restore_record(ctx, ct);
		if (ret && !ctx->logged)
			ckpt_err(ctx, ret, "%s", ckpt_rec_name(ctx->rec.type));
		if (ret)
			return ret;
	}
	return check_section(ctx, ct);
}
