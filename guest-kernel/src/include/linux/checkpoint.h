/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interfaces between the core kernel and checkpoint/restart: site markers,
 * trigger events, the cgroup.freeze_at control file, and access to the private
 * state of other subsystems.
 */
#ifndef _LINUX_CHECKPOINT_H
#define _LINUX_CHECKPOINT_H

#include <linux/checkpoint_types.h>
#include <linux/jump_label.h>
#include <linux/sched.h>
#include <uapi/linux/checkpoint.h>

struct cgroup;
struct bpf_prog;
struct completion;
struct dentry;
struct file;
struct inode;
struct kernfs_open_file;
struct kernel_siginfo;
struct linux_binprm;
struct mnt_namespace;
struct path;
struct pid;
struct pid_namespace;
struct poll_table_struct;
struct restart_block;
struct pt_regs;
struct scm_cookie;
struct seccomp_filter;
struct seq_file;
struct sigpending;
struct sock;
struct sock_filter;
struct sock_fprog_kern;
struct sockaddr_un;
struct tty_port;
struct tty_struct;
struct vfsmount;

enum ckpt_event {
	CKPT_EVENT_NONE,
	CKPT_EVENT_VFORK,
	CKPT_EVENT_VFORK_NEW,
	CKPT_EVENT_SYSCALL,
	CKPT_EVENT_SYSCALL_EXIT,
	CKPT_EVENT_SIGNAL,
	CKPT_EVENT_PTRACE_STOP,
	CKPT_EVENT_EXEC_WAIT,
	CKPT_EVENT_ALL,		/* in triggers only: any event */
	NR_CKPT_EVENTS
};

/* Return values of a restarted task's function, for ret_from_fork(). */
#define CKPT_SYSCALL_LEFT	1	/* syscall exit work has been done */
#define CKPT_SYSCALL_LEAVES	2	/* syscall exit work is still to do */

/* Restart functions of the system calls that restart_syscall(2) resumes. */
long hrtimer_nanosleep_restart(struct restart_block *restart);
long alarm_timer_nsleep_restart(struct restart_block *restart);
long posix_cpu_nsleep_restart(struct restart_block *restart);
long futex_wait_restart(struct restart_block *restart);
long do_restart_poll(struct restart_block *restart);

int wait_for_vfork_done(struct task_struct *child, struct completion *vfork);
struct mm_struct *dup_mm(struct task_struct *tsk, struct mm_struct *oldmm);

#ifdef CONFIG_CHECKPOINT
DECLARE_STATIC_KEY_FALSE(ckpt_events_armed);
void __ckpt_event(enum ckpt_event event, long arg);

/**
 * ckpt_event - count an event against the triggers of current's cgroup
 * @event: the event
 * @arg: the system call or signal number, 0 for other events
 *
 * May sleep, because freezing takes cgroup_mutex.
 */
static inline void ckpt_event(enum ckpt_event event, long arg)
{
	if (static_branch_unlikely(&ckpt_events_armed))
		__ckpt_event(event, arg);
}

static inline void ckpt_site_enter(u32 kind, int arg)
{
	current->ckpt_site.arg = arg;
	WRITE_ONCE(current->ckpt_site.kind, kind);
}

/* Return true if a trigger is armed. Otherwise ckpt_event() does nothing. */
static inline bool ckpt_counts_events(void)
{
	return static_branch_unlikely(&ckpt_events_armed);
}

/**
 * ckpt_stop_at - mark the ptrace stop that current is about to enter
 * @stop: enum ckpt_stop_kind
 * @arg: argument of the stop, see enum ckpt_stop_kind
 */
static inline void ckpt_stop_at(u32 stop, int arg)
{
	current->ckpt_site.stop = stop;
	current->ckpt_site.stop_arg = arg;
}

/* Set the site before ptrace_stop() sleeps. */
static inline void ckpt_site_enter_ptrace(void)
{
	ckpt_site_enter(CKPT_SITE_PTRACE, current->ckpt_site.stop_arg);
}

