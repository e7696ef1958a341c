// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A process that holds one of each kind of object that an intruder could reach during its
 * restart: a pseudo-terminal, sealed memory, a timer, files in /proc, a socket name, a zombie, a
 * second thread. It calls getppid(2), the event, then checks all of them, and prints each change,
 * or "unharmed".
 *
 *	victim [filtered|adversary]
 *
 * filtered: it has a seccomp filter that allows everything, creates a directory after the event,
 * and prints the result.
 *
 * adversary: it also has such a filter, a path descriptor of a file that it may not read, and one
 * of "adversary.gone" if that exists; in the end it tries out its rights.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int harmed;

static void check(int good, const char *what)
{
	if (good)
		return;
	printf("harmed: %s (%s)\n", what, strerror(errno));
	harmed = 1;
}

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static pthread_barrier_t barrier;

/* State that setpriority(2) and ioprio_set(2) for a group or user would change. */
struct priority {
	int nice, io;
};

static struct priority priority(void)
{
	return (struct priority) {
		.nice = getpriority(PRIO_PROCESS, 0),
		.io = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0),
	};
}

static void check_priority(struct priority before, const char *what)
{
	struct priority now = priority();

	if (now.nice == before.nice && now.io == before.io)
		return;
	printf("harmed: %s is nice %d instead of %d, I/O priority %#x instead of %#x\n",
	       what, now.nice, before.nice, now.io, before.io);
	harmed = 1;
}

static void *second_thread(void *unused)
{
	struct priority before = priority();

	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	check_priority(before, "the second thread");
	return unused;
}

/* Memory that the open file /proc/PID/mem reads. */
static char word[] = "the victim's own memory";

static void allow_all(void)
{
	struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog prog = { 1, allow };

	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	     !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), "seccomp");
}

static int filtered(void)
{
	allow_all();
	syscall(SYS_getppid);
	printf("mkdir: %s\n", mkdir("made", 0755) ? strerror(errno) : "done");
	fflush(stdout);
	return 0;
}

/* Attempts that the adversary's user has no right to make. */
static void check_rights(void)
{
	check(open("/work/adversary.secret", O_RDONLY) < 0 && errno == EACCES, "a secret is read");
	check(prctl(PR_GET_DUMPABLE) < 2, "a core dump of root");
	check(setuid(0) && errno != ENOSYS, "setuid(0)");
	mkdir("/work/adversary.made", 0755);
}

int main(int argc, char **argv)
{
	int adversary = argc > 1 && !strcmp(argv[1], "adversary");

	if (argc > 1 && !strcmp(argv[1], "filtered"))
		return filtered();

	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0victim" };
	struct itimerspec in_an_hour = { .it_value.tv_sec = 3600 };
	struct itimerspec left;
	char text[256] = "";
	pthread_t thread;
	struct termios raw;
	siginfo_t info;
	sigset_t set;
	pid_t zombie;
	ssize_t n;

	/* signals to many would stay pending */
	sigfillset(&set);
	must(!sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");

	if (adversary) {
		allow_all();
		must(open("/work/adversary.secret", O_PATH) >= 0, "a path");
		/* -1 in most runs */
		open("/work/adversary.gone", O_PATH);
	}

	int master = posix_openpt(O_RDWR | O_NOCTTY);

	must(master >= 0 && !grantpt(master) && !unlockpt(master), "ptmx");
	int slave = open(ptsname(master), O_RDWR | O_NOCTTY);

	must(slave >= 0, "pts");
	must(!tcgetattr(slave, &raw), "tcgetattr");
	cfmakeraw(&raw);
	must(!tcsetattr(slave, TCSANOW, &raw), "tcsetattr");
	must(write(slave, "written", 7) == 7 && write(master, "typed", 5) == 5, "tty");

	int memfd = memfd_create("sealed", MFD_ALLOW_SEALING);

	must(memfd >= 0 && !ftruncate(memfd, 4096), "memfd");
	char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	must(shared != MAP_FAILED, "mmap");
	strcpy(shared, "sealed");
	must(!fcntl(memfd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), "seal");

	int timer = timerfd_create(CLOCK_MONOTONIC, 0);

	must(timer >= 0 && !timerfd_settime(timer, 0, &in_an_hour, NULL), "timerfd");

	int maps = open("/proc/self/maps", O_RDONLY);
	int mem = open("/proc/self/mem", O_RDONLY);

	must(maps >= 0 && mem >= 0, "/proc/self");

	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	must(sock >= 0 && !bind(sock, (struct sockaddr *)&name,
				sizeof(sa_family_t) + 7), "bind");

	zombie = fork();
	must(zombie >= 0, "fork");
	if (!zombie)
		_exit(7);
	must(!waitid(P_PID, zombie, &info, WEXITED | WNOWAIT), "waitid");

	pthread_barrier_init(&barrier, NULL, 2);
	must(!pthread_create(&thread, NULL, second_thread, NULL), "pthread_create");
	pthread_barrier_wait(&barrier);
	struct priority before = priority();

	syscall(SYS_getppid);

	check_priority(before, "the first thread");
	/* only SIGCHLD of the zombie may be pending */
	must(!sigpending(&set), "sigpending");
	for (int sig = 1; sig < SIGRTMAX; sig++)
		if (sigismember(&set, sig) == (sig != SIGCHLD))
			printf("harmed: signal %d\n", sig), harmed = 1;
	pthread_barrier_wait(&barrier);
	check(!pthread_join(thread, NULL), "the second thread");
	check(waitid(P_PID, zombie, &info, WEXITED) == 0 && info.si_status == 7,
	      "the zombie");
	check(read(master, text, sizeof(text)) == 7 && !memcmp(text, "written", 7),
	      "the text written to the terminal");
	check(read(slave, text, sizeof(text)) == 5 && !memcmp(text, "typed", 5),
	      "the text typed at the terminal");
	check(write(slave, "x", 1) == 1 && read(master, text, 1) == 1, "the terminal");
	check(!strcmp(shared, "sealed"), "the shared memory");
	check(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0) ==
	      MAP_FAILED, "the seal");
	check(!timerfd_gettime(timer, &left) && left.it_value.tv_sec > 3000 &&
	      left.it_value.tv_sec <= 3600, "the timer");
	n = pread(mem, text, sizeof(word), (off_t)(unsigned long)word);
	check(n == sizeof(word) && !strcmp(text, word), "its memory");
	n = read(maps, text, sizeof(text) - 1);
	check(n > 0 && strstr(text, "victim"), "its mappings");
	check(recv(sock, text, sizeof(text), 0) < 0 && errno == EAGAIN,
	      "a datagram from a stranger");
	if (adversary)
		check_rights();
	if (!harmed)
		puts("unharmed");
	fflush(stdout);
	return harmed;
}
