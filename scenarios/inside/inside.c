// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Changes every attribute that a process can set, reads all of them, is checkpointed, and
 * reads them again.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "ask.h"
#include "inside.h"
#include "workload.h"

#define PAGE 4096

static void handler(int signal)
{
	(void)signal;
}

static void set_limits(void)
{
	static const int limits[] = {
		RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_LOCKS,
		RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_NPROC,
		RLIMIT_RSS, RLIMIT_RTPRIO, RLIMIT_RTTIME, RLIMIT_SIGPENDING,
	};

	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct rlimit limit = { (1ULL << 33) + i, (1ULL << 34) + i };

		if (limits[i] == RLIMIT_NOFILE)
			limit = (struct rlimit){ 901, 1003 };
		else if (limits[i] == RLIMIT_NICE)
			limit = (struct rlimit){ 13, 17 };
		check(setrlimit(limits[i], &limit), "setrlimit");
	}
}

static void set_signals(void)
{
	const stack_t stack = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	const struct itimerval far = { { 77, 5 }, { 5000, 0 } };
	sigset_t set;

	sigemptyset(&set);
	for (int signal = SIGHUP; signal <= SIGRTMAX; signal++) {
		struct sigaction action = { .sa_handler = handler };

		if (signal == SIGKILL || signal == SIGSTOP || (signal > SIGSYS && signal < SIGRTMIN))
			continue;
		action.sa_flags = (signal % 2 ? SA_RESTART : 0) | (signal % 3 ? SA_NODEFER : 0) |
				  (signal % 5 ? SA_ONSTACK : 0) | (signal % 7 ? 0 : SA_RESETHAND);
		if (signal % 11 == 3)
			action.sa_handler = SIG_IGN;
		sigaddset(&action.sa_mask, 1 + signal % 31);
		check(sigaction(signal, &action, NULL), "sigaction");
		if (signal % 4 == 1)
			sigaddset(&set, signal);
	}
	check(sigprocmask(SIG_SETMASK, &set, NULL), "sigprocmask");
	check(raise(SIGRTMIN + 3), "raise");
	check(sigaltstack(&stack, NULL), "sigaltstack");
	check(setitimer(ITIMER_REAL, &far, NULL), "ITIMER_REAL");
	check(setitimer(ITIMER_VIRTUAL, &far, NULL), "ITIMER_VIRTUAL");
	check(setitimer(ITIMER_PROF, &far, NULL), "ITIMER_PROF");
}

static void set_files(void)
{
	const struct timeval patience = { 9, 40000 };
	int ends[2], fd, number = 5;

	fd = open("kept", O_RDWR | O_CREAT | O_APPEND, 0640);
	check(fd < 0 || write(fd, "twelve bytes", 12) != 12 || lseek(fd, 5, SEEK_SET) != 5, "kept");
	fd = memfd_create("sealed", MFD_ALLOW_SEALING);
	check(fd < 0 || ftruncate(fd, 100) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), "sealed");
	check(pipe2(ends, O_NONBLOCK) || fcntl(ends[0], F_SETPIPE_SZ, 1 << 14) < 0, "pipe");
	for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type += SOCK_SEQPACKET - SOCK_STREAM) {
		check(socketpair(AF_UNIX, type, 0, ends), "socketpair");
		setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &number, sizeof(number));
		setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &(int){ 30000 }, sizeof(number));
		setsockopt(ends[1], SOL_SOCKET, SO_RCVLOWAT, &number, sizeof(number));
		setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		setsockopt(ends[0], SOL_SOCKET, SO_KEEPALIVE, &number, sizeof(number));
	}
	/* neither bound nor connected */
	check(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) < 0, "socket");
	check(socket(AF_UNIX, SOCK_STREAM, 0) < 0, "socket");
}

/* The CPU or the configuration may lack some of these; the error is compared, too. */
static void set_what_exists(void)
{
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_L1D_FLUSH, PR_SPEC_ENABLE, 0, 0);
	syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000);
}

void settings(void)
{
	const struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	struct sched_param batch = { 0 };
	char *zero, *first, *second;
	struct stat stat;

	set_limits();
	set_signals();
	set_files();
	check(sched_setscheduler(0, SCHED_BATCH, &batch) || setpriority(PRIO_PROCESS, 0, 4), "nice");
	check(prctl(PR_SET_TIMERSLACK, 70001), "timer slack");
	umask(0137);
	set_what_exists();
	/* The layout of the address space was chosen by the limit at the start. */
	check(setrlimit(RLIMIT_STACK, &unlimited), "RLIMIT_STACK");
	zero = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		    -1, 0);
	check(zero == MAP_FAILED, "a page at address 0");
	__asm__ volatile ("" : "+r" (zero));
	memset(zero, 'z', PAGE);
	first = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ask_before();
	ask_after();

	second = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	printf("mappings grow down: %d, page 0 is unchanged: %d\n", second < first,
	       zero[0] == 'z' && zero[PAGE - 1] == 'z');
	check(fstat(3, &stat), "fstat");
	printf("the file has %ld bytes, mode %o\n", (long)stat.st_size, stat.st_mode & 07777);
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";

	nonce_draw();
	if (!strcmp(kind, "settings"))
		settings();
	else if (!strcmp(kind, "used"))
		used();
	else
		crowd();
	nonce_print();
	return 0;
}
