/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Checkpoint/restart, internal interfaces.
 *
 * One struct ckpt_ctx lives as long as one checkpoint(2) or restart(2). A
 * checkpoint is run by its caller alone, over frozen tasks. A restart is run by
 * its caller, called the coordinator, and by the tasks that the coordinator
 * creates. The tasks take turns: the task that holds the turn (ctx->turn) reads
 * the image and may access the context without a lock.
 */
#ifndef _KERNEL_CHECKPOINT_CKPT_H
#define _KERNEL_CHECKPOINT_CKPT_H

#include <linux/checkpoint.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/xarray.h>
#include <uapi/linux/checkpoint.h>

#define CKPT_OBJ_BITS	10
#define CKPT_WBUF_SIZE	(64 * 1024)
/* the entries that fit into a TREE record */
#define CKPT_TASKS_MAX	(CKPT_REC_MAX / sizeof(struct ckpt_tree))
/* the list of mounts follows the header in the same record */
#define CKPT_MOUNTS_MAX	(CKPT_REC_MAX - sizeof(struct ckpt_header))

/* One task of the tree; both directions. */
struct ckpt_tsk {
	struct ckpt_ctx *ctx;
	struct ckpt_tree tree;
	struct task_struct *task;	/* reference held */
	struct hlist_node task_node;	/* checkpoint: see lookup.c */
	struct hlist_node pid_node;
	unsigned long csw;		/* checkpoint: switches when verified */
	struct pid *pgid;		/* restart: references for the relink */
	struct pid *sid;
	bool pgid_fresh;		/* allocated: no task has this pid */
	bool sid_fresh;
	struct ckpt_task rec;		/* restart: CKPT_REC_TASK as read */
	struct ckpt_timers timers;	/* restart: CKPT_REC_TIMERS as read */
	struct ckpt_rlimit rlimits[RLIM_NLIMITS];	/* restart, of a process */
	struct ckpt_regs regs;		/* restart: CKPT_REC_REGS as read */
	struct ckpt_debugregs debugregs;	/* restart: as read */
	bool started;			/* restart: runs ckpt_task_main() */
	atomic_t fate;			/* restart, of a zombie: see hide.c */
	bool traces;			/* restart: has tracees */
	u32 signal_flags;		/* restart, of a process: SIGNAL_* */
	u32 group_stop_count;		/* restart, of a process */
	struct ckpt_ptrace ptrace;	/* restart: CKPT_REC_PTRACE as read */
	const struct cred *ptracer_cred;	/* restart: reference held */
	struct ckpt_stop *resume;	/* restart: stop or exit to re-enter */
	struct ckpt_terminal *tty;	/* restart, of a process: controlling */
	pid_t tty_old_pgrp;		/* restart, of a process */
	bool lives;			/* the process has a live thread */
	bool last;			/* the process has no other thread */
};

struct ckpt_obj {
	struct hlist_node node;
	u32 type;
	u32 ref;
	u32 uses;		/* checkpoint, file: descriptors and messages */
	u32 maps;		/* checkpoint, file: mappings and exe_files */
	pid_t pid;		/* checkpoint: first task found to use it */
	bool written;		/* checkpoint, epoll file: items are written */
	void *ptr;
};

struct ckpt_ctx {
	/* both */
	struct file *file;
	struct file *logfile;
	spinlock_t log_lock;		/* @log, @nr_lines, @error, @logged */
	struct list_head log;		/* lines to write, see log.c */
	unsigned int nr_lines;
	bool logged;			/* ckpt_err() has been called */
	unsigned long flags;
	struct ckpt_header hdr;
	struct ckpt_tsk *tsks;
	unsigned int nr_tsks;
	struct hlist_head *by_task;	/* see lookup.c */
	struct hlist_head *by_pid;
	unsigned int lookup_bits;
	u64 seq;			/* records so far */
	u32 nr_objs;
	struct xarray objs;		/* objref -> struct ckpt_obj */

	/* checkpoint */
	DECLARE_HASHTABLE(by_ptr, CKPT_OBJ_BITS);
	struct task_struct *root;
	struct pid_namespace *pidns;
	struct nsproxy *nsproxy;
	struct path root_path;		/* the root task's root directory */
	const struct cred **creds;	/* of all tasks, sorted by address */
	char *mounts;			/* of the tree's own, see ns.c */
	pid_t cur_pid;			/* being written, for messages */
	bool check_only;
	bool holding;			/* ckpt_hold_tasks() */
	struct cgroup *cgrp;		/* of all tasks; its freezer is held */
	char *wbuf;
	size_t wlen;
	char *page_buf;			/* scratch, 2 * PATH_MAX bytes */

