// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A fault whose signal a tracer has intercepted; and instructions and system calls that a thread
 * has forbidden itself, tried after the event by a child that the kernel may kill.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "workload.h"

static char *page;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)signal;
	printf("trap %lld, code %#llx, address %s, info %s\n", regs[REG_TRAPNO], regs[REG_ERR],
	       regs[REG_CR2] == (greg_t)(uintptr_t)(page + 8) ? "right" : "wrong",
	       info->si_addr == page + 8 ? "right" : "wrong");
	fflush(stdout);
	_exit(0);
}

static void fault(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	int status;
	pid_t pid;

	page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED || sigaction(SIGSEGV, &action, NULL))
		die("set-up");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		/* read first, so that a page exists and writing violates its protection */
		__asm__ volatile("" : : "r"(*(volatile char *)page));
		*(volatile char *)(page + 8) = 1;
		_exit(1);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGSEGV)
		die("the stop");
	syscall(SYS_getppid);
	if (ptrace(PTRACE_CONT, pid, 0, SIGSEGV) || waitpid(pid, &status, 0) != pid)
		die("going on");
	printf("it ended with %#x\n", status);
}

static uint64_t read_counter(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static void tell_end(const char *what, pid_t pid)
{
	int status;

	status = wait_for_child(pid);
	if (WIFSIGNALED(status))
		printf("%s: signal %d\n", what, WTERMSIG(status));
	else
		printf("%s: status %d\n", what, WEXITSTATUS(status));
}

static void tsc(void)
{
	pid_t pid;
	int mode;

	if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV))
		die("PR_SET_TSC");
	syscall(SYS_getppid);
	if (prctl(PR_GET_TSC, &mode))
		die("PR_GET_TSC");
	printf("mode %d\n", mode);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		read_counter();
		_exit(0);
	}
	tell_end("reading it", pid);
	prctl(PR_SET_TSC, PR_TSC_ENABLE);
	printf("permitted: %s\n", read_counter() ? "read" : "0");
}

/* A child in strict mode, which may only read, write and exit. */
static pid_t strict_child(int from, int what)
{
	pid_t pid = fork();
	char byte;

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		die("PR_SET_SECCOMP");
	if (syscall(SYS_read, from, &byte, 1) != 1)
		syscall(SYS_exit, 1);
	if (what == 1)
		read_counter();
	if (what == 2)
		syscall(SYS_getpid);
	syscall(SYS_exit, 4);
	return 0;
}

static int waits_in_read(pid_t pid)
{
	char path[64], text[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	file = fopen(path, "r");
	if (!file)
		die(path);
	if (!fgets(text, sizeof(text), file))
		text[0] = 0;
	fclose(file);
	return !strncmp(text, "0 ", 2);
}

static void strict(void)
{
	static const char *const names[] = { "what it may do", "rdtsc", "getpid" };
	pid_t pids[3];
	int ends[2], i;

	if (pipe(ends))
		die("pipe");
	for (i = 0; i < 3; i++)
		pids[i] = strict_child(ends[0], i);
	for (i = 0; i < 3; i++)
		while (!waits_in_read(pids[i]))
			;
	syscall(SYS_getppid);
	if (write(ends[1], "abc", 3) != 3)
		die("write");
	for (i = 0; i < 3; i++)
		tell_end(names[i], pids[i]);
}

static void segments(void)
{
	uint16_t ds, es, gs;
	uint64_t base = 0xffff800000001000, got;
	/* AT_HWCAP2: the CPU has the instructions that set a base */
	int can = 0;
	FILE *auxv = fopen("/proc/self/auxv", "r");
	uint64_t pair[2];

	while (auxv && fread(pair, sizeof(pair), 1, auxv) == 1)
		if (pair[0] == 26)
			can = pair[1] >> 1 & 1;
	__asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%gs"
			 : : "r"((uint16_t)1), "r"((uint16_t)2), "r"((uint16_t)3));
	if (can)
		__asm__ volatile("wrgsbase %0" : : "r"(base));
	syscall(SYS_getppid);
	got = base;
	if (can)
		__asm__ volatile("rdgsbase %0" : "=r"(got));
	__asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%gs, %2" : "=r"(ds), "=r"(es), "=r"(gs));
	/* accept any null selector: the return from an interrupt may replace one by another */
	printf("selectors %s, base %s\n", ds <= 3 && es <= 3 && gs <= 3 ? "null" : "not null",
	       got == base ? "as it was" : "another");
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";

	nonce_draw();
	if (!strcmp(kind, "fault"))
		fault();
	else if (!strcmp(kind, "tsc"))
		tsc();
	else if (!strcmp(kind, "strict"))
		strict();
	else
		segments();
	nonce_print();
	return 0;
}
