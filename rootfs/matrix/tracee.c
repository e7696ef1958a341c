// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The tracee: goes to its starting point, performs its deed, and logs the results. */
#include "cell.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define MASK_SIZE 8

/*
 * System calls without libc: threads here share everything, including errno, and there must
 * be few instructions between two calls.
 */
static long sys(long nr, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long ret;

	asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret;
}

/* A system call that a tracer finds by its address and steps over. */
static long count(void)
{
	long ret;

	asm volatile(".globl counted_syscall\ncounted_syscall: syscall"
		     : "=a"(ret)
		     : "a"(SYS_lseek), "D"(channels.counter), "S"(1), "d"(SEEK_CUR)
		     : "rcx", "r11", "memory");
	return ret;
}

/* clone(2) of a child that runs @run on its own stack. */
long clone_on(unsigned long flags, void *stack, void (*run)(void), int *cleared);
asm(".text\n"
    "clone_on:\n"
    "	mov %rdx, -8(%rsi)\n"
    "	sub $8, %rsi\n"
    "	xor %edx, %edx\n"
    "	mov %rcx, %r10\n"
    "	xor %r8d, %r8d\n"
    "	mov $56, %eax\n"
    "	syscall\n"
    "	test %rax, %rax\n"
    "	jnz 1f\n"
    "	pop %rax\n"
    "	xor %ebp, %ebp\n"
    "	call *%rax\n"
    "	hlt\n"
    "1:	ret\n");

static char stacks[3][1 << 15] __attribute__((aligned(16)));

static const struct cell *cell;

static void __attribute__((noreturn)) end(int code)
{
	for (;;)
		sys(SYS_exit_group, code, 0, 0, 0);
}

static void finish(void) __attribute__((noreturn));

static void finish(void)
{
	unsigned long none = 1ul << (SIGCHLD - 1), pending = 0;

	sys(SYS_rt_sigpending, (long)&pending, MASK_SIZE, 0, 0);
	observe("tracee pending %#lx", pending);
	sys(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, MASK_SIZE);
	observe("tracee counted %ld poked %d", sys(SYS_lseek, channels.counter, 0, SEEK_CUR, 0),
		shared->poked);
	end(33);
}

/* The function that PTRACE_SETREGS calls. */
void elsewhere(void)
{
	observe("%s is elsewhere", role_name(sys(SYS_gettid, 0, 0, 0, 0)));
	finish();
}

static void handler(int signo, siginfo_t *info, void *context)
{
	(void)context;
	observe("%s handles %d code %d from %s value %d",
		role_name(sys(SYS_gettid, 0, 0, 0, 0)), signo, info->si_code,
		info->si_code == SI_KERNEL ? "kernel" : role_name(info->si_pid),
		info->si_code == SI_QUEUE ? info->si_int : 0);
}

static void handle(int signo, int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };

	sigfillset(&action.sa_mask);
	if (sigaction(signo, &action, NULL))
		die("sigaction");
}

