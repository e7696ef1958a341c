/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Format of the images that checkpoint(2) writes and restart(2) reads.
 *
 * An image is a stream of records. Each record is a struct ckpt_rec followed by
 * @len bytes of payload. All numbers are little-endian, and no structure has
 * padding. The first record is CKPT_REC_HEADER, the second CKPT_REC_SCHEMA
 * (which names every record type, so that a reader can describe types that it
 * does not know), the third CKPT_REC_TREE, the last CKPT_REC_TRAILER. Between
 * them is one section for each task, in the order of the tree, each ended by
 * CKPT_REC_TASK_END. An object that tasks can share (an mm, an open file, a
 * pipe) is written before its first use and referred to by its objref. Objrefs
 * count from 1.
 *
 * Strings are not terminated. A string whose length is not in the record takes
 * up the rest of the payload.
 */
#ifndef _UAPI_LINUX_CHECKPOINT_H
#define _UAPI_LINUX_CHECKPOINT_H

#include <linux/types.h>

/* checkpoint(2) flags */
#define CHECKPOINT_CHECK	(1UL << 0)	/* check only, write nothing */
/*
 * the tree may have a mount namespace other than the caller's: the image lists
 * its mounts, and restart(2) requires RESTART_EQUAL_MOUNTS
 */
#define CHECKPOINT_OWN_MOUNTS	(1UL << 1)

/*
 * restart(2) flags: the first process of a new pid namespace mounts a proc of
 * that namespace at /proc, before any file in it is opened
 */
#define RESTART_MOUNT_PROC	(1UL << 0)
/* the caller's mounts, including that proc, equal those that the image lists */
#define RESTART_EQUAL_MOUNTS	(1UL << 1)

#define CKPT_MAGIC		0x31454c4249435543ULL	/* "CUCIBLE1" */
#define CKPT_VERSION		1

/* The longest payload of any record, in bytes. */
#define CKPT_REC_MAX		(1U << 20)

enum ckpt_rec_type {
	CKPT_REC_HEADER		= 1,
	CKPT_REC_SCHEMA		= 2,
	CKPT_REC_TREE		= 3,
	CKPT_REC_TRAILER	= 4,
	CKPT_REC_TASK		= 5,
	CKPT_REC_TASK_END	= 6,
	CKPT_REC_REGS		= 7,
	CKPT_REC_XSTATE		= 8,
	CKPT_REC_CRED		= 9,	/* object */
	CKPT_REC_FS		= 10,	/* object */
	CKPT_REC_FILE		= 11,	/* object */
	CKPT_REC_FILES		= 12,	/* object */
	CKPT_REC_PIPE		= 13,	/* object */
	CKPT_REC_PIPE_BUF	= 14,
	CKPT_REC_INODE		= 15,	/* object */
	CKPT_REC_DATA		= 16,
	CKPT_REC_MM		= 17,	/* object */
	CKPT_REC_VMA		= 18,
	CKPT_REC_PAGES		= 19,
	CKPT_REC_SAME		= 20,
	CKPT_REC_MM_END		= 21,
	CKPT_REC_SIGHAND	= 22,
	CKPT_REC_SIGNAL		= 23,
	CKPT_REC_SIGINFO	= 24,
	CKPT_REC_TIMERS		= 25,
	CKPT_REC_RLIMITS	= 26,
	CKPT_REC_PTRACE		= 27,
	CKPT_REC_DEBUGREGS	= 28,
	CKPT_REC_EVENTFD	= 29,
	CKPT_REC_SIGNALFD	= 30,
	CKPT_REC_TIMERFD	= 31,
	CKPT_REC_EPOLL		= 32,
	CKPT_REC_POSIX_TIMER	= 33,
	CKPT_REC_TTY		= 34,	/* object */
	CKPT_REC_SECCOMP	= 35,	/* object */
	CKPT_REC_SOCKETS	= 36,	/* object */
	CKPT_REC_MESSAGE	= 37,
	CKPT_REC_INOTIFY	= 38,
	CKPT_REC_WATCH		= 39,
	CKPT_REC_INOTIFY_EVENT	= 40,
	CKPT_REC_MAX_TYPE
};

/**
 * struct ckpt_rec - header of every record
 * @type: enum ckpt_rec_type
 * @objref: the object's number, 0 if the record is not an object
 * @len: bytes of payload
 * @sum: xxh64 of the payload, seeded with the xxh64 of the 16 bytes before this
 *	field, whose seed is the index of the record in the stream, from 0. This
 *	detects changed, moved, repeated and missing records.
 */
struct ckpt_rec {
	__u32 type;
	__u32 objref;
	__u64 len;
	__u64 sum;
};

/**
 * struct ckpt_header - CKPT_REC_HEADER
 * @magic: CKPT_MAGIC
 * @version: CKPT_VERSION
 * @page_size: bytes
 * @xfeatures: the extended states (XCR0 bits) that the tasks may have
 * @vdso_sum: xxh64 of the vdso image that the tasks have mapped
 * @mono_ns: CLOCK_MONOTONIC at the checkpoint, ns; absolute times in the image
 *	are moved by the time that has passed since
 * @real_ns: CLOCK_REALTIME at the checkpoint, ns
 * @nr_tasks: entries of CKPT_REC_TREE
 * @ncpus: possible CPUs
 * @next_pid: the next number that the pid namespace allocates
 * @release: utsname release, zero padded
 * @build: utsname version, zero padded
 * @boot_ns: CLOCK_BOOTTIME at the checkpoint, ns
 * @tai_ns: CLOCK_TAI at the checkpoint, ns
 * @mounts_len: bytes of the list of mounts that follows, 0 if the tree was in
 *	the mount namespace of the caller of checkpoint(2)
 * @pad2: 0
 *
 * The list has a line for each mount, as seen from the root task's root
 * directory, sorted by mount point. A line has the fields of
 * /proc/PID/mountinfo from the fourth one, without the peer group numbers.
 */
