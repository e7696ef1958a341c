// SPDX-License-Identifier: GPL-2.0-only
/*
 * Traces all threads of ./execs and logs the events, a line each, grouped by thread, threads in
 * order of creation.
 *
 *	tracer [exits] [late]
 *
 * exits: the threads stop before they exit (PTRACE_O_TRACEEXIT). late: dead and stopped threads
 * are not released before execve(2) waits for them; then the tracer calls getppid(2), an event.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX 8

static struct thread {
	pid_t tid;
	char log[1024];
} threads[MAX];

static int nr_threads;

static int number(pid_t tid)
{
	int i;

	for (i = 0; i < nr_threads; i++)
		if (threads[i].tid == tid)
			return i;
	threads[nr_threads].tid = tid;
	return nr_threads++;
}

static void tell(pid_t tid, const char *format, ...)
{
	struct thread *t = &threads[number(tid)];
	size_t len = strlen(t->log);
	va_list args;

	va_start(args, format);
	vsnprintf(t->log + len, sizeof(t->log) - len, format, args);
	va_end(args);
}

static long must(long ret, const char *what)
{
	if (ret < 0) {
		perror(what);
		exit(1);
	}
	return ret;
}

/* Returns true when a thread sleeps in its execve(2), waiting for the others. */
static int waits_in_execve(pid_t pid, pid_t tid)
{
	char path[64], text[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", pid, tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	must(read(fd, text, sizeof(text) - 1), path);
	close(fd);
	return !strcmp(text, "ckpt_exec_sleep") || strstr(text, "de_thread") ||
	       !strcmp(text, "begin_new_exec");
}

int main(int argc, char **argv)
{
	int exits = 0, late = 0, status, cloned = 0, begun = 0, held = 0;
	pid_t pid, tid, executes = 0;
	unsigned long message, former = 0;
	unsigned long options = PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
				PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD;

	for (int i = 1; i < argc; i++) {
		exits |= !strcmp(argv[i], "exits");
		late |= !strcmp(argv[i], "late");
	}
	if (exits)
		options |= PTRACE_O_TRACEEXIT;
	pid = must(fork(), "fork");
	if (!pid) {
		must(ptrace(PTRACE_TRACEME, 0, 0, 0), "traceme");
		raise(SIGSTOP);
		execl("./execs", "./execs", NULL);
		_exit(1);
	}
	must(waitpid(pid, &status, 0), "waitpid");
	number(pid);
	must(ptrace(PTRACE_SETOPTIONS, pid, 0, options), "setoptions");
	must(ptrace(PTRACE_CONT, pid, 0, 0), "cont");
	for (;;) {
		if (late && cloned == 3 && begun == 3 && !held) {
			/*
			 * All threads, including the first, exist and run: the tracer may
			 * receive the event of its last clone after the new thread has begun. Events
			 * are not read before execve waits.
			 */
			while (!waits_in_execve(pid, executes))
				sched_yield();
			held = 1;
			syscall(SYS_getppid);
		}
		tid = waitpid(-1, &status, __WALL);
		if (tid < 0 && errno == ECHILD)
			break;
		must(tid, "waitpid");
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			tell(tid, WIFEXITED(status) ? "exited %d\n" : "killed %d\n",
			     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
			continue;
		}
		message = 0;
		switch (status >> 16) {
		case PTRACE_EVENT_CLONE:
			must(ptrace(PTRACE_GETEVENTMSG, tid, 0, &message), "message");
			number(message);
			if (!executes)
				executes = message;
			cloned++;
			tell(tid, "clone of thread %d\n", number(message));
			break;
		case PTRACE_EVENT_EXEC:
			must(ptrace(PTRACE_GETEVENTMSG, tid, 0, &message), "message");
			former = message;
			tell(tid, "exec by thread %d\n", number(former));
			break;
		case PTRACE_EVENT_EXIT:
			must(ptrace(PTRACE_GETEVENTMSG, tid, 0, &message), "message");
			tell(tid, "exit stop with %#lx\n", message);
			break;
		default:
			if (WSTOPSIG(status) == SIGSTOP && tid != pid) {
				begun++;
				tell(tid, "begins\n");
				break;
			}
			tell(tid, "stopped by %d\n", WSTOPSIG(status));
		}
		must(ptrace(PTRACE_CONT, tid, 0, 0), "cont");
	}
	for (int i = 0; i < nr_threads; i++)
		printf("thread %d:\n%s", i, threads[i].log);
	return 0;
}