	/* restart */
	refcount_t users;
	char *rbuf;			/* payload of the current record */
	struct ckpt_rec rec;		/* its header */
	int cgroup_fd;
	bool mount_proc;		/* RESTART_MOUNT_PROC */
	struct path proc_mount;		/* the mount made for @mount_proc */
	bool equal_mounts;		/* RESTART_EQUAL_MOUNTS */
	bool may_trace;			/* the caller has CAP_SYS_PTRACE */
	bool may_date;			/* the caller may set start times */
	struct ckpt_gate *gate;		/* reference held, see stop.c */
	struct list_head proc_files;	/* see procfs.c */
	struct list_head timerfds;	/* see timerfd.c */
	struct list_head inotifies;	/* see inotify.c */
	struct list_head epolls;	/* see epoll.c */
	struct list_head posix_timers;	/* see posix_timers.c */
	struct list_head terminals;	/* see tty.c */
	struct xarray pids;		/* pids without a task, see message.c */
	int error;			/* the first error */
	bool abort;			/* its tasks must exit */
	bool linking;			/* all have parked: link vfork waits */
	bool released;			/* all are complete: tasks may run */
	int turn;			/* index of the task that reads */
	atomic_t nr_created;
	atomic_t nr_parked;		/* arrivals at either barrier */
	wait_queue_head_t wait;
	struct task_struct *coordinator;
	struct ckpt_mm mm_rec;		/* the mm being read */
	struct mm_struct *cur_mm;
	unsigned long mm_end;		/* mappings are read up to here */
	unsigned long vma_end;		/* end of the mapping being read */
	unsigned long page_end;		/* its pages are read up to here */
	bool vma_private;
	bool vma_kept;			/* the copied mm had the same mapping */
	bool vdso_mapped;		/* the mm being read has a vdso */
	u64 seen;			/* record types of this section */
	u64 cpu_ns;			/* CPU time of all tasks read so far */
#ifdef CONFIG_FAULT_INJECTION
	unsigned int fail_nth;		/* see ckpt_fail_take() */
#endif
	s64 mono_delta;			/* ns since the checkpoint */
};

/* image.c: records */
int ckpt_write(struct ckpt_ctx *ctx, u32 type, u32 objref,
	       const void *a, size_t alen, const void *b, size_t blen);
int ckpt_flush(struct ckpt_ctx *ctx);
bool ckpt_interrupted(long ret);
int ckpt_read(struct ckpt_ctx *ctx);
int ckpt_write_header(struct ckpt_ctx *ctx);
int ckpt_write_tree(struct ckpt_ctx *ctx);
int ckpt_write_trailer(struct ckpt_ctx *ctx);
int ckpt_read_header(struct ckpt_ctx *ctx);
const char *ckpt_rec_name(u32 type);

/* log.c: lines for the log descriptor */
__printf(3, 4) int ckpt_err(struct ckpt_ctx *ctx, int err, const char *fmt, ...);
void ckpt_log_write(struct ckpt_ctx *ctx);
void ckpt_log_free(struct ckpt_ctx *ctx);

/* ctx.c: contexts */
struct ckpt_ctx *ckpt_ctx_alloc(int fd, int logfd, unsigned long flags);
void ckpt_ctx_put(struct ckpt_ctx *ctx);

/* objhash.c: objects that tasks can share */
int ckpt_obj_lookup(struct ckpt_ctx *ctx, u32 type, void *ptr, u32 *ref);
int ckpt_obj_new(struct ckpt_ctx *ctx, u32 type, void *ptr, u32 *ref);
int ckpt_obj_insert(struct ckpt_ctx *ctx, u32 type, u32 ref, void *ptr);
void *ckpt_obj_fetch(struct ckpt_ctx *ctx, u32 type, u32 ref);
void ckpt_obj_use(struct ckpt_ctx *ctx, u32 ref);
void ckpt_obj_map(struct ckpt_ctx *ctx, u32 ref);
void ckpt_obj_free_all(struct ckpt_ctx *ctx);