struct ckpt_header {
	__u64 magic;
	__u32 version;
	__u32 page_size;
	__u64 xfeatures;
	__u64 vdso_sum;
	__u64 mono_ns;
	__u64 real_ns;
	__u32 nr_tasks;
	__u32 ncpus;
	__u32 next_pid;
	__u32 pad;
	char release[64];
	char build[64];
	__u64 boot_ns;
	__u64 tai_ns;
	__u32 mounts_len;
	__u32 pad2;
};

/* CKPT_REC_SCHEMA: an array of these, one for each record type */
struct ckpt_schema {
	__u32 type;
	__u32 min_len;
	char name[16];
};

/* struct ckpt_tree.flags */
#define CKPT_TREE_LEADER	(1U << 0)	/* thread group leader */
#define CKPT_TREE_ZOMBIE	(1U << 1)	/* exited, not yet reaped */
#define CKPT_TREE_STRANGER	(1U << 2)	/* the parent has called execve(2)
						 * since the fork, so the exit
						 * signal is SIGCHLD
						 */

/**
 * struct ckpt_tree - an entry of CKPT_REC_TREE: ids and relations of a task
 * @pid: thread id; all ids are those of the root's pid namespace
 * @tgid: process id
 * @ppid: thread id of the real parent; 0 for the root, whose parent is outside
 * @pgid: process group; 0 for the group of the caller of restart(2)
 * @sid: session; 0 for the session of the caller of restart(2)
 * @flags: CKPT_TREE_*
 * @exit_signal: sent to the parent on exit; -1 for threads. Ignored for the
 *	root, which gets SIGCHLD because the caller is its parent
 * @exit_code: status of a dead task; differs from its process's status if the
 *	task exited before another thread's exit_group(2)
 *
 * A process precedes its threads. The children of a parent are in the order of
 * its list of children. The first entry is the root.
 */
struct ckpt_tree {
	__s32 pid;
	__s32 tgid;
	__s32 ppid;
	__s32 pgid;
	__s32 sid;
	__u32 flags;
	__s32 exit_signal;
	__s32 exit_code;
};

/* Where a task slept: struct ckpt_task.site */
enum ckpt_site_kind {
	CKPT_SITE_NONE		= 0,
	CKPT_SITE_FREEZER	= 1,	/* do_freezer_trap() */
	CKPT_SITE_VFORK		= 2,	/* wait_for_vfork_done() */
	CKPT_SITE_STOPPED	= 3,	/* do_signal_stop(), not traced */
	CKPT_SITE_ZOMBIE	= 4,
	CKPT_SITE_PTRACE	= 5,	/* ptrace_stop(): see CKPT_REC_PTRACE */
	CKPT_SITE_EXEC		= 6,	/* de_thread(): see @exec_ino */
};

/* struct ckpt_task.restart_kind */
enum ckpt_restart_kind {
	CKPT_RESTART_NONE	= 0,	/* do_no_restart_syscall() */
	CKPT_RESTART_NANOSLEEP	= 1,
	CKPT_RESTART_ALARM	= 2,
	CKPT_RESTART_CPU_TIMER	= 3,
	CKPT_RESTART_FUTEX	= 4,
	CKPT_RESTART_POLL	= 5,
};

/* struct ckpt_task.flags */
#define CKPT_TASK_SIGMASK_SAVED	(1U << 0)	/* saved_sigmask is in force */
#define CKPT_TASK_NO_NEW_PRIVS	(1U << 1)
#define CKPT_TASK_FORKNOEXEC	(1U << 2)
#define CKPT_TASK_SUPERPRIV	(1U << 3)
#define CKPT_TASK_SIGNALED	(1U << 4)	/* killed by a signal */
#define CKPT_TASK_STRICT	(1U << 5)	/* SECCOMP_MODE_STRICT */
#define CKPT_TASK_AFFINITY	(1U << 6)	/* @cpus was set by the user */
#define CKPT_TASK_NPROC		(1U << 7)	/* PF_NPROC_EXCEEDED */

