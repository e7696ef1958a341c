// SPDX-License-Identifier: GPL-2.0-only
/*
 * The stops in which a tracee waits for its tracer.
 *
 * A ptrace stop is a sleep in ptrace_stop(), on the kernel stack of its
 * callers. That stack is not saved. The callers mark the stop (ckpt_stop_at()).
 * There are few of them, and each has little left to do when the tracer resumes
 * the tracee:
 *
 *	stop		left to do			way to user space
 *	syscall-enter	the system call			leaves a system call
 *	seccomp		the system call			leaves a system call
 *	clone, vfork	[vfork wait,] return nr		leaves a system call
 *	vfork-done	return nr			leaves a system call
 *	exec		return 0			leaves a system call
 *	syscall-exit	-				has left it
 *	trap, handler	-				has left it
 *	signal		the signal that the tracer sets	has left it
 *	exit		the rest of do_exit()		none
 *
 * The restarted tracee enters the same stop by the same function, but does not
 * notify its tracer, which was notified before the checkpoint. A notification
 * that the tracer has not consumed yet is saved with the tracer (a queued
 * SIGCHLD) or with the tracee (the exit code that wait4(2) reports). "Leaves a
 * system call" means that syscall_exit_work() is still to run, perhaps with a
 * syscall-exit stop.
 *
 * A tracer must not examine a tracee that has not reached its stop. So
 * restarted tasks that are not in a stop wait at a gate until all stops are
 * reached.
 *
 *	coordinator:	link tracers and tracees, release, pass the gate
 *	in a stop:	ptrace_stop(): TASK_TRACED, pass the gate, sleep ...
 *	dead thread:	do_exit(): EXIT_ZOMBIE, pass the gate
 *	others:		wait for the gate, resume at their sites
 */
#include <linux/completion.h>
#include <linux/entry-common.h>
#include <linux/ptrace.h>
#include <linux/sched/jobctl.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>

#include "ckpt.h"
#include "ptrace.h"

/* The gate opens when every stop has been re-entered. */
struct ckpt_gate {
	refcount_t users;
	atomic_t left;		/* tasks yet to arrive, and the coordinator */
	struct completion open;
};