/* lookup.c: find the entry of a task or pid */
int ckpt_alloc_lookup(struct ckpt_ctx *ctx, unsigned int room);
void ckpt_free_lookup(struct ckpt_ctx *ctx);
void ckpt_index_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_index_pid(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
struct ckpt_tsk *ckpt_find_task(struct ckpt_ctx *ctx, struct task_struct *task);
struct ckpt_tsk *ckpt_find_pid(struct ckpt_ctx *ctx, pid_t pid);

/* ns.c: namespaces and mounts */
int ckpt_check_namespaces(struct ckpt_ctx *ctx);
int ckpt_dump_mounts(struct ckpt_ctx *ctx);
int ckpt_check_mounts(struct ckpt_ctx *ctx);

/* quiesce.c: the tasks of the tree, held at their sites */
int ckpt_collect_tasks(struct ckpt_ctx *ctx);
void ckpt_hold_tasks(struct ckpt_ctx *ctx);
void ckpt_release_tasks(struct ckpt_ctx *ctx);
int ckpt_check_settled(struct ckpt_ctx *ctx);
int ckpt_recheck_settled(struct ckpt_ctx *ctx);
void ckpt_mark_processes(struct ckpt_ctx *ctx);

/* dump.c, restart.c, restart_task.c, section.c */
int ckpt_dump(struct ckpt_ctx *ctx);
long ckpt_restart(struct ckpt_ctx *ctx);
void ckpt_abort_restart(struct ckpt_ctx *ctx, int err);
int ckpt_clone_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u64 flags);
int ckpt_read_section(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);

/* hide.c: tasks of an unfinished restart cannot be found */
void ckpt_hide_begin(void);
void ckpt_hide_end(void);
void ckpt_unhide_all(struct ckpt_ctx *ctx);
void ckpt_keep_zombie(struct ckpt_tsk *ct);
void ckpt_give_up_zombie(struct ckpt_tsk *ct);

/* relink.c: parents, process groups and sessions of the restarted tasks */
int ckpt_prepare_relink(struct ckpt_ctx *ctx);
int ckpt_relink(struct ckpt_ctx *ctx);

