// SPDX-License-Identifier: GPL-2.0
/*
 * Tracers and tracees, and the stops in which a tracee waits for its tracer.
 *
 * A ptrace stop is a sleep in ptrace_stop(), with the kernel stack of whatever
 * led there beneath it. That stack is not saved. Where it led from is marked
 * (ckpt_stop_at()), and there are few such places, each with little left to do
 * once the tracer lets the tracee go:
 *
 *	stop		left to do, then		way to user space
 *	syscall-enter	the system call			leaves a system call
 *	seccomp		the system call			leaves a system call
 *	clone, vfork	[vfork wait,] return nr		leaves a system call
 *	vfork-done	return nr			leaves a system call
 *	exec		return 0			leaves a system call
 *	syscall-exit	-				has left it
 *	trap, handler	-				has left it
 *	signal		what the tracer makes of it	has left it
 *	exit		the rest of do_exit()		none
 *
 * The restarted tracee enters the same stop by the same function, but without
 * a word: the tracer has been told of it, and what it has not taken note of is
 * in its own saved state (a queued SIGCHLD, the exit code that wait4(2) finds).
 * "Leaves a system call" means that the work of syscall_exit_work() is still
 * to come, and with it perhaps a syscall-exit stop.
 *
 * Nobody may look for a tracee's stop before it is there. So all restarted
 * tasks that are in none wait at a gate until all others are.
 *
 *	coordinator:	link tracers and tracees, release, gate
 *	in a stop:	ptrace_stop(): TASK_TRACED, gate, sleep ... what is left
 *	dead thread:	do_exit(): EXIT_ZOMBIE, gate
 *	others:		wait for the gate, go on at their sites
 */
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/entry-common.h>
#include <linux/ptrace.h>
#include <linux/sched/jobctl.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
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

/* What those wait for that are in no stop. */
struct ckpt_gate {
	refcount_t users;
	atomic_t left;		/* tasks on their way, and the coordinator */
	struct completion open;
};

/* A stop, or a death, that is to be entered again. */
struct ckpt_stop {
	struct ckpt_gate *gate;	/* reference held */
	enum pid_type type;	/* signal-delivery stop: where it was sent */
	struct ckpt_ptrace rec;
};

static const char *const stop_names[NR_CKPT_STOPS] = {
	[CKPT_STOP_NONE]		= "none",
	[CKPT_STOP_SYSCALL_ENTER]	= "syscall-enter",
	[CKPT_STOP_SYSCALL_EXIT]	= "syscall-exit",
	[CKPT_STOP_CLONE]		= "clone",
	[CKPT_STOP_VFORK]		= "vfork",
	[CKPT_STOP_VFORK_DONE]		= "vfork-done",
	[CKPT_STOP_EXEC]		= "exec",
	[CKPT_STOP_EXIT]		= "exit",
	[CKPT_STOP_SIGNAL]		= "signal",
	[CKPT_STOP_TRAP]		= "trap",
	[CKPT_STOP_HANDLER]		= "handler",
	[CKPT_STOP_SECCOMP]		= "seccomp",
};

const char *ckpt_stop_name(u32 stop)
{
	return stop < NR_CKPT_STOPS ? stop_names[stop] : "unknown";
}

/* How many of its tracer's tracees come before it. */
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
	if (test_tsk_thread_flag(t, TIF_SIGPENDING))
		work |= CKPT_PTRACE_SIGPENDING;
	return work;
}

/**
 * ckpt_dump_ptrace - write CKPT_REC_PTRACE, if the task is traced
 * @ctx: the checkpoint
 * @ct: the task; its tracer is in the tree (ckpt_check_settled())
 *
 * Return: 0 or a negative errno.
 */