/*
 * Return true while a restarted task re-enters the stop, or repeats the exit,
 * in which it was checkpointed. The tracer or parent was notified before the
 * checkpoint, so the task sends no notification and counts no event
 * (kernel/checkpoint/stop.c).
 */
static inline bool ckpt_resuming_stop(void)
{
	return unlikely(current->ckpt_site.resume) && !current->ckpt_site.dying;
}

static inline bool ckpt_resuming_exit(void)
{
	return unlikely(current->ckpt_site.dying);
}

int ckpt_stop_signal(struct kernel_siginfo *info, enum pid_type *type);
void ckpt_stop_entered(struct kernel_siginfo *info);
int ckpt_skip_stop(void);
void ckpt_gate_pass(void);

/* End the exit stop of a restarted task. Called by do_exit(). */
static inline void ckpt_exit_stopped(void)
{
	if (ckpt_resuming_stop())
		ckpt_skip_stop();
}

/*
 * Count a restarted dead thread at the gate. Called at the end of
 * exit_notify().
 */
static inline void ckpt_exit_done(void)
{
	if (ckpt_resuming_exit())
		ckpt_gate_pass();
}

/**
 * ckpt_task_hidden - check whether a restart(2) is still building a task
 * @t: any task
 *
 * Used by loops over many tasks that send signals or set priorities.
 *
 * Return: true until the restart releases its tasks.
 */
static inline bool ckpt_task_hidden(const struct task_struct *t)
{
	/* pairs with ckpt_unhide(): a visible task is seen complete */
	return unlikely(smp_load_acquire(&t->ckpt_site.hidden));
}

/**
 * ckpt_task_visible - check whether current may find a task
 * @t: any task
 *
 * Used by look-ups by number.
 *
 * Return: true, unless a restart(2) is still building @t and current does not
 * work for that restart.
 */
static inline bool ckpt_task_visible(const struct task_struct *t)
{
	/* pairs with ckpt_unhide(): a visible task is seen complete */
	u64 hidden = smp_load_acquire(&t->ckpt_site.hidden);

	return likely(!hidden) || hidden == current->ckpt_site.restart;
}

/* kernel/checkpoint/exec.c, for fs/exec.c */
bool __ckpt_resuming_exec(void);
bool ckpt_exec_traced(void);
int ckpt_exec_begin(struct linux_binprm *bprm);
void ckpt_exec_sleep(struct linux_binprm *bprm);

/* Return true if current is being restarted into an execve(2). */
static inline bool ckpt_resuming_exec(void)
{
	return unlikely(current->ckpt_site.restart) && __ckpt_resuming_exec();
}

void ckpt_unhide_dead(struct task_struct *t);
void ckpt_task_init(struct task_struct *child);
void ckpt_name_child(struct task_struct *child);
void ckpt_wait_unheld(void);

/* Clear the site. Sleeps while a checkpoint reads a killed task (quiesce.c). */
static inline void ckpt_site_leave(void)
{
	if (unlikely(atomic_read(&current->ckpt_site.held)))
		ckpt_wait_unheld();
	WRITE_ONCE(current->ckpt_site.kind, CKPT_SITE_NONE);
}

/* kernel/checkpoint/trigger.c, for kernel/cgroup/cgroup.c */
ssize_t ckpt_freeze_at_write(struct kernfs_open_file *of, char *buf,
			     size_t nbytes, loff_t off);
int ckpt_freeze_at_show(struct seq_file *seq, void *v);
void ckpt_cgroup_free(struct cgroup *cgrp);

/* fs/eventfd.c, fs/signalfd.c, fs/timerfd.c, fs/eventpoll.c */
bool ckpt_is_eventfd(const struct file *file);
int ckpt_eventfd_get(struct file *file, u64 *count, bool *semaphore);
struct file *ckpt_eventfd_create(u64 count, bool semaphore);
bool ckpt_is_signalfd(const struct file *file);
u64 ckpt_signalfd_mask(const struct file *file);
struct file *ckpt_signalfd_create(u64 wanted);
bool ckpt_is_timerfd(const struct file *file);
void ckpt_timerfd_get(struct file *file, struct ckpt_timerfd *rec);
struct file *ckpt_timerfd_create(const struct ckpt_timerfd *rec);
void ckpt_timerfd_arm(struct file *file, const struct ckpt_timerfd *rec);
bool ckpt_is_epoll(const struct file *file);
/*
 * Properties of an epoll item that are not saved: its file, for comparison
 * only, and the number of items, of all epoll files, that were added earlier.
 * @item is the index in the array of items.
 */