/* task.c */
int ckpt_dump_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		   struct ckpt_task *rec);
int ckpt_restore_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
int ckpt_apply_task(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
bool ckpt_add_cpu_time(struct ckpt_ctx *ctx, const u64 *ns, int n);
int ckpt_dump_rlimits(struct ckpt_ctx *ctx, struct task_struct *t);
int ckpt_restore_rlimits(struct ckpt_ctx *ctx);
void ckpt_apply_rlimits(const struct ckpt_tsk *ct);

/* sched.c */
int ckpt_check_sched(struct ckpt_ctx *ctx, struct task_struct *t);
void ckpt_dump_sched(struct task_struct *t, struct ckpt_task *rec);
int ckpt_apply_sched(struct ckpt_ctx *ctx, const struct ckpt_task *rec);

/* seccomp.c */
int ckpt_dump_seccomp(struct ckpt_ctx *ctx, struct task_struct *t,
		      struct ckpt_task *rec);
int ckpt_restore_seccomp(struct ckpt_ctx *ctx);
int ckpt_apply_seccomp(struct ckpt_ctx *ctx, const struct ckpt_task *rec);
void ckpt_forget_seccomp(void);

/* cred.c */
int ckpt_dump_cred(struct ckpt_ctx *ctx, const struct cred *cred, u32 *ref);
int ckpt_sort_creds(struct ckpt_ctx *ctx);
int ckpt_dump_opener(struct ckpt_ctx *ctx, const struct file *file, u32 *ref);
int ckpt_restore_cred(struct ckpt_ctx *ctx);
int ckpt_set_opener(struct ckpt_ctx *ctx, struct file *file, u32 ref);
int ckpt_apply_cred(struct ckpt_ctx *ctx, u32 ref);

/* signal.c */
int ckpt_dump_sighand(struct ckpt_ctx *ctx, struct task_struct *t);
int ckpt_dump_signal(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
int ckpt_dump_pending(struct ckpt_ctx *ctx, struct task_struct *t);
int ckpt_dump_process_signals(struct ckpt_ctx *ctx, struct task_struct *t);
int ckpt_restore_sighand(struct ckpt_ctx *ctx);
int ckpt_restore_signal(struct ckpt_ctx *ctx);
void ckpt_begin_exit(const struct ckpt_tsk *ct);
void ckpt_relink_signal(const struct ckpt_tsk *ct);
int ckpt_restore_siginfo(struct ckpt_ctx *ctx);

/* timers.c */
void ckpt_look_at_timers(struct task_struct *t, struct ckpt_timers *rec);
int ckpt_restore_timers(struct ckpt_ctx *ctx);
void ckpt_arm_timers(const struct ckpt_timers *rec);
int ckpt_dump_restart_block(struct ckpt_ctx *ctx, struct task_struct *t,
			    struct ckpt_task *rec);
int ckpt_check_restart_block(struct ckpt_ctx *ctx,
			     const struct ckpt_task *rec);
void ckpt_set_restart_block(const struct ckpt_ctx *ctx,
			    const struct ckpt_task *rec);

/* tty.c, tty_files.c */
int ckpt_dump_tty(struct ckpt_ctx *ctx, struct tty_struct *tty, u32 *ref);
int ckpt_dump_ctty(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		   struct ckpt_signal *rec);
int ckpt_check_ttys(struct ckpt_ctx *ctx);
int ckpt_restore_tty(struct ckpt_ctx *ctx);
int ckpt_restore_ctty(struct ckpt_ctx *ctx, const struct ckpt_signal *rec);
int ckpt_check_cttys(struct ckpt_ctx *ctx);
int ckpt_fill_ttys(struct ckpt_ctx *ctx);
void ckpt_relink_ctty(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_push_ttys(struct ckpt_ctx *ctx);
void ckpt_free_ttys(struct ckpt_ctx *ctx);
u32 ckpt_pty_kind(struct file *file);
struct file *ckpt_open_pty(struct ckpt_ctx *ctx, const struct ckpt_file *rec,
			   const char *name);

/* posix_timers.c */
int ckpt_look_at_posix_timers(struct ckpt_ctx *ctx, struct task_struct *t,
			      struct ckpt_posix_timer **recs);
bool ckpt_posix_timers_moved(const struct ckpt_posix_timer *a,
			     const struct ckpt_posix_timer *b, int n);
int ckpt_restore_posix_timer(struct ckpt_ctx *ctx);
int ckpt_bind_posix_timers(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_arm_posix_timers(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_free_posix_timers(struct ckpt_ctx *ctx);

/* mm.c, vma.c, pages.c */
int ckpt_dump_mm(struct ckpt_ctx *ctx, struct ckpt_tsk *ct, u32 *ref);
int ckpt_restore_mm(struct ckpt_ctx *ctx);
int ckpt_dump_vmas(struct ckpt_ctx *ctx, struct mm_struct *mm,
		   struct mm_struct *same);
int ckpt_restore_vma(struct ckpt_ctx *ctx);
int ckpt_restore_mm_end(struct ckpt_ctx *ctx);
int ckpt_apply_mm(struct ckpt_ctx *ctx, u32 ref);
int ckpt_dump_pages(struct ckpt_ctx *ctx, struct mm_struct *mm,
		    unsigned long end, struct mm_struct *same);
int ckpt_end_pages(struct ckpt_ctx *ctx);
int ckpt_restore_pages(struct ckpt_ctx *ctx);
int ckpt_restore_same(struct ckpt_ctx *ctx);

/*
 * files.c, fdtable.c, inode.c, pipe.c, procfs.c, fs.c, anon.c, timerfd.c,
 * epoll.c
 */
bool ckpt_known_fs(const struct super_block *sb);
int ckpt_dump_file(struct ckpt_ctx *ctx, struct file *file, u32 *ref);
int ckpt_check_syncfs(struct ckpt_ctx *ctx, struct file *file);
char *ckpt_file_name(struct file *file);
int ckpt_restore_file(struct ckpt_ctx *ctx);
int ckpt_dump_files(struct ckpt_ctx *ctx, struct task_struct *t, u32 *ref);
int ckpt_restore_files(struct ckpt_ctx *ctx);
int ckpt_apply_files(struct ckpt_ctx *ctx, u32 ref);
int ckpt_dump_pipe(struct ckpt_ctx *ctx, struct file *file, u32 *ref);
int ckpt_check_pipes(struct ckpt_ctx *ctx);
int ckpt_restore_pipe(struct ckpt_ctx *ctx);
struct file *ckpt_open_pipe(struct ckpt_ctx *ctx, const struct ckpt_file *rec);
int ckpt_dump_inode(struct ckpt_ctx *ctx, struct file *file, u32 kind, u32 *ref);
int ckpt_restore_inode(struct ckpt_ctx *ctx);
struct file *ckpt_open_inode(struct ckpt_ctx *ctx, const struct ckpt_file *rec);
int ckpt_dump_fs(struct ckpt_ctx *ctx, struct task_struct *t, u32 *ref);
int ckpt_restore_fs(struct ckpt_ctx *ctx);
int ckpt_apply_fs(struct ckpt_ctx *ctx, u32 ref);
void ckpt_put_fs(struct fs_struct *fs);
bool ckpt_is_proc(const struct file *file);
int ckpt_dump_proc(struct ckpt_ctx *ctx, struct file *file, const char *name,
		   struct ckpt_file *rec);
struct file *ckpt_open_gone(struct ckpt_ctx *ctx, const struct ckpt_file *rec,
			    const char *path);
int ckpt_open_proc(struct ckpt_ctx *ctx, struct file *file,
		   const struct ckpt_file *rec);
int ckpt_reopen_procs(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_free_procs(struct ckpt_ctx *ctx);
u32 ckpt_anon_kind(const struct file *file);
int ckpt_dump_anon(struct ckpt_ctx *ctx, struct file *file);
struct file *ckpt_open_anon(struct ckpt_ctx *ctx, const struct ckpt_file *rec);
int ckpt_dump_timerfd(struct ckpt_ctx *ctx, struct file *file);
struct file *ckpt_open_timerfd(struct ckpt_ctx *ctx);
void ckpt_arm_timerfds(struct ckpt_ctx *ctx);
void ckpt_free_timerfds(struct ckpt_ctx *ctx);
int ckpt_dump_epoll(struct ckpt_ctx *ctx, struct task_struct *t, u32 fd,
		    struct file *file);
struct file *ckpt_open_epoll(struct ckpt_ctx *ctx);
int ckpt_restore_epoll(struct ckpt_ctx *ctx);
int ckpt_add_epoll_items(struct ckpt_ctx *ctx, struct ckpt_tsk *ct);
void ckpt_order_epolls(struct ckpt_ctx *ctx);
void ckpt_free_epolls(struct ckpt_ctx *ctx);
int ckpt_check_name(struct ckpt_ctx *ctx, const struct path *path,
		    const char *name);
char *ckpt_path(struct ckpt_ctx *ctx, const struct path *path, char *buf,
		bool *deleted);

/* owner.c */
int ckpt_get_owner(struct ckpt_ctx *ctx, const struct inode *inode,
		   const char *name, u32 *uid, u32 *gid);
int ckpt_set_owner(struct file *file, u32 uid, u32 gid, umode_t mode,
		   struct iattr *times);
void ckpt_get_times(const struct inode *inode, struct ckpt_times *times);
bool ckpt_times_ok(const struct ckpt_times *times);
void ckpt_set_times(struct inode *inode, const struct ckpt_times *times);

/* linked.c */
struct dentry *ckpt_find_link(const struct path *path);
struct file *ckpt_open_link(struct file *file, const char *gone, u32 len);

/* outside.c */
int ckpt_check_outside(struct ckpt_ctx *ctx);

/* inotify.c */
int ckpt_dump_inotify(struct ckpt_ctx *ctx, struct file *file);
struct file *ckpt_open_inotify(struct ckpt_ctx *ctx);
void ckpt_arm_watches(struct ckpt_ctx *ctx);
void ckpt_free_watches(struct ckpt_ctx *ctx);

/* socket.c, socket_check.c, message.c */
struct ckpt_sockets_made;
int ckpt_check_socket(struct ckpt_ctx *ctx, struct file *file);
int ckpt_dump_socket(struct ckpt_ctx *ctx, struct file *file,
		     struct ckpt_file *rec);
int ckpt_dump_messages(struct ckpt_ctx *ctx, u32 ref);
int ckpt_check_sockets(struct ckpt_ctx *ctx);
int ckpt_restore_sockets(struct ckpt_ctx *ctx);
struct file *ckpt_open_socket(struct ckpt_ctx *ctx, const struct ckpt_file *rec);
int ckpt_restore_message(struct ckpt_ctx *ctx);
int ckpt_settle_sockets(struct ckpt_ctx *ctx);
void ckpt_publish_sockets(struct ckpt_ctx *ctx);
void ckpt_free_sockets(struct ckpt_sockets_made *made);
void ckpt_free_pids(struct ckpt_ctx *ctx);
void ckpt_collect_sockets(void);

/* break.c: fault injection, skips a piece of the restart code */
enum ckpt_break {
	CKPT_BREAK_VFORK_WAIT,
	CKPT_BREAK_SYSCALL_ENTER,
	CKPT_BREAK_SYSCALL_EXIT,
	CKPT_BREAK_SIGNAL_STOP,
	CKPT_BREAK_FREE,
	CKPT_BREAK_VMA_FLAG,
	CKPT_BREAK_CREDENTIAL,
	CKPT_BREAK_REGISTER,
	CKPT_BREAK_HANDLER,
	CKPT_BREAK_SIGNAL_QUEUE,
	CKPT_BREAK_ITIMER,
	CKPT_BREAK_SLEEP,
	CKPT_BREAK_PIPE_FLAG,
	CKPT_BREAK_PIPE_END,
	CKPT_BREAK_SHARED_PAGE,
	CKPT_BREAK_RLIMIT,
	/* the rest are checks that stop an attacker */
	CKPT_BREAK_GUARD_READABLE,
	CKPT_BREAK_GUARD_FILTER,
	CKPT_BREAK_GUARD_HIDDEN,
	CKPT_BREAK_GUARD_SIGKILL,
	CKPT_BREAK_GUARD_RECHECK,
	CKPT_BREAK_CHECK_LENGTH,
	NR_CKPT_BREAKS
};

#ifdef CONFIG_CHECKPOINT_BREAK
bool ckpt_broken(enum ckpt_break what);
#else
static inline bool ckpt_broken(enum ckpt_break what)
{
	return false;
}
#endif

/*
 * /proc/PID/fail-nth treats a restart as one call: its tasks share the counter
 * of the coordinator. At any time, one task has the counter. A task moves it
 * into the context before it waits for other tasks, and the task that runs next
 * takes it from there. The coordinator takes it back when all tasks have
 * parked, and when all have exited.
 */
#ifdef CONFIG_FAULT_INJECTION
static inline void ckpt_fail_take(struct ckpt_ctx *ctx)
{
	unsigned int nth = xchg(&ctx->fail_nth, 0);

	if (nth)
		current->fail_nth = nth;
}

static inline void ckpt_fail_leave(struct ckpt_ctx *ctx)
{
	unsigned int nth = current->fail_nth;

	current->fail_nth = 0;
	if (nth)
		xchg(&ctx->fail_nth, nth);
}
#else
static inline void ckpt_fail_take(struct ckpt_ctx *ctx) { }
static inline void ckpt_fail_leave(struct ckpt_ctx *ctx) { }
#endif

/* vfork.c */
int ckpt_dump_vfork(struct ckpt_ctx *ctx, struct ckpt_tsk *ct,
		    struct ckpt_task *rec);

/* arch/x86/kernel/checkpoint.c */
int ckpt_dump_cpu(struct ckpt_ctx *ctx, struct task_struct *t);
int ckpt_restore_regs(struct ckpt_ctx *ctx);
int ckpt_apply_regs(struct ckpt_ctx *ctx, const struct ckpt_regs *rec);
int ckpt_restore_xstate(struct ckpt_ctx *ctx);
int ckpt_restore_debugregs(struct ckpt_ctx *ctx);
int ckpt_apply_debugregs(struct ckpt_ctx *ctx, const struct ckpt_debugregs *rec);
unsigned int ckpt_nr_breakpoints(struct task_struct *t);
bool ckpt_restarts_as_32bit(struct task_struct *t);
int ckpt_check_mm_arch(struct ckpt_ctx *ctx, struct mm_struct *mm);
bool ckpt_vma_is_vdso(struct vm_area_struct *vma);
bool ckpt_vma_is_vvar(struct vm_area_struct *vma);
u64 ckpt_vdso_sum(void);
u64 ckpt_xfeatures(void);
int ckpt_map_vdso(unsigned long vvar, unsigned long len);

/* A zombie process, which exits while other tasks are still being built. */
static inline bool ckpt_dead_process(const struct ckpt_tsk *ct)
{
	return ct->tree.flags & CKPT_TREE_ZOMBIE && ct->last;
}

/*
 * A dead thread of a process that has other threads: its tracer has not waited
 * for the thread yet, or the thread is the leader, which stays until the last
 * thread is gone. The restarted thread exits after the release.
 */
static inline bool ckpt_dead_thread(const struct ckpt_tsk *ct)
{
	return ct->tree.flags & CKPT_TREE_ZOMBIE && !ct->last;
}

static inline struct ckpt_tsk *ckpt_current(struct ckpt_ctx *ctx)
{
	return &ctx->tsks[ctx->turn];
}

#ifdef CONFIG_GCOV_KERNEL
#include "counted.h"
#endif

#endif /* _KERNEL_CHECKPOINT_CKPT_H */