/**
 * struct ckpt_task - CKPT_REC_TASK: the state of a single thread
 * @site: enum ckpt_site_kind
 * @site_arg: vfork wait: the return value of the call; group stop: the signal;
 *	ptrace stop: see enum ckpt_stop_kind
 * @site_child: vfork wait, or a ptrace stop before one: pid of the child that
 *	the task waits for, 0 if the wait is over
 * @flags: CKPT_TASK_*
 * @blocked: signal mask
 * @saved_sigmask: the mask that sigsuspend(2) or pselect(2) restores
 * @sas_sp: alternate signal stack
 * @sas_size: bytes
 * @sas_flags: SS_*
 * @policy: scheduling policy
 * @nice: -20 to 19
 * @rt_priority: 0 to 99
 * @restart_kind: enum ckpt_restart_kind
 * @restart: its arguments; times are absolute, ns on @restart_clock
 * @set_child_tid: address, 0 for none
 * @clear_child_tid: address, 0 for none
 * @robust_list: address of the robust futex list, 0 for none
 * @rseq: address of struct rseq, 0 for none
 * @rseq_len: bytes
 * @rseq_sig: its signature
 * @pdeath_signal: 0 for none
 * @personality: personality(2)
 * @timer_slack_ns: ns
 * @default_timer_slack_ns: ns
 * @utime: ns of user time
 * @stime: ns of system time
 * @mm, @fs, @files, @cred: objrefs, 0 if a zombie has no such object
 * @oom_score_adj: -1000 to 1000
 * @seccomp: objref of the filter attached last, 0 for none
 * @cpus: affinity mask of the first 64 CPUs
 * @comm: name, zero padded
 * @exec_ino: wait in execve(2): inode number of the program, else 0
 * @exec_interp_ino: wait in execve(2): inode number of the program's ELF
 *	interpreter, 0 if it has none
 * @exec_ns: ns on a CPU, as the scheduler counts
 * @gtime: the part of @utime that was spent in a virtual machine, ns
 * @seen_utime, @seen_stime: the times last reported to user space, which must
 *	not decrease, ns
 * @nvcsw, @nivcsw: context switches
 * @min_flt, @maj_flt: page faults
 * @slice_ns: time slice requested by sched_setattr(2), 0 for none
 * @start_ns: creation time on CLOCK_MONOTONIC, ns
 * @start_boot_ns: creation time on CLOCK_BOOTTIME, ns
 */
struct ckpt_task {
	__u32 site;
	__s32 site_arg;
	__s32 site_child;
	__u32 flags;
	__u64 blocked;
	__u64 saved_sigmask;
	__u64 sas_sp;
	__u64 sas_size;
	__u32 sas_flags;
	__s32 policy;
	__s32 nice;
	__u32 rt_priority;
	__u32 restart_kind;
	__u32 restart_clock;
	__u64 restart[6];
	__u64 set_child_tid;
	__u64 clear_child_tid;
	__u64 robust_list;
	__u64 rseq;
	__u32 rseq_len;
	__u32 rseq_sig;
	__u32 pdeath_signal;
	__u32 personality;
	__u64 timer_slack_ns;
	__u64 default_timer_slack_ns;
	__u64 utime;
	__u64 stime;
	__u32 mm;
	__u32 fs;
	__u32 files;
	__u32 cred;
	__s32 oom_score_adj;
	__u32 seccomp;
	__u64 cpus;
	char comm[16];
	__u64 exec_ino;
	__u64 exec_interp_ino;
	__u64 exec_ns;
	__u64 gtime;
	__u64 seen_utime, seen_stime;
	__u64 nvcsw, nivcsw;
	__u64 min_flt, maj_flt;
	__u64 slice_ns;
	__u64 start_ns;
	__u64 start_boot_ns;
};

/*
 * indices of struct ckpt_regs.spec: results of prctl(PR_GET_SPECULATION_CTRL)
 */
enum ckpt_spec {
	CKPT_SPEC_STORE_BYPASS		= 0,
	CKPT_SPEC_INDIRECT_BRANCH	= 1,
	CKPT_SPEC_L1D_FLUSH		= 2,
	NR_CKPT_SPECS
};

/*
 * CKPT_REC_REGS: x86-64 user registers; segment bases as in the MSRs; number,
 * error code and address of the last exception, for the handler of its signal;
 * the result of prctl(PR_GET_TSC)
 */
struct ckpt_regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	__u64 ax, cx, dx, si, di, orig_ax;
	__u64 ip, flags, sp;
	__u64 fsbase, gsbase;
	__u32 cs, ss, ds, es, fs, gs;
	__u64 trap_nr, error_code, cr2;
	__u32 tsc;
	__u32 spec[NR_CKPT_SPECS];
};

/*
 * CKPT_REC_XSTATE: the standard-format XSAVE area, as in the NT_X86_XSTATE
 * note (PTRACE_GETREGSET).
 */

/* CKPT_REC_CRED, followed by @ngroups __u32 */
struct ckpt_cred {
	__u32 uid, gid, euid, egid, suid, sgid, fsuid, fsgid;
	__u32 securebits;
	__u32 ngroups;
	__u64 cap_inheritable, cap_permitted, cap_effective;
	__u64 cap_bset, cap_ambient;
};

/*
 * CKPT_REC_FS, followed by @root_len and @cwd_len bytes of paths. restart(2)
 * fails if a directory has a different inode number.
 */
struct ckpt_fs {
	__u32 umask;
	__u32 root_len;
	__u32 cwd_len;
	__u32 pad;
	__u64 root_ino;
	__u64 cwd_ino;
};

enum ckpt_file_kind {
	CKPT_FILE_PATH		= 1,	/* file, directory, device: by path */
	CKPT_FILE_DELETED	= 2,	/* unlinked file: its content is @inode */
	CKPT_FILE_PIPE		= 3,	/* an end of the pipe @inode */
	CKPT_FILE_SHMEM		= 4,	/* shared anonymous memory or memfd */
	CKPT_FILE_PROC_MEM	= 5,	/* /proc/PID/mem of the process @rdev */
	CKPT_FILE_EVENTFD	= 6,	/* CKPT_REC_EVENTFD comes next */
	CKPT_FILE_SIGNALFD	= 7,	/* CKPT_REC_SIGNALFD comes next */
	CKPT_FILE_TIMERFD	= 8,	/* CKPT_REC_TIMERFD comes next */
	CKPT_FILE_EPOLL		= 9,	/* see CKPT_REC_EPOLL */
	CKPT_FILE_PTY_MASTER	= 10,	/* the master of the terminal @inode */
	CKPT_FILE_PTY_SLAVE	= 11,	/* its slave, by path, or as /dev/tty */
	CKPT_FILE_PROC		= 12,	/* in /proc: by path, opened twice */
	CKPT_FILE_SOCKET	= 13,	/* end @rdev of the sockets @inode */
	CKPT_FILE_INOTIFY	= 14,	/* CKPT_REC_INOTIFY comes next */
};

