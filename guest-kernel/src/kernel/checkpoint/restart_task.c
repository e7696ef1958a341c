// SPDX-License-Identifier: GPL-2.0-only
/*
 * A restarted task, from its creation until it returns to user space: it
 * creates its threads, restores its own state from its section of the image,
 * parks, and enters the site at which it was checkpointed.
 *
 *	task i:       wait turn i, read section, turn i+1, park, link vfork, go
 *	dead thread:  the same, then exit (stop.c)
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
#include "cover.h"
#include "exec.h"
#include "ptrace.h"
#include "vfork.h"

static int ckpt_task_main(void *arg);

/**
 * ckpt_clone_task - create a task of the tree
 * @ctx: the restart
 * @ct: its entry
 * @flags: CLONE_* flags of a thread, 0 for a process
 *
 * A signal from outside stays pending until the end of the system call, and a
 * freeze until the task leaves the restart (cgroup_freeze_resume()); only a
 * fatal signal makes the clone fail.
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
		.killable = 1,
	};
	struct task_struct *t = NULL;
	pid_t nr;

	if (!(flags & CLONE_THREAD) && ctx->cgroup_fd >= 0)
		args.flags |= CLONE_INTO_CGROUP;
	refcount_inc(&ctx->users);
	nr = kernel_clone(&args);
	if (nr < 0) {
		refcount_dec(&ctx->users);
		return ckpt_err(ctx, nr, "creating task %d", ct->tree.pid);
	}
	rcu_read_lock();
	t = find_task_by_vpid(nr);
	if (t)
		get_task_struct(t);
	rcu_read_unlock();
	/* a process stays until it is reaped; only a killed thread is gone */
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

/* Drop the caller's rights last: restoring all other state may need them. */
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
	/*
	 * Drop the coordinator's files and fs: a tracer of this dead thread
	 * must not reach them.
	 */
	if (ct->tree.flags & CKPT_TREE_ZOMBIE) {
		exit_files(current);
		exit_fs(current);
	}
	/* only now, because the restored state may exceed the limits */
	if (ct->tree.flags & CKPT_TREE_LEADER)
		ckpt_apply_rlimits(ct);
	ret = ckpt_apply_cred(ctx, ct->rec.cred);
	if (ret)
		return ret;
	if (ct->rec.flags & CKPT_TASK_NPROC)
		current->flags |= PF_NPROC_EXCEEDED;
	/* commit_creds() clears both if ids have changed */
	if (ct->lives)
		set_dumpable(current->mm, dumpable);
	current->pdeath_signal = ct->rec.pdeath_signal;
	return 0;
}

static void next_turn(struct ckpt_ctx *ctx)
{
	ckpt_fail_leave(ctx);
	ctx->turn++;
	wake_up_all(&ctx->wait);
}

static void park(struct ckpt_ctx *ctx)
{
	ckpt_fail_leave(ctx);
	atomic_inc(&ctx->nr_parked);
	wake_up_all(&ctx->wait);
}

/*
 * Arm timers, set the signal mask, and forget the use of privileges: not before
 * the restart is complete. Each check of a privilege of the caller, or of
 * current, has marked current as a user of privileges.
 */
static void go_live(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	current->flags &= ~PF_SUPERPRIV;
	if (ct->rec.flags & CKPT_TASK_SUPERPRIV)
		current->flags |= PF_SUPERPRIV;
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
 * A proc mount shows the pid namespace of the task that mounts it, and the
 * image may contain files in it. So the first task of the new namespace mounts
 * it, while it still has the caller's rights and mounts.
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
	/* undo() unmounts it if the restart fails */
	if (!ret)
		ret = kern_path("/proc", LOOKUP_FOLLOW | LOOKUP_DIRECTORY,
				&ctx->proc_mount);
	return ret ? ckpt_err(ctx, ret, "mounting proc at /proc") : 0;
}

/*
 * A thread is created in the caller's address space and must leave it. The
 * leader, whose turn is earlier, has restored the process's address space.
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

	/*
	 * before the first turn: paths in /proc may name any task of the image
	 */
	if (ct->tree.flags & CKPT_TREE_LEADER) {
		ret = create_threads(ctx, ct);
		if (ret)
			return ret;
	}
	ckpt_fail_leave(ctx);
	ret = wait_event_killable(ctx->wait,
				  READ_ONCE(ctx->turn) == ct - ctx->tsks ||
				  READ_ONCE(ctx->abort));
	ckpt_fail_take(ctx);
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
	/*
	 * after reading, so that a low priority does not delay the other tasks
	 */
	if (!ret)
		ret = ckpt_apply_sched(ctx, &ct->rec);
	/* from here on no code accesses user memory, which could trap */
	if (!ret && !(ct->tree.flags & CKPT_TREE_ZOMBIE))
		ret = ckpt_apply_debugregs(ctx, &ct->debugregs);
	if (!ret)
		ret = drop_rights(ctx, ct);
	ctx->cur_pid = 0;
	return ret;
}

