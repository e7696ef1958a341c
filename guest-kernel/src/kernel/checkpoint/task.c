// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of a single thread: name, signal mask, times, the addresses it has
 * registered with the kernel, and its site; and the resource limits of its
 * process.
 */
#include <uapi/linux/futex.h>
#include <linux/iocontext.h>
#include <linux/ipc_namespace.h>
#include <linux/nsproxy.h>
#include <linux/oom.h>
#include <linux/perf_event.h>
#include <linux/personality.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <linux/rseq.h>
#include <linux/sched/cputime.h>
#include <linux/sched/mm.h>
#include <linux/sched/rt.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/tty.h>

#include "ckpt.h"
#include "exec.h"

/*
 * The tick queues work for the kernel's own caches and clocks, and queues it
 * again after a restart. A parent cannot run such work before its vfork wait
 * ends, so it does not prevent a checkpoint. All other work must have been run.
 */
static bool only_tick_work(struct task_struct *t)
{
	struct callback_head *work;

	for (work = READ_ONCE(t->task_works); work; work = READ_ONCE(work->next)) {
#ifdef CONFIG_SCHED_MM_CID
		if (work == &t->cid_work)
			continue;
#endif
#ifdef CONFIG_POSIX_CPU_TIMERS_TASK_WORK
		if (work == &t->posix_cputimers_work.work)
			continue;
#endif
		return false;
	}
	return true;
}

static int check_task(struct ckpt_ctx *ctx, struct task_struct *t)
{
	if (!only_tick_work(t))
		return ckpt_err(ctx, -EAGAIN, "%s: work is pending: try again",
				t->comm);
#ifdef CONFIG_IO_URING
	if (t->io_uring)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: io_uring", t->comm);
#endif
#ifdef CONFIG_PERF_EVENTS
	/* the breakpoints of a debugger are performance events, too */
	if (t->perf_event_ctxp &&
	    t->perf_event_ctxp->nr_events > ckpt_nr_breakpoints(t))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: performance events",
				t->comm);
#endif
	if (t->io_context && t->io_context->ioprio)
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: ioprio_set", t->comm);
	if (t->flags & (PF_MEMALLOC_NOIO | PF_MCE_PROCESS | PF_MCE_EARLY))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: PR_SET_IO_FLUSHER or PR_MCE_KILL", t->comm);
	if (test_task_syscall_work(t, SYSCALL_USER_DISPATCH))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: syscall user dispatch",
				t->comm);
	if (t->plug || t->bio_list)
		return ckpt_err(ctx, -EAGAIN, "%s: block I/O: try again",
				t->comm);
#ifdef CONFIG_FUTEX_PI
	if (!list_empty(&t->pi_state_list))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: holds a PI futex", t->comm);
#endif
#ifdef CONFIG_SYSVIPC
	/* attached segments are mappings, which vma.c refuses */
	if (ctx->nsproxy->ipc_ns->shm_rmid_forced &&
	    !list_empty(&t->sysvshm.shm_clist))
		return ckpt_err(ctx, -EOPNOTSUPP,
				"%s: System V shared memory that it has created, which its exit removes (kernel.shm_rmid_forced)",
				t->comm);
	if (!ckpt_sem_undo_empty(t))
		return ckpt_err(ctx, -EOPNOTSUPP, "%s: System V semaphore undo",
				t->comm);
#endif
	return ckpt_check_sched(ctx, t);
}

static void dump_times(struct task_struct *t, struct ckpt_task *rec)
{
	u64 utime, stime;

	task_cputime(t, &utime, &stime);
	rec->utime = utime;
	rec->stime = stime;
	/* times reported to user space must not decrease */
	task_cputime_adjusted(t, &utime, &stime);
	rec->seen_utime = utime;
	rec->seen_stime = stime;
	rec->exec_ns = t->se.sum_exec_runtime;
	rec->gtime = t->gtime;
	rec->nvcsw = t->nvcsw;
	rec->nivcsw = t->nivcsw;
	rec->min_flt = t->min_flt;
	rec->maj_flt = t->maj_flt;
	rec->start_ns = t->start_time;
	rec->start_boot_ns = t->start_boottime;
}