int ckpt_dump_ptrace(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct task_struct *t = ct->task;
	struct ckpt_ptrace rec = { };
	int ret;

	BUILD_BUG_ON(sizeof(kernel_siginfo_t) > sizeof(rec.info));

	if (!t->ptrace)
		return 0;
	ret = ckpt_dump_cred(ctx, t->ptracer_cred, &rec.cred);
	if (ret)
		return ret;
	rec.flags = t->ptrace >> PT_OPT_FLAG_SHIFT & PTRACE_O_MASK;
	if (t->ptrace & PT_SEIZED)
		rec.flags |= CKPT_PTRACE_SEIZED;
	read_lock(&tasklist_lock);
	rec.tracer = task_pid_nr_ns(t->parent, ctx->pidns);
	rec.place = place_of(t);
	read_unlock(&tasklist_lock);
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
	/* what do_jobctl_trap() reports, where it does not report SIGTRAP */
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
		/* delivered as it is where the tracer dies */
		return rec->has_info && valid_signal(rec->exit_code);
	default:
		return rec->has_info;
	}
}

/* CKPT_REC_PTRACE has been read: keep it. */
int ckpt_restore_ptrace(struct ckpt_ctx *ctx)
{
	const struct ckpt_ptrace *rec = (const void *)ctx->rbuf;
	struct ckpt_tsk *ct = ckpt_current(ctx);
	const struct cred *cred;

	if (rec->tracer <= 0 || rec->work & ~WORK_BITS ||
	    rec->flags & ~(PTRACE_O_MASK | CKPT_PTRACE_SEIZED) ||
	    !valid_stop(rec) || !valid_jobctl(rec))
		return ckpt_err(ctx, -EINVAL, "malformed ptrace state");
	/* as ptrace_setoptions() has it */
	if (rec->flags & PTRACE_O_SUSPEND_SECCOMP && !capable(CAP_SYS_ADMIN))
		return ckpt_err(ctx, -EPERM, "PTRACE_O_SUSPEND_SECCOMP");
	cred = ckpt_obj_fetch(ctx, CKPT_REC_CRED, rec->cred);
	if (IS_ERR(cred))
		return PTR_ERR(cred);
	ct->ptracer_cred = get_cred(cred);
	ct->ptrace = *rec;
	return 0;
}

static bool valid_stop_arg(u32 stop, s32 arg)
{
	switch (stop) {
	case CKPT_STOP_SYSCALL_ENTER:
		return arg == 0 || arg == 1;
	case CKPT_STOP_SIGNAL:
		return arg == PIDTYPE_PID || arg == PIDTYPE_TGID;
	case CKPT_STOP_CLONE:
	case CKPT_STOP_VFORK:
	case CKPT_STOP_VFORK_DONE:
		return arg > 0;
	case CKPT_STOP_EXIT:
		return !(arg & ~0xffff);
	default:
		return arg == 0;
	}
}

/**
 * ckpt_prepare_stop - make ready to enter a stop, or die, again
 * @ctx: the restart
 * @ct: current's entry, its section read
 *
 * Return: 0, -EINVAL where the section contradicts itself, -ENOMEM.
 */
int ckpt_prepare_stop(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	bool zombie = ct->tree.flags & CKPT_TREE_ZOMBIE;
	bool late = zombie && !(ct->tree.flags & CKPT_TREE_LEADER);
	bool stopped = ct->ptrace.stop != CKPT_STOP_NONE;
	bool at_stop = ct->rec.site == CKPT_SITE_PTRACE;
	struct ckpt_stop *again;

	if (stopped != at_stop ||
	    (stopped && !valid_stop_arg(ct->ptrace.stop, ct->rec.site_arg)) ||
	    (zombie && (ct->ptrace.jobctl || ct->ptrace.work)) ||
	    (late && !ct->ptrace.tracer))
		return ckpt_err(ctx, -EINVAL, "a site that contradicts its ptrace state");
	if (!stopped && !late)
		return 0;
	again = kmalloc(sizeof(*again), GFP_KERNEL_ACCOUNT);
	if (!again)
		return -ENOMEM;
	again->type = ct->rec.site_arg;
	again->rec = ct->ptrace;
	again->gate = ctx->gate;
	refcount_inc(&ctx->gate->users);
	atomic_inc(&ctx->gate->left);
	ct->again = again;
	return 0;
}