/* A stop or an exit that a restarted task must re-enter. */
struct ckpt_stop {
	struct ckpt_gate *gate;	/* reference held */
	enum pid_type type;	/* signal-delivery stop: target of the signal */
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
 * ckpt_prepare_stop - prepare current to re-enter its stop or exit
 * @ctx: the restart
 * @ct: current's entry, its section read
 *
 * Return: 0; -EINVAL if the section contradicts itself; -EPERM for a seccomp
 * stop of a caller that has filters itself; -ENOMEM.
 */
int ckpt_prepare_stop(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	bool zombie = ct->tree.flags & CKPT_TREE_ZOMBIE;
	bool late = ckpt_dead_thread(ct);
	bool stopped = ct->ptrace.stop != CKPT_STOP_NONE;
	bool at_stop = ct->rec.site == CKPT_SITE_PTRACE;
	struct ckpt_stop *resume;

	if (stopped != at_stop ||
	    (stopped && !valid_stop_arg(ct->ptrace.stop, ct->rec.site_arg)) ||
	    (zombie && (ct->ptrace.jobctl || ct->ptrace.work)) ||
	    (late && !ct->ptrace.tracer && !(ct->tree.flags & CKPT_TREE_LEADER)))
		return ckpt_err(ctx, -EINVAL, "a site that contradicts its ptrace state");
	/* the saved filters have run already; the caller's would be skipped */
	if (ct->ptrace.stop == CKPT_STOP_SECCOMP && !ct->rec.seccomp)
		return ckpt_err(ctx, -EINVAL, "a seccomp stop without a filter");
	if (ct->ptrace.stop == CKPT_STOP_SECCOMP &&
	    current->seccomp.mode != SECCOMP_MODE_DISABLED)
		return ckpt_err(ctx, -EPERM,
				"a seccomp stop, restarted from under seccomp filters");
	if (!stopped && !late)
		return 0;
	resume = kmalloc(sizeof(*resume), GFP_KERNEL_ACCOUNT);
	if (!resume)
		return -ENOMEM;
	resume->type = ct->rec.site_arg;
	resume->rec = ct->ptrace;
	resume->gate = ctx->gate;
	refcount_inc(&ctx->gate->users);
	atomic_inc(&ctx->gate->left);
	ct->resume = resume;
	return 0;
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

/* Count a task that has reached its stop, or the coordinator's release. */
void ckpt_gate_count(struct ckpt_gate *gate)
{
	if (atomic_dec_and_test(&gate->left))
		complete_all(&gate->open);
}

/* Wait until all stops are reached or current is killed. Drops a reference. */
void ckpt_gate_wait(struct ckpt_gate *gate)
{
	wait_for_completion_killable(&gate->open);
	ckpt_gate_put(gate);
}

void ckpt_stop_free(struct ckpt_stop *resume)
{
	if (resume)
		ckpt_gate_put(resume->gate);
	kfree(resume);
}

/**
 * ckpt_gate_pass - count current at the gate and free its resume record
 *
 * Called when current has reached its stop, or skips it. Does not sleep,
 * because ptrace_stop() has already set the task state.
 */
void ckpt_gate_pass(void)
{
	struct ckpt_stop *resume = current->ckpt_site.resume;

	current->ckpt_site.resume = NULL;
	current->ckpt_site.dying = false;
	ckpt_gate_count(resume->gate);
	ckpt_stop_free(resume);
}

/*
 * Re-entering stops: called by kernel/signal.c
 */

/* Return the signal of a signal-delivery stop, for ptrace_signal(). */
int ckpt_stop_signal(struct kernel_siginfo *info, enum pid_type *type)
{
	const struct ckpt_stop *resume = current->ckpt_site.resume;

	memcpy(info, resume->rec.info, sizeof(*info));
	*type = resume->type;
	return info->si_signo;
}

/*
 * Restore the state of the stop that the tracer can see. Called in TASK_TRACED
 * with siglock held.
 */
void ckpt_stop_entered(struct kernel_siginfo *info)
{
	const struct ckpt_ptrace *rec = &current->ckpt_site.resume->rec;

	if (info)
		memcpy(info, rec->info, sizeof(*info));
	current->ptrace_message = rec->message;
	current->exit_code = rec->exit_code;
	/* ptrace_signal() sets the bit; SIGCONT may have cleared it later */
	if (!(rec->jobctl & JOBCTL_STOP_DEQUEUED))
		current->jobctl &= ~JOBCTL_STOP_DEQUEUED;
	if (rec->jobctl & JOBCTL_LISTENING) {
		current->jobctl |= JOBCTL_LISTENING;
		/* a notification came before JOBCTL_LISTENING was set */
		if (current->jobctl & JOBCTL_TRAP_NOTIFY)
			ptrace_signal_wake_up(current, true);
	}
}

/*
 * Skip the stop, as ptrace_stop() does when the tracer is gone or current is
 * killed. Returns the exit code of the stop.
 */
int ckpt_skip_stop(void)
{
	int exit_code = current->ckpt_site.resume->rec.exit_code;

	ckpt_gate_pass();
	return exit_code;
}

static void send_chosen(int signr)
{
	if (signr)
		send_sig(signr, current, 1);
}

/**
 * ckpt_resume_stop - re-enter a stop, then do the work that is left after it
 * @rec: current's task record
 * @ptrace: current's ptrace record; current->ckpt_site.resume is set
 * @vfork: linked if a vfork wait follows
 *
 * Return: the value that ckpt_task_main() returns to ret_from_fork().
 */
int ckpt_resume_stop(const struct ckpt_task *rec, const struct ckpt_ptrace *ptrace,
		     struct ckpt_vfork_wait *vfork)
{
	struct pt_regs *regs = current_pt_regs();
	unsigned long work;
	int signr;

	if (ptrace->work & CKPT_PTRACE_SIGPENDING)
		set_thread_flag(TIF_SIGPENDING);
	ckpt_stop_at(ptrace->stop, rec->site_arg);
	if (ptrace->stop == CKPT_STOP_EXIT)
		do_exit(rec->site_arg);
	if (ptrace->stop == CKPT_STOP_SIGNAL) {
		if (ckpt_broken(CKPT_BREAK_SIGNAL_STOP))
			ckpt_gate_pass();
		/* get_signal() enters the stop */
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
		work = READ_ONCE(current_thread_info()->syscall_work);
		if (!ckpt_seccomp_resume())
			ckpt_do_syscall(regs, syscall_trace_enter_end(regs, work));
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
		/* the task was in get_signal(): run get_signal() again */
		set_thread_flag(TIF_SIGPENDING);
		return CKPT_SYSCALL_LEFT;
	default:
		return CKPT_SYSCALL_LEFT;
	}
}
