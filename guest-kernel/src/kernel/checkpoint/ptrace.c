// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tracers and tracees: the links between them, the tracer's credentials, and
 * the mode in which the tracee runs (step, system call tracing). stop.c has the
 * stops.
 */
#include <linux/cred.h>
#include <linux/ptrace.h>
#include <linux/sched/jobctl.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include "ckpt.h"
#include "ptrace.h"

#define JOBCTL_KEPT	(JOBCTL_STOP_SIGMASK | JOBCTL_STOP_DEQUEUED | \
			 JOBCTL_STOP_PENDING | JOBCTL_STOP_CONSUME | \
			 JOBCTL_TRAP_MASK | JOBCTL_LISTENING)

#define WORK_BITS	(CKPT_PTRACE_SYSCALL | CKPT_PTRACE_SYSEMU | \
			 CKPT_PTRACE_EXIT_TRAP | CKPT_PTRACE_STEP | \
			 CKPT_PTRACE_FORCED_TF | CKPT_PTRACE_BLOCKSTEP | \
			 CKPT_PTRACE_SIGPENDING)

/* Return the index of a task in its tracer's list of tracees. */
static u32 place_of(struct task_struct *t)
{
	struct task_struct *other;
	u32 place = 0;

	list_for_each_entry(other, &t->parent->ptraced, ptrace_entry) {
		if (other == t)
			break;
		place++;
	}
	return place;
}

static u32 work_of(struct task_struct *t)
{
	u32 work = 0;

	if (test_task_syscall_work(t, SYSCALL_TRACE))
		work |= CKPT_PTRACE_SYSCALL;
	if (test_task_syscall_work(t, SYSCALL_EMU))
		work |= CKPT_PTRACE_SYSEMU;
	if (test_task_syscall_work(t, SYSCALL_EXIT_TRAP))
		work |= CKPT_PTRACE_EXIT_TRAP;
	if (test_tsk_thread_flag(t, TIF_SINGLESTEP))
		work |= CKPT_PTRACE_STEP;
	if (test_tsk_thread_flag(t, TIF_FORCED_TF))
		work |= CKPT_PTRACE_FORCED_TF;
	if (test_tsk_thread_flag(t, TIF_BLOCKSTEP))
		work |= CKPT_PTRACE_BLOCKSTEP;
	/* at all other sites, the freezer sets the flag */
	if (READ_ONCE(t->ckpt_site.kind) == CKPT_SITE_PTRACE &&
	    test_tsk_thread_flag(t, TIF_SIGPENDING))
		work |= CKPT_PTRACE_SIGPENDING;
	return work;
}

/**
 * ckpt_dump_ptrace - write CKPT_REC_PTRACE if the task is traced
 * @ctx: the checkpoint
 * @ct: the task; ckpt_check_settled() has checked that its tracer is in the
 *	tree
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_ptrace(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task;
	const struct cred *cred = NULL;
	struct ckpt_ptrace rec = { };
	int ret;

	BUILD_BUG_ON(sizeof(kernel_siginfo_t) > sizeof(rec.info));

	/*
	 * a tracer outside can attach at any time: see ckpt_recheck_settled()
	 */
	read_lock(&tasklist_lock);
	if (t->ptrace) {
		rec.flags = t->ptrace >> PT_OPT_FLAG_SHIFT & PTRACE_O_MASK;
		if (t->ptrace & PT_SEIZED)
			rec.flags |= CKPT_PTRACE_SEIZED;
		rec.tracer = task_pid_nr_ns(t->parent, ctx->pidns);
		rec.place = place_of(t);
		cred = get_cred(t->ptracer_cred);
	}
	read_unlock(&tasklist_lock);
	if (!cred)
		return 0;
	ret = ckpt_dump_cred(ctx, cred, &rec.cred);
	put_cred(cred);
	if (ret)
		return ret;
	if (!t->exit_state) {
		spin_lock_irq(&t->sighand->siglock);
		rec.jobctl = t->jobctl & JOBCTL_KEPT;
		rec.work = work_of(t);
		if (t->ckpt_site.kind == CKPT_SITE_PTRACE) {
			rec.stop = t->ckpt_site.stop;
			rec.exit_code = t->exit_code;
			rec.message = t->ptrace_message;
			rec.has_info = !!t->last_siginfo;
			if (t->last_siginfo)
				memcpy(rec.info, t->last_siginfo,
				       sizeof(kernel_siginfo_t));
		}
		spin_unlock_irq(&t->sighand->siglock);
	}
	return ckpt_write(ctx, CKPT_REC_PTRACE, 0, &rec, sizeof(rec), NULL, 0);
}