/* Give current the flags that go with being traced. */
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
 * Put the saved group-stop and trap bits in place of what restarting has left.
 * A listening tracee becomes one in its stop (ckpt_stop_entered()).
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
		return ckpt_err(ctx, -EINVAL, "pid %d is traced by pid %d, which cannot be",
				ct->tree.pid, ct->ptrace.tracer);
	/* do_jobctl_trap() tells the tracer which signal it was */
	if (stopping && !(ct->tree.flags & CKPT_TREE_ZOMBIE) &&
	    !(ct->ptrace.jobctl & JOBCTL_STOP_SIGMASK))
		return ckpt_err(ctx, -EINVAL, "pid %d is in a group stop without a signal",
				ct->tree.pid);
	tracer->traces = true;
	return 0;
}

/* A process' threads agree on its group stop, and on its end. */
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
					"pid %d lives on in a process that exits",
					ct->tree.pid);
	}
	if (stops != leader->group_stop_count)
		return ckpt_err(ctx, -EINVAL,
				"pid %d: %u threads are to stop, not %u",
				leader->tree.pid, stops, leader->group_stop_count);
	return 0;
}

/**
 * ckpt_check_links - whether all that was read of tracing fits together
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
 * ckpt_check_tracees - may current trace what the image says it does?
 * @ctx: the restart
 * @ct: current's entry; it and its tracees have the rights they will have
 *
 * Return: 0; -EPERM where neither current could attach, nor the restarter.
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
 * ckpt_sort_tracees - list the tracees so that the last of each tracer's is first
 * @ctx: the restart
 *
 * The list is for ckpt_link_tracees(), and the caller's to kvfree().
 *
 * Return: the list, ended by NULL; NULL where there is no memory.
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
 * ckpt_link_tracees - give each tracee its tracer
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

/*
 * The gate
 */

struct ckpt_gate *ckpt_gate_alloc(void)
{
	struct ckpt_gate *gate = kmalloc(sizeof(*gate), GFP_KERNEL_ACCOUNT);

	if (!gate)
		return NULL;
	refcount_set(&gate->users, 1);
	atomic_set(&gate->left, 1);
	init_completion(&gate->open);
	return gate;
}

void ckpt_gate_get(struct ckpt_gate *gate)
{
	refcount_inc(&gate->users);
}

void ckpt_gate_put(struct ckpt_gate *gate)
{
	if (gate && refcount_dec_and_test(&gate->users))
		kfree(gate);
}

/* One more is where it should be; the coordinator, too, when it lets go. */
void ckpt_gate_count(struct ckpt_gate *gate)
{
	if (atomic_dec_and_test(&gate->left))
		complete_all(&gate->open);
}

/* Wait until all are in their stops; or die. */
void ckpt_gate_wait(struct ckpt_gate *gate)
{
	wait_for_completion_killable(&gate->open);
	ckpt_gate_put(gate);
}

void ckpt_stop_free(struct ckpt_stop *again)
{
	if (again)
		ckpt_gate_put(again->gate);
	kfree(again);
}

/**
 * ckpt_gate_pass - current is where it was, or will never be
 *
 * Does not sleep: ptrace_stop() calls this after it has set its state.
 */
void ckpt_gate_pass(void)
{
	struct ckpt_stop *again = current->ckpt_site.again;

	current->ckpt_site.again = NULL;
	current->ckpt_site.dying = false;
	ckpt_gate_count(again->gate);
	ckpt_stop_free(again);
}

/*
 * Entering stops again: called by kernel/signal.c
 */

/* The signal that the stop is about; ptrace_signal() comes next. */
int ckpt_stop_signal(struct kernel_siginfo *info, enum pid_type *type)
{
	const struct ckpt_stop *again = current->ckpt_site.again;

	memcpy(info, again->rec.info, sizeof(*info));
	*type = again->type;
	return info->si_signo;
}

