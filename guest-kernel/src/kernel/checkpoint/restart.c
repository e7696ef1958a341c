// SPDX-License-Identifier: GPL-2.0
/*
 * restart(2): the caller, the coordinator, creates one kernel-born process an
 * entry of the tree, all as children of its own. Each takes its turn at the
 * image, in the image's order: it reads its section, makes itself what the
 * section says, creates its threads (which take theirs), and parks. When all
 * are parked the coordinator puts families, groups and sessions right, and lets
 * them go, each to the site where it was found.
 *
 *	coordinator:  header, create ... wait ... trailer, relink, release
 *	task i:       wait turn i, read section, turn i+1, park, link vfork, go
 *	dead thread:  likewise, and dies again (stop.c)
 *	zombie i:     wait turn i, read section, turn i+1, exit
 *
 * Until the release everything can be undone by killing what was created:
 * nobody outside has seen it yet. After it nothing can fail any more.
 */
#include <linux/cgroup.h>
#include <linux/file.h>
#include <linux/fs_struct.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/nsproxy.h>
#include <linux/pid_namespace.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/syscalls.h>
#include <uapi/linux/mount.h>
#include <uapi/linux/wait.h>

#include "../../fs/internal.h"
#include "ckpt.h"
#include "ptrace.h"
#include "vfork.h"

#define SEEN(type)	BIT_ULL(CKPT_REC_##type)

static void abort_restart(struct ckpt_ctx *ctx, int err)
{
	mutex_lock(&ctx->log_lock);
	if (!ctx->error)
		ctx->error = err ?: -EINTR;
	mutex_unlock(&ctx->log_lock);
	WRITE_ONCE(ctx->abort, true);
	wake_up_all(&ctx->wait);
}

/* One record of a task's section; sections end with TASK_END. */
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
		return ckpt_err(ctx, -EINVAL, "%s in the middle of a task",
				ckpt_rec_name(ctx->rec.type));
	}
}

/* What a section must have, may have once, and may have at all. */
static int check_section(struct ckpt_ctx *ctx, const struct ckpt_tsk *ct)
{
	bool leader = ct->tree.flags & CKPT_TREE_LEADER;
	bool zombie = ct->tree.flags & CKPT_TREE_ZOMBIE;
	/* also where the process' first thread has died before the others */
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
	    (zombie && !lives && ctx->seen & (SEEN(MM) | SEEN(SIGINFO))) ||
	    (zombie && ctx->seen & (SEEN(REGS) | SEEN(XSTATE) | SEEN(FILES) |
				    SEEN(DEBUGREGS))))
		return ckpt_err(ctx, -EINVAL, "section has a record too many");
	return 0;
}

#define ONCE	(SEEN(TASK) | SEEN(REGS) | SEEN(XSTATE) | SEEN(MM) | \
		 SEEN(RLIMITS) | SEEN(SIGHAND) | SEEN(SIGNAL) | SEEN(TIMERS) | \
		 SEEN(PTRACE) | SEEN(DEBUGREGS) | \
		 SEEN(FILES) | SEEN(FS))

static int read_section(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
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
		/* a thread has its process' memory, whatever the image says */
		if (ctx->rec.type == CKPT_REC_MM &&
		    !(ct->tree.flags & CKPT_TREE_LEADER))
			return ckpt_err(ctx, -EINVAL, "memory of a thread's own");
		if (BIT_ULL(ctx->rec.type) & ctx->seen & ONCE)
			return ckpt_err(ctx, -EINVAL, "%s twice in one task",
					ckpt_rec_name(ctx->rec.type));
		ctx->seen |= BIT_ULL(ctx->rec.type);
		ret = restore_record(ctx, ct);
		if (ret && !ctx->told)
			ckpt_err(ctx, ret, "%s", ckpt_rec_name(ctx->rec.type));
		if (ret)
			return ret;
	}
	return check_section(ctx, ct);
}

static int ckpt_task_main(void *arg);