static bool valid_jobctl(const struct ckpt_ptrace *rec)
{
	bool seized = rec->flags & CKPT_PTRACE_SEIZED;
	u32 jobctl = rec->jobctl;

	if (jobctl & ~JOBCTL_KEPT || !valid_signal(jobctl & JOBCTL_STOP_SIGMASK))
		return false;
	if (jobctl & JOBCTL_STOP_CONSUME && !(jobctl & JOBCTL_STOP_PENDING))
		return false;
	if (jobctl & (JOBCTL_TRAP_NOTIFY | JOBCTL_LISTENING) && !seized)
		return false;
	if (jobctl & JOBCTL_LISTENING && rec->stop != CKPT_STOP_TRAP)
		return false;
	/* Without PTRACE_SEIZE, do_jobctl_trap() reports the signal number. */
	return seized || !(jobctl & (JOBCTL_TRAP_STOP | JOBCTL_STOP_PENDING)) ||
	       jobctl & JOBCTL_STOP_SIGMASK;
}

static bool valid_stop(const struct ckpt_ptrace *rec)
{
	bool seized = rec->flags & CKPT_PTRACE_SEIZED;

	if (rec->stop >= NR_CKPT_STOPS || rec->exit_code & ~0xffff ||
	    rec->has_info > 1 || rec->pad)
		return false;
	switch (rec->stop) {
	case CKPT_STOP_NONE:
		return !rec->has_info && !rec->exit_code;
	case CKPT_STOP_TRAP:
		return rec->has_info == seized;
	case CKPT_STOP_SIGNAL:
		/* if the tracer dies, the signal is delivered unchanged */
		return rec->has_info && valid_signal(rec->exit_code);
	default:
		return rec->has_info;
	}
}

/* Check CKPT_REC_PTRACE and keep it until the tasks are linked. */
int ckpt_restore_ptrace(struct ckpt_ctx *ctx)
{
	const struct ckpt_ptrace *rec = (const void *)ctx->rbuf;
	struct ckpt_tsk *ct = ckpt_current(ctx);
	const struct cred *cred;

	if (rec->tracer <= 0 || rec->work & ~WORK_BITS ||
	    rec->flags & ~(PTRACE_O_MASK | CKPT_PTRACE_SEIZED) ||
	    !valid_stop(rec) || !valid_jobctl(rec))
		return ckpt_err(ctx, -EINVAL, "malformed ptrace state");
	/* as in check_ptrace_options() */
	if (rec->flags & PTRACE_O_SUSPEND_SECCOMP &&
	    (!capable(CAP_SYS_ADMIN) ||
	     current->seccomp.mode != SECCOMP_MODE_DISABLED))
		return ckpt_err(ctx, -EPERM, "PTRACE_O_SUSPEND_SECCOMP");
	cred = ckpt_obj_fetch(ctx, CKPT_REC_CRED, rec->cred);
	if (IS_ERR(cred))
		return PTR_ERR(cred);
	ct->ptracer_cred = get_cred(cred);
	ct->ptrace = *rec;
	return 0;
}

/* Set the flags by which the tracer makes current step or stop. */
void ckpt_apply_ptrace(const struct ckpt_ptrace *rec)
{
	if (rec->work & CKPT_PTRACE_SYSCALL)
		set_task_syscall_work(current, SYSCALL_TRACE);
	if (rec->work & CKPT_PTRACE_SYSEMU)
		set_task_syscall_work(current, SYSCALL_EMU);
	if (rec->work & CKPT_PTRACE_EXIT_TRAP)
		set_task_syscall_work(current, SYSCALL_EXIT_TRAP);
	if (rec->work & CKPT_PTRACE_STEP)
		set_thread_flag(TIF_SINGLESTEP);
	if (rec->work & CKPT_PTRACE_FORCED_TF)
		set_thread_flag(TIF_FORCED_TF);
	if (rec->work & CKPT_PTRACE_BLOCKSTEP)
		set_task_blockstep(current, true);
}

/*
 * Replace current's group-stop and trap bits by the saved ones.
 * JOBCTL_LISTENING is set in the stop (ckpt_stop_entered()).
 */
void ckpt_apply_jobctl(u32 jobctl)
{
	lockdep_assert_held(&current->sighand->siglock);
	current->jobctl = (current->jobctl & ~JOBCTL_KEPT) |
			  (jobctl & ~JOBCTL_LISTENING);
}

/*
 * Links
 */

static struct ckpt_tsk *leader_of(struct ckpt_tsk *ct)
{
	while (!(ct->tree.flags & CKPT_TREE_LEADER))
		ct--;
	return ct;
}

static int check_link(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_tsk *tracer = ckpt_find_pid(ctx, ct->ptrace.tracer);
	struct ckpt_tsk *leader = leader_of(ct);
	bool stopping = leader->group_stop_count ||
			leader->signal_flags & SIGNAL_STOP_STOPPED;

	if (!tracer || tracer->tree.flags & CKPT_TREE_ZOMBIE ||
	    tracer->tree.tgid == ct->tree.tgid)
		return ckpt_err(ctx, -EINVAL,
				"pid %d is traced by pid %d, which cannot trace it",
				ct->tree.pid, ct->ptrace.tracer);
	/* do_jobctl_trap() reports the signal to the tracer */
	if (stopping && !(ct->tree.flags & CKPT_TREE_ZOMBIE) &&
	    !(ct->ptrace.jobctl & JOBCTL_STOP_SIGMASK))
		return ckpt_err(ctx, -EINVAL, "pid %d is in a group stop without a signal",
				ct->tree.pid);
	tracer->traces = true;
	return 0;
}