struct ckpt_watched {
	struct file *file;
	u64 added;
	u32 item;
};

struct file *ckpt_epoll_create(void);
int ckpt_epoll_items(struct file *file, struct ckpt_epoll_item *items,
		     struct ckpt_watched *watched, unsigned int max);
int ckpt_epoll_settle(int epfd, const struct ckpt_epoll_item *item);
void ckpt_epoll_first(struct file *file, struct file *watched, int fd);

/* fs/dcache.c */
int ckpt_d_name(struct dentry *dentry, const char *name);

/* fs/proc/base.c */
bool ckpt_is_proc_mem(const struct file *file);

/* kernel/checkpoint/proc.c, for fs/proc/base.c */
int proc_ckpt_site(struct seq_file *m, struct pid_namespace *ns,
		   struct pid *pid, struct task_struct *task);

/* kernel/entry/common.c, arch/x86/entry/common.c */
long ckpt_syscall_trace_enter(struct pt_regs *regs);
void ckpt_do_syscall(struct pt_regs *regs, int nr);

/* kernel/seccomp.c, net/core/filter.c */
int ckpt_seccomp_resume(void);
const struct sock_fprog_kern *ckpt_seccomp_look(const struct seccomp_filter *filter,
						bool *log, bool *wait_killable,
						struct seccomp_filter **prev);
struct seccomp_filter *ckpt_seccomp_make(struct seccomp_filter *prev,
					 struct sock_fprog_kern *fprog,
					 bool log, bool wait_killable);
void ckpt_seccomp_put(struct seccomp_filter *filter);
int ckpt_seccomp_apply(struct seccomp_filter *filter);
int ckpt_bpf_prog_create(struct bpf_prog **pfp, struct sock_fprog_kern *fprog,
			 int (*trans)(struct sock_filter *filter, unsigned int flen));

/* kernel/cgroup/freezer.c */
void cgroup_freeze_postpone(void);
void cgroup_freeze_resume(void);
bool cgroup_freeze_hold(struct cgroup *cgrp);
void cgroup_freeze_unhold(struct cgroup *cgrp);
bool ckpt_cgroup_v1_same(struct task_struct *t);

/* fs/proc_namespace.c */
ssize_t ckpt_show_mounts(struct mnt_namespace *ns, const struct path *root,
			 char *buf, size_t size);

/* fs/exec.c */
int ckpt_switch_mm(struct mm_struct *mm, bool fresh);

/* ipc/sem.c */
bool ckpt_sem_undo_empty(const struct task_struct *t);

/* kernel/sched/core.c */
void ckpt_set_runtime(u64 ns);

/* kernel/futex/waitwake.c */
bool ckpt_futex_flags_ok(u64 flags);

/* drivers/tty/tty_io.c, drivers/tty/tty_buffer.c */
struct tty_struct *ckpt_file_tty(struct file *file);
unsigned int ckpt_tty_files(struct tty_struct *tty, struct file **first);
ssize_t ckpt_tty_flip_get(struct tty_port *port, u8 *data, size_t room);

/**
 * struct ckpt_tty_text - the characters buffered at one end of a terminal
 * @read: received and not read yet
 * @marks: for each character of @read, 1 if it ends a line
 * @echo: still to be echoed
 */
struct ckpt_tty_text {
	u8 read[4096];
	u8 marks[4096];
	u8 echo[4096];
};

/* drivers/tty/n_tty.c */
int ckpt_n_tty_get(struct tty_struct *tty, struct ckpt_tty_end *end,
		   struct ckpt_tty_text *text);