static int dump_site(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		     struct ckpt_task *rec)
{
	struct task_struct *t = ct->task;

	rec->site = READ_ONCE(t->ckpt_site.kind);
	rec->site_arg = t->ckpt_site.arg;
	if (rec->site == CKPT_SITE_VFORK ||
	    (rec->site == CKPT_SITE_PTRACE &&
	     t->ckpt_site.stop == CKPT_STOP_VFORK))
		return ckpt_dump_vfork(ctx, ct, rec);
	if (rec->site == CKPT_SITE_EXEC)
		return ckpt_dump_exec(ctx, t, rec);
	return 0;
}

/**
 * ckpt_dump_task - write CKPT_REC_TASK, which follows the objects it refers to
 * @ctx: the checkpoint
 * @ct: the task
 * @rec: the record, with the objrefs filled in
 *
 * Return: 0, -EOPNOTSUPP for state that is not supported, -EAGAIN.
 */
int ckpt_dump_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		   struct ckpt_task *rec)
{
	struct task_struct *t = ct->task;
	int ret;

	get_task_comm(rec->comm, t);
	dump_times(t, rec);
	ckpt_dump_sched(t, rec);
	rec->oom_score_adj = t->signal->oom_score_adj;
	rec->pdeath_signal = t->pdeath_signal;
	if (t->exit_state) {
		rec->site = CKPT_SITE_ZOMBIE;
		return ckpt_write(ctx, CKPT_REC_TASK, 0, rec, sizeof(*rec),
				  NULL, 0);
	}
	ret = check_task(ctx, t);
	if (!ret)
		ret = dump_site(ctx, ct, rec);
	if (!ret)
		ret = ckpt_dump_restart_block(ctx, t, rec);
	if (ret)
		return ret;
	if (t->restore_sigmask)
		rec->flags |= CKPT_TASK_SIGMASK_SAVED;
	if (task_no_new_privs(t))
		rec->flags |= CKPT_TASK_NO_NEW_PRIVS;
	if (t->flags & PF_FORKNOEXEC)
		rec->flags |= CKPT_TASK_FORKNOEXEC;
	if (t->flags & PF_SUPERPRIV)
		rec->flags |= CKPT_TASK_SUPERPRIV;
	if (t->flags & PF_SIGNALED)
		rec->flags |= CKPT_TASK_SIGNALED;
	if (t->flags & PF_NPROC_EXCEEDED)
		rec->flags |= CKPT_TASK_NPROC;
	rec->blocked = t->blocked.sig[0];
	rec->saved_sigmask = t->saved_sigmask.sig[0];
	rec->sas_sp = t->sas_ss_sp;
	rec->sas_size = t->sas_ss_size;
	rec->sas_flags = t->sas_ss_flags;
	rec->set_child_tid = (unsigned long)t->set_child_tid;
	rec->clear_child_tid = (unsigned long)t->clear_child_tid;
	rec->robust_list = (unsigned long)t->robust_list;
	/* in an exec stop, the old program's area is still registered */
	if (rec->site != CKPT_SITE_PTRACE || t->ckpt_site.stop != CKPT_STOP_EXEC)
		rec->rseq = (unsigned long)t->rseq;
	rec->rseq_len = t->rseq_len;
	rec->rseq_sig = t->rseq_sig;
	rec->personality = t->personality;
	rec->timer_slack_ns = t->timer_slack_ns;
	rec->default_timer_slack_ns = t->default_timer_slack_ns;
	return ckpt_write(ctx, CKPT_REC_TASK, 0, rec, sizeof(*rec), NULL, 0);
}

static bool user_range_ok(u64 addr, u64 len)
{
	return len <= TASK_SIZE_MAX && addr <= TASK_SIZE_MAX - len;
}

