// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Logs observations in a form that is the same in each run. */
#include "cell.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared *shared;

static int log_fd = -1;

static const char *const names[] = { "init", "tracer", "tracee", "second", "child" };

void die(const char *what)
{
	dprintf(2, "cell: %s: %m\n", what);
	if (log_fd >= 0)
		dprintf(log_fd, "cell fails: %s: %m\n", what);
	_exit(99);
}

const char *role_name(pid_t pid)
{
	static char numbers[4][12];
	static unsigned int next;
	char *number;

	for (int role = ROLE_TRACER; role < NR_ROLES; role++)
		if (pid && shared->pids[role] == pid)
			return names[role];
	if (pid <= 1)
		return pid == 1 ? names[ROLE_INIT] : "nobody";
	/* the pid of a task that is not part of the cell */
	number = numbers[next++ % 4];
	snprintf(number, sizeof(numbers[0]), "%d", pid);
	return number;
}

void map_shared(void)
{
	int fd = open("shared", O_RDWR | O_CREAT, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(*shared)))
		die("shared");
	/* the same address after exec, because the tracer pokes there */
	shared = mmap((void *)0x10000000, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	close(fd);
}

/* Logs without a system call, because the tracer may stop at or skip each call. */
void observe(const char *format, ...)
{
	unsigned int at, length;
	char line[256];
	va_list args;

	va_start(args, format);
	length = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	if (length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	at = __atomic_fetch_add(&shared->used, length, __ATOMIC_SEQ_CST);
	if (at + length <= sizeof(shared->text))
		memcpy(shared->text + at, line, length);
}

void log_open(const char *path)
{
	log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (log_fd < 0)
		die(path);
}

void log_line(const char *role, const char *format, ...)
{
	char line[512];
	va_list args;
	int length;

	va_start(args, format);
	length = snprintf(line, sizeof(line), "%s ", role);
	length += vsnprintf(line + length, sizeof(line) - 1 - length, format, args);
	va_end(args);
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	if (write(log_fd, line, length) != length)
		die("log");
}

void log_end(const char *role, int status)
{
	/* a thread's exit status is its own, or its process's if the process is exiting */
	if (!strcmp(role, names[ROLE_CHILD]) && shared->thread_born)
		log_line(role, "ended");
	else if (WIFEXITED(status))
		log_line(role, "exited with %d", WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		log_line(role, "was killed by %d", WTERMSIG(status));
	else
		log_line(role, "status %#x", status);
}

/* Returns the state letter of a task, '-' if there is no such task. */
char state_of(pid_t pid)
{
	char path[32], line[256];
	ssize_t length;
	char *end;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return '-';
	length = read(fd, line, sizeof(line) - 1);
	close(fd);
	if (length <= 0)
		return '-';
	line[length] = 0;
	end = strrchr(line, ')');
	return end ? end[2] : '-';
}

static void log_message(pid_t pid, int event)
{
	unsigned long message = 0;

	if (ptrace(PTRACE_GETEVENTMSG, pid, 0, &message))
		log_line(role_name(pid), "  message: %s", strerrorname_np(errno));
	else if (event == PTRACE_EVENT_EXIT || event == PTRACE_EVENT_SECCOMP || !event)
		log_line(role_name(pid), "  message %#lx", message);
	else
		log_line(role_name(pid), "  message %s", role_name(message));
}

static void log_siginfo(pid_t pid)
{
	siginfo_t info = { };

	if (ptrace(PTRACE_GETSIGINFO, pid, 0, &info)) {
		log_line(role_name(pid), "  siginfo: %s", strerrorname_np(errno));
		return;
	}
	/* a fault has an address in place of the sender */
	if ((info.si_code == 1 || info.si_code == 2) &&
	    (info.si_signo == SIGSEGV || info.si_signo == SIGTRAP))
		log_line(role_name(pid), "  siginfo %d code %#x errno %d address %p",
			 info.si_signo, info.si_code, info.si_errno, info.si_addr);
	else
		log_line(role_name(pid), "  siginfo %d code %#x errno %d from %s uid %d value %d",
			 info.si_signo, info.si_code, info.si_errno, role_name(info.si_pid),
			 info.si_uid, info.si_code == SI_QUEUE ? info.si_int : 0);
}

static void log_syscall(pid_t pid)
{
	struct __ptrace_syscall_info info = { };
	long size = ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info);

	if (size < 0) {
		log_line(role_name(pid), "  syscall info: %s", strerrorname_np(errno));
		return;
	}
	switch (info.op) {
	case PTRACE_SYSCALL_INFO_ENTRY:
	case PTRACE_SYSCALL_INFO_SECCOMP:
		log_line(role_name(pid), "  syscall info op %d size %ld nr %lld args %#lx %#lx %#lx",
			 info.op, size, (long long)info.entry.nr, info.entry.args[0],
			 info.entry.args[1], info.entry.args[2]);
		break;
	case PTRACE_SYSCALL_INFO_EXIT:
		log_line(role_name(pid), "  syscall info op %d size %ld returns %lld error %d",
			 info.op, size, (long long)info.exit.rval, info.exit.is_error);
		break;
	default:
		log_line(role_name(pid), "  syscall info op %d size %ld", info.op, size);
	}
}

/* Logs a checksum of a register set. */
static void log_set(pid_t pid, const char *what, unsigned long type)
{
	static unsigned char set[1 << 14];
	struct iovec where = { set, sizeof(set) };
	unsigned int sum = 0;

	if (ptrace(PTRACE_GETREGSET, pid, type, &where)) {
		log_line(role_name(pid), "  %s: %s", what, strerrorname_np(errno));
		return;
	}
	for (size_t n = 0; n < where.iov_len; n++)
		sum = sum * 31 + set[n];
	log_line(role_name(pid), "  %s size %zu sum %#x", what, where.iov_len, sum);
}

/* Logs the memory at its instruction pointer, and its pending signals. */
static void log_pending(pid_t pid, unsigned long ip)
{
	struct __ptrace_peeksiginfo_args args = { .nr = 8 };
	siginfo_t infos[8];
	long text;

	errno = 0;
	text = ptrace(PTRACE_PEEKTEXT, pid, ip, 0);
	log_line(role_name(pid), "  text %#lx %s", text, strerrorname_np(errno));
	for (args.flags = 0; args.flags <= PTRACE_PEEKSIGINFO_SHARED; args.flags++) {
		long count = ptrace(PTRACE_PEEKSIGINFO, pid, &args, infos);

		log_line(role_name(pid), "  pending %s: %ld",
			 args.flags ? "process" : "thread", count);
		for (long n = 0; n < count; n++)
			log_line(role_name(pid), "    %d code %#x", infos[n].si_signo,
				 infos[n].si_code);
	}
}

static void log_regs(pid_t pid)
{
	struct user_regs_struct regs = { };
	unsigned long long mask;

	if (ptrace(PTRACE_GETREGS, pid, 0, &regs))
		log_line(role_name(pid), "  regs: %s", strerrorname_np(errno));
	else
		log_line(role_name(pid),
			 "  regs orig_ax %lld ax %lld ip %#llx sp %#llx di %#llx flags %#llx",
			 regs.orig_rax, regs.rax, regs.rip, regs.rsp, regs.rdi, regs.eflags);
	log_set(pid, "general", NT_PRSTATUS);
	log_set(pid, "floating point", NT_PRFPREG);
	log_set(pid, "extended state", NT_X86_XSTATE);
	log_pending(pid, regs.rip);
	if (ptrace(PTRACE_GETSIGMASK, pid, sizeof(mask), &mask))
		log_line(role_name(pid), "  blocked: %s", strerrorname_np(errno));
	else
		log_line(role_name(pid), "  blocked %#llx", mask);
}

/* Logs all that a tracer can see of a stop, its wait status first. */
void log_stop(pid_t pid, int status)
{
	int event = status >> 16;

	log_line(role_name(pid), "stop %d event %d", WSTOPSIG(status), event);
	log_message(pid, event);
	log_siginfo(pid);
	log_syscall(pid);
	log_regs(pid);
}