/*
 * A cgroup that is frozen, or a signal from outside, makes fork return
 * -ERESTARTNOINTR. The freeze is put off until the task leaves the restart
 * (cgroup_freeze_resume()); only a fatal signal ends the attempts.
 */
static int clone_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u64 flags)
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
	return 0;
}

static int create_threads(struct ckpt_ctx *ctx, struct ckpt_tsk *leader)
{
	struct ckpt_tsk *ct;
	int ret;

	for (ct = leader + 1; ct < ctx->tsks + ctx->nr_tsks; ct++) {
		if (ct->tree.tgid != leader->tree.pid)
			break;
		ret = clone_task(ctx, ct, CLONE_SIGHAND | CLONE_THREAD |
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
	ret = ckpt_apply_cred(ctx, ct->rec.cred);
	if (ret)
		return ret;
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
	ckpt_set_restart_block(&ct->rec, ctx->mono_delta);
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
	return ret ? ckpt_err(ctx, ret, "mounting proc at /proc") : 0;
}

static int build_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct)
{
	int ret;

	ret = wait_event_killable(ctx->wait,
				  READ_ONCE(ctx->turn) == ct - ctx->tsks ||
				  READ_ONCE(ctx->abort));
	if (READ_ONCE(ctx->abort))
		return -EINTR;
	if (ret)
		return ret;
	if (ctx->mount_proc && ct == ctx->tsks)
		ret = mount_proc(ctx);
	ctx->cur_pid = ct->tree.pid;
	if (!ret)
		ret = read_section(ctx, ct);
	if (!ret)
		ret = ckpt_apply_task(ctx, ct);
	if (!ret && !(ct->tree.flags & CKPT_TREE_ZOMBIE)) {
		ret = ckpt_apply_regs(ctx, &ct->regs);
		ckpt_apply_ptrace(&ct->ptrace);
	}
	if (!ret)
		ret = ckpt_prepare_stop(ctx, ct);
	if (!ret && ct->tree.flags & CKPT_TREE_LEADER)
		ret = create_threads(ctx, ct);
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

	spin_lock_irq(&current->sighand->siglock);
	sigfillset(&current->blocked);
	recalc_sigpending();
	spin_unlock_irq(&current->sighand->siglock);
	cgroup_freeze_postpone();

	ret = build_task(ctx, ct);
	if (!ret && ckpt_dead_process(ct)) {
		int code = ct->tree.exit_code;

		next_turn(ctx);
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
	if (!ret && !READ_ONCE(ctx->abort)) {
		park(ctx);
		ret = wait_event_killable(ctx->wait, READ_ONCE(ctx->released) ||
					  READ_ONCE(ctx->abort));
	}
	if (ret || READ_ONCE(ctx->abort)) {
		ckpt_vfork_unlink(&vfork);
		abort_restart(ctx, ret);
		ckpt_ctx_put(ctx);
		do_exit(SIGKILL);
	}
	return go_to_site(ctx, ct, &vfork);
}

static int create_processes(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (!(ct->tree.flags & CKPT_TREE_LEADER))
			continue;
		ret = clone_task(ctx, ct, 0);
		if (ret)
			return ret;
	}
	return 0;
}

/* All live tasks have parked @times times. */
static bool all_parked(struct ckpt_ctx *ctx, unsigned int times)
{
	unsigned int i, live = 0;

	for (i = 0; i < ctx->nr_tsks; i++)
		if (!ckpt_dead_process(&ctx->tsks[i]))
			live++;
	return READ_ONCE(ctx->turn) == ctx->nr_tsks &&
	       atomic_read(&ctx->nr_parked) == live * times;
}

static int wait_parked(struct ckpt_ctx *ctx, unsigned int times)
{
	int ret = wait_event_killable(ctx->wait, all_parked(ctx, times) ||
				      READ_ONCE(ctx->abort));

	return ret || READ_ONCE(ctx->abort) ? -EINTR : 0;
}

/* Their exit signal is still 0, but exit_notify() wakes the parent. */
static int wait_zombies(struct ckpt_ctx *ctx)
{
	unsigned int i;
	int ret;

	for (i = 0; i < ctx->nr_tsks; i++) {
		struct task_struct *t = ctx->tsks[i].task;

		if (!ckpt_dead_process(&ctx->tsks[i]))
			continue;
		ret = wait_event_interruptible(current->signal->wait_chldexit,
					       READ_ONCE(t->exit_state));
		if (ret)
			return -EINTR;
	}
	return 0;
}

static int read_trailer(struct ckpt_ctx *ctx)
{
	const struct ckpt_trailer *t = (const void *)ctx->rbuf;
	int ret = ckpt_read(ctx);

	if (ret)
		return ret;
	if (ctx->rec.type != CKPT_REC_TRAILER || t->nr_records != ctx->seq ||
	    t->nr_objects != ctx->nr_objs)
		return ckpt_err(ctx, -EINVAL, "the image does not end where it should");
	return 0;
}

/* Kill and reap all that was created; they are still our children. */
static void undo(struct ckpt_ctx *ctx)
{
	unsigned int i;

	abort_restart(ctx, 0);
	for (i = 0; i < ctx->nr_tsks; i++) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->started && ct->tree.flags & CKPT_TREE_LEADER)
			send_sig_info(SIGKILL, SEND_SIG_PRIV, ct->task);
	}
	/* the first may be its namespace's init, which waits for the others */
	for (i = ctx->nr_tsks; i-- > 0;) {
		struct ckpt_tsk *ct = &ctx->tsks[i];

		if (ct->started && ct->tree.flags & CKPT_TREE_LEADER)
			kernel_wait4(task_pid_vnr(ct->task), NULL, __WALL, NULL);
	}
}