#define TASK_FLAGS (CKPT_TASK_SIGMASK_SAVED | CKPT_TASK_NO_NEW_PRIVS | \
		    CKPT_TASK_FORKNOEXEC | CKPT_TASK_SUPERPRIV | \
		    CKPT_TASK_SIGNALED | CKPT_TASK_STRICT | \
		    CKPT_TASK_AFFINITY | CKPT_TASK_NPROC)

static bool valid_task(const struct ckpt_task *rec, bool zombie)
{
	u32 policy = rec->policy & ~SCHED_RESET_ON_FORK;

	if (zombie ? rec->site != CKPT_SITE_ZOMBIE :
		     rec->site == CKPT_SITE_ZOMBIE)
		return false;
	if (rec->site < CKPT_SITE_FREEZER || rec->site > CKPT_SITE_EXEC ||
	    rec->flags & ~TASK_FLAGS ||
	    (rec->flags & CKPT_TASK_STRICT && rec->seccomp))
		return false;
	if (policy > SCHED_IDLE || policy == 4 || rec->nice < MIN_NICE ||
	    rec->nice > MAX_NICE || rec->rt_priority >= MAX_RT_PRIO ||
	    rec->oom_score_adj < OOM_SCORE_ADJ_MIN ||
	    rec->oom_score_adj > OOM_SCORE_ADJ_MAX ||
	    !valid_signal(rec->pdeath_signal))
		return false;
	if (zombie)
		return true;
	if (rec->site == CKPT_SITE_STOPPED && !valid_signal(rec->site_arg))
		return false;
	if (rec->site == CKPT_SITE_VFORK && rec->site_arg <= 0)
		return false;
	if (rec->site != CKPT_SITE_EXEC && (rec->exec_ino || rec->exec_interp_ino))
		return false;
	return user_range_ok(rec->sas_sp, rec->sas_size) &&
	       !(rec->sas_flags & ~(SS_ONSTACK | SS_DISABLE | SS_AUTODISARM)) &&
	       user_range_ok(rec->set_child_tid, sizeof(int)) &&
	       user_range_ok(rec->clear_child_tid, sizeof(int)) &&
	       user_range_ok(rec->robust_list, sizeof(struct robust_list_head)) &&
	       user_range_ok(rec->rseq, rec->rseq_len) &&
	       (!rec->rseq || (rec->rseq_len >= 32 &&
			       IS_ALIGNED(rec->rseq, 32)));
}

/**
 * ckpt_add_cpu_time - add CPU times to the total of the image
 * @ctx: the restart
 * @ns: the times, ns
 * @n: number of times
 *
 * The kernel adds and multiplies these times. The total of an image is limited
 * to half of KTIME_MAX (146 years), so that no calculation overflows.
 *
 * Return: false if the total exceeds the limit.
 */
bool ckpt_add_cpu_time(struct ckpt_ctx *ctx, const u64 *ns, int n)
{
	for (; n; n--, ns++)
		if (check_add_overflow(ctx->cpu_ns, *ns, &ctx->cpu_ns) ||
		    ctx->cpu_ns > KTIME_MAX / 2)
			return false;
	return true;
}

/* Check CKPT_REC_TASK and keep it until the section has been read. */
int ckpt_restore_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	const struct ckpt_task *rec = (const void *)ctx->rbuf;

	if (!valid_task(rec, ct->tree.flags & CKPT_TREE_ZOMBIE) ||
	    !ckpt_add_cpu_time(ctx, &rec->utime, 2) ||
	    !ckpt_add_cpu_time(ctx, &rec->exec_ns, 4))
		return ckpt_err(ctx, -EINVAL, "malformed task");
	ct->rec = *rec;
	ct->rec.comm[TASK_COMM_LEN - 1] = '\0';
	return ckpt_check_restart_block(ctx, rec);
}

