// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a restarted task, from its creation until it leaves for user
 * space: it creates its threads, makes itself what its section of the image
 * says, parks, and goes to the site where it was found.
 *
 *	task i:       wait turn i, read section, turn i+1, park, link vfork, go
 *	dead thread:  likewise, and dies again (stop.c)
 *	zombie i:     wait turn i, read section, turn i+1, exit
 */
#include <linux/cgroup.h>
#include <linux/fdtable.h>
#include <linux/fs_struct.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <uapi/linux/mount.h>

#include "../../fs/internal.h"
#include "ckpt.h"
#include "exec.h"
#include "ptrace.h"
#include "vfork.h"

static int ckpt_task_main(void *arg);

/**
 * ckpt_clone_task - create a task that is to become one of the image's
 * @ctx: the restart
 * @ct: its entry
 * @flags: CLONE_*; for a thread, those that make it one
 *
 * A cgroup that is frozen, or a signal from outside, makes fork return
 * -ERESTARTNOINTR. The freeze is put off until the task leaves the restart
 * (cgroup_freeze_resume()); only a fatal signal ends the attempts.
 *
 * Return: 0 or a negative errno.
 */
int ckpt_clone_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u64 flags)
{
	struct kernel_clone_args args = {
		.flags = flags | CLONE_VM | CLONE_FS | CLONE_FILES |
			 CLONE_UNTRACED,
		.fn = ckpt_task_main,
		.fn_arg = ct,
		.set_tid = &ct->tree.pid,
		.set_tid_size = 1,
		.cgroup = ctx->cgroup_fd,
	};
	struct task_struct *t = NULL;
	pid_t nr;

	if (!(flags & CLONE_THREAD) && ctx->cgroup_fd >= 0)
		args.flags |= CLONE_INTO_CGROUP;
	refcount_inc(&ctx->users);
	do {
		if (current != ctx->coordinator)
			cgroup_freeze_postpone();
		nr = kernel_clone(&args);
	} while (nr == -ERESTARTNOINTR && current != ctx->coordinator &&
		 !__fatal_signal_pending(current));
	if (nr < 0) {
		refcount_dec(&ctx->users);
		if (nr == -ERESTARTNOINTR)
			nr = -EINTR;
		return ckpt_err(ctx, nr, "creating task %d", ct->tree.pid);
	}
	rcu_read_lock();
	t = find_task_by_vpid(nr);
	if (t)
		get_task_struct(t);
	rcu_read_unlock();
	/* only its own death removes it, and that waits for us to reap it */
	if (!t)
		return ckpt_err(ctx, -EINTR, "task %d died", ct->tree.pid);
	ct->task = t;
	ct->started = true;
	atomic_inc(&ctx->nr_created);
	wake_up_all(&ctx->wait);
	return 0;
}

static int create_threads(struct ckpt_ctx *ctx, struct ckpt_tsk *leader)
{
	struct ckpt_tsk *ct;
	int ret;

	for (ct = leader + 1; ct < ctx->tsks + ctx->nr_tsks; ct++) {
		if (ct->tree.tgid != leader->tree.pid)
			break;
		ret = ckpt_clone_task(ctx, ct, CLONE_SIGHAND | CLONE_THREAD |
				      CLONE_SYSVSEM);
		if (ret)
			return ret;
	}
	return 0;
}

/* Rights go last: everything before may need them. */
static int drop_rights(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	int dumpable = current->mm ? get_dumpable(current->mm) : 0;
	int ret;

	if (ct->rec.flags & CKPT_TASK_NO_NEW_PRIVS)
		task_set_no_new_privs(current);
	if (!(ct->tree.flags & CKPT_TREE_ZOMBIE)) {
		ret = ckpt_apply_seccomp(ctx, &ct->rec);
		if (ret)
			return ret;
	}
	/* the coordinator's, which who gets at a dead thread must not find there */
	if (ct->tree.flags & CKPT_TREE_ZOMBIE) {
		exit_files(current);
		exit_fs(current);
	}
	/* what was built may be more than the limits would let it be */
	if (ct->tree.flags & CKPT_TREE_LEADER)
		ckpt_apply_rlimits(ct);
	ret = ckpt_apply_cred(ctx, ct->rec.cred);
	if (ret)
		return ret;
	if (ct->rec.flags & CKPT_TASK_NPROC)
		current->flags |= PF_NPROC_EXCEEDED;
	/* commit_creds() clears these where ids have changed */
	if (ct->lives)
		set_dumpable(current->mm, dumpable);
	current->pdeath_signal = ct->rec.pdeath_signal;
	return 0;
}