int ckpt_n_tty_set(struct tty_struct *tty, const struct ckpt_tty_end *end,
		   const struct ckpt_tty_text *text);

/* The index that a restarted task's new pty must get, -1 for any. */
static inline int ckpt_wanted_pty(void)
{
	return current->ckpt_site.pty - 1;
}

/* net/unix/af_unix.c */
void ckpt_unix_hide(struct sock *sk, bool hide);
int ckpt_unix_set_name(struct sock *sk, struct sockaddr_un *name, int len);
int ckpt_unix_queue(struct sock *sk, const struct ckpt_message *rec,
		    const void *data, struct scm_cookie *scm);

/* fs/notify/inotify/inotify_user.c, fs/namespace.c */
bool ckpt_is_inotify(const struct file *file);
struct file *ckpt_inotify_create(void);
struct inode *ckpt_inotify_watch(struct file *file, int *wd, u32 *mask);
void ckpt_inotify_put_watch(struct inode *inode);
u32 ckpt_inotify_next_wd(struct file *file);
void ckpt_inotify_set_next_wd(struct file *file, u32 wd);
size_t ckpt_inotify_events(struct file *file, void *buf, size_t size);
int ckpt_inotify_queue(struct file *file, const struct ckpt_inotify_event *rec);
int ckpt_inotify_add(struct file *file, struct inode *inode, int wd);
void ckpt_inotify_arm(struct file *file, int wd, u32 mask);
struct vfsmount *ckpt_mount_of(struct mnt_namespace *ns, struct dentry *dentry,
			       unsigned int n);

/* kernel/time/posix-timers.c */
int ckpt_timer_create(const struct ckpt_posix_timer *rec);
int ckpt_timer_bind(timer_t id, pid_t thread);
int ckpt_timer_queue(struct sigpending *pending,
		     const struct kernel_siginfo *info);
void ckpt_timer_arm(const struct ckpt_posix_timer *rec);

/* kernel/signal.c */
int ckpt_sigqueue_add(struct sigpending *pending,
		      const struct kernel_siginfo *info, bool queued);
void ckpt_group_stop(int signr);
int ckpt_ptrace_stop(bool has_info);
#else
static inline void ckpt_event(enum ckpt_event event, long arg) { }
static inline void ckpt_site_enter(u32 kind, int arg) { }
static inline void ckpt_site_leave(void) { }
static inline bool ckpt_counts_events(void) { return false; }
static inline void ckpt_stop_at(u32 stop, int arg) { }
static inline void ckpt_site_enter_ptrace(void) { }
static inline bool ckpt_resuming_stop(void) { return false; }
static inline bool ckpt_resuming_exit(void) { return false; }
static inline void ckpt_exit_stopped(void) { }
static inline void ckpt_exit_done(void) { }
static inline void ckpt_gate_pass(void) { }
static inline void ckpt_stop_entered(struct kernel_siginfo *info) { }
static inline int ckpt_skip_stop(void) { return 0; }
static inline void cgroup_freeze_resume(void) { }
static inline void ckpt_task_init(struct task_struct *child) { }
static inline void ckpt_unhide_dead(struct task_struct *t) { }
static inline bool ckpt_resuming_exec(void) { return false; }
static inline bool ckpt_exec_traced(void) { return false; }
static inline int ckpt_exec_begin(struct linux_binprm *bprm) { return 0; }
static inline void ckpt_exec_sleep(struct linux_binprm *bprm) { schedule(); }

static inline bool ckpt_task_hidden(const struct task_struct *t)
{
	return false;
}

static inline bool ckpt_task_visible(const struct task_struct *t)
{
	return true;
}

static inline void ckpt_name_child(struct task_struct *child) { }

static inline int ckpt_stop_signal(struct kernel_siginfo *info,
				   enum pid_type *type)
{
	return 0;
}

static inline void ckpt_cgroup_free(struct cgroup *cgrp) { }
static inline int ckpt_wanted_pty(void) { return -1; }
#endif /* CONFIG_CHECKPOINT */

#endif /* _LINUX_CHECKPOINT_H */