static int apply_oom(struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	struct signal_struct *sig = current->signal;

	if (rec->oom_score_adj == sig->oom_score_adj)
		return 0;
	if (rec->oom_score_adj < sig->oom_score_adj_min &&
	    !capable(CAP_SYS_RESOURCE))
		return ckpt_err(ctx, -EPERM, "oom_score_adj %d",
				rec->oom_score_adj);
	sig->oom_score_adj = rec->oom_score_adj;
	return 0;
}

/*
 * A process whose threads are all dead has no address space. It was created in
 * the coordinator's, which tasks that may trace the zombie must not access.
 */
static int leave_memory(struct ckpt_ctx *ctx)
{
	struct mm_struct *mm = mm_alloc();
	int ret;

	if (!mm)
		return ckpt_err(ctx, -ENOMEM, "allocating an address space");
	ret = ckpt_switch_mm(mm, true);
	if (ret)
		mmput(mm);
	return ret;
}

/* Restore the state that a process keeps even if its leader is dead. */
static int apply_process(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	int ret;

	ret = ckpt_apply_mm(ctx, ct->rec.mm);
	if (!ret)
		ret = apply_oom(ctx, &ct->rec);
	/* drop the coordinator's terminal, which a new session must not have */
	if (!ret && ct->tree.flags & CKPT_TREE_LEADER && ct->tree.sid)
		proc_clear_tty(current);
	return ret;
}

/*
 * Set the creation time of current. If the machine has booted after that time,
 * keep the time of the restart.
 */
static void apply_start(const struct ckpt_ctx *ctx, const struct ckpt_task *rec)
{
	if (!ctx->may_date || rec->start_ns > ktime_get_ns() ||
	    rec->start_boot_ns > ktime_get_boottime_ns())
		return;
	current->start_time = rec->start_ns;
	current->start_boottime = rec->start_boot_ns;
}

/* Overwrite the times and counters of the restart with the saved ones. */
static void apply_times(const struct ckpt_task *rec)
{
	current->utime = rec->utime;
	current->stime = rec->stime;
	current->gtime = rec->gtime;
	raw_spin_lock_irq(&current->prev_cputime.lock);
	current->prev_cputime.utime = rec->seen_utime;
	current->prev_cputime.stime = rec->seen_stime;
	raw_spin_unlock_irq(&current->prev_cputime.lock);
	current->nvcsw = rec->nvcsw;
	current->nivcsw = rec->nivcsw;
	current->min_flt = rec->min_flt;
	current->maj_flt = rec->maj_flt;
	ckpt_set_runtime(rec->exec_ns);
}

/**
 * ckpt_apply_task - restore the state of current, except for its credentials
 * @ctx: the restart
 * @ct: current's entry
 *
 * Restoring state may need rights that the saved credentials do not include.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_apply_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	const struct ckpt_task *rec = &ct->rec;
	int ret;

	set_task_comm(current, rec->comm);
	apply_times(rec);
	apply_start(ctx, rec);
	if (ct->tree.flags & CKPT_TREE_LEADER && !ct->lives)
		ret = leave_memory(ctx);
	else if (ct->tree.flags & CKPT_TREE_LEADER || !ckpt_dead_thread(ct))
		ret = apply_process(ctx, ct);
	if (ret || ct->tree.flags & CKPT_TREE_ZOMBIE)
		return ret;
	ret = ckpt_apply_files(ctx, rec->files);
	if (!ret)
		ret = ckpt_apply_fs(ctx, rec->fs);
	if (ret)
		return ret;
	current->saved_sigmask.sig[0] = rec->saved_sigmask;
	current->restore_sigmask = !!(rec->flags & CKPT_TASK_SIGMASK_SAVED);
	current->sas_ss_sp = rec->sas_sp;
	current->sas_ss_size = rec->sas_size;
	current->sas_ss_flags = rec->sas_flags;
	current->set_child_tid = (int __user *)rec->set_child_tid;
	current->clear_child_tid = (int __user *)rec->clear_child_tid;
	current->robust_list =
		(struct robust_list_head __user *)rec->robust_list;
	current->rseq = (struct rseq __user *)rec->rseq;
	current->rseq_len = rec->rseq_len;
	current->rseq_sig = rec->rseq_sig;
	if (current->rseq) {
		current->rseq_event_mask = BIT(RSEQ_EVENT_PREEMPT_BIT) |
					   BIT(RSEQ_EVENT_MIGRATE_BIT);
		set_thread_flag(TIF_NOTIFY_RESUME);
	}
	current->personality = rec->personality;
	current->timer_slack_ns = rec->timer_slack_ns;
	current->default_timer_slack_ns = rec->default_timer_slack_ns;
	/*
	 * clear the flags inherited from the caller of restart(2), or a thread
	 */
	current->flags &= ~(PF_FORKNOEXEC | PF_MEMALLOC_NOIO |
			    PF_LOCAL_THROTTLE | PF_MCE_PROCESS | PF_MCE_EARLY);
	if (current->io_context)
		exit_io_context(current);
	if (rec->flags & CKPT_TASK_FORKNOEXEC)
		current->flags |= PF_FORKNOEXEC;
	if (rec->flags & CKPT_TASK_SIGNALED)
		current->flags |= PF_SIGNALED;
	return 0;
}