/* TASK_TRACED, with siglock held: now as the tracer had left it. */
void ckpt_stop_entered(struct kernel_siginfo *info)
{
	const struct ckpt_ptrace *rec = &current->ckpt_site.again->rec;

	if (info)
		memcpy(info, rec->info, sizeof(*info));
	current->ptrace_message = rec->message;
	current->exit_code = rec->exit_code;
	/* ptrace_signal() sets it; SIGCONT may have cleared it after that */
	if (!(rec->jobctl & JOBCTL_STOP_DEQUEUED))
		current->jobctl &= ~JOBCTL_STOP_DEQUEUED;
	if (rec->jobctl & JOBCTL_LISTENING) {
		current->jobctl |= JOBCTL_LISTENING;
		/* told of something already, while it could not be woken */
		if (current->jobctl & JOBCTL_TRAP_NOTIFY)
			ptrace_signal_wake_up(current, true);
	}
}

/* The tracer is gone, or current is to die: no stop, as ptrace_stop() has it. */
int ckpt_stop_left_out(void)
{
	int exit_code = current->ckpt_site.again->rec.exit_code;

	ckpt_gate_pass();
	return exit_code;
}

static void send_chosen(int signr)
{
	if (signr)
		send_sig(signr, current, 1);
}

/**
 * ckpt_resume_stop - stand in a stop, then do what is left
 * @rec: current's record
 * @ptrace: and the one about the stop; current->ckpt_site.again is set
 * @vfork: linked, if a vfork wait comes after it
 *
 * Return: what ckpt_task_main() has to return to ret_from_fork().
 */
int ckpt_resume_stop(const struct ckpt_task *rec, const struct ckpt_ptrace *ptrace,
		     struct ckpt_vfork_wait *vfork)
{
	struct pt_regs *regs = current_pt_regs();
	int signr;

	if (ptrace->work & CKPT_PTRACE_SIGPENDING)
		set_thread_flag(TIF_SIGPENDING);
	ckpt_stop_at(ptrace->stop, rec->site_arg);
	if (ptrace->stop == CKPT_STOP_EXIT)
		do_exit(rec->site_arg);
	if (ptrace->stop == CKPT_STOP_SIGNAL) {
		if (ckpt_broken(CKPT_BREAK_SIGNAL_STOP))
			ckpt_gate_pass();
		/* get_signal() enters it */
		set_thread_flag(TIF_SIGPENDING);
		return CKPT_SYSCALL_LEFT;
	}
	signr = ckpt_ptrace_stop(ptrace->has_info);
	switch (ptrace->stop) {
	case CKPT_STOP_SYSCALL_ENTER:
		send_chosen(signr);
		if (!fatal_signal_pending(current) && !rec->site_arg &&
		    !ckpt_broken(CKPT_BREAK_SYSCALL_ENTER))
			ckpt_do_syscall(regs, ckpt_syscall_trace_enter(regs));
		return CKPT_SYSCALL_LEAVES;
	case CKPT_STOP_SECCOMP:
		if (!ckpt_seccomp_resume())
			ckpt_do_syscall(regs, syscall_trace_enter_end(regs,
				READ_ONCE(current_thread_info()->syscall_work)));
		return CKPT_SYSCALL_LEAVES;
	case CKPT_STOP_SYSCALL_EXIT:
		send_chosen(signr);
		return ckpt_broken(CKPT_BREAK_SYSCALL_EXIT) ?
		       CKPT_SYSCALL_LEAVES : CKPT_SYSCALL_LEFT;
	case CKPT_STOP_VFORK:
		ckpt_event(CKPT_EVENT_VFORK, 0);
		vfork->nr = rec->site_arg;
		ckpt_vfork_wait(vfork, regs);
		return CKPT_SYSCALL_LEAVES;
	case CKPT_STOP_CLONE:
	case CKPT_STOP_VFORK_DONE:
		regs->ax = rec->site_arg;
		return CKPT_SYSCALL_LEAVES;
	case CKPT_STOP_EXEC:
		regs->ax = 0;
		return CKPT_SYSCALL_LEAVES;
	case CKPT_STOP_TRAP:
		/* it was in get_signal(), which goes on */
		set_thread_flag(TIF_SIGPENDING);
		return CKPT_SYSCALL_LEFT;
	default:
		return CKPT_SYSCALL_LEFT;
	}
}