/* struct ckpt_file.state */
#define CKPT_FILE_UNCOUNTED	(1U << 0)	/* SHMEM: writable, but not in
						 * i_writecount: a memfd
						 */
#define CKPT_FILE_RANDOM	(1U << 1)	/* POSIX_FADV_RANDOM */
#define CKPT_FILE_NOREUSE	(1U << 2)	/* POSIX_FADV_NOREUSE */

/**
 * struct ckpt_file - CKPT_REC_FILE, followed by the path
 * @kind: enum ckpt_file_kind
 * @flags: O_* as fcntl(F_GETFL) reports them
 * @pos: offset, bytes
 * @inode: objref of the pipe, sockets, terminal or inode that the file belongs
 *	to, 0 if it is found by path
 * @mode: st_mode
 * @rdev: devices: device number. Sockets: index of the end. PROC_MEM: pid of a
 *	task with that address space, 0 if there is none. PROC and PROC_MEM, in
 *	the upper 32 bits: pid of the process that the file belongs to, if that
 *	process has exited
 * @ino: inode number; restart(2) fails if it differs
 * @size: bytes, regular files only; informative
 * @path_len: bytes of path
 * @state: CKPT_FILE_*
 * @signum: F_SETSIG, 0 for none
 * @write_hint: F_SET_RW_HINT of an inode that has a path, 0 for none
 * @cred: objref of the credentials with which it was opened, 0 if no task has
 *	these any longer
 * @gone_len: bytes of the unlinked name by which the file was opened; the name,
 *	in the same directory, follows the path. 0 if it was opened by the path
 */
struct ckpt_file {
	__u32 kind;
	__u32 flags;
	__s64 pos;
	__u32 inode;
	__u32 mode;
	__u64 rdev;
	__u64 ino;
	__s64 size;
	__u32 path_len;
	__u32 state;
	__u32 signum;
	__u32 write_hint;
	__u32 cred;
	__u32 gone_len;
};

/* CKPT_REC_FILES: an array of these, sorted by @fd */
struct ckpt_fd {
	__u32 fd;
	__u32 cloexec;
	__u32 file;
	__u32 pad;
};

/* Times of the inode of a pipe or socket: seconds and nanoseconds */
struct ckpt_times {
	__s64 atime, mtime, ctime;
	__u32 atime_nsec, mtime_nsec, ctime_nsec;
	__u32 pad;
};

/* CKPT_REC_PIPE, followed by @nr_bufs CKPT_REC_PIPE_BUF with data */
struct ckpt_pipe {
	__u32 ring_size;	/* slots */
	__u32 nr_bufs;
	__u64 ino;		/* informative */
	__u32 uid;		/* owner, as fchown(2) sets it */
	__u32 gid;
	__u32 mode;		/* st_mode */
	__u32 pad;
	struct ckpt_times times;
};

/* CKPT_REC_PIPE_BUF, followed by the data */
#define CKPT_PIPE_BUF_PACKET	(1U << 0)	/* O_DIRECT: a packet */
#define CKPT_PIPE_BUF_MERGE	(1U << 1)	/* a write may append to it */
struct ckpt_pipe_buf {
	__u32 flags;
	__u32 len;
};

/* struct ckpt_inode.flags */
#define CKPT_INODE_LINKABLE	(1U << 0)	/* O_TMPFILE without O_EXCL */
#define CKPT_INODE_NORESERVE	(1U << 1)	/* SHMEM: no reservation */

/*
 * CKPT_REC_INODE: content of an inode without a path, followed by its unlinked
 * path (DELETED) or its name (SHMEM). CKPT_REC_DATA records follow; the last
 * one has @len 0. Holes are left out.
 */
struct ckpt_inode {
	__u32 kind;		/* CKPT_FILE_DELETED or CKPT_FILE_SHMEM */
	__u32 mode;
	__u32 uid;
	__u32 gid;
	__s64 size;
	__u64 ino;		/* informative */
	__u32 path_len;
	__u32 seals;
	__s64 atime;		/* seconds */
	__s64 mtime;
	__u32 atime_nsec;
	__u32 mtime_nsec;
	__u32 flags;		/* CKPT_INODE_* */
	__u32 attrs;		/* FS_*_FL of FS_IOC_SETFLAGS */
	__u32 write_hint;	/* F_SET_RW_HINT */
	__u32 pad;
	__s64 ctime;		/* SHMEM: change and birth times; else 0 */
	__s64 btime;
	__u32 ctime_nsec;
	__u32 btime_nsec;
};

/* CKPT_REC_DATA, followed by the data */
struct ckpt_data {
	__u64 offset;
	__u64 len;
};

/* CKPT_REC_MM, followed by the auxv */
struct ckpt_mm {
	__u64 start_code, end_code, start_data, end_data;
	__u64 start_brk, brk, start_stack;
	__u64 arg_start, arg_end, env_start, env_end;
	__u64 mmap_base;
	__u64 vdso;
	__u32 exe_file;
	__u32 dumpable;
	__u32 topdown;		/* mmap from mmap_base down */
	__u32 auxv_len;
	__u32 dump_filter;	/* as in /proc/PID/coredump_filter */
	__u32 same_as;		/* objref of the mm to copy, 0 for none */
	__u32 membarrier;	/* registrations, MEMBARRIER_STATE_* */
	__u32 pad;
	__u64 hiwater_rss;	/* peak resident set, pages */
	__u64 hiwater_vm;	/* peak size of all mappings, pages */
};