int ckpt_dump_rlimits(struct ckpt_ctx *ctx, struct task_struct *t)
{
	struct ckpt_rlimit lim[RLIM_NLIMITS];
	int i;

	task_lock(t->group_leader);
	for (i = 0; i < RLIM_NLIMITS; i++) {
		lim[i].cur = t->signal->rlim[i].rlim_cur;
		lim[i].max = t->signal->rlim[i].rlim_max;
	}
	task_unlock(t->group_leader);
	return ckpt_write(ctx, CKPT_REC_RLIMITS, 0, lim, sizeof(lim), NULL, 0);
}

/*
 * Check limits by the rules of setrlimit(2). Limits are raised at once, but
 * lowered only when the process is complete, because its state may exceed the
 * lower limits.
 */
int ckpt_restore_rlimits(struct ckpt_ctx *ctx)
{
	const struct ckpt_rlimit *lim = (const void *)ctx->rbuf;
	struct rlimit *own = current->signal->rlim;
	int i;

	for (i = 0; i < RLIM_NLIMITS; i++) {
		if (lim[i].cur > lim[i].max)
			return ckpt_err(ctx, -EINVAL, "malformed rlimit %d", i);
		if (lim[i].max > own[i].rlim_max && !capable(CAP_SYS_RESOURCE))
			return ckpt_err(ctx, -EPERM,
					"rlimit %d: the caller may not raise it", i);
		if (i == RLIMIT_NOFILE && lim[i].max > sysctl_nr_open)
			return ckpt_err(ctx, -EPERM,
					"rlimit %d: exceeds fs.nr_open", i);
	}
	memcpy(ckpt_current(ctx)->rlimits, lim, sizeof(ckpt_current(ctx)->rlimits));
	task_lock(current->group_leader);
	for (i = 0; i < RLIM_NLIMITS; i++) {
		own[i].rlim_cur = max_t(u64, own[i].rlim_cur, lim[i].cur);
		own[i].rlim_max = max_t(u64, own[i].rlim_max, lim[i].max);
	}
	task_unlock(current->group_leader);
	return 0;
}

/* Set the limits of current's process, whose state is complete. */
void ckpt_apply_rlimits(const struct ckpt_tsk *ct)
{
	struct rlimit *own = current->signal->rlim;
	int i;

	if (ckpt_broken(CKPT_BREAK_RLIMIT))
		return;
	task_lock(current->group_leader);
	for (i = 0; i < RLIM_NLIMITS; i++) {
		own[i].rlim_cur = ct->rlimits[i].cur;
		own[i].rlim_max = ct->rlimits[i].max;
	}
	task_unlock(current->group_leader);
}