static void next_turn(struct ckpt_ctx *ctx)
{
	ctx->turn++;
	wake_up_all(&ctx->wait);
}

static void park(struct ckpt_ctx *ctx)
{
	atomic_inc(&ctx->nr_parked);
	wake_up_all(&ctx->wait);
}

/* The restarted task's own state that others could see too early. */
static void go_live(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	ckpt_set_restart_block(ctx, &ct->rec);
	if (ct->tree.flags & CKPT_TREE_LEADER)
		ckpt_arm_timers(&ct->timers);
	ckpt_arm_posix_timers(ctx, ct);
	spin_lock_irq(&current->sighand->siglock);
	current->blocked.sig[0] = ct->rec.blocked &
		~(sigmask(SIGKILL) | sigmask(SIGSTOP));
	ckpt_apply_jobctl(ct->ptrace.jobctl);
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
}

/*
 * proc shows the pid namespace of who mounts it, and the files of an image may
 * lie in it. So it is for a task of the new namespace to mount it, the first,
 * which still has the restarter's rights and mounts.
 */
static int mount_proc(struct ckpt_ctx *ctx)
{
	struct path path;
	int ret;

	ret = kern_path("/proc", LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &path);
	if (!ret) {
		ret = path_mount("proc", &path, "proc",
				 MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
		path_put(&path);
	}
	/* to take it away again where the restart fails */
	if (!ret)
		ret = kern_path("/proc", LOOKUP_FOLLOW | LOOKUP_DIRECTORY,
				&ctx->proc_mount);
	return ret ? ckpt_err(ctx, ret, "mounting proc at /proc") : 0;
}

/*
 * A thread is created when its process is, in the restarter's memory, which is
 * not for it: the first thread, whose turn comes before, has its own by now.
 */
static int join_memory(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_tsk *leader = ct;
	struct mm_struct *mm;
	int ret;

	while (!(leader->tree.flags & CKPT_TREE_LEADER))
		leader--;
	mm = get_task_mm(leader->task);
	if (!mm)
		return -EINTR;
	ret = ckpt_switch_mm(mm, false);
	if (ret)
		mmput(mm);
	return ret;
}

static int build_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	int ret;

	/* before any turn: paths in the image may name any task of it */
	if (ct->tree.flags & CKPT_TREE_LEADER) {
		ret = create_threads(ctx, ct);
		if (ret)
			return ret;
	}
	ret = wait_event_killable(ctx->wait,
				  READ_ONCE(ctx->turn) == ct - ctx->tsks ||
				  READ_ONCE(ctx->abort));
	if (READ_ONCE(ctx->abort))
		return -EINTR;
	if (ret)
		return ret;
	if (ctx->mount_proc && ct == ctx->tsks)
		ret = mount_proc(ctx);
	if (!ret && ct == ctx->tsks)
		ret = ckpt_check_mounts(ctx);
	ctx->cur_pid = ct->tree.pid;
	if (!ret && !(ct->tree.flags & CKPT_TREE_LEADER))
		ret = join_memory(ctx, ct);
	if (!ret)
		ret = ckpt_read_section(ctx, ct);
	if (!ret)
		ret = ckpt_apply_task(ctx, ct);
	if (!ret && !(ct->tree.flags & CKPT_TREE_ZOMBIE)) {
		ret = ckpt_apply_regs(ctx, &ct->regs);
		ckpt_apply_ptrace(&ct->ptrace);
	}
	if (!ret)
		ret = ckpt_prepare_stop(ctx, ct);
	/* the last turn may be long in coming: others are not held down by this */
	if (!ret)
		ret = ckpt_apply_sched(ctx, &ct->rec);
	/* from here on nothing touches the user's memory */
	if (!ret && !(ct->tree.flags & CKPT_TREE_ZOMBIE))
		ret = ckpt_apply_debugregs(ctx, &ct->debugregs);
	if (!ret)
		ret = drop_rights(ctx, ct);
	ctx->cur_pid = 0;
	return ret;
}

/* Whether there is a vfork child to wait for, now or behind a ptrace stop. */
static bool waits_for_child(const struct ckpt_tsk *ct)
{
	if (ckpt_broken(CKPT_BREAK_VFORK_WAIT))
		return false;
	return ct->rec.site == CKPT_SITE_VFORK ||
	       (ct->ptrace.stop == CKPT_STOP_VFORK && ct->rec.site_child);
}

/* Come to the second barrier, and wait until nothing can fail any more. */
int ckpt_wait_release(struct ckpt_ctx *ctx)
{
	int ret;

	park(ctx);
	ret = wait_event_killable(ctx->wait, READ_ONCE(ctx->released) ||
				  READ_ONCE(ctx->abort));
	if (!ret && READ_ONCE(ctx->abort))
		ret = -EINTR;
	return ret;
}