enum ckpt_vma_kind {
	CKPT_VMA_ANON		= 1,
	CKPT_VMA_FILE		= 2,
	CKPT_VMA_VDSO		= 3,	/* vvar and vdso, mapped as one */
};

/* struct ckpt_vma.prot and .flags: PROT_* and MAP_* of mmap(2) */
/* struct ckpt_vma.advice */
#define CKPT_VMA_DONTFORK	(1U << 0)
#define CKPT_VMA_DONTDUMP	(1U << 1)
#define CKPT_VMA_WIPEONFORK	(1U << 2)
#define CKPT_VMA_SEQUENTIAL	(1U << 3)
#define CKPT_VMA_RANDOM		(1U << 4)
#define CKPT_VMA_HUGEPAGE	(1U << 5)
#define CKPT_VMA_NOHUGEPAGE	(1U << 6)
#define CKPT_VMA_UNSEALED	(1U << 7)	/* older than its file's seal */
#define CKPT_VMA_ACCOUNT	(1U << 8)	/* counts as committed memory */

struct ckpt_vma {
	__u64 start;
	__u64 end;
	__u64 offset;		/* bytes into the file */
	__u32 kind;
	__u32 prot;
	__u32 flags;
	__u32 file;
	__u32 advice;
	__u32 pad;
};

/* CKPT_REC_PAGES, followed by @nr pages of private memory */
struct ckpt_pages {
	__u64 addr;
	__u64 nr;
};

/*
 * CKPT_REC_SAME: the mm shares @nr pages at @addr copy-on-write with the mm
 * @same_as, which has them at the same address.
 */

/* CKPT_REC_SIGHAND: 64 of these */
struct ckpt_sigaction {
	__u64 handler;
	__u64 flags;
	__u64 restorer;
	__u64 mask;
};

/**
 * struct ckpt_signal - CKPT_REC_SIGNAL: the state that threads of a process
 * share
 * @flags: SIGNAL_STOP_STOPPED, SIGNAL_STOP_CONTINUED, SIGNAL_CLD_*,
 *	SIGNAL_GROUP_EXIT as the kernel numbers them
 * @group_exit_code: stop signal of a stopped process; with SIGNAL_GROUP_EXIT,
 *	the status that wait4(2) will report
 * @is_child_subreaper: prctl(PR_SET_CHILD_SUBREAPER)
 * @has_child_subreaper: 1 if an ancestor is a subreaper
 * @oom_score_adj_min: lower bound without CAP_SYS_RESOURCE
 * @group_stop_count: threads that have yet to take part in a group stop
 * @utime ... @cstime: CPU time of exited threads and of reaped children, ns
 * @min_flt ... @cmaj_flt: page faults of exited threads and reaped children
 * @maxrss, @cmaxrss: KiB
 * @tty: objref of the controlling terminal, 0 for none
 * @tty_old_pgrp: foreground group of a terminal that was lost, 0 for none
 * @exec_ns: ns that exited threads were on a CPU, as the scheduler counts
 * @gtime, @cgtime: ns that exited threads and reaped children spent in a
 *	virtual machine
 * @seen_utime, @seen_stime: times of the process last reported to user space,
 *	ns
 * @nvcsw ... @cnivcsw: context switches of exited threads and reaped children
 * @inblock ... @coublock: blocks that exited threads and reaped children have
 *	read and written
 */
struct ckpt_signal {
	__u32 flags;
	__s32 group_exit_code;
	__u32 is_child_subreaper;
	__u32 has_child_subreaper;
	__s32 oom_score_adj_min;
	__u32 group_stop_count;
	__u64 utime, stime, cutime, cstime;
	__u64 min_flt, maj_flt, cmin_flt, cmaj_flt;
	__u64 maxrss, cmaxrss;
	__u32 tty;
	__s32 tty_old_pgrp;
	__u64 exec_ns;
	__u64 gtime, cgtime;
	__u64 seen_utime, seen_stime;
	__u64 nvcsw, nivcsw, cnvcsw, cnivcsw;
	__u64 inblock, oublock, cinblock, coublock;
};

/* CKPT_REC_RLIMITS: RLIM_NLIMITS of these */
struct ckpt_rlimit {
	__u64 cur;
	__u64 max;
};

/* CKPT_REC_SIGINFO: a queued signal; @shared: sent to the process */
struct ckpt_siginfo {
	__u32 shared;
	__u32 signo;
	__u32 queued;		/* 0: only the bit is pending, without info;
				 * 1: queued;
				 * 2: preallocated by the timer info.si_tid
				 */
	__u32 pad;
	__u8 info[48];		/* struct kernel_siginfo, zero padded */
};

/*
 * CKPT_REC_TIMERS: the three interval timers; remaining time and interval, ns
 */
struct ckpt_timers {
	__u64 real_value, real_interval;
	__u64 virt_value, virt_interval;
	__u64 prof_value, prof_interval;
	__u64 next_posix_timer;	/* timer id allocated next */
};

/* struct ckpt_posix_timer.flags */
#define CKPT_POSIX_TIMER_ACTIVE	(1U << 0)	/* the timer runs */
#define CKPT_POSIX_TIMER_ABS	(1U << 1)	/* set by TIMER_ABSTIME */