/*
 * Return true if the task waits for a vfork child, now or after a ptrace stop.
 */
static bool waits_for_child(const struct ckpt_tsk *ct)
{
	if (ckpt_broken(CKPT_BREAK_VFORK_WAIT))
		return false;
	return ct->rec.site == CKPT_SITE_VFORK ||
	       (ct->ptrace.stop == CKPT_STOP_VFORK && ct->rec.site_child);
}

/**
 * ckpt_wait_release - park for the second time and wait for the release
 * @ctx: the restart
 *
 * Return: 0 when the restart is complete, -EINTR or -ERESTARTSYS if it has
 * failed or current is killed.
 */
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

/* Stop working for the restart. */
static void leave_restart(void)
{
	ckpt_hide_end();
	kcov_remote_stop();
}

/**
 * ckpt_leave_restart - leave a released restart in the middle of an execve(2)
 * @ctx: the restart; current's reference is dropped
 * @ct: current's entry
 */
void ckpt_leave_restart(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	struct ckpt_gate *gate = ctx->gate;

	go_live(ctx, ct);
	ckpt_gate_get(gate);
	leave_restart();
	ckpt_ctx_put(ctx);
	ckpt_gate_wait(gate);
	cgroup_freeze_resume();
}

/*
 * The restart is released: enter the site. The reference to the context is
 * dropped first, because the sleep at the site may be long.
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
	current->ckpt_site.resume = ct->resume;
	ct->resume = NULL;
	ckpt_gate_get(gate);
	leave_restart();
	ckpt_ctx_put(ctx);

	if (current->ckpt_site.resume) {
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
	 * Pass through get_signal(), as the original would have: the freezer,
	 * queued signals, and the fix-up of -ERESTART*.
	 */
	cgroup_freeze_resume();
	set_thread_flag(TIF_SIGPENDING);
	return CKPT_SYSCALL_LEFT;
}

/*
 * Main function of a restarted task. Its return value, CKPT_SYSCALL_*, makes
 * ret_from_fork() keep the registers and do the exit work that is left.
 */
static int ckpt_task_main(void *arg)
{
	struct ckpt_tsk *ct = arg;
	struct ckpt_ctx *ctx = ct->ctx;
	struct ckpt_vfork_wait vfork = { };
	int ret;

	/*
	 * block all signals except SIGKILL, which must end the task at any time
	 */
	spin_lock_irq(&current->sighand->siglock);
	siginitsetinv(&current->blocked,
		      ckpt_broken(CKPT_BREAK_GUARD_SIGKILL) ? 0 : sigmask(SIGKILL));
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	if (ckpt_broken(CKPT_BREAK_GUARD_FILTER))
		ckpt_forget_seccomp();
	cgroup_freeze_postpone();
	ckpt_cover_begin();
	ckpt_fail_take(ctx);

	ret = build_task(ctx, ct);
	if (!ret && ckpt_dead_process(ct)) {
		int code = ct->tree.exit_code;

		ckpt_begin_exit(ct);
		ckpt_keep_zombie(ct);
		next_turn(ctx);
		leave_restart();
		ckpt_ctx_put(ctx);
		do_exit(code);
	}
	if (!ret) {
		next_turn(ctx);
		park(ctx);
		ret = wait_event_killable(ctx->wait, READ_ONCE(ctx->linking) ||
					  READ_ONCE(ctx->abort));
		ckpt_fail_take(ctx);
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
		/*
		 * success: the task has left the restart and dropped its
		 * reference
		 */
		if (!ret)
			return CKPT_SYSCALL_LEAVES;
	} else if (!ret && !READ_ONCE(ctx->abort)) {
		ret = ckpt_wait_release(ctx);
	}
	if (ret || READ_ONCE(ctx->abort)) {
		ckpt_vfork_unlink(&vfork);
		ckpt_fail_leave(ctx);
		ckpt_abort_restart(ctx, ret);
		leave_restart();
		ckpt_ctx_put(ctx);
		do_exit(SIGKILL);
	}
	return go_to_site(ctx, ct, &vfork);
}