/* The threads of a process must agree on its group stop and on its exit. */
static int check_process(struct ckpt_ctx *ctx, struct ckpt_tsk *leader)
{
	struct ckpt_tsk *ct, *end = ctx->tsks + ctx->nr_tsks;
	u32 stops = 0;

	for (ct = leader; ct < end && ct->tree.tgid == leader->tree.tgid; ct++) {
		if (ct->ptrace.jobctl & JOBCTL_STOP_CONSUME)
			stops++;
		if (leader->signal_flags & SIGNAL_GROUP_EXIT &&
		    !(ct->tree.flags & CKPT_TREE_ZOMBIE) &&
		    ct->ptrace.stop != CKPT_STOP_EXIT)
			return ckpt_err(ctx, -EINVAL,
					"pid %d is alive in a process that exits",
					ct->tree.pid);
	}
	if (stops != leader->group_stop_count)
		return ckpt_err(ctx, -EINVAL,
				"pid %d: %u threads take part in its group stop, not %u",
				leader->tree.pid, stops, leader->group_stop_count);
	return 0;
}

/**
 * ckpt_check_links - check the ptrace records of all tasks against each other
 * @ctx: the restart; all sections are read
 *
 * Return: 0, -EINVAL, -EINTR.
 */
int ckpt_check_links(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; i < ctx->nr_tsks && !ret; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->tree.flags & CKPT_TREE_LEADER)
			ret = check_process(ctx, ct);
		if (!ret && ct->ptrace.tracer)
			ret = check_link(ctx, ct);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	return ret;
}

/**
 * ckpt_check_tracees - check that current may trace its tracees
 * @ctx: the restart
 * @ct: current's entry; current and its tracees have their final credentials
 *
 * Return: 0; -EPERM if neither current nor the caller of restart(2) may attach.
 */
int ckpt_check_tracees(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	unsigned int i;

	if (!ct->traces || ctx->may_trace)
		return 0;
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *tracee = &ctx->tsks[i];

		if (tracee->ptrace.tracer == ct->tree.pid &&
		    !ptrace_may_access(tracee->task, PTRACE_MODE_ATTACH_REALCREDS))
			return ckpt_err(ctx, -EPERM, "pid %d may not trace pid %d",
					ct->tree.pid, tracee->tree.pid);
		cond_resched();
	}
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct ckpt_tsk *x = *(const struct ckpt_tsk **)a;
	const struct ckpt_tsk *y = *(const struct ckpt_tsk **)b;

	return x->ptrace.place < y->ptrace.place ? 1 :
	       x->ptrace.place > y->ptrace.place ? -1 : 0;
}

/**
 * ckpt_sort_tracees - list the tracees, each tracer's in reverse order
 * @ctx: the restart
 *
 * The list is for ckpt_link_tracees(); __ptrace_link() adds at the head.
 *
 * Return: a list that ends with NULL, to be freed by kvfree(), or NULL without
 * memory.
 */
struct ckpt_tsk **ckpt_sort_tracees(struct ckpt_ctx *ctx)
{
	struct ckpt_tsk **list;
	unsigned int i, n = 0;

	list = kvcalloc(ctx->nr_tsks + 1, sizeof(*list), GFP_KERNEL_ACCOUNT);
	if (!list)
		return NULL;
	for (i = 0; i < ctx->nr_tsks; i++)
		if (ctx->tsks[i].ptrace.tracer)
			list[n++] = &ctx->tsks[i];
	sort(list, n, sizeof(*list), by_place, NULL);
	return list;
}

/**
 * ckpt_link_tracees - attach each tracee to its tracer
 * @ctx: the restart; all tasks are parked, and have their parents
 * @list: from ckpt_sort_tracees()
 */
void ckpt_link_tracees(struct ckpt_ctx *ctx, struct ckpt_tsk **list)
{
	lockdep_assert_held_write(&tasklist_lock);
	for (; *list; list++) {
		struct ckpt_tsk *ct = *list;
		struct ckpt_tsk *tracer = ckpt_find_pid(ctx, ct->ptrace.tracer);
		u32 flags = ct->ptrace.flags;

		ct->task->ptrace = PT_PTRACED |
			(flags & PTRACE_O_MASK) << PT_OPT_FLAG_SHIFT;
		if (flags & CKPT_PTRACE_SEIZED)
			ct->task->ptrace |= PT_SEIZED;
		__ptrace_link(ct->task, tracer->task, ct->ptracer_cred);
	}
}