/**
 * struct ckpt_posix_timer - CKPT_REC_POSIX_TIMER, before the process's signals
 * @id: as returned by timer_create(2)
 * @clockid: as passed to timer_create(2)
 * @notify: SIGEV_*
 * @signo: signal
 * @sival: sigev_value, delivered with the signal
 * @thread: thread id that SIGEV_THREAD_ID sends it to, else 0
 * @flags: CKPT_POSIX_TIMER_*
 * @interval: ns, 0 for none
 * @value: expiration: with CKPT_POSIX_TIMER_ABS a time on its clock, else the
 *	time left, negative if it has expired; ns
 * @overrun: k_itimer.it_overrun: overruns of the pending signal, less one
 * @overrun_last: k_itimer.it_overrun_last: overruns of the signal delivered
 *	last
 * @requeue_pending: k_itimer.it_requeue_pending: number of the expiration
 * @pad: 0
 */
struct ckpt_posix_timer {
	__u32 id;
	__u32 clockid;
	__u32 notify;
	__s32 signo;
	__u64 sival;
	__u32 thread;
	__u32 flags;
	__u64 interval;
	__s64 value;
	__s64 overrun;
	__s64 overrun_last;
	__s32 requeue_pending;
	__u32 pad;
};

/* struct ckpt_ptrace.stop, and the meaning of struct ckpt_task.site_arg */
enum ckpt_stop_kind {
	CKPT_STOP_NONE		= 0,	/* traced, but not in a ptrace stop */
	CKPT_STOP_SYSCALL_ENTER	= 1,	/* 1: the system call is emulated */
	CKPT_STOP_SYSCALL_EXIT	= 2,
	CKPT_STOP_CLONE		= 3,	/* fork or clone: its return value */
	CKPT_STOP_VFORK		= 4,	/* its return value; a wait follows */
	CKPT_STOP_VFORK_DONE	= 5,	/* its return value; the wait is over */
	CKPT_STOP_EXEC		= 6,
	CKPT_STOP_EXIT		= 7,	/* the exit code */
	CKPT_STOP_SIGNAL	= 8,	/* 1: it was sent to the process */
	CKPT_STOP_TRAP		= 9,	/* group stop, PTRACE_EVENT_STOP */
	CKPT_STOP_HANDLER	= 10,	/* a step into a signal's handler */
	CKPT_STOP_SECCOMP	= 11,
	NR_CKPT_STOPS
};

/* struct ckpt_ptrace.work */
#define CKPT_PTRACE_SYSCALL	(1U << 0)	/* stops at system calls */
#define CKPT_PTRACE_SYSEMU	(1U << 1)	/* and does not execute them */
#define CKPT_PTRACE_EXIT_TRAP	(1U << 2)	/* steps out of a system call */
#define CKPT_PTRACE_STEP	(1U << 3)	/* single-steps */
#define CKPT_PTRACE_FORCED_TF	(1U << 4)	/* by the tracer's trap flag */
#define CKPT_PTRACE_BLOCKSTEP	(1U << 5)	/* steps from branch to branch */
#define CKPT_PTRACE_SIGPENDING	(1U << 6)	/* TIF_SIGPENDING */

/* struct ckpt_ptrace.flags, besides PTRACE_O_* */
#define CKPT_PTRACE_SEIZED	(1U << 31)

/**
 * struct ckpt_ptrace - CKPT_REC_PTRACE: a tracee, after its CKPT_REC_REGS
 * @tracer: thread id of the tracer
 * @flags: PTRACE_O_*, CKPT_PTRACE_SEIZED
 * @cred: objref of the tracer's credentials when it attached
 * @place: index in the tracer's list of tracees, from 0; wait4(2) reports
 *	tracees in this order
 * @stop: enum ckpt_stop_kind
 * @exit_code: status of the stop that wait4(2) has not reported yet, else 0
 * @message: PTRACE_GETEVENTMSG
 * @jobctl: JOBCTL_* bits of group stops and traps as the kernel numbers them
 * @work: CKPT_PTRACE_*
 * @has_info: 1 if PTRACE_GETSIGINFO succeeds
 * @pad: 0
 * @info: struct kernel_siginfo, zero padded
 */
struct ckpt_ptrace {
	__s32 tracer;
	__u32 flags;
	__u32 cred;
	__u32 place;
	__u32 stop;
	__u32 exit_code;
	__u64 message;
	__u32 jobctl;
	__u32 work;
	__u32 has_info;
	__u32 pad;
	__u8 info[48];
};

/*
 * CKPT_REC_DEBUGREGS: DR0 to DR7 as PTRACE_POKEUSER sets them. DR4 and DR5 do
 * not exist and are 0.
 */
struct ckpt_debugregs {
	__u64 dr[8];
};

/* CKPT_REC_EVENTFD: state of an eventfd, right after its CKPT_REC_FILE */
struct ckpt_eventfd {
	__u64 count;
	__u32 semaphore;	/* 1: EFD_SEMAPHORE */
	__u32 pad;
};

/* CKPT_REC_SIGNALFD: signals of a signalfd, right after its CKPT_REC_FILE */
struct ckpt_signalfd {
	__u64 mask;
};

/* struct ckpt_timerfd.flags */
#define CKPT_TIMERFD_ARMED	(1U << 0)
#define CKPT_TIMERFD_EXPIRED	(1U << 1)	/* and not read since */
#define CKPT_TIMERFD_CANCEL	(1U << 2)	/* if the clock is set */
#define CKPT_TIMERFD_CANCELED	(1U << 3)	/* the clock has been set */