/* The thread that is not traced parks here. */
static void __attribute__((noreturn)) park(void)
{
	unsigned long all = ~0ul;
	long ret;
	char byte;

	shared->pids[ROLE_SECOND] = sys(SYS_gettid, 0, 0, 0, 0);
	sys(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, MASK_SIZE);
	if (cell->threads == THREADS_TWO_TRACED && cell->way == WAY_TRACEME)
		observe("second traceme %ld", sys(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
	shared->second_parks = 1;
	ret = sys(SYS_read, channels.park[0], (long)&byte, 1, 0);
	observe("second read %ld", ret);
	end(34);
}

static void start_thread(void (*run)(void))
{
	unsigned long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
			      CLONE_THREAD | CLONE_SYSVSEM;

	if (clone_on(flags, stacks[0] + sizeof(stacks[0]), run, NULL) < 0)
		die("second");
}

static void be_child(void)
{
	observe("child runs");
	end(7);
}

static void be_thread(void)
{
	observe("child runs as a thread");
	for (;;)
		sys(SYS_exit, 0, 0, 0, 0);
}

static void wait_child(const char *what, long pid)
{
	int status = -1;
	long ret = pid;

	if (pid > 0)
		ret = sys(SYS_wait4, pid, (long)&status, __WALL, 0);
	observe("tracee %s %s waits %s status %#x", what, pid > 0 ? "born" : "failed",
		ret == pid ? "for it" : "in vain", status);
}

static void do_fork(void)
{
	long pid = sys(SYS_clone, SIGCHLD, 0, 0, 0);

	if (!pid)
		be_child();
	wait_child("fork", pid);
}

static void do_vfork(void)
{
	long pid = clone_on(CLONE_VM | CLONE_VFORK | SIGCHLD, stacks[1] + sizeof(stacks[1]),
			    be_child, NULL);

	wait_child("vfork", pid);
}

/*
 * The kernel clears it when the thread has exited. It is not in shared memory, where its value
 * would survive the kill before a restart.
 */
static volatile int lives;

static void do_clone(void)
{
	long pid;

	lives = 1;
	shared->thread_born = 1;
	pid = clone_on(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
		       CLONE_SYSVSEM | CLONE_CHILD_CLEARTID, stacks[1] + sizeof(stacks[1]),
		       be_thread, (int *)&lives);
	observe("tracee clone %s", pid > 0 ? "born" : "failed");
	while (pid > 0 && lives)
		sys(SYS_futex, (long)&lives, FUTEX_WAIT, 1, 0);
}

static void do_exec(void)
{
	char *argv[] = { "cell", "--after-exec", NULL }, *envp[] = { NULL };

	observe("tracee exec %ld", sys(SYS_execve, (long)cell->program, (long)argv, (long)envp, 0));
}

static void do_timer(void)
{
	struct itimerval soon = { .it_value.tv_usec = 1000 };
	unsigned long alarm = 1ul << (SIGALRM - 1), pending = 0;

	/* blocked until it is pending, so that it is always delivered at the same place */
	sys(SYS_rt_sigprocmask, SIG_BLOCK, (long)&alarm, 0, MASK_SIZE);
	sys(SYS_setitimer, ITIMER_REAL, (long)&soon, 0, 0);
	while (!(pending & alarm))
		sys(SYS_rt_sigpending, (long)&pending, MASK_SIZE, 0, 0);
	sys(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&alarm, 0, MASK_SIZE);
}

static void do_queue(long pid)
{
	siginfo_t info = { .si_code = SI_QUEUE };

	info.si_pid = pid;
	info.si_int = 42;
	observe("tracee queue %ld", sys(SYS_rt_sigqueueinfo, pid, RT_SIGNAL, (long)&info, 0));
}

static void do_seccomp(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_lseek, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	sys(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
	sys(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0);
	observe("tracee counts %ld", count());
}

static void do_steps(void)
{
	long turns = 3;

	/* straight code, then branches: a block step ends at the first branch */
	asm volatile("nop; nop; nop; nop\n1: nop; dec %0; jnz 1b" : "+r"(turns) : : "cc");
	observe("tracee steps %ld", turns);
}

#define LOAD_YMM(n) "vmovups 32*" #n "(%0), %%ymm" #n "\n"

/*
 * Sets all registers to values other than those of a new process, so that a register that is
 * not restored is noticed. None of them holds data from /proc, which differs between runs.
 */
static void fill_floating_point(void)
{
	static unsigned char image[512] __attribute__((aligned(16)));

	for (size_t n = 0; n < sizeof(image); n++)
		image[n] = 7 * n + 1;
	/* FXSAVE's layout (Intel SDM 1, 10.5.1): the control words, and all of x87 in use */
	memset(image, 0, 32);
	image[0] = 0x7f;
	image[1] = 0x02;
	image[4] = 0xff;
	image[24] = 0x80;
	image[25] = 0x3f;
	asm volatile("fxrstor %0" : : "m"(image));
	if (__builtin_cpu_supports("avx"))
		asm volatile(LOAD_YMM(0) LOAD_YMM(1) LOAD_YMM(2) LOAD_YMM(3)
			     LOAD_YMM(4) LOAD_YMM(5) LOAD_YMM(6) LOAD_YMM(7)
			     LOAD_YMM(8) LOAD_YMM(9) LOAD_YMM(10) LOAD_YMM(11)
			     LOAD_YMM(12) LOAD_YMM(13) LOAD_YMM(14) LOAD_YMM(15)
			     : : "r"(image) : "memory");
}

static void do_deed(void)
{
	long pid = sys(SYS_getpid, 0, 0, 0, 0);
	long tid = sys(SYS_gettid, 0, 0, 0, 0);
	long ret;
	char byte;

	/* right before the first step and the emulated call */
	sys(SYS_tgkill, pid, tid, SIGWINCH, 0);
	switch (cell->stop->deed) {
	case DEED_STEPS:
		return do_steps();
	case DEED_SYSCALL:
		ret = count();
		observe("tracee counts %ld", ret);
		return;
	case DEED_READ:
		ret = sys(SYS_read, channels.feed[0], (long)&byte, 1, 0);
		observe("tracee reads %ld", ret);
		return;
	case DEED_TGKILL:
	case DEED_ALTSTACK:
		sys(SYS_tgkill, pid, tid, SIGUSR1, 0);
		return;
	case DEED_KILL:
		sys(SYS_kill, pid, SIGUSR1, 0, 0);
		return;
	case DEED_FATAL:
		sys(SYS_tgkill, pid, tid, SIGTERM, 0);
		return;
	case DEED_IGNORED:
		sys(SYS_tgkill, pid, tid, SIGHUP, 0);
		return;
	case DEED_STOP:
		sys(SYS_tgkill, pid, tid, SIGSTOP, 0);
		return;
	case DEED_TSTP:
		sys(SYS_tgkill, pid, tid, SIGTSTP, 0);
		return;
	case DEED_SEGV:
		asm volatile("movl $0, 8");
		return;
	case DEED_INT3:
		asm volatile("int3");
		return;
	case DEED_QUEUE:
		return do_queue(pid);
	case DEED_TIMER:
		return do_timer();
	case DEED_FORK:
		return do_fork();
	case DEED_VFORK:
		return do_vfork();
	case DEED_CLONE:
		return do_clone();
	case DEED_EXEC:
		return do_exec();
	case DEED_SECCOMP:
		return do_seccomp();
	case DEED_NONE:
		return;
	}
}

/* The traced thread. */
static void __attribute__((noreturn)) be_traced(void)
{
	stack_t stack = { .ss_sp = stacks[2], .ss_size = sizeof(stacks[2]) };
	char byte;

	shared->pids[ROLE_TRACEE] = sys(SYS_gettid, 0, 0, 0, 0);
	if (sys(SYS_sigaltstack, (long)&stack, 0, 0, 0))
		die("sigaltstack");
	while (cell->threads != THREADS_ONE &&
	       (!shared->second_parks || state_of(shared->pids[ROLE_SECOND]) != 'S'))
		sched_yield();
	fill_floating_point();
	/* from now on the tracer can wait for it, even if it is not the leader */
	if (cell->way == WAY_TRACEME && sys(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0))
		die("traceme");
	shared->tracee_waits = 1;
	if (cell->way != WAY_TRACEME && sys(SYS_read, channels.go[0], (long)&byte, 1, 0) != 1)
		die("go");
	do_deed();
	finish();
}

void tracee(const struct cell *which)
{
	unsigned long chld = 1ul << (SIGCHLD - 1);

	cell = which;
	/* a process group that is not orphaned, in which SIGTSTP has an effect */
	setpgid(0, 0);
	/* a child exits at any time, and its SIGCHLD would cause a stop of its own */
	sys(SYS_rt_sigprocmask, SIG_BLOCK, (long)&chld, 0, MASK_SIZE);
	handle(SIGUSR1, (cell->stop->deed == DEED_ALTSTACK ? SA_ONSTACK : 0) |
	       (cell->stop->restarts ? SA_RESTART : 0));
	handle(SIGUSR2, 0);
	handle(SIGALRM, 0);
	handle(RT_SIGNAL, 0);
	signal(SIGHUP, SIG_IGN);
	if (cell->threads == THREADS_OTHER) {
		start_thread(be_traced);
		park();
	}
	if (cell->threads != THREADS_ONE)
		start_thread(park);
	be_traced();
}

void tracee_after_exec(void)
{
	observe("tracee is another program");
	channels.counter = shared->counter;
	finish();
}