/**
 * ckpt_leave_restart - go live in the middle of an execve(2), when all is released
 * @ctx: the restart; current's reference is put
 * @ct: current's entry
 */
void ckpt_leave_restart(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_gate *gate = ctx->gate;

	go_live(ctx, ct);
	ckpt_gate_get(gate);
	ckpt_hide_end();
	ckpt_ctx_put(ctx);
	ckpt_gate_wait(gate);
	cgroup_freeze_resume();
}

/*
 * All are rebuilt and released: go to the site. The context is put before any
 * sleep there, which may be long.
 */
static int go_to_site(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		      struct ckpt_vfork_wait *vfork)
{
	struct ckpt_task rec = ct->rec;
	struct ckpt_ptrace ptrace = ct->ptrace;
	struct ckpt_gate *gate = ctx->gate;
	bool dead = ckpt_dead_thread(ct);
	int code = ct->tree.exit_code;

	go_live(ctx, ct);
	current->ckpt_site.again = ct->again;
	ct->again = NULL;
	ckpt_gate_get(gate);
	ckpt_hide_end();
	ckpt_ctx_put(ctx);

	if (current->ckpt_site.again) {
		ckpt_gate_put(gate);
		if (!dead)
			return ckpt_resume_stop(&rec, &ptrace, vfork);
		current->ckpt_site.dying = true;
		do_exit(code);
	}
	ckpt_gate_wait(gate);
	if (rec.site == CKPT_SITE_VFORK) {
		if (vfork->child)
			ckpt_vfork_wait(vfork, current_pt_regs());
		cgroup_freeze_resume();
		return CKPT_SYSCALL_LEAVES;
	}
	if (rec.site == CKPT_SITE_STOPPED)
		ckpt_group_stop(rec.site_arg);
	/*
	 * Through get_signal() once more: the freezer, queued signals, and the
	 * fix-up of -ERESTART* that the original had still before it.
	 */
	cgroup_freeze_resume();
	set_thread_flag(TIF_SIGPENDING);
	return CKPT_SYSCALL_LEFT;
}

/*
 * The life of a restarted task until it leaves for user space. What it returns
 * tells ret_from_fork() that all registers are set, and what work is left.
 */
static int ckpt_task_main(void *arg)
{
	struct ckpt_tsk *ct = arg;
	struct ckpt_ctx *ctx = ct->ctx;
	struct ckpt_vfork_wait vfork = { };
	int ret;

	/* all but what must end it at any moment */
	spin_lock_irq(&current->sighand->siglock);
	siginitsetinv(&current->blocked, sigmask(SIGKILL));
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	cgroup_freeze_postpone();

	ret = build_task(ctx, ct);
	if (!ret && ckpt_dead_process(ct)) {
		int code = ct->tree.exit_code;

		ckpt_keep_zombie(ct);
		next_turn(ctx);
		ckpt_hide_end();
		ckpt_ctx_put(ctx);
		do_exit(code);
	}
	if (!ret) {
		next_turn(ctx);
		park(ctx);
		ret = wait_event_killable(ctx->wait, READ_ONCE(ctx->linking) ||
					  READ_ONCE(ctx->abort));
	}
	if (!ret && !READ_ONCE(ctx->abort) && waits_for_child(ct))
		ret = ckpt_vfork_link(ctx, ct, &vfork);
	if (!ret && !READ_ONCE(ctx->abort))
		ret = ckpt_check_tracees(ctx, ct);
	if (!ret && !READ_ONCE(ctx->abort))
		ret = ckpt_reopen_procs(ctx, ct);
	if (!ret && !READ_ONCE(ctx->abort))
		ret = ckpt_add_epoll_items(ctx, ct);
	if (!ret && !READ_ONCE(ctx->abort))
		ret = ckpt_bind_posix_timers(ctx, ct);
	if (!ret && !READ_ONCE(ctx->abort) && ct->rec.site == CKPT_SITE_EXEC) {
		ret = ckpt_enter_exec(ctx, ct);
		/* the context is put: it has left the restart on its way */
		if (!ret)
			return CKPT_SYSCALL_LEAVES;
	} else if (!ret && !READ_ONCE(ctx->abort)) {
		ret = ckpt_wait_release(ctx);
	}
	if (ret || READ_ONCE(ctx->abort)) {
		ckpt_vfork_unlink(&vfork);
		ckpt_abort_restart(ctx, ret);
		ckpt_hide_end();
		ckpt_ctx_put(ctx);
		do_exit(SIGKILL);
	}
	return go_to_site(ctx, ct, &vfork);
}