/**
 * struct ckpt_timerfd - CKPT_REC_TIMERFD, right after its CKPT_REC_FILE
 * @clockid: as passed to timerfd_create(2)
 * @settime_flags: as passed to timerfd_settime(2)
 * @interval: ns, 0 for none
 * @value: expiration: with TFD_TIMER_ABSTIME a time on its clock, else the time
 *	left, negative if it has expired; ns
 * @ticks: expirations that have not been read
 * @flags: CKPT_TIMERFD_*
 * @pad: 0
 */
struct ckpt_timerfd {
	__u32 clockid;
	__u32 settime_flags;
	__u64 interval;
	__s64 value;
	__u64 ticks;
	__u32 flags;
	__u32 pad;
};

/*
 * CKPT_REC_EPOLL: the items of the epoll file that is descriptor @fd of the
 * preceding CKPT_REC_FILES; @nr struct ckpt_epoll_item follow
 */
struct ckpt_epoll {
	__u32 fd;
	__u32 nr;
};

/**
 * struct ckpt_epoll_item - a descriptor that an epoll file watches
 * @data: as passed to epoll_ctl(2)
 * @events: as passed to epoll_ctl(2); only the flags if EPOLLONESHOT has
 *	disarmed it
 * @fd: descriptor in the same table
 * @ready: 1 if it is on the ready list. Ready items come first, in the list's
 *	order
 * @added: number of items of the file that were added before this one
 */
struct ckpt_epoll_item {
	__u64 data;
	__u32 events;
	__u32 fd;
	__u32 ready;
	__u32 added;
};

/* struct ckpt_tty_end.flags */
#define CKPT_TTY_EXCLUSIVE	(1U << 0)	/* TIOCEXCL */
#define CKPT_TTY_STOPPED	(1U << 1)	/* output stopped by ^S */
#define CKPT_TTY_TCO_STOPPED	(1U << 2)	/* output stopped by TCOOFF */
#define CKPT_TTY_LNEXT		(1U << 3)	/* the next character is literal */
#define CKPT_TTY_ERASING	(1U << 4)	/* between \ and / of ECHOPRT */
#define CKPT_TTY_PUSH		(1U << 5)	/* a line without a delimiter */

/**
 * struct ckpt_tty_end - one end of a pseudo-terminal
 * @iflag ... @cc: termios
 * @rows ... @ypixel: window size
 * @flags: CKPT_TTY_*
 * @column: of the cursor
 * @canon_column: of the start of the line
 * @read_len: characters received and not read yet
 * @canon_len: characters of these that form complete lines
 * @echo_len: bytes still to be echoed
 * @echo_commit, @echo_mark: n_tty's positions in these bytes, from their start
 * @flip_len: characters that the line discipline had no room for
 * @pktstatus: TIOCPKT_* that the master has not read yet
 */
struct ckpt_tty_end {
	__u32 iflag, oflag, cflag, lflag, ispeed, ospeed;
	__u8 line;
	__u8 cc[19];
	__u16 rows, cols, xpixel, ypixel;
	__u32 flags;
	__u32 column;
	__u32 canon_column;
	__u32 read_len;
	__u32 canon_len;
	__u32 echo_len;
	__u32 echo_commit;
	__u32 echo_mark;
	__u32 flip_len;
	__u32 pktstatus;
};

/* struct ckpt_tty.flags */
#define CKPT_TTY_LOCKED		(1U << 0)	/* TIOCSPTLCK */
#define CKPT_TTY_PACKET		(1U << 1)	/* TIOCPKT */
#define CKPT_TTY_CLOSED		(1U << 2)	/* the slave was closed */

/**
 * struct ckpt_tty - CKPT_REC_TTY: a pseudo-terminal
 * @index: N of /dev/pts/N
 * @flags: CKPT_TTY_*
 * @session: the session whose controlling terminal it is, 0 for none
 * @pgrp: its foreground process group
 * @uid, @gid, @mode: of /dev/pts/N
 * @path_len: bytes of the path by which the master was opened
 * @slave, @master: its ends
 *
 * For the slave, then for the master, follow: the characters to be read, a byte
 * for each of them that is 1 if it ends a line, the bytes to be echoed, and the
 * characters that the line discipline had no room for. The path is last.
 */
struct ckpt_tty {
	__u32 index;
	__u32 flags;
	__s32 session;
	__s32 pgrp;
	__u32 uid;
	__u32 gid;
	__u32 mode;
	__u32 path_len;
	struct ckpt_tty_end slave;
	struct ckpt_tty_end master;
};

/* struct ckpt_seccomp.flags */
#define CKPT_SECCOMP_LOG		(1U << 0)
#define CKPT_SECCOMP_WAIT_KILLABLE	(1U << 1)

/* CKPT_REC_SECCOMP: a filter; @len struct sock_filter follow */
struct ckpt_seccomp {
	__u32 prev;	/* objref of the filter attached before, 0 for none */
	__u32 flags;	/* CKPT_SECCOMP_* */
	__u32 len;
	__u32 pad;
};

/* struct ckpt_sockets.flags */
#define CKPT_SOCKETS_PAIR	(1U << 0)	/* connected to each other */