static int start_linking(struct ckpt_ctx *ctx)
{
	WRITE_ONCE(ctx->linking, true);
	wake_up_all(&ctx->wait);
	return wait_parked(ctx, 2);
}

long ckpt_restart(struct ckpt_ctx *ctx)
{
	unsigned int i;
	long ret;

	ctx->coordinator = current;
	ctx->turn = -1;
	get_fs_root(current->fs, &ctx->root_path);
	ret = ckpt_read_header(ctx);
	if (!ret)
		ret = ckpt_prepare_relink(ctx);
	if (ret)
		return ret;
	for (i = 0; i < ctx->nr_tsks; i++)
		ctx->tsks[i].ctx = ctx;
	ret = create_processes(ctx);
	if (!ret) {
		ctx->turn = 0;
		wake_up_all(&ctx->wait);
		ret = wait_parked(ctx, 1);
	}
	if (!ret)
		ret = wait_zombies(ctx);
	if (!ret)
		ret = read_trailer(ctx);
	if (!ret)
		ret = ckpt_check_links(ctx);
	if (!ret)
		ret = ckpt_check_cttys(ctx);
	if (!ret)
		ret = ckpt_fill_ttys(ctx);
	if (!ret)
		ret = start_linking(ctx);
	if (!ret)
		ret = ckpt_relink(ctx);
	if (ret) {
		undo(ctx);
		/* of what does not happen, or comes from outside */
		if (!ctx->told)
			ckpt_err(ctx, ctx->error ?: ret, "given up");
		return ctx->error ?: ret;
	}
	ckpt_push_ttys(ctx);
	ckpt_free_ttys(ctx);
	/* the ends of pipes that the table holds must not be seen */
	ckpt_obj_free_all(ctx);
	ckpt_free_procs(ctx);
	ckpt_arm_timerfds(ctx);
	ckpt_free_timerfds(ctx);
	ckpt_free_epolls(ctx);
	ctx->mono_delta = ktime_get_ns() - ctx->hdr.mono_ns;
	/* a namespace of its own goes on numbering where it was */
	if (ctx->tsks[0].tree.pid == 1)
		idr_set_cursor(&ctx->pidns->idr, ctx->hdr.next_pid);
	ret = task_pid_vnr(ctx->tsks[0].task);
	WRITE_ONCE(ctx->released, true);
	wake_up_all(&ctx->wait);
	ckpt_gate_count(ctx->gate);
	return ret;
}