/* struct ckpt_socket_end.flags */
#define CKPT_SOCKET_CLOSED	(1U << 0)	/* only its name is used */
#define CKPT_SOCKET_NAME_FREE	(1U << 1)	/* not bound to its name */
#define CKPT_SOCKET_CONNECTED	(1U << 2)	/* a peer has connected to it */
#define CKPT_SOCKET_PASSCRED	(1U << 3)
#define CKPT_SOCKET_PASSPIDFD	(1U << 4)
#define CKPT_SOCKET_PASSSEC	(1U << 5)
#define CKPT_SOCKET_OOBINLINE	(1U << 6)
#define CKPT_SOCKET_KEEPALIVE	(1U << 7)
#define CKPT_SOCKET_LINGER	(1U << 8)
#define CKPT_SOCKET_BROADCAST	(1U << 9)
#define CKPT_SOCKET_STAMP	(1U << 10)	/* SO_TIMESTAMP or SO_TIMESTAMPNS */
#define CKPT_SOCKET_STAMP_NS	(1U << 11)	/* SO_TIMESTAMPNS */
#define CKPT_SOCKET_STAMP_NEW	(1U << 12)	/* SO_TIMESTAMP*_NEW */
#define CKPT_SOCKET_STAMPED	(1U << 13)	/* SOCK_TIMESTAMP */
#define CKPT_SOCKET_REUSEADDR	(1U << 14)
#define CKPT_SOCKET_REUSEPORT	(1U << 15)
#define CKPT_SOCKET_SNDBUF	(1U << 16)	/* SO_SNDBUF was set */
#define CKPT_SOCKET_RCVBUF	(1U << 17)	/* SO_RCVBUF was set */

/**
 * struct ckpt_socket_end - one of two Unix sockets
 * @flags: CKPT_SOCKET_*
 * @shutdown: bit 0: RCV_SHUTDOWN; bit 1: SEND_SHUTDOWN
 * @error: errno that SO_ERROR has not reported yet, 0 for none
 * @sndbuf: bytes
 * @rcvbuf: bytes
 * @rcvlowat: bytes
 * @peek_off: SO_PEEK_OFF, -1 for none
 * @linger: s
 * @rcvtimeo: ns, ~0 for none
 * @sndtimeo: ns, ~0 for none
 * @peer_pid: SO_PEERCRED: process, 0 if it has no pid in the tree's namespace
 * @peer_cred: SO_PEERCRED: objref of the credentials, 0 for none
 * @name_len: bytes of its abstract name, the leading 0 included; 0 for none
 * @pad: 0
 * @uid, @gid, @mode: of its inode, as fstat(2) reports them
 * @backlog: SOCK_DGRAM: messages that it queues before senders wait, less one
 * @times: of its inode
 */
struct ckpt_socket_end {
	__u32 flags;
	__u32 shutdown;
	__s32 error;
	__u32 sndbuf;
	__u32 rcvbuf;
	__u32 rcvlowat;
	__s32 peek_off;
	__u32 linger;
	__u64 rcvtimeo;
	__u64 sndtimeo;
	__s32 peer_pid;
	__u32 peer_cred;
	__u32 name_len;
	__u32 pad;
	__u32 uid;
	__u32 gid;
	__u32 mode;
	__u32 backlog;
	struct ckpt_times times;
};

/*
 * CKPT_REC_SOCKETS: two Unix sockets that are connected to each other, or a
 * single one as the first end; the names follow
 */
struct ckpt_sockets {
	__u32 type;		/* SOCK_* */
	__u32 flags;		/* CKPT_SOCKETS_* */
	struct ckpt_socket_end ends[2];
};

/* struct ckpt_message.flags */
#define CKPT_MESSAGE_CREDS	(1U << 0)	/* @pid, @uid and @gid are known */
#define CKPT_MESSAGE_OOB	(1U << 1)	/* the byte sent by MSG_OOB */

/**
 * struct ckpt_message - CKPT_REC_MESSAGE: a message that is not received yet
 * @socket: objref of the open file of the receiving socket
 * @flags: CKPT_MESSAGE_*
 * @len: bytes of data
 * @consumed: bytes that have been received already; streams only
 * @pid, @uid, @gid: SCM_CREDENTIALS
 * @nr_files: number of open files of SCM_RIGHTS
 * @stamp: time stamp of the message on CLOCK_REALTIME, ns; 0 for none
 *
 * The objrefs of the open files follow, four bytes each, then the data. The
 * messages of a socket are in the order of its queue.
 */
struct ckpt_message {
	__u32 socket;
	__u32 flags;
	__u32 len;
	__u32 consumed;
	__s32 pid;
	__u32 uid;
	__u32 gid;
	__u32 nr_files;
	__s64 stamp;
};

/*
 * CKPT_REC_INOTIFY: an inotify instance, right after its CKPT_REC_FILE;
 * @nr_watches CKPT_REC_WATCH follow, then @nr_events CKPT_REC_INOTIFY_EVENT
 */
struct ckpt_inotify {
	__u32 nr_watches;
	__u32 nr_events;
	__u32 next_wd;		/* watch descriptor allocated next */
	__u32 pad;
};

/* CKPT_REC_WATCH, followed by the path */
struct ckpt_watch {
	__s32 wd;
	__u32 mask;		/* IN_* */
	__u32 mode;		/* type of the file, S_IFMT */
	__u32 path_len;
	__u64 ino;
};

/* CKPT_REC_INOTIFY_EVENT, followed by the name */
struct ckpt_inotify_event {
	__s32 wd;
	__u32 mask;		/* FS_* of the kernel */
	__u32 cookie;
	__u32 name_len;
};

/* CKPT_REC_TRAILER */
struct ckpt_trailer {
	__u64 nr_records;	/* this one included */
	__u64 nr_objects;
};

#endif /* _UAPI_LINUX_CHECKPOINT_H */
